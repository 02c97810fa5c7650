//! Which blocks of its sequence a query sees under a sliding window.

use std::ops::Range;

use crate::BLOCK_TOKENS;

/// The first blocks of a sequence (the sinks) and a window that slides with the query. What a query
/// sees depends only on its position, so it does not depend on how the prompt was split into steps.
///
/// Only whole blocks leave the window, once all of their positions are older than it: a query sees
/// the last `tokens` positions including its own, and up to 15 more.
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
    /// The first `sinks` positions, rounded up to whole blocks, and the last `tokens` positions (at
    /// least one).
    pub fn new(sinks: usize, tokens: usize) -> Self {
        Self {
            sinks: sinks.div_ceil(BLOCK_TOKENS),
            tokens: tokens.max(1),
        }
    }

    /// Number of sink blocks, which are always visible.
    pub fn sinks(&self) -> usize {
        self.sinks
    }

    /// The first block after the sinks that the query at `position` sees.
    pub fn first(&self, position: usize) -> usize {
        let oldest = (position + 1).saturating_sub(self.tokens);
        (oldest / BLOCK_TOKENS).max(self.sinks)
    }

    /// Blocks that neither the query at `position` nor any later one sees.
    pub fn gone(&self, position: usize) -> Range<usize> {
        self.sinks..self.first(position)
    }

    /// The number of evicted positions between the sinks and the window of the query at `position`,
    /// by which its distance to the sinks shrinks.
    pub fn shift(&self, position: usize) -> usize {
        match self.sinks {
            0 => 0,
            _ => self.gone(position).len() * BLOCK_TOKENS,
        }
    }

    /// Number of leading blocks whose positions all saw their entire past, so that they equal those
    /// computed without a window.
    pub fn intact_blocks(&self) -> usize {
        self.sinks + self.tokens.div_ceil(BLOCK_TOKENS)
    }

    /// Maximum blocks that a query sees.
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
            // Evicted blocks stay evicted.
            prop_assert!(window.gone(position + 1).end >= window.gone(position).end);
            let is_intact = (own * BLOCK_TOKENS..(own + 1) * BLOCK_TOKENS).all(|position| window.gone(position).is_empty());
            prop_assert_eq!(own < window.intact_blocks(), is_intact);
            // No key is farther than the length of the sinks and the window, in whole blocks.
            let farthest = position - window.shift(position);
            prop_assert!(window.sinks() == 0 || farthest < (window.sinks() + 1) * BLOCK_TOKENS + tokens);
        }
    }
}
