//! Seeded random weights in any type.

use half::f16;
use ryz_format::{DType, encode::encode_ternary};

/// SplitMix64 (Steele, Lea and Flood, 2014).
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

/// The scale of a ternary matrix with so many columns: two thirds of its weights are not 0, so that this keeps the
/// variance of the input.
pub fn unit_gain(cols: usize) -> f32 {
    (1.5 / cols as f32).sqrt()
}

/// Random ternary codes t + 1, row after row.
pub fn codes(rows: usize, cols: usize, random: &mut Random) -> Vec<u8> {
    (0..rows * cols)
        .map(|_| (random.next() >> 32) as u8 % 3)
        .collect()
}

/// The blocks of a ternary type. BitNet's matrices have one scale each, also where every block could have its own; those of
/// the types that are for groups (`Q2_0` and Prism ML's) have a random one a group, within a quarter.
pub fn ternary(dtype: DType, codes: &[u8], cols: usize, random: &mut Random) -> Vec<u8> {
    let count = if dtype.has_tensor_scale() {
        1
    } else {
        codes.len() / dtype.block_values()
    };
    let grouped = matches!(
        dtype,
        DType::Q2_0G64 | DType::Q2_0G128 | DType::Q1_0 | DType::PQ2_0 | DType::PTQ1_0
    );
    let scales: Vec<f32> = (0..count)
        .map(|_| {
            let around = if grouped {
                0.75 + (random.next() >> 40) as f32 / (1u64 << 25) as f32
            } else {
                1.0
            };
            unit_gain(cols) * around
        })
        .collect();
    let mut bytes = Vec::new();
    if dtype == DType::Q1_0 {
        // It has no zero.
        let signs: Vec<u8> = (codes.iter().enumerate())
            .map(|(i, &code)| if code == 1 { (i % 2 * 2) as u8 } else { code })
            .collect();
        encode_ternary(dtype, &signs, &scales, &mut bytes);
    } else {
        encode_ternary(dtype, codes, &scales, &mut bytes);
    }
    bytes
}

/// Random blocks of a dense type, of about the same gain.
pub fn dense(dtype: DType, rows: usize, cols: usize, random: &mut Random) -> Vec<u8> {
    let scale = unit_gain(cols);
    let mut bytes = vec![0; dtype.row_bytes(cols).unwrap_or(0) * rows];
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&random.next().to_le_bytes()[..chunk.len()]);
    }
    let half = |value: f32| f16::from_f32(value).to_le_bytes();
    for block in bytes.chunks_mut(dtype.block_bytes()) {
        match dtype {
            DType::F16 => {
                let value = f32::from(i16::from_le_bytes([block[0], block[1]])) / 32768.0 * scale;
                block.copy_from_slice(&half(value));
            }
            DType::Q8_0 => block[..2].copy_from_slice(&half(scale / 74.0)),
            DType::Q4K => {
                block[..2].copy_from_slice(&half(scale / 150.0));
                block[2..4].copy_from_slice(&half(scale / 150.0 * 7.5));
            }
            DType::Q6K => block[208..].copy_from_slice(&half(scale / 1400.0)),
            _ => {}
        }
    }
    bytes
}
