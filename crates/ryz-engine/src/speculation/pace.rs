//! How far ahead a generation proposes, learnt from what became of its proposals. Nothing here looks at a clock.

/// Tokens that were tried, faded by a tenth a proposal, from which it is judged: proposals of one token reach ten.
const JUDGED_FROM: f32 = 8.0;
/// Or what they cost, in steps.
const DEAR_FROM: f32 = JUDGED_FROM * VERIFYING;
/// What a token more in a step costs, in steps of one token, where weights are streamed from memory.
const VERIFYING: f32 = 0.3;
/// Steps without proposals, at first and at most.
const REST: (u32, u32) = (16, 256);
/// Tokens of the first proposal.
const FIRST: usize = 4;

/// Grows and shrinks the proposals of one generation from one source, and lets it rest where they do not pay.
#[derive(Debug)]
pub(super) struct Pace {
    most: usize,
    /// Tokens of the next proposal, at most.
    length: usize,
    /// What finding a token costs, in steps of one token.
    finding: f32,
    /// Tokens looked for, what they cost, and the steps that they saved, old ones fading.
    tried: f32,
    spent: f32,
    saved: f32,
    /// Steps until it tries again, and for how long it will rest the next time.
    resting: u32,
    rest: u32,
}

impl Pace {
    /// Proposals of up to `most` tokens, each of which costs `finding` steps of one token to find.
    pub fn new(most: usize, finding: f32) -> Self {
        Self {
            most,
            length: most.min(FIRST),
            finding,
            tried: 0.0,
            spent: 0.0,
            saved: 0.0,
            resting: 0,
            rest: REST.0,
        }
    }

    /// The chance of being chosen from which proposing a token pays.
    pub fn least_chance(&self) -> f32 {
        VERIFYING + self.finding
    }

    /// Tokens of the proposal for the next step, where there is room for `room`; 0 while it rests.
    pub fn next(&mut self, room: usize) -> usize {
        if self.resting > 0 {
            self.resting -= 1;
            return 0;
        }
        self.length.min(room)
    }

    /// Learns how many of the tokens that were proposed the sampler chose. Whoever looked for one and proposed none has had
    /// the cost of looking.
    pub fn verified(&mut self, proposed: usize, accepted: usize) {
        if proposed > 0 {
            self.length = if accepted == proposed {
                (self.length * 2).min(self.most)
            } else {
                (accepted + 1).min(self.most)
            };
        }
        let tried = proposed.max(1) as f32;
        let spent = tried * self.finding + proposed as f32 * VERIFYING;
        self.tried = self.tried * 0.9 + tried;
        self.spent = self.spent * 0.9 + spent;
        self.saved = self.saved * 0.9 + accepted as f32;
        if self.tried < JUDGED_FROM && self.spent < DEAR_FROM {
            return;
        }
        if self.saved < self.spent {
            self.resting = self.rest;
            self.rest = (self.rest * 2).min(REST.1);
            (self.tried, self.spent, self.saved) = (0.0, 0.0, 0.0);
        } else {
            self.rest = REST.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_costs_more_must_be_right_more_often() {
        let rests = |cost, accepted| {
            let mut pace = Pace::new(4, cost);
            for _ in 0..4 {
                pace.verified(4, accepted);
            }
            pace.next(4) == 0
        };
        assert!(!rests(0.0, 2) && rests(0.3, 2));
        assert!(!rests(0.3, 3) && rests(1.0, 4));
        // Looking in vain costs, too.
        let mut pace = Pace::new(4, 0.1);
        (0..16).for_each(|_| pace.verified(0, 0));
        assert_eq!(pace.next(4), 0);
    }
}
