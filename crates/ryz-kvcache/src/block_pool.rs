use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use crate::prefix_tree::{BlockTokens, PrefixCursor, PrefixTree};

/// One block of a [`BlockPool`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId(u32);

impl BlockId {
    /// Stands in a sequence's table where a block was that the sequence has given back for good. It is no block's.
    pub const EVICTED: Self = Self(u32::MAX);

    /// Whether a table has no block here any more.
    pub fn is_evicted(self) -> bool {
        self == Self::EVICTED
    }

    /// Its place in the storage.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A live block gets another place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockMove {
    /// Where it was.
    pub from: BlockId,
    /// Where it goes, which was free.
    pub to: BlockId,
}

/// What anyone may see of a [`BlockPool`], at any time. A clone looks at the same pool.
#[derive(Clone, Debug)]
pub struct BlockView {
    /// References to each block; 0 when free. The pool alone writes them.
    references: Arc<[AtomicU32]>,
}

impl BlockView {
    /// All blocks.
    pub fn capacity(&self) -> usize {
        self.references.len()
    }

    /// References to a block; 0 when it is free.
    pub fn references(&self, block: BlockId) -> u32 {
        self.of(block).load(Ordering::Relaxed)
    }

    /// Blocks in use.
    pub fn live(&self) -> usize {
        self.states().filter(|&live| live).count()
    }

    /// Blocks up to the last one in use.
    pub fn span(&self) -> usize {
        let last = self.states().rposition(|live| live);
        last.map_or(0, |last| last + 1)
    }

    /// Which part of the blocks up to the last one in use is free: 0 (none) to almost 1.
    pub fn fragmentation(&self) -> f64 {
        let (live, span) = (self.live(), self.span());
        if span == 0 {
            return 0.0;
        }
        // Counts of an instant each: more may live by now than the span had room for.
        span.saturating_sub(live) as f64 / span as f64
    }

    /// Runs of free blocks, in order.
    pub fn holes(&self) -> Vec<Range<usize>> {
        let mut holes: Vec<Range<usize>> = Vec::new();
        for (block, _) in self.states().enumerate().filter(|(_, live)| !live) {
            match holes.last_mut() {
                Some(hole) if hole.end == block => hole.end += 1,
                _ => holes.push(block..block + 1),
            }
        }
        holes
    }

    fn states(&self) -> impl ExactSizeIterator<Item = bool> + DoubleEndedIterator {
        let references = self.references.iter();
        references.map(|references| references.load(Ordering::Relaxed) > 0)
    }

    fn of(&self, block: BlockId) -> &AtomicU32 {
        &self.references[block.index()]
    }
}

/// Which blocks are free and how often each is shared. Bookkeeping only: the bytes are the cache's.
///
/// The lowest free block is handed out first after a fresh start and after [`BlockPool::compact`], the last released one
/// later on, so that a short conversation stays on few, warm pages.
///
/// Full blocks may be shared by what is in them ([`BlockPool::share`], [`BlockPool::reuse`]). Such a block is kept when
/// nobody uses it any more, and goes when a block is wanted and none is free, the one that was given up first before
/// others. Nobody writes a full block, so sharing one copies nothing.
#[derive(Debug)]
pub struct BlockPool {
    view: BlockView,
    /// Blocks that are shared by what is in them. It has a reference to each.
    prefixes: PrefixTree,
    /// Free blocks, the next one last.
    free: Vec<BlockId>,
    /// Blocks up to the last one that was handed out since [`BlockPool::trim`].
    touched: usize,
}

impl BlockPool {
    /// A pool of `blocks` free blocks (at most `u32::MAX`).
    pub fn new(blocks: usize) -> Self {
        let count = u32::try_from(blocks).unwrap_or(u32::MAX);
        Self {
            view: BlockView {
                references: (0..count).map(|_| AtomicU32::new(0)).collect(),
            },
            prefixes: PrefixTree::new(count as usize),
            free: (0..count).rev().map(BlockId).collect(),
            touched: 0,
        }
    }

    /// What others may see of it.
    pub fn view(&self) -> &BlockView {
        &self.view
    }

    /// Takes a free block, or else one that is only kept, with one reference; `None` when there is none.
    pub fn allocate(&mut self) -> Option<BlockId> {
        let block = self.free.pop().or_else(|| self.prefixes.evict())?;
        self.set(block, 1);
        self.touched = self.touched.max(block.index() + 1);
        Some(block)
    }

    /// Adds a reference to a block in use.
    ///
    /// # Panics
    /// When the block is free: sharing it would be a fault of the caller's books.
    pub fn retain(&mut self, block: BlockId) {
        let references = self.references(block);
        assert!(
            references > 0,
            "block {} is free and cannot be shared",
            block.0
        );
        if self.prefixes.is_idle(block) {
            self.prefixes.wake(block);
        }
        self.set(block, references + 1);
    }

    /// The block that holds these tokens after those behind `cursor`, if one is shared; and whether it is only kept.
    pub fn find(&self, cursor: PrefixCursor, tokens: &BlockTokens) -> Option<(PrefixCursor, bool)> {
        let (block, cursor) = self.prefixes.find(cursor, tokens)?;
        Some((cursor, self.prefixes.is_idle(block)))
    }

    /// Takes the block that holds these tokens after those behind `cursor`, with one more reference.
    pub fn reuse(
        &mut self,
        cursor: PrefixCursor,
        tokens: &BlockTokens,
    ) -> Option<(BlockId, PrefixCursor)> {
        let (block, cursor) = self.prefixes.find(cursor, tokens)?;
        self.retain(block);
        Some((block, cursor))
    }

    /// Lets others find a block in use by what is in it: these tokens, after those behind `cursor`. From now on nobody may
    /// write it. Where such a block is shared already the caller gets that one in exchange for its own, which held the same.
    ///
    /// # Panics
    /// When the block is free, or shared as something else.
    pub fn share(
        &mut self,
        cursor: PrefixCursor,
        tokens: &BlockTokens,
        block: BlockId,
    ) -> (BlockId, PrefixCursor) {
        if let Some((shared, cursor)) = self.prefixes.find(cursor, tokens) {
            self.retain(shared);
            self.release(block);
            return (shared, cursor);
        }
        self.retain(block);
        (block, self.prefixes.insert(cursor, tokens, block))
    }

    /// Frees the blocks that are only kept. How many there were.
    pub fn drop_kept(&mut self) -> usize {
        let before = self.free.len();
        while let Some(block) = self.prefixes.evict() {
            self.set(block, 0);
            self.free.push(block);
        }
        self.free.len() - before
    }

    /// Frees the blocks that are only kept, and lets nobody find those in use. Cursors from before are worthless.
    pub fn drop_shared(&mut self) {
        self.drop_kept();
        for block in (0..self.view.capacity() as u32).map(BlockId) {
            if self.prefixes.has(block) {
                self.prefixes.remove(block);
                self.release(block);
            }
        }
    }

    /// Gives a reference back; the last one frees the block, unless it is shared: then it is kept.
    ///
    /// # Panics
    /// When the block is free already.
    pub fn release(&mut self, block: BlockId) {
        let references = self.references(block);
        assert!(references > 0, "block {} was released twice", block.0);
        self.set(block, references - 1);
        if references == 1 {
            self.free.push(block);
        } else if references == 2 && self.prefixes.has(block) {
            self.prefixes.rest(block);
        }
    }

    /// Gives the live blocks the lowest places, by as few moves as that takes: the last live block goes to the first free
    /// place, and so on. Whoever holds a block that moved must be told, and the bytes must follow
    /// ([`KvCache::move_blocks`](crate::KvCache::move_blocks)) before anyone reads them.
    pub fn compact(&mut self) -> Vec<BlockMove> {
        let live = self.capacity() - self.free.len();
        let places: Vec<_> = (0..self.view.capacity() as u32).map(BlockId).collect();
        let is_live = |block: &&BlockId| self.references(**block) > 0;
        let sources = places[live..].iter().rev().filter(is_live);
        let targets = places[..live].iter().filter(|block| !is_live(block));
        let moves: Vec<_> = targets
            .zip(sources)
            .map(|(&to, &from)| BlockMove { from, to })
            .collect();
        for BlockMove { from, to } in &moves {
            self.set(*to, self.references(*from));
            self.set(*from, 0);
        }
        self.free.clear();
        self.free.extend(places[live..].iter().rev());
        self.prefixes.moved(&moves);
        moves
    }

    /// The blocks past the last one in use that were used since this was last called: those whose memory may go.
    pub fn trim(&mut self) -> Range<usize> {
        let span = self.view.span();
        let freed = span..self.touched.max(span);
        self.touched = span;
        freed
    }

    /// References to a block, the one that keeps it included; 0 when it is free.
    pub fn references(&self, block: BlockId) -> u32 {
        self.view.references(block)
    }

    /// Blocks that can be taken: free ones, and those that are only kept.
    pub fn available(&self) -> usize {
        self.free.len() + self.kept()
    }

    /// Blocks that are there for nobody but for those who may come.
    pub fn kept(&self) -> usize {
        self.prefixes.idle()
    }

    /// Blocks that hold nothing.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// All blocks.
    pub fn capacity(&self) -> usize {
        self.view.capacity()
    }

    fn set(&self, block: BlockId, references: u32) {
        self.view.of(block).store(references, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Random allocate / retain / release / compact against a plain model of the books.
        #[test]
        fn books_agree_with_a_model(capacity in 0usize..9, steps in prop::collection::vec((0u8..4, 0usize..9), 0..200)) {
            let mut pool = BlockPool::new(capacity);
            let mut held: Vec<BlockId> = Vec::new();
            for (action, pick) in steps {
                match action {
                    0 => match pool.allocate() {
                        Some(block) => {
                            prop_assert!(!held.contains(&block), "a block in use was handed out");
                            held.push(block);
                        }
                        None => prop_assert_eq!(held.iter().collect::<std::collections::HashSet<_>>().len(), capacity),
                    },
                    1 if !held.is_empty() => {
                        let block = held[pick % held.len()];
                        pool.retain(block);
                        held.push(block);
                    }
                    2 if !held.is_empty() => pool.release(held.swap_remove(pick % held.len())),
                    3 => {
                        let before = pool.view().live();
                        let moves = pool.compact();
                        for BlockMove { from, to } in &moves {
                            prop_assert!(!held.contains(to), "a block went where another is");
                            held.iter_mut().filter(|block| *block == from).for_each(|block| *block = *to);
                        }
                        prop_assert!(moves.len() <= before);
                        prop_assert_eq!((pool.view().live(), pool.view().span()), (before, before));
                        prop_assert_eq!(pool.view().fragmentation(), 0.0);
                        let tail = before..capacity;
                        prop_assert_eq!(pool.view().holes(), if tail.is_empty() { vec![] } else { vec![tail] });
                        prop_assert!(pool.trim().end <= capacity);
                        prop_assert!(pool.trim().is_empty());
                    }
                    _ => {}
                }
                let distinct = held.iter().collect::<std::collections::HashSet<_>>().len();
                prop_assert_eq!(pool.available(), capacity - distinct);
                for &block in &held {
                    prop_assert_eq!(pool.references(block) as usize, held.iter().filter(|&&b| b == block).count());
                }
            }
        }
    }

    #[test]
    fn compaction_moves_the_last_to_the_first_and_says_what_may_go() {
        let mut pool = BlockPool::new(8);
        let blocks: Vec<_> = (0..6).map_while(|_| pool.allocate()).collect();
        pool.retain(blocks[5]);
        for place in [0, 1, 3] {
            pool.release(blocks[place]);
        }
        assert_eq!(pool.view().fragmentation(), 0.5);
        assert_eq!(pool.view().holes(), [0..2, 3..4, 6..8]);
        let moves = pool.compact();
        let expected = [(5, 0), (4, 1)].map(|(from, to)| BlockMove {
            from: blocks[from],
            to: blocks[to],
        });
        assert_eq!(moves, expected);
        assert_eq!(
            (pool.references(blocks[0]), pool.references(blocks[5])),
            (2, 0)
        );
        assert_eq!(pool.trim(), 3..6);
        assert_eq!(pool.trim(), 3..3);
        assert_eq!(pool.allocate(), Some(blocks[3]));
        assert_eq!(pool.compact(), []);
    }

    /// What a text of letters holds, block by block.
    fn blocks_of(text: &[u32]) -> impl Iterator<Item = BlockTokens> {
        text.iter().map(|&letter| [letter; 16])
    }

    /// Takes or computes the blocks of a text while there are any, and shares them, as a sequence would; how many it found.
    fn read(pool: &mut BlockPool, text: &[u32]) -> (Vec<BlockId>, usize) {
        let (mut table, mut cursor, mut reused) = (Vec::new(), PrefixCursor::default(), 0);
        let mut finding = true;
        for tokens in blocks_of(text) {
            let found = finding.then(|| pool.reuse(cursor, &tokens)).flatten();
            finding = found.is_some();
            reused += usize::from(finding);
            let (block, behind) = match found {
                Some(found) => found,
                None => {
                    let Some(block) = pool.allocate() else {
                        break;
                    };
                    pool.share(cursor, &tokens, block)
                }
            };
            table.push(block);
            cursor = behind;
        }
        (table, reused)
    }

    proptest! {
        /// Random texts come, stay a while and go, and blocks move, against a map from every kept beginning to its block.
        #[test]
        fn what_is_found_is_what_was_shared(
            capacity in 1usize..12,
            steps in prop::collection::vec((0u8..8, prop::collection::vec(0u32..3, 1..5), 0usize..8), 0..120),
        ) {
            use std::collections::HashMap;
            let mut pool = BlockPool::new(capacity);
            // What each block holds: all the text up to its end.
            let mut held: HashMap<BlockId, Vec<u32>> = HashMap::new();
            let mut live: Vec<(Vec<u32>, Vec<BlockId>)> = Vec::new();
            for (action, text, pick) in steps {
                match action {
                    0..4 => {
                        let free = pool.free();
                        let (table, reused) = read(&mut pool, &text);
                        for (at, &block) in table.iter().enumerate() {
                            let upto = &text[..=at];
                            if at < reused {
                                prop_assert_eq!(&held[&block], upto, "another text's block was found");
                            }
                            held.insert(block, upto.to_vec());
                        }
                        let fresh = table.len() - reused;
                        prop_assert!(free >= fresh || pool.free() == 0, "a kept block went while others were free");
                        live.push((text, table));
                    }
                    4..6 if !live.is_empty() => {
                        let (_, table) = live.swap_remove(pick % live.len());
                        table.into_iter().rev().for_each(|block| pool.release(block));
                    }
                    6 => {
                        let moves = pool.compact();
                        for BlockMove { from, to } in moves {
                            let text = held.remove(&from);
                            held.extend(text.map(|text| (to, text)));
                            let tables = live.iter_mut().flat_map(|(_, table)| table);
                            tables.filter(|block| **block == from).for_each(|block| *block = to);
                        }
                        prop_assert_eq!(pool.view().fragmentation(), 0.0);
                    }
                    7 if pick == 0 => {
                        let kept = pool.kept();
                        prop_assert_eq!(pool.drop_kept(), kept);
                        prop_assert_eq!(pool.kept(), 0);
                    }
                    _ => {}
                }
                // Equal beginnings of live texts lie on the same blocks.
                let used: std::collections::HashSet<_> = live.iter().flat_map(|(_, table)| table).collect();
                for (text, table) in &live {
                    for (at, block) in table.iter().enumerate() {
                        prop_assert_eq!(&held[block], &text[..=at]);
                        let users = live.iter().filter(|(_, other)| other.get(at) == Some(block)).count();
                        prop_assert_eq!(pool.references(*block) as usize, users + 1);
                    }
                }
                prop_assert_eq!(pool.available(), capacity - used.len());
            }
            for (_, table) in live {
                table.into_iter().rev().for_each(|block| pool.release(block));
            }
            prop_assert_eq!(pool.available(), capacity);
            pool.drop_kept();
            prop_assert_eq!((pool.free(), pool.view().live()), (capacity, 0));
        }
    }

    #[test]
    fn the_text_that_was_given_up_first_goes_first_and_from_its_end() {
        let mut pool = BlockPool::new(6);
        for text in [[1, 2, 3], [4, 5, 6]] {
            let (table, _) = read(&mut pool, &text);
            table
                .into_iter()
                .rev()
                .for_each(|block| pool.release(block));
        }
        assert_eq!((pool.free(), pool.kept(), pool.available()), (0, 6, 6));
        // Used again: the other one is older now.
        let (table, reused) = read(&mut pool, &[1, 2, 3]);
        assert_eq!((reused, pool.kept()), (3, 3));
        table
            .into_iter()
            .rev()
            .for_each(|block| pool.release(block));
        let (other, _) = read(&mut pool, &[7, 8]);
        let reused = |pool: &mut BlockPool, text: &[u32]| {
            let mut cursor = PrefixCursor::default();
            let mut blocks = blocks_of(text);
            std::iter::from_fn(|| {
                cursor = pool.find(cursor, &blocks.next()?)?.0;
                Some(())
            })
            .count()
        };
        assert_eq!(reused(&mut pool, &[4, 5, 6]), 1);
        assert_eq!(reused(&mut pool, &[1, 2, 3]), 3);
        assert_eq!(reused(&mut pool, &[2, 3]), 0);
        pool.drop_shared();
        assert_eq!((pool.kept(), pool.free()), (0, 4));
        assert_eq!(reused(&mut pool, &[7, 8]), 0);
        other.into_iter().for_each(|block| pool.release(block));
        assert_eq!((pool.kept(), pool.free()), (0, 6));
    }

    #[test]
    #[should_panic(expected = "released twice")]
    fn a_second_release_is_our_own_fault() {
        let mut pool = BlockPool::new(1);
        let block = pool.allocate().unwrap();
        pool.release(block);
        pool.release(block);
    }
}
