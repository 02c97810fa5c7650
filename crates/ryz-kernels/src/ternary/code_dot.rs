//! What an instruction set gives to the integer products: Σ code·q of 16 rows.

use super::{LINE_COLS, Line};
use crate::simd::Simd;

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

    fn simd(self) -> Self::S;

    /// Σ code·q of each row, over `lines` and as many sixteens of `x`. `code_3` says that codes may be 3.
    fn span(self, lines: &[Line], x: &[i8], code_3: bool) -> <Self::S as Simd>::I;

    /// Σ code·q of each row of R tiles with T tokens, over unpacked codes and as many fours of each `x`.
    fn quads<const R: usize, const T: usize>(
        self,
        codes: [&[Quad]; R],
        x: [&[i8]; T],
        code_3: bool,
    ) -> [[<Self::S as Simd>::I; T]; R];
}

/// Writes the codes of `lines` a byte each.
#[inline(always)]
pub(crate) fn unpack(lines: &[Line], quads: &mut [Quad]) {
    for (line, quads) in lines.iter().zip(quads.as_chunks_mut::<LINE_QUADS>().0) {
        for (k, quad) in quads.iter_mut().enumerate() {
            for (code, byte) in quad.0.iter_mut().zip(line.0) {
                *code = byte >> (2 * k) & 3;
            }
        }
    }
}
