//! Blocks that a sequence gives back before it ends, and those that it takes as it goes on.

use ryz_kvcache::{BLOCK_TOKENS, BlockId, BlockPool};

use super::Sequence;
use crate::error::EngineError;
use crate::eviction::{BlockRanker, RankedBlock, blocks_for, checked};

impl Sequence {
    /// Gives back what no position to come sees. How many blocks that were.
    pub fn evict(&mut self, pool: &mut BlockPool) -> usize {
        if let Some(heavy) = &mut self.retention.heavy {
            let lightest = heavy.lightest(&self.block_table, self.cached);
            for &index in &lightest {
                let block = &mut self.block_table[index];
                pool.release(std::mem::replace(block, BlockId::EVICTED));
            }
            self.retention.gone += lightest.len();
            return lightest.len();
        }
        let Some(window) = self.retention.window else {
            return 0;
        };
        let gone = window.gone(self.cached);
        let rest = gone.start + self.retention.gone..gone.end;
        if rest.is_empty() {
            return 0;
        }
        let count = rest.len();
        for block in &mut self.block_table[rest] {
            pool.release(std::mem::replace(block, BlockId::EVICTED));
        }
        self.retention.gone += count;
        count
    }

    /// Takes blocks for more of its next `tokens` than it must have, as far as the pool has `spare` besides. How many of them have
    /// a place.
    pub fn allocate_chunk(&mut self, pool: &mut BlockPool, tokens: usize, spare: usize) -> usize {
        let tokens = tokens.min(self.retention.longest_chunk(self.cached));
        let wanted = blocks_for(self.cached + tokens);
        while self.block_table.len() < wanted && pool.available() > spare {
            let Some(block) = pool.allocate() else {
                break;
            };
            self.block_table.push(block);
        }
        tokens.min(self.block_table.len() * BLOCK_TOKENS - self.cached)
    }

    /// Positions that are in the cache.
    pub fn held(&self) -> usize {
        self.cached - (self.retention.gone * BLOCK_TOKENS).min(self.cached)
    }

    /// Has `ranker` rank its older blocks, where some of them must go before the next step.
    ///
    /// # Errors
    /// What the ranker said, or what is wrong with its answer.
    pub fn rank(
        &mut self,
        ranker: &dyn BlockRanker,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<(), EngineError> {
        let Some(heavy) = self.retention.unranked() else {
            return Ok(());
        };
        let Some((old, _)) = heavy.choice(&self.block_table, self.cached) else {
            return Ok(());
        };
        let of = |&index: &usize| RankedBlock {
            position: index * BLOCK_TOKENS,
            attention: heavy.mass().get(index),
        };
        let blocks: Vec<_> = old.iter().map(of).collect();
        let scores = ranker
            .rank(&blocks, cancelled)
            .and_then(|scores| checked(scores, blocks.len()))
            .map_err(|message| EngineError::BlockRanker { message })?;
        heavy.rank(&old, &scores);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eviction::Eviction;
    use crate::sequence::LogitPositions;

    #[test]
    fn a_sequence_of_any_length_goes_on_in_the_same_blocks() {
        for (eviction, most) in [
            (Eviction::SlidingWindow { window: 40 }, 5),
            (
                Eviction::AttentionSinks {
                    sinks: 4,
                    window: 40,
                },
                6,
            ),
        ] {
            for chunk in [1, 7, 16, 200] {
                let mut pool = BlockPool::new(most);
                let mut sequence =
                    Sequence::new(1, vec![0; 1000], LogitPositions::Last).evicting(eviction, 0);
                let mut evicted = 0;
                while sequence.pending() > 0 {
                    evicted += sequence.evict(&mut pool);
                    assert!(sequence.allocate(&mut pool));
                    let room = sequence.allocate_chunk(&mut pool, chunk.min(sequence.pending()), 0);
                    assert!(room >= chunk.min(16).min(sequence.pending()));
                    sequence.cached += room;
                }
                // The last one sees from position 960 on.
                assert_eq!(pool.capacity() - pool.available(), most.min(63 - evicted));
                assert!(evicted >= 63 - most);
                assert!(sequence.held() <= most * BLOCK_TOKENS);
                sequence.release(&mut pool);
                assert_eq!((pool.available(), sequence.held()), (most, 0));
            }
        }
    }
}
