/// One block of a [`BlockPool`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId(u32);

impl BlockId {
    /// Its place in the storage.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Which blocks are free and how often each is shared. Bookkeeping only: the bytes are the cache's.
///
/// The lowest free block is handed out first after a fresh start, the last released one later on, so that a short
/// conversation stays on few, warm pages.
#[derive(Debug)]
pub struct BlockPool {
    /// References to each block; 0 when free.
    references: Vec<u32>,
    /// Free blocks, the next one last.
    free: Vec<BlockId>,
}

impl BlockPool {
    /// A pool of `blocks` free blocks (at most `u32::MAX`).
    pub fn new(blocks: usize) -> Self {
        let count = u32::try_from(blocks).unwrap_or(u32::MAX);
        Self {
            references: vec![0; count as usize],
            free: (0..count).rev().map(BlockId).collect(),
        }
    }

    /// Takes a free block, with one reference; `None` when there is none.
    pub fn allocate(&mut self) -> Option<BlockId> {
        let block = self.free.pop()?;
        self.references[block.index()] = 1;
        Some(block)
    }

    /// Adds a reference to a block in use.
    ///
    /// # Panics
    /// When the block is free: sharing it would be a fault of the caller's books.
    pub fn retain(&mut self, block: BlockId) {
        let references = &mut self.references[block.index()];
        assert!(
            *references > 0,
            "block {} is free and cannot be shared",
            block.0
        );
        *references += 1;
    }

    /// Gives a reference back; the last one frees the block.
    ///
    /// # Panics
    /// When the block is free already.
    pub fn release(&mut self, block: BlockId) {
        let references = &mut self.references[block.index()];
        assert!(*references > 0, "block {} was released twice", block.0);
        *references -= 1;
        if *references == 0 {
            self.free.push(block);
        }
    }

    /// References to a block; 0 when it is free.
    pub fn references(&self, block: BlockId) -> u32 {
        self.references[block.index()]
    }

    /// Free blocks.
    pub fn available(&self) -> usize {
        self.free.len()
    }

    /// All blocks.
    pub fn capacity(&self) -> usize {
        self.references.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Random allocate / retain / release against a plain model of the books.
        #[test]
        fn books_agree_with_a_model(capacity in 0usize..9, steps in prop::collection::vec((0u8..3, 0usize..9), 0..200)) {
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
    #[should_panic(expected = "released twice")]
    fn a_second_release_is_our_own_fault() {
        let mut pool = BlockPool::new(1);
        let block = pool.allocate().unwrap();
        pool.release(block);
        pool.release(block);
    }
}
