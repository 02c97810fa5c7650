//! The baseline: 2-bit codes row by row, wherever they happen to lie, multiplied with one token at a time.
//!
//! ```text
//! y[r] = f32(Σ code·q − Σ q) / s,  32 bytes = 128 columns: byte j, bits 6 − 2k = column 32k + j (I2_S)
//! ```
//!
//! With AVX2 it multiplies as the engine's kernels do, by `maddubs`: what differs is where things lie.

/// A matrix in the file's order, at an odd address.
pub struct Naive {
    bytes: Vec<u8>,
    start: usize,
    rows: usize,
    cols: usize,
}

impl Naive {
    /// Copies the blocks of a matrix of `rows` × `cols` to one byte past a cache line.
    pub fn new(blocks: &[u8], rows: usize, cols: usize) -> Self {
        assert!(cols.is_multiple_of(128), "whole blocks");
        let mut bytes = vec![0; blocks.len() + 128];
        let start = bytes.as_ptr().align_offset(64) + 1;
        bytes[start..start + blocks.len()].copy_from_slice(blocks);
        Self {
            bytes,
            start,
            rows,
            cols,
        }
    }

    /// Cache lines that reading every row once touches; a line that two rows share counts for both.
    pub fn lines(&self) -> usize {
        let row = self.cols / 4;
        (0..self.rows)
            .map(|index| (1 + index * row) % 64 + row)
            .map(|end| end.div_ceil(64))
            .sum()
    }

    /// One token's product: `q` with factor `s`.
    pub fn product(&self, q: &[i8], s: f32, out: &mut [f32]) {
        let sum: i32 = q.iter().map(|&q| i32::from(q)).sum();
        let rows = &self.bytes[self.start..][..self.rows * self.cols / 4];
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has AVX2.
            unsafe { avx2_rows(rows, q, sum, s, out) };
            return;
        }
        for (row, out) in rows.chunks_exact(self.cols / 4).zip(out) {
            *out = (portable(row, q) - sum) as f32 / s;
        }
    }
}

fn portable(row: &[u8], q: &[i8]) -> i32 {
    let mut total = 0;
    for (bytes, q) in row.as_chunks::<32>().0.iter().zip(q.as_chunks::<128>().0) {
        for (k, q) in q.as_chunks::<32>().0.iter().enumerate() {
            for (byte, &q) in bytes.iter().zip(q) {
                total += i32::from(byte >> (6 - 2 * k) & 3) * i32::from(q);
            }
        }
    }
    total
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2_rows(rows: &[u8], q: &[i8], sum: i32, s: f32, out: &mut [f32]) {
    for (row, out) in rows.chunks_exact(q.len() / 4).zip(out) {
        *out = (avx2(row, q) - sum) as f32 / s;
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2(row: &[u8], q: &[i8]) -> i32 {
    use std::arch::x86_64::*;
    let (mask, one) = (_mm256_set1_epi8(3), _mm256_set1_epi16(1));
    let mut total = _mm256_setzero_si256();
    for (bytes, q) in row.as_chunks::<32>().0.iter().zip(q.as_chunks::<128>().0) {
        // SAFETY: 32 bytes are there, and the load asks for no alignment.
        let codes = unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) };
        let mut sums = _mm256_setzero_si256();
        let shifted = [
            _mm256_srli_epi16::<6>(codes),
            _mm256_srli_epi16::<4>(codes),
            _mm256_srli_epi16::<2>(codes),
            codes,
        ];
        for (codes, q) in shifted.into_iter().zip(q.as_chunks::<32>().0) {
            // SAFETY: 32 bytes are there, and the load asks for no alignment.
            let q = unsafe { _mm256_loadu_si256(q.as_ptr().cast()) };
            let products = _mm256_maddubs_epi16(_mm256_and_si256(codes, mask), q);
            sums = _mm256_add_epi16(sums, products); // four of at most 512
        }
        total = _mm256_add_epi32(total, _mm256_madd_epi16(sums, one));
    }
    let mut lanes = [0i32; 8];
    // SAFETY: there is room for 32 bytes, and the store asks for no alignment.
    unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), total) };
    lanes.into_iter().sum()
}
