//! From tokens and their text to deltas: holds text back that may begin a stop string, and keeps each token with the
//! text it contributed to.

use std::collections::VecDeque;

use crate::request::Delta;
use crate::sampler::TokenLogprobs;
use crate::stop::StopMatcher;

/// A token without text of its own yet is delivered with later ones, but no more than this many at once.
const MAX_SILENT: usize = 32;

struct Pending {
    token: u32,
    /// Where its text begins, in bytes of the whole text.
    start: usize,
    logprobs: Option<TokenLogprobs>,
}

/// Builds the deltas of one generation.
pub(crate) struct Assembler {
    matcher: StopMatcher,
    pending: VecDeque<Pending>,
    received: usize,
    released: usize,
}

/// What a token led to.
#[derive(Debug, PartialEq, Default)]
pub(crate) struct Assembled {
    pub delta: Option<Delta>,
    /// A stop string is complete.
    pub stopped: bool,
}

impl Assembler {
    pub fn new(stop: &[String]) -> Self {
        Self {
            matcher: StopMatcher::new(stop),
            pending: VecDeque::new(),
            received: 0,
            released: 0,
        }
    }

    /// Takes a token and the text that is complete with it.
    pub fn push(&mut self, token: u32, logprobs: Option<TokenLogprobs>, text: &str) -> Assembled {
        self.pending.push_back(Pending {
            token,
            start: self.received,
            logprobs,
        });
        self.take(text)
    }

    /// Takes the text that was left when the last token had come, and releases everything.
    pub fn finish(&mut self, text: &str) -> Option<Delta> {
        let last = self.take(text);
        if last.stopped {
            return last.delta;
        }
        let held = self.matcher.finish();
        self.released = self.received;
        let mut delta = last.delta.unwrap_or_default();
        delta.text.push_str(&held);
        self.ship(&mut delta, usize::MAX);
        (!delta.text.is_empty() || !delta.token_ids.is_empty()).then_some(delta)
    }

    fn take(&mut self, text: &str) -> Assembled {
        self.received += text.len();
        let released = self.matcher.push(text);
        self.released += released.text.len();
        let silent = self.matcher.held() == 0 && self.pending.len() >= MAX_SILENT;
        if released.text.is_empty() && !silent {
            return Assembled {
                delta: None,
                stopped: released.stopped,
            };
        }
        let mut delta = Delta {
            text: released.text,
            ..Delta::default()
        };
        // A token whose text is held back stays; after a stop it is gone for good.
        let end = if silent && !released.stopped {
            usize::MAX
        } else {
            self.released
        };
        self.ship(&mut delta, end);
        Assembled {
            delta: Some(delta),
            stopped: released.stopped,
        }
    }

    /// Moves the tokens whose text begins before `end` into the delta.
    fn ship(&mut self, delta: &mut Delta, end: usize) {
        while let Some(next) = self.pending.pop_front_if(|p| p.start < end) {
            delta.token_ids.push(next.token);
            delta.logprobs.extend(next.logprobs);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delta(text: &str, token_ids: &[u32]) -> Assembled {
        Assembled {
            delta: Some(Delta {
                text: text.into(),
                token_ids: token_ids.to_vec(),
                logprobs: vec![],
            }),
            stopped: false,
        }
    }

    fn assembler(stop: &[&str]) -> Assembler {
        Assembler::new(&stop.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn each_token_comes_with_its_text() {
        let mut a = assembler(&[]);
        assert_eq!(a.push(1, None, "ab"), delta("ab", &[1]));
        assert_eq!(a.push(2, None, "c"), delta("c", &[2]));
        assert_eq!(a.finish(""), None);
    }

    #[test]
    fn half_a_character_waits_for_the_rest() {
        let mut a = assembler(&[]);
        assert_eq!(a.push(1, None, ""), Assembled::default());
        assert_eq!(a.push(2, None, "é"), delta("é", &[1, 2]));
        a.push(3, None, "");
        assert_eq!(a.finish("\u{fffd}"), delta("\u{fffd}", &[3]).delta);
        // And a silent token at the very end is not lost.
        let mut a = assembler(&[]);
        a.push(4, None, "");
        assert_eq!(a.finish(""), delta("", &[4]).delta);
    }

    #[test]
    fn tokens_of_a_stop_string_are_not_delivered() {
        let mut a = assembler(&["STOP"]);
        assert_eq!(a.push(1, None, "x S"), delta("x ", &[1]));
        assert_eq!(a.push(2, None, "TO"), Assembled::default());
        assert_eq!(
            a.push(3, None, "P!"),
            Assembled {
                delta: None,
                stopped: true
            }
        );
    }

    #[test]
    fn a_token_cut_by_a_stop_string_is_delivered_with_its_part() {
        let mut a = assembler(&["STOP"]);
        let mut want = delta("x", &[1]);
        want.stopped = true;
        assert_eq!(a.push(1, None, "xSTOP"), want);
    }

    #[test]
    fn held_text_comes_when_it_proves_harmless() {
        let mut a = assembler(&["STOP"]);
        assert_eq!(a.push(1, None, "ST"), Assembled::default());
        assert_eq!(a.push(2, None, "S"), delta("ST", &[1]));
        assert_eq!(a.finish(""), delta("S", &[2]).delta);
    }

    #[test]
    fn silence_does_not_last_for_ever() {
        let mut a = assembler(&[]);
        for i in 1..MAX_SILENT as u32 {
            assert_eq!(a.push(i, None, ""), Assembled::default());
        }
        let shipped = a.push(0, None, "").delta.unwrap();
        assert_eq!(shipped.token_ids.len(), MAX_SILENT);
    }

    #[test]
    fn logprobs_stay_with_their_tokens() {
        let logprobs = |token| TokenLogprobs {
            token,
            logprob: -1.0,
            top: vec![],
        };
        let mut a = assembler(&["!!"]);
        a.push(1, Some(logprobs(1)), "!");
        let got = a.push(2, Some(logprobs(2)), "a").delta.unwrap();
        assert_eq!(got.token_ids, [1, 2]);
        assert_eq!(
            got.logprobs.iter().map(|l| l.token).collect::<Vec<_>>(),
            [1, 2]
        );
    }
}
