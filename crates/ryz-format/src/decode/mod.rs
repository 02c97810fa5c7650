//! The reference decoders: one block at a time, exact, optimized for readability.
//!
//! Kernels decode faster and are tested against these; these are tested against vectors from other
//! implementations.

mod k_quants;
mod legacy;
mod ternary;

use half::{bf16, f16};

use crate::DType;

/// Decodes whole blocks to f32, with the order and roundings of ggml's `dequantize_row_*`.
///
/// `I2_S` stores its scale in the tensor's tail, so its weights are decoded as t;
/// [`crate::TensorView::decode_row`] applies the scale.
///
/// # Panics
/// When `out` is not a whole number of blocks, `bytes` does not have the length of those blocks, or
/// the type has no contiguous rows ([`DType::HfPacked`]).
pub fn decode_row(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(
        dtype.row_bytes(out.len()),
        Some(bytes.len()),
        "{} weights of {dtype}",
        out.len()
    );
    match dtype {
        DType::F32 => each(bytes, out, |b: &[u8; 4], out: &mut [f32; 1]| {
            out[0] = f32::from_le_bytes(*b)
        }),
        DType::F16 => each(bytes, out, |b: &[u8; 2], out: &mut [f32; 1]| {
            out[0] = f16::from_le_bytes(*b).to_f32()
        }),
        DType::BF16 => each(bytes, out, |b: &[u8; 2], out: &mut [f32; 1]| {
            out[0] = bf16::from_le_bytes(*b).to_f32()
        }),
        DType::Q4_0 => each(bytes, out, legacy::q4_0),
        DType::Q4_1 => each(bytes, out, legacy::q4_1),
        DType::Q5_0 => each(bytes, out, legacy::q5_0),
        DType::Q5_1 => each(bytes, out, legacy::q5_1),
        DType::Q8_0 => each(bytes, out, legacy::q8_0),
        DType::Q2K => each(bytes, out, k_quants::q2_k),
        DType::Q3K => each(bytes, out, k_quants::q3_k),
        DType::Q4K => each(bytes, out, k_quants::q4_k),
        DType::Q5K => each(bytes, out, k_quants::q5_k),
        DType::Q6K => each(bytes, out, k_quants::q6_k),
        DType::TQ1_0
        | DType::TQ2_0
        | DType::Q2_0G64
        | DType::Q2_0G128
        | DType::Q1_0
        | DType::PQ2_0
        | DType::PTQ1_0
        | DType::I2S => {
            let mut codes = [0; 256];
            let codes = &mut codes[..dtype.block_values()];
            for (block, out) in bytes
                .chunks_exact(dtype.block_bytes())
                .zip(out.chunks_exact_mut(codes.len()))
            {
                let mut scale = [1.0];
                let scales = if dtype == DType::I2S {
                    &mut [][..]
                } else {
                    &mut scale
                };
                unpack_codes(dtype, block, codes, scales);
                for (out, &code) in out.iter_mut().zip(codes.iter()) {
                    *out = (f32::from(code) - 1.0) * scale[0];
                }
            }
        }
        DType::HfPacked | DType::Prepacked(_) => unreachable!("row_bytes is None for it"),
    }
}

/// Unpacks whole ternary blocks to codes t + 1 (0, 1, 2, and an unchanged 3) and one f32 scale per
/// block.
///
/// `I2_S` stores its scale in the tensor's tail, so `scales` is empty for it.
///
/// # Panics
/// When the type is not ternary with contiguous rows, `codes` is not a whole number of blocks, or
/// `bytes` or `scales` do not have the length that those blocks need.
pub fn unpack_codes(dtype: DType, bytes: &[u8], codes: &mut [u8], scales: &mut [f32]) {
    assert!(dtype.is_ternary(), "{dtype} is not ternary");
    assert_eq!(
        dtype.row_bytes(codes.len()),
        Some(bytes.len()),
        "{} codes of {dtype}",
        codes.len()
    );
    let blocks = codes.len() / dtype.block_values();
    assert_eq!(
        scales.len(),
        if dtype == DType::I2S { 0 } else { blocks },
        "one scale a block of {dtype}"
    );
    let mut scale = scales.iter_mut();
    for (block, codes) in bytes
        .chunks_exact(dtype.block_bytes())
        .zip(codes.chunks_exact_mut(dtype.block_values()))
    {
        let block_scale = match dtype {
            DType::TQ1_0 => ternary::tq1_0(block, codes),
            DType::TQ2_0 => ternary::tq2_0(block, codes),
            DType::Q2_0G64 | DType::Q2_0G128 | DType::PQ2_0 => ternary::q2_0(block, codes),
            DType::Q1_0 => ternary::q1_0(block, codes),
            DType::PTQ1_0 => ternary::ptq1_0(block, codes),
            DType::I2S => {
                ternary::i2_s(block, codes);
                continue;
            }
            _ => unreachable!("ternary types with contiguous rows are all above"),
        };
        *scale.next().expect("as many scales as blocks") = block_scale;
    }
}

/// Applies a block decoder to every block.
fn each<const BYTES: usize, const VALUES: usize>(
    bytes: &[u8],
    out: &mut [f32],
    decode: impl Fn(&[u8; BYTES], &mut [f32; VALUES]),
) {
    let (blocks, _) = bytes.as_chunks::<BYTES>();
    let (outs, _) = out.as_chunks_mut::<VALUES>();
    for (block, out) in blocks.iter().zip(outs) {
        decode(block, out);
    }
}

/// The fp16 at `at`, widened.
fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}
