//! Weights in which a wanted fraction of the gates is positive.
//!
//! Random gates are positive half of the time. Here 64 channels of the residual stream hold the same positive number b for
//! every token: the embeddings begin with it, and the rows of `attn_output` and `ffn_down` that would write there are 0. The
//! norms of attention and head give these channels weight 0, that of the feed-forward block a weight w; there all gates have
//! the same weight −1 (or +1). So every gate's sum over the other n − 64 channels, about Gaussian with
//! deviation σ·√(2/3·(n − 64)), is moved by −64·w·b (both over the norm's divisor, which cancels), and
//!
//! ```text
//! P(gate > 0) = active  ⇔  w = z·σ·√(2/3·(n − 64)) / (64·b),  Φ(z) = 1 − active
//! ```
//!
//! σ² is the variance of the other channels: that of the embeddings, and 1 for each attention and feed-forward block before,
//! since their inputs are normed and their matrices have unit gain.

use ryz_format::{DType, decode::decode_row};

/// Channels of the residual stream that hold the constant.
pub const CHANNELS: usize = 64;

/// How the gates are moved.
pub struct Gates {
    /// The fraction of positive gates.
    active: f64,
    hidden: usize,
    /// b, as the embeddings' type holds it.
    constant: f64,
    /// The variance of the embeddings' other channels.
    variance: f64,
}

impl Gates {
    /// Puts the constant into the embeddings, and measures what they hold.
    pub fn new(
        active: f64,
        hidden: usize,
        dtype: DType,
        embeddings: &mut [u8],
    ) -> Result<Gates, String> {
        if !(0.01..=0.99).contains(&active) {
            return Err(format!("--active {active} is not between 0.01 and 0.99"));
        }
        let row_bytes = dtype
            .row_bytes(hidden)
            .ok_or("embeddings of broken blocks")?;
        for row in embeddings.chunks_exact_mut(row_bytes) {
            begin_with_constant(dtype, row)?;
        }
        let mut row = vec![0.0; hidden];
        decode_row(dtype, &embeddings[..row_bytes], &mut row);
        let (constants, others) = row.split_at(CHANNELS);
        assert!(
            constants.iter().all(|&b| b == constants[0] && b > 0.0),
            "{dtype} holds another constant in some channels"
        );
        let squares: f64 = others.iter().map(|&x| f64::from(x).powi(2)).sum();
        Ok(Gates {
            active,
            hidden,
            constant: constants[0].into(),
            variance: squares / others.len() as f64,
        })
    }

    /// The weights of a norm, if it reads the residual stream.
    pub fn norm(&self, name: &str, layer: usize) -> Option<Vec<f32>> {
        let weight = match name {
            "attn_norm" | "output_norm" => 0.0,
            "ffn_norm" => {
                let others = (self.hidden - CHANNELS) as f64;
                let deviation = (self.variance + 2.0 * layer as f64 + 1.0).sqrt();
                let shift = quantile(1.0 - self.active).abs() * deviation;
                shift * (others * 2.0 / 3.0).sqrt() / (CHANNELS as f64 * self.constant)
            }
            _ => return None,
        };
        let mut norm = vec![1.0; self.hidden];
        norm[..CHANNELS].fill(weight as f32);
        Some(norm)
    }

    /// Changes the codes of the matrices that write the constant's channels, or read them to open gates.
    pub fn codes(&self, name: &str, codes: &mut [u8]) {
        match name {
            "attn_output" | "ffn_down" => {
                let cols = codes.len() / self.hidden;
                codes[..CHANNELS * cols].fill(1);
            }
            "ffn_gate" => {
                let code = if self.active < 0.5 { 0 } else { 2 };
                for row in codes.chunks_exact_mut(self.hidden) {
                    row[..CHANNELS].fill(code);
                }
            }
            _ => {}
        }
    }
}

/// Sets the first 64 values of a row to the greatest number that the block's step allows.
fn begin_with_constant(dtype: DType, row: &mut [u8]) -> Result<(), String> {
    match dtype {
        // Two sub-blocks of 32, the low and the high nibbles of 32 bytes; their 6-bit scales are 63, their minima 0.
        DType::Q4K => {
            row[16..48].fill(0xFF);
            for sub in 0..2 {
                row[4 + sub] |= 63;
                row[8 + sub] &= !63;
            }
        }
        // The low nibbles of 64 bytes, the low four bits of 32, and four scales.
        DType::Q6K => {
            row[..64].iter_mut().for_each(|byte| *byte |= 0x0F);
            row[128..160].iter_mut().for_each(|byte| *byte |= 0x0F);
            row[192..196].fill(127);
        }
        _ => {
            return Err(format!(
                "--active needs a head of Q4_K or Q6_K, not {dtype}"
            ));
        }
    }
    Ok(())
}

/// z with Φ(z) = p, by bisection: a few dozen evaluations.
fn quantile(p: f64) -> f64 {
    let (mut low, mut high) = (-8.0, 8.0);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if normal(middle) < p {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

/// Φ(z), by Simpson's rule from 0.
fn normal(z: f64) -> f64 {
    const STEPS: u32 = 400;
    let width = z / f64::from(STEPS);
    let density = |x: f64| (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let inner: f64 = (1..STEPS)
        .map(|i| (2 + 2 * (i % 2)) as f64 * density(f64::from(i) * width))
        .sum();
    0.5 + (density(0.0) + inner + density(z)) * width / 3.0
}
