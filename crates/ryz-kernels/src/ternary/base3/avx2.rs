//! Products in 256-bit registers, a half of a line at a time.
//!
//! AVX-VNNI: a number modulo 3^k is got from one modulo 3^(k+1) by subtracting 3^k twice and taking the lesser byte, for what wraps
//! round is greater. Two neighbours differ by 3^k·t, at most 162, which `dpbusd` takes as it is; a unit's sum is 3^k times
//! too large, and the product with 3^k's inverse modulo 2^32 divides it, exactly. Bound: 102 blocks of 16 · 4 · 162 · 128 < 2^31.
//!
//! AVX2: `maddubs` saturates above int16, so codes must be small. The high nibble h names 27·⌊16h / 27⌋, which leaves less
//! than 43: once more less 27 is the number modulo 27. What was taken off, 27·p with p < 9, has another low nibble for each p, and
//! so a shuffle finds the two codes of p, as 2-bit fields; in the same way those of what is left modulo 9. 9·t is t
//! in its low two bits. A lane gains two pairs a line, of codes up to 8: 2048, and in 16 lines −32768 … 32512.

use std::arch::x86_64::*;

use ryz_tmac::PrefetchManager;

use super::{BLOCK_LINES, BLOCK_UNITS, Base3Dot, BlockValues};
use crate::ternary::{Avx2Codes, AvxVnniCodes, Line};

/// An intrinsic on registers alone.
macro_rules! isa {
    ($intrinsic:expr) => {
        // SAFETY: a token of this module's kernels exists, so the CPU has the features; nothing else is asked of registers.
        unsafe { $intrinsic }
    };
}

/// The inverses of 1, 3, 9, 27 and 81 modulo 2^32.
pub(super) const INVERSES: [i32; BLOCK_UNITS] = {
    let mut inverses = [1i32; BLOCK_UNITS];
    let mut k = 1;
    while k < BLOCK_UNITS {
        // 3 · 0xaaaaaaab = 2^33 + 1.
        inverses[k] = inverses[k - 1].wrapping_mul(0xaaaa_aaab_u32 as i32);
        k += 1;
    }
    inverses
};

/// 27·⌊16h / 27⌋ of a high nibble h.
pub(super) const TWENTY_SEVENS: [u8; 16] = {
    let mut table = [0; 16];
    let mut h = 0;
    while h < 16 {
        table[h] = (16 * h / 27 * 27) as u8;
        h += 1;
    }
    table
};

/// The two codes of p < 9, in bits 0 and 2, where `step`·p has its low nibble.
pub(super) const fn pairs(step: usize) -> [u8; 16] {
    let mut table = [0; 16];
    let mut p = 0;
    while p < 9 {
        table[step * p % 16] = ((p % 3) | ((p / 3) << 2)) as u8;
        p += 1;
    }
    table
}

/// Half of a line.
#[inline(always)]
fn load_half(line: &Line, half: usize) -> __m256i {
    let (halves, _) = line.0.as_chunks::<32>();
    // SAFETY: a reference to 32 bytes, read unaligned; callers hold a token, so the CPU has AVX.
    unsafe { _mm256_loadu_si256(halves[half].as_ptr().cast()) }
}

/// Four activations in every lane.
#[inline(always)]
fn broadcast(x: &[i8; 64], at: usize) -> __m256i {
    let x = x.as_chunks::<4>().0[at];
    isa!(_mm256_set1_epi32(i32::from_le_bytes(x.map(|q| q as u8))))
}

#[inline(always)]
fn table(table: [u8; 16]) -> __m256i {
    let [low, high]: [u64; 2] = bytemuck::cast(table);
    isa!(_mm256_broadcastsi128_si256(_mm_set_epi64x(
        high as i64,
        low as i64
    )))
}

/// A number modulo 3·p is one modulo p.
#[inline(always)]
fn modulo(number: __m256i, p: __m256i) -> __m256i {
    let once = isa!(_mm256_min_epu8(number, _mm256_sub_epi8(number, p)));
    isa!(_mm256_min_epu8(once, _mm256_sub_epi8(once, p)))
}

/// What both tokens do alike: registers hold the sums of one token.
macro_rules! token_by_token {
    () => {
        type Codes = Self;

        const TOKENS: usize = 1;

        #[inline(always)]
        fn codes(self) -> Self {
            self
        }

        #[inline(always)]
        fn add<const T: usize>(
            self,
            block: &[Line; BLOCK_LINES],
            x: [&BlockValues; T],
            mut sums: [[[__m256i; 2]; BLOCK_UNITS]; T],
            prefetch: PrefetchManager,
        ) -> [[[__m256i; 2]; BLOCK_UNITS]; T] {
            for t in 0..T {
                sums[t] = self.add_one(block, x[t], sums[t], prefetch);
            }
            sums
        }
    };
}

impl Base3Dot for AvxVnniCodes {
    token_by_token!();

    #[inline(always)]
    fn units(self, mut sums: [[__m256i; 2]; BLOCK_UNITS]) -> [[__m256i; 2]; BLOCK_UNITS] {
        for k in 1..BLOCK_UNITS {
            let inverse = isa!(_mm256_set1_epi32(INVERSES[k]));
            for half in 0..2 {
                sums[k][half] = isa!(_mm256_mullo_epi32(sums[k][half], inverse));
            }
        }
        sums
    }
}

impl AvxVnniCodes {
    #[inline(always)]
    fn add_one(
        self,
        block: &[Line; BLOCK_LINES],
        x: &BlockValues,
        mut total: [[__m256i; 2]; BLOCK_UNITS],
        prefetch: PrefetchManager,
    ) -> [[__m256i; 2]; BLOCK_UNITS] {
        let powers = [
            isa!(_mm256_set1_epi8(1)),
            isa!(_mm256_set1_epi8(3)),
            isa!(_mm256_set1_epi8(9)),
            isa!(_mm256_set1_epi8(27)),
            isa!(_mm256_set1_epi8(81)),
        ];
        // A half after the other: the sums of both do not fit the registers.
        for half in 0..2 {
            let mut sums = [isa!(_mm256_setzero_si256()); BLOCK_UNITS];
            for (j, line) in block.iter().enumerate() {
                if half == 0 {
                    prefetch.ahead(line);
                }
                let mut number = load_half(line, half);
                for k in (1..BLOCK_UNITS).rev() {
                    let left = modulo(number, powers[k]);
                    let codes = isa!(_mm256_sub_epi8(number, left));
                    sums[k] = isa!(_mm256_dpbusd_avx_epi32(sums[k], codes, broadcast(&x[k], j)));
                    number = left;
                }
                sums[0] = isa!(_mm256_dpbusd_avx_epi32(
                    sums[0],
                    number,
                    broadcast(&x[0], j)
                ));
            }
            for k in 0..BLOCK_UNITS {
                total[k][half] = isa!(_mm256_add_epi32(total[k][half], sums[k]));
            }
        }
        total
    }
}

impl Base3Dot for Avx2Codes {
    token_by_token!();

    #[inline(always)]
    fn units(self, mut sums: [[__m256i; 2]; BLOCK_UNITS]) -> [[__m256i; 2]; BLOCK_UNITS] {
        for k in [1, 4] {
            for half in 0..2 {
                sums[k][half] = isa!(_mm256_srai_epi32::<2>(sums[k][half]));
            }
        }
        sums
    }
}

impl Avx2Codes {
    #[inline(always)]
    fn add_one(
        self,
        block: &[Line; BLOCK_LINES],
        x: &BlockValues,
        mut total: [[__m256i; 2]; BLOCK_UNITS],
        prefetch: PrefetchManager,
    ) -> [[__m256i; 2]; BLOCK_UNITS] {
        let (twenty_sevens, of_27, of_1) =
            (table(TWENTY_SEVENS), table(pairs(27)), table(pairs(1)));
        let (nibble, one) = (isa!(_mm256_set1_epi8(0x0f)), isa!(_mm256_set1_epi16(1)));
        let (p27, p9) = (isa!(_mm256_set1_epi8(27)), isa!(_mm256_set1_epi8(9)));
        let (low, high) = (isa!(_mm256_set1_epi8(0x03)), isa!(_mm256_set1_epi8(0x0c)));
        for half in 0..2 {
            let mut sums = [isa!(_mm256_setzero_si256()); BLOCK_UNITS];
            for (j, line) in block.iter().enumerate() {
                if half == 0 {
                    prefetch.ahead(line);
                }
                let number = load_half(line, half);
                let h = isa!(_mm256_and_si256(_mm256_srli_epi16::<4>(number), nibble));
                let below_43 = isa!(_mm256_sub_epi8(
                    number,
                    _mm256_shuffle_epi8(twenty_sevens, h)
                ));
                let below_27 = isa!(_mm256_min_epu8(below_43, _mm256_sub_epi8(below_43, p27)));
                let below_9 = modulo(below_27, p9);
                let taken = isa!(_mm256_and_si256(_mm256_sub_epi8(number, below_27), nibble));
                let upper = isa!(_mm256_shuffle_epi8(of_27, taken));
                let lower = isa!(_mm256_shuffle_epi8(of_1, below_9));
                let codes = [
                    isa!(_mm256_and_si256(lower, low)),
                    isa!(_mm256_and_si256(lower, high)),
                    isa!(_mm256_and_si256(_mm256_sub_epi8(below_27, below_9), low)),
                    isa!(_mm256_and_si256(upper, low)),
                    isa!(_mm256_and_si256(upper, high)),
                ];
                for k in 0..BLOCK_UNITS {
                    let pairs = isa!(_mm256_maddubs_epi16(codes[k], broadcast(&x[k], j)));
                    sums[k] = isa!(_mm256_add_epi16(sums[k], pairs));
                }
            }
            for k in 0..BLOCK_UNITS {
                let fours = isa!(_mm256_madd_epi16(sums[k], one));
                total[k][half] = isa!(_mm256_add_epi32(total[k][half], fours));
            }
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_and_inverses_are_what_they_say() {
        for (k, inverse) in INVERSES.into_iter().enumerate() {
            assert_eq!(inverse.wrapping_mul(3i32.pow(k as u32)), 1);
        }
        for number in 0..243usize {
            let below_43 = number - usize::from(TWENTY_SEVENS[number / 16]);
            assert_eq!(below_43 % 27, number % 27);
            assert!(below_43 < 43);
            let p = number / 27;
            assert_eq!(
                usize::from(pairs(27)[27 * p % 16]),
                (p % 3) | ((p / 3) << 2)
            );
            assert_eq!(usize::from(pairs(1)[p]), (p % 3) | ((p / 3) << 2));
        }
    }
}
