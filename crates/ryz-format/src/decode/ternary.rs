//! Ternary blocks. Each function fills one block's codes (t + 1) and returns its scale.

use super::half_at;

/// Trit n of a byte of five or four trits, most significant first: ((b·3ⁿ mod 256)·3) >> 8.
fn trit(byte: u8, n: usize) -> u8 {
    const POW3: [u8; 5] = [1, 3, 9, 27, 81];
    ((u16::from(byte.wrapping_mul(POW3[n])) * 3) >> 8) as u8
}

/// `TQ1_0`: 48 bytes of five trits, 4 bytes of four trits, fp16 scale.
pub(super) fn tq1_0(block: &[u8], codes: &mut [u8]) -> f32 {
    for n in 0..5 {
        for m in 0..32 {
            codes[32 * n + m] = trit(block[m], n);
        }
        for m in 0..16 {
            codes[160 + 16 * n + m] = trit(block[32 + m], n);
        }
    }
    for n in 0..4 {
        for m in 0..4 {
            codes[240 + 4 * n + m] = trit(block[48 + m], n);
        }
    }
    half_at(block, 52)
}

/// `PTQ1_0`: 24 bytes of five trits, 2 bytes of four trits, fp16 scale.
pub(super) fn ptq1_0(block: &[u8], codes: &mut [u8]) -> f32 {
    for n in 0..5 {
        for m in 0..16 {
            codes[16 * n + m] = trit(block[m], n);
        }
        for m in 0..8 {
            codes[80 + 8 * n + m] = trit(block[16 + m], n);
        }
    }
    for n in 0..4 {
        for m in 0..2 {
            codes[120 + 2 * n + m] = trit(block[24 + m], n);
        }
    }
    half_at(block, 26)
}

/// `TQ2_0`: element 128h + 32l + m is in byte 32h + m, bits 2l..2l+1; fp16 scale last.
pub(super) fn tq2_0(block: &[u8], codes: &mut [u8]) -> f32 {
    for (i, code) in codes.iter_mut().enumerate() {
        let (h, l, m) = (i / 128, i % 128 / 32, i % 32);
        *code = block[32 * h + m] >> (2 * l) & 3;
    }
    half_at(block, 64)
}

/// `Q2_0` in either layout: fp16 scale first, then element 4i + j in byte i, bits 2j..2j+1.
pub(super) fn q2_0(block: &[u8], codes: &mut [u8]) -> f32 {
    for (i, code) in codes.iter_mut().enumerate() {
        *code = block[2 + i / 4] >> (2 * (i % 4)) & 3;
    }
    half_at(block, 0)
}

/// `Q1_0`: fp16 scale first, then element j in bit j % 8 of byte j / 8: 1 is +1, 0 is −1.
pub(super) fn q1_0(block: &[u8], codes: &mut [u8]) -> f32 {
    for (j, code) in codes.iter_mut().enumerate() {
        *code = (block[2 + j / 8] >> (j % 8) & 1) * 2;
    }
    half_at(block, 0)
}

/// `I2_S`: element j of 128 is in byte j % 32, bits 6 − 2·(j / 32).
pub(super) fn i2_s(block: &[u8], codes: &mut [u8]) {
    for (j, code) in codes.iter_mut().enumerate() {
        *code = block[j % 32] >> (6 - 2 * (j / 32)) & 3;
    }
}
