//! The training loop's parts: one step, validation, checkpoints, samples.

use crate::checkpoint::{self, State};
use crate::config::{TrainConfig, WeightScale};
use crate::corpus::{Corpus, Windows};
use crate::error::TrainError;
use crate::layout::{Kind, Tensor};
use crate::model::{Buffers, LayerZeros, Network, Tokens};
use crate::ops::weights;
use crate::optimizer::{self, AdamW};
use crate::parallel;
use crate::report::{History, Point};
use crate::rng::SplitMix64;
use crate::tokenizer::TextTokenizer;
use std::path::Path;
use std::time::Instant;

/// What one step did.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct StepReport {
    /// Steps done, this one included.
    pub step: u64,
    /// Steps in all.
    pub steps: u64,
    /// Mean loss of the batch, nats a token.
    pub loss: f64,
    /// Learning rate used.
    pub learning_rate: f32,
    /// Norm of the gradient before clipping.
    pub gradient_norm: f64,
    /// Tokens trained on so far.
    pub tokens: u64,
    /// Passes over the corpus so far.
    pub epochs: f64,
    /// Tokens a second of this step.
    pub tokens_per_second: f64,
    /// Seconds left at this step's speed.
    pub eta_seconds: f64,
}

/// What a validation found.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Evaluation {
    /// Mean loss, nats a token.
    pub loss: f64,
    /// Bits for each byte of the text.
    pub bits_per_byte: f64,
    /// Tokens predicted.
    pub tokens: usize,
    /// Zeros by layer, over the last windows.
    pub zeros: Vec<LayerZeros>,
}

/// How to draw tokens for a sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SampleOptions {
    /// Tokens at most. The context's length is a bound too.
    pub max_tokens: usize,
    /// 0 takes the likeliest.
    pub temperature: f32,
    /// Draw from this many likeliest tokens.
    pub top_k: usize,
    /// Seed.
    pub seed: u64,
}

/// A run in progress.
#[derive(Debug)]
pub struct Trainer {
    pub(crate) config: TrainConfig,
    pub(crate) network: Network,
    pub(crate) tokenizer: TextTokenizer,
    pub(crate) parameters: Vec<f32>,
    /// The parameters as the forward pass and the exported file have them: quantised.
    pub(crate) effective: Vec<f32>,
    stale: bool,
    corpus: Corpus,
    windows: Windows,
    optimizer: AdamW,
    gradients: Vec<Vec<f32>>,
    buffers: Vec<Buffers>,
    threads: usize,
    step: u64,
    seconds: f64,
    history: History,
}

impl Trainer {
    /// A fresh run; `threads` are used up to the number of shards.
    pub fn new(
        config: TrainConfig,
        tokenizer: TextTokenizer,
        corpus: Corpus,
        threads: usize,
    ) -> Result<Self, TrainError> {
        config.check()?;
        if tokenizer.vocab_size() != config.model.vocab_size {
            let expected = format!("{}, the tokenizer's size", tokenizer.vocab_size());
            return Err(crate::config::option(
                "vocab_size",
                &expected,
                config.model.vocab_size,
            ));
        }
        let network = Network::new(&config.model, config.quantise_activations);
        let parameters = initial(&config, &network);
        let optimizer = AdamW::new(parameters.len());
        let tokens = config.batch_sequences / config.shards * config.model.max_position_embeddings;
        Ok(Self {
            effective: vec![0.0; parameters.len()],
            stale: true,
            windows: Windows::new(config.seed, config.model.max_position_embeddings),
            gradients: (0..config.shards)
                .map(|_| vec![0.0; parameters.len()])
                .collect(),
            buffers: (0..config.shards)
                .map(|_| network.buffers(tokens))
                .collect(),
            threads: threads.clamp(1, config.shards),
            step: 0,
            seconds: 0.0,
            history: History::default(),
            network,
            tokenizer,
            parameters,
            corpus,
            optimizer,
            config,
        })
    }

    /// Goes on from a checkpoint. `adjust` may change the schedule, the intervals and the number of shards, not the model.
    pub fn resume(
        path: &Path,
        train: &str,
        valid: &str,
        threads: usize,
        adjust: impl FnOnce(&mut TrainConfig),
    ) -> Result<Self, TrainError> {
        let checkpoint = checkpoint::load(path)?;
        let mut config = checkpoint.state.config;
        let model = config.model.clone();
        adjust(&mut config);
        if config.model != model {
            return Err(crate::config::option(
                "model",
                "the checkpoint's",
                "another",
            ));
        }
        let tokenizer = TextTokenizer::from_json(&checkpoint.state.tokenizer)?;
        let corpus = Corpus::new(&config, &tokenizer, train, valid)?;
        let mut trainer = Self::new(config, tokenizer, corpus, threads)?;
        trainer.parameters = checkpoint.parameters;
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

    /// Numbers trained.
    pub fn parameter_count(&self) -> usize {
        self.parameters.len()
    }

    fn tokens_per_step(&self) -> u64 {
        (self.config.batch_sequences * self.config.model.max_position_embeddings) as u64
    }

    /// One optimizer step.
    pub fn step(&mut self) -> Result<StepReport, TrainError> {
        let start = Instant::now();
        self.refresh();
        let window = self.config.model.max_position_embeddings;
        let per_shard = self.config.batch_sequences / self.config.shards;
        let mut batch: Vec<(Vec<u32>, Vec<u32>)> = Vec::with_capacity(self.config.shards);
        for shard in 0..self.config.shards {
            let mut inputs = Vec::with_capacity(per_shard * window);
            let mut targets = Vec::with_capacity(per_shard * window);
            for i in 0..per_shard {
                let number =
                    self.step * self.config.batch_sequences as u64 + (shard * per_shard + i) as u64;
                let tokens = self.windows.get(&self.corpus, number);
                inputs.extend_from_slice(&tokens[..window]);
                targets.extend_from_slice(&tokens[1..]);
            }
            batch.push((inputs, targets));
        }
        let tokens = self.tokens_per_step();
        let factor = 1.0 / tokens as f32;
        let mut losses = vec![0.0; self.config.shards];
        let (network, effective) = (&self.network, &self.effective);
        let shards = batch
            .iter()
            .zip(&mut self.gradients)
            .zip(&mut self.buffers)
            .zip(&mut losses);
        parallel::each(
            self.threads,
            shards.collect(),
            |((((inputs, targets), gradients), buffers), loss)| {
                gradients.fill(0.0);
                let tokens = Tokens {
                    inputs,
                    sequences: per_shard,
                };
                *loss = network
                    .loss_and_gradients(effective, tokens, targets, factor, buffers, gradients);
            },
        );
        let loss = losses.iter().sum::<f64>() / tokens as f64;
        let gradient_norm = optimizer::reduce(self.threads, &mut self.gradients);
        if !loss.is_finite() || !gradient_norm.is_finite() {
            return Err(TrainError::Diverged {
                step: self.step,
                loss,
            });
        }
        let clip =
            (f64::from(self.config.gradient_clip) / gradient_norm.max(1e-12)).min(1.0) as f32;
        let learning_rate = self.config.rates(self.step).learning_rate;
        self.optimizer.update(
            &self.config,
            &self.network.layout,
            self.step,
            clip,
            &mut self.parameters,
            &self.gradients[0],
            self.threads,
        );
        self.stale = true;
        self.step += 1;
        self.history.add_loss(loss);
        let seconds = start.elapsed().as_secs_f64();
        self.seconds += seconds;
        Ok(StepReport {
            step: self.step,
            steps: self.config.steps,
            loss,
            learning_rate,
            gradient_norm,
            tokens: self.step * tokens,
            epochs: (self.step * self.config.batch_sequences as u64) as f64
                / self.windows.per_epoch(&self.corpus) as f64,
            tokens_per_second: tokens as f64 / seconds,
            eta_seconds: self.config.steps.saturating_sub(self.step) as f64 * seconds,
        })
    }

    /// Brings the effective weights up to date with the parameters.
    pub(crate) fn refresh(&mut self) {
        if !self.stale {
            return;
        }
        let mut rest = self.effective.as_mut_slice();
        let mut tasks = Vec::new();
        for tensor in &self.network.layout.tensors {
            let (out, tail) = rest.split_at_mut(tensor.range.len());
            rest = tail;
            tasks.push((tensor, out));
        }
        let (config, parameters) = (&self.config, &self.parameters);
        parallel::each(self.threads, tasks, |(tensor, out)| {
            effective(config, tensor, &parameters[tensor.range.clone()], out);
        });
        self.stale = false;
    }

    /// Loss over the validation text in windows of the context's length that follow each other without overlap: every
    /// token but the first is predicted once. `windows` bounds the work; all of them by default.
    pub fn evaluate(&mut self, windows: Option<usize>) -> Evaluation {
        self.refresh();
        let window = self.config.model.max_position_embeddings;
        let valid = self.corpus.valid();
        let spans: Vec<&[u32]> = (0..valid.len() - 1)
            .step_by(window)
            .take(windows.unwrap_or(usize::MAX))
            .map(|at| &valid[at..valid.len().min(at + window + 1)])
            .collect();
        let mut losses = vec![0.0; spans.len()];
        let (network, effective) = (&self.network, &self.effective);
        let lanes = self.buffers.len();
        let per_lane = spans.len().div_ceil(lanes);
        let work = spans
            .chunks(per_lane)
            .zip(losses.chunks_mut(per_lane))
            .zip(&mut self.buffers);
        parallel::each(
            self.threads,
            work.collect(),
            |((spans, losses), buffers)| {
                for (span, loss) in spans.iter().zip(losses) {
                    let (inputs, targets) = (&span[..span.len() - 1], &span[1..]);
                    *loss = network.loss(
                        effective,
                        Tokens {
                            inputs,
                            sequences: 1,
                        },
                        targets,
                        buffers,
                    );
                }
            },
        );
        let tokens: usize = spans.iter().map(|s| s.len() - 1).sum();
        let loss = losses.iter().sum::<f64>() / tokens as f64;
        let tokens_per_byte = (valid.len() - 1) as f64 / self.corpus.valid_bytes() as f64;
        let last = spans.get(per_lane - 1).map_or(window, |s| s.len() - 1);
        Evaluation {
            loss,
            bits_per_byte: loss / std::f64::consts::LN_2 * tokens_per_byte,
            tokens,
            zeros: self
                .buffers
                .first()
                .map(|b| self.network.zeros(last, b))
                .unwrap_or_default(),
        }
    }

    /// Puts a point on the curve, with the validation if there is one.
    pub fn record(&mut self, evaluation: Option<&Evaluation>) -> Point {
        let point = Point {
            step: self.step,
            tokens: self.step * self.tokens_per_step(),
            seconds: self.seconds,
            train_loss: self.history.take_loss(),
            valid_loss: evaluation.map(|e| e.loss),
            bits_per_byte: evaluation.map(|e| e.bits_per_byte),
            learning_rate: self.config.rates(self.step.saturating_sub(1)).learning_rate,
        };
        self.history.points.push(point);
        point
    }

    /// Writes a checkpoint in place of the one at `path`.
    pub fn save(&self, path: &Path) -> Result<(), TrainError> {
        let state = State {
            step: self.step,
            seconds: self.seconds,
            config: self.config.clone(),
            tokenizer: self.tokenizer.to_json()?,
            history: self.history.clone(),
        };
        checkpoint::save(path, &state, &self.parameters, &self.optimizer)
    }

    /// Logits after each token, by the forward pass that training uses.
    pub fn logits(&mut self, tokens: &[u32]) -> Result<Vec<f32>, TrainError> {
        let (most, vocabulary) = (
            self.config.model.max_position_embeddings,
            self.config.model.vocab_size as u32,
        );
        if tokens.is_empty() || tokens.len() > most || tokens.iter().any(|t| *t >= vocabulary) {
            let expected = format!("1 to {most} ids below {vocabulary}");
            return Err(crate::config::option(
                "tokens",
                &expected,
                format!("{} tokens", tokens.len()),
            ));
        }
        self.refresh();
        Ok(self
            .network
            .logits(&self.effective, tokens, &mut self.buffers[0]))
    }

    /// Continues a text.
    pub fn sample(&mut self, prompt: &str, options: SampleOptions) -> Result<String, TrainError> {
        let mut tokens = vec![self.tokenizer.separator()];
        tokens.extend(self.tokenizer.encode(prompt)?);
        let mut rng = SplitMix64::stream(options.seed, 2, 0);
        let most = self
            .config
            .model
            .max_position_embeddings
            .min(tokens.len() + options.max_tokens);
        while tokens.len() < most {
            let logits = self.logits(&tokens)?;
            let vocabulary = self.config.model.vocab_size;
            let next = draw(&logits[logits.len() - vocabulary..], options, &mut rng);
            if next == self.tokenizer.separator() {
                break;
            }
            tokens.push(next);
        }
        self.tokenizer.decode(&tokens)
    }
}

/// One token from the `top_k` likeliest at a temperature.
fn draw(logits: &[f32], options: SampleOptions, rng: &mut SplitMix64) -> u32 {
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    order.sort_unstable_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]));
    if options.temperature <= 0.0 {
        return order[0];
    }
    order.truncate(options.top_k.max(1));
    let top = logits[order[0] as usize];
    let weight = |id: &u32| f64::from((logits[*id as usize] - top) / options.temperature).exp();
    let mut left = rng.uniform() * order.iter().map(weight).sum::<f64>();
    for id in &order {
        left -= weight(id);
        if left <= 0.0 {
            return *id;
        }
    }
    order[order.len() - 1]
}

/// A tensor as the forward pass sees it.
fn effective(config: &TrainConfig, tensor: &Tensor, parameters: &[f32], out: &mut [f32]) {
    match tensor.kind {
        Kind::Norm => out.copy_from_slice(parameters),
        Kind::Embedding => weights::round_f16(parameters, out),
        Kind::Linear if !config.quantise_weights => out.copy_from_slice(parameters),
        Kind::Linear => {
            let group = match config.weight_scale {
                WeightScale::Tensor => parameters.len(),
                WeightScale::Channel => tensor.cols,
            };
            for (parameters, out) in parameters.chunks(group).zip(out.chunks_mut(group)) {
                weights::ternary(parameters, out);
            }
        }
    }
}

/// Norms at 1, everything else normal with a deviation of 0.02, the two projections into the residual stream smaller by
/// the square root of twice the depth.
fn initial(config: &TrainConfig, network: &Network) -> Vec<f32> {
    let mut parameters = vec![0.0; network.layout.total];
    let depth = (2.0 * config.model.num_hidden_layers as f32).sqrt();
    for (i, tensor) in network.layout.tensors.iter().enumerate() {
        let values = &mut parameters[tensor.range.clone()];
        if tensor.kind == Kind::Norm {
            values.fill(1.0);
            continue;
        }
        let into_residual = tensor.name.contains("attn_output") || tensor.name.contains("ffn_down");
        let deviation = if into_residual { 0.02 / depth } else { 0.02 };
        let mut rng = SplitMix64::stream(config.seed, 3, i as u64);
        for value in values {
            *value = rng.normal() * deviation;
        }
    }
    parameters
}
