//! Ternary weights in 2 bits: their packed form and the products with it. 1.6 bits, which they can be laid out in anew, are those of
//! [`base3`].
//!
//! ```text
//! y = W·x,  W[r][c] = s·t,  t = code − 1 in {−1, 0, +1} (code 3, where a type has it, is +2)
//! ```
//!
//! **Layout.** Rows go in tiles of 16, columns in lines of 16; one [`Line`] of 64 bytes holds 16 × 16 codes, and the
//! lines of a tile follow one another, so that a tile is one stream. Word r (32 bits) of a line is row r:
//! column c is in byte c mod 4, bits 2·(c div 4). So byte 4r + b shifted by 2k and masked is column 4k + b of row r, for
//! all rows at once: a 32-bit lane holds four columns of one row, the four that one broadcast word of int8 activations
//! multiplies, and lanes never have to be added together. Read the other way, one word broadcast and shifted by lane is
//! 16 columns of one row, which the f32 path looks up.
//! Columns are padded to whole units of 64 and rows to whole tiles, with code 0.
//!
//! **Equations.** With t the codes less one, u the units (spans of the smaller of the weights' and the activations'
//! groups, ascending), and Σ in int32:
//!
//! | activations | scales of the weights | y |
//! |---|---|---|
//! | int8 per token | tensor or row | (f32(Σ q·t) · s_w) / s_x |
//! | int8 per token | group | (Σ_u fma(f32(Σ q·t), s_u, …)) / s_x |
//! | int8 per group | tensor or row | (Σ_u fma(f32(Σ q·t), 1/s_x,u, …)) · s_w |
//! | int8 per group | group | Σ_u fma(f32(Σ q·t), s_u · (1/s_x,u), …) |
//! | f32 | any | the 16-lane dot product of x with the decoded weights s·t, as a dense matrix has it |

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod base3;
pub(crate) mod code_dot;
pub(crate) mod float;
pub(crate) mod integer;
mod pack;
mod packing;
mod reference;
mod scales;
pub(crate) mod tiles;
mod words;

use std::ops::Range;

use bytemuck::{Pod, Zeroable};
use ryz_tmac::{MatMut, PrefetchManager, ReadOnlySlice};

pub use pack::{PackChunk, TernaryPacker};
pub use packing::Packing;
pub use scales::ScaleLayout;
pub(crate) use scales::Scales;

pub(crate) use reference::ScalarCodes;
#[cfg(target_arch = "x86_64")]
pub(crate) use {
    avx2::Avx2Codes, avx2::AvxVnniCodes, avx512::Avx512Codes, avx512::Avx512VnniCodes,
};

use crate::{ActivationView, BatchLayout, Kernels, activations::UNIT};
use base3::Base3View;

/// Rows of a tile.
pub const ROW_TILE: usize = 16;
/// Columns of a line.
pub(crate) const LINE_COLS: usize = 16;
/// Lines of a unit of 64 columns.
pub(crate) const UNIT_LINES: usize = UNIT / LINE_COLS;
/// The widest matrix whose sums fit int32 on every path: the widest product is (3·64)·128 a code, a quarter of the
/// columns in one sum, so cols ≤ 4 · (2^31 − 1) / (192 · 128) = 349,525.
pub const MAX_COLS: usize = 1 << 18;

const _: () = assert!((MAX_COLS as u64 / 4) * 192 * 128 < 1 << 31);

/// 16 rows × 16 columns of 2-bit codes; see the module's layout.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct Line(pub [u8; 64]);

const _: () = assert!(size_of::<Line>() == 64);

impl Line {
    /// The codes of row `row`, as one word.
    #[inline(always)]
    pub(crate) fn word(&self, row: usize) -> u32 {
        bytemuck::cast_ref::<[u8; 64], [[u8; 4]; 16]>(&self.0)
            .get(row)
            .map_or(0, |bytes| u32::from_le_bytes(*bytes))
    }
}

/// The code of a column of a line, in a row's word.
fn code_of(word: u32, column: usize) -> u8 {
    (word >> (8 * (column % 4) + 2 * (column / 4)) & 3) as u8
}

/// A ternary matrix, packed for the kernels: (rows, cols) of codes, with scales.
#[derive(Debug)]
pub struct PackedTernary {
    rows: usize,
    cols: usize,
    /// The greatest code: 3 when some weight is +2, which takes a row of kernels proved for it.
    max_code: u8,
    packing: Packing,
    /// (tiles, lines of a tile); in 1.6 bits the lines past them are not used.
    lines: ReadOnlySlice<Line>,
    scales: Scales,
    kernels: Kernels,
}

/// Tiles of a matrix as kernels read them: all, or some that were laid out anew.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TernaryView<'a> {
    /// From tile `first_tile` on.
    pub lines: &'a [Line],
    pub first_tile: usize,
    pub lines_per_tile: usize,
    pub max_code: u8,
    /// Of all tiles.
    pub scales: &'a Scales,
    pub prefetch: PrefetchManager,
}

impl<'a> TernaryView<'a> {
    /// The code of a row and column of the matrix.
    pub(crate) fn code(&self, row: usize, col: usize) -> u8 {
        let word = self.tile(row / ROW_TILE)[col / LINE_COLS].word(row % ROW_TILE);
        code_of(word, col % LINE_COLS)
    }

    #[inline(always)]
    pub(crate) fn tile(&self, tile: usize) -> &'a [Line] {
        &self.lines[(tile - self.first_tile) * self.lines_per_tile..][..self.lines_per_tile]
    }
}

/// What a matrix is made of, without its shape.
pub(crate) struct Parts {
    pub lines: ReadOnlySlice<Line>,
    pub scales: Scales,
    pub kernels: Kernels,
}

impl PackedTernary {
    /// # Panics
    /// When it is not in 2 bits.
    pub(crate) fn into_parts(self) -> Parts {
        assert_eq!(self.packing, Packing::TwoBits, "packing of lines");
        Parts {
            lines: self.lines,
            scales: self.scales,
            kernels: self.kernels,
        }
    }

    pub(crate) fn from_parts(rows: usize, cols: usize, max_code: u8, parts: Parts) -> Self {
        Self {
            rows,
            cols,
            max_code,
            packing: Packing::TwoBits,
            lines: parts.lines,
            scales: parts.scales,
            kernels: parts.kernels,
        }
    }

    /// Changes the kernels of its products: packed weights are the same for every level.
    pub fn set_kernels(&mut self, kernels: Kernels) {
        self.kernels = kernels;
    }

    /// Rows: outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns: inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Whether some weight is +2 (code 3).
    pub fn has_code_3(&self) -> bool {
        self.max_code == 3
    }

    /// How the scales are stored, after equal ones were made one.
    pub fn scale_layout(&self) -> ScaleLayout {
        self.scales.layout()
    }

    /// Bytes of codes and scales that one product reads.
    pub fn packed_bytes(&self) -> usize {
        size_of_val(self.stored()) + self.scales.bytes()
    }

    /// What [`PackedTernary::packed_bytes`] are in 2 bits.
    pub fn two_bit_bytes(&self) -> usize {
        size_of_val::<[Line]>(&self.lines) + self.scales.bytes()
    }

    /// The kernel of products with many tokens of int8 activations.
    pub fn batch_kernel_name(&self) -> &'static str {
        let set = self.kernels.set();
        match self.kernels.batch() {
            BatchLayout::Rows => set.ternary_i8.name,
            BatchLayout::Tiles => set.ternary_tiles.name,
        }
    }

    /// The kernel of products with int8 (`true`) or f32 activations.
    pub fn kernel_name(&self, int8: bool) -> &'static str {
        self.kernel_name_in(self.packing, int8)
    }

    /// The same, if it were packed so.
    pub fn kernel_name_in(&self, packing: Packing, int8: bool) -> &'static str {
        let set = self.kernels.set();
        match (int8, packing) {
            (false, _) => set.ternary_f32.name,
            (true, Packing::TwoBits) => set.ternary_i8.name,
            (true, Packing::Base3) => set.base3.name,
        }
    }

    /// Lines of a tile in 2 bits.
    pub(crate) fn lines_per_tile(&self) -> usize {
        self.cols.div_ceil(UNIT) * UNIT_LINES
    }

    /// Lines of a tile as it is packed.
    fn stored_lines_per_tile(&self) -> usize {
        match self.packing {
            Packing::TwoBits => self.lines_per_tile(),
            Packing::Base3 => base3::stored_lines(self.cols),
        }
    }

    /// The lines that hold codes.
    fn stored(&self) -> &[Line] {
        &self.lines[..self.rows.div_ceil(ROW_TILE) * self.stored_lines_per_tile()]
    }

    /// What kernels of 1.6 bits read.
    fn base3_view(&self) -> Base3View<'_> {
        Base3View {
            lines: self.stored(),
            cols: self.cols,
            scales: &self.scales,
            prefetch: self.prefetch(),
        }
    }

    /// What kernels of 2 bits read.
    pub(crate) fn view(&self) -> TernaryView<'_> {
        debug_assert_eq!(self.packing, Packing::TwoBits);
        TernaryView {
            lines: &self.lines,
            first_tile: 0,
            lines_per_tile: self.lines_per_tile(),
            max_code: self.max_code,
            scales: &self.scales,
            prefetch: self.prefetch(),
        }
    }

    pub(crate) fn prefetch(&self) -> PrefetchManager {
        self.kernels.prefetch()
    }

    /// Asks for the first `lines` cache lines of some rows, which will be read soon; fewer when the rows have not as many.
    ///
    /// # Panics
    /// When `rows` does not start at a tile of the matrix.
    pub fn prefetch_rows(&self, rows: Range<usize>, lines: usize) {
        assert!(rows.start.is_multiple_of(ROW_TILE), "rows start at a tile");
        if self.prefetch() == PrefetchManager::OFF {
            return;
        }
        let of_tile = self.stored_lines_per_tile();
        let tiles = rows.start / ROW_TILE..rows.end.div_ceil(ROW_TILE);
        PrefetchManager::first(
            &self.lines[tiles.start * of_tile..tiles.end * of_tile],
            lines,
        );
    }

    /// Multiplies: `out` (tokens, rows.len()) = activations · W[rows]ᵀ.
    ///
    /// A token's result depends on neither the other tokens nor the cut into row ranges.
    ///
    /// # Panics
    /// When shapes do not fit, or `rows` starts inside a tile of [`ROW_TILE`].
    pub fn matmul(&self, rows: Range<usize>, x: ActivationView<'_>, out: MatMut<'_, f32>) {
        assert!(
            rows.start <= rows.end && rows.end <= self.rows,
            "rows {rows:?} of {}",
            self.rows
        );
        assert!(
            rows.start.is_multiple_of(ROW_TILE),
            "row {} is inside a tile of {ROW_TILE}",
            rows.start
        );
        assert_eq!(x.cols(), self.cols, "columns of activations");
        assert_eq!(out.rows(), x.tokens(), "rows of the output");
        assert_eq!(out.cols(), rows.len(), "columns of the output");
        match self.packing {
            Packing::TwoBits => self.kernels.ternary_matmul(self.view(), rows, x, out),
            Packing::Base3 => base3::matmul(self.kernels, self.base3_view(), rows, x, out),
        }
    }

    /// Decodes one row exactly.
    ///
    /// # Panics
    /// When there is no such row or `out` is not `cols` long.
    pub fn decode_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        assert_eq!(out.len(), self.cols, "length of a decoded row");
        let (tile, row) = (row / ROW_TILE, row % ROW_TILE);
        for (index, out) in out.chunks_mut(LINE_COLS).enumerate() {
            let scale = self.scales.at(tile, row, index * LINE_COLS);
            let word = match self.packing {
                Packing::TwoBits => self.view().tile(tile)[index].word(row),
                Packing::Base3 => self.base3_view().word(tile, row, index),
            };
            for (c, out) in out.iter_mut().enumerate() {
                *out = (f32::from(code_of(word, c)) - 1.0) * scale;
            }
        }
    }
}
