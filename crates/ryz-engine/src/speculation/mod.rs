//! Speculative decoding: what may come next is proposed and verified in one step.
//!
//! Proposals come from the text itself ([`lookup`]) or from a second, smaller model ([`draft`]). They are computed in one step
//! with the token that is due, which reads the weights once for all of them. Each row of logits then goes through the
//! request's own sampler in turn, as long as it chooses what was proposed; at the first other choice the rest is forgotten. So
//! not only the distribution but the answer itself is that of plain decoding, for every sampler and seed.

mod draft;
mod lookup;
mod pace;

pub(crate) use draft::{Draft, ProposalRequest, cost, draft_cache};

use lookup::PromptLookup;
use pace::Pace;

/// Where a generation's proposals come from.
#[derive(Debug)]
pub(crate) struct Speculation {
    lookup: Option<PromptLookup>,
    draft: Option<Pace>,
    /// Whether the draft model was asked last.
    drafted: bool,
}

impl Speculation {
    /// Up to so many tokens from the text, and up to so many by the draft model, a token of which costs `draft_cost` of a
    /// token of the model's own; 0 for none.
    pub fn new(prompt_lookup: usize, draft: usize, draft_cost: f32) -> Self {
        Self {
            lookup: (prompt_lookup > 0).then(|| PromptLookup::new(prompt_lookup)),
            draft: (draft > 0).then(|| Pace::new(draft, draft_cost)),
            drafted: false,
        }
    }

    /// Adds to `ahead` what the text says may follow `tokens`: up to `room` tokens, or none.
    pub fn look_up(&mut self, tokens: &[u32], room: usize, ahead: &mut Vec<u32>) {
        self.drafted = false;
        if let Some(lookup) = &mut self.lookup {
            lookup.propose(tokens, room, ahead);
        }
    }

    /// How many tokens the draft model is to propose, `room` at most, and the least chance of being chosen that is worth it.
    pub fn wanted(&mut self, room: usize) -> Option<(usize, f32)> {
        let pace = self.draft.as_mut()?;
        let wanted = pace.next(room);
        self.drafted = wanted > 0;
        self.drafted.then(|| (wanted, pace.least_chance()))
    }

    /// Learns what became of the last proposal.
    pub fn verified(&mut self, proposed: usize, accepted: usize) {
        if let (Some(draft), true) = (&mut self.draft, self.drafted) {
            draft.verified(proposed, accepted);
        } else if let (Some(lookup), true) = (&mut self.lookup, proposed > 0) {
            lookup.pace.verified(proposed, accepted);
        }
    }
}
