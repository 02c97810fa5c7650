//! DRY ("don't repeat yourself", by p-e-w): a token that would extend a run which already occurred is penalised by
//! `multiplier * base^(n - allowed_length)`, n being how many tokens before it already repeat.

use std::sync::Arc;

use super::adjust::tail;
use super::candidates::Candidates;
use super::params::DryParams;

/// A token's bytes, so that a breaker is found in the text, however tokens cut it.
pub type PieceFn = Arc<dyn Fn(u32) -> Vec<u8> + Send + Sync>;

/// Where the last sequence breaker ended.
pub(super) struct Dry {
    params: DryParams,
    piece: PieceFn,
    /// Tokens seen so far.
    seen: usize,
    /// Tokens up to and including the one in which the last breaker ended.
    broken_at: usize,
    /// The last bytes, one less than the longest breaker.
    tail: Vec<u8>,
    longest: usize,
}

impl Dry {
    pub(super) fn new(params: &DryParams, piece: PieceFn) -> Option<Self> {
        if params.multiplier == 0.0 {
            return None;
        }
        let longest = params.sequence_breakers.iter().map(String::len).max();
        Some(Self {
            params: params.clone(),
            piece,
            seen: 0,
            broken_at: 0,
            tail: Vec::new(),
            longest: longest.unwrap_or(0),
        })
    }

    /// Takes note of one more token of the sequence.
    pub(super) fn observe(&mut self, token: u32) {
        self.seen += 1;
        if self.longest == 0 {
            return;
        }
        let piece = (self.piece)(token);
        let before = self.tail.len();
        self.tail.extend_from_slice(&piece);
        // A breaker that ends inside the new piece; one that ended earlier was seen then.
        let broken = self.params.sequence_breakers.iter().any(|b| {
            let b = b.as_bytes();
            self.tail
                .windows(b.len())
                .enumerate()
                .any(|(at, w)| at + b.len() > before && w == b)
        });
        if broken {
            self.broken_at = self.seen;
        }
        let keep = (self.longest - 1).min(self.tail.len());
        self.tail.drain(..self.tail.len() - keep);
    }

    /// Penalises the candidates that would extend a repetition.
    pub(super) fn apply(&self, c: &mut Candidates, history: &[u32]) {
        let history = tail(history, self.params.window);
        let allowed = self.params.allowed_length as usize;
        // No run may reach back across the last breaker.
        let limit = self.seen - self.broken_at;
        if limit < allowed || history.len() < 2 {
            return;
        }
        let mut z = std::mem::take(&mut c.z);
        let mut found = std::mem::take(&mut c.runs);
        reversed_z(history, &mut z);
        // history[n - 1 - i] ends a run of z[i] tokens equal to the end of the history; history[n - i] came next.
        let n = history.len();
        // Longest run for each next token: sort (token, run), keep the last of each.
        found.clear();
        for i in 1..n {
            let run = z[i].min(limit);
            if run >= allowed {
                found.push((history[n - i], run));
            }
        }
        found.sort_unstable();
        for (i, &(token, run)) in found.iter().enumerate() {
            let longest = found.get(i + 1).is_none_or(|next| next.0 != token);
            if longest && !self.is_breaker(token) {
                let penalty = f64::from(self.params.multiplier)
                    * power(f64::from(self.params.base), run - allowed);
                c.change(token, |logit| (f64::from(logit) - penalty) as f32);
            }
        }
        c.z = z;
        c.runs = found;
    }

    /// A token that is a breaker by itself may always come.
    fn is_breaker(&self, token: u32) -> bool {
        if self.longest == 0 {
            return false;
        }
        let piece = (self.piece)(token);
        let is_in = |b: &String| piece.windows(b.len()).any(|w| w == b.as_bytes());
        self.params.sequence_breakers.iter().any(is_in)
    }
}

/// Z-array of the reversed history: `z[i]` is how many tokens ending `i` before the end equal those ending at the end.
fn reversed_z(history: &[u32], z: &mut Vec<usize>) {
    let n = history.len();
    let at = |i: usize| history[n - 1 - i];
    z.clear();
    z.resize(n, 0);
    let (mut left, mut right) = (0, 0); // [left, right) is the rightmost segment that matches a prefix
    for i in 1..n {
        let mut len = if i < right {
            z[i - left].min(right - i)
        } else {
            0
        };
        while i + len < n && at(len) == at(i + len) {
            len += 1;
        }
        if i + len > right {
            (left, right) = (i, i + len);
        }
        z[i] = len;
    }
}

/// `base^n` by squaring, at most the largest f32.
fn power(mut base: f64, mut n: usize) -> f64 {
    let mut result = 1.0;
    while n > 0 {
        if n & 1 == 1 {
            result *= base;
        }
        base *= base;
        n >>= 1;
    }
    result.min(f64::from(f32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: [&str; 8] = ["a", "b", "c", "d", "\n", "<s", "ep>", "x"];

    fn dry(params: DryParams, history: &[u32]) -> Vec<f32> {
        let piece: PieceFn = Arc::new(|id| TEXT[id as usize].as_bytes().to_vec());
        let mut c = Candidates::new(8);
        c.fill(&[0.0; 8], None, 0).unwrap();
        let mut dry = Dry::new(&params, piece).unwrap();
        history.iter().for_each(|&t| dry.observe(t));
        dry.apply(&mut c, history);
        c.items.sort_unstable_by_key(|x| x.id);
        c.items.iter().map(|x| x.logit).collect()
    }

    fn params() -> DryParams {
        DryParams {
            multiplier: 0.5,
            base: 2.0,
            ..Default::default()
        }
    }

    #[test]
    fn the_token_that_extends_a_run_is_penalised_by_its_length() {
        // a b c d a b c: d would make a run of 3 + 1: 0.5 * 2^(3 - 2) = 1.
        assert_eq!(
            dry(params(), &[0, 1, 2, 3, 0, 1, 2]),
            [0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0]
        );
        // a b c d b c: the run is b c, 0.5 * 2^0.
        assert_eq!(dry(params(), &[0, 1, 2, 3, 1, 2])[3], -0.5);
        // a b d c: nothing of length 2 repeats.
        assert_eq!(dry(params(), &[0, 1, 3, 1]), [0.0; 8]);
    }

    #[test]
    fn the_longest_of_several_runs_counts() {
        // b c d x a b c d x … hmm: "a b c" then d (run 3) and "b c" then d (run 2) both end in d.
        let history = [0, 1, 2, 3, 7, 1, 2, 3, 0, 1, 2];
        assert_eq!(dry(params(), &history)[3], -1.0);
    }

    #[test]
    fn no_run_crosses_a_breaker() {
        // a b \n c d a b \n c: the run "a b \n c" is cut to "c".
        assert_eq!(dry(params(), &[0, 1, 4, 2, 3, 0, 1, 4, 2]), [0.0; 8]);
        // Without breakers the run is 4: 0.5 * 2^2.
        let free = DryParams {
            sequence_breakers: vec![],
            ..params()
        };
        assert_eq!(dry(free, &[0, 1, 4, 2, 3, 0, 1, 4, 2])[3], -2.0);
    }

    #[test]
    fn a_breaker_is_found_across_tokens() {
        let p = DryParams {
            sequence_breakers: vec!["<sep>".into()],
            ..params()
        };
        // x <s ep> a b c x <s ep> a b: the run is cut to "a b".
        assert_eq!(dry(p.clone(), &[7, 5, 6, 0, 1, 2, 7, 5, 6, 0, 1])[2], -0.5);
        // "ep>" alone breaks nothing: x ep> a b c x ep> a b is a run of 4.
        assert_eq!(dry(p, &[7, 6, 0, 1, 2, 7, 6, 0, 1])[2], -2.0);
    }

    #[test]
    fn a_token_that_is_a_breaker_is_spared() {
        // a b \n a b: the newline would extend the run, but it is a breaker.
        assert_eq!(dry(params(), &[0, 1, 4, 0, 1]), [0.0; 8]);
    }

    #[test]
    fn the_window_bounds_the_search() {
        let p = DryParams {
            window: Some(5),
            ..params()
        };
        // Only the last five tokens (d x b c … ) are searched: the earlier "b c d" is out of sight.
        assert_eq!(dry(p, &[1, 2, 3, 7, 7, 7, 1, 2]), [0.0; 8]);
    }

    #[test]
    fn long_runs_do_not_overflow() {
        let history = [0u32; 4000];
        let logits = dry(params(), &history);
        assert!(logits[0].is_finite() && logits[0] < -1e38, "{}", logits[0]);
        assert_eq!(logits[1], 0.0);
    }
}
