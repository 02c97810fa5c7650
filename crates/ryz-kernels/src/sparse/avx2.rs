//! Sparse sums in 256-bit registers: two for the 64 bytes of a line.
//!
//! As the 512-bit file beside this one, with its bounds. Columns go in blocks of as many as int16 holds, one half of the
//! lines after the other, so that the sums of 128 rows stay in registers. `dpbusd` of AVX-VNNI would need the sums of
//! 256 rows in int32: there are not as many registers, so its columns are those of AVX2.

use std::arch::x86_64::*;

use ryz_tmac::PrefetchManager;

use super::{ActiveColumns, LINE_CODES, PLANE, SparseDot};
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

/// The sum of eight lanes.
#[inline(always)]
fn reduce(sums: __m256i) -> i32 {
    let halves = isa!(_mm_add_epi32(
        _mm256_castsi256_si128(sums),
        _mm256_extracti128_si256::<1>(sums)
    ));
    let quarters = isa!(_mm_add_epi32(halves, _mm_unpackhi_epi64(halves, halves)));
    isa!(_mm_cvtsi128_si32(_mm_add_epi32(
        quarters,
        _mm_shuffle_epi32::<1>(quarters)
    )))
}

#[inline(always)]
fn columns(
    block: &[Line],
    active: ActiveColumns<'_>,
    code_3: bool,
    prefetch: PrefetchManager,
) -> [i32; LINE_CODES] {
    let pairs = if code_3 { 32 } else { 64 };
    let low = isa!(_mm256_set1_epi8(0x03));
    let mut out = [0; LINE_CODES];
    let chunks = active.columns.chunks(2 * pairs);
    for (chunk, (columns, values)) in chunks.zip(active.values.chunks(2 * pairs)).enumerate() {
        let (columns, _) = columns.as_chunks::<2>();
        for half in 0..2 {
            // (half of each 16 bytes, plane), int16
            let mut sums = [[isa!(_mm256_setzero_si256()); 4]; 2];
            for (at, (columns, x)) in columns.iter().zip(values.as_chunks::<2>().0).enumerate() {
                // The second half finds its lines in the cache.
                if half == 0 {
                    let at = 2 * (chunk * pairs + at);
                    prefetch.gathered(block, active.columns, at);
                    prefetch.gathered(block, active.columns, at + 1);
                }
                let a = load(&block[columns[0] as usize].0, half);
                let b = load(&block[columns[1] as usize].0, half);
                let lines = [
                    isa!(_mm256_unpacklo_epi8(a, b)),
                    isa!(_mm256_unpackhi_epi8(a, b)),
                ];
                let x = isa!(_mm256_set1_epi16(i16::from_le_bytes(bytemuck::cast(*x))));
                for (line, sums) in lines.into_iter().zip(&mut sums) {
                    let planes = planes(line);
                    for plane in 0..4 {
                        let codes = isa!(_mm256_and_si256(planes[plane], low));
                        let products = isa!(_mm256_maddubs_epi16(codes, x));
                        sums[plane] = isa!(_mm256_add_epi16(sums[plane], products));
                    }
                }
            }
            for (eight, sums) in sums.into_iter().enumerate() {
                for (plane, sums) in sums.into_iter().enumerate() {
                    let mut lanes = [0i16; 16];
                    // SAFETY: 32 bytes of its own, written unaligned.
                    unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), sums) }
                    for (lane, eights) in lanes.as_chunks::<8>().0.iter().enumerate() {
                        let first = plane * PLANE + half * HALF + lane * 16 + eight * 8;
                        for (out, &sum) in out[first..first + 8].iter_mut().zip(eights) {
                            *out += i32::from(sum);
                        }
                    }
                }
            }
        }
    }
    out
}

impl SparseDot for Avx2Codes {
    #[inline(always)]
    fn columns(
        self,
        block: &[Line],
        active: ActiveColumns<'_>,
        code_3: bool,
        prefetch: PrefetchManager,
    ) -> [i32; LINE_CODES] {
        columns(block, active, code_3, prefetch)
    }

    #[inline(always)]
    fn row<const T: usize>(self, lines: &[Line], x: [&[i8]; T], code_3: bool) -> [i32; T] {
        // A lane gains four pairs a line.
        let block = if code_3 { 8 } else { 16 };
        let (low, one) = (isa!(_mm256_set1_epi8(0x03)), isa!(_mm256_set1_epi16(1)));
        let x = x.map(|x| x.as_chunks::<LINE_CODES>().0);
        assert!(x.iter().all(|x| x.len() == lines.len()));
        let mut total = [isa!(_mm256_setzero_si256()); T];
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
                    total[t] = isa!(_mm256_add_epi32(total[t], sum));
                }
            }
        }
        let mut sums = [0; T];
        for t in 0..T {
            sums[t] = reduce(total[t]);
        }
        sums
    }
}

impl SparseDot for AvxVnniCodes {
    #[inline(always)]
    fn columns(
        self,
        block: &[Line],
        active: ActiveColumns<'_>,
        code_3: bool,
        prefetch: PrefetchManager,
    ) -> [i32; LINE_CODES] {
        columns(block, active, code_3, prefetch)
    }

    #[inline(always)]
    fn row<const T: usize>(self, lines: &[Line], x: [&[i8]; T], _: bool) -> [i32; T] {
        if T == 1 {
            return [vnni_row_1(lines, x[0]); T];
        }
        let low = isa!(_mm256_set1_epi8(0x03));
        let x = x.map(|x| x.as_chunks::<LINE_CODES>().0);
        assert!(x.iter().all(|x| x.len() == lines.len()));
        let mut sums = [isa!(_mm256_setzero_si256()); T];
        for half in 0..2 {
            for at in 0..lines.len() {
                let planes = planes(load(&lines[at].0, half));
                for plane in 0..4 {
                    let codes = isa!(_mm256_and_si256(planes[plane], low));
                    for t in 0..T {
                        let (x, _) = x[t][at].as_chunks::<PLANE>();
                        let x = load(&x[plane], half);
                        sums[t] = isa!(_mm256_dpbusd_avx_epi32(sums[t], codes, x));
                    }
                }
            }
        }
        let mut total = [0; T];
        for t in 0..T {
            total[t] = reduce(sums[t]);
        }
        total
    }
}

/// One token: plane p stays 4^p times too large in a sum of its own.
#[inline(always)]
fn vnni_row_1(lines: &[Line], x: &[i8]) -> i32 {
    let masks = [
        isa!(_mm256_set1_epi8(0x03)),
        isa!(_mm256_set1_epi8(0x0c)),
        isa!(_mm256_set1_epi8(0x30)),
        isa!(_mm256_set1_epi8(0xc0u8 as i8)),
    ];
    let mut sums = [isa!(_mm256_setzero_si256()); 4];
    for (line, x) in lines.iter().zip(x.as_chunks::<LINE_CODES>().0) {
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
    let sum = isa!(_mm256_add_epi32(
        _mm256_add_epi32(sums[0], _mm256_srai_epi32::<2>(sums[1])),
        _mm256_add_epi32(
            _mm256_srai_epi32::<4>(sums[2]),
            _mm256_srai_epi32::<6>(sums[3])
        )
    ));
    reduce(sum)
}
