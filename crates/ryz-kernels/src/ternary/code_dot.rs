//! What an instruction set gives to the integer products: Σ code·q of 16 rows.

use ryz_tmac::PrefetchManager;

use super::{LINE_COLS, Line};
use crate::{ByteLine, TileShape, simd::Simd};

/// 16 rows × 4 columns of codes, a byte each: column b of row r is byte 4r + b.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Quad(pub [u8; 64]);

/// Quads of a line.
pub(crate) const LINE_QUADS: usize = LINE_COLS / 4;

/// A token that proves an instruction set, with its sums of products.
pub(crate) trait CodeDot: Copy {
    /// The register width of the float part.
    type S: Simd;

    /// Whether registers hold two tiles times eight tokens, rather than one times four.
    const WIDE: bool;

    /// The lines of the tiles that [`CodeDot::tokens`] reads.
    const SHAPE: TileShape;

    fn simd(self) -> Self::S;

    /// Σ code·q of each row with T tokens, over `lines` and as many sixteens of each `x`: codes are unpacked in registers, once
    /// for all tokens. `code_3` says that codes may be 3.
    fn span<const T: usize>(
        self,
        lines: &[Line],
        x: [&[i8]; T],
        code_3: bool,
        prefetch: PrefetchManager,
    ) -> [<Self::S as Simd>::I; T];

    /// The codes of a line, a byte each.
    fn unpack(self, line: &Line) -> [Quad; LINE_QUADS];

    /// Σ code·q of each token of G tiles with R rows, from row `row` of the unpacked codes on; lanes are the tokens of a
    /// half tile. `x` are the lines of as many fours of columns, as [`crate::tiles::Tile::columns`] gives them.
    fn tokens<const R: usize, const G: usize>(
        self,
        codes: &[Quad],
        row: usize,
        x: [[&[ByteLine]; 2]; G],
        code_3: bool,
    ) -> [[[<Self::S as Simd>::I; 2]; G]; R];
}

impl Quad {
    /// The four codes of one row.
    #[inline(always)]
    pub(crate) fn row(&self, row: usize) -> [u8; 4] {
        self.0.as_chunks::<4>().0[row]
    }

    /// Two of them, the first in the low byte.
    #[inline(always)]
    pub(crate) fn pair(&self, row: usize, pair: usize) -> i16 {
        i16::from_le_bytes(self.0.as_chunks::<2>().0[2 * row + pair])
    }
}

/// Writes the codes of `lines` a byte each.
#[inline(always)]
pub(crate) fn unpack<K: CodeDot>(
    k: K,
    lines: &[Line],
    quads: &mut [Quad],
    prefetch: PrefetchManager,
) {
    for (line, quads) in lines.iter().zip(quads.as_chunks_mut::<LINE_QUADS>().0) {
        prefetch.ahead(line);
        *quads = k.unpack(line);
    }
}
