//! Integer products in 256-bit registers: two for the 16 rows of a line, 8 rows × 4 columns each.
//!
//! AVX2: `maddubs` multiplies unsigned codes with int8 activations and adds pairs into int16; `madd` widens to int32.
//! Only one shift is made for four fields: fields 1 and 3 stay where they are, four times too large, in sums of their
//! own. Bounds of those int16 sums, a lane gaining two pairs a line:
//!
//! - codes ≤ 2: |4·2·128 · 2| · 2 = 4096 a line, so 8 lines reach −32768 at the least and 32512 at the most: they fit.
//! - codes ≤ 3: 6144 a line, so 4 lines reach 24576: they fit.
//!
//! Several tokens share what is unpacked, shifted into place: a lane gains four pairs a line, 2048 (16 lines reach −32768 …
//! 32512), or 3072 (8 lines reach 24576). With tiles of tokens it gains two pairs a quad: 1024 (32 quads), or 1536 (16). The
//! int32 sums hold 4·Σ: 4 · 3 · 128 · MAX_COLS = 4.0e8.
//!
//! AVX-VNNI: `dpbusd` adds four products to int32. For one token no shift at all is made: field k stays 4^k times too large in a sum
//! of its own, which is divided at the end, exactly. Bound: 192 · 128 · MAX_COLS / 4 < 2^31 (asserted beside MAX_COLS).

use std::arch::x86_64::*;

use ryz_tmac::PrefetchManager;

use super::{
    LINE_COLS, Line,
    code_dot::{CodeDot, LINE_QUADS, Quad},
};
use crate::{ByteLine, TileShape, simd::Avx2};

/// An intrinsic on registers alone.
macro_rules! isa {
    ($intrinsic:expr) => {
        // SAFETY: a token of this module exists, so the CPU has the features; nothing else is asked of registers.
        unsafe { $intrinsic }
    };
}

/// Half of 64 bytes.
#[inline(always)]
fn load_half(bytes: &[u8; 64], half: usize) -> __m256i {
    let (halves, _) = bytes.as_chunks::<32>();
    // SAFETY: a reference to 32 bytes, read unaligned; callers hold a token, so the CPU has AVX.
    unsafe { _mm256_loadu_si256(halves[half].as_ptr().cast()) }
}

/// Four activations in every lane.
#[inline(always)]
fn broadcast(x: &[i8; 4]) -> __m256i {
    isa!(_mm256_set1_epi32(i32::from_le_bytes(x.map(|q| q as u8))))
}

/// The four codes of each byte, one register for each.
#[inline(always)]
fn fields(codes: __m256i) -> [__m256i; 4] {
    let low = isa!(_mm256_set1_epi8(0x03));
    [
        isa!(_mm256_and_si256(codes, low)),
        isa!(_mm256_and_si256(_mm256_srli_epi16::<2>(codes), low)),
        isa!(_mm256_and_si256(_mm256_srli_epi16::<4>(codes), low)),
        isa!(_mm256_and_si256(_mm256_srli_epi16::<6>(codes), low)),
    ]
}

/// One token: two fields stay four times too large.
#[inline(always)]
fn span_1(lines: &[Line], x: &[i8], code_3: bool, prefetch: PrefetchManager) -> [__m256i; 2] {
    let block = if code_3 { 4 } else { 8 };
    let (low, high) = (isa!(_mm256_set1_epi8(0x03)), isa!(_mm256_set1_epi8(0x0c)));
    let (one, four) = (isa!(_mm256_set1_epi16(1)), isa!(_mm256_set1_epi16(4)));
    let mut total = [isa!(_mm256_setzero_si256()); 2];
    for (lines, x) in lines.chunks(block).zip(x.chunks(block * LINE_COLS)) {
        let mut ones = [isa!(_mm256_setzero_si256()); 2];
        let mut fours = ones;
        for (line, x) in lines.iter().zip(x.as_chunks::<LINE_COLS>().0) {
            prefetch.ahead(line);
            let (x, _) = x.as_chunks::<4>();
            let x = [
                broadcast(&x[0]),
                broadcast(&x[1]),
                broadcast(&x[2]),
                broadcast(&x[3]),
            ];
            for half in 0..2 {
                let codes = load_half(&line.0, half);
                let upper = isa!(_mm256_srli_epi16::<4>(codes));
                let a = isa!(_mm256_maddubs_epi16(_mm256_and_si256(codes, low), x[0]));
                let b = isa!(_mm256_maddubs_epi16(_mm256_and_si256(codes, high), x[1]));
                let c = isa!(_mm256_maddubs_epi16(_mm256_and_si256(upper, low), x[2]));
                let d = isa!(_mm256_maddubs_epi16(_mm256_and_si256(upper, high), x[3]));
                ones[half] = isa!(_mm256_add_epi16(ones[half], _mm256_add_epi16(a, c)));
                fours[half] = isa!(_mm256_add_epi16(fours[half], _mm256_add_epi16(b, d)));
            }
        }
        for half in 0..2 {
            let ones = isa!(_mm256_madd_epi16(ones[half], four));
            let fours = isa!(_mm256_madd_epi16(fours[half], one));
            total[half] = isa!(_mm256_add_epi32(total[half], _mm256_add_epi32(ones, fours)));
        }
    }
    [
        isa!(_mm256_srai_epi32::<2>(total[0])),
        isa!(_mm256_srai_epi32::<2>(total[1])),
    ]
}

/// One token: field k stays 4^k times too large.
#[inline(always)]
fn vnni_span_1(lines: &[Line], x: &[i8], prefetch: PrefetchManager) -> [__m256i; 2] {
    let masks = [
        isa!(_mm256_set1_epi8(0x03)),
        isa!(_mm256_set1_epi8(0x0c)),
        isa!(_mm256_set1_epi8(0x30)),
        isa!(_mm256_set1_epi8(0xc0u8 as i8)),
    ];
    let mut sums = [[isa!(_mm256_setzero_si256()); 2]; 4];
    for (line, x) in lines.iter().zip(x.as_chunks::<LINE_COLS>().0) {
        prefetch.ahead(line);
        let halves = [load_half(&line.0, 0), load_half(&line.0, 1)];
        for ((x, mask), sums) in x.as_chunks::<4>().0.iter().zip(masks).zip(&mut sums) {
            let x = broadcast(x);
            for half in 0..2 {
                let codes = isa!(_mm256_and_si256(halves[half], mask));
                sums[half] = isa!(_mm256_dpbusd_avx_epi32(sums[half], codes, x));
            }
        }
    }
    let mut total = sums[0];
    for half in 0..2 {
        let b = isa!(_mm256_srai_epi32::<2>(sums[1][half]));
        let c = isa!(_mm256_srai_epi32::<4>(sums[2][half]));
        let d = isa!(_mm256_srai_epi32::<6>(sums[3][half]));
        total[half] = isa!(_mm256_add_epi32(
            _mm256_add_epi32(total[half], b),
            _mm256_add_epi32(c, d)
        ));
    }
    total
}

#[inline(always)]
fn unpacked(line: &Line) -> [Quad; LINE_QUADS] {
    let mut quads = [Quad([0; 64]); LINE_QUADS];
    for half in 0..2 {
        for (quad, field) in quads.iter_mut().zip(fields(load_half(&line.0, half))) {
            let to = &mut quad.0.as_chunks_mut::<32>().0[half];
            // SAFETY: 32 bytes of its own, written unaligned; callers hold a token.
            unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), field) }
        }
    }
    quads
}

/// The token of AVX2 products.
#[derive(Clone, Copy)]
pub(crate) struct Avx2Codes(Avx2);

impl Avx2Codes {
    /// # Safety
    /// - [`crate::Level::Avx2`] is supported.
    #[inline(always)]
    pub(crate) unsafe fn assume() -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { Avx2::assume() })
    }
}

impl CodeDot for Avx2Codes {
    type S = Avx2;

    const WIDE: bool = false;

    const SHAPE: TileShape = TileShape::Pairs;

    #[inline(always)]
    fn simd(self) -> Avx2 {
        self.0
    }

    #[inline(always)]
    fn span<const T: usize>(
        self,
        lines: &[Line],
        x: [&[i8]; T],
        code_3: bool,
        prefetch: PrefetchManager,
    ) -> [[__m256i; 2]; T] {
        if T == 1 {
            return [span_1(lines, x[0], code_3, prefetch); T];
        }
        let block = if code_3 { 8 } else { 16 };
        let one = isa!(_mm256_set1_epi16(1));
        let x = x.map(|x| x.as_chunks::<LINE_COLS>().0);
        assert!(x.iter().all(|x| x.len() == lines.len()));
        let mut total = [[isa!(_mm256_setzero_si256()); 2]; T];
        for start in (0..lines.len()).step_by(block) {
            let block = start..lines.len().min(start + block);
            // A half after the other: the second finds the lines in the cache.
            for half in 0..2 {
                let mut sums = [isa!(_mm256_setzero_si256()); T];
                for at in block.clone() {
                    if half == 0 {
                        prefetch.ahead(&lines[at]);
                    }
                    let fields = fields(load_half(&lines[at].0, half));
                    for t in 0..T {
                        let (x, _) = x[t][at].as_chunks::<4>();
                        for k in 0..4 {
                            let pairs = isa!(_mm256_maddubs_epi16(fields[k], broadcast(&x[k])));
                            sums[t] = isa!(_mm256_add_epi16(sums[t], pairs));
                        }
                    }
                }
                for t in 0..T {
                    let sum = isa!(_mm256_madd_epi16(sums[t], one));
                    total[t][half] = isa!(_mm256_add_epi32(total[t][half], sum));
                }
            }
        }
        total
    }

    #[inline(always)]
    fn unpack(self, line: &Line) -> [Quad; LINE_QUADS] {
        unpacked(line)
    }

    #[inline(always)]
    fn tokens<const R: usize, const G: usize>(
        self,
        codes: &[Quad],
        row: usize,
        x: [[&[ByteLine]; 2]; G],
        code_3: bool,
    ) -> [[[[__m256i; 2]; 2]; G]; R] {
        let block = if code_3 { 16 } else { 32 };
        let mut total = [[[[isa!(_mm256_setzero_si256()); 2]; 2]; G]; R];
        let x = x.map(|[lines, _]| lines.as_chunks::<2>().0);
        let len = codes.len();
        assert!(x.iter().all(|x| x.len() == len) && row + R <= 16);
        for start in (0..len).step_by(block) {
            // Lanes are tokens, int16: 16 in each half.
            let mut sums = [[[isa!(_mm256_setzero_si256()); 2]; G]; R];
            for q in start..len.min(start + block) {
                for pair in 0..2 {
                    for g in 0..G {
                        let line = &x[g][q][pair].0;
                        let halves = [load_half(line, 0), load_half(line, 1)];
                        for r in 0..R {
                            let codes = isa!(_mm256_set1_epi16(codes[q].pair(row + r, pair)));
                            for half in 0..2 {
                                let products = isa!(_mm256_maddubs_epi16(codes, halves[half]));
                                sums[r][g][half] =
                                    isa!(_mm256_add_epi16(sums[r][g][half], products));
                            }
                        }
                    }
                }
            }
            for r in 0..R {
                for g in 0..G {
                    for half in 0..2 {
                        let sums = sums[r][g][half];
                        let eights = [
                            isa!(_mm256_castsi256_si128(sums)),
                            isa!(_mm256_extracti128_si256::<1>(sums)),
                        ];
                        for (total, eight) in total[r][g][half].iter_mut().zip(eights) {
                            *total = isa!(_mm256_add_epi32(*total, _mm256_cvtepi16_epi32(eight)));
                        }
                    }
                }
            }
        }
        total
    }
}

/// The token of AVX-VNNI products.
#[derive(Clone, Copy)]
pub(crate) struct AvxVnniCodes(Avx2);

impl AvxVnniCodes {
    /// # Safety
    /// - [`crate::Level::AvxVnni`] is supported.
    #[inline(always)]
    pub(crate) unsafe fn assume() -> Self {
        // SAFETY: the caller's promise: the level includes AVX2.
        Self(unsafe { Avx2::assume() })
    }
}

impl CodeDot for AvxVnniCodes {
    type S = Avx2;

    const WIDE: bool = false;

    const SHAPE: TileShape = TileShape::Quads;

    #[inline(always)]
    fn simd(self) -> Avx2 {
        self.0
    }

    #[inline(always)]
    fn span<const T: usize>(
        self,
        lines: &[Line],
        x: [&[i8]; T],
        _: bool,
        prefetch: PrefetchManager,
    ) -> [[__m256i; 2]; T] {
        if T == 1 {
            return [vnni_span_1(lines, x[0], prefetch); T];
        }
        let x = x.map(|x| x.as_chunks::<LINE_COLS>().0);
        assert!(x.iter().all(|x| x.len() == lines.len()));
        let mut total = [[isa!(_mm256_setzero_si256()); 2]; T];
        // A half after the other: the second finds the lines in the cache.
        for half in 0..2 {
            // Two chains a token where registers hold them.
            let mut sums = [[isa!(_mm256_setzero_si256()); 2]; T];
            for at in 0..lines.len() {
                if half == 0 {
                    prefetch.ahead(&lines[at]);
                }
                let fields = fields(load_half(&lines[at].0, half));
                for t in 0..T {
                    let (x, _) = x[t][at].as_chunks::<4>();
                    for k in 0..4 {
                        let sum = &mut sums[t][if T > 4 { 0 } else { k % 2 }];
                        *sum = isa!(_mm256_dpbusd_avx_epi32(*sum, fields[k], broadcast(&x[k])));
                    }
                }
            }
            for t in 0..T {
                total[t][half] = isa!(_mm256_add_epi32(sums[t][0], sums[t][1]));
            }
        }
        total
    }

    #[inline(always)]
    fn unpack(self, line: &Line) -> [Quad; LINE_QUADS] {
        unpacked(line)
    }

    #[inline(always)]
    fn tokens<const R: usize, const G: usize>(
        self,
        codes: &[Quad],
        row: usize,
        x: [[&[ByteLine]; 2]; G],
        _: bool,
    ) -> [[[[__m256i; 2]; 2]; G]; R] {
        let mut total = [[[[isa!(_mm256_setzero_si256()); 2]; 2]; G]; R];
        let len = codes.len();
        assert!(x.iter().flatten().all(|x| x.len() == len) && row + R <= 16);
        // A half after the other: the sums of both do not fit the registers.
        for g in 0..G {
            for half in 0..2 {
                let mut sums = [[isa!(_mm256_setzero_si256()); 2]; R];
                for q in 0..len {
                    let line = &x[g][half][q].0;
                    let eights = [load_half(line, 0), load_half(line, 1)];
                    for r in 0..R {
                        let codes =
                            isa!(_mm256_set1_epi32(i32::from_le_bytes(codes[q].row(row + r))));
                        for eight in 0..2 {
                            sums[r][eight] = isa!(_mm256_dpbusd_avx_epi32(
                                sums[r][eight],
                                codes,
                                eights[eight]
                            ));
                        }
                    }
                }
                for r in 0..R {
                    total[r][g][half] = sums[r];
                }
            }
        }
        total
    }
}
