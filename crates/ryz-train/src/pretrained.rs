//! A trained model as floats: the start of fine-tuning, or the teacher of distillation.

use crate::config::{HiddenAct, ModelShape, TrainConfig, WeightScale};
use crate::error::TrainError;
use crate::layout::{Kind, Layout, Tensor};
use crate::tokenizer::TextTokenizer;
use ryz_convert::FloatModel;
use ryz_format::{Architecture, ModelConfig, RopeScaling, RopeStyle};
use std::path::{Path, PathBuf};

/// A model from a GGUF file (the first part of a split one) or a Hugging Face folder, of a
/// supported architecture: BitNet with sub-norms and a tied head (`bitnet-b1.58`, `bitnet`), with
/// ternary or float weights.
#[derive(Debug)]
pub struct PretrainedModel {
    pub(crate) path: PathBuf,
    pub(crate) shape: ModelShape,
    pub(crate) tokenizer: TextTokenizer,
    /// In the layout's order, with scales applied.
    pub(crate) weights: Vec<f32>,
    /// The weights that share one scale, if they are ternary; `None` otherwise.
    pub(crate) scale: Option<WeightScale>,
    name: String,
}

impl PretrainedModel {
    /// Reads a whole model.
    ///
    /// # Errors
    /// [`TrainError::Model`] when it cannot be read; [`TrainError::UnfitModel`] when the trainer
    /// does not support it, naming the difference.
    pub fn open(path: &Path) -> Result<Self, TrainError> {
        let failed = |source: ryz_convert::ConvertError| TrainError::Model {
            path: path.to_owned(),
            source: Box::new(source),
        };
        let model = FloatModel::open(path).map_err(failed)?;
        let shape = shape(path, model.config())?;
        let layout = Layout::new(&shape);
        let mut weights = vec![0.0; layout.total];
        for tensor in &layout.tensors {
            let values = model.tensor(&tensor.name).map_err(failed)?;
            let out = &mut weights[tensor.range.clone()];
            if values.len() != out.len() {
                return Err(TrainError::UnfitModel {
                    path: path.to_owned(),
                    name: "tensor size",
                    expected: format!("{} numbers in {}", out.len(), tensor.name),
                    got: values.len().to_string(),
                });
            }
            out.copy_from_slice(&values);
        }
        let name = model.metadata().find_str("general.name").ok().flatten();
        Ok(Self {
            path: path.to_owned(),
            tokenizer: TextTokenizer::from_metadata(model.metadata())?,
            scale: scale(&layout, &weights),
            name: name.unwrap_or("model").to_owned(),
            weights,
            shape,
        })
    }

    /// Its shape, which the run adopts.
    pub fn shape(&self) -> &ModelShape {
        &self.shape
    }

    /// Its tokenizer, which the run adopts.
    pub fn tokenizer(&self) -> &TextTokenizer {
        &self.tokenizer
    }

    /// The initial configuration of a run with it: [`TrainConfig::finetuning`] with this model's
    /// name, shape and scales, and windows of at most 512 tokens.
    pub fn config(&self) -> TrainConfig {
        TrainConfig {
            model: self.shape.clone(),
            window: self.shape.max_position_embeddings.min(512),
            name: self.name.clone(),
            weight_scale: self.scale.unwrap_or(WeightScale::Tensor),
            ..TrainConfig::finetuning()
        }
    }

    /// The initial parameters of a run.
    pub(crate) fn masters(&self, config: &TrainConfig) -> Vec<f32> {
        let mut masters = self.weights.clone();
        if !config.quantise_weights || self.scale != Some(config.weight_scale) {
            return masters;
        }
        for tensor in linears(&Layout::new(&self.shape)) {
            let group = group(tensor, config.weight_scale);
            for weights in masters[tensor.range.clone()].chunks_mut(group) {
                let used = weights.iter().filter(|w| **w != 0.0).count();
                let factor = weights.len() as f64 / used.max(1) as f64;
                weights
                    .iter_mut()
                    .for_each(|w| *w = (f64::from(*w) * factor) as f32);
            }
        }
        masters
    }
}

fn linears(layout: &Layout) -> impl Iterator<Item = &Tensor> {
    layout
        .tensors
        .iter()
        .filter(|tensor| tensor.kind == Kind::Linear)
}

fn group(tensor: &Tensor, scale: WeightScale) -> usize {
    match scale {
        WeightScale::Tensor => tensor.range.len(),
        WeightScale::Channel => tensor.cols,
    }
}

/// The coarsest scale that makes all linear layers ternary.
fn scale(layout: &Layout, weights: &[f32]) -> Option<WeightScale> {
    let ternary = |group: &[f32]| {
        let mut magnitudes = group.iter().map(|w| w.abs()).filter(|w| *w != 0.0);
        let first = magnitudes.next().unwrap_or_default();
        magnitudes.all(|w| w == first)
    };
    [WeightScale::Tensor, WeightScale::Channel]
        .into_iter()
        .find(|scale| {
            linears(layout).all(|tensor| {
                let mut groups = weights[tensor.range.clone()].chunks(group(tensor, *scale));
                groups.all(ternary)
            })
        })
}

/// The model's shape, if the trainer supports the model.
fn shape(path: &Path, config: &ModelConfig) -> Result<ModelShape, TrainError> {
    let unfit = |name, expected: &str, got: String| TrainError::UnfitModel {
        path: path.to_owned(),
        name,
        expected: expected.to_owned(),
        got,
    };
    if !matches!(
        config.architecture,
        Architecture::Bitnet | Architecture::BitnetB158
    ) {
        let got = config.architecture.name().to_owned();
        return Err(unfit("architecture", "bitnet-b1.58 or bitnet", got));
    }
    let head = config.hidden_size / config.num_attention_heads.max(1);
    for (name, holds, expected) in [
        ("head", config.tie_word_embeddings, "tied to the embedding"),
        ("sub-norms", config.sub_norms, "there"),
        ("norms of q and k", !config.qk_norm, "absent"),
        (
            "biases",
            !config.attention_bias && !config.attention_output_bias,
            "absent",
        ),
        (
            "heads",
            [config.key_head_dim, config.value_head_dim, config.rope_dim] == [head; 3],
            "hidden_size / num_attention_heads wide and wholly rotated",
        ),
        (
            "rotation",
            config.rope.style == RopeStyle::Neox,
            "of halves",
        ),
        (
            "scaling of the context",
            config.rope.scaling == RopeScaling::None,
            "absent",
        ),
    ] {
        if !holds {
            return Err(unfit(name, expected, "otherwise".to_owned()));
        }
    }
    Ok(ModelShape {
        hidden_size: config.hidden_size,
        intermediate_size: config.intermediate_size,
        num_hidden_layers: config.num_hidden_layers,
        num_attention_heads: config.num_attention_heads,
        num_key_value_heads: config.num_key_value_heads,
        max_position_embeddings: config.max_position_embeddings,
        vocab_size: config.vocab_size,
        rope_theta: config.rope.theta,
        rms_norm_eps: config.rms_norm_eps,
        hidden_act: match config.hidden_act {
            ryz_format::HiddenAct::Relu2 => HiddenAct::Relu2,
            ryz_format::HiddenAct::Silu => HiddenAct::Silu,
            _ => {
                let got = format!("{:?}", config.hidden_act);
                return Err(unfit("hidden_act", "relu2 or silu", got));
            }
        },
    })
}
