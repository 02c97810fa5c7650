//! Converts codes and scales between forms: regroups scales, and encodes types that are not
//! ternary.

use half::f16;
use ryz_format::{DType, encode};

/// Two scales where the target holds only one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct ScaleMismatch {
    pub(crate) first: f32,
    pub(crate) other: f32,
}

/// Whether fp16 holds the number exactly.
pub(crate) fn fits_f16(scale: f64) -> bool {
    f16::from_f64(scale).to_f64() == scale
}

/// The common scale of weights that have one for each `group`, or `None` if all are 0.
///
/// Groups whose weights are all 0 are ignored, whatever their scale; in groups whose scale is 0,
/// the codes become 0.
pub(crate) fn common_scale(
    codes: &mut [u8],
    scales: &[f32],
    group: usize,
) -> Result<Option<f32>, ScaleMismatch> {
    let mut common = None;
    for (codes, &scale) in codes.chunks_mut(group).zip(scales) {
        if scale == 0.0 {
            codes.fill(1);
        }
        if codes.iter().all(|&code| code == 1) {
            continue;
        }
        let first = *common.get_or_insert(scale);
        if first.to_bits() != scale.to_bits() {
            return Err(ScaleMismatch {
                first,
                other: scale,
            });
        }
    }
    Ok(common)
}

/// Computes one scale for each `block` weights of a row from those of each `group`. Both divide the
/// row, and the smaller divides the larger.
pub(crate) fn regroup(
    codes: &mut [u8],
    scales: &[f32],
    group: usize,
    block: usize,
    out: &mut [f32],
) -> Result<(), ScaleMismatch> {
    if block <= group {
        for (i, out) in out.iter_mut().enumerate() {
            *out = scales[i * block / group];
        }
        return Ok(());
    }
    let blocks = codes.chunks_mut(block).zip(scales.chunks(block / group));
    for ((codes, scales), out) in blocks.zip(out) {
        *out = common_scale(codes, scales, group)?.unwrap_or(scales[0]);
    }
    Ok(())
}

/// Appends rows of ternary weights without a tensor's tail, in any ternary type, in `Q8_0` with
/// codes −1, 0, +1 (and +2) and scale d, or in `F32`. `scales` has one for each `block` weights;
/// `I2_S` blocks do not store them.
pub(crate) fn encode(dtype: DType, codes: &[u8], scales: &[f32], block: usize, out: &mut Vec<u8>) {
    match dtype {
        DType::F32 => {
            for (codes, scale) in codes.chunks(block).zip(scales) {
                let weights = codes.iter().map(|&code| (f32::from(code) - 1.0) * scale);
                out.extend(weights.flat_map(f32::to_le_bytes));
            }
        }
        DType::Q8_0 => {
            for (codes, scale) in codes.chunks(block).zip(scales) {
                out.extend(f16::from_f32(*scale).to_le_bytes());
                out.extend(codes.iter().map(|code| code.wrapping_sub(1)));
            }
        }
        DType::I2S => {
            encode::encode_ternary(dtype, codes, &[1.0], out);
            out.truncate(out.len() - dtype.tail_bytes());
        }
        _ => encode::encode_ternary(dtype, codes, scales, out),
    }
}

/// Weights that share a scale in rows of `cols` of a type written by [`encode`].
pub(crate) fn block_of(dtype: DType, cols: usize) -> usize {
    match dtype {
        DType::F32 | DType::I2S => cols,
        _ => dtype.block_values(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_share_a_scale_when_they_may() {
        let mut codes = [2, 1, 1, 1, 0, 1, 2, 0];
        // The second group is all 0, and the fourth has the scale 0; both are ignored.
        let scales = [0.5, 7.0, 0.5, 0.0];
        assert_eq!(common_scale(&mut codes, &scales, 2), Ok(Some(0.5)));
        assert_eq!(codes, [2, 1, 1, 1, 0, 1, 1, 1]);
        assert_eq!(common_scale(&mut [1; 4], &[3.0, 4.0], 2), Ok(None));
        assert_eq!(
            common_scale(&mut [0, 0, 2, 2], &[3.0, 4.0], 2),
            Err(ScaleMismatch {
                first: 3.0,
                other: 4.0
            })
        );
        // The same magnitude with another sign is a different scale.
        assert!(common_scale(&mut [0, 0, 2, 2], &[3.0, -3.0], 2).is_err());
    }

    #[test]
    fn regrouping_both_ways() {
        let mut out = [0.0; 4];
        regroup(&mut [2; 8], &[1.0, 2.0], 4, 2, &mut out).unwrap();
        assert_eq!(out, [1.0, 1.0, 2.0, 2.0]);
        let mut out = [0.0; 2];
        let mut codes = [2, 2, 0, 0, 1, 1, 1, 1];
        regroup(&mut codes, &[1.0, 1.0, 5.0, 6.0], 2, 4, &mut out).unwrap();
        assert_eq!(out, [1.0, 5.0]);
        assert!(regroup(&mut codes, &[1.0, 2.0, 5.0, 6.0], 2, 4, &mut out).is_err());
    }

    #[test]
    fn q8_0_holds_ternary_weights_exactly() {
        let mut codes = [1; 32];
        codes[..3].copy_from_slice(&[0, 2, 3]);
        let mut bytes = Vec::new();
        encode(DType::Q8_0, &codes, &[0.75], 32, &mut bytes);
        let mut weights = [9.0; 32];
        ryz_format::decode::decode_row(DType::Q8_0, &bytes, &mut weights);
        assert_eq!(weights[..4], [-0.75, 0.75, 1.5, 0.0]);
    }

    #[test]
    fn fp16_numbers() {
        assert!(fits_f16(0.0) && fits_f16(1.21875) && fits_f16(2f64.powi(-24)));
        assert!(!fits_f16(0.1) && !fits_f16(70000.0) && !fits_f16(2f64.powi(-25)));
    }
}
