//! Quantization of the projections' inputs.

use std::{fmt, str::FromStr};

use ryz_format::{DType, ModelConfig};
use ryz_kernels::QuantizedLayout;

use crate::ModelError;

/// How the inputs of a layer's seven projections are quantized. The head always reads f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Activations {
    /// int8, one scale per token: BitNet's definition and the default for its architectures.
    Int8,
    /// int8 for ternary weights, one scale per group of columns that shares a weight scale; dense
    /// weights read f32. The default for models trained with float activations.
    Int8Group,
    /// f32, for exact results.
    F32,
}

impl Activations {
    /// All choices.
    pub const ALL: [Self; 3] = [Self::Int8, Self::Int8Group, Self::F32];

    /// The name used in options.
    pub fn name(self) -> &'static str {
        match self {
            Self::Int8 => "int8",
            Self::Int8Group => "int8-group",
            Self::F32 => "f32",
        }
    }

    /// The activations that the model was trained with.
    pub fn default_for(config: &ModelConfig) -> Self {
        match config.row_activations {
            true => Self::Int8,
            false => Self::Int8Group,
        }
    }

    /// The form in which a projection with weights of `dtype` reads its `cols` inputs; `None` for
    /// f32.
    pub(crate) fn form(self, dtype: DType, cols: usize) -> Option<QuantizedLayout> {
        match self {
            Self::F32 => None,
            Self::Int8 => Some(QuantizedLayout::per_token(cols)),
            Self::Int8Group if !dtype.is_ternary() => None,
            Self::Int8Group if dtype.has_tensor_scale() => Some(QuantizedLayout::per_token(cols)),
            Self::Int8Group => Some(QuantizedLayout::per_group(cols, dtype.block_values())),
        }
    }
}

impl fmt::Display for Activations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Activations {
    type Err = ModelError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|choice| choice.name() == name);
        found.ok_or_else(|| ModelError::UnknownActivations {
            got: name.to_owned(),
        })
    }
}
