//! Rotary position embedding, NeoX halves: element i of a head rotates with element i + d/2.
//!
//! angle = position · theta^(−2i/d). The backward pass rotates by the negative angle.

use crate::simd::vectorised;

/// cos and sin of every (position, pair).
#[derive(Debug)]
pub(crate) struct RopeTable {
    half: usize,
    /// (positions, half)
    cos: Vec<f32>,
    /// (positions, half)
    sin: Vec<f32>,
}

impl RopeTable {
    pub fn new(positions: usize, head_dim: usize, theta: f32) -> Self {
        let half = head_dim / 2;
        let angles = (0..positions * half).map(|i| {
            let (position, pair) = (i / half, i % half);
            position as f64 * f64::from(theta).powf(-2.0 * pair as f64 / head_dim as f64)
        });
        let (cos, sin) = angles.map(|a| (a.cos() as f32, a.sin() as f32)).unzip();
        Self { half, cos, sin }
    }

    /// Rotates the first `heads` heads of each row of `rows` (n, stride) by `direction` (+1
    /// forward, −1 backward).
    ///
    /// Row r is at position r modulo `sequence`.
    pub fn turn(
        &self,
        rows: &mut [f32],
        stride: usize,
        heads: usize,
        sequence: usize,
        direction: f32,
    ) {
        let half = self.half;
        vectorised(
            #[inline(always)]
            || {
                for (r, row) in rows.chunks_exact_mut(stride).enumerate() {
                    let at = (r % sequence) * half;
                    let (cos, sin) = (&self.cos[at..at + half], &self.sin[at..at + half]);
                    for head in row[..heads * 2 * half].chunks_exact_mut(2 * half) {
                        let (low, high) = head.split_at_mut(half);
                        for (((a, b), c), s) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                            let s = s * direction;
                            (*a, *b) = (*a * c - *b * s, *a * s + *b * c);
                        }
                    }
                }
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::gradient_check::{check, noise};

    #[test]
    fn backward_matches_finite_differences() {
        let (n, stride, heads, head_dim) = (6, 40, 2, 16);
        let table = RopeTable::new(3, head_dim, 10000.0);
        let (x, dy) = (noise(1, n * stride), noise(2, n * stride));
        let mut dx = dy.clone();
        table.turn(&mut dx, stride, heads, 3, -1.0);
        check("x", &x, &dx, &dy, |x| {
            let mut y = x.to_vec();
            table.turn(&mut y, stride, heads, 3, 1.0);
            y
        });
    }
}
