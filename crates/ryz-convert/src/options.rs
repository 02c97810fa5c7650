//! Conversion options.

use std::{fmt, str::FromStr};

use ryz_format::{DType, SharedQuantizer};

use crate::ConvertError;

/// The ternary form of linear layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types, reason = "the formats' own names")]
pub enum TernaryForm {
    /// 1.69 bits per weight, blocks of 256.
    TQ1_0,
    /// 2.06 bits per weight, blocks of 256.
    TQ2_0,
    /// 2 bits per weight and one fp32 scale per tensor, as in Microsoft's BitNet files.
    I2_S,
    /// 2.25 bits per weight, groups of 64, as in llama.cpp.
    Q2_0_G64,
    /// 2.13 bits per weight, groups of 128, as in Prism ML's files; same type id as groups of 64.
    Q2_0_G128,
}

impl TernaryForm {
    /// All forms.
    pub const ALL: [TernaryForm; 5] = [
        TernaryForm::TQ1_0,
        TernaryForm::TQ2_0,
        TernaryForm::I2_S,
        TernaryForm::Q2_0_G64,
        TernaryForm::Q2_0_G128,
    ];

    /// The tensor type.
    pub const fn dtype(self) -> DType {
        match self {
            TernaryForm::TQ1_0 => DType::TQ1_0,
            TernaryForm::TQ2_0 => DType::TQ2_0,
            TernaryForm::I2_S => DType::I2S,
            TernaryForm::Q2_0_G64 => DType::Q2_0G64,
            TernaryForm::Q2_0_G128 => DType::Q2_0G128,
        }
    }

    /// The name used in options: `tq1_0`, `tq2_0`, `i2_s`, `q2_0-g64`, `q2_0-g128`.
    pub const fn name(self) -> &'static str {
        match self {
            TernaryForm::TQ1_0 => "tq1_0",
            TernaryForm::TQ2_0 => "tq2_0",
            TernaryForm::I2_S => "i2_s",
            TernaryForm::Q2_0_G64 => "q2_0-g64",
            TernaryForm::Q2_0_G128 => "q2_0-g128",
        }
    }

    /// The value of `general.file_type` for files mostly in this form.
    pub(crate) const fn file_type(self) -> u32 {
        match self {
            TernaryForm::TQ1_0 => 36,
            TernaryForm::TQ2_0 => 37,
            TernaryForm::I2_S => 40,
            TernaryForm::Q2_0_G64 | TernaryForm::Q2_0_G128 => 28,
        }
    }

    /// The type of a tensor with rows of `cols` weights: this form if rows are whole blocks of it;
    /// else `Q8_0` with codes −1, 0, +1, which is exact and which llama.cpp reads; else `F32`.
    pub(crate) fn dtype_for(self, cols: usize) -> DType {
        let dtypes = [self.dtype(), DType::Q8_0];
        let fits = |dtype: &DType| cols.is_multiple_of(dtype.block_values());
        dtypes.into_iter().find(fits).unwrap_or(DType::F32)
    }
}

impl fmt::Display for TernaryForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for TernaryForm {
    type Err = ConvertError;

    /// Parses a name in either case, with `-` or `_` before the group.
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let plain = name.to_ascii_lowercase().replace('_', "-");
        TernaryForm::ALL
            .into_iter()
            .find(|form| form.name().replace('_', "-") == plain)
            .ok_or_else(|| ConvertError::InvalidOption {
                option: "form",
                expected: "tq1_0, tq2_0, i2_s, q2_0-g64 or q2_0-g128",
                got: name.to_owned(),
            })
    }
}

/// The form of the embedding and of a separate head.
///
/// If they are ternary in the source, they take the form of the linear layers, regardless of this
/// choice: a file cannot hold both layouts of `Q2_0`, and the conversion is lossless.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EmbeddingForm {
    /// The source's type, byte for byte.
    #[default]
    Keep,
    /// `F32`.
    F32,
    /// `F16`, rounded; values out of its range are an error.
    F16,
    /// `BF16`, rounded.
    BF16,
    /// `Q8_0`, quantized as in llama.cpp.
    Q8_0,
    /// The same form as linear layers.
    Ternary,
}

impl EmbeddingForm {
    /// The requested float type.
    pub(crate) fn dtype(self) -> Option<DType> {
        match self {
            EmbeddingForm::Keep | EmbeddingForm::Ternary => None,
            EmbeddingForm::F32 => Some(DType::F32),
            EmbeddingForm::F16 => Some(DType::F16),
            EmbeddingForm::BF16 => Some(DType::BF16),
            EmbeddingForm::Q8_0 => Some(DType::Q8_0),
        }
    }
}

/// The treatment of linear layers that are not ternary in the source.
///
/// Weights that are exactly ternary in another type (float, `Q8_0`, …) are recognized and converted
/// without loss. A BitNet checkpoint's master weights are always quantized by its own rule, which
/// defines their values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FloatWeights {
    /// BitNet's absmean rule with one scale per tensor ([`ryz_format::encode::quantize_absmean`]).
    #[default]
    AbsmeanTensor,
    /// The same rule with one scale per block of the form. Not available for `I2_S`.
    AbsmeanBlock,
    /// Keep their type.
    Keep,
    /// Fail.
    Refuse,
}

/// The treatment of a scale that a block's fp16 cannot hold exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InexactScales {
    /// Blocks get the scale 1, and a tensor `blk.N.NAME.scale` beside the weights holds the scale
    /// in fp32, as in llama.cpp's files of BitNet models.
    #[default]
    Separate,
    /// Round it and report the error.
    Round,
}

/// Options of [`crate::convert`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConvertOptions {
    /// The form of linear layers. Default: `TQ2_0`.
    pub form: TernaryForm,
    /// The form of embedding and head. Default: [`EmbeddingForm::Keep`].
    pub embeddings: EmbeddingForm,
    /// The treatment of linear layers that are not ternary. Default:
    /// [`FloatWeights::AbsmeanTensor`].
    pub float_weights: FloatWeights,
    /// Quantizer for linear layers that are not ternary, used instead of `float_weights`. It
    /// receives one whole tensor at a time. Default: none.
    pub quantizer: Option<SharedQuantizer>,
    /// The treatment of scales that fp16 cannot hold. Default: [`InexactScales::Separate`].
    pub inexact_scales: InexactScales,
    /// Whether to store weights in the kernels' layout (`docs/prepacked.md`) with the scales of
    /// `form`, so that loading needs no packing. No other engine reads such a file. Default: no.
    pub prepack: bool,
    /// Whether an existing target is replaced. Default: no.
    pub overwrite: bool,
    /// Whether to convert a Hugging Face folder's tokenizer, which must then exist. Default: yes.
    pub tokenizer: bool,
    /// `general.name` of the target. Default: the source's name, or the folder's.
    pub name: Option<String>,
}

impl Default for ConvertOptions {
    fn default() -> ConvertOptions {
        ConvertOptions::new(TernaryForm::TQ2_0)
    }
}

impl ConvertOptions {
    /// Default options with this form.
    pub fn new(form: TernaryForm) -> ConvertOptions {
        ConvertOptions {
            form,
            embeddings: EmbeddingForm::default(),
            float_weights: FloatWeights::default(),
            quantizer: None,
            inexact_scales: InexactScales::default(),
            prepack: false,
            overwrite: false,
            tokenizer: true,
            name: None,
        }
    }

    /// Rejects options that exclude each other.
    pub(crate) fn check(&self) -> Result<(), ConvertError> {
        if self.form == TernaryForm::I2_S && self.float_weights == FloatWeights::AbsmeanBlock {
            return Err(ConvertError::InvalidOption {
                option: "float_weights",
                expected: "one scale a tensor, which is all that i2_s holds",
                got: "a scale for each block".to_owned(),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for form in TernaryForm::ALL {
            assert_eq!(form.name().parse::<TernaryForm>().unwrap(), form);
            assert_eq!(form.dtype().name().parse::<TernaryForm>().unwrap(), form);
        }
        let error = "q4_0".parse::<TernaryForm>().unwrap_err();
        assert_eq!(error.code(), "INVALID_ARGUMENT");
        assert!(error.to_string().contains("\"q4_0\""), "{error}");
    }

    #[test]
    fn rows_of_no_whole_blocks_fall_back() {
        assert_eq!(TernaryForm::TQ2_0.dtype_for(512), DType::TQ2_0);
        assert_eq!(TernaryForm::TQ2_0.dtype_for(384), DType::Q8_0);
        assert_eq!(TernaryForm::I2_S.dtype_for(384), DType::I2S);
        assert_eq!(TernaryForm::Q2_0_G64.dtype_for(48), DType::F32);
    }
}
