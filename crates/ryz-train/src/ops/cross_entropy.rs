//! Softmax cross-entropy over the tied head: loss and both gradients, a chunk of rows at a time.
//!
//! The (tokens, vocabulary) logits never exist as a whole: a chunk is multiplied, normalised, turned into its own
//! gradient in place and multiplied back while it is in cache.

use super::matmul::{Out, View, a_b, a_bt, at_b};
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

/// Where the gradients go, and their common factor.
pub(crate) struct HeadGradients<'a> {
    pub factor: f32,
    /// (n, d): overwritten.
    pub dhidden: &'a mut [f32],
    /// (vocabulary, d): added to.
    pub dembedding: &'a mut [f32],
}

/// Sum over rows of −ln p(target), in nats; with `gradients`, also `factor` times its gradients.
pub(crate) fn loss(head: Head<'_>, mut gradients: Option<HeadGradients<'_>>) -> f64 {
    let d = head.width;
    let vocabulary = head.embedding.len() / d;
    let table = View::new(head.embedding, vocabulary, d);
    let mut total = 0.0;
    for (chunk, (hidden, targets)) in head
        .hidden
        .chunks(CHUNK * d)
        .zip(head.targets.chunks(CHUNK))
        .enumerate()
    {
        let rows = targets.len();
        let logits = &mut head.logits[..rows * vocabulary];
        let hidden = View::new(hidden, rows, d);
        a_bt(Out::set(logits, vocabulary), hidden, table);
        let factor = gradients.as_ref().map(|g| g.factor);
        total += vectorised(
            #[inline(always)]
            || loss_rows(logits, targets, vocabulary, factor),
        );
        if let Some(gradients) = &mut gradients {
            let dlogits = View::new(logits, rows, vocabulary);
            let dhidden = &mut gradients.dhidden[chunk * CHUNK * d..][..rows * d];
            a_b(Out::set(dhidden, d), dlogits, table);
            at_b(Out::add(gradients.dembedding, d), dlogits, hidden);
        }
    }
    total
}

/// Loss of some rows; with a factor the logits become their own gradient.
#[inline(always)]
fn loss_rows(logits: &mut [f32], targets: &[u32], vocabulary: usize, factor: Option<f32>) -> f64 {
    let mut total = 0.0;
    for (row, &target) in logits.chunks_exact_mut(vocabulary).zip(targets) {
        let max = max1(row, f32::NEG_INFINITY, |x| x);
        let wanted = row[target as usize];
        for x in row.iter_mut() {
            *x = exp(*x - max);
        }
        let sum = sum2(row, row, |x, _| x);
        total += f64::from(max) + f64::from(sum).ln() - f64::from(wanted);
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
                gradients,
            )
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
        // The loss is a sum of hundreds: take off its value so that f32 keeps the difference.
        check("hidden", &hidden, &dhidden, &dy, |h| {
            vec![(run(h, &embedding, None) - with) as f32]
        });
        check("embedding", &embedding, &dembedding, &dy, |e| {
            vec![(run(&hidden, e, None) - with) as f32]
        });
    }
}
