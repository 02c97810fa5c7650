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
    /// Marks an evicted block in a sequence's table. No block has this id.
    pub const EVICTED: Self = Self(u32::MAX);

    /// Whether this table entry was evicted.
    pub fn is_evicted(self) -> bool {
        self == Self::EVICTED
    }

    /// Its index in the storage.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// The relocation of a live block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockMove {
    /// The old index.
    pub from: BlockId,
    /// The new index, which was free.
    pub to: BlockId,
}

/// A concurrent read-only view of a [`BlockPool`]. Clones view the same pool.
#[derive(Clone, Debug)]
pub struct BlockView {
    /// References to each block; 0 when free. Only the pool writes them.
    references: Arc<[AtomicU32]>,
}

impl BlockView {
    /// Number of blocks.
    pub fn capacity(&self) -> usize {
        self.references.len()
    }

    /// References to a block; 0 if it is free.
    pub fn references(&self, block: BlockId) -> u32 {
        self.of(block).load(Ordering::Relaxed)
    }

    /// Blocks in use.
    pub fn live(&self) -> usize {
        self.states().filter(|&live| live).count()
    }

    /// Number of blocks up to the last one in use.
    pub fn span(&self) -> usize {
        let last = self.states().rposition(|live| live);
        last.map_or(0, |last| last + 1)
    }

    /// Fraction of free blocks among those up to the last one in use: 0 (none) to almost 1.
    pub fn fragmentation(&self) -> f64 {
        let (live, span) = (self.live(), self.span());
        if span == 0 {
            return 0.0;
        }
        // The two counts are not one snapshot: `live` may have grown since `span` was read.
        span.saturating_sub(live) as f64 / span as f64
    }

    /// Runs of free blocks in ascending order.
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

/// Tracks which blocks are free and how often each is shared. The cache holds the bytes.
///
/// Initially and after [`BlockPool::compact`], the lowest free block is allocated first. After
/// that, the most recently released one is, so a short conversation stays on few, warm pages.
///
/// Full blocks may be shared by content ([`BlockPool::share`], [`BlockPool::reuse`]). The pool
/// keeps such a block after its last release, and evicts it when a block is needed and none is
/// free; the block released first is evicted first. Full blocks are never written, so sharing
/// copies nothing.
#[derive(Debug)]
pub struct BlockPool {
    view: BlockView,
    /// Blocks shared by content. The tree holds one reference to each.
    prefixes: PrefixTree,
    /// Free blocks; the last one is allocated next.
    free: Vec<BlockId>,
    /// Number of blocks up to the last one allocated since [`BlockPool::trim`].
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

    /// A read-only view for other threads.
    pub fn view(&self) -> &BlockView {
        &self.view
    }

    /// Allocates a free block, or evicts a kept one, with one reference; `None` if there is
    /// neither.
    pub fn allocate(&mut self) -> Option<BlockId> {
        let block = self.free.pop().or_else(|| self.prefixes.evict())?;
        self.set(block, 1);
        self.touched = self.touched.max(block.index() + 1);
        Some(block)
    }

    /// Adds a reference to a block in use.
    ///
    /// # Panics
    /// When the block is free, which means that the caller's bookkeeping is wrong.
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

    /// The shared block that holds these tokens after the prefix at `cursor`, if any, and whether
    /// it is only kept.
    pub fn find(&self, cursor: PrefixCursor, tokens: &BlockTokens) -> Option<(PrefixCursor, bool)> {
        let (block, cursor) = self.prefixes.find(cursor, tokens)?;
        Some((cursor, self.prefixes.is_idle(block)))
    }

    /// Adds a reference to the block that holds these tokens after the prefix at `cursor`.
    pub fn reuse(
        &mut self,
        cursor: PrefixCursor,
        tokens: &BlockTokens,
    ) -> Option<(BlockId, PrefixCursor)> {
        let (block, cursor) = self.prefixes.find(cursor, tokens)?;
        self.retain(block);
        Some((block, cursor))
    }

    /// Makes a block in use available by content: these tokens, after the prefix at `cursor`. The
    /// block must not be written afterwards. If an equal block is already shared, the caller
    /// receives that block in exchange for its own.
    ///
    /// # Panics
    /// When the block is free, or is shared under other content.
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

    /// Frees all kept blocks and returns how many there were.
    pub fn drop_kept(&mut self) -> usize {
        let before = self.free.len();
        while let Some(block) = self.prefixes.evict() {
            self.set(block, 0);
            self.free.push(block);
        }
        self.free.len() - before
    }

    /// Frees all kept blocks and stops sharing those in use. Invalidates existing cursors.
    pub fn drop_shared(&mut self) {
        self.drop_kept();
        for block in (0..self.view.capacity() as u32).map(BlockId) {
            if self.prefixes.has(block) {
                self.prefixes.remove(block);
                self.release(block);
            }
        }
    }

    /// Removes a reference. Removing the last one frees the block, or keeps it if it is shared.
    ///
    /// # Panics
    /// When the block is already free.
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

    /// Moves the live blocks to the lowest indices with the fewest moves: the last live block goes
    /// to the first free index, and so on. The caller must update every table that holds a moved
    /// block and move the bytes ([`KvCache::move_blocks`](crate::KvCache::move_blocks)) before they
    /// are read.
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

    /// The blocks past the last one in use that were used since the previous call; their memory may
    /// be discarded.
    pub fn trim(&mut self) -> Range<usize> {
        let span = self.view.span();
        let freed = span..self.touched.max(span);
        self.touched = span;
        freed
    }

    /// References to a block, including the pool's own for a shared block; 0 if it is free.
    pub fn references(&self, block: BlockId) -> u32 {
        self.view.references(block)
    }

    /// Blocks that can be allocated: free and kept ones.
    pub fn available(&self) -> usize {
        self.free.len() + self.kept()
    }

    /// Kept blocks, which no sequence uses.
    pub fn kept(&self) -> usize {
        self.prefixes.idle()
    }

    /// Free blocks, which hold no data.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Number of blocks.
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
        /// Random allocate / retain / release / compact, checked against a plain model.
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

    /// The contents of a text, block by block.
    fn blocks_of(text: &[u32]) -> impl Iterator<Item = BlockTokens> {
        text.iter().map(|&letter| [letter; 16])
    }

    /// Reuses or allocates the blocks of a text while available and shares them, as a sequence
    /// would; also returns how many were reused.
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
        /// Random texts arrive, stay and leave, and blocks move, checked against a map from each
        /// kept prefix to its block.
        #[test]
        fn what_is_found_is_what_was_shared(
            capacity in 1usize..12,
            steps in prop::collection::vec((0u8..8, prop::collection::vec(0u32..3, 1..5), 0usize..8), 0..120),
        ) {
            use std::collections::HashMap;
            let mut pool = BlockPool::new(capacity);
            // The content of each block: the whole text up to its end.
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
                // Equal prefixes of live texts use the same blocks.
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
        // Reused, so the other one is now older.
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
