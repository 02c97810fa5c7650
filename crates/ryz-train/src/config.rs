//! Training configuration: the model's shape, quantization, schedule and intervals.

use crate::error::TrainError;
use serde::{Deserialize, Serialize};

/// Activation of the gated feed-forward network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HiddenAct {
    /// Squared ReLU: exported as architecture `bitnet-b1.58`, whose zeros the engine skips.
    Relu2,
    /// SiLU: exported as architecture `bitnet`, which llama.cpp also runs.
    Silu,
}

/// The model's shape, with the names of Hugging Face's configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelShape {
    /// Width of the residual stream. Default 256.
    pub hidden_size: usize,
    /// Width of the feed-forward network. Default 768.
    pub intermediate_size: usize,
    /// Layers. Default 6.
    pub num_hidden_layers: usize,
    /// Number of query heads. Default 4.
    pub num_attention_heads: usize,
    /// Number of key and value heads. Default 4.
    pub num_key_value_heads: usize,
    /// Context length in tokens. Default 512.
    pub max_position_embeddings: usize,
    /// Vocabulary size, including special tokens. Default 4096.
    pub vocab_size: usize,
    /// Base of the rotary angles. Default 10000.
    pub rope_theta: f32,
    /// Added to the mean square in every norm. Default 1e-5.
    pub rms_norm_eps: f32,
    /// Activation. Default squared ReLU.
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

/// The weights that share one scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightScale {
    /// The whole tensor, as in BitNet b1.58.
    Tensor,
    /// One output row.
    Channel,
}

/// The int8 activations that share one scale in training's forward passes.
///
/// The engine always rounds per token, and so do validation and samples, because they measure what
/// the exported file will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ActivationScale {
    /// One token's row: absmax per token, as in the engine.
    Token,
    /// All rows of a batch shard: one range for all of them, coarser for most tokens, so that the
    /// model learns to tolerate more rounding than it will encounter.
    Batch,
}

/// Learning rate schedule of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// Warm-up, then cosine decay to `min_ratio`; weight decay throughout.
    Cosine,
    /// Warm-up, a high constant rate with weight decay, then linear decay to `min_ratio` without
    /// weight decay over the last `decay_ratio` of the steps: the two stages of the b1.58 reports.
    /// The first stage can be extended freely.
    TwoStage,
}

/// The complete configuration of a run, except its texts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// The model.
    pub model: ModelShape,
    /// Name written into the exported file.
    pub name: String,
    /// Whether the forward pass rounds activations to int8. Default true.
    pub quantise_activations: bool,
    /// The activations that share one scale in training. Default one token's.
    pub activation_scale: ActivationScale,
    /// Whether the forward pass rounds weights to three values. Default true.
    pub quantise_weights: bool,
    /// The weights that share one scale. Default the tensor's.
    pub weight_scale: WeightScale,
    /// Tokens per training sequence, at most the context; 0 for the whole context. Default 0.
    pub window: usize,
    /// Total steps of the run. Default 4000.
    pub steps: u64,
    /// Sequences per step. Default 8.
    pub batch_sequences: usize,
    /// Parts of the batch with separate gradients, summed in a fixed order. More shards allow more
    /// threads; the result depends on this number, but never on the threads. Default 2.
    pub shards: usize,
    /// Maximum learning rate. Default 3e-3.
    pub learning_rate: f32,
    /// Final learning rate as a fraction of the maximum. Default 0.02.
    pub min_ratio: f32,
    /// Steps of linear warm-up. Default 100.
    pub warmup_steps: u64,
    /// The schedule. Default two stages.
    pub schedule: Schedule,
    /// Final fraction of the run in which a two-stage schedule decays. Default 0.4.
    pub decay_ratio: f64,
    /// AdamW's β₁. Default 0.9.
    pub beta1: f32,
    /// AdamW's β₂. Default 0.95.
    pub beta2: f32,
    /// Decoupled weight decay of the linear layers. Default 0.1.
    pub weight_decay: f32,
    /// Global norm to which gradients are clipped. Default 1.
    pub gradient_clip: f32,
    /// Random seed. Default 1.
    pub seed: u64,
    /// Final fraction of the corpus held out for validation when no validation text is given.
    /// Default 0.05.
    pub valid_ratio: f64,
    /// Steps between validations. Default 250.
    pub eval_interval: u64,
    /// Windows of a validation during the run, spread evenly over the validation text and always
    /// the same; 0 for all. The whole text is scored once, after the last step. Default 64.
    pub eval_windows: usize,
    /// Steps between points of the training curve. Default 50.
    pub curve_interval: u64,
    /// Steps between checkpoints. Default 100.
    pub checkpoint_interval: u64,
    /// Steps between samples; 0 for none. Default 500.
    pub sample_interval: u64,
    /// The text that samples continue. Default "Once upon a time".
    pub sample_prompt: String,
    /// Tokens per sample. Default 80.
    pub sample_tokens: usize,
    /// With a teacher: weight of its divergence in the loss; the rest is the text's cross-entropy.
    /// Default 0.5.
    pub distillation_weight: f32,
    /// With a teacher: temperature at which both distributions are compared. Default 2.
    pub distillation_temperature: f32,
    /// Whether documents also start at chapter headings and story openings, not only at empty
    /// lines. Default true.
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
    /// The defaults for fine-tuning: a tenth of the steps and a sixth of the learning rate.
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

    /// Reads JSON; absent fields take their defaults, unknown ones are rejected.
    pub fn from_json(text: &str) -> Result<Self, TrainError> {
        Self::default().changed(&serde_json::from_str(text).map_err(TrainError::Config)?)
    }

    /// This configuration with the fields of the JSON object `changes` applied; unknown ones are
    /// rejected.
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

    /// Tokens per training sequence.
    pub fn window(&self) -> usize {
        match self.window {
            0 => self.model.max_position_embeddings,
            window => window,
        }
    }

    /// Tokens per step.
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

/// Merges the fields of `changes` into `base`, recursively for objects.
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

/// The schedule's values for a step.
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
