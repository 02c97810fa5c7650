//! The portable integer products, and the reference of the others: Σ code·q as it is written.

use ryz_tmac::{PrefetchManager, QuadLine};

use super::{
    LINE_COLS, Line,
    code_dot::{CodeDot, LINE_QUADS, Quad},
};
use crate::{ByteLine, TileShape, simd::Scalar};

/// The token of the portable products: it needs nothing.
#[derive(Clone, Copy)]
pub(crate) struct ScalarCodes;

impl CodeDot for ScalarCodes {
    type S = Scalar;

    const WIDE: bool = false;

    const SHAPE: TileShape = TileShape::Quads;

    #[inline(always)]
    fn simd(self) -> Scalar {
        Scalar
    }

    #[inline(always)]
    fn span<const T: usize>(
        self,
        lines: &[Line],
        x: [&[i8]; T],
        _: bool,
        _: PrefetchManager,
    ) -> [[i32; 16]; T] {
        let mut sums = [[0; 16]; T];
        for (sums, x) in sums.iter_mut().zip(x) {
            for (line, x) in lines.iter().zip(x.as_chunks::<LINE_COLS>().0) {
                for (row, sum) in sums.iter_mut().enumerate() {
                    let word = line.word(row);
                    for (c, &q) in x.iter().enumerate() {
                        let code = word >> (8 * (c % 4) + 2 * (c / 4)) & 3;
                        *sum += code as i32 * i32::from(q);
                    }
                }
            }
        }
        sums
    }

    #[inline(always)]
    fn unpack(self, line: &Line) -> [Quad; LINE_QUADS] {
        std::array::from_fn(|k| Quad(line.0.map(|byte| byte >> (2 * k) & 3)))
    }

    #[inline(always)]
    fn tokens<const R: usize, const G: usize>(
        self,
        codes: &[Quad],
        row: usize,
        x: [[&[ByteLine]; 2]; G],
        _: bool,
    ) -> [[[[i32; 16]; 2]; G]; R] {
        let mut sums = [[[[0; 16]; 2]; G]; R];
        for (g, x) in x.into_iter().enumerate() {
            for (half, lines) in x.into_iter().enumerate() {
                let lines: &[QuadLine] = bytemuck::cast_slice(lines);
                for (quad, line) in codes.iter().zip(lines) {
                    for r in 0..R {
                        let codes = quad.row(row + r).map(i32::from);
                        for (sum, q) in sums[r][g][half].iter_mut().zip(&line.0) {
                            *sum += (0..4).map(|b| codes[b] * i32::from(q[b])).sum::<i32>();
                        }
                    }
                }
            }
        }
        sums
    }
}
