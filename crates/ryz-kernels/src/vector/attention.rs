//! Attention of a few query heads over one block of 16 cached positions, and the 4-bit form of a block.
//!
//! For every query, with m the running maximum, l the running sum and a the running output (online softmax, Milakov and
//! Gimelshein, arXiv 1805.02867): `s_t = scale · q·k_t`, `m' = max(m, s)`, `l' = l·exp(m − m') + Σ_t exp(s_t − m')`,
//! `a' = a·exp(m − m') + Σ_t exp(s_t − m')·v_t`. What is stored is widened in registers, once for all queries.

use half::f16;

use super::{
    four_bits::{Int4Block, mix_u4, scores_u4},
    generic::{map16, max as greatest},
};
use crate::{
    math,
    simd::{LANES, Simd, padded},
};

/// Positions of a block.
pub const BLOCK: usize = 16;
/// Most queries that share one pass over a block.
pub const MAX_QUERIES: usize = 8;

const _: () = assert!(BLOCK == LANES, "a position is a lane");

/// Keys and values of one head in one block.
#[derive(Clone, Copy, Debug)]
pub enum KvBlock<'a> {
    /// Rows of keys and of values, some floats apart.
    F32 {
        /// A row begins every `key_stride`.
        keys: &'a [f32],
        /// Floats from one key to the next.
        key_stride: usize,
        /// A row begins every `value_stride`.
        values: &'a [f32],
        /// Floats from one value to the next.
        value_stride: usize,
    },
    /// Rows one after another.
    F16 {
        /// (16, key_dim)
        keys: &'a [f16],
        /// (16, value_dim)
        values: &'a [f16],
    },
    /// Rows one after another, with a scale each.
    Int8 {
        /// (16, key_dim)
        keys: &'a [i8],
        /// (16)
        key_scales: &'a [f32],
        /// (16, value_dim)
        values: &'a [i8],
        /// (16)
        value_scales: &'a [f32],
    },
    /// A whole block in four bits.
    Int4(Int4Block<'a>),
}

/// What a query has seen of the softmax so far.
#[derive(Clone, Copy, Debug)]
pub struct RunningSoftmax {
    maximum: f32,
    sum: f32,
}

impl Default for RunningSoftmax {
    fn default() -> Self {
        Self {
            maximum: f32::NEG_INFINITY,
            sum: 0.0,
        }
    }
}

impl RunningSoftmax {
    /// Which part of the sum over `whole` came after `before` and up to this, both on the way to it: 0 to 1.
    pub fn share(&self, before: &Self, whole: &Self) -> f32 {
        let scaled = |at: &Self| match at.sum > 0.0 {
            true => at.sum * math::exp(at.maximum - whole.maximum),
            false => 0.0,
        };
        ((scaled(self) - scaled(before)) / whole.sum).clamp(0.0, 1.0)
    }
}

type Scores = [[f32; LANES]; MAX_QUERIES];

/// Adds `positions` of a block to the attention of some queries. `queries` and `out` have a row for each of `running`.
#[inline(always)]
pub(crate) fn attend_block<S: Simd>(
    s: S,
    block: &KvBlock<'_>,
    positions: usize,
    queries: &[f32],
    scale: f32,
    running: &mut [RunningSoftmax],
    out: &mut [f32],
) {
    let count = running.len();
    assert!(
        (1..=MAX_QUERIES).contains(&count) && (1..=BLOCK).contains(&positions),
        "{count} queries over {positions} positions"
    );
    let (key_dim, value_dim) = (queries.len() / count, out.len() / count);
    assert!(
        key_dim * count == queries.len() && value_dim * count == out.len(),
        "rows of queries and outputs"
    );
    let mut scores: Scores = [[f32::NEG_INFINITY; LANES]; MAX_QUERIES];
    let mut start = 0;
    while start < count {
        let tile = (count - start).min(4);
        let queries = &queries[start * key_dim..(start + tile) * key_dim];
        let scores = &mut scores[start..start + tile];
        match tile {
            4 => scores_of::<S, 4>(s, block, positions, queries, key_dim, scores),
            3 => scores_of::<S, 3>(s, block, positions, queries, key_dim, scores),
            2 => scores_of::<S, 2>(s, block, positions, queries, key_dim, scores),
            _ => scores_of::<S, 1>(s, block, positions, queries, key_dim, scores),
        }
        start += tile;
    }
    let rows = scores.iter_mut().zip(running.iter_mut());
    for ((scores, running), out) in rows.zip(out.chunks_exact_mut(value_dim)) {
        let factors = match *block {
            KvBlock::Int8 { key_scales, .. } => {
                let scales: &[f32; LANES] = key_scales.try_into().expect("a scale a position");
                s.mul(s.load(scales), s.splat(scale))
            }
            _ => s.splat(scale),
        };
        let mut scaled = [0.0; LANES];
        s.store(s.mul(s.load(scores), factors), &mut scaled);
        scaled[positions..].fill(f32::NEG_INFINITY);
        let maximum = greatest(s, &scaled);
        if maximum > running.maximum {
            if running.sum > 0.0 {
                let correction = math::exp(running.maximum - maximum);
                running.sum *= correction;
                super::generic::scale(s, correction, out);
            }
            running.maximum = maximum;
        }
        let maximum = running.maximum;
        map16(&mut scaled, |x| math::exp(x - maximum));
        running.sum += s.sum(s.load(&scaled));
        *scores = scaled;
    }
    let mut start = 0;
    while start < count {
        let tile = (count - start).min(4);
        let out = &mut out[start * value_dim..(start + tile) * value_dim];
        let weights = &scores[start..start + tile];
        match tile {
            4 => mix::<S, 4>(s, block, positions, weights, value_dim, out),
            3 => mix::<S, 3>(s, block, positions, weights, value_dim, out),
            2 => mix::<S, 2>(s, block, positions, weights, value_dim, out),
            _ => mix::<S, 1>(s, block, positions, weights, value_dim, out),
        }
        start += tile;
    }
}

/// out = a / l.
#[inline(always)]
pub(crate) fn attend_end<S: Simd>(s: S, running: &[RunningSoftmax], out: &mut [f32]) {
    let value_dim = out.len() / running.len();
    for (running, out) in running.iter().zip(out.chunks_exact_mut(value_dim)) {
        super::generic::scale(s, 1.0 / running.sum, out);
    }
}

/// q·k of `N` queries with every position; int8 without its scales.
#[inline(always)]
fn scores_of<S: Simd, const N: usize>(
    s: S,
    block: &KvBlock<'_>,
    positions: usize,
    queries: &[f32],
    dim: usize,
    scores: &mut [[f32; LANES]],
) {
    match *block {
        KvBlock::F32 {
            keys, key_stride, ..
        } => dots::<S, N, f32>(
            s,
            keys,
            key_stride,
            positions,
            queries,
            dim,
            scores,
            0.0,
            |k| s.load(k),
        ),
        KvBlock::F16 { keys, .. } => dots::<S, N, u16>(
            s,
            bytemuck::cast_slice(keys),
            dim,
            positions,
            queries,
            dim,
            scores,
            0,
            |k| s.load_f16(k),
        ),
        KvBlock::Int8 { keys, .. } => {
            dots::<S, N, i8>(s, keys, dim, positions, queries, dim, scores, 0, |k| {
                s.load_i8(k)
            });
        }
        KvBlock::Int4(ref block) => scores_u4::<S, N>(s, block, queries, dim, scores),
    }
}

#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "one loop for every stored type")]
fn dots<S: Simd, const N: usize, T: Copy>(
    s: S,
    keys: &[T],
    stride: usize,
    positions: usize,
    queries: &[f32],
    dim: usize,
    scores: &mut [[f32; LANES]],
    zero: T,
    load: impl Fn(&[T; LANES]) -> S::F,
) {
    // As many sums at a time as registers hold: one alone waits for its own additions.
    let mut position = 0;
    let together = match (S::WIDE, N) {
        (true, 1 | 2) | (false, 1) => 4,
        (true, _) | (false, 2) => 2,
        (false, _) => 1,
    };
    while position < positions {
        let keys = &keys[position * stride..];
        let rest = positions - position;
        position += if together == 4 && rest >= 4 {
            dots_together::<S, N, 4, T>(
                s, keys, stride, queries, dim, scores, position, zero, &load,
            )
        } else if together >= 2 && rest >= 2 {
            dots_together::<S, N, 2, T>(
                s, keys, stride, queries, dim, scores, position, zero, &load,
            )
        } else {
            dots_together::<S, N, 1, T>(
                s, keys, stride, queries, dim, scores, position, zero, &load,
            )
        };
    }
}

/// The products of `P` keys, the first of which is that of `position`; how many they are.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "one loop for every stored type")]
fn dots_together<S: Simd, const N: usize, const P: usize, T: Copy>(
    s: S,
    keys: &[T],
    stride: usize,
    queries: &[f32],
    dim: usize,
    scores: &mut [[f32; LANES]],
    position: usize,
    zero: T,
    load: &impl Fn(&[T; LANES]) -> S::F,
) -> usize {
    let whole = dim / LANES;
    let mut rows = [&[][..]; P];
    for p in 0..P {
        rows[p] = &keys[p * stride..][..dim].as_chunks::<LANES>().0[..whole];
    }
    let mut asked = [&[][..]; N];
    for n in 0..N {
        asked[n] = &queries[n * dim..][..dim].as_chunks::<LANES>().0[..whole];
    }
    let mut sums = [[s.splat(0.0); N]; P];
    for index in 0..whole {
        for p in 0..P {
            let key = load(&rows[p][index]);
            for n in 0..N {
                sums[p][n] = s.fma(s.load(&asked[n][index]), key, sums[p][n]);
            }
        }
    }
    if whole * LANES < dim {
        for p in 0..P {
            let tail = &keys[p * stride + whole * LANES..p * stride + dim];
            let key = load(&padded(tail, zero));
            for n in 0..N {
                let query = padded(&queries[n * dim + whole * LANES..(n + 1) * dim], 0.0);
                sums[p][n] = s.fma(s.load(&query), key, sums[p][n]);
            }
        }
    }
    for p in 0..P {
        for n in 0..N {
            scores[n][position + p] = s.sum(sums[p][n]);
        }
    }
    P
}

/// out += Σ_t weight_t · v_t for `N` queries.
#[inline(always)]
fn mix<S: Simd, const N: usize>(
    s: S,
    block: &KvBlock<'_>,
    positions: usize,
    weights: &[[f32; LANES]],
    dim: usize,
    out: &mut [f32],
) {
    match *block {
        KvBlock::F32 {
            values,
            value_stride,
            ..
        } => rows::<S, N, f32>(
            s,
            values,
            value_stride,
            positions,
            weights,
            dim,
            out,
            0.0,
            |v| s.load(v),
        ),
        KvBlock::F16 { values, .. } => rows::<S, N, u16>(
            s,
            bytemuck::cast_slice(values),
            dim,
            positions,
            weights,
            dim,
            out,
            0,
            |v| s.load_f16(v),
        ),
        KvBlock::Int8 {
            values,
            value_scales,
            ..
        } => {
            let scales: &[f32; LANES] = value_scales.try_into().expect("a scale a position");
            let mut scaled = [[0.0; LANES]; N];
            for n in 0..N {
                s.store(s.mul(s.load(&weights[n]), s.load(scales)), &mut scaled[n]);
            }
            rows::<S, N, i8>(s, values, dim, positions, &scaled, dim, out, 0, |v| {
                s.load_i8(v)
            });
        }
        KvBlock::Int4(ref block) => mix_u4::<S, N>(s, block, weights, dim, out),
    }
}

#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "one loop for every stored type")]
fn rows<S: Simd, const N: usize, T: Copy>(
    s: S,
    values: &[T],
    stride: usize,
    positions: usize,
    weights: &[[f32; LANES]],
    dim: usize,
    out: &mut [f32],
    zero: T,
    load: impl Fn(&[T; LANES]) -> S::F,
) {
    let mut start = 0;
    let whole = dim / LANES * LANES;
    let together = match (S::WIDE, N) {
        (true, 1 | 2) | (false, 1) => 4,
        (true, _) | (false, 2) => 2,
        (false, _) => 1,
    };
    while start < whole {
        let rest = (whole - start) / LANES;
        start += LANES
            * if together == 4 && rest >= 4 {
                strips::<S, N, 4, T>(
                    s, values, stride, positions, weights, dim, out, start, &load,
                )
            } else if together >= 2 && rest >= 2 {
                strips::<S, N, 2, T>(
                    s, values, stride, positions, weights, dim, out, start, &load,
                )
            } else {
                strips::<S, N, 1, T>(
                    s, values, stride, positions, weights, dim, out, start, &load,
                )
            };
    }
    if whole < dim {
        let mut sums = [s.splat(0.0); N];
        for n in 0..N {
            sums[n] = load_part(s, &out[n * dim + whole..(n + 1) * dim]);
        }
        for position in 0..positions {
            let row = &values[position * stride + whole..position * stride + dim];
            let row = load(&padded(row, zero));
            for n in 0..N {
                sums[n] = s.fma(s.splat(weights[n][position]), row, sums[n]);
            }
        }
        for n in 0..N {
            store_part(s, sums[n], &mut out[n * dim + whole..(n + 1) * dim]);
        }
    }
}

/// Sixteen columns, `C` times, from `start` on; how many times that was.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "one loop for every stored type")]
fn strips<S: Simd, const N: usize, const C: usize, T: Copy>(
    s: S,
    values: &[T],
    stride: usize,
    positions: usize,
    weights: &[[f32; LANES]],
    dim: usize,
    out: &mut [f32],
    start: usize,
    load: &impl Fn(&[T; LANES]) -> S::F,
) -> usize {
    let mut sums = [[s.splat(0.0); C]; N];
    for n in 0..N {
        let out = out[n * dim + start..].as_chunks::<LANES>().0;
        for c in 0..C {
            sums[n][c] = s.load(&out[c]);
        }
    }
    for position in 0..positions.min(LANES) {
        let row = &values[position * stride + start..][..C * LANES];
        let row = row.as_chunks::<LANES>().0;
        for c in 0..C {
            let value = load(&row[c]);
            for n in 0..N {
                sums[n][c] = s.fma(s.splat(weights[n][position]), value, sums[n][c]);
            }
        }
    }
    for n in 0..N {
        let out = out[n * dim + start..].as_chunks_mut::<LANES>().0;
        for c in 0..C {
            s.store(sums[n][c], &mut out[c]);
        }
    }
    C
}

#[inline(always)]
pub(super) fn load_part<S: Simd>(s: S, values: &[f32]) -> S::F {
    match values.first_chunk::<LANES>() {
        Some(values) => s.load(values),
        None => s.load(&padded(values, 0.0)),
    }
}

#[inline(always)]
pub(super) fn store_part<S: Simd>(s: S, vector: S::F, out: &mut [f32]) {
    match out.first_chunk_mut::<LANES>() {
        Some(out) => s.store(vector, out),
        None => {
            let mut lanes = [0.0; LANES];
            s.store(vector, &mut lanes);
            out.copy_from_slice(&lanes[..out.len()]);
        }
    }
}

/// out (count, cols) += weights (count, k) · rows (k, cols), rows in ascending order.
#[inline(always)]
pub(crate) fn mul_add_rows<S: Simd>(
    s: S,
    weights: &[f32],
    rows: &[f32],
    cols: usize,
    out: &mut [f32],
) {
    let (count, k) = (out.len() / cols, rows.len() / cols);
    assert!(
        count * cols == out.len() && k * cols == rows.len() && weights.len() == count * k,
        "lengths of a product"
    );
    let mut start = 0;
    while start < count {
        let tile = (count - start).min(4);
        let weights = &weights[start * k..(start + tile) * k];
        let out = &mut out[start * cols..(start + tile) * cols];
        match tile {
            4 => mul_add_tile::<S, 4>(s, weights, rows, k, cols, out),
            3 => mul_add_tile::<S, 3>(s, weights, rows, k, cols, out),
            2 => mul_add_tile::<S, 2>(s, weights, rows, k, cols, out),
            _ => mul_add_tile::<S, 1>(s, weights, rows, k, cols, out),
        }
        start += tile;
    }
}

#[inline(always)]
fn mul_add_tile<S: Simd, const N: usize>(
    s: S,
    weights: &[f32],
    rows: &[f32],
    k: usize,
    cols: usize,
    out: &mut [f32],
) {
    let mut start = 0;
    while start < cols {
        let width = LANES.min(cols - start);
        let mut sums = [s.splat(0.0); N];
        for n in 0..N {
            sums[n] = load_part(s, &out[n * cols + start..][..width]);
        }
        for (i, row) in rows.chunks_exact(cols).enumerate() {
            let row = load_part(s, &row[start..][..width]);
            for n in 0..N {
                sums[n] = s.fma(s.splat(weights[n * k + i]), row, sums[n]);
            }
        }
        for n in 0..N {
            store_part(s, sums[n], &mut out[n * cols + start..][..width]);
        }
        start += LANES;
    }
}
