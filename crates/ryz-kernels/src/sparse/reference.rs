//! The portable sparse sums, and the reference of the others.

use super::{ActiveColumns, ColumnLines, LINE_CODES, PLANE, SparseDot};
use crate::{Line, ternary::ScalarCodes};

impl SparseDot for ScalarCodes {
    #[inline(always)]
    fn add_columns(
        self,
        lines: ColumnLines<'_>,
        active: ActiveColumns<'_>,
        _: bool,
        _: &[u32],
        sums: &mut [i32; LINE_CODES],
    ) {
        for (&column, &q) in active.columns.iter().zip(active.values) {
            let line = &lines.line(column).0;
            for (plane, sums) in sums.as_chunks_mut::<PLANE>().0.iter_mut().enumerate() {
                for (sum, &byte) in sums.iter_mut().zip(line) {
                    *sum += i32::from(byte >> (2 * plane) & 3) * i32::from(q);
                }
            }
        }
    }

    #[inline(always)]
    fn settle(self, sums: &[i32; LINE_CODES]) -> [i32; LINE_CODES] {
        *sums
    }

    #[inline(always)]
    fn rows<const R: usize, const T: usize>(
        self,
        lines: [&[Line]; R],
        x: [&[i8]; T],
        _: bool,
        _: impl Fn(usize),
    ) -> [[i32; T]; R] {
        lines.map(|lines| x.map(|x| row(lines, x)))
    }
}

#[inline(always)]
fn row(lines: &[Line], x: &[i8]) -> i32 {
    let mut sum = 0;
    for (line, x) in lines.iter().zip(x.as_chunks::<LINE_CODES>().0) {
        for (plane, x) in x.as_chunks::<PLANE>().0.iter().enumerate() {
            for (&byte, &q) in line.0.iter().zip(x) {
                sum += i32::from(byte >> (2 * plane) & 3) * i32::from(q);
            }
        }
    }
    sum
}
