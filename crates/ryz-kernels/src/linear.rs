//! A matrix of a model, however it is stored.

use std::ops::Range;

use ryz_tmac::MatMut;

use crate::{ActivationView, DenseWeight, Kernels, PackedTernary, ROW_TILE};

/// A linear layer's weights.
#[derive(Debug)]
pub enum Linear {
    /// 2 bits a weight.
    Ternary(PackedTernary),
    /// The file's own blocks.
    Dense(DenseWeight),
}

impl Linear {
    /// Row ranges given to [`Linear::matmul`] start at multiples of this.
    pub const ROW_GRANULE: usize = ROW_TILE;

    /// Whether its weights are packed ternary ones, which multiply interleaved activations too.
    pub fn is_ternary(&self) -> bool {
        matches!(self, Self::Ternary(_))
    }

    /// Asks for the first `lines` cache lines of some rows, which will be read soon, unless prefetching is off.
    ///
    /// # Panics
    /// When `rows` does not start at a multiple of [`Linear::ROW_GRANULE`].
    pub fn prefetch_rows(&self, rows: Range<usize>, lines: usize) {
        match self {
            Self::Ternary(weights) => weights.prefetch_rows(rows, lines),
            Self::Dense(_) => {}
        }
    }

    /// Changes the kernels of its products: packed weights are the same for every level.
    pub fn set_kernels(&mut self, kernels: Kernels) {
        match self {
            Self::Ternary(weights) => weights.set_kernels(kernels),
            Self::Dense(weights) => weights.set_kernels(kernels),
        }
    }

    /// Rows: outputs.
    pub fn rows(&self) -> usize {
        match self {
            Self::Ternary(weights) => weights.rows(),
            Self::Dense(weights) => weights.rows(),
        }
    }

    /// Columns: inputs.
    pub fn cols(&self) -> usize {
        match self {
            Self::Ternary(weights) => weights.cols(),
            Self::Dense(weights) => weights.cols(),
        }
    }

    /// Bytes that one product reads.
    pub fn packed_bytes(&self) -> usize {
        match self {
            Self::Ternary(weights) => weights.packed_bytes(),
            Self::Dense(weights) => weights.packed_bytes(),
        }
    }

    /// The kernel of products with int8 (`true`) or f32 activations.
    pub fn kernel_name(&self, int8: bool) -> &'static str {
        match self {
            Self::Ternary(weights) => weights.kernel_name(int8),
            Self::Dense(weights) => weights.kernel_name(),
        }
    }

    /// Multiplies: `out` (tokens, rows.len()) = activations · W[rows]ᵀ. A token's result depends on neither the other
    /// tokens nor the cut into row ranges.
    ///
    /// # Panics
    /// When shapes do not fit, or `rows` does not start at a multiple of [`Linear::ROW_GRANULE`].
    pub fn matmul(&self, rows: Range<usize>, x: ActivationView<'_>, out: MatMut<'_, f32>) {
        match self {
            Self::Ternary(weights) => weights.matmul(rows, x, out),
            Self::Dense(weights) => weights.matmul(rows, x, out),
        }
    }

    /// Decodes one row exactly: the embedding of a token.
    ///
    /// # Panics
    /// When there is no such row or `out` is not `cols` long.
    pub fn embedding_row(&self, row: usize, out: &mut [f32]) {
        match self {
            Self::Ternary(weights) => weights.decode_row(row, out),
            Self::Dense(weights) => weights.decode_row(row, out),
        }
    }
}
