//! A model's required and optional tensors, with their shapes.

use super::{ModelConfig, RopeScaling, WeightScales};
use crate::{DType, FormatError, TensorInfo};

/// The role of a tensor, which determines its allowed types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TensorRole {
    /// A matrix of a linear layer: any type.
    Linear,
    /// The embedding or the head: any type.
    Embedding,
    /// A vector of floats: a norm's weights, a bias, a scale, frequency factors.
    Vector,
}

/// A tensor of the architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExpectedTensor {
    /// GGUF's name, which the engine also uses internally.
    pub name: String,
    /// Outputs; 1 for a vector.
    pub rows: usize,
    /// Inputs, or the length of a vector.
    pub cols: usize,
    /// Its role.
    pub role: TensorRole,
    /// Whether the model requires it.
    pub required: bool,
}

impl ModelConfig {
    /// All tensors of the model: those outside the layers, then layer by layer. Optional ones have
    /// [`ExpectedTensor::required`] false; those that the config declares (biases, an untied head)
    /// are required.
    pub fn expected_tensors(&self) -> Vec<ExpectedTensor> {
        let mut list = self.global_tensors();
        (0..self.num_hidden_layers).for_each(|layer| list.extend(self.layer_tensors(layer)));
        list
    }

    fn global_tensors(&self) -> Vec<ExpectedTensor> {
        let (vocab, hidden) = (self.vocab_size, self.hidden_size);
        let mut list = vec![
            tensor(
                "token_embd.weight".to_owned(),
                vocab,
                hidden,
                TensorRole::Embedding,
            ),
            tensor(
                "output_norm.weight".to_owned(),
                1,
                hidden,
                TensorRole::Vector,
            ),
        ];
        if !self.tie_word_embeddings {
            list.push(tensor(
                "output.weight".to_owned(),
                vocab,
                hidden,
                TensorRole::Embedding,
            ));
        }
        if self.rope.scaling == RopeScaling::FreqFactors {
            list.push(tensor(
                "rope_freqs.weight".to_owned(),
                1,
                self.rope_dim / 2,
                TensorRole::Vector,
            ));
        }
        list
    }

    fn layer_tensors(&self, layer: usize) -> Vec<ExpectedTensor> {
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        let mut list = Vec::with_capacity(24);
        let vector = |list: &mut Vec<ExpectedTensor>, name: &str, len| {
            list.push(tensor(
                format!("blk.{layer}.{name}"),
                1,
                len,
                TensorRole::Vector,
            ));
        };
        vector(&mut list, "attn_norm.weight", hidden);
        vector(&mut list, "ffn_norm.weight", hidden);
        if self.sub_norms {
            vector(&mut list, "attn_sub_norm.weight", self.attention_dim());
            vector(&mut list, "ffn_sub_norm.weight", inner);
        }
        if self.qk_norm {
            vector(&mut list, "attn_q_norm.weight", self.key_head_dim);
            vector(&mut list, "attn_k_norm.weight", self.key_head_dim);
        }
        if self.attention_bias {
            vector(&mut list, "attn_q.bias", self.query_dim());
            vector(&mut list, "attn_k.bias", self.key_dim());
            vector(&mut list, "attn_v.bias", self.value_dim());
        }
        if self.attention_output_bias {
            vector(&mut list, "attn_output.bias", hidden);
        }
        let linears = [
            ("attn_q", self.query_dim(), hidden),
            ("attn_k", self.key_dim(), hidden),
            ("attn_v", self.value_dim(), hidden),
            ("attn_output", hidden, self.attention_dim()),
            ("ffn_gate", inner, hidden),
            ("ffn_up", inner, hidden),
            ("ffn_down", hidden, inner),
        ];
        for (name, rows, cols) in linears {
            list.push(tensor(
                format!("blk.{layer}.{name}.weight"),
                rows,
                cols,
                TensorRole::Linear,
            ));
            if self.weight_scales != WeightScales::None {
                let scale = tensor(
                    format!("blk.{layer}.{name}.scale"),
                    1,
                    1,
                    TensorRole::Vector,
                );
                list.push(ExpectedTensor {
                    required: false,
                    ..scale
                });
            }
        }
        list
    }

    /// Checks that the file has exactly the tensors of the config, in the right shapes and types.
    ///
    /// # Errors
    /// [`FormatError::MissingTensor`], [`FormatError::BadShape`], [`FormatError::BadType`], and
    /// [`FormatError::UnexpectedTensor`] for one that the forward pass would ignore.
    pub fn check_tensors(&self, tensors: &[TensorInfo]) -> Result<(), FormatError> {
        let mut by_name: Vec<&TensorInfo> = tensors.iter().collect();
        by_name.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let mut known = vec![false; by_name.len()];
        // Layer by layer, so that a header that claims thousands of layers fails at the first
        // missing one.
        let groups = std::iter::once(self.global_tensors())
            .chain((0..self.num_hidden_layers).map(|layer| self.layer_tensors(layer)));
        for expected in groups.flatten() {
            match by_name.binary_search_by(|tensor| tensor.name.cmp(&expected.name)) {
                Ok(i) => {
                    known[i] = true;
                    check(&expected, by_name[i])?;
                    if by_name[i].dtype == DType::HfPacked {
                        // Packed weights contain only codes.
                        let name = expected.name.replace(".weight", ".scale");
                        if by_name
                            .binary_search_by(|tensor| tensor.name.cmp(&name))
                            .is_err()
                        {
                            return Err(FormatError::MissingTensor { name });
                        }
                    }
                }
                Err(_) if expected.required => {
                    return Err(FormatError::MissingTensor {
                        name: expected.name,
                    });
                }
                Err(_) => {}
            }
        }
        // llama.cpp's converters once wrote these unused tables. A tied Hugging Face checkpoint may
        // still contain the head.
        let ignored = |name: &str| {
            name.ends_with(".attn_rot_embd")
                || name.ends_with(".attn_rot_embd.weight")
                || (self.tie_word_embeddings && name == "output.weight")
        };
        match by_name
            .iter()
            .zip(known)
            .find(|(tensor, known)| !known && !ignored(&tensor.name))
        {
            Some((tensor, _)) => Err(FormatError::UnexpectedTensor {
                name: tensor.name.clone(),
                architecture: self.architecture.name(),
            }),
            None => Ok(()),
        }
    }
}

fn tensor(name: String, rows: usize, cols: usize, role: TensorRole) -> ExpectedTensor {
    ExpectedTensor {
        name,
        rows,
        cols,
        role,
        required: true,
    }
}

fn check(expected: &ExpectedTensor, got: &TensorInfo) -> Result<(), FormatError> {
    if (got.rows, got.cols) != (expected.rows, expected.cols) {
        return Err(FormatError::BadShape {
            name: got.name.clone(),
            expected: format!("{} rows of {}", expected.rows, expected.cols),
            got: format!("{} rows of {}", got.rows, got.cols),
        });
    }
    let allowed = match expected.role {
        TensorRole::Linear => true,
        TensorRole::Embedding => got.dtype != DType::HfPacked,
        TensorRole::Vector => matches!(got.dtype, DType::F32 | DType::F16 | DType::BF16),
    };
    if allowed {
        return Ok(());
    }
    Err(FormatError::BadType {
        name: got.name.clone(),
        expected: if expected.role == TensorRole::Vector {
            "F32, F16 or BF16"
        } else {
            "any but packed"
        },
        got: got.dtype.name().to_owned(),
    })
}
