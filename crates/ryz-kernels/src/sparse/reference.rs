//! The portable sparse sums, and the reference of the others.

use ryz_tmac::PrefetchManager;

use super::{ActiveColumns, LINE_CODES, PLANE, SparseDot};
use crate::{Line, ternary::ScalarCodes};

impl SparseDot for ScalarCodes {
    #[inline(always)]
    fn columns(
        self,
        block: &[Line],
        active: ActiveColumns<'_>,
        _: bool,
        _: PrefetchManager,
    ) -> [i32; LINE_CODES] {
        let mut sums = [0; LINE_CODES];
        for (&column, &q) in active.columns.iter().zip(active.values) {
            let line = &block[column as usize].0;
            for (plane, sums) in sums.as_chunks_mut::<PLANE>().0.iter_mut().enumerate() {
                for (sum, &byte) in sums.iter_mut().zip(line) {
                    *sum += i32::from(byte >> (2 * plane) & 3) * i32::from(q);
                }
            }
        }
        sums
    }

    #[inline(always)]
    fn row<const T: usize>(self, lines: &[Line], x: [&[i8]; T], _: bool) -> [i32; T] {
        let mut sums = [0; T];
        for (sum, x) in sums.iter_mut().zip(x) {
            for (line, x) in lines.iter().zip(x.as_chunks::<LINE_CODES>().0) {
                for (plane, x) in x.as_chunks::<PLANE>().0.iter().enumerate() {
                    for (&byte, &q) in line.0.iter().zip(x) {
                        *sum += i32::from(byte >> (2 * plane) & 3) * i32::from(q);
                    }
                }
            }
        }
        sums
    }
}
