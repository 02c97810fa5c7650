//! A matrix of a model, however it is stored.

use std::ops::Range;

use ryz_tmac::MatMut;

use crate::{
    ActivationView, DenseWeight, Kernels, Line, LineOrder, PackedTernary, Packing, PreparedInput,
    ROW_TILE, SparseTernary,
};

/// A linear layer's weights.
#[derive(Debug)]
pub enum Linear {
    /// 2 bits a weight, or 1.6.
    Ternary(PackedTernary),
    /// 2 bits a weight, in rows or columns that can be left out.
    Sparse(SparseTernary),
    /// The file's own blocks.
    Dense(DenseWeight),
}

impl Linear {
    /// Row ranges given to [`Linear::matmul`] start and end at multiples of this, or at the end.
    pub fn row_granule(&self) -> usize {
        match self {
            Self::Sparse(weights) => weights.order().row_granule(),
            Self::Ternary(_) | Self::Dense(_) => ROW_TILE,
        }
    }

    /// As many rows of a product, where there are as many, are read faster together than in parts, since what lies together in memory
    /// belongs to all of them.
    pub fn rows_together(&self) -> usize {
        match self {
            Self::Sparse(weights) => weights.rows_together(),
            Self::Ternary(_) | Self::Dense(_) => 1,
        }
    }

    /// Lines of scratch memory that [`Linear::matmul`] takes.
    pub fn scratch_lines(&self) -> usize {
        match self {
            Self::Sparse(weights) => weights.scratch_lines(),
            Self::Dense(weights) => weights.scratch_lines(),
            Self::Ternary(_) => 0,
        }
    }

    /// How the lines of a matrix lie that leaves rows or columns out.
    pub fn line_order(&self) -> Option<LineOrder> {
        match self {
            Self::Sparse(weights) => Some(weights.order()),
            Self::Ternary(_) | Self::Dense(_) => None,
        }
    }

    /// Whether its weights are packed ternary ones, which multiply interleaved activations too.
    pub fn is_ternary(&self) -> bool {
        match self {
            Self::Ternary(_) | Self::Sparse(_) => true,
            Self::Dense(_) => false,
        }
    }

    /// Asks for the first `lines` cache lines of some rows, which will be read soon, unless prefetching is off.
    ///
    /// # Panics
    /// When `rows` does not start at a multiple of [`Linear::row_granule`].
    pub fn prefetch_rows(&self, rows: Range<usize>, lines: usize) {
        match self {
            Self::Ternary(weights) => weights.prefetch_rows(rows, lines),
            Self::Sparse(_) | Self::Dense(_) => {}
        }
    }

    /// Changes the kernels of its products: packed weights are the same for every level.
    pub fn set_kernels(&mut self, kernels: Kernels) {
        match self {
            Self::Ternary(weights) => weights.set_kernels(kernels),
            Self::Sparse(weights) => weights.set_kernels(kernels),
            Self::Dense(weights) => weights.set_kernels(kernels),
        }
    }

    /// Rows: outputs.
    pub fn rows(&self) -> usize {
        match self {
            Self::Ternary(weights) => weights.rows(),
            Self::Sparse(weights) => weights.rows(),
            Self::Dense(weights) => weights.rows(),
        }
    }

    /// Columns: inputs.
    pub fn cols(&self) -> usize {
        match self {
            Self::Ternary(weights) => weights.cols(),
            Self::Sparse(weights) => weights.cols(),
            Self::Dense(weights) => weights.cols(),
        }
    }

    /// Bytes that one product reads.
    pub fn packed_bytes(&self) -> usize {
        match self {
            Self::Ternary(weights) => weights.packed_bytes(),
            Self::Sparse(weights) => weights.packed_bytes(),
            Self::Dense(weights) => weights.packed_bytes(),
        }
    }

    /// What [`Linear::packed_bytes`] are where ternary weights are in 2 bits.
    pub fn two_bit_bytes(&self) -> usize {
        match self {
            Self::Ternary(weights) => weights.two_bit_bytes(),
            Self::Sparse(_) | Self::Dense(_) => self.packed_bytes(),
        }
    }

    /// How densely its weights are packed; `None` for dense ones.
    pub fn packing(&self) -> Option<Packing> {
        match self {
            Self::Ternary(weights) => Some(weights.packing()),
            Self::Sparse(_) => Some(Packing::TwoBits),
            Self::Dense(_) => None,
        }
    }

    /// Packs its weights anew where they are, if they can be packed so ([`PackedTernary::repack`]); matrices that leave rows or
    /// columns out stay in 2 bits.
    pub fn repack(&mut self, packing: Packing) {
        if let Self::Ternary(weights) = self {
            weights.repack(packing);
        }
    }

    /// The kernel of products with int8 (`true`) or f32 activations.
    pub fn kernel_name(&self, int8: bool) -> &'static str {
        match self {
            Self::Ternary(weights) => weights.kernel_name(int8),
            Self::Sparse(weights) => weights.kernel_name(int8),
            Self::Dense(weights) => weights.kernel_name(),
        }
    }

    /// Multiplies: `out` (tokens, rows.len()) = activations · W[rows]ᵀ. A token's result depends on neither the other
    /// tokens nor the cut into row ranges.
    ///
    /// # Panics
    /// When shapes do not fit, `rows` is not of whole granules ([`Linear::row_granule`]), or `scratch` is shorter than
    /// [`Linear::scratch_lines`].
    pub fn matmul(
        &self,
        rows: Range<usize>,
        x: ActivationView<'_>,
        scratch: &mut [Line],
        out: MatMut<'_, f32>,
    ) {
        self.matmul_prepared(rows, x, scratch, &mut PreparedInput::default(), out);
    }

    /// [`Linear::matmul`], in pieces: see [`DenseWeight::matmul_prepared`].
    ///
    /// # Panics
    /// As [`Linear::matmul`].
    pub fn matmul_prepared(
        &self,
        rows: Range<usize>,
        x: ActivationView<'_>,
        scratch: &mut [Line],
        prepared: &mut PreparedInput,
        out: MatMut<'_, f32>,
    ) {
        match self {
            Self::Ternary(weights) => weights.matmul(rows, x, out),
            Self::Sparse(weights) => weights.matmul(rows, x, scratch, out),
            Self::Dense(weights) => weights.matmul_prepared(rows, x, scratch, prepared, out),
        }
    }

    /// Decodes one row exactly: the embedding of a token.
    ///
    /// # Panics
    /// When there is no such row or `out` is not `cols` long.
    pub fn embedding_row(&self, row: usize, out: &mut [f32]) {
        match self {
            Self::Ternary(weights) => weights.decode_row(row, out),
            Self::Sparse(weights) => weights.decode_row(row, out),
            Self::Dense(weights) => weights.decode_row(row, out),
        }
    }
}
