//! The training loop's parts: one step, validation, checkpoints, samples.

mod evaluate;
mod sample;
mod step;
mod weights;

use crate::checkpoint::{self, State};
use crate::config::{ActivationScale, TrainConfig};
use crate::corpus::{Corpus, Windows};
use crate::error::TrainError;
use crate::model::{Buffers, Network};
use crate::ops::norm::Rounding;
use crate::optimizer::AdamW;
use crate::pretrained::PretrainedModel;
use crate::report::{History, Point};
use crate::tokenizer::TextTokenizer;
use std::path::Path;
use std::sync::atomic::AtomicBool;

pub use evaluate::Evaluation;
pub use sample::SampleOptions;
pub use step::StepReport;

/// A run in progress.
#[derive(Debug)]
pub struct Trainer {
    pub(crate) config: TrainConfig,
    pub(crate) network: Network,
    pub(crate) tokenizer: TextTokenizer,
    pub(crate) parameters: Vec<f32>,
    /// The quantized parameters, as used by the forward pass and the exported file.
    pub(crate) effective: Vec<f32>,
    stale: bool,
    corpus: Corpus,
    windows: Windows,
    optimizer: AdamW,
    gradients: Vec<Vec<f32>>,
    buffers: Vec<Buffers>,
    threads: usize,
    teacher: Option<Teacher>,
    step: u64,
    seconds: f64,
    /// Seconds per step, a moving average that favors recent ones.
    pace: Option<f64>,
    history: History,
}

/// The teacher of a run.
#[derive(Debug)]
struct Teacher {
    network: Network,
    weights: Vec<f32>,
    /// One per shard.
    buffers: Vec<Buffers>,
}

impl Trainer {
    /// A new run; uses up to `threads` threads, at most one per shard.
    pub fn new(
        config: TrainConfig,
        tokenizer: TextTokenizer,
        corpus: Corpus,
        threads: usize,
    ) -> Result<Self, TrainError> {
        if tokenizer.vocab_size() != config.model.vocab_size {
            let expected = format!("{}, the tokenizer's size", tokenizer.vocab_size());
            let got = config.model.vocab_size;
            return Err(crate::config::option("vocab_size", &expected, got));
        }
        let parameters = weights::initial(&config);
        Self::with_parameters(config, tokenizer, corpus, parameters, threads)
    }

    /// A run that starts from a model's weights instead of random ones.
    ///
    /// Ternary weights become masters that round to exactly these weights and this scale: `w = t·s
    /// / (1 − zeros)`, whose mean magnitude is s.
    pub fn finetune(
        model: PretrainedModel,
        config: TrainConfig,
        corpus: Corpus,
        threads: usize,
    ) -> Result<Self, TrainError> {
        if config.model != model.shape {
            return Err(crate::config::option(
                "model",
                "left out: it is the file's",
                "another",
            ));
        }
        let parameters = model.masters(&config);
        Self::with_parameters(config, model.tokenizer, corpus, parameters, threads)
    }

    fn with_parameters(
        config: TrainConfig,
        tokenizer: TextTokenizer,
        corpus: Corpus,
        parameters: Vec<f32>,
        threads: usize,
    ) -> Result<Self, TrainError> {
        config.check()?;
        let window = config.window();
        let training = match (config.quantise_activations, config.activation_scale) {
            (false, _) => Rounding::None,
            (true, ActivationScale::Token) => Rounding::Token,
            (true, ActivationScale::Batch) => Rounding::Batch,
        };
        let network = Network::new(&config.model, window, training);
        let tokens = config.batch_sequences / config.shards * window;
        Ok(Self {
            effective: vec![0.0; parameters.len()],
            stale: true,
            windows: Windows::new(config.seed, window),
            gradients: (0..config.shards)
                .map(|_| vec![0.0; parameters.len()])
                .collect(),
            buffers: (0..config.shards)
                .map(|_| network.buffers(tokens))
                .collect(),
            threads: threads.clamp(1, config.shards),
            teacher: None,
            step: 0,
            seconds: 0.0,
            pace: None,
            history: History::default(),
            optimizer: AdamW::new(parameters.len()),
            network,
            tokenizer,
            parameters,
            corpus,
            config,
        })
    }

    /// Adds the divergence from `model`'s next-token distributions to the loss of all later steps
    /// (`distillation_weight`, `distillation_temperature`).
    ///
    /// The teacher runs as stored: ternary weights with int8 activations, float weights with float
    /// activations. Checkpoints do not contain it: pass it again to a resumed run.
    ///
    /// # Errors
    /// [`TrainError::UnfitModel`] when its vocabulary differs, or its context is shorter than the
    /// training window.
    pub fn learn_from(&mut self, model: PretrainedModel) -> Result<(), TrainError> {
        let unfit = |name, expected: String, got: String| TrainError::UnfitModel {
            path: model.path.clone(),
            name,
            expected,
            got,
        };
        if model.tokenizer.tokens() != self.tokenizer.tokens()
            || model.shape.vocab_size != self.config.model.vocab_size
        {
            let expected = format!("the student's {} tokens", self.tokenizer.vocab_size());
            let got = format!("{} tokens, not the same", model.tokenizer.vocab_size());
            return Err(unfit("vocabulary", expected, got));
        }
        let window = self.config.window();
        if model.shape.max_position_embeddings < window {
            let got = model.shape.max_position_embeddings.to_string();
            return Err(unfit("context", format!("at least {window} tokens"), got));
        }
        let rounding = match model.scale {
            Some(_) => Rounding::Token,
            None => Rounding::None,
        };
        let network = Network::new(&model.shape, window, rounding);
        let tokens = self.config.batch_sequences / self.config.shards * window;
        let buffers = (0..self.config.shards).map(|_| network.buffers(tokens));
        self.teacher = Some(Teacher {
            buffers: buffers.collect(),
            weights: model.weights,
            network,
        });
        Ok(())
    }

    /// Resumes from a checkpoint. `adjust` may change everything but the model.
    ///
    /// The position in the texts follows from the number of sequences seen: with the same texts and
    /// configuration, a resumed run produces bit for bit the result of an uninterrupted one.
    pub fn resume(
        path: &Path,
        train: &str,
        valid: &str,
        threads: usize,
        cancel: &AtomicBool,
        adjust: impl FnOnce(&TrainConfig) -> Result<TrainConfig, TrainError>,
    ) -> Result<Self, TrainError> {
        let checkpoint = checkpoint::load(path)?;
        let config = adjust(&checkpoint.state.config)?;
        if config.model != checkpoint.state.config.model {
            return Err(crate::config::option(
                "model",
                "the checkpoint's",
                "another",
            ));
        }
        let corpus = Corpus::new(&config, &checkpoint.tokenizer, train, valid, cancel)?;
        let parameters = checkpoint.parameters;
        let mut trainer =
            Self::with_parameters(config, checkpoint.tokenizer, corpus, parameters, threads)?;
        trainer.optimizer = checkpoint.optimizer;
        trainer.step = checkpoint.state.step;
        trainer.seconds = checkpoint.state.seconds;
        trainer.history = checkpoint.state.history;
        Ok(trainer)
    }

    /// The configuration.
    pub fn config(&self) -> &TrainConfig {
        &self.config
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &TextTokenizer {
        &self.tokenizer
    }

    /// The texts.
    pub fn corpus(&self) -> &Corpus {
        &self.corpus
    }

    /// Steps done.
    pub fn steps_done(&self) -> u64 {
        self.step
    }

    /// The curve so far.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Seconds spent in steps.
    pub fn seconds(&self) -> f64 {
        self.seconds
    }

    /// Number of trained parameters.
    pub fn parameter_count(&self) -> usize {
        self.parameters.len()
    }

    /// Adds a point to the curve, with the evaluation if given.
    pub fn record(&mut self, evaluation: Option<&Evaluation>) -> Point {
        let point = Point {
            step: self.step,
            tokens: self.step * self.config.tokens_per_step(),
            seconds: self.seconds,
            train_loss: self.history.take_loss(),
            valid_loss: evaluation.map(|e| e.loss),
            bits_per_byte: evaluation.map(|e| e.bits_per_byte),
            learning_rate: self.config.rates(self.step.saturating_sub(1)).learning_rate,
        };
        self.history.points.push(point);
        point
    }

    /// Replaces the checkpoint at `path`.
    pub fn save(&self, path: &Path) -> Result<(), TrainError> {
        let state = State {
            step: self.step,
            seconds: self.seconds,
            config: self.config.clone(),
            history: self.history.clone(),
        };
        checkpoint::save(
            path,
            &state,
            &self.tokenizer,
            &self.parameters,
            &self.optimizer,
        )
    }
}
