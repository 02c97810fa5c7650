//! What a conversion is asked for.

use std::{fmt, str::FromStr};

use ryz_format::{DType, SharedQuantizer};

use crate::ConvertError;

/// The ternary form that linear layers get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types, reason = "the formats' own names")]
pub enum TernaryForm {
    /// 1.69 bits a weight, blocks of 256.
    TQ1_0,
    /// 2.06 bits a weight, blocks of 256.
    TQ2_0,
    /// 2 bits a weight and one fp32 scale a tensor, as Microsoft's BitNet files.
    I2_S,
    /// 2.25 bits a weight, groups of 64, as llama.cpp.
    Q2_0_G64,
    /// 2.13 bits a weight, groups of 128, as Prism ML's files; the same type id as groups of 64.
    Q2_0_G128,
}

impl TernaryForm {
    /// Every form.
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

    /// The name in options: `tq1_0`, `tq2_0`, `i2_s`, `q2_0-g64`, `q2_0-g128`.
    pub const fn name(self) -> &'static str {
        match self {
            TernaryForm::TQ1_0 => "tq1_0",
            TernaryForm::TQ2_0 => "tq2_0",
            TernaryForm::I2_S => "i2_s",
            TernaryForm::Q2_0_G64 => "q2_0-g64",
            TernaryForm::Q2_0_G128 => "q2_0-g128",
        }
    }

    /// The number that `general.file_type` has in files that are mostly of this form.
    pub(crate) const fn file_type(self) -> u32 {
        match self {
            TernaryForm::TQ1_0 => 36,
            TernaryForm::TQ2_0 => 37,
            TernaryForm::I2_S => 40,
            TernaryForm::Q2_0_G64 | TernaryForm::Q2_0_G128 => 28,
        }
    }

    /// The type of a tensor with rows of `cols` weights: this form where rows are whole blocks of it; else `Q8_0` with
    /// codes −1, 0, +1, which llama.cpp reads and which is exact; else `F32`.
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

    /// Reads a name in either case, with `-` or `_` before the group.
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

/// What becomes of the embedding and of a head of its own.
///
/// One that is ternary in the source gets the form that linear layers get, whatever is chosen here: a file cannot hold
/// both layouts of `Q2_0`, and nothing is lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EmbeddingForm {
    /// The type that it has in the source, byte for byte.
    #[default]
    Keep,
    /// `F32`.
    F32,
    /// `F16`; values that it cannot hold are rounded, those out of its range are an error.
    F16,
    /// `BF16`, rounded.
    BF16,
    /// `Q8_0` as llama.cpp quantises.
    Q8_0,
    /// As linear layers.
    Ternary,
}

impl EmbeddingForm {
    /// The type of floats asked for.
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

/// What becomes of linear layers that are not ternary in the source.
///
/// Weights that are exactly ternary in another form (float, `Q8_0`, …) are recognised and lose nothing; a BitNet
/// checkpoint's master weights are always made ternary by its own rule, which is their meaning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FloatWeights {
    /// BitNet's absmean rule with one scale a tensor ([`ryz_format::encode::quantize_absmean`]).
    #[default]
    AbsmeanTensor,
    /// The same rule with a scale for each block of the form. Not for `I2_S`.
    AbsmeanBlock,
    /// They keep their type.
    Keep,
    /// They are an error.
    Refuse,
}

/// What becomes of a scale that the fp16 in a block cannot hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InexactScales {
    /// Blocks get the scale 1, and the scale goes in fp32 into a tensor `blk.N.NAME.scale` beside the weights, as
    /// llama.cpp's files of BitNet models have it.
    #[default]
    Separate,
    /// It is rounded, and the error reported.
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
    /// Linear layers that are not ternary. Default: [`FloatWeights::AbsmeanTensor`].
    pub float_weights: FloatWeights,
    /// Quantises linear layers that are not ternary, instead of `float_weights`. It sees one whole tensor at a time.
    /// Default: none.
    pub quantizer: Option<SharedQuantizer>,
    /// Scales that are no fp16 numbers. Default: [`InexactScales::Separate`].
    pub inexact_scales: InexactScales,
    /// Whether the weights of the form are laid out as the kernels read them (`docs/prepacked.md`), with that form's
    /// scales, so that loading is reading. No other engine reads such a file. Default: no.
    pub prepack: bool,
    /// Whether an existing target is replaced. Default: no.
    pub overwrite: bool,
    /// Whether a Hugging Face folder's tokenizer is taken over, and must be there. Default: yes.
    pub tokenizer: bool,
    /// `general.name` of the target. Default: that of the source, or the folder's name.
    pub name: Option<String>,
}

impl Default for ConvertOptions {
    fn default() -> ConvertOptions {
        ConvertOptions::new(TernaryForm::TQ2_0)
    }
}

impl ConvertOptions {
    /// The defaults with a form.
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

    /// Refuses options that exclude each other.
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
