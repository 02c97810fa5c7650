//! The element types of tensors: their names, block sizes and byte counts.

use std::fmt;

/// How the elements of a tensor are stored.
///
/// GGUF gives both layouts of `Q2_0` one type id; they are two types here, because everything but the id differs.
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
    /// 128 ternary weights in 32 bytes, one fp32 scale in a 32-byte tail of the tensor (microsoft/BitNet).
    I2S,
    /// Hugging Face's packing: uint8 (rows/4, cols), four output rows to a byte; the scale is a tensor of its own.
    HfPacked,
}

impl DType {
    /// Every type, in the order of their declaration.
    pub const ALL: [DType; 19] = [
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
        DType::I2S,
        DType::HfPacked,
    ];

    /// Weights in one block; a row is a whole number of blocks.
    pub const fn block_values(self) -> usize {
        match self {
            DType::F32 | DType::F16 | DType::BF16 | DType::HfPacked => 1,
            DType::Q4_0 | DType::Q4_1 | DType::Q5_0 | DType::Q5_1 | DType::Q8_0 => 32,
            DType::Q2_0G64 => 64,
            DType::Q2_0G128 | DType::I2S => 128,
            DType::Q2K
            | DType::Q3K
            | DType::Q4K
            | DType::Q5K
            | DType::Q6K
            | DType::TQ1_0
            | DType::TQ2_0 => 256,
        }
    }

    /// Bytes of one block. For [`DType::HfPacked`], whose bytes hold four rows, this is the byte of four weights of one column.
    pub const fn block_bytes(self) -> usize {
        match self {
            DType::HfPacked => 1,
            DType::F16 | DType::BF16 => 2,
            DType::F32 => 4,
            DType::Q4_0 | DType::Q2_0G64 => 18,
            DType::Q4_1 => 20,
            DType::Q5_0 => 22,
            DType::Q5_1 => 24,
            DType::I2S => 32,
            DType::Q8_0 | DType::Q2_0G128 => 34,
            DType::TQ1_0 => 54,
            DType::TQ2_0 => 66,
            DType::Q2K => 84,
            DType::Q3K => 110,
            DType::Q4K => 144,
            DType::Q5K => 176,
            DType::Q6K => 210,
        }
    }

    /// Bytes that follow a whole tensor's blocks: 32 for [`DType::I2S`], whose first four are the fp32 scale, else none.
    pub const fn tail_bytes(self) -> usize {
        match self {
            DType::I2S => 32,
            _ => 0,
        }
    }

    /// Whether the weights are codes t + 1 with a scale (code 3, that is +2, is legal in `TQ2_0` and `Q2_0` only).
    pub const fn is_ternary(self) -> bool {
        matches!(
            self,
            DType::TQ1_0
                | DType::TQ2_0
                | DType::Q2_0G64
                | DType::Q2_0G128
                | DType::I2S
                | DType::HfPacked
        )
    }

    /// Whether the elements are plain floats.
    pub const fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F16 | DType::BF16)
    }

    /// Whether a ternary type has one scale for the whole tensor rather than one in each block.
    pub const fn has_tensor_scale(self) -> bool {
        matches!(self, DType::I2S | DType::HfPacked)
    }

    /// The name that the formats use: `Q4_K`, `TQ2_0`, `Q2_0_G64`, `I2_S`, …
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
            DType::I2S => "I2_S",
            DType::HfPacked => "HF_PACKED",
        }
    }

    /// GGUF's type id, or `None` for a type that GGUF does not have.
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
            DType::Q2_0G64 | DType::Q2_0G128 => 42,
            DType::HfPacked => return None,
        })
    }

    /// Bytes of one row, or `None` when `cols` is not a whole number of blocks, the count overflows, or rows are not
    /// contiguous ([`DType::HfPacked`]).
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        if self == DType::HfPacked || !cols.is_multiple_of(self.block_values()) {
            return None;
        }
        (cols / self.block_values()).checked_mul(self.block_bytes())
    }

    /// Bytes of a whole tensor with its tail, or `None` when the shape is impossible for the type or the count overflows.
    pub fn tensor_bytes(self, rows: usize, cols: usize) -> Option<u64> {
        if self == DType::HfPacked {
            return if rows.is_multiple_of(4) {
                (rows as u64 / 4).checked_mul(cols as u64)
            } else {
                None
            };
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
        for dtype in DType::ALL {
            assert_eq!(
                dtype.tensor_bytes(usize::MAX & !3, 1 << 62),
                None,
                "{dtype}"
            );
        }
    }
}
