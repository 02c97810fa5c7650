//! Quantization-aware training of BitNet b1.58 models, and their export to GGUF.
//!
//! The forward pass rounds weights to {−1, 0, +1}·s and activations to int8, as in the engine; the
//! backward pass passes gradients through the rounding unchanged (straight-through estimator).
//!
//! - [`run`] performs a whole run from files to files: train or fine-tune, with or without a
//!   teacher, stop and resume.
//! - [`Trainer`] provides its parts for custom training loops.
#![forbid(unsafe_code)]

mod checkpoint;
mod config;
mod corpus;
mod error;
mod export;
mod layout;
mod model;
mod ops;
mod optimizer;
mod parallel;
mod pretrained;
mod report;
mod rng;
mod run;
mod simd;
mod tokenizer;
mod trainer;

pub use config::{
    ActivationScale, HiddenAct, ModelShape, Rates, Schedule, TrainConfig, WeightScale,
};
pub use corpus::{Corpus, documents, hold_out, read_text};
pub use error::TrainError;
pub use model::LayerZeros;
pub use pretrained::PretrainedModel;
pub use report::{History, Point};
pub use run::{Preparation, RunEvent, RunFiles, RunOptions, RunReport, run};
pub use tokenizer::{SEPARATOR, TextTokenizer};
pub use trainer::{Evaluation, SampleOptions, StepReport, Trainer};
