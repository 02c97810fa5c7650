//! Super-blocks of 256 weights with quantized sub-block scales: ggml's k-quants.
//!
//! The order of the products matches ggml's, because it determines the rounding.

use super::half_at;

/// `scales[16]` (scale in the low nibble, minimum in the high one), `qs[64]`, d, dmin. w = (d·sc)·q
/// − (dmin·m). Element 128h + 32l + m is in byte 32h + m of `qs`, bits 2l..2l+1; a sub-block is 16
/// elements.
pub(super) fn q2_k(block: &[u8; 84], out: &mut [f32; 256]) {
    let (d, dmin) = (half_at(block, 80), half_at(block, 82));
    for (i, out) in out.iter_mut().enumerate() {
        let (h, l, m) = (i / 128, i % 128 / 32, i % 32);
        let scale = block[i / 16];
        let q = block[16 + 32 * h + m] >> (2 * l) & 3;
        *out = d * f32::from(scale & 15) * f32::from(q) - dmin * f32::from(scale >> 4);
    }
}

/// `hmask[32]`, `qs[64]`, twelve bytes of sixteen 6-bit scales, d. w = (d·(sc − 32))·(q − 4 where
/// the mask bit is clear).
pub(super) fn q3_k(block: &[u8; 110], out: &mut [f32; 256]) {
    let d = half_at(block, 108);
    let packed = &block[96..108];
    for (i, out) in out.iter_mut().enumerate() {
        let (h, l, m) = (i / 128, i % 128 / 32, i % 32);
        let s = i / 16;
        // Low nibbles: bytes 0-7, low half for scales 0-7 and high half for 8-15. Top two bits:
        // bytes 8-11.
        let low = if s < 8 {
            packed[s] & 15
        } else {
            packed[s - 8] >> 4
        };
        let scale = low | (packed[8 + s % 4] >> (2 * (s / 4)) & 3) << 4;
        let q = i16::from(block[32 + 32 * h + m] >> (2 * l) & 3);
        let q = if block[m] >> (4 * h + l) & 1 == 1 {
            q
        } else {
            q - 4
        };
        *out = d * f32::from(i16::from(scale) - 32) * f32::from(q);
    }
}

/// d, dmin, twelve bytes of eight 6-bit scales and minima, `qs[128]`. w = (d·sc)·q − (dmin·m).
/// Element 64g + 32l + m is in byte 32g + m of `qs`, nibble l; a sub-block is 32 elements.
pub(super) fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    for (i, out) in out.iter_mut().enumerate() {
        let (g, l, m) = (i / 64, i % 64 / 32, i % 32);
        let (scale, minimum) = scale_and_minimum(&block[4..16], i / 32);
        let q = block[16 + 32 * g + m] >> (4 * l) & 15;
        *out = d * scale * f32::from(q) - dmin * minimum;
    }
}

/// As `Q4_K`, with the fifth bit of element 32b + m in bit b of `qh[m]`.
pub(super) fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    for (i, out) in out.iter_mut().enumerate() {
        let (g, l, m) = (i / 64, i % 64 / 32, i % 32);
        let (scale, minimum) = scale_and_minimum(&block[4..16], i / 32);
        let q = block[48 + 32 * g + m] >> (4 * l) & 15 | (block[16 + m] >> (i / 32) & 1) << 4;
        *out = d * scale * f32::from(q) - dmin * minimum;
    }
}

/// `ql[128]`, `qh[64]`, sixteen signed scales, d. w = (d·sc)·(q − 32); a sub-block is 16 elements.
/// Element 128h + 32l + m: low nibble from `ql[64h + 32·(l%2) + m]`, nibble l/2; high bits from
/// `qh[32h + m]`, bits 2l..2l+1.
pub(super) fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let d = half_at(block, 208);
    for (i, out) in out.iter_mut().enumerate() {
        let (h, l, m) = (i / 128, i % 128 / 32, i % 32);
        let low = block[64 * h + 32 * (l % 2) + m] >> (4 * (l / 2)) & 15;
        let high = block[128 + 32 * h + m] >> (2 * l) & 3;
        let scale = block[192 + i / 16].cast_signed();
        *out = d * f32::from(scale) * f32::from(i16::from(low | high << 4) - 32);
    }
}

/// The 6-bit scale and minimum of sub-block `j`, from twelve bytes.
fn scale_and_minimum(packed: &[u8], j: usize) -> (f32, f32) {
    let (scale, minimum) = if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        (
            packed[j + 4] & 15 | packed[j - 4] >> 6 << 4,
            packed[j + 4] >> 4 | packed[j] >> 6 << 4,
        )
    };
    (f32::from(scale), f32::from(minimum))
}
