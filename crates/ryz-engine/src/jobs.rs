//! Jobs that read a model's numbers instead of its text: logits, embeddings, scores. They are scheduled like
//! generations, so they neither wait for those nor stall them.

use std::collections::VecDeque;

use ryz_kvcache::KvCache;
use ryz_tmac::MatRef;

use crate::error::EngineError;
use crate::math::log_sum_exp;
use crate::request::{LogitsOutput, Reply, ScoreOutput};
use crate::sampler::non_finite_logit;
use crate::saved::StateJob;
use crate::sequence::{LogitPositions, Sequence};

/// Output rows of one sequence in one step: where its first row is and which position that is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows {
    pub first: usize,
    pub count: usize,
    /// Position in the sequence of the first row.
    pub position: usize,
}

/// What a job does after a step.
pub(crate) enum Progress {
    /// It needs more steps.
    More,
    /// It starts anew on other tokens.
    Restart(Vec<u32>),
    /// It has all it wants.
    Done,
    /// What was computed cannot be used.
    Failed(EngineError),
}

/// A job and where its result goes.
pub(crate) enum Job {
    Logits {
        output: LogitsOutput,
        expected: usize,
        reply: Reply<LogitsOutput>,
    },
    Embed {
        embedding: Vec<f32>,
        normalize: bool,
        reply: Reply<Vec<f32>>,
    },
    Score {
        score: Score,
        reply: Reply<ScoreOutput>,
    },
    State(StateJob),
}

/// A score under way: windows that do not overlap, each on a fresh cache.
pub(crate) struct Score {
    output: ScoreOutput,
    /// The next position whose logits are wanted; an earlier one that comes again after a pre-emption was counted.
    next: usize,
    windows: VecDeque<Vec<u32>>,
}

impl Score {
    /// Cuts `tokens` into windows; returns the first one too. Windows of one token have nothing to score.
    pub fn new(tokens: &[u32], window: usize) -> (Self, Vec<u32>) {
        let mut windows: VecDeque<Vec<u32>> = tokens
            .chunks(window)
            .filter(|w| w.len() > 1)
            .map(<[u32]>::to_vec)
            .collect();
        let first = windows.pop_front().unwrap_or_default();
        let score = Self {
            output: ScoreOutput::default(),
            next: 0,
            windows,
        };
        (score, first)
    }

    /// Scores the tokens that follow the given rows.
    fn take(&mut self, tokens: &[u32], logits: MatRef<'_, f32>, rows: Rows) -> Progress {
        for i in 0..rows.count {
            let position = rows.position + i;
            if position < self.next || position + 1 >= tokens.len() {
                continue;
            }
            let row = logits.row(rows.first + i);
            if let Err(error) = check_logits(row, position) {
                return Progress::Failed(error);
            }
            let target = f64::from(row[tokens[position + 1] as usize]);
            self.output.sum_nll += log_sum_exp(row) - target;
            self.output.tokens += 1;
            self.next = position + 1;
        }
        if self.next + 1 < tokens.len() {
            return Progress::More;
        }
        self.next = 0;
        self.windows
            .pop_front()
            .map_or(Progress::Done, Progress::Restart)
    }
}

impl Job {
    /// Which positions it wants logits of.
    pub fn wanted(&self) -> LogitPositions {
        match self {
            Self::Logits { expected, .. } if *expected > 1 => LogitPositions::All,
            Self::Score { .. } => LogitPositions::All,
            _ => LogitPositions::Last,
        }
    }

    /// Takes what a step computed for it.
    pub fn advance(
        &mut self,
        sequence: &Sequence,
        logits: MatRef<'_, f32>,
        hidden: MatRef<'_, f32>,
        rows: Rows,
        cache: &KvCache,
    ) -> Progress {
        match self {
            Self::State(job) => {
                if rows.count == 0 {
                    return Progress::More;
                }
                job.advance(sequence, cache);
                Progress::Done
            }
            Self::Logits {
                output, expected, ..
            } => {
                for i in 0..rows.count {
                    // Rows that come again after a pre-emption are there already.
                    if *expected > 1 && rows.position + i < output.rows {
                        continue;
                    }
                    let row = logits.row(rows.first + i);
                    if let Err(error) = check_logits(row, rows.position + i) {
                        return Progress::Failed(error);
                    }
                    output.data.extend_from_slice(row);
                    output.rows += 1;
                }
                if output.rows >= *expected {
                    Progress::Done
                } else {
                    Progress::More
                }
            }
            Self::Embed {
                embedding,
                normalize,
                ..
            } => {
                if rows.count == 0 {
                    return Progress::More;
                }
                let row = hidden.row(rows.first + rows.count - 1);
                if let Err(error) = check_hidden(row, rows.position + rows.count - 1) {
                    return Progress::Failed(error);
                }
                embedding.extend_from_slice(row);
                if *normalize {
                    normalize_l2(embedding);
                }
                Progress::Done
            }
            Self::Score { score, .. } => score.take(&sequence.tokens, logits, rows),
        }
    }

    /// Delivers the result.
    pub fn finish(self) {
        match self {
            Self::Logits { output, reply, .. } => reply(Ok(output)),
            Self::Embed {
                embedding, reply, ..
            } => reply(Ok(embedding)),
            Self::Score { score, reply } => reply(Ok(score.output)),
            Self::State(job) => job.finish(),
        }
    }

    /// Delivers an error.
    pub fn fail(self, error: EngineError) {
        match self {
            Self::Logits { reply, .. } => reply(Err(error)),
            Self::Embed { reply, .. } => reply(Err(error)),
            Self::Score { reply, .. } => reply(Err(error)),
            Self::State(job) => job.fail(error),
        }
    }
}

/// Refuses logits that are no numbers or +infinity, as a sampler does: −infinity is a token that cannot come.
pub(crate) fn check_logits(row: &[f32], position: usize) -> Result<(), EngineError> {
    let unusable = |&(_, &logit): &(usize, &f32)| logit.is_nan() || logit == f32::INFINITY;
    match row.iter().enumerate().find(unusable) {
        None => Ok(()),
        Some((token, &value)) => Err(non_finite_logit(token, position, value)),
    }
}

fn check_hidden(row: &[f32], position: usize) -> Result<(), EngineError> {
    match row.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(index) => Err(EngineError::NonFinite {
            what: "hidden value",
            index,
            position,
            value: row[index],
            operators: Vec::new(),
        }),
    }
}

/// Divides by the Euclidean length; a zero vector stays as it is.
fn normalize_l2(vector: &mut [f32]) {
    let square: f64 = vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    if square > 0.0 {
        let length = square.sqrt();
        vector
            .iter_mut()
            .for_each(|x| *x = (f64::from(*x) / length) as f32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two tokens; at each position the next one has logit ln 3 against 0, so its NLL is ln(4/3).
    fn score(tokens: &[u32], window: usize, chunk: usize) -> ScoreOutput {
        let (mut score, mut current) = Score::new(tokens, window);
        loop {
            let mut position = 0;
            loop {
                let count = chunk.min(current.len() - position);
                let data: Vec<f32> = (position..position + count)
                    .flat_map(|p| {
                        let next = current.get(p + 1).copied().unwrap_or(0);
                        [0, 1].map(|id| if id == next { 3f32.ln() } else { 0.0 })
                    })
                    .collect();
                let rows = Rows {
                    first: 0,
                    count,
                    position,
                };
                match score.take(&current, MatRef::from_slice(&data, 2), rows) {
                    Progress::More => position += count,
                    Progress::Restart(next) => {
                        current = next;
                        break;
                    }
                    Progress::Done => return score.output,
                    Progress::Failed(error) => panic!("{error}"),
                }
            }
        }
    }

    #[test]
    fn every_token_of_a_window_but_its_first_is_scored() {
        let tokens = [0, 1, 1, 0, 1, 0, 0, 1, 1, 1, 0];
        for (window, scored) in [(11, 10), (4, 3 + 3 + 2), (5, 4 + 4), (2, 5)] {
            for chunk in [1, 3, 100] {
                let got = score(&tokens, window, chunk);
                assert_eq!(got.tokens, scored, "window {window}, chunk {chunk}");
                assert!((got.mean_nll() - (4f64 / 3.0).ln()).abs() < 1e-7);
                assert!((got.perplexity() - 4.0 / 3.0).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn rows_that_come_again_are_counted_once() {
        let tokens = vec![0, 0, 0, 0];
        let (mut score, first) = Score::new(&tokens, 4);
        assert_eq!(first, tokens);
        let data = [0.0; 8];
        let logits = MatRef::from_slice(&data, 2);
        assert!(matches!(
            score.take(
                &tokens,
                logits,
                Rows {
                    first: 0,
                    count: 2,
                    position: 0
                }
            ),
            Progress::More
        ));
        // Pre-empted: it begins at the start again.
        assert!(matches!(
            score.take(
                &tokens,
                logits,
                Rows {
                    first: 0,
                    count: 4,
                    position: 0
                }
            ),
            Progress::Done
        ));
        assert_eq!(score.output.tokens, 3);
    }

    #[test]
    fn embeddings_are_normalised_to_length_one() {
        let mut v = vec![3.0, 4.0];
        normalize_l2(&mut v);
        assert_eq!(v, [0.6, 0.8]);
        let mut zero = vec![0.0; 2];
        normalize_l2(&mut zero);
        assert_eq!(zero, [0.0; 2]);
    }
}
