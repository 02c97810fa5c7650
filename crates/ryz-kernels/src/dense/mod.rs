//! Dense weights in the file's own blocks: heads, embeddings, and the linears of models that are not ternary.
//!
//! ```text
//! y = Σ_c x[c] · decode(W)[r][c]        element c in lane c mod 16, ascending, fused; lanes by the fixed tree
//! ```
//!
//! Blocks of Q4_K and Q6_K, the types of most heads, are multiplied in integers instead ([`fixed`]).
//!
//! With int8 activations x is the integers q and y is divided by s at the end, or x is q·(1/s) of the group.

pub(crate) mod blocks;
pub(crate) mod fixed;
pub(crate) mod k_quants;
pub(crate) mod matmul;

use std::ops::Range;

use ryz_format::DType;
use ryz_tmac::{MatMut, PrefetchManager, ReadOnlySlice};

pub use self::fixed::{PreparedInput, coarse::FLOOR as COARSE_FLOOR};
use crate::{ActivationView, KernelError, Kernels, Line};

/// A dense matrix (rows, cols) as the file has it.
#[derive(Debug)]
pub struct DenseWeight {
    dtype: DType,
    rows: usize,
    cols: usize,
    row_bytes: usize,
    blocks: ReadOnlySlice<u8>,
    kernels: Kernels,
}

impl DenseWeight {
    /// Takes the blocks of a matrix named `name`.
    ///
    /// # Errors
    /// [`KernelError::UnsupportedType`] for a ternary type, [`KernelError::Shape`] when the bytes do not fit the shape.
    pub fn new(
        name: &str,
        dtype: DType,
        rows: usize,
        cols: usize,
        blocks: impl Into<ReadOnlySlice<u8>>,
        kernels: Kernels,
    ) -> Result<Self, KernelError> {
        if dtype.is_ternary() {
            return Err(KernelError::UnsupportedType {
                tensor: name.to_owned(),
                expected: "a dense type",
                got: dtype,
            });
        }
        let shape = |what, expected, got| KernelError::Shape {
            tensor: name.to_owned(),
            what,
            expected,
            got,
        };
        let row_bytes = dtype.row_bytes(cols).filter(|&bytes| bytes > 0);
        let row_bytes = row_bytes
            .ok_or_else(|| shape("columns in whole blocks of", dtype.block_values(), cols))?;
        let blocks = blocks.into();
        let bytes = row_bytes.saturating_mul(rows);
        if bytes != blocks.len() {
            return Err(shape("bytes", bytes, blocks.len()));
        }
        Ok(Self {
            dtype,
            rows,
            cols,
            row_bytes,
            blocks,
            kernels,
        })
    }

    /// Changes the kernels of its products: packed weights are the same for every level.
    pub fn set_kernels(&mut self, kernels: Kernels) {
        self.kernels = kernels;
    }

    /// The type of its blocks.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Rows: outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns: inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes that one product reads.
    pub fn packed_bytes(&self) -> usize {
        self.blocks.len()
    }

    /// The kernel of its products.
    pub fn kernel_name(&self) -> &'static str {
        let set = self.kernels.set();
        match fixed::is_fixed(self.dtype) {
            true => set.fixed.name,
            false => set.dense.name,
        }
    }

    /// Lines of scratch memory that a product takes.
    pub fn scratch_lines(&self) -> usize {
        Self::scratch_lines_of(self.dtype, self.cols)
    }

    /// [`DenseWeight::scratch_lines`] of a matrix of this width.
    pub fn scratch_lines_of(dtype: DType, cols: usize) -> usize {
        match fixed::is_fixed(dtype) {
            true => fixed::scratch_lines(cols),
            false => 0,
        }
    }

    #[inline(always)]
    pub(crate) fn prefetch(&self) -> PrefetchManager {
        self.kernels.prefetch()
    }

    #[inline(always)]
    pub(crate) fn row(&self, row: usize) -> &[u8] {
        &self.blocks[row * self.row_bytes..][..self.row_bytes]
    }

    /// Multiplies: `out` (tokens, rows.len()) = activations · W[rows]ᵀ.
    ///
    /// # Panics
    /// When shapes do not fit, or `scratch` is shorter than [`DenseWeight::scratch_lines`].
    pub fn matmul(
        &self,
        rows: Range<usize>,
        x: ActivationView<'_>,
        scratch: &mut [Line],
        out: MatMut<'_, f32>,
    ) {
        self.matmul_prepared(rows, x, scratch, &mut PreparedInput::default(), out);
    }

    /// [`DenseWeight::matmul`], in pieces: what is made of the activations is made once for products with several ranges of rows.
    /// `prepared` begins as the default, and it, `x` and `scratch` stay the same from piece to piece.
    ///
    /// # Panics
    /// As [`DenseWeight::matmul`].
    pub fn matmul_prepared(
        &self,
        rows: Range<usize>,
        x: ActivationView<'_>,
        scratch: &mut [Line],
        prepared: &mut PreparedInput,
        out: MatMut<'_, f32>,
    ) {
        self.check(&rows, &x, &out);
        match fixed::is_fixed(self.dtype) {
            true => (self.kernels).fixed_matmul(self, rows, x, scratch, prepared, out),
            false => self.kernels.dense_matmul(self, rows, x, out),
        }
    }

    fn check(&self, rows: &Range<usize>, x: &ActivationView<'_>, out: &MatMut<'_, f32>) {
        assert!(
            rows.start <= rows.end && rows.end <= self.rows,
            "rows {rows:?} of {}",
            self.rows
        );
        assert_eq!(x.cols(), self.cols, "columns of activations");
        assert_eq!(out.rows(), x.tokens(), "rows of the output");
        assert_eq!(out.cols(), rows.len(), "columns of the output");
    }

    /// Whether there are coarse products of a matrix of this type, whose activations have one byte where those of others have three.
    pub fn has_coarse(dtype: DType) -> bool {
        fixed::is_fixed(dtype)
    }

    /// [`DenseWeight::matmul_prepared`] with activations of one byte: a third of the work. An output is off by no more than
    /// [`DenseWeight::coarse_row_errors`] · [`DenseWeight::coarse_error`] + [`COARSE_FLOOR`] where nothing overflows.
    ///
    /// # Panics
    /// As [`DenseWeight::matmul`], and when the type has no [coarse products](DenseWeight::has_coarse).
    pub fn matmul_coarse(
        &self,
        rows: Range<usize>,
        x: ActivationView<'_>,
        scratch: &mut [Line],
        prepared: &mut PreparedInput,
        out: MatMut<'_, f32>,
    ) {
        self.check(&rows, &x, &out);
        (self.kernels).coarse_matmul(self, rows, x, scratch, prepared, out);
    }

    /// What a coarse product may be off by, for each of the rows from `first` on, by what activations give: it is a bound of the norm of
    /// the row. Infinite or no number where a row is not finite.
    ///
    /// # Panics
    /// When there are no such rows, or the type has no [coarse products](DenseWeight::has_coarse).
    pub fn coarse_row_errors(&self, first: usize, out: &mut [f32]) {
        assert!(
            first + out.len() <= self.rows,
            "rows from {first} of {}",
            self.rows
        );
        self.kernels.coarse_errors(self, first, out);
    }

    /// What a coarse product with `x` may be off by, by the norm of the row, and ‖x‖ rounded up; infinite where a number is not
    /// finite.
    ///
    /// # Panics
    /// When the type has no [coarse products](DenseWeight::has_coarse).
    pub fn coarse_error(&self, x: &[f32]) -> (f64, f64) {
        fixed::coarse::error(self.dtype, x)
    }

    /// Decodes one row exactly.
    ///
    /// # Panics
    /// When there is no such row or `out` is not `cols` long.
    pub fn decode_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        assert_eq!(out.len(), self.cols, "length of a decoded row");
        self.kernels.dense_decode(self.dtype, self.row(row), out);
    }
}
