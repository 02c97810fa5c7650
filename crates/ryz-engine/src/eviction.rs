//! Which blocks of the cache a sequence gives back before it ends.
//!
//! A policy decides by positions and by the text alone, never by how the text was cut into steps, by the batch or by free memory:
//! so that answers stay the same, bit for bit, and a sequence that had to give everything back is computed again to the same
//! tokens. Blocks are given back between steps, when no position to come may see them; proposals ([`crate::speculation`]) count
//! only once they are chosen.

mod heavy_hitters;
mod ranking;

pub(crate) use heavy_hitters::HeavyHitters;
pub use ranking::{BlockRanker, RankedBlock};
pub(crate) use ranking::{Ranker, checked};

use ryz_kvcache::{AttentionMass, BLOCK_TOKENS, Window};

use crate::error::EngineError;

/// Blocks that hold `tokens` positions.
pub(crate) fn blocks_for(tokens: usize) -> usize {
    tokens.div_ceil(BLOCK_TOKENS)
}

/// What a sequence forgets when it grows long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Eviction {
    /// Nothing: it ends where the context ends.
    #[default]
    None,
    /// Blocks of which every position is older than the window. It goes on past the context.
    SlidingWindow {
        /// Positions, a token's own included.
        window: usize,
    },
    /// The same, but for the first ones (Xiao et al., arXiv 2309.17453), which later positions see as if nothing lay between them
    /// and the window. It goes on past the context.
    AttentionSinks {
        /// Positions that are kept, rounded up to whole blocks.
        sinks: usize,
        /// As of a sliding window.
        window: usize,
    },
    /// Those of the older blocks that have had the least attention (H2O, Zhang et al., arXiv 2306.14048), each time that 64
    /// positions more are there. It ends where the context ends.
    HeavyHitters {
        /// Positions that are kept, rounded up to whole blocks; up to 64 more until the next time.
        tokens: usize,
        /// The last ones, which are kept whatever attention they have had, rounded up to whole blocks.
        window: usize,
    },
    /// The same, but the engine's [`BlockRanker`] says which of the older blocks stay.
    Ranked {
        /// As of heavy hitters.
        tokens: usize,
        /// As of heavy hitters.
        window: usize,
    },
}

impl Eviction {
    /// What positions see.
    pub(crate) fn window(self) -> Option<Window> {
        match self {
            Self::None | Self::HeavyHitters { .. } | Self::Ranked { .. } => None,
            Self::SlidingWindow { window } => Some(Window::new(0, window)),
            Self::AttentionSinks { sinks, window } => Some(Window::new(sinks, window)),
        }
    }

    /// Where a sequence ends in an engine of this context: what forgets goes on.
    pub(crate) fn longest(self, context_length: usize) -> usize {
        match self.window() {
            Some(_) => usize::MAX,
            None => context_length,
        }
    }

    /// Checks it against a context, which has room for what is kept and a block to go on in.
    pub(crate) fn validate(self, context_length: usize) -> Result<(), EngineError> {
        let (sinks, window) = match self {
            Self::None => return Ok(()),
            Self::HeavyHitters { tokens, window } | Self::Ranked { tokens, window } => {
                let most = HeavyHitters::most(context_length);
                within("eviction.tokens", tokens, most, context_length)?;
                return within("eviction.window", window, tokens, context_length);
            }
            Self::SlidingWindow { window } => (0, window),
            Self::AttentionSinks { sinks, window } => (sinks, window),
        };
        // The blocks in which the window begins and in which it ends besides: one is written, and one is free to go on.
        let room = blocks_for(context_length).saturating_sub(2);
        if matches!(self, Self::AttentionSinks { .. }) {
            within("eviction.sinks", sinks, room * BLOCK_TOKENS, context_length)?;
        }
        let most = match blocks_for(context_length) {
            0 | 1 => 0,
            _ => (room - blocks_for(sinks)) * BLOCK_TOKENS + 1,
        };
        within("eviction.window", window, most, context_length)?;
        Ok(())
    }
}

/// Refuses what is not between 1 and `most`.
fn within(
    option: &'static str,
    got: usize,
    most: usize,
    context_length: usize,
) -> Result<(), EngineError> {
    if (1..=most).contains(&got) {
        return Ok(());
    }
    let expected = format!("1 to {most} for a context of {context_length}");
    Err(EngineError::invalid(option, expected, got))
}

/// What a sequence keeps, and what it has given back.
#[derive(Debug, Clone, Default)]
pub(crate) struct Retention {
    /// What its positions see.
    pub window: Option<Window>,
    /// Which blocks have had attention, where those with little go.
    pub heavy: Option<HeavyHitters>,
    /// Blocks that it has given back.
    pub gone: usize,
}

impl Retention {
    /// Of a sequence that has `blocks` blocks at most, where it does not go on past the context.
    pub fn new(eviction: Eviction, blocks: usize) -> Self {
        Self {
            window: eviction.window(),
            heavy: match eviction {
                Eviction::HeavyHitters { tokens, window } => {
                    Some(HeavyHitters::new(tokens, window, blocks))
                }
                Eviction::Ranked { tokens, window } => {
                    Some(HeavyHitters::new(tokens, window, blocks).ranked())
                }
                _ => None,
            },
            gone: 0,
        }
    }

    /// To what the attention that it pays is added.
    pub fn mass(&self) -> Option<&AttentionMass> {
        self.heavy.as_ref().map(HeavyHitters::mass)
    }

    /// What the program is to rank before the next choice.
    pub fn unranked(&mut self) -> Option<&mut HeavyHitters> {
        self.heavy.as_mut().filter(|heavy| heavy.is_unranked())
    }

    /// Whether it goes on past the context.
    pub fn goes_on(&self) -> bool {
        self.window.is_some()
    }

    /// Whether tokens may be proposed: attention that was paid cannot be taken back.
    pub fn may_propose(&self) -> bool {
        self.heavy.is_none()
    }

    /// Whether it gives blocks back, and so takes new ones as it goes on.
    pub fn is_rolling(&self) -> bool {
        self.window.is_some() || self.heavy.is_some()
    }

    /// Blocks that hold what they would without a policy, whatever comes.
    pub fn intact_blocks(&self) -> usize {
        match self.heavy {
            // Whoever finds a block does not know what attention it has had, and paid.
            Some(_) => 0,
            None => self
                .window
                .map_or(usize::MAX, |window| window.intact_blocks()),
        }
    }

    /// Blocks that a table with `tokens` in all must have for the sequence to go on by a block at least.
    pub fn blocks(&self, tokens: usize) -> usize {
        let all = blocks_for(tokens);
        let kept = match (&self.window, &self.heavy) {
            (Some(window), _) => window.blocks(),
            (None, Some(heavy)) => heavy.blocks(),
            (None, None) => return all,
        };
        all.min(self.gone + kept + 1)
    }

    /// How many positions may be computed at once behind `cached` ones.
    pub fn longest_chunk(&self, cached: usize) -> usize {
        self.heavy
            .as_ref()
            .map_or(usize::MAX, |heavy| heavy.until_next(cached))
    }

    /// The sequence begins anew.
    pub fn reset(&mut self) {
        self.gone = 0;
        if let Some(heavy) = &mut self.heavy {
            heavy.reset();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blamed(eviction: Eviction, context: usize) -> Option<&'static str> {
        match eviction.validate(context) {
            Ok(()) => None,
            Err(EngineError::InvalidArgument { option, .. }) => Some(option),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn what_a_context_has_no_room_for_is_refused_by_name() {
        let sliding = |window| Eviction::SlidingWindow { window };
        let sinks = |sinks, window| Eviction::AttentionSinks { sinks, window };
        assert_eq!(blamed(Eviction::None, 2), None);
        assert_eq!(blamed(sliding(0), 512), Some("eviction.window"));
        assert_eq!(blamed(sliding(481), 512), None);
        assert_eq!(blamed(sliding(482), 512), Some("eviction.window"));
        assert_eq!(blamed(sinks(0, 64), 512), Some("eviction.sinks"));
        assert_eq!(blamed(sinks(500, 64), 512), Some("eviction.sinks"));
        assert_eq!(blamed(sinks(4, 465), 512), None);
        assert_eq!(blamed(sinks(4, 466), 512), Some("eviction.window"));
        assert_eq!(blamed(sliding(1), 16), Some("eviction.window"));
        for (eviction, blocks) in [(sliding(481), 32), (sinks(4, 465), 32)] {
            let window = eviction.window().expect("a window");
            assert_eq!(window.blocks() + 1, blocks);
        }
    }
}
