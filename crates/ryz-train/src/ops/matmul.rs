//! Row-major matrix products over slices.
//!
//! Both factors are packed into panels that a 6 × 2-vector tile of sums reads in order (the scheme
//! of Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication", 2008). Every sum
//! runs over k in order, by fused multiply-adds, so results depend on neither the vector width nor
//! the threads: parallelism is over shards of the batch, never inside a product.

use std::cell::RefCell;

use pulp::{Arch, Simd, WithSimd};

/// Rows of a tile.
const MR: usize = 6;
/// Columns of a tile, in vectors.
const VECTORS: usize = 2;
/// Rows, depth and columns packed at once: a panel of b fits the L1 cache, a block of a the L2
/// cache.
const MC: usize = 96;
const KC: usize = 256;
const NC: usize = 1024;

/// A row-major view, with rows `stride` values apart.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub data: &'a [f32],
    pub rows: usize,
    pub cols: usize,
    pub stride: usize,
}

impl<'a> View<'a> {
    /// A dense `rows × cols` matrix at the start of `data`.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self {
            data: &data[..rows * cols],
            rows,
            cols,
            stride: cols,
        }
    }

    fn factor(self) -> Factor<'a> {
        Factor {
            data: self.data,
            outer: self.stride,
            inner: 1,
        }
    }

    fn transposed(self) -> Factor<'a> {
        Factor {
            data: self.data,
            outer: 1,
            inner: self.stride,
        }
    }
}

/// The output of a product: a row-major matrix that is overwritten or added to.
pub(crate) struct ProductOutput<'a> {
    pub data: &'a mut [f32],
    pub stride: usize,
    pub add: bool,
}

impl<'a> ProductOutput<'a> {
    /// Overwrites a dense matrix of `cols` columns.
    pub fn set(data: &'a mut [f32], cols: usize) -> Self {
        Self {
            data,
            stride: cols,
            add: false,
        }
    }

    /// Adds to a dense matrix of `cols` columns.
    pub fn add(data: &'a mut [f32], cols: usize) -> Self {
        Self {
            data,
            stride: cols,
            add: true,
        }
    }
}

/// `out (m×n) = a (m×k) · b (n×k)ᵀ`, the linear layer.
pub(crate) fn a_bt(out: ProductOutput<'_>, a: View<'_>, b: View<'_>) {
    assert_eq!(a.cols, b.cols);
    product(out, [a.rows, b.rows, a.cols], a.factor(), b.factor());
}

/// `out (m×n) = a (m×k) · b (k×n)`, the gradient of a linear layer's input.
pub(crate) fn a_b(out: ProductOutput<'_>, a: View<'_>, b: View<'_>) {
    assert_eq!(a.cols, b.rows);
    product(out, [a.rows, b.cols, a.cols], a.factor(), b.transposed());
}

/// `out (m×n) = a (k×m)ᵀ · b (k×n)`, the gradient of a linear layer's weights.
pub(crate) fn at_b(out: ProductOutput<'_>, a: View<'_>, b: View<'_>) {
    assert_eq!(a.rows, b.rows);
    product(
        out,
        [a.cols, b.cols, a.rows],
        a.transposed(),
        b.transposed(),
    );
}

/// A factor, indexed by its outer index (a row of a, a column of b) and its inner one, the index of
/// summation.
#[derive(Clone, Copy)]
struct Factor<'a> {
    data: &'a [f32],
    outer: usize,
    inner: usize,
}

impl Factor<'_> {
    /// Packs the rectangle into panels of `width` outer indices: `width` values for each inner
    /// index, with zeros past the end.
    #[inline(always)]
    fn pack(&self, outer: [usize; 2], inner: [usize; 2], width: usize, panels: &mut Vec<f32>) {
        let ([o0, o1], [i0, i1]) = (outer, inner);
        let depth = i1 - i0;
        let count = (o1 - o0).div_ceil(width);
        panels.clear();
        panels.resize(count * depth * width, 0.0);
        for (panel, values) in panels.chunks_exact_mut(depth * width).enumerate() {
            let first = o0 + panel * width;
            let used = width.min(o1 - first);
            if self.outer == 1 && self.inner > 1 {
                for (i, values) in values.chunks_exact_mut(width).enumerate() {
                    let from = (i0 + i) * self.inner + first;
                    values[..used].copy_from_slice(&self.data[from..from + used]);
                }
            } else {
                for o in 0..used {
                    let from = (first + o) * self.outer + i0;
                    let row = &self.data[from..from + depth];
                    for (values, value) in values.chunks_exact_mut(width).zip(row) {
                        values[o] = *value;
                    }
                }
            }
        }
    }
}

thread_local! {
    /// Panels of a and of b.
    static PANELS: RefCell<[Vec<f32>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

fn product(out: ProductOutput<'_>, shape: [usize; 3], a: Factor<'_>, b: Factor<'_>) {
    PANELS.with_borrow_mut(|[a_panels, b_panels]| {
        Arch::new().dispatch(Product {
            out,
            shape,
            a,
            b,
            a_panels,
            b_panels,
        });
    });
}

struct Product<'a> {
    out: ProductOutput<'a>,
    shape: [usize; 3],
    a: Factor<'a>,
    b: Factor<'a>,
    a_panels: &'a mut Vec<f32>,
    b_panels: &'a mut Vec<f32>,
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let nr = VECTORS * S::F32_LANES;
        let [m, n, k] = self.shape;
        let ProductOutput { data, stride, add } = self.out;
        for k0 in (0..k).step_by(KC) {
            let k1 = k.min(k0 + KC);
            let depth = k1 - k0;
            let add = add || k0 > 0;
            for n0 in (0..n).step_by(NC) {
                let n1 = n.min(n0 + NC);
                self.b.pack([n0, n1], [k0, k1], nr, self.b_panels);
                for m0 in (0..m).step_by(MC) {
                    let m1 = m.min(m0 + MC);
                    self.a.pack([m0, m1], [k0, k1], MR, self.a_panels);
                    for (j, b) in self.b_panels.chunks_exact(depth * nr).enumerate() {
                        for (i, a) in self.a_panels.chunks_exact(depth * MR).enumerate() {
                            let sums = tile(simd, a, S::as_simd_f32s(b).0);
                            let col = n0 + j * nr;
                            let width = nr.min(n1 - col);
                            let rows = MR.min(m1 - m0 - i * MR);
                            for (r, sums) in sums.iter().take(rows).enumerate() {
                                let row = m0 + i * MR + r;
                                let out = &mut data[row * stride + col..][..width];
                                store(simd, sums, out, add);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Sums of one panel of a and one of b.
#[inline(always)]
fn tile<S: Simd>(simd: S, a: &[f32], b: &[S::f32s]) -> [[S::f32s; VECTORS]; MR] {
    let mut sums = [[simd.splat_f32s(0.0); VECTORS]; MR];
    for (a, b) in a.as_chunks::<MR>().0.iter().zip(b.as_chunks::<VECTORS>().0) {
        for r in 0..MR {
            let x = simd.splat_f32s(a[r]);
            for v in 0..VECTORS {
                sums[r][v] = simd.mul_add_f32s(x, b[v], sums[r][v]);
            }
        }
    }
    sums
}

/// Writes one row of a tile.
#[inline(always)]
fn store<S: Simd>(simd: S, sums: &[S::f32s; VECTORS], out: &mut [f32], add: bool) {
    let (whole, rest) = S::as_mut_simd_f32s(out);
    let used = whole.len();
    for (out, sum) in whole.iter_mut().zip(sums) {
        *out = if add { simd.add_f32s(*out, *sum) } else { *sum };
    }
    if let Some(sum) = sums.get(used) {
        let sum: &[f32] = bytemuck::cast_slice(std::slice::from_ref(sum));
        for (out, sum) in rest.iter_mut().zip(sum) {
            *out = if add { *out + sum } else { *sum };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::gradient_check::noise;

    /// Every product against its definition in f64, at shapes that fill no tile and no block, on
    /// two threads at once.
    #[test]
    fn products_match_their_definition() {
        let check = |seed: u64| {
            for [m, n, k] in [
                [1, 1, 1],
                [7, 33, 5],
                [100, 70, 300],
                [6, 1100, 17],
                [13, 64, 256],
            ] {
                let a = noise(seed, m * k);
                let b = noise(seed + 1, n * k);
                let transpose = |x: &[f32], rows: usize, cols: usize| -> Vec<f32> {
                    (0..rows * cols)
                        .map(|i| x[i % rows * cols + i / rows])
                        .collect()
                };
                let start = noise(seed + 2, m * n);
                let run = |add: bool, f: &dyn Fn(ProductOutput<'_>)| {
                    let mut out = start.clone();
                    f(if add {
                        ProductOutput::add(&mut out, n)
                    } else {
                        ProductOutput::set(&mut out, n)
                    });
                    out
                };
                let (at, bt) = (transpose(&a, m, k), transpose(&b, n, k));
                for add in [false, true] {
                    let first = run(add, &|out| {
                        a_bt(out, View::new(&a, m, k), View::new(&b, n, k))
                    });
                    let second = run(add, &|out| {
                        a_b(out, View::new(&a, m, k), View::new(&bt, k, n))
                    });
                    let third = run(add, &|out| {
                        at_b(out, View::new(&at, k, m), View::new(&bt, k, n))
                    });
                    assert_eq!(first, second);
                    assert_eq!(first, third);
                    for i in 0..m {
                        for j in 0..n {
                            let terms =
                                (0..k).map(|p| f64::from(a[i * k + p]) * f64::from(b[j * k + p]));
                            let size: f64 = terms.clone().map(f64::abs).sum::<f64>() + 1.0;
                            let exact = terms.sum::<f64>()
                                + if add {
                                    f64::from(start[i * n + j])
                                } else {
                                    0.0
                                };
                            // k + 2 roundings, each at most 2⁻²⁴ of the partial sum.
                            let bound = size * (k as f64 + 2.0) * 2f64.powi(-24);
                            assert!((f64::from(first[i * n + j]) - exact).abs() <= bound);
                        }
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| check(1));
            scope.spawn(|| check(9));
        });
    }
}
