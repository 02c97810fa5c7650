//! The vector kernels, written once over sixteen lanes.
//!
//! Reductions accumulate element i in lane i mod 16 in ascending order, the last partial sixteen filled up with zeroes,
//! and add the lanes by the fixed tree of [`Simd::sum`].

use half::f16;

pub(crate) use super::{
    attention::{attend_block, attend_end, mul_add_rows},
    four_bits::{quantize_keys_u4, quantize_values_u4},
};
use crate::{
    activations::{ByteLine, QuantizedLayout, UNIT},
    math,
    simd::{LANES, Simd, padded},
};

#[inline(always)]
fn dot<S: Simd, T: Copy>(
    s: S,
    a: &[f32],
    b: &[T],
    zero: T,
    load: impl Fn(&[T; LANES]) -> S::F,
) -> f32 {
    assert_eq!(a.len(), b.len(), "lengths of a dot product");
    let ((a, a_tail), (b, b_tail)) = (a.as_chunks(), b.as_chunks());
    let mut sum = s.splat(0.0);
    for (a, b) in a.iter().zip(b) {
        sum = s.fma(s.load(a), load(b), sum);
    }
    if !a_tail.is_empty() {
        sum = s.fma(
            s.load(&padded(a_tail, 0.0)),
            load(&padded(b_tail, zero)),
            sum,
        );
    }
    s.sum(sum)
}

#[inline(always)]
pub(crate) fn dot_f32<S: Simd>(s: S, a: &[f32], b: &[f32]) -> f32 {
    dot(s, a, b, 0.0, |b| s.load(b))
}

#[inline(always)]
pub(crate) fn dot_f16<S: Simd>(s: S, a: &[f32], b: &[f16]) -> f32 {
    dot(s, a, bytemuck::cast_slice::<_, u16>(b), 0, |b| {
        s.load_f16(b)
    })
}

#[inline(always)]
pub(crate) fn dot_i8<S: Simd>(s: S, a: &[f32], b: &[i8]) -> f32 {
    dot(s, a, b, 0, |b| s.load_i8(b))
}

#[inline(always)]
fn axpy<S: Simd, T: Copy>(
    s: S,
    weight: f32,
    x: &[T],
    y: &mut [f32],
    zero: T,
    load: impl Fn(&[T; LANES]) -> S::F,
) {
    assert_eq!(x.len(), y.len(), "lengths of a weighted sum");
    let weight = s.splat(weight);
    let ((x, x_tail), (y, y_tail)) = (x.as_chunks(), y.as_chunks_mut());
    for (x, y) in x.iter().zip(y) {
        let sum = s.fma(weight, load(x), s.load(y));
        s.store(sum, y);
    }
    if !x_tail.is_empty() {
        let mut lanes = padded(y_tail, 0.0);
        let sum = s.fma(weight, load(&padded(x_tail, zero)), s.load(&lanes));
        s.store(sum, &mut lanes);
        y_tail.copy_from_slice(&lanes[..y_tail.len()]);
    }
}

#[inline(always)]
pub(crate) fn axpy_f32<S: Simd>(s: S, weight: f32, x: &[f32], y: &mut [f32]) {
    axpy(s, weight, x, y, 0.0, |x| s.load(x));
}

#[inline(always)]
pub(crate) fn axpy_f16<S: Simd>(s: S, weight: f32, x: &[f16], y: &mut [f32]) {
    axpy(s, weight, bytemuck::cast_slice::<_, u16>(x), y, 0, |x| {
        s.load_f16(x)
    });
}

#[inline(always)]
pub(crate) fn axpy_i8<S: Simd>(s: S, weight: f32, x: &[i8], y: &mut [f32]) {
    axpy(s, weight, x, y, 0, |x| s.load_i8(x));
}

/// y[i] = f(x[i], y[i]), sixteen at a time.
#[inline(always)]
fn each<S: Simd>(s: S, x: &[f32], y: &mut [f32], f: impl Fn(S::F, S::F) -> S::F) {
    assert_eq!(x.len(), y.len(), "lengths of an elementwise operation");
    let ((x, x_tail), (y, y_tail)) = (x.as_chunks(), y.as_chunks_mut());
    for (x, y) in x.iter().zip(y) {
        s.store(f(s.load(x), s.load(y)), y);
    }
    if !x_tail.is_empty() {
        let mut lanes = padded(y_tail, 0.0);
        s.store(f(s.load(&padded(x_tail, 0.0)), s.load(&lanes)), &mut lanes);
        y_tail.copy_from_slice(&lanes[..y_tail.len()]);
    }
}

#[inline(always)]
pub(crate) fn add<S: Simd>(s: S, x: &[f32], y: &mut [f32]) {
    each(s, x, y, |x, y| s.add(y, x));
}

#[inline(always)]
pub(crate) fn mul<S: Simd>(s: S, x: &[f32], y: &mut [f32]) {
    each(s, x, y, |x, y| s.mul(y, x));
}

#[inline(always)]
pub(crate) fn scale<S: Simd>(s: S, factor: f32, y: &mut [f32]) {
    let factors = s.splat(factor);
    let (chunks, tail) = y.as_chunks_mut();
    for y in chunks {
        s.store(s.mul(s.load(y), factors), y);
    }
    tail.iter_mut().for_each(|y| *y *= factor);
}

#[inline(always)]
pub(crate) fn max<S: Simd>(_: S, x: &[f32]) -> f32 {
    let greater = |m: f32, x: f32| if x > m { x } else { m };
    let (chunks, tail) = x.as_chunks::<LANES>();
    let mut lanes = padded(tail, f32::NEG_INFINITY);
    for x in chunks {
        for (lane, &x) in lanes.iter_mut().zip(x) {
            *lane = greater(*lane, x);
        }
    }
    lanes.into_iter().fold(f32::NEG_INFINITY, greater)
}

/// The elementwise loop of `f`, which the compiler vectorises for the wrapper's features.
#[inline(always)]
pub(crate) fn map16(lanes: &mut [f32; LANES], f: impl Fn(f32) -> f32) {
    for lane in lanes {
        *lane = f(*lane);
    }
}

#[inline(always)]
pub(crate) fn exp_sum<S: Simd>(s: S, x: &mut [f32], maximum: f32) -> f32 {
    let mut sum = s.splat(0.0);
    let (chunks, tail) = x.as_chunks_mut();
    for x in chunks {
        map16(x, |x| math::exp(x - maximum));
        sum = s.add(sum, s.load(x));
    }
    if !tail.is_empty() {
        tail.iter_mut().for_each(|x| *x = math::exp(*x - maximum));
        sum = s.add(sum, s.load(&padded(tail, 0.0)));
    }
    s.sum(sum)
}

#[inline(always)]
pub(crate) fn silu_mul<S: Simd>(s: S, up: &[f32], gate: &mut [f32]) {
    let (chunks, tail) = gate.as_chunks_mut();
    for gate in chunks {
        map16(gate, math::silu);
    }
    tail.iter_mut().for_each(|g| *g = math::silu(*g));
    mul(s, up, gate);
}

#[inline(always)]
pub(crate) fn relu2_mul<S: Simd>(s: S, up: &[f32], gate: &mut [f32]) {
    let (chunks, tail) = gate.as_chunks_mut();
    for gate in chunks {
        map16(gate, math::relu2);
    }
    tail.iter_mut().for_each(|g| *g = math::relu2(*g));
    mul(s, up, gate);
}

/// 1 / √(mean(x²) + eps).
#[inline(always)]
fn inverse_rms<S: Simd>(s: S, x: &[f32], eps: f32) -> f32 {
    1.0 / (dot_f32(s, x, x) / x.len() as f32 + eps).sqrt()
}

#[inline(always)]
pub(crate) fn rms_norm<S: Simd>(s: S, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "length of a norm's output");
    out.copy_from_slice(x);
    rms_norm_in_place(s, out, weight, eps);
}

#[inline(always)]
pub(crate) fn rms_norm_in_place<S: Simd>(s: S, x: &mut [f32], weight: &[f32], eps: f32) {
    let inverse = s.splat(inverse_rms(s, x, eps));
    each(s, weight, x, |w, x| s.mul(s.mul(x, inverse), w));
}

#[inline(always)]
pub(crate) fn rope_neox<S: Simd>(_: S, head: &mut [f32], cos: &[f32], sin: &[f32]) {
    assert!(
        2 * cos.len() <= head.len() && cos.len() == sin.len(),
        "pairs of a rotation"
    );
    let (first, second) = head[..2 * cos.len()].split_at_mut(cos.len());
    for (((a, b), &c), &s) in first.iter_mut().zip(second).zip(cos).zip(sin) {
        let (x, y) = (*a, *b);
        *a = x * c - y * s;
        *b = y * c + x * s;
    }
}

#[inline(always)]
pub(crate) fn rope_norm<S: Simd>(_: S, head: &mut [f32], cos: &[f32], sin: &[f32]) {
    assert!(
        2 * cos.len() <= head.len() && cos.len() == sin.len(),
        "pairs of a rotation"
    );
    for (([a, b], &c), &s) in head.as_chunks_mut().0.iter_mut().zip(cos).zip(sin) {
        let (x, y) = (*a, *b);
        *a = x * c - y * s;
        *b = y * c + x * s;
    }
}

#[inline(always)]
pub(crate) fn f32_to_f16<S: Simd>(s: S, x: &[f32], out: &mut [f16]) {
    assert_eq!(x.len(), out.len(), "lengths of a conversion");
    let ((x, x_tail), (out, out_tail)) = (
        x.as_chunks(),
        bytemuck::cast_slice_mut::<_, u16>(out).as_chunks_mut(),
    );
    for (x, out) in x.iter().zip(out) {
        s.store_f16(s.load(x), out);
    }
    let mut lanes = [0; LANES];
    s.store_f16(s.load(&padded(x_tail, 0.0)), &mut lanes);
    out_tail.copy_from_slice(&lanes[..out_tail.len()]);
}

#[inline(always)]
pub(crate) fn f16_to_f32<S: Simd>(s: S, x: &[f16], out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "lengths of a conversion");
    let ((x, x_tail), (out, out_tail)) = (
        bytemuck::cast_slice::<_, u16>(x).as_chunks(),
        out.as_chunks_mut(),
    );
    for (x, out) in x.iter().zip(out) {
        s.store(s.load_f16(x), out);
    }
    let mut lanes = [0.0; LANES];
    s.store(s.load_f16(&padded(x_tail, 0)), &mut lanes);
    out_tail.copy_from_slice(&lanes[..out_tail.len()]);
}

#[inline(always)]
pub(crate) fn round_f16<S: Simd>(s: S, x: &mut [f32]) {
    let (chunks, tail) = x.as_chunks_mut();
    let mut halves = [0; LANES];
    for x in chunks {
        s.store_f16(s.load(x), &mut halves);
        s.store(s.load_f16(&halves), x);
    }
    for x in tail {
        *x = math::f16_to_f32(math::f32_to_f16(*x));
    }
}

/// max|x|, NaN when any is.
#[inline(always)]
fn magnitude<S: Simd>(s: S, x: &[f32]) -> f32 {
    let (chunks, tail) = x.as_chunks();
    let mut greatest = s.magnitude_bits(s.load(&padded(tail, 0.0)));
    for x in chunks {
        greatest = s.max_i(greatest, s.magnitude_bits(s.load(x)));
    }
    f32::from_bits(s.greatest_i(greatest) as u32)
}

/// q = clip(round(x·s)), s = 127 / max(max|x|, 1e−5); gives s.
#[inline(always)]
pub(crate) fn quantize_row_i8<S: Simd>(s: S, x: &[f32], q: &mut [i8]) -> f32 {
    assert_eq!(x.len(), q.len(), "lengths of a quantisation");
    let magnitude = magnitude(s, x);
    // A NaN stays one, so that the product shows it.
    let factor = 127.0 / if magnitude < 1e-5 { 1e-5 } else { magnitude };
    let factors = s.splat(factor);
    let ((x, x_tail), (q, q_tail)) = (x.as_chunks(), q.as_chunks_mut());
    for (x, q) in x.iter().zip(q) {
        s.store_i8(s.mul(s.load(x), factors), q);
    }
    if !x_tail.is_empty() {
        let mut lanes = [0; LANES];
        s.store_i8(s.mul(s.load(&padded(x_tail, 0.0)), factors), &mut lanes);
        q_tail.copy_from_slice(&lanes[..q_tail.len()]);
    }
    factor
}

#[inline(always)]
pub(crate) fn quantize_row<S: Simd>(
    s: S,
    layout: QuantizedLayout,
    x: &[f32],
    row: &mut [ByteLine],
) {
    assert_eq!(x.len(), layout.cols(), "length of a row to quantise");
    let row = layout.split_mut(row);
    match layout.group() {
        None => row.factors[0] = quantize_row_i8(s, x, &mut row.values[..x.len()]),
        Some(group) => {
            let groups = x.chunks(group).zip(row.values[..x.len()].chunks_mut(group));
            for ((x, q), factor) in groups.zip(row.factors) {
                *factor = 1.0 / quantize_row_i8(s, x, q);
            }
        }
    }
    row.values[x.len()..].fill(0);
    for (sum, values) in row.sums.iter_mut().zip(row.values.as_chunks::<UNIT>().0) {
        *sum = values.iter().map(|&q| i32::from(q)).sum();
    }
}
