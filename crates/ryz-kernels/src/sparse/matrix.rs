//! A ternary matrix in rows or columns.

use std::ops::Range;

use ryz_tmac::{AlignedVec, Arena, BufferKind, MatMut, PrefetchManager, ReadOnlySlice};

use super::{ColumnLines, LINE_CODES, LineOrder, product::LISTS};
use crate::{
    ActivationView, KernelError, Kernels, Line, PackedTernary, QuantizedRows, ROW_TILE,
    ScaleLayout,
    ternary::{LINE_COLS, Parts, Scales, TernaryView},
};

/// A ternary matrix of which products leave out rows or columns: (rows, cols) of 2-bit codes, in the lines of a
/// [`LineOrder`], with one scale or one for each row. Where too few can be left out, it lies in tiles
/// ([`SparseTernary::lay_out`]), and products read all of it.
#[derive(Debug)]
pub struct SparseTernary {
    order: LineOrder,
    /// Its lines are those of tiles, not of the order.
    tiled: bool,
    /// See [`LineOrder::run`].
    run: usize,
    rows: usize,
    cols: usize,
    max_code: u8,
    lines: AlignedVec<Line>,
    scales: Scales,
    kernels: Kernels,
    /// See [`SparseTernary::listed_share`].
    listed_share: f32,
    /// See [`SparseTernary::order_share`].
    order_share: f32,
}

impl SparseTernary {
    /// Lays the lines of a packed matrix out anew, in its own memory; a piece of them is in scratch memory meanwhile.
    ///
    /// Gives the matrix back as it is where that cannot be: where its shape does not fit the order, scales belong to
    /// groups, or its lines are those of a mapped file.
    ///
    /// # Errors
    /// [`KernelError::Memory`].
    pub fn new(
        packed: PackedTernary,
        order: LineOrder,
        arena: &Arena,
    ) -> Result<Result<Self, PackedTernary>, KernelError> {
        let grouped = matches!(packed.scale_layout(), ScaleLayout::PerGroup(_));
        if grouped || !order.fits(packed.rows(), packed.cols()) {
            return Ok(Err(packed));
        }
        let (rows, cols, max_code) = (packed.rows(), packed.cols(), packed.view().max_code);
        let Parts {
            lines,
            scales,
            kernels,
        } = packed.into_parts();
        let lines = match lines {
            ReadOnlySlice::Owned(lines) => lines,
            lines @ ReadOnlySlice::Mapped(_) => {
                let parts = Parts {
                    lines,
                    scales,
                    kernels,
                };
                return Ok(Err(PackedTernary::from_parts(rows, cols, max_code, parts)));
            }
        };
        let mut matrix = Self {
            order,
            tiled: true,
            run: order.run(rows),
            rows,
            cols,
            max_code,
            lines,
            scales,
            kernels,
            listed_share: 1.0,
            order_share: 1.0,
        };
        let piece = matrix.piece_lines();
        let mut staging = arena.allocate_slice::<Line>(piece, BufferKind::Staging)?;
        matrix.lay_out(false, &mut staging);
        Ok(Ok(matrix))
    }

    /// Bytes of scratch memory that [`SparseTernary::new`] takes.
    pub fn staging_bytes(order: LineOrder, rows: usize, cols: usize) -> usize {
        order.run(rows) * order.granule_lines(cols) * size_of::<Line>()
    }

    /// Lines of scratch memory that [`SparseTernary::lay_out`] takes.
    pub fn piece_lines(&self) -> usize {
        self.run * self.order.granule_lines(self.cols)
    }

    /// Lays its lines out as `tiled`, or in its order again, in its own memory; a piece of them is in `staging` meanwhile. No
    /// product changes.
    ///
    /// # Panics
    /// When `staging` is shorter than [`SparseTernary::piece_lines`].
    pub fn lay_out(&mut self, tiled: bool, staging: &mut [Line]) {
        if tiled == self.tiled {
            return;
        }
        let (order, run, kernels) = (self.order, self.run, self.kernels);
        let granule = order.granule_lines(self.cols);
        let piece = self.piece_lines();
        let staging = &mut staging[..piece];
        for lines in self.lines.chunks_exact_mut(piece) {
            staging.copy_from_slice(lines);
            if tiled {
                for (place, tiles) in lines.chunks_exact_mut(granule).enumerate() {
                    kernels.sparse_to_tiles(order, run, place, staging, tiles);
                }
            } else {
                kernels.sparse_from_tiles(order, run, staging, lines);
            }
        }
        self.tiled = tiled;
    }

    /// See [`crate::Linear::rows_together`]: in columns, three lines of a run. A step of BitNet 2B-4T's shape whose threads took one line
    /// of a column at a time, and the next one of the same run when they came back, took 1.11 times as long (two threads, Zen 5).
    pub(crate) fn rows_together(&self) -> usize {
        match (self.order, self.tiled) {
            (LineOrder::Columns, false) => self.run.min(LINES_TOGETHER) * LINE_CODES,
            _ => 1,
        }
    }

    /// Whether it lies in tiles, so that nothing is left out.
    pub fn is_tiled(&self) -> bool {
        self.tiled
    }

    /// How its lines lie.
    pub fn order(&self) -> LineOrder {
        self.order
    }

    /// Rows: outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns: inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes of codes and scales that a product which leaves nothing out reads.
    pub fn packed_bytes(&self) -> usize {
        size_of_val::<[Line]>(&self.lines) + self.scales.bytes()
    }

    /// Rows (in rows) or columns (in columns): what can be left out.
    pub fn items(&self) -> usize {
        match self.order {
            LineOrder::Rows => self.rows,
            LineOrder::Columns => self.cols,
        }
    }

    /// Bytes of one row (in rows) or of one column (in columns): what leaving it out does not read.
    pub fn item_bytes(&self) -> usize {
        let codes = match self.order {
            LineOrder::Rows => self.cols,
            LineOrder::Columns => self.rows,
        };
        codes / 4
    }

    /// In rows: the share of some rows up to which a list of those that count is faster than all of them
    /// ([`SparseTernary::multiply_rows`], [`SparseTernary::matmul`]); 1 until something else was measured.
    pub fn listed_share(&self) -> f32 {
        self.listed_share
    }

    /// Changes [`SparseTernary::listed_share`].
    pub fn set_listed_share(&mut self, share: f32) {
        self.listed_share = share;
    }

    /// The share of rows (in rows) or columns (in columns) that count, of one token, up to which products in its order are faster than
    /// in tiles; 1 until something else was measured.
    pub fn order_share(&self) -> f32 {
        self.order_share
    }

    /// Changes [`SparseTernary::order_share`].
    pub fn set_order_share(&mut self, share: f32) {
        self.order_share = share;
    }

    /// Changes the kernels of its products: the lines are the same for every level.
    pub fn set_kernels(&mut self, kernels: Kernels) {
        self.kernels = kernels;
    }

    /// The kernel of products with int8 (`true`) or f32 activations, in its order; it names the kind of the matrix, in tiles, too.
    pub fn kernel_name(&self, int8: bool) -> &'static str {
        let set = self.kernels.set();
        match (int8, self.order) {
            (false, _) => set.ternary_f32.name,
            (true, LineOrder::Rows) => set.sparse_rows.name,
            (true, LineOrder::Columns) => set.sparse_columns.name,
        }
    }

    /// Lines of scratch memory that a product takes.
    pub fn scratch_lines(&self) -> usize {
        Self::scratch_lines_of(self.order, self.cols)
    }

    /// [`SparseTernary::scratch_lines`] of a matrix of this width.
    pub fn scratch_lines_of(order: LineOrder, cols: usize) -> usize {
        dense_rows(order) / ROW_TILE * (cols / LINE_COLS)
    }

    pub(crate) fn scales(&self) -> &Scales {
        &self.scales
    }

    pub(crate) fn max_code(&self) -> u8 {
        self.max_code
    }

    pub(crate) fn prefetch(&self) -> PrefetchManager {
        self.kernels.prefetch()
    }

    pub(crate) fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// Lines of one row, in rows.
    #[inline(always)]
    pub(crate) fn row_lines(&self) -> usize {
        self.cols / LINE_CODES
    }

    #[inline(always)]
    pub(crate) fn row(&self, row: usize) -> &[Line] {
        debug_assert!(self.order == LineOrder::Rows && !self.tiled);
        &self.lines[row * self.row_lines()..][..self.row_lines()]
    }

    /// The lines of the block of 256 rows `block`, in columns.
    #[inline(always)]
    pub(crate) fn column_lines(&self, block: usize) -> ColumnLines<'_> {
        debug_assert!(self.order == LineOrder::Columns && !self.tiled);
        let (piece, place) = (block / self.run, block % self.run);
        ColumnLines {
            lines: &self.lines[piece * self.run * self.cols..][..self.run * self.cols][place..],
            run: self.run,
            prefetch: self.prefetch(),
        }
    }

    /// The end of the blocks whose lines of a column lie beside those of `block`.
    pub(crate) fn run_end(&self, block: usize) -> usize {
        block - block % self.run + self.run
    }

    /// Multiplies: `out` (tokens, rows.len()) = activations · W\[rows\]ᵀ, the bits that the packed matrix gives. Few
    /// tokens of int8 activations with one scale each read only the columns that are not 0, where the order allows it;
    /// all others go through tiles in `scratch`.
    ///
    /// # Panics
    /// When shapes do not fit, `rows` does not start and end at granules of the order or at the end, or `scratch` is shorter
    /// than [`SparseTernary::scratch_lines`].
    pub fn matmul(
        &self,
        rows: Range<usize>,
        x: ActivationView<'_>,
        scratch: &mut [Line],
        mut out: MatMut<'_, f32>,
    ) {
        let granule = self.order.row_granule();
        assert!(
            rows.start.is_multiple_of(granule)
                && (rows.end.is_multiple_of(granule) || rows.end == self.rows)
                && rows.end <= self.rows,
            "rows {rows:?} of {} in steps of {granule}",
            self.rows
        );
        assert_eq!(x.cols(), self.cols, "columns of activations");
        assert_eq!(out.rows(), x.tokens(), "rows of the output");
        assert_eq!(out.cols(), rows.len(), "columns of the output");
        if self.tiled {
            let view = self.view(rows.clone());
            return self.kernels.ternary_matmul(view, rows, x, out);
        }
        let scratch = &mut scratch[..self.scratch_lines()];
        match x {
            ActivationView::I8(x)
                if x.tokens() <= self.direct() && x.layout().group().is_none() =>
            {
                match self.order {
                    LineOrder::Rows => self.kernels.sparse_rows(self, rows, x, out),
                    LineOrder::Columns => self.kernels.sparse_columns(self, rows, x, scratch, out),
                }
            }
            _ => {
                for first in rows.clone().step_by(dense_rows(self.order)) {
                    let some = first..rows.end.min(first + dense_rows(self.order));
                    let view = self.tiles(some.clone(), scratch);
                    let columns = some.start - rows.start..some.end - rows.start;
                    self.kernels
                        .ternary_matmul(view, some, x, out.columns(columns));
                }
            }
        }
    }

    /// Multiplies the rows of `list`, which ascend, with one token of int8 activations: `out`, which starts with row
    /// `first`, is left as it is elsewhere.
    ///
    /// # Panics
    /// When the matrix is not in rows or is tiled, shapes do not fit, the activations have groups, or there is no such token or row.
    pub fn multiply_rows(
        &self,
        list: &[u32],
        first: usize,
        x: QuantizedRows<'_>,
        token: usize,
        out: &mut [f32],
    ) {
        assert!(
            self.order == LineOrder::Rows && !self.tiled,
            "a list of rows of a matrix that is not in rows"
        );
        assert_eq!(x.layout().cols(), self.cols, "columns of activations");
        assert_eq!(x.layout().group(), None, "groups of activations");
        self.kernels.sparse_listed(self, list, first, x, token, out);
    }

    /// The most tokens of int8 activations that are multiplied with the lines as they are: tiles are faster, but laying them out
    /// takes as long as the products of some eight tokens (columns) or thirty (rows), measured.
    fn direct(&self) -> usize {
        match self.order {
            LineOrder::Rows => 32,
            LineOrder::Columns => LISTS,
        }
    }

    /// Rows of a matrix that lies in tiles.
    fn view(&self, rows: Range<usize>) -> TernaryView<'_> {
        let lines = self.cols / LINE_COLS;
        TernaryView {
            lines: &self.lines[rows.start / ROW_TILE * lines..rows.end / ROW_TILE * lines],
            first_tile: rows.start / ROW_TILE,
            lines_per_tile: lines,
            max_code: self.max_code,
            scales: &self.scales,
            prefetch: self.prefetch(),
        }
    }

    /// Lays some rows out as tiles.
    fn tiles<'a>(&'a self, rows: Range<usize>, scratch: &'a mut [Line]) -> TernaryView<'a> {
        let granule = self.order.row_granule();
        let lines = self.order.granule_lines(self.cols);
        let granules = rows.start / granule..rows.end / granule;
        let scratch = &mut scratch[..granules.len() * lines];
        for (granule, tiles) in granules.zip(scratch.chunks_exact_mut(lines)) {
            let (piece, place) = (granule / self.run, granule % self.run);
            let piece = &self.lines[piece * self.run * lines..][..self.run * lines];
            self.kernels
                .sparse_to_tiles(self.order, self.run, place, piece, tiles);
        }
        TernaryView {
            lines: scratch,
            first_tile: rows.start / ROW_TILE,
            lines_per_tile: self.cols / LINE_COLS,
            max_code: self.max_code,
            scales: &self.scales,
            // They are in the cache.
            prefetch: PrefetchManager::OFF,
        }
    }

    /// Decodes one row exactly.
    ///
    /// # Panics
    /// When there is no such row or `out` is not `cols` long.
    pub fn decode_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        assert_eq!(out.len(), self.cols, "length of a decoded row");
        let scale = self.scales.at(row / ROW_TILE, row % ROW_TILE, 0);
        let tile = row - row % ROW_TILE;
        let tiles = self.tiled.then(|| self.view(tile..tile + ROW_TILE));
        for (col, out) in out.iter_mut().enumerate() {
            if let Some(tiles) = &tiles {
                let code = tiles.code(row, col);
                *out = (f32::from(code) - 1.0) * scale;
                continue;
            }
            let (line, place) = match self.order {
                LineOrder::Rows => (self.row(row)[col / LINE_CODES], col % LINE_CODES),
                LineOrder::Columns => {
                    let lines = self.column_lines(row / LINE_CODES);
                    (*lines.line(col as u32), row % LINE_CODES)
                }
            };
            let code = line.0[place % super::PLANE] >> (2 * (place / super::PLANE)) & 3;
            *out = (f32::from(code) - 1.0) * scale;
        }
    }
}

/// Lines of a column's that are taken at a time: 3 and 5 were as fast, 2 and 1 slower by 4 and 9 %, of steps.
const LINES_TOGETHER: usize = 3;

/// Rows that a dense product lays out as tiles at a time: a part of the second-level cache.
const fn dense_rows(order: LineOrder) -> usize {
    match order {
        LineOrder::Rows => 4 * ROW_TILE,
        LineOrder::Columns => LINE_CODES,
    }
}
