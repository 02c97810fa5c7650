//! Sparse sums in 256-bit registers: two for the 64 bytes of a line.
//!
//! As the 512-bit file beside this one, with its bounds. Columns go in blocks of as many as int16 holds, one half of the
//! lines after the other, so that the sums of 128 rows stay in registers meanwhile. `dpbusd` of AVX-VNNI would need the sums of
//! 256 rows in int32: there are not as many registers, so its columns are those of AVX2.

use std::arch::x86_64::*;

use super::{ActiveColumns, ColumnLines, LINE_CODES, PLANE, SparseDot};
use crate::{
    Line,
    ternary::{Avx2Codes, AvxVnniCodes},
};

/// An intrinsic on registers alone.
macro_rules! isa {
    ($intrinsic:expr) => {
        // SAFETY: a token of a level with AVX2 (and AVX-VNNI, where it is used) exists; nothing else is asked of registers.
        unsafe { $intrinsic }
    };
}

/// Bytes of a register.
const HALF: usize = 32;

#[inline(always)]
fn load<T: bytemuck::Pod>(bytes: &[T; PLANE], half: usize) -> __m256i {
    const { assert!(size_of::<T>() == 1) }
    let (halves, _) = bytes.as_chunks::<HALF>();
    // SAFETY: a reference to 32 bytes, read unaligned; callers hold a token, so the CPU has AVX.
    unsafe { _mm256_loadu_si256(halves[half].as_ptr().cast()) }
}

/// The planes of packed codes, one above the other: not masked.
#[inline(always)]
fn planes(line: __m256i) -> [__m256i; 4] {
    [
        line,
        isa!(_mm256_srli_epi16::<2>(line)),
        isa!(_mm256_srli_epi16::<4>(line)),
        isa!(_mm256_srli_epi16::<6>(line)),
    ]
}

/// The sums of all lanes; of four rows together.
#[inline(always)]
fn reduce<const R: usize, const T: usize>(sums: [[__m256i; T]; R]) -> [[i32; T]; R] {
    let zero = isa!(_mm256_setzero_si256());
    let mut out = [[0; T]; R];
    for t in 0..T {
        for first in (0..R).step_by(4) {
            let mut four = [zero; 4];
            for (four, sums) in four.iter_mut().zip(&sums[first..]) {
                *four = sums[t];
            }
            let pairs = [
                isa!(_mm256_hadd_epi32(four[0], four[1])),
                isa!(_mm256_hadd_epi32(four[2], four[3])),
            ];
            let halves = isa!(_mm256_hadd_epi32(pairs[0], pairs[1]));
            let four: [i32; 4] = bytemuck::cast(isa!(_mm_add_epi32(
                _mm256_castsi256_si128(halves),
                _mm256_extracti128_si256::<1>(halves)
            )));
            let rows = out[first..].iter_mut();
            rows.zip(four).for_each(|(out, sum)| out[t] = sum);
        }
    }
    out
}

#[inline(always)]
fn load_sums(sums: &[i32; 8]) -> __m256i {
    // SAFETY: a reference to 32 bytes, read unaligned; callers hold a token, so the CPU has AVX.
    unsafe { _mm256_loadu_si256(sums.as_ptr().cast()) }
}

#[inline(always)]
fn store_sums(sums: __m256i, out: &mut [i32; 8]) {
    // SAFETY: a reference to 32 bytes, written unaligned; callers hold a token, so the CPU has AVX.
    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), sums) }
}

/// Of register pair `8·half + 4·i + plane` of the sums, lane 8·l + k is row 64·plane + 32·half + 16·l + 8·i + k, of odd planes
/// 4 times too large.
#[inline(always)]
fn add_columns(
    lines: ColumnLines<'_>,
    active: ActiveColumns<'_>,
    code_3: bool,
    next: &[u32],
    sums: &mut [i32; LINE_CODES],
) {
    let pairs = if code_3 { 8 } else { 16 };
    let (low, high) = (isa!(_mm256_set1_epi8(0x03)), isa!(_mm256_set1_epi8(0x0c)));
    let (kept, _) = sums.as_chunks_mut::<8>();
    let (kept, _) = kept.as_chunks_mut::<2>();
    let (columns, _) = active.columns.as_chunks::<2>();
    let (values, _) = active.values.as_chunks::<2>();
    let mut next = next.iter();
    for (columns, values) in columns.chunks(pairs).zip(values.chunks(pairs)) {
        for (half, kept) in kept.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let mut sums = [isa!(_mm256_setzero_si256()); 8];
            for (columns, x) in columns.iter().zip(values) {
                for &column in next.by_ref().take(1) {
                    lines.ask(column);
                }
                let (a, b) = (lines.line(columns[0]), lines.line(columns[1]));
                let (a, b) = (load(&a.0, half), load(&b.0, half));
                let x = isa!(_mm256_set1_epi16(i16::from_le_bytes(bytemuck::cast(*x))));
                for (i, line) in [
                    isa!(_mm256_unpacklo_epi8(a, b)),
                    isa!(_mm256_unpackhi_epi8(a, b)),
                ]
                .into_iter()
                .enumerate()
                {
                    let upper = isa!(_mm256_srli_epi16::<4>(line));
                    let planes = [(line, low), (line, high), (upper, low), (upper, high)];
                    for (sum, (codes, mask)) in sums[4 * i..].iter_mut().zip(planes) {
                        let products = isa!(_mm256_maddubs_epi16(_mm256_and_si256(codes, mask), x));
                        *sum = isa!(_mm256_add_epi16(*sum, products));
                    }
                }
            }
            for (sum, kept) in sums.into_iter().zip(kept) {
                let halves = [
                    isa!(_mm256_castsi256_si128(sum)),
                    isa!(_mm256_extracti128_si256::<1>(sum)),
                ];
                for (half, kept) in halves.into_iter().zip(kept) {
                    let wide = isa!(_mm256_cvtepi16_epi32(half));
                    store_sums(isa!(_mm256_add_epi32(load_sums(kept), wide)), kept);
                }
            }
        }
    }
}

#[inline(always)]
fn settle(sums: &[i32; LINE_CODES]) -> [i32; LINE_CODES] {
    let mut out = [0; LINE_CODES];
    for (at, sums) in sums.as_chunks::<16>().0.iter().enumerate() {
        let (half, i, plane) = (at / 8, at / 4 % 2, at % 4);
        for (lane, eights) in sums.as_chunks::<8>().0.iter().enumerate() {
            let first = plane * PLANE + half * HALF + lane * 16 + i * 8;
            let shift = 2 * (plane % 2);
            out[first..first + 8].copy_from_slice(&eights.map(|sum| sum >> shift));
        }
    }
    out
}

impl SparseDot for Avx2Codes {
    #[inline(always)]
    fn add_columns(
        self,
        lines: ColumnLines<'_>,
        active: ActiveColumns<'_>,
        code_3: bool,
        next: &[u32],
        sums: &mut [i32; LINE_CODES],
    ) {
        add_columns(lines, active, code_3, next, sums);
    }

    #[inline(always)]
    fn settle(self, sums: &[i32; LINE_CODES]) -> [i32; LINE_CODES] {
        settle(sums)
    }

    #[inline(always)]
    fn rows<const R: usize, const T: usize>(
        self,
        lines: [&[Line]; R],
        x: [&[i8]; T],
        code_3: bool,
        before: impl Fn(usize),
    ) -> [[i32; T]; R] {
        // A lane gains four pairs a line.
        let block = if code_3 { 8 } else { 16 };
        let (low, one) = (isa!(_mm256_set1_epi8(0x03)), isa!(_mm256_set1_epi16(1)));
        let x = x.map(|x| x.as_chunks::<LINE_CODES>().0);
        let mut total = [[isa!(_mm256_setzero_si256()); T]; R];
        for r in 0..R {
            before(r);
            let lines = lines[r];
            assert!(x.iter().all(|x| x.len() == lines.len()));
            for start in (0..lines.len()).step_by(block) {
                // A half after the other: the second finds the lines in the cache.
                for half in 0..2 {
                    let mut sums = [isa!(_mm256_setzero_si256()); T];
                    for at in start..lines.len().min(start + block) {
                        let planes = planes(load(&lines[at].0, half));
                        for plane in 0..4 {
                            let codes = isa!(_mm256_and_si256(planes[plane], low));
                            for t in 0..T {
                                let (x, _) = x[t][at].as_chunks::<PLANE>();
                                let x = load(&x[plane], half);
                                let products = isa!(_mm256_maddubs_epi16(codes, x));
                                sums[t] = isa!(_mm256_add_epi16(sums[t], products));
                            }
                        }
                    }
                    for t in 0..T {
                        let sum = isa!(_mm256_madd_epi16(sums[t], one));
                        total[r][t] = isa!(_mm256_add_epi32(total[r][t], sum));
                    }
                }
            }
        }
        reduce(total)
    }
}

impl SparseDot for AvxVnniCodes {
    #[inline(always)]
    fn add_columns(
        self,
        lines: ColumnLines<'_>,
        active: ActiveColumns<'_>,
        code_3: bool,
        next: &[u32],
        sums: &mut [i32; LINE_CODES],
    ) {
        add_columns(lines, active, code_3, next, sums);
    }

    #[inline(always)]
    fn settle(self, sums: &[i32; LINE_CODES]) -> [i32; LINE_CODES] {
        settle(sums)
    }

    #[inline(always)]
    fn rows<const R: usize, const T: usize>(
        self,
        lines: [&[Line]; R],
        x: [&[i8]; T],
        _: bool,
        before: impl Fn(usize),
    ) -> [[i32; T]; R] {
        let x = x.map(|x| x.as_chunks::<LINE_CODES>().0);
        let low = isa!(_mm256_set1_epi8(0x03));
        let mut total = [[isa!(_mm256_setzero_si256()); T]; R];
        for r in 0..R {
            before(r);
            let lines = lines[r];
            assert!(x.iter().all(|x| x.len() == lines.len()));
            if T == 1 {
                total[r] = [vnni_row_1(lines, x[0]); T];
                continue;
            }
            for half in 0..2 {
                for at in 0..lines.len() {
                    let planes = planes(load(&lines[at].0, half));
                    for plane in 0..4 {
                        let codes = isa!(_mm256_and_si256(planes[plane], low));
                        for t in 0..T {
                            let (x, _) = x[t][at].as_chunks::<PLANE>();
                            let x = load(&x[plane], half);
                            total[r][t] = isa!(_mm256_dpbusd_avx_epi32(total[r][t], codes, x));
                        }
                    }
                }
            }
        }
        reduce(total)
    }
}

/// One token: plane p stays 4^p times too large in a sum of its own.
#[inline(always)]
fn vnni_row_1(lines: &[Line], x: &[[i8; LINE_CODES]]) -> __m256i {
    let masks = [
        isa!(_mm256_set1_epi8(0x03)),
        isa!(_mm256_set1_epi8(0x0c)),
        isa!(_mm256_set1_epi8(0x30)),
        isa!(_mm256_set1_epi8(0xc0u8 as i8)),
    ];
    let mut sums = [isa!(_mm256_setzero_si256()); 4];
    for (line, x) in lines.iter().zip(x) {
        let (x, _) = x.as_chunks::<PLANE>();
        for half in 0..2 {
            let line = load(&line.0, half);
            for plane in 0..4 {
                let codes = isa!(_mm256_and_si256(line, masks[plane]));
                let x = load(&x[plane], half);
                sums[plane] = isa!(_mm256_dpbusd_avx_epi32(sums[plane], codes, x));
            }
        }
    }
    isa!(_mm256_add_epi32(
        _mm256_add_epi32(sums[0], _mm256_srai_epi32::<2>(sums[1])),
        _mm256_add_epi32(
            _mm256_srai_epi32::<4>(sums[2]),
            _mm256_srai_epi32::<6>(sums[3])
        )
    ))
}
