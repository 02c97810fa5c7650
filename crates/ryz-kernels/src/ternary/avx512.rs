//! Integer products in 512-bit registers: one for the 16 rows of a line.
//!
//! The arithmetic and its bounds are those of the 256-bit file beside this one; lanes are rows, so they are the same.

use std::arch::x86_64::*;

use ryz_tmac::PrefetchManager;

use super::{
    LINE_COLS, Line,
    code_dot::{CodeDot, LINE_QUADS, Quad},
};
use crate::{ByteLine, TileShape, simd::Avx512};

/// An intrinsic on registers alone.
macro_rules! isa {
    ($intrinsic:expr) => {
        // SAFETY: a token of this module exists, so the CPU has the features; nothing else is asked of registers.
        unsafe { $intrinsic }
    };
}

#[inline(always)]
fn load(bytes: &[u8; 64]) -> __m512i {
    // SAFETY: a reference to 64 bytes, read unaligned; callers hold a token, so the CPU has AVX-512 F.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

/// Four activations in every lane.
#[inline(always)]
fn broadcast(x: &[i8; 4]) -> __m512i {
    isa!(_mm512_set1_epi32(i32::from_le_bytes(x.map(|q| q as u8))))
}

/// The four codes of each byte, one register for each.
#[inline(always)]
fn fields(codes: __m512i) -> [__m512i; 4] {
    let low = isa!(_mm512_set1_epi8(0x03));
    [
        isa!(_mm512_and_si512(codes, low)),
        isa!(_mm512_and_si512(_mm512_srli_epi16::<2>(codes), low)),
        isa!(_mm512_and_si512(_mm512_srli_epi16::<4>(codes), low)),
        isa!(_mm512_and_si512(_mm512_srli_epi16::<6>(codes), low)),
    ]
}

/// One token: one shift for four fields, of which two stay four times too large in a sum of their own.
#[inline(always)]
fn span_1(lines: &[Line], x: &[i8], code_3: bool, prefetch: PrefetchManager) -> __m512i {
    let block = if code_3 { 4 } else { 8 };
    let (low, high) = (isa!(_mm512_set1_epi8(0x03)), isa!(_mm512_set1_epi8(0x0c)));
    let (one, four) = (isa!(_mm512_set1_epi16(1)), isa!(_mm512_set1_epi16(4)));
    let mut total = isa!(_mm512_setzero_si512());
    for (lines, x) in lines.chunks(block).zip(x.chunks(block * LINE_COLS)) {
        let mut ones = isa!(_mm512_setzero_si512());
        let mut fours = ones;
        for (line, x) in lines.iter().zip(x.as_chunks::<LINE_COLS>().0) {
            prefetch.ahead(line);
            let (x, _) = x.as_chunks::<4>();
            let codes = load(&line.0);
            let upper = isa!(_mm512_srli_epi16::<4>(codes));
            let a = isa!(_mm512_maddubs_epi16(
                _mm512_and_si512(codes, low),
                broadcast(&x[0])
            ));
            let b = isa!(_mm512_maddubs_epi16(
                _mm512_and_si512(codes, high),
                broadcast(&x[1])
            ));
            let c = isa!(_mm512_maddubs_epi16(
                _mm512_and_si512(upper, low),
                broadcast(&x[2])
            ));
            let d = isa!(_mm512_maddubs_epi16(
                _mm512_and_si512(upper, high),
                broadcast(&x[3])
            ));
            ones = isa!(_mm512_add_epi16(ones, _mm512_add_epi16(a, c)));
            fours = isa!(_mm512_add_epi16(fours, _mm512_add_epi16(b, d)));
        }
        let sums = isa!(_mm512_add_epi32(
            _mm512_madd_epi16(ones, four),
            _mm512_madd_epi16(fours, one)
        ));
        total = isa!(_mm512_add_epi32(total, sums));
    }
    isa!(_mm512_srai_epi32::<2>(total))
}

/// One token: field k stays 4^k times too large in a sum of its own.
#[inline(always)]
fn vnni_span_1(lines: &[Line], x: &[i8], prefetch: PrefetchManager) -> __m512i {
    let masks = [
        isa!(_mm512_set1_epi8(0x03)),
        isa!(_mm512_set1_epi8(0x0c)),
        isa!(_mm512_set1_epi8(0x30)),
        isa!(_mm512_set1_epi8(0xc0u8 as i8)),
    ];
    // Two lines in flight: a chain of sums is longer than the products of one line take.
    let mut sums = [[isa!(_mm512_setzero_si512()); 4]; 2];
    let (pairs, _) = lines.as_chunks::<2>();
    for (lines, x) in pairs.iter().zip(x.as_chunks::<{ 2 * LINE_COLS }>().0) {
        for ((line, x), sums) in lines
            .iter()
            .zip(x.as_chunks::<LINE_COLS>().0)
            .zip(&mut sums)
        {
            prefetch.ahead(line);
            let codes = load(&line.0);
            let (x, _) = x.as_chunks::<4>();
            for k in 0..4 {
                let codes = isa!(_mm512_and_si512(codes, masks[k]));
                sums[k] = isa!(_mm512_dpbusd_epi32(sums[k], codes, broadcast(&x[k])));
            }
        }
    }
    let field = |k: usize| isa!(_mm512_add_epi32(sums[0][k], sums[1][k]));
    let b = isa!(_mm512_srai_epi32::<2>(field(1)));
    let c = isa!(_mm512_srai_epi32::<4>(field(2)));
    let d = isa!(_mm512_srai_epi32::<6>(field(3)));
    isa!(_mm512_add_epi32(
        _mm512_add_epi32(field(0), b),
        _mm512_add_epi32(c, d)
    ))
}

#[inline(always)]
fn unpacked(line: &Line) -> [Quad; LINE_QUADS] {
    let mut quads = [Quad([0; 64]); LINE_QUADS];
    for (quad, field) in quads.iter_mut().zip(fields(load(&line.0))) {
        // SAFETY: 64 bytes of its own, written unaligned; callers hold a token.
        unsafe { _mm512_storeu_si512(quad.0.as_mut_ptr().cast(), field) }
    }
    quads
}

/// The token of AVX-512 products without VNNI.
#[derive(Clone, Copy)]
pub(crate) struct Avx512Codes(Avx512);

impl Avx512Codes {
    /// # Safety
    /// - [`crate::Level::Avx512`] is supported.
    #[inline(always)]
    pub(crate) unsafe fn assume() -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { Avx512::assume() })
    }
}

impl CodeDot for Avx512Codes {
    type S = Avx512;

    const WIDE: bool = true;

    const SHAPE: TileShape = TileShape::Pairs;

    #[inline(always)]
    fn simd(self) -> Avx512 {
        self.0
    }

    #[inline(always)]
    fn span<const T: usize>(
        self,
        lines: &[Line],
        x: [&[i8]; T],
        code_3: bool,
        prefetch: PrefetchManager,
    ) -> [__m512i; T] {
        if T == 1 {
            return [span_1(lines, x[0], code_3, prefetch); T];
        }
        // A lane gains four pairs a line.
        let block = if code_3 { 8 } else { 16 };
        let one = isa!(_mm512_set1_epi16(1));
        let x = x.map(|x| x.as_chunks::<LINE_COLS>().0);
        assert!(x.iter().all(|x| x.len() == lines.len()));
        let mut total = [isa!(_mm512_setzero_si512()); T];
        for start in (0..lines.len()).step_by(block) {
            let mut sums = [isa!(_mm512_setzero_si512()); T];
            for at in start..lines.len().min(start + block) {
                prefetch.ahead(&lines[at]);
                let fields = fields(load(&lines[at].0));
                for t in 0..T {
                    let (x, _) = x[t][at].as_chunks::<4>();
                    for k in 0..4 {
                        let pairs = isa!(_mm512_maddubs_epi16(fields[k], broadcast(&x[k])));
                        sums[t] = isa!(_mm512_add_epi16(sums[t], pairs));
                    }
                }
            }
            for t in 0..T {
                let sum = isa!(_mm512_madd_epi16(sums[t], one));
                total[t] = isa!(_mm512_add_epi32(total[t], sum));
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
    ) -> [[[__m512i; 2]; G]; R] {
        let block = if code_3 { 16 } else { 32 };
        let mut total = [[[isa!(_mm512_setzero_si512()); 2]; G]; R];
        let x = x.map(|[lines, _]| lines.as_chunks::<2>().0);
        let len = codes.len();
        assert!(x.iter().all(|x| x.len() == len) && row + R <= 16);
        for start in (0..len).step_by(block) {
            // Lanes are tokens, int16.
            let mut sums = [[isa!(_mm512_setzero_si512()); G]; R];
            for q in start..len.min(start + block) {
                for pair in 0..2 {
                    for r in 0..R {
                        let codes = isa!(_mm512_set1_epi16(codes[q].pair(row + r, pair)));
                        for g in 0..G {
                            let x = load(&x[g][q][pair].0);
                            let products = isa!(_mm512_maddubs_epi16(codes, x));
                            sums[r][g] = isa!(_mm512_add_epi16(sums[r][g], products));
                        }
                    }
                }
            }
            for r in 0..R {
                for g in 0..G {
                    let halves = [
                        isa!(_mm512_castsi512_si256(sums[r][g])),
                        isa!(_mm512_extracti64x4_epi64::<1>(sums[r][g])),
                    ];
                    for (total, half) in total[r][g].iter_mut().zip(halves) {
                        *total = isa!(_mm512_add_epi32(*total, _mm512_cvtepi16_epi32(half)));
                    }
                }
            }
        }
        total
    }
}

/// The token of AVX-512 VNNI products.
#[derive(Clone, Copy)]
pub(crate) struct Avx512VnniCodes(Avx512);

impl Avx512VnniCodes {
    /// # Safety
    /// - [`crate::Level::Avx512Vnni`] is supported.
    #[inline(always)]
    pub(crate) unsafe fn assume() -> Self {
        // SAFETY: the caller's promise: the level includes AVX-512.
        Self(unsafe { Avx512::assume() })
    }
}

impl CodeDot for Avx512VnniCodes {
    type S = Avx512;

    const WIDE: bool = true;

    const SHAPE: TileShape = TileShape::Quads;

    #[inline(always)]
    fn simd(self) -> Avx512 {
        self.0
    }

    #[inline(always)]
    fn span<const T: usize>(
        self,
        lines: &[Line],
        x: [&[i8]; T],
        _: bool,
        prefetch: PrefetchManager,
    ) -> [__m512i; T] {
        if T == 1 {
            return [vnni_span_1(lines, x[0], prefetch); T];
        }
        let x = x.map(|x| x.as_chunks::<LINE_COLS>().0);
        assert!(x.iter().all(|x| x.len() == lines.len()));
        // Two chains a token.
        let mut sums = [[isa!(_mm512_setzero_si512()); 2]; T];
        for at in 0..lines.len() {
            prefetch.ahead(&lines[at]);
            let fields = fields(load(&lines[at].0));
            for t in 0..T {
                let (x, _) = x[t][at].as_chunks::<4>();
                for k in 0..4 {
                    let sum = &mut sums[t][k % 2];
                    *sum = isa!(_mm512_dpbusd_epi32(*sum, fields[k], broadcast(&x[k])));
                }
            }
        }
        let mut total = [isa!(_mm512_setzero_si512()); T];
        for t in 0..T {
            total[t] = isa!(_mm512_add_epi32(sums[t][0], sums[t][1]));
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
    ) -> [[[__m512i; 2]; G]; R] {
        let mut sums = [[[isa!(_mm512_setzero_si512()); 2]; G]; R];
        let len = codes.len();
        assert!(x.iter().flatten().all(|x| x.len() == len) && row + R <= 16);
        for q in 0..len {
            for r in 0..R {
                let codes = isa!(_mm512_set1_epi32(i32::from_le_bytes(codes[q].row(row + r))));
                for g in 0..G {
                    for half in 0..2 {
                        let x = load(&x[g][half][q].0);
                        sums[r][g][half] = isa!(_mm512_dpbusd_epi32(sums[r][g][half], codes, x));
                    }
                }
            }
        }
        sums
    }
}
