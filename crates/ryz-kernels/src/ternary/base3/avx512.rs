//! Products in 512-bit registers, a line at a time. The arithmetic and its bounds are those of the 256-bit file beside this one.
//!
//! AVX-512 VBMI: what is left modulo 81 is looked up in a table of 128 bytes, which gives its four codes as 2-bit fields; they are
//! multiplied as those of a 2-bit line are, field k being 4^k times too large. Bound: 102 blocks of 16 · 4 · 162 · 128 < 2^31.

use std::arch::x86_64::*;

use ryz_tmac::PrefetchManager;

use super::{
    BLOCK_LINES, BLOCK_UNITS, Base3Dot, BlockValues,
    avx2::{INVERSES, TWENTY_SEVENS, pairs},
};
use crate::ternary::{Avx512Codes, Avx512VnniCodes, Line};

/// An intrinsic on registers alone.
macro_rules! isa {
    ($intrinsic:expr) => {
        // SAFETY: a token of this module's kernels exists, so the CPU has the features; nothing else is asked of registers.
        unsafe { $intrinsic }
    };
}

/// The four codes of a number below 81, as 2-bit fields.
const FOURS: [Line; 2] = {
    let mut table = [Line([0; 64]); 2];
    let mut n = 0;
    while n < 81 {
        let codes = (n % 3) | ((n / 3 % 3) << 2) | ((n / 9 % 3) << 4) | ((n / 27) << 6);
        table[n / 64].0[n % 64] = codes as u8;
        n += 1;
    }
    table
};

#[inline(always)]
fn load(line: &Line) -> __m512i {
    // SAFETY: a reference to 64 bytes, read unaligned; callers hold a token, so the CPU has AVX-512 F.
    unsafe { _mm512_loadu_si512(line.0.as_ptr().cast()) }
}

/// Four activations in every lane.
#[inline(always)]
fn broadcast(x: &[i8; 64], at: usize) -> __m512i {
    let x = x.as_chunks::<4>().0[at];
    isa!(_mm512_set1_epi32(i32::from_le_bytes(x.map(|q| q as u8))))
}

#[inline(always)]
fn table(table: [u8; 16]) -> __m512i {
    let [low, high]: [u64; 2] = bytemuck::cast(table);
    isa!(_mm512_broadcast_i32x4(_mm_set_epi64x(
        high as i64,
        low as i64
    )))
}

/// A number modulo 3·p is one modulo p.
#[inline(always)]
fn modulo(number: __m512i, p: __m512i) -> __m512i {
    let once = isa!(_mm512_min_epu8(number, _mm512_sub_epi8(number, p)));
    isa!(_mm512_min_epu8(once, _mm512_sub_epi8(once, p)))
}

impl Base3Dot for Avx512Codes {
    type Codes = Self;

    const TOKENS: usize = 8;

    #[inline(always)]
    fn codes(self) -> Self {
        self
    }

    #[inline(always)]
    fn add<const T: usize>(
        self,
        block: &[Line; BLOCK_LINES],
        x: [&BlockValues; T],
        mut sums: [[__m512i; BLOCK_UNITS]; T],
        prefetch: PrefetchManager,
    ) -> [[__m512i; BLOCK_UNITS]; T] {
        let (twenty_sevens, of_27, of_1) =
            (table(TWENTY_SEVENS), table(pairs(27)), table(pairs(1)));
        let (nibble, one) = (isa!(_mm512_set1_epi8(0x0f)), isa!(_mm512_set1_epi16(1)));
        let (p27, p9) = (isa!(_mm512_set1_epi8(27)), isa!(_mm512_set1_epi8(9)));
        let (low, high) = (isa!(_mm512_set1_epi8(0x03)), isa!(_mm512_set1_epi8(0x0c)));
        // Of one block, int16.
        let mut small = [[isa!(_mm512_setzero_si512()); BLOCK_UNITS]; T];
        for (j, line) in block.iter().enumerate() {
            prefetch.ahead(line);
            let number = load(line);
            let h = isa!(_mm512_and_si512(_mm512_srli_epi16::<4>(number), nibble));
            let below_43 = isa!(_mm512_sub_epi8(
                number,
                _mm512_shuffle_epi8(twenty_sevens, h)
            ));
            let below_27 = isa!(_mm512_min_epu8(below_43, _mm512_sub_epi8(below_43, p27)));
            let below_9 = modulo(below_27, p9);
            let taken = isa!(_mm512_and_si512(_mm512_sub_epi8(number, below_27), nibble));
            let upper = isa!(_mm512_shuffle_epi8(of_27, taken));
            let lower = isa!(_mm512_shuffle_epi8(of_1, below_9));
            let codes = [
                isa!(_mm512_and_si512(lower, low)),
                isa!(_mm512_and_si512(lower, high)),
                isa!(_mm512_and_si512(_mm512_sub_epi8(below_27, below_9), low)),
                isa!(_mm512_and_si512(upper, low)),
                isa!(_mm512_and_si512(upper, high)),
            ];
            for t in 0..T {
                for k in 0..BLOCK_UNITS {
                    let pairs = isa!(_mm512_maddubs_epi16(codes[k], broadcast(&x[t][k], j)));
                    small[t][k] = isa!(_mm512_add_epi16(small[t][k], pairs));
                }
            }
        }
        for t in 0..T {
            for k in 0..BLOCK_UNITS {
                let fours = isa!(_mm512_madd_epi16(small[t][k], one));
                sums[t][k] = isa!(_mm512_add_epi32(sums[t][k], fours));
            }
        }
        sums
    }

    #[inline(always)]
    fn units(self, mut sums: [__m512i; BLOCK_UNITS]) -> [__m512i; BLOCK_UNITS] {
        for k in [1, 4] {
            sums[k] = isa!(_mm512_srai_epi32::<2>(sums[k]));
        }
        sums
    }
}

impl Base3Dot for Avx512VnniCodes {
    type Codes = Self;

    const TOKENS: usize = 8;

    #[inline(always)]
    fn codes(self) -> Self {
        self
    }

    #[inline(always)]
    fn add<const T: usize>(
        self,
        block: &[Line; BLOCK_LINES],
        x: [&BlockValues; T],
        mut sums: [[__m512i; BLOCK_UNITS]; T],
        prefetch: PrefetchManager,
    ) -> [[__m512i; BLOCK_UNITS]; T] {
        let powers = [
            isa!(_mm512_set1_epi8(1)),
            isa!(_mm512_set1_epi8(3)),
            isa!(_mm512_set1_epi8(9)),
            isa!(_mm512_set1_epi8(27)),
            isa!(_mm512_set1_epi8(81)),
        ];
        for (j, line) in block.iter().enumerate() {
            prefetch.ahead(line);
            let mut number = load(line);
            for k in (1..BLOCK_UNITS).rev() {
                let left = modulo(number, powers[k]);
                let codes = isa!(_mm512_sub_epi8(number, left));
                for t in 0..T {
                    let x = broadcast(&x[t][k], j);
                    sums[t][k] = isa!(_mm512_dpbusd_epi32(sums[t][k], codes, x));
                }
                number = left;
            }
            for t in 0..T {
                sums[t][0] = isa!(_mm512_dpbusd_epi32(
                    sums[t][0],
                    number,
                    broadcast(&x[t][0], j)
                ));
            }
        }
        sums
    }

    #[inline(always)]
    fn units(self, mut sums: [__m512i; BLOCK_UNITS]) -> [__m512i; BLOCK_UNITS] {
        for k in 1..BLOCK_UNITS {
            let inverse = isa!(_mm512_set1_epi32(INVERSES[k]));
            sums[k] = isa!(_mm512_mullo_epi32(sums[k], inverse));
        }
        sums
    }
}

/// The token of products with AVX-512 VNNI and VBMI.
#[derive(Clone, Copy)]
pub(crate) struct Avx512VbmiCodes(Avx512VnniCodes);

impl Avx512VbmiCodes {
    /// # Safety
    /// - [`crate::Level::Avx512Vnni`] is supported, and the CPU has AVX-512 VBMI.
    #[inline(always)]
    pub(crate) unsafe fn assume() -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { Avx512VnniCodes::assume() })
    }
}

impl Base3Dot for Avx512VbmiCodes {
    type Codes = Avx512VnniCodes;

    const TOKENS: usize = 8;

    #[inline(always)]
    fn codes(self) -> Avx512VnniCodes {
        self.0
    }

    #[inline(always)]
    fn add<const T: usize>(
        self,
        block: &[Line; BLOCK_LINES],
        x: [&BlockValues; T],
        mut sums: [[__m512i; BLOCK_UNITS]; T],
        prefetch: PrefetchManager,
    ) -> [[__m512i; BLOCK_UNITS]; T] {
        let fours = [load(&FOURS[0]), load(&FOURS[1])];
        let p81 = isa!(_mm512_set1_epi8(81));
        let masks = [
            isa!(_mm512_set1_epi8(0x03)),
            isa!(_mm512_set1_epi8(0x0c)),
            isa!(_mm512_set1_epi8(0x30)),
            isa!(_mm512_set1_epi8(0xc0u8 as i8)),
        ];
        for (j, line) in block.iter().enumerate() {
            prefetch.ahead(line);
            let number = load(line);
            let below_81 = modulo(number, p81);
            let fields = isa!(_mm512_permutex2var_epi8(fours[0], below_81, fours[1]));
            for k in 0..4 {
                let codes = isa!(_mm512_and_si512(fields, masks[k]));
                for t in 0..T {
                    let x = broadcast(&x[t][k], j);
                    sums[t][k] = isa!(_mm512_dpbusd_epi32(sums[t][k], codes, x));
                }
            }
            let codes = isa!(_mm512_sub_epi8(number, below_81));
            for t in 0..T {
                let x = broadcast(&x[t][4], j);
                sums[t][4] = isa!(_mm512_dpbusd_epi32(sums[t][4], codes, x));
            }
        }
        sums
    }

    #[inline(always)]
    fn units(self, sums: [__m512i; BLOCK_UNITS]) -> [__m512i; BLOCK_UNITS] {
        let inverse = isa!(_mm512_set1_epi32(INVERSES[4]));
        [
            sums[0],
            isa!(_mm512_srai_epi32::<2>(sums[1])),
            isa!(_mm512_srai_epi32::<4>(sums[2])),
            isa!(_mm512_srai_epi32::<6>(sums[3])),
            isa!(_mm512_mullo_epi32(sums[4], inverse)),
        ]
    }
}
