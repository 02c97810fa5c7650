//! Blocks of 32 weights: ggml's first generation. d and m are fp16, widened before use.

use super::half_at;

/// Elements i and i + 16 are the low and high nibble of byte i; w = (q − 8)·d.
pub(super) fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for i in 0..16 {
        let byte = block[2 + i];
        out[i] = f32::from(i16::from(byte & 15) - 8) * d;
        out[i + 16] = f32::from(i16::from(byte >> 4) - 8) * d;
    }
}

/// As `Q4_0`, with a minimum: w = q·d + m.
pub(super) fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    for i in 0..16 {
        let byte = block[4 + i];
        out[i] = f32::from(byte & 15) * d + m;
        out[i + 16] = f32::from(byte >> 4) * d + m;
    }
}

/// As `Q4_0`, with the fifth bit of element i in bit i of a word; w = (q − 16)·d.
pub(super) fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for (i, q) in five_bits(&block[2..]).into_iter().enumerate() {
        out[i] = f32::from(i16::from(q) - 16) * d;
    }
}

/// As `Q5_0`, with a minimum: w = q·d + m.
pub(super) fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    for (i, q) in five_bits(&block[4..]).into_iter().enumerate() {
        out[i] = f32::from(q) * d + m;
    }
}

/// Signed bytes; w = q·d.
pub(super) fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for (out, &q) in out.iter_mut().zip(&block[2..]) {
        *out = f32::from(q.cast_signed()) * d;
    }
}

/// Four bytes of high bits, then 16 bytes of nibbles.
fn five_bits(bytes: &[u8]) -> [u8; 32] {
    let high = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    std::array::from_fn(|i| {
        let nibble = if i < 16 {
            bytes[4 + i] & 15
        } else {
            bytes[4 + i - 16] >> 4
        };
        nibble | ((high >> i & 1) as u8) << 4
    })
}
