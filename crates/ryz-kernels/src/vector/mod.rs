//! Kernels on vectors: norms, rotations, activations, softmax, attention's products, quantisation.

mod attention;
mod four_bits;
pub(crate) mod generic;

pub use attention::{BLOCK, KvBlock, MAX_QUERIES, RunningSoftmax};
pub use four_bits::{Int4Block, Tile, VALUE_GROUP};

use half::f16;

use crate::{
    Activation, Kernels,
    activations::{ByteLine, QuantizedLayout},
    tiles,
};

/// Declares the vector kernels: one wrapper for each register width, a table of them, and the safe methods.
macro_rules! vector_kernels {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $type:ty),*) $(-> $result:ty)?;)*) => {
        /// The vector kernels of one register width.
        #[derive(Debug)]
        pub(crate) struct VectorKernels {
            $($name: unsafe fn($($type),*) $(-> $result)?,)*
        }

        pub(crate) static SCALAR: VectorKernels = {
            $(
                fn $name($($arg: $type),*) $(-> $result)? {
                    generic::$name(crate::simd::Scalar, $($arg),*)
                }
            )*
            VectorKernels { $($name),* }
        };

        #[cfg(target_arch = "x86_64")]
        pub(crate) static AVX2: VectorKernels = {
            $(
                #[target_feature(enable = "avx2,fma,f16c")]
                fn $name($($arg: $type),*) $(-> $result)? {
                    // SAFETY: this function has the features that the token stands for.
                    let simd = unsafe { crate::simd::Avx2::assume() };
                    generic::$name(simd, $($arg),*)
                }
            )*
            VectorKernels { $($name),* }
        };

        #[cfg(target_arch = "x86_64")]
        pub(crate) static AVX512: VectorKernels = {
            $(
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
                fn $name($($arg: $type),*) $(-> $result)? {
                    // SAFETY: this function has the features that the token stands for.
                    let simd = unsafe { crate::simd::Avx512::assume() };
                    generic::$name(simd, $($arg),*)
                }
            )*
            VectorKernels { $($name),* }
        };

        impl Kernels {
            $(
                $(#[$doc])*
                pub fn $name(self, $($arg: $type),*) $(-> $result)? {
                    // SAFETY: a Kernels exists for supported levels only, and its table is of that level or below.
                    unsafe { (self.set().vector.$name)($($arg),*) }
                }
            )*
        }
    };
}

vector_kernels! {
    /// Σ a·b.
    ///
    /// # Panics
    /// When the lengths differ; so do the other vector kernels.
    dot_f32(a: &[f32], b: &[f32]) -> f32;
    /// Σ a·b.
    dot_f16(a: &[f32], b: &[f16]) -> f32;
    /// Σ a·b; the scale of `b` is the caller's.
    dot_i8(a: &[f32], b: &[i8]) -> f32;
    /// y += weight · x, fused.
    axpy_f32(weight: f32, x: &[f32], y: &mut [f32]);
    /// y += weight · x, fused.
    axpy_f16(weight: f32, x: &[f16], y: &mut [f32]);
    /// y += weight · x, fused; the scale of `x` is the caller's, in `weight`.
    axpy_i8(weight: f32, x: &[i8], y: &mut [f32]);
    /// Adds the first `positions` of a block to the attention of the queries of `running`, which are rows of `queries`
    /// and of `out`.
    attend_block(block: &KvBlock<'_>, positions: usize, queries: &[f32], scale: f32, running: &mut [RunningSoftmax], out: &mut [f32]);
    /// Ends the attention of queries: divides each row of `out` by its sum.
    attend_end(running: &[RunningSoftmax], out: &mut [f32]);
    /// out (count, cols) += weights (count, k) · rows (k, cols).
    mul_add_rows(weights: &[f32], rows: &[f32], cols: usize, out: &mut [f32]);
    /// Puts up to sixteen channels of a block's keys in four bits.
    quantize_keys_u4(tile: &Tile, codes: &mut [[u8; 8]], scales: &mut [f16], minima: &mut [f16]);
    /// Puts `width` channels, at most [`VALUE_GROUP`], of a block's values in four bits: a tile for each sixteen.
    quantize_values_u4(tiles: &[Tile], width: usize, codes: &mut [[u8; 8]], group: &mut [[f16; BLOCK]; 2]);
    /// x = x rounded to halves.
    round_f16(x: &mut [f32]);
    /// y += x.
    add(x: &[f32], y: &mut [f32]);
    /// y ·= x.
    mul(x: &[f32], y: &mut [f32]);
    /// y ·= factor.
    scale(factor: f32, y: &mut [f32]);
    /// The greatest value; −∞ for none, NaN is passed over.
    max(x: &[f32]) -> f32;
    /// x = e^(x − maximum); gives the sum.
    exp_sum(x: &mut [f32], maximum: f32) -> f32;
    /// gate = silu(gate) · up.
    silu_mul(up: &[f32], gate: &mut [f32]);
    /// gate = max(gate, 0)² · up.
    relu2_mul(up: &[f32], gate: &mut [f32]);
    /// out = x / √(mean(x²) + eps) · weight.
    rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]);
    /// x = x / √(mean(x²) + eps) · weight.
    rms_norm_in_place(x: &mut [f32], weight: &[f32], eps: f32);
    /// Rotates the pairs (i, i + d/2) of the first d = 2 · cos.len() values of a head.
    rope_neox(head: &mut [f32], cos: &[f32], sin: &[f32]);
    /// Rotates the pairs (2i, 2i + 1) of the first 2 · cos.len() values of a head.
    rope_norm(head: &mut [f32], cos: &[f32], sin: &[f32]);
    /// Rounds to halves, ties to even.
    f32_to_f16(x: &[f32], out: &mut [f16]);
    /// Widens halves.
    f16_to_f32(x: &[f16], out: &mut [f32]);
    /// q = clip(round_half_even(x·s), −128, 127) with s = 127 / max(max|x|, 1e−5); gives s (arXiv 2402.17764).
    ///
    /// A NaN in `x` makes s NaN, and with it every product.
    quantize_row_i8(x: &[f32], q: &mut [i8]) -> f32;
    /// Writes the quantised record of one row, [`QuantizedLayout::lines`] long.
    quantize_row(layout: QuantizedLayout, x: &[f32], row: &mut [ByteLine]);
}

impl Kernels {
    /// gate = act(gate) · up.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn activate_mul(self, activation: Activation, up: &[f32], gate: &mut [f32]) {
        match activation {
            Activation::Silu => self.silu_mul(up, gate),
            Activation::Relu2 => self.relu2_mul(up, gate),
        }
    }

    /// Packs the quantised row of one token into its tile ([`QuantizedLayout::tile_lines`] long), in the lines that this
    /// level's kernels read.
    ///
    /// # Panics
    /// When the tile has no such token, or lines are not those of the layout.
    pub fn interleave_row(
        self,
        layout: QuantizedLayout,
        row: &[ByteLine],
        tile: &mut [ByteLine],
        token: usize,
    ) {
        tiles::set_token(layout, self.tile_shape(), row, tile, token);
    }

    /// x = softmax(x).
    pub fn softmax(self, x: &mut [f32]) {
        let maximum = self.max(x);
        let sum = self.exp_sum(x, maximum);
        self.scale(1.0 / sum, x);
    }
}
