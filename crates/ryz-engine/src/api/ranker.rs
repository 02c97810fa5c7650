//! A program's ranking of blocks.

use std::sync::Arc;

use super::Engine;
use crate::eviction::BlockRanker;

impl Engine {
    /// Has `ranker` say which blocks stay under [`Eviction::Ranked`](crate::Eviction::Ranked), from the next step on; `None`
    /// leaves it to the attention that they have had. There is one at a time.
    pub fn set_block_ranker(&self, ranker: Option<Arc<dyn BlockRanker>>) {
        self.inner.state.ranker.set(ranker);
    }
}
