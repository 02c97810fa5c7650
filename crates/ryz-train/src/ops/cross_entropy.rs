//! Softmax cross-entropy over the tied head, with or without a teacher: loss and both gradients, a
//! chunk of rows at a time.
//!
//! The (tokens, vocabulary) logits are never stored as a whole: a chunk is multiplied, normalized,
//! replaced by its own gradient in place and multiplied back while it is cached.

use super::matmul::{ProductOutput, View, a_b, a_bt, at_b};
use crate::simd::{exp, max1, sum2, vectorised};

/// Rows of logits held at once.
pub(crate) const CHUNK: usize = 256;

/// Loss of `hidden` (n, d) against `targets` (n) under the head `embedding` (vocabulary, d).
pub(crate) struct Head<'a> {
    pub hidden: &'a [f32],
    pub targets: &'a [u32],
    pub embedding: &'a [f32],
    pub width: usize,
    /// At least `CHUNK.min(n) · vocabulary` floats.
    pub logits: &'a mut [f32],
}

/// The outputs for the gradients, and their common factor.
pub(crate) struct HeadGradients<'a> {
    pub factor: f32,
    /// (n, d): overwritten.
    pub dhidden: &'a mut [f32],
    /// (vocabulary, d): added to.
    pub dembedding: &'a mut [f32],
}

/// A teacher's final hidden states over the same tokens.
pub(crate) struct Teacher<'a> {
    /// (n, width)
    pub hidden: &'a [f32],
    /// (vocabulary, width)
    pub embedding: &'a [f32],
    pub width: usize,
    /// At least `CHUNK.min(n) · vocabulary` floats.
    pub logits: &'a mut [f32],
    pub temperature: f32,
    /// Weight of the divergence in the loss.
    pub weight: f32,
}

/// Sums over rows.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Loss {
    /// Of −ln p(target), in nats.
    pub likelihood: f64,
    /// Of T²·KL(teacher ‖ student), in nats.
    pub divergence: f64,
}

impl std::ops::AddAssign for Loss {
    fn add_assign(&mut self, other: Self) {
        self.likelihood += other.likelihood;
        self.divergence += other.divergence;
    }
}

/// The loss; with `gradients`, also `factor` times the gradient of
/// `(1 − weight)·likelihood + weight·divergence` (of the likelihood alone without a teacher).
pub(crate) fn loss(
    head: Head<'_>,
    mut teacher: Option<Teacher<'_>>,
    mut gradients: Option<HeadGradients<'_>>,
) -> Loss {
    let d = head.width;
    let vocabulary = head.embedding.len() / d;
    let table = View::new(head.embedding, vocabulary, d);
    let mut total = Loss::default();
    for (chunk, (hidden, targets)) in head
        .hidden
        .chunks(CHUNK * d)
        .zip(head.targets.chunks(CHUNK))
        .enumerate()
    {
        let rows = targets.len();
        let logits = &mut head.logits[..rows * vocabulary];
        let hidden = View::new(hidden, rows, d);
        a_bt(ProductOutput::set(logits, vocabulary), hidden, table);
        let factor = gradients.as_ref().map(|g| g.factor);
        total += match &mut teacher {
            None => vectorised(
                #[inline(always)]
                || loss_rows(logits, targets, vocabulary, factor),
            ),
            Some(teacher) => {
                let width = teacher.width;
                let taught = &mut teacher.logits[..rows * vocabulary];
                let hidden = &teacher.hidden[chunk * CHUNK * width..][..rows * width];
                a_bt(
                    ProductOutput::set(taught, vocabulary),
                    View::new(hidden, rows, width),
                    View::new(teacher.embedding, vocabulary, width),
                );
                let mix = Mix {
                    temperature: teacher.temperature,
                    weight: teacher.weight,
                    factor,
                };
                vectorised(
                    #[inline(always)]
                    || mixed_rows(logits, taught, targets, vocabulary, mix),
                )
            }
        };
        if let Some(gradients) = &mut gradients {
            let dlogits = View::new(logits, rows, vocabulary);
            let dhidden = &mut gradients.dhidden[chunk * CHUNK * d..][..rows * d];
            a_b(ProductOutput::set(dhidden, d), dlogits, table);
            at_b(ProductOutput::add(gradients.dembedding, d), dlogits, hidden);
        }
    }
    total
}

/// Loss of some rows; given a factor, replaces the logits by their gradient.
#[inline(always)]
fn loss_rows(logits: &mut [f32], targets: &[u32], vocabulary: usize, factor: Option<f32>) -> Loss {
    let mut total = Loss::default();
    for (row, &target) in logits.chunks_exact_mut(vocabulary).zip(targets) {
        let max = max1(row, f32::NEG_INFINITY, |x| x);
        let wanted = row[target as usize];
        for x in row.iter_mut() {
            *x = exp(*x - max);
        }
        let sum = sum2(row, row, |x, _| x);
        total.likelihood += f64::from(max) + f64::from(sum).ln() - f64::from(wanted);
        if let Some(factor) = factor {
            let inverse = factor / sum;
            for x in row.iter_mut() {
                *x *= inverse;
            }
            row[target as usize] -= factor;
        }
    }
    total
}

/// The weights of likelihood and divergence.
#[derive(Clone, Copy)]
struct Mix {
    temperature: f32,
    weight: f32,
    factor: Option<f32>,
}

/// As [`loss_rows`], with a teacher's logits. With p, q the softmax of student and teacher, and z/T
/// their logits at the temperature: `T²·KL(q ‖ p) = T²·Σ q·(ln q − ln p)`, whose gradient with
/// respect to the student's z is `T·(p − q)` (Hinton, Vinyals, Dean, "Distilling the knowledge in a
/// neural network", 2015).
#[inline(always)]
fn mixed_rows(
    logits: &mut [f32],
    taught: &[f32],
    targets: &[u32],
    vocabulary: usize,
    mix: Mix,
) -> Loss {
    let cool = 1.0 / mix.temperature;
    let square = f64::from(mix.temperature).powi(2);
    let mut total = Loss::default();
    let rows = logits
        .chunks_exact_mut(vocabulary)
        .zip(taught.chunks_exact(vocabulary));
    for ((row, taught), &target) in rows.zip(targets) {
        let max = max1(row, f32::NEG_INFINITY, |x| x);
        let most = max1(taught, f32::NEG_INFINITY, |x| x);
        let sum = sum2(row, row, |z, _| exp(z - max));
        let own = sum2(row, row, |z, _| exp((z - max) * cool));
        let theirs = sum2(taught, taught, |t, _| exp((t - most) * cool));
        let dot = sum2(taught, row, |t, z| {
            exp((t - most) * cool) * ((t - most) - (z - max)) * cool
        });
        let wanted = row[target as usize];
        total.likelihood += f64::from(max) + f64::from(sum).ln() - f64::from(wanted);
        total.divergence += square
            * (f64::from(dot) / f64::from(theirs) - f64::from(theirs).ln() + f64::from(own).ln());
        if let Some(factor) = mix.factor {
            let text = factor * (1.0 - mix.weight);
            let pull = factor * mix.weight * mix.temperature;
            let (a, b, c) = (text / sum, pull / own, pull / theirs);
            for (z, t) in row.iter_mut().zip(taught) {
                let x = *z - max;
                *z = a * exp(x) + b * exp(x * cool) - c * exp((t - most) * cool);
            }
            row[target as usize] -= text;
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::gradient_check::{check, noise};

    #[test]
    fn gradients_match_finite_differences() {
        let (n, d, vocabulary) = (300, 8, 30);
        let targets: Vec<u32> = (0..n as u32).map(|i| i * 7 % vocabulary as u32).collect();
        let (hidden, embedding) = (noise(1, n * d), noise(2, vocabulary * d));
        let run = |hidden: &[f32], embedding: &[f32], gradients: Option<HeadGradients<'_>>| {
            let mut logits = vec![0.0; CHUNK * vocabulary];
            loss(
                Head {
                    hidden,
                    targets: &targets,
                    embedding,
                    width: d,
                    logits: &mut logits,
                },
                None,
                gradients,
            )
            .likelihood
        };
        let (mut dhidden, mut dembedding) = (vec![0.0; n * d], vec![0.0; vocabulary * d]);
        let gradients = HeadGradients {
            factor: 1.0,
            dhidden: &mut dhidden,
            dembedding: &mut dembedding,
        };
        let with = run(&hidden, &embedding, Some(gradients));
        assert_eq!(with, run(&hidden, &embedding, None));
        let dy = [1.0];
        // The loss is a sum in the hundreds: subtract its value so that f32 keeps the difference.
        check("hidden", &hidden, &dhidden, &dy, |h| {
            vec![(run(h, &embedding, None) - with) as f32]
        });
        check("embedding", &embedding, &dembedding, &dy, |e| {
            vec![(run(&hidden, e, None) - with) as f32]
        });
    }

    #[test]
    fn gradients_with_a_teacher_match_finite_differences() {
        let (n, d, vocabulary, width) = (270, 8, 30, 12);
        let targets: Vec<u32> = (0..n as u32).map(|i| i * 7 % vocabulary as u32).collect();
        let (hidden, embedding) = (noise(1, n * d), noise(2, vocabulary * d));
        let (taught, table) = (noise(3, n * width), noise(4, vocabulary * width));
        for (temperature, weight) in [(1.0, 1.0), (2.0, 0.5), (3.0, 0.0), (0.7, 0.9)] {
            let run = |hidden: &[f32], embedding: &[f32], out: Option<HeadGradients<'_>>| {
                let (mut logits, mut theirs) =
                    (vec![0.0; CHUNK * vocabulary], vec![0.0; CHUNK * vocabulary]);
                let head = Head {
                    hidden,
                    targets: &targets,
                    embedding,
                    width: d,
                    logits: &mut logits,
                };
                let teacher = Teacher {
                    hidden: &taught,
                    embedding: &table,
                    width,
                    logits: &mut theirs,
                    temperature,
                    weight,
                };
                let loss = loss(head, Some(teacher), out);
                f64::from(1.0 - weight) * loss.likelihood + f64::from(weight) * loss.divergence
            };
            let (mut dhidden, mut dembedding) = (vec![0.0; n * d], vec![0.0; vocabulary * d]);
            let gradients = HeadGradients {
                factor: 1.0,
                dhidden: &mut dhidden,
                dembedding: &mut dembedding,
            };
            let with = run(&hidden, &embedding, Some(gradients));
            let dy = [1.0];
            check("hidden", &hidden, &dhidden, &dy, |h| {
                vec![(run(h, &embedding, None) - with) as f32]
            });
            check("embedding", &embedding, &dembedding, &dy, |e| {
                vec![(run(&hidden, e, None) - with) as f32]
            });
        }
    }

    /// The divergence is never negative, and 0 between identical models.
    #[test]
    fn nobody_diverges_from_themselves() {
        let (n, d, vocabulary) = (20, 8, 30);
        let targets = vec![3; n];
        let (hidden, other, embedding) =
            (noise(1, n * d), noise(5, n * d), noise(2, vocabulary * d));
        let divergence = |from: &[f32]| {
            let (mut logits, mut theirs) = (vec![0.0; n * vocabulary], vec![0.0; n * vocabulary]);
            let head = Head {
                hidden: &hidden,
                targets: &targets,
                embedding: &embedding,
                width: d,
                logits: &mut logits,
            };
            let teacher = Teacher {
                hidden: from,
                embedding: &embedding,
                width: d,
                logits: &mut theirs,
                temperature: 2.0,
                weight: 0.5,
            };
            loss(head, Some(teacher), None).divergence
        };
        // Sums of 30 terms in f32: an error of a few 1e-6 per row, times T² and 20 rows.
        assert!(divergence(&hidden).abs() < 1e-3);
        assert!(divergence(&other) > 0.1);
    }
}
