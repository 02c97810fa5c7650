//! Which blocks of its sequence a query sees when old ones fall out.

use std::ops::Range;

use crate::BLOCK_TOKENS;

/// The first blocks of a sequence, and a window that moves on with the query. What a query sees is a function of its position
/// alone, so that it does not depend on how the prompt was cut into steps.
///
/// Blocks fall out whole, once all of their positions are older than the window: a query sees the last `tokens` positions, its
/// own included, and up to 15 more.
///
/// ```
/// use ryz_kvcache::Window;
///
/// let window = Window::new(4, 32);
/// assert_eq!(window.gone(62), 1..1);
/// assert_eq!(window.gone(63), 1..2);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Blocks.
    sinks: usize,
    /// Positions, at least one.
    tokens: usize,
}

impl Window {
    /// The first `sinks` positions, rounded up to whole blocks, and the last `tokens` (at least one).
    pub fn new(sinks: usize, tokens: usize) -> Self {
        Self {
            sinks: sinks.div_ceil(BLOCK_TOKENS),
            tokens: tokens.max(1),
        }
    }

    /// Blocks at the beginning that are always seen.
    pub fn sinks(&self) -> usize {
        self.sinks
    }

    /// The first block behind the sinks that the query at `position` sees.
    pub fn first(&self, position: usize) -> usize {
        let oldest = (position + 1).saturating_sub(self.tokens);
        (oldest / BLOCK_TOKENS).max(self.sinks)
    }

    /// Blocks that the query at `position`, and any later one, does not see.
    pub fn gone(&self, position: usize) -> Range<usize> {
        self.sinks..self.first(position)
    }

    /// By how many positions the query at `position` is nearer to the sinks than it was written: those that are gone between.
    pub fn shift(&self, position: usize) -> usize {
        match self.sinks {
            0 => 0,
            _ => self.gone(position).len() * BLOCK_TOKENS,
        }
    }

    /// Blocks of which every position saw all before it: they are what they would be without a window.
    pub fn intact_blocks(&self) -> usize {
        self.sinks + self.tokens.div_ceil(BLOCK_TOKENS)
    }

    /// The most blocks that a query sees.
    pub fn blocks(&self) -> usize {
        self.sinks + (self.tokens - 1).div_ceil(BLOCK_TOKENS) + 1
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_query_sees_its_window_and_less_than_a_block_more(sinks in 0usize..40, tokens in 1usize..200, position in 0usize..1000) {
            let window = Window::new(sinks, tokens);
            let own = position / BLOCK_TOKENS;
            let seen = |position: usize| {
                let own = position / BLOCK_TOKENS;
                (0..=own).filter(move |block| !window.gone(position).contains(block)).collect::<Vec<_>>()
            };
            let oldest = (position + 1).saturating_sub(tokens);
            for block in 0..=own {
                let within = (block + 1) * BLOCK_TOKENS > oldest || block * BLOCK_TOKENS < sinks;
                prop_assert_eq!(seen(position).contains(&block), within);
            }
            prop_assert!(seen(position).len() <= window.blocks());
            // What is gone stays gone.
            prop_assert!(window.gone(position + 1).end >= window.gone(position).end);
            let is_intact = (own * BLOCK_TOKENS..(own + 1) * BLOCK_TOKENS).all(|position| window.gone(position).is_empty());
            prop_assert_eq!(own < window.intact_blocks(), is_intact);
            // The farthest key is no farther than the sinks and the window, in whole blocks, are long.
            let farthest = position - window.shift(position);
            prop_assert!(window.sinks() == 0 || farthest < (window.sinks() + 1) * BLOCK_TOKENS + tokens);
        }
    }
}
