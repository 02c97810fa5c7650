//! The element types of tensors: their names, block sizes and byte counts.

use std::fmt;

/// How a tensor's elements are stored.
///
/// GGUF gives both layouts of `Q2_0` the same type id; they are two types here, because everything
/// else differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
#[allow(non_camel_case_types, reason = "the field's own names")]
pub enum DType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16.
    BF16,
    /// 32 weights of 4 bits, fp16 scale.
    Q4_0,
    /// 32 weights of 4 bits, fp16 scale and minimum.
    Q4_1,
    /// 32 weights of 5 bits, fp16 scale.
    Q5_0,
    /// 32 weights of 5 bits, fp16 scale and minimum.
    Q5_1,
    /// 32 weights of 8 bits, fp16 scale.
    Q8_0,
    /// 256 weights of 2 bits, 16 sub-blocks with 4-bit scales and minima.
    Q2K,
    /// 256 weights of 3 bits, 16 sub-blocks with 6-bit scales.
    Q3K,
    /// 256 weights of 4 bits, 8 sub-blocks with 6-bit scales and minima.
    Q4K,
    /// 256 weights of 5 bits, 8 sub-blocks with 6-bit scales and minima.
    Q5K,
    /// 256 weights of 6 bits, 16 sub-blocks with 8-bit scales.
    Q6K,
    /// 256 ternary weights, five to a byte, fp16 scale.
    TQ1_0,
    /// 256 ternary weights of 2 bits, fp16 scale.
    TQ2_0,
    /// 64 weights of 2 bits, fp16 scale (llama.cpp's `Q2_0`).
    Q2_0G64,
    /// 128 weights of 2 bits, fp16 scale (Prism ML's `Q2_0`).
    Q2_0G128,
    /// 128 weights of one bit, +1 or −1, fp16 scale.
    Q1_0,
    /// The block of [`DType::Q2_0G128`] under its own id (Prism ML).
    PQ2_0,
    /// 128 ternary weights, five to a byte, fp16 scale (Prism ML).
    PTQ1_0,
    /// 128 ternary weights in 32 bytes, one fp32 scale in a 32-byte tail of the tensor
    /// (microsoft/BitNet).
    I2S,
    /// Hugging Face's packing: uint8 (rows/4, cols), four output rows per byte; the scale is a
    /// separate tensor.
    HfPacked,
    /// Ternary weights in the kernels' layout (`docs/prepacked.md`), not in [`DType::ALL`].
    Prepacked(PrepackedScales),
}

/// The weights of a prepacked tensor that share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PrepackedScales {
    /// All weights, as in `I2_S`: one fp32 in a 64-byte tail.
    Tensor,
    /// 64 weights of a row, as in llama.cpp's `Q2_0`: fp16.
    Group64,
    /// 128 weights of a row, as in `Q1_0` and Prism ML's types: fp16.
    Group128,
    /// 256 weights of a row, as in `TQ1_0` and `TQ2_0`: fp16.
    Group256,
}

impl DType {
    /// Every type except the prepacked ones, in declaration order.
    pub const ALL: [DType; 22] = [
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::Q4_0,
        DType::Q4_1,
        DType::Q5_0,
        DType::Q5_1,
        DType::Q8_0,
        DType::Q2K,
        DType::Q3K,
        DType::Q4K,
        DType::Q5K,
        DType::Q6K,
        DType::TQ1_0,
        DType::TQ2_0,
        DType::Q2_0G64,
        DType::Q2_0G128,
        DType::Q1_0,
        DType::PQ2_0,
        DType::PTQ1_0,
        DType::I2S,
        DType::HfPacked,
    ];

    /// The prepacked types, in the order of their ids.
    pub const PREPACKED: [DType; 4] = [
        DType::Prepacked(PrepackedScales::Tensor),
        DType::Prepacked(PrepackedScales::Group64),
        DType::Prepacked(PrepackedScales::Group128),
        DType::Prepacked(PrepackedScales::Group256),
    ];

    /// Rows of a tile of prepacked weights, and the multiple to which columns are padded.
    pub const PREPACKED_TILE: (usize, usize) = (16, 64);

    /// Weights per block; a row is a whole number of blocks. For a prepacked type, the weights that
    /// share a scale.
    pub const fn block_values(self) -> usize {
        match self {
            DType::Prepacked(PrepackedScales::Tensor) => 1,
            DType::Prepacked(PrepackedScales::Group64) => 64,
            DType::Prepacked(PrepackedScales::Group128) => 128,
            DType::Prepacked(PrepackedScales::Group256) => 256,
            DType::F32 | DType::F16 | DType::BF16 | DType::HfPacked => 1,
            DType::Q4_0 | DType::Q4_1 | DType::Q5_0 | DType::Q5_1 | DType::Q8_0 => 32,
            DType::Q2_0G64 => 64,
            DType::Q2_0G128 | DType::Q1_0 | DType::PQ2_0 | DType::PTQ1_0 | DType::I2S => 128,
            DType::Q2K
            | DType::Q3K
            | DType::Q4K
            | DType::Q5K
            | DType::Q6K
            | DType::TQ1_0
            | DType::TQ2_0 => 256,
        }
    }

    /// Bytes per block. For [`DType::HfPacked`], whose bytes hold four rows, the byte of four
    /// weights of one column.
    pub const fn block_bytes(self) -> usize {
        match self {
            DType::HfPacked => 1,
            // The padding of the tensor's scale; lines and group scales are not blocks.
            DType::Prepacked(_) => 64,
            DType::F16 | DType::BF16 => 2,
            DType::F32 => 4,
            DType::Q4_0 | DType::Q2_0G64 | DType::Q1_0 => 18,
            DType::Q4_1 => 20,
            DType::Q5_0 => 22,
            DType::Q5_1 => 24,
            DType::PTQ1_0 => 28,
            DType::I2S => 32,
            DType::Q8_0 | DType::Q2_0G128 | DType::PQ2_0 => 34,
            DType::TQ1_0 => 54,
            DType::TQ2_0 => 66,
            DType::Q2K => 84,
            DType::Q3K => 110,
            DType::Q4K => 144,
            DType::Q5K => 176,
            DType::Q6K => 210,
        }
    }

    /// Bytes after all of a tensor's blocks: 32 for [`DType::I2S`], whose first four are the fp32
    /// scale; else none.
    pub const fn tail_bytes(self) -> usize {
        match self {
            DType::I2S => 32,
            DType::Prepacked(PrepackedScales::Tensor) => 64,
            _ => 0,
        }
    }

    /// Whether the weights are codes t + 1 with a scale. Code 3 (+2) is valid only in `TQ2_0`,
    /// `Q2_0` and `PQ2_0`; `Q1_0` has codes 0 and 2.
    pub const fn is_ternary(self) -> bool {
        matches!(
            self,
            DType::TQ1_0
                | DType::TQ2_0
                | DType::Q2_0G64
                | DType::Q2_0G128
                | DType::Q1_0
                | DType::PQ2_0
                | DType::PTQ1_0
                | DType::I2S
                | DType::HfPacked
                | DType::Prepacked(_)
        )
    }

    /// Whether the weights are in the kernels' layout.
    pub const fn is_prepacked(self) -> bool {
        matches!(self, DType::Prepacked(_))
    }

    /// The prepacked type with the scales of this ternary type; `None` for others.
    pub const fn prepacked(self) -> Option<DType> {
        Some(DType::Prepacked(match self {
            DType::I2S | DType::HfPacked => PrepackedScales::Tensor,
            DType::Q2_0G64 => PrepackedScales::Group64,
            DType::Q2_0G128 | DType::Q1_0 | DType::PQ2_0 | DType::PTQ1_0 => {
                PrepackedScales::Group128
            }
            DType::TQ1_0 | DType::TQ2_0 => PrepackedScales::Group256,
            _ => return None,
        }))
    }

    /// Bytes of a prepacked tensor's lines and of the group scales after them; `None` for other
    /// types or on overflow.
    pub fn prepacked_bytes(self, rows: usize, cols: usize) -> Option<(usize, usize)> {
        if !self.is_prepacked() || !cols.is_multiple_of(self.block_values()) {
            return None;
        }
        let (tile_rows, unit) = DType::PREPACKED_TILE;
        let tiles = rows.div_ceil(tile_rows);
        let lines = tiles.checked_mul(cols.div_ceil(unit))?.checked_mul(256)?;
        let scales = match self.has_tensor_scale() {
            true => 0,
            false => tiles
                .checked_mul(cols.div_ceil(self.block_values()))?
                .checked_mul(2 * tile_rows)?,
        };
        Some((lines, scales))
    }

    /// The largest code of a ternary type: 3 (+2) where the format allows it.
    pub const fn max_code(self) -> u8 {
        match self {
            DType::TQ1_0 | DType::PTQ1_0 | DType::Q1_0 | DType::I2S | DType::HfPacked => 2,
            _ => 3,
        }
    }

    /// Whether the elements are plain floats.
    pub const fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F16 | DType::BF16)
    }

    /// Whether a ternary type has one scale per tensor rather than one per block.
    pub const fn has_tensor_scale(self) -> bool {
        matches!(
            self,
            DType::I2S | DType::HfPacked | DType::Prepacked(PrepackedScales::Tensor)
        )
    }

    /// The name used by the formats: `Q4_K`, `TQ2_0`, `Q2_0_G64`, `I2_S`, …
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "F32",
            DType::F16 => "F16",
            DType::BF16 => "BF16",
            DType::Q4_0 => "Q4_0",
            DType::Q4_1 => "Q4_1",
            DType::Q5_0 => "Q5_0",
            DType::Q5_1 => "Q5_1",
            DType::Q8_0 => "Q8_0",
            DType::Q2K => "Q2_K",
            DType::Q3K => "Q3_K",
            DType::Q4K => "Q4_K",
            DType::Q5K => "Q5_K",
            DType::Q6K => "Q6_K",
            DType::TQ1_0 => "TQ1_0",
            DType::TQ2_0 => "TQ2_0",
            DType::Q2_0G64 => "Q2_0_G64",
            DType::Q2_0G128 => "Q2_0_G128",
            DType::Q1_0 => "Q1_0",
            DType::PQ2_0 => "PQ2_0",
            DType::PTQ1_0 => "PTQ1_0",
            DType::I2S => "I2_S",
            DType::HfPacked => "HF_PACKED",
            DType::Prepacked(PrepackedScales::Tensor) => "RYZ_T2",
            DType::Prepacked(PrepackedScales::Group64) => "RYZ_T2_G64",
            DType::Prepacked(PrepackedScales::Group128) => "RYZ_T2_G128",
            DType::Prepacked(PrepackedScales::Group256) => "RYZ_T2_G256",
        }
    }

    /// GGUF's type id, or `None` for types that GGUF lacks.
    pub const fn gguf_id(self) -> Option<u32> {
        Some(match self {
            DType::F32 => 0,
            DType::F16 => 1,
            DType::Q4_0 => 2,
            DType::Q4_1 => 3,
            DType::Q5_0 => 6,
            DType::Q5_1 => 7,
            DType::Q8_0 => 8,
            DType::Q2K => 10,
            DType::Q3K => 11,
            DType::Q4K => 12,
            DType::Q5K => 13,
            DType::Q6K => 14,
            DType::BF16 => 30,
            DType::TQ1_0 => 34,
            DType::TQ2_0 => 35,
            DType::I2S => 36,
            DType::Q1_0 => 41,
            DType::Q2_0G64 | DType::Q2_0G128 => 42,
            DType::PQ2_0 => 142,
            DType::PTQ1_0 => 143,
            DType::HfPacked => return None,
            // "RZ" and a number, far from ggml's ids.
            DType::Prepacked(scales) => 0x525A_0000 + scales as u32,
        })
    }

    /// Bytes of one row, or `None` if `cols` is not a whole number of blocks, the count overflows,
    /// or rows are not contiguous ([`DType::HfPacked`]).
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        if self == DType::HfPacked
            || self.is_prepacked()
            || !cols.is_multiple_of(self.block_values())
        {
            return None;
        }
        (cols / self.block_values()).checked_mul(self.block_bytes())
    }

    /// Bytes of a whole tensor including its tail, or `None` if the shape is invalid for the type
    /// or the count overflows.
    pub fn tensor_bytes(self, rows: usize, cols: usize) -> Option<u64> {
        if self == DType::HfPacked {
            return if rows.is_multiple_of(4) {
                (rows as u64 / 4).checked_mul(cols as u64)
            } else {
                None
            };
        }
        if let Some((lines, scales)) = self.prepacked_bytes(rows, cols) {
            let bytes = lines.checked_add(scales)?;
            return bytes
                .checked_add(self.tail_bytes())
                .map(|bytes| bytes as u64);
        }
        (self.row_bytes(cols)? as u64)
            .checked_mul(rows as u64)?
            .checked_add(self.tail_bytes() as u64)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_the_formats() {
        assert_eq!(DType::TQ2_0.tensor_bytes(2, 256), Some(132));
        assert_eq!(DType::TQ2_0.tensor_bytes(2, 100), None);
        assert_eq!(DType::I2S.tensor_bytes(4, 128), Some(4 * 32 + 32));
        assert_eq!(DType::HfPacked.tensor_bytes(8, 10), Some(20));
        assert_eq!(DType::HfPacked.tensor_bytes(6, 10), None);
        assert_eq!(DType::F32.tensor_bytes(usize::MAX, usize::MAX), None);
        // Two tiles of two units; three groups of 16 fp16 scales per tile.
        let [whole, g64, ..] = DType::PREPACKED;
        assert_eq!(whole.tensor_bytes(17, 65), Some(2 * 2 * 256 + 64));
        assert_eq!(g64.tensor_bytes(17, 192), Some(2 * (3 * 256 + 3 * 32)));
        for dtype in DType::PREPACKED {
            assert_eq!(dtype.tensor_bytes(usize::MAX & !3, 1 << 62), None);
        }
        for dtype in DType::ALL {
            assert_eq!(
                dtype.tensor_bytes(usize::MAX & !3, 1 << 62),
                None,
                "{dtype}"
            );
        }
    }
}
