//! Sparse sums in 512-bit registers: one for the 64 bytes of a line.
//!
//! Columns: bytes of two or four lines are interleaved, so that what an instruction adds up belongs to one row. Rows: the
//! 64 codes of a plane meet the 64 activations of its columns.
//!
//! VNNI leaves plane p 4^p times too large in a sum of its own, which is divided at the end, exactly; the bound is that
//! of `MAX_COLUMNS`. `maddubs` adds two products into int16: of rows codes ≤ 2 give 2·2·128 = 512 a pair, so 64 pairs reach
//! −32768 … 32512; codes ≤ 3 768, so 32 reach 24576. Of columns every other plane stays 4 times too large: 16 pairs and 8.

use std::arch::x86_64::*;

use super::{ActiveColumns, ColumnLines, LINE_CODES, PLANE, SparseDot};
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

/// Σ of planes of which plane p is 4^p too large.
#[inline(always)]
fn sum_of_planes(sums: [__m512i; 4]) -> __m512i {
    let [a, b, c, d] = sums;
    let b = isa!(_mm512_srai_epi32::<2>(b));
    let c = isa!(_mm512_srai_epi32::<4>(c));
    let d = isa!(_mm512_srai_epi32::<6>(d));
    isa!(_mm512_add_epi32(
        _mm512_add_epi32(a, b),
        _mm512_add_epi32(c, d)
    ))
}

#[inline(always)]
fn load_sums(sums: &[i32; 16]) -> __m512i {
    // SAFETY: a reference to 64 bytes, read unaligned; callers hold a token, so the CPU has AVX-512 F.
    unsafe { _mm512_loadu_si512(sums.as_ptr().cast()) }
}

#[inline(always)]
fn store_sums(sums: __m512i, out: &mut [i32; 16]) {
    // SAFETY: a reference to 64 bytes, written unaligned; callers hold a token, so the CPU has AVX-512 F.
    unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), sums) }
}

impl SparseDot for Avx512VnniCodes {
    /// Of register `4·i + plane` of the sums, lane 4·l + k is row 64·plane + 16·l + 4·i + k, 4^plane too large.
    #[inline(always)]
    fn add_columns(
        self,
        lines: ColumnLines<'_>,
        active: ActiveColumns<'_>,
        _: bool,
        next: &[u32],
        sums: &mut [i32; LINE_CODES],
    ) {
        let masks = masks();
        let (kept, _) = sums.as_chunks_mut::<16>();
        let mut sums = [isa!(_mm512_setzero_si512()); 16];
        for (sum, kept) in sums.iter_mut().zip(&*kept) {
            *sum = load_sums(kept);
        }
        let (columns, _) = active.columns.as_chunks::<4>();
        let (values, _) = active.values.as_chunks::<4>();
        for (at, (columns, x)) in columns.iter().zip(values).enumerate() {
            for &column in next.iter().skip(4 * at).take(4) {
                lines.ask(column);
            }
            let [a, b, c, d] = *columns;
            let interleaved = interleave([
                load(&lines.line(a).0),
                load(&lines.line(b).0),
                load(&lines.line(c).0),
                load(&lines.line(d).0),
            ]);
            let x = isa!(_mm512_set1_epi32(i32::from_le_bytes(bytemuck::cast(*x))));
            for i in 0..4 {
                for plane in 0..4 {
                    let codes = isa!(_mm512_and_si512(interleaved[i], masks[plane]));
                    let sum = &mut sums[4 * i + plane];
                    *sum = isa!(_mm512_dpbusd_epi32(*sum, codes, x));
                }
            }
        }
        for (sum, kept) in sums.into_iter().zip(kept) {
            store_sums(sum, kept);
        }
    }

    #[inline(always)]
    fn settle(self, sums: &[i32; LINE_CODES]) -> [i32; LINE_CODES] {
        let mut out = [0; LINE_CODES];
        for (at, sums) in sums.as_chunks::<16>().0.iter().enumerate() {
            let (i, plane) = (at / 4, at % 4);
            for (lane, fours) in sums.as_chunks::<4>().0.iter().enumerate() {
                let first = plane * PLANE + lane * 16 + i * 4;
                out[first..first + 4].copy_from_slice(&fours.map(|sum| sum >> (2 * plane)));
            }
        }
        out
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
        let mut total = [[isa!(_mm512_setzero_si512()); T]; R];
        if T == 1 && R == 4 {
            for r in 0..R {
                before(r);
            }
            let four = vnni_rows_4([lines[0], lines[1 % R], lines[2 % R], lines[3 % R]], x[0]);
            for r in 0..R {
                total[r] = [four[r % 4]; T];
            }
            return reduce(total);
        }
        for r in 0..R {
            before(r);
            let lines = lines[r];
            assert!(x.iter().all(|x| x.len() == lines.len()));
            if T == 1 {
                total[r] = [vnni_row_1(lines, x[0]); T];
                continue;
            }
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
            for t in 0..T {
                total[r][t] = isa!(_mm512_add_epi32(sums[t][0], sums[t][1]));
            }
        }
        reduce(total)
    }
}

/// Four rows with one token, whose activations are read once for all of them: as [`vnni_row_1`].
#[inline(always)]
fn vnni_rows_4(lines: [&[Line]; 4], x: &[[i8; LINE_CODES]]) -> [__m512i; 4] {
    let masks = masks();
    let [a, b, c, d] = lines;
    let [a, b] = [&a[..x.len()], &b[..x.len()]];
    let [c, d] = [&c[..x.len()], &d[..x.len()]];
    let mut sums = [[isa!(_mm512_setzero_si512()); 4]; 4];
    for at in 0..x.len() {
        let lines = [
            load(&a[at].0),
            load(&b[at].0),
            load(&c[at].0),
            load(&d[at].0),
        ];
        let (x, _) = x[at].as_chunks::<PLANE>();
        for plane in 0..4 {
            let x = load(&x[plane]);
            for r in 0..4 {
                let codes = isa!(_mm512_and_si512(lines[r], masks[plane]));
                sums[r][plane] = isa!(_mm512_dpbusd_epi32(sums[r][plane], codes, x));
            }
        }
    }
    let [a, b, c, d] = sums;
    [
        sum_of_planes(a),
        sum_of_planes(b),
        sum_of_planes(c),
        sum_of_planes(d),
    ]
}

/// One token: plane p stays 4^p times too large in a sum of its own.
#[inline(always)]
fn vnni_row_1(lines: &[Line], x: &[[i8; LINE_CODES]]) -> __m512i {
    let masks = masks();
    let mut sums = [isa!(_mm512_setzero_si512()); 4];
    for (line, x) in lines.iter().zip(x) {
        let line = load(&line.0);
        let (x, _) = x.as_chunks::<PLANE>();
        for plane in 0..4 {
            let codes = isa!(_mm512_and_si512(line, masks[plane]));
            sums[plane] = isa!(_mm512_dpbusd_epi32(sums[plane], codes, load(&x[plane])));
        }
    }
    sum_of_planes(sums)
}

/// The sums of all lanes; of four rows together.
#[inline(always)]
fn reduce<const R: usize, const T: usize>(sums: [[__m512i; T]; R]) -> [[i32; T]; R] {
    let mut out = [[0; T]; R];
    let fours = R / 4 * 4;
    for t in 0..T {
        for first in (0..fours).step_by(4) {
            let (ab, cd) = (&sums[first..first + 2], &sums[first + 2..first + 4]);
            let four = reduce_4([ab[0][t], ab[1][t], cd[0][t], cd[1][t]]);
            for (r, sum) in four.into_iter().enumerate() {
                out[first + r][t] = sum;
            }
        }
        for r in fours..R {
            out[r][t] = isa!(_mm512_reduce_add_epi32(sums[r][t]));
        }
    }
    out
}

#[inline(always)]
fn reduce_4([a, b, c, d]: [__m512i; 4]) -> [i32; 4] {
    let ab = isa!(_mm512_add_epi32(
        _mm512_unpacklo_epi32(a, b),
        _mm512_unpackhi_epi32(a, b)
    ));
    let cd = isa!(_mm512_add_epi32(
        _mm512_unpacklo_epi32(c, d),
        _mm512_unpackhi_epi32(c, d)
    ));
    // A lane of each in every quarter.
    let quarters = isa!(_mm512_add_epi32(
        _mm512_unpacklo_epi64(ab, cd),
        _mm512_unpackhi_epi64(ab, cd)
    ));
    let halves = isa!(_mm256_add_epi32(
        _mm512_castsi512_si256(quarters),
        _mm512_extracti64x4_epi64::<1>(quarters)
    ));
    let sums = isa!(_mm_add_epi32(
        _mm256_castsi256_si128(halves),
        _mm256_extracti128_si256::<1>(halves)
    ));
    bytemuck::cast(sums)
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
    /// Of register pair `4·i + plane` of the sums, lane 8·l + k is row 64·plane + 16·l + 8·i + k, of odd planes 4 times too
    /// large.
    #[inline(always)]
    fn add_columns(
        self,
        lines: ColumnLines<'_>,
        active: ActiveColumns<'_>,
        code_3: bool,
        next: &[u32],
        sums: &mut [i32; LINE_CODES],
    ) {
        let pairs = if code_3 { 8 } else { 16 };
        let (low, high) = (isa!(_mm512_set1_epi8(0x03)), isa!(_mm512_set1_epi8(0x0c)));
        let (kept, _) = sums.as_chunks_mut::<16>();
        let (kept, _) = kept.as_chunks_mut::<2>();
        let (columns, _) = active.columns.as_chunks::<2>();
        let (values, _) = active.values.as_chunks::<2>();
        let mut next = next.iter();
        for (columns, values) in columns.chunks(pairs).zip(values.chunks(pairs)) {
            let mut sums = [isa!(_mm512_setzero_si512()); 8];
            for (columns, x) in columns.iter().zip(values) {
                for &column in next.by_ref().take(2) {
                    lines.ask(column);
                }
                let (a, b) = (lines.line(columns[0]), lines.line(columns[1]));
                let (a, b) = (load(&a.0), load(&b.0));
                let x = isa!(_mm512_set1_epi16(i16::from_le_bytes(bytemuck::cast(*x))));
                for (i, line) in [
                    isa!(_mm512_unpacklo_epi8(a, b)),
                    isa!(_mm512_unpackhi_epi8(a, b)),
                ]
                .into_iter()
                .enumerate()
                {
                    let upper = isa!(_mm512_srli_epi16::<4>(line));
                    let planes = [(line, low), (line, high), (upper, low), (upper, high)];
                    for (sum, (codes, mask)) in sums[4 * i..].iter_mut().zip(planes) {
                        let products = isa!(_mm512_maddubs_epi16(_mm512_and_si512(codes, mask), x));
                        *sum = isa!(_mm512_add_epi16(*sum, products));
                    }
                }
            }
            for (sum, kept) in sums.into_iter().zip(kept.iter_mut()) {
                let halves = [
                    isa!(_mm512_castsi512_si256(sum)),
                    isa!(_mm512_extracti64x4_epi64::<1>(sum)),
                ];
                for (half, kept) in halves.into_iter().zip(kept) {
                    let wide = isa!(_mm512_cvtepi16_epi32(half));
                    store_sums(isa!(_mm512_add_epi32(load_sums(kept), wide)), kept);
                }
            }
        }
    }

    #[inline(always)]
    fn settle(self, sums: &[i32; LINE_CODES]) -> [i32; LINE_CODES] {
        let mut out = [0; LINE_CODES];
        for (at, sums) in sums.as_chunks::<32>().0.iter().enumerate() {
            let (i, plane) = (at / 4, at % 4);
            for (lane, eights) in sums.as_chunks::<8>().0.iter().enumerate() {
                let first = plane * PLANE + lane * 16 + i * 8;
                let shift = 2 * (plane % 2);
                out[first..first + 8].copy_from_slice(&eights.map(|sum| sum >> shift));
            }
        }
        out
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
        let one = isa!(_mm512_set1_epi16(1));
        let x = x.map(|x| x.as_chunks::<LINE_CODES>().0);
        let mut total = [[isa!(_mm512_setzero_si512()); T]; R];
        for r in 0..R {
            before(r);
            let lines = lines[r];
            assert!(x.iter().all(|x| x.len() == lines.len()));
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
                    total[r][t] = isa!(_mm512_add_epi32(total[r][t], sum));
                }
            }
        }
        reduce(total)
    }
}
