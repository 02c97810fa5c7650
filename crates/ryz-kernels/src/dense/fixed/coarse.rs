//! How far coarse products may be from the exact ones.
//!
//! For a row w and activations x of n columns, let y be what [`super::matmul`] computes of Σ w·x, and ŷ what
//! [`super::coarse_matmul`] does. They multiply a = X/s and â = X̂/ŝ, which differ from x by rounding to 2G steps; ŝ and X̂ are known,
//! and |a − x| is below 0.76/s in each column: half a step, and a quarter of one in the product x·s, which is below 2²³. What the sums of
//! either lose is bounded as usual (Higham, Accuracy and Stability of Numerical Algorithms, 3.1): products of a sub-block are exact
//! integers, and each goes through at most m = 2·⌈n/256⌉ + 8 roundings: to f32, one or two additions a block, four levels of a tree, 1/s
//! and the product with it. A weight of Q4_K is a difference, code·d·sc − dmin·m, whose parts are summed on their own: let v be the root
//! of the sum of the squares of both, twice, which is at least the norm of their magnitudes' sum; for Q6_K it is ‖w‖. Then
//!
//! ```text
//! |y − ŷ| ≤ ‖w‖·‖a − â‖ + γ·v·(‖a‖ + ‖â‖)        γ = m·u / (1 − m·u)        u = 2⁻²⁴
//!         ≤ (‖w‖ + ε·v) · max(‖a − â‖, γ·(‖a‖ + ‖â‖)/ε)                       ε = 2⁻¹⁰
//! ```
//!
//! The first factor is the row's, the second that of the activations. Both are rounded up. Nothing is lost below the smallest normal
//! number but in the last product: integers times fp16 times integers are multiples of 2⁻²⁴; [`FLOOR`] is more than that.

use super::{BLOCK, ByteActivations, FixedDot, FixedType, Q4K, Q6K, types::BlockType};
use crate::{DenseWeight, simd::Simd};
use ryz_format::DType;

/// ε
const SHARE: f64 = 1.0 / 1024.0;
/// What factors are multiplied with: more than all roundings on the way to a bound, that of their product among them.
const UP: f64 = 1.0 + 1.0 / (1 << 20) as f64;

/// Added to what bounds a difference: a product below the smallest normal number.
pub const FLOOR: f32 = f32::from_bits((127 - 100) << 23);

/// The second factor of the bound for activations `x` of blocks of `dtype`: infinity where there is none, because a number is not
/// finite. ‖x‖ beside it, for whoever must know that nothing overflows.
pub(crate) fn error(dtype: DType, x: &[f32]) -> (f64, f64) {
    match dtype {
        DType::Q4K => error_of::<Q4K>(x),
        DType::Q6K => error_of::<Q6K>(x),
        other => unreachable!("{other} is not multiplied in fixed point"),
    }
}

fn error_of<T: BlockType>(x: &[f32]) -> (f64, f64) {
    /// Added to a number below 2²², it leaves the nearest integer, ties to even.
    const ROUND: f32 = 12_582_912.0;
    let mut greatest = [0.0f32; 8];
    // 0 where all are finite, and else no number.
    let mut finite = [0.0f32; 8];
    for x in x.chunks(8) {
        for ((x, greatest), finite) in x.iter().zip(&mut greatest).zip(&mut finite) {
            let size = x.abs();
            *greatest = if size > *greatest { size } else { *greatest };
            *finite += 0.0 * x;
        }
    }
    if finite.iter().any(|sum| sum.is_nan()) {
        return (f64::INFINITY, f64::INFINITY);
    }
    let greatest = greatest.into_iter().fold(0.0, f32::max).max(1e-30);
    let scale = ByteActivations::<T>::GREATEST / greatest;
    let step = 1.0 / f64::from(scale);
    let (mut errors, mut squares) = ([0.0f64; 8], [0.0f64; 8]);
    for x in x.chunks(8) {
        for ((&x, error), square) in x.iter().zip(&mut errors).zip(&mut squares) {
            let coarse = (x * scale + ROUND) - ROUND;
            let (x, coarse) = (f64::from(x), f64::from(coarse) * step);
            *error += (x - coarse) * (x - coarse);
            *square += x * x;
        }
    }
    let norm = |squares: [f64; 8]| squares.iter().sum::<f64>().sqrt() * UP;
    let columns = x.len() as f64;
    let of_coarse = norm(errors);
    let of_fixed = 0.76 * f64::from(greatest) / f64::from(T::GREATEST) * columns.sqrt() * UP;
    let size = norm(squares);
    let steps = (2 * x.len().div_ceil(BLOCK) + 8) as f64 / f64::from(1u32 << 24);
    let rounding = steps / (1.0 - steps);
    // ‖a‖ ≤ ‖x‖ + ‖a − x‖, and â likewise.
    let sizes = 2.0 * size + of_coarse + of_fixed;
    let error = (of_coarse + of_fixed).max(rounding * sizes / SHARE);
    (error * UP, size)
}

/// The first factor of the bound for each of the rows from `first` on; no number, or infinite, where a row is not finite.
#[inline(always)]
pub(crate) fn row_errors<K: FixedDot>(k: K, weights: &DenseWeight, first: usize, out: &mut [f32]) {
    match weights.dtype() {
        DType::Q4K => rows_of::<K, Q4K>(k, weights, first, out),
        DType::Q6K => rows_of::<K, Q6K>(k, weights, first, out),
        other => unreachable!("{other} is not multiplied in fixed point"),
    }
}

#[inline(always)]
fn rows_of<K: FixedDot, T: BlockType>(k: K, weights: &DenseWeight, first: usize, out: &mut [f32]) {
    let s = k.simd();
    let blocks = weights.cols() / BLOCK;
    // A block's terms go through some six roundings and one more for each block and level of the tree.
    let rounding = (blocks + 16) as f64 / f64::from(1u32 << 23);
    for (row, out) in (first..).zip(out) {
        let mut sums = [s.splat(0.0); 2];
        for block in weights.row(row).chunks_exact(T::BYTES) {
            T::add_squares(k, block, &mut sums);
        }
        let [own, parts] = sums.map(|sums| f64::from(s.sum(sums)));
        // What a difference loses is a part of its terms.
        let own = (own + rounding * parts).max(0.0).sqrt();
        let parts = (parts * (1.0 + rounding)).sqrt();
        // A weight that is no number makes both sums none.
        *out = (((own + SHARE * parts) * UP) as f32).next_up();
    }
}
