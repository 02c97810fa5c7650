//! Sparse sums in 512-bit registers: one for the 64 bytes of a line.
//!
//! Columns: bytes of two or four lines are interleaved, so that what an instruction adds up belongs to one row. Rows: the
//! 64 codes of a plane meet the 64 activations of its columns.
//!
//! VNNI leaves plane p 4^p times too large in a sum of its own, which is divided at the end, exactly; the bound is that
//! of `MAX_COLUMNS`. `maddubs` adds two products into int16: codes ≤ 2 give 2·2·128 = 512 a pair of columns, so 64 pairs
//! reach −32768 … 32512; codes ≤ 3 768, so 32 reach 24576.

use std::arch::x86_64::*;

use ryz_tmac::PrefetchManager;

use super::{ActiveColumns, LINE_CODES, PLANE, SparseDot};
use crate::{
    Line,
    ternary::{Avx512Codes, Avx512VnniCodes},
};

/// An intrinsic on registers alone.
macro_rules! isa {
    ($intrinsic:expr) => {
        // SAFETY: a token of a level with AVX-512 BW (and VNNI, where it is used) exists; nothing else is asked of registers.
        unsafe { $intrinsic }
    };
}

#[inline(always)]
fn load<T: bytemuck::Pod>(bytes: &[T; PLANE]) -> __m512i {
    const { assert!(size_of::<T>() == 1) }
    // SAFETY: a reference to 64 bytes, read unaligned; callers hold a token, so the CPU has AVX-512 F.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

/// The bytes of four lines in turn: register i has bytes 4i..4i+4 of each 16.
#[inline(always)]
fn interleave(lines: [__m512i; 4]) -> [__m512i; 4] {
    let [a, b, c, d] = lines;
    let (low, high) = (
        isa!(_mm512_unpacklo_epi8(a, b)),
        isa!(_mm512_unpackhi_epi8(a, b)),
    );
    let (low_2, high_2) = (
        isa!(_mm512_unpacklo_epi8(c, d)),
        isa!(_mm512_unpackhi_epi8(c, d)),
    );
    [
        isa!(_mm512_unpacklo_epi16(low, low_2)),
        isa!(_mm512_unpackhi_epi16(low, low_2)),
        isa!(_mm512_unpacklo_epi16(high, high_2)),
        isa!(_mm512_unpackhi_epi16(high, high_2)),
    ]
}

#[inline(always)]
fn masks() -> [__m512i; 4] {
    [
        isa!(_mm512_set1_epi8(0x03)),
        isa!(_mm512_set1_epi8(0x0c)),
        isa!(_mm512_set1_epi8(0x30)),
        isa!(_mm512_set1_epi8(0xc0u8 as i8)),
    ]
}

/// Σ of sums that are 4^p too large.
#[inline(always)]
fn divided(sums: [__m512i; 4]) -> [__m512i; 4] {
    [
        sums[0],
        isa!(_mm512_srai_epi32::<2>(sums[1])),
        isa!(_mm512_srai_epi32::<4>(sums[2])),
        isa!(_mm512_srai_epi32::<6>(sums[3])),
    ]
}

impl SparseDot for Avx512VnniCodes {
    #[inline(always)]
    fn columns(
        self,
        block: &[Line],
        active: ActiveColumns<'_>,
        _: bool,
        prefetch: PrefetchManager,
    ) -> [i32; LINE_CODES] {
        let masks = masks();
        // (place in the interleaved lines, plane)
        let mut sums = [[isa!(_mm512_setzero_si512()); 4]; 4];
        let (columns, _) = active.columns.as_chunks::<4>();
        let (values, _) = active.values.as_chunks::<4>();
        for (at, (columns, x)) in columns.iter().zip(values).enumerate() {
            for i in 0..4 {
                prefetch.gathered(block, active.columns, 4 * at + i);
            }
            let lines = interleave([
                load(&block[columns[0] as usize].0),
                load(&block[columns[1] as usize].0),
                load(&block[columns[2] as usize].0),
                load(&block[columns[3] as usize].0),
            ]);
            let x = isa!(_mm512_set1_epi32(i32::from_le_bytes(bytemuck::cast(*x))));
            for i in 0..4 {
                for plane in 0..4 {
                    let codes = isa!(_mm512_and_si512(lines[i], masks[plane]));
                    sums[i][plane] = isa!(_mm512_dpbusd_epi32(sums[i][plane], codes, x));
                }
            }
        }
        let mut out = [0; LINE_CODES];
        for i in 0..4 {
            let sums = divided(sums[i]);
            for plane in 0..4 {
                let mut lanes = [0i32; 16];
                // SAFETY: 64 bytes of its own, written unaligned.
                unsafe { _mm512_storeu_si512(lanes.as_mut_ptr().cast(), sums[plane]) }
                for (lane, fours) in lanes.as_chunks::<4>().0.iter().enumerate() {
                    let first = plane * PLANE + lane * 16 + i * 4;
                    out[first..first + 4].copy_from_slice(fours);
                }
            }
        }
        out
    }

    #[inline(always)]
    fn row<const T: usize>(self, lines: &[Line], x: [&[i8]; T], _: bool) -> [i32; T] {
        if T == 1 {
            return [vnni_row_1(lines, x[0]); T];
        }
        let x = x.map(|x| x.as_chunks::<LINE_CODES>().0);
        assert!(x.iter().all(|x| x.len() == lines.len()));
        // Two chains a token.
        let mut sums = [[isa!(_mm512_setzero_si512()); 2]; T];
        for at in 0..lines.len() {
            let planes = planes(load(&lines[at].0));
            for plane in 0..4 {
                for t in 0..T {
                    let (x, _) = x[t][at].as_chunks::<PLANE>();
                    let sum = &mut sums[t][plane % 2];
                    *sum = isa!(_mm512_dpbusd_epi32(*sum, planes[plane], load(&x[plane])));
                }
            }
        }
        let mut total = [0; T];
        for t in 0..T {
            let sum = isa!(_mm512_add_epi32(sums[t][0], sums[t][1]));
            total[t] = isa!(_mm512_reduce_add_epi32(sum));
        }
        total
    }
}

/// One token: plane p stays 4^p times too large in a sum of its own.
#[inline(always)]
fn vnni_row_1(lines: &[Line], x: &[i8]) -> i32 {
    let masks = masks();
    let mut sums = [isa!(_mm512_setzero_si512()); 4];
    for (line, x) in lines.iter().zip(x.as_chunks::<LINE_CODES>().0) {
        let line = load(&line.0);
        let (x, _) = x.as_chunks::<PLANE>();
        for plane in 0..4 {
            let codes = isa!(_mm512_and_si512(line, masks[plane]));
            sums[plane] = isa!(_mm512_dpbusd_epi32(sums[plane], codes, load(&x[plane])));
        }
    }
    let [a, b, c, d] = divided(sums);
    let sum = isa!(_mm512_add_epi32(
        _mm512_add_epi32(a, b),
        _mm512_add_epi32(c, d)
    ));
    isa!(_mm512_reduce_add_epi32(sum))
}

/// The planes of packed codes, a byte each.
#[inline(always)]
fn planes(line: __m512i) -> [__m512i; 4] {
    let low = isa!(_mm512_set1_epi8(0x03));
    [
        isa!(_mm512_and_si512(line, low)),
        isa!(_mm512_and_si512(_mm512_srli_epi16::<2>(line), low)),
        isa!(_mm512_and_si512(_mm512_srli_epi16::<4>(line), low)),
        isa!(_mm512_and_si512(_mm512_srli_epi16::<6>(line), low)),
    ]
}

impl SparseDot for Avx512Codes {
    #[inline(always)]
    fn columns(
        self,
        block: &[Line],
        active: ActiveColumns<'_>,
        code_3: bool,
        prefetch: PrefetchManager,
    ) -> [i32; LINE_CODES] {
        let pairs = if code_3 { 32 } else { 64 };
        let mut out = [0; LINE_CODES];
        let chunks = active.columns.chunks(2 * pairs);
        for (chunk, (columns, values)) in chunks.zip(active.values.chunks(2 * pairs)).enumerate() {
            // (half of each 16 bytes, plane), int16
            let mut sums = [[isa!(_mm512_setzero_si512()); 4]; 2];
            let (columns, _) = columns.as_chunks::<2>();
            for (at, (columns, x)) in columns.iter().zip(values.as_chunks::<2>().0).enumerate() {
                for i in 0..2 {
                    prefetch.gathered(block, active.columns, 2 * (chunk * pairs + at) + i);
                }
                let a = load(&block[columns[0] as usize].0);
                let b = load(&block[columns[1] as usize].0);
                let lines = [
                    isa!(_mm512_unpacklo_epi8(a, b)),
                    isa!(_mm512_unpackhi_epi8(a, b)),
                ];
                let x = isa!(_mm512_set1_epi16(i16::from_le_bytes(bytemuck::cast(*x))));
                for (line, sums) in lines.into_iter().zip(&mut sums) {
                    let planes = planes(line);
                    for plane in 0..4 {
                        let products = isa!(_mm512_maddubs_epi16(planes[plane], x));
                        sums[plane] = isa!(_mm512_add_epi16(sums[plane], products));
                    }
                }
            }
            for (half, sums) in sums.into_iter().enumerate() {
                for (plane, sums) in sums.into_iter().enumerate() {
                    let mut lanes = [0i16; 32];
                    // SAFETY: 64 bytes of its own, written unaligned.
                    unsafe { _mm512_storeu_si512(lanes.as_mut_ptr().cast(), sums) }
                    for (lane, eights) in lanes.as_chunks::<8>().0.iter().enumerate() {
                        let first = plane * PLANE + lane * 16 + half * 8;
                        for (out, &sum) in out[first..first + 8].iter_mut().zip(eights) {
                            *out += i32::from(sum);
                        }
                    }
                }
            }
        }
        out
    }

    #[inline(always)]
    fn row<const T: usize>(self, lines: &[Line], x: [&[i8]; T], code_3: bool) -> [i32; T] {
        // A lane gains four pairs a line.
        let block = if code_3 { 8 } else { 16 };
        let one = isa!(_mm512_set1_epi16(1));
        let x = x.map(|x| x.as_chunks::<LINE_CODES>().0);
        assert!(x.iter().all(|x| x.len() == lines.len()));
        let mut total = [isa!(_mm512_setzero_si512()); T];
        for start in (0..lines.len()).step_by(block) {
            let mut sums = [isa!(_mm512_setzero_si512()); T];
            for at in start..lines.len().min(start + block) {
                let planes = planes(load(&lines[at].0));
                for plane in 0..4 {
                    for t in 0..T {
                        let (x, _) = x[t][at].as_chunks::<PLANE>();
                        let x = load(&x[plane]);
                        let products = isa!(_mm512_maddubs_epi16(planes[plane], x));
                        sums[t] = isa!(_mm512_add_epi16(sums[t], products));
                    }
                }
            }
            for t in 0..T {
                let sum = isa!(_mm512_madd_epi16(sums[t], one));
                total[t] = isa!(_mm512_add_epi32(total[t], sum));
            }
        }
        let mut sums = [0; T];
        for t in 0..T {
            sums[t] = isa!(_mm512_reduce_add_epi32(total[t]));
        }
        sums
    }
}
