//! What is trained and how: the model's shape, the quantisation, the schedule and the intervals.

use crate::error::TrainError;
use serde::{Deserialize, Serialize};

/// Activation of the gated feed-forward network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HiddenAct {
    /// Squared ReLU: exported as architecture `bitnet-b1.58`, whose zeros the engine skips.
    Relu2,
    /// SiLU: exported as architecture `bitnet`, which llama.cpp runs too.
    Silu,
}

/// Shape of the model, by the names of Hugging Face's configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelShape {
    /// Width of the residual stream. Default 256.
    pub hidden_size: usize,
    /// Width of the feed-forward network. Default 768.
    pub intermediate_size: usize,
    /// Layers. Default 6.
    pub num_hidden_layers: usize,
    /// Query heads. Default 4.
    pub num_attention_heads: usize,
    /// Key and value heads. Default 4.
    pub num_key_value_heads: usize,
    /// Tokens of context. Default 512.
    pub max_position_embeddings: usize,
    /// Tokens of the vocabulary, special tokens included. Default 4096.
    pub vocab_size: usize,
    /// Base of the rotary angles. Default 10000.
    pub rope_theta: f32,
    /// Added to the mean square in every norm. Default 1e-5.
    pub rms_norm_eps: f32,
    /// Default squared ReLU.
    pub hidden_act: HiddenAct,
}

impl Default for ModelShape {
    fn default() -> Self {
        Self {
            hidden_size: 256,
            intermediate_size: 768,
            num_hidden_layers: 6,
            num_attention_heads: 4,
            num_key_value_heads: 4,
            max_position_embeddings: 512,
            vocab_size: 4096,
            rope_theta: 10000.0,
            rms_norm_eps: 1e-5,
            hidden_act: HiddenAct::Relu2,
        }
    }
}

impl ModelShape {
    /// Width of one head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    /// Width of all key heads together.
    pub fn kv_dim(&self) -> usize {
        self.num_key_value_heads * self.head_dim()
    }

    fn check(&self) -> Result<(), TrainError> {
        range("hidden_size", self.hidden_size, 16, 8192)?;
        range("intermediate_size", self.intermediate_size, 16, 65536)?;
        range("num_hidden_layers", self.num_hidden_layers, 1, 128)?;
        range("num_attention_heads", self.num_attention_heads, 1, 256)?;
        range(
            "num_key_value_heads",
            self.num_key_value_heads,
            1,
            self.num_attention_heads,
        )?;
        range(
            "max_position_embeddings",
            self.max_position_embeddings,
            8,
            65536,
        )?;
        range("vocab_size", self.vocab_size, 260, 1 << 18)?;
        if !self.hidden_size.is_multiple_of(self.num_attention_heads)
            || !self.head_dim().is_multiple_of(2)
        {
            return Err(option(
                "num_attention_heads",
                "a divisor of hidden_size giving even heads",
                self.num_attention_heads,
            ));
        }
        if !self
            .num_attention_heads
            .is_multiple_of(self.num_key_value_heads)
        {
            return Err(option(
                "num_key_value_heads",
                "a divisor of num_attention_heads",
                self.num_key_value_heads,
            ));
        }
        positive("rope_theta", self.rope_theta)?;
        positive("rms_norm_eps", self.rms_norm_eps)
    }
}

/// What one weight scale covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightScale {
    /// The whole tensor, as BitNet b1.58 does.
    Tensor,
    /// One output row.
    Channel,
}

/// What one scale of int8 activations covers in the forward passes of training.
///
/// The engine always rounds per token, and so do validation and samples: they measure what the exported file will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ActivationScale {
    /// One token's row: absmax per token, what the engine computes.
    Token,
    /// All rows of a shard of the batch: one range for them all, coarser for most tokens, so that the model learns to
    /// bear more rounding than it will meet.
    Batch,
}

/// Learning rate over the run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// Warm-up, then a cosine down to `min_ratio`; weight decay throughout.
    Cosine,
    /// Warm-up, a high constant rate with weight decay, then a linear descent to `min_ratio` without it over the last
    /// `decay_ratio` of the steps: the two stages of the b1.58 reports. The first stage can be prolonged at will.
    TwoStage,
}

/// Everything a run needs besides its texts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// The model.
    pub model: ModelShape,
    /// Name written into the exported file.
    pub name: String,
    /// Round activations to int8 in the forward pass. Default true.
    pub quantise_activations: bool,
    /// What one scale of the activations covers in training. Default the token.
    pub activation_scale: ActivationScale,
    /// Round weights to three values in the forward pass. Default true.
    pub quantise_weights: bool,
    /// What one weight scale covers. Default the tensor.
    pub weight_scale: WeightScale,
    /// Tokens of a training sequence, at most the context; 0 for the whole context. Default 0.
    pub window: usize,
    /// Steps of the whole run. Default 4000.
    pub steps: u64,
    /// Sequences a step. Default 8.
    pub batch_sequences: usize,
    /// Parts of the batch with a gradient of their own, summed in a fixed order: more allow more threads, and the
    /// result depends on this number but never on the threads. Default 2.
    pub shards: usize,
    /// Highest learning rate. Default 3e-3.
    pub learning_rate: f32,
    /// Final learning rate as a part of the highest. Default 0.02.
    pub min_ratio: f32,
    /// Steps of linear warm-up. Default 100.
    pub warmup_steps: u64,
    /// Default two stages.
    pub schedule: Schedule,
    /// Last part of the run in which a two-stage schedule descends. Default 0.4.
    pub decay_ratio: f64,
    /// AdamW's first decay. Default 0.9.
    pub beta1: f32,
    /// AdamW's second decay. Default 0.95.
    pub beta2: f32,
    /// Decoupled weight decay of the linear layers. Default 0.1.
    pub weight_decay: f32,
    /// Global norm to which gradients are clipped. Default 1.
    pub gradient_clip: f32,
    /// Seed of everything random. Default 1.
    pub seed: u64,
    /// Part of the corpus, from its end, that is held out for validation when no other text is given. Default 0.05.
    pub valid_ratio: f64,
    /// Steps between validations. Default 250.
    pub eval_interval: u64,
    /// Windows of a validation during the run, spread evenly over the validation text and the same every time; 0 for all.
    /// The whole text is scored once, after the last step. Default 64.
    pub eval_windows: usize,
    /// Steps between points of the training curve. Default 50.
    pub curve_interval: u64,
    /// Steps between checkpoints. Default 100.
    pub checkpoint_interval: u64,
    /// Steps between samples; 0 for none. Default 500.
    pub sample_interval: u64,
    /// Text that samples go on from. Default "Once upon a time".
    pub sample_prompt: String,
    /// Tokens of a sample. Default 80.
    pub sample_tokens: usize,
    /// With a teacher: part of its divergence in the loss; the rest is the text's cross-entropy. Default 0.5.
    pub distillation_weight: f32,
    /// With a teacher: temperature at which both distributions are compared. Default 2.
    pub distillation_temperature: f32,
    /// Start documents at chapter headings and story openings too, not only at empty lines. Default true.
    pub split_headings: bool,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            model: ModelShape::default(),
            name: "tales".to_owned(),
            quantise_activations: true,
            activation_scale: ActivationScale::Token,
            quantise_weights: true,
            weight_scale: WeightScale::Tensor,
            window: 0,
            steps: 4000,
            batch_sequences: 8,
            shards: 2,
            learning_rate: 3e-3,
            min_ratio: 0.02,
            warmup_steps: 100,
            schedule: Schedule::TwoStage,
            decay_ratio: 0.4,
            beta1: 0.9,
            beta2: 0.95,
            weight_decay: 0.1,
            gradient_clip: 1.0,
            seed: 1,
            valid_ratio: 0.05,
            eval_interval: 250,
            eval_windows: 64,
            curve_interval: 50,
            checkpoint_interval: 100,
            sample_interval: 500,
            sample_prompt: "Once upon a time".to_owned(),
            sample_tokens: 80,
            distillation_weight: 0.5,
            distillation_temperature: 2.0,
            split_headings: true,
        }
    }
}

impl TrainConfig {
    /// What differs when a trained model is trained further: a tenth of the steps and a sixth of the rate.
    pub fn finetuning() -> Self {
        Self {
            steps: 400,
            learning_rate: 5e-4,
            warmup_steps: 20,
            eval_interval: 50,
            curve_interval: 10,
            sample_interval: 200,
            ..Self::default()
        }
    }

    /// Reads JSON; absent fields take their defaults, unknown ones are refused.
    pub fn from_json(text: &str) -> Result<Self, TrainError> {
        Self::default().changed(&serde_json::from_str(text).map_err(TrainError::Config)?)
    }

    /// This configuration with the fields that `changes`, a JSON object, has; unknown ones are refused.
    pub fn changed(&self, changes: &serde_json::Value) -> Result<Self, TrainError> {
        if !changes.is_object() {
            return Err(option("config", "a JSON object", changes));
        }
        let mut merged = serde_json::to_value(self).map_err(TrainError::Config)?;
        merge(&mut merged, changes);
        let config: Self = serde_json::from_value(merged).map_err(TrainError::Config)?;
        config.check()?;
        Ok(config)
    }

    /// Tokens of a training sequence.
    pub fn window(&self) -> usize {
        match self.window {
            0 => self.model.max_position_embeddings,
            window => window,
        }
    }

    /// Tokens of one step.
    pub fn tokens_per_step(&self) -> u64 {
        (self.batch_sequences * self.window()) as u64
    }

    /// Checks every range.
    pub fn check(&self) -> Result<(), TrainError> {
        self.model.check()?;
        range("steps", self.steps as usize, 1, 1 << 40)?;
        range("shards", self.shards, 1, 256)?;
        range("batch_sequences", self.batch_sequences, self.shards, 65536)?;
        if !self.batch_sequences.is_multiple_of(self.shards) {
            return Err(option(
                "batch_sequences",
                "a multiple of shards",
                self.batch_sequences,
            ));
        }
        if self.window != 0 {
            range("window", self.window, 8, self.model.max_position_embeddings)?;
        }
        range("eval_interval", self.eval_interval as usize, 1, usize::MAX)?;
        range(
            "curve_interval",
            self.curve_interval as usize,
            1,
            usize::MAX,
        )?;
        range(
            "checkpoint_interval",
            self.checkpoint_interval as usize,
            1,
            usize::MAX,
        )?;
        positive("learning_rate", self.learning_rate)?;
        positive("gradient_clip", self.gradient_clip)?;
        for (name, value) in [
            ("beta1", self.beta1),
            ("beta2", self.beta2),
            ("min_ratio", self.min_ratio),
        ] {
            if !(0.0..1.0).contains(&value) {
                return Err(option(name, "at least 0 and below 1", value));
            }
        }
        if !(0.0..=10.0).contains(&self.weight_decay) {
            return Err(option(
                "weight_decay",
                "between 0 and 10",
                self.weight_decay,
            ));
        }
        if !(0.0..=1.0).contains(&self.decay_ratio) {
            return Err(option("decay_ratio", "between 0 and 1", self.decay_ratio));
        }
        if !(0.0..1.0).contains(&self.valid_ratio) || self.valid_ratio == 0.0 {
            return Err(option(
                "valid_ratio",
                "above 0 and below 1",
                self.valid_ratio,
            ));
        }
        if !(0.0..=1.0).contains(&self.distillation_weight) {
            return Err(option(
                "distillation_weight",
                "between 0 and 1",
                self.distillation_weight,
            ));
        }
        if !(0.1..=100.0).contains(&self.distillation_temperature) {
            return Err(option(
                "distillation_temperature",
                "between 0.1 and 100",
                self.distillation_temperature,
            ));
        }
        Ok(())
    }

    /// Learning rate and weight decay of a step.
    pub fn rates(&self, step: u64) -> Rates {
        let warm = if step < self.warmup_steps {
            (step + 1) as f64 / self.warmup_steps as f64
        } else {
            1.0
        };
        let floor = f64::from(self.min_ratio);
        let (level, decays) = match self.schedule {
            Schedule::Cosine => {
                let span = self.steps.saturating_sub(self.warmup_steps).max(1);
                let at = (step.saturating_sub(self.warmup_steps) as f64 / span as f64).min(1.0);
                (
                    floor + (1.0 - floor) * 0.5 * (1.0 + (std::f64::consts::PI * at).cos()),
                    true,
                )
            }
            Schedule::TwoStage => {
                let length = (self.steps as f64 * self.decay_ratio).max(1.0);
                let left = (self.steps.saturating_sub(step) as f64 / length).min(1.0);
                (floor + (1.0 - floor) * left, left >= 1.0)
            }
        };
        Rates {
            learning_rate: self.learning_rate * (warm * level) as f32,
            weight_decay: if decays { self.weight_decay } else { 0.0 },
        }
    }
}

/// Puts the fields of `changes` into `base`, objects into objects.
fn merge(base: &mut serde_json::Value, changes: &serde_json::Value) {
    match (base, changes) {
        (serde_json::Value::Object(base), serde_json::Value::Object(changes)) => {
            for (key, value) in changes {
                merge(
                    base.entry(key.as_str()).or_insert(serde_json::Value::Null),
                    value,
                );
            }
        }
        (base, changes) => *base = changes.clone(),
    }
}

/// What the schedule gives for a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Learning rate.
    pub learning_rate: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
}

pub(crate) fn option(name: &'static str, expected: &str, got: impl ToString) -> TrainError {
    TrainError::InvalidOption {
        name,
        expected: expected.to_owned(),
        got: got.to_string(),
    }
}

fn range(name: &'static str, value: usize, low: usize, high: usize) -> Result<(), TrainError> {
    if (low..=high).contains(&value) {
        return Ok(());
    }
    Err(option(name, &format!("between {low} and {high}"), value))
}

fn positive(name: &'static str, value: f32) -> Result<(), TrainError> {
    if value > 0.0 && value.is_finite() {
        return Ok(());
    }
    Err(option(name, "positive and finite", value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_stages_warm_up_hold_and_descend() {
        let config = TrainConfig {
            steps: 1000,
            warmup_steps: 10,
            decay_ratio: 0.5,
            min_ratio: 0.1,
            ..Default::default()
        };
        assert!(config.rates(0).learning_rate < 0.11 * config.learning_rate);
        assert_eq!(
            config.rates(400),
            Rates {
                learning_rate: config.learning_rate,
                weight_decay: 0.1
            }
        );
        let late = config.rates(750);
        assert!((late.learning_rate / config.learning_rate - 0.55).abs() < 1e-5);
        assert_eq!(late.weight_decay, 0.0);
        assert!((config.rates(1000).learning_rate / config.learning_rate - 0.1).abs() < 1e-5);
    }

    #[test]
    fn ranges_are_checked_by_name() {
        for (json, name) in [
            (
                r#"{"model":{"num_attention_heads":0}}"#,
                "num_attention_heads",
            ),
            (
                r#"{"model":{"num_attention_heads":3,"num_key_value_heads":1}}"#,
                "num_attention_heads",
            ),
            (
                r#"{"model":{"num_key_value_heads":3}}"#,
                "num_key_value_heads",
            ),
            (r#"{"shards":3}"#, "batch_sequences"),
            (r#"{"learning_rate":-1}"#, "learning_rate"),
            (r#"{"beta2":1.0}"#, "beta2"),
        ] {
            let error = TrainConfig::from_json(json).unwrap_err();
            assert!(error.to_string().contains(name), "{json}: {error}");
            assert_eq!(error.code(), "INVALID_ARGUMENT");
        }
        assert!(TrainConfig::from_json(r#"{"stepz":3}"#).is_err());
        assert!(TrainConfig::from_json(r#"{"model":3}"#).is_err());
        assert!(TrainConfig::from_json("[]").is_err());
    }

    #[test]
    fn changes_leave_the_rest_as_it_was() {
        let base = TrainConfig::finetuning();
        let changes = serde_json::json!({"seed": 7, "model": {"vocab_size": 300}});
        let changed = base.changed(&changes).unwrap();
        assert_eq!((changed.seed, changed.steps), (7, base.steps));
        assert_eq!(changed.model.vocab_size, 300);
        assert_eq!(changed.model.hidden_size, base.model.hidden_size);
        assert_eq!(changed.window(), base.model.max_position_embeddings);
    }
}
