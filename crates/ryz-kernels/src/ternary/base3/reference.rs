//! The portable products, and the reference of the others: places by division.

use ryz_tmac::PrefetchManager;

use super::{BLOCK_LINES, BLOCK_UNITS, Base3Dot, BlockValues};
use crate::ternary::{Line, ScalarCodes};

impl Base3Dot for ScalarCodes {
    type Codes = Self;

    const TOKENS: usize = 8;

    #[inline(always)]
    fn codes(self) -> Self {
        self
    }

    #[inline(always)]
    fn units(self, sums: [[i32; 16]; BLOCK_UNITS]) -> [[i32; 16]; BLOCK_UNITS] {
        sums
    }

    #[inline(always)]
    fn add<const T: usize>(
        self,
        block: &[Line; BLOCK_LINES],
        x: [&BlockValues; T],
        mut sums: [[[i32; 16]; BLOCK_UNITS]; T],
        _: PrefetchManager,
    ) -> [[[i32; 16]; BLOCK_UNITS]; T] {
        for (sums, x) in sums.iter_mut().zip(x) {
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
        }
        sums
    }
}
