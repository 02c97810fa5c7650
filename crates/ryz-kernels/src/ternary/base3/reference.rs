//! The portable products, and the reference of the others: places by division.

use ryz_tmac::PrefetchManager;

use super::{BLOCK_LINES, BLOCK_UNITS, Base3Dot, BlockValues};
use crate::ternary::{Line, ScalarCodes};

impl Base3Dot for ScalarCodes {
    type Codes = Self;

    #[inline(always)]
    fn codes(self) -> Self {
        self
    }

    #[inline(always)]
    fn units(
        self,
        block: &[Line; BLOCK_LINES],
        x: &BlockValues,
        _: PrefetchManager,
    ) -> [[i32; 16]; BLOCK_UNITS] {
        let mut sums = [[0; 16]; BLOCK_UNITS];
        let mut power = 1;
        for (sums, x) in sums.iter_mut().zip(x) {
            for (line, x) in block.iter().zip(x.as_chunks::<4>().0) {
                for (sum, bytes) in sums.iter_mut().zip(line.0.as_chunks::<4>().0) {
                    for (byte, &q) in bytes.iter().zip(x) {
                        *sum += i32::from(byte / power % 3) * i32::from(q);
                    }
                }
            }
            power = power.wrapping_mul(3);
        }
        sums
    }
}
