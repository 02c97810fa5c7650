//! Quantisation-aware training of BitNet b1.58 models, and their export to GGUF.
//!
//! The forward pass rounds weights to {−1, 0, +1}·s and activations to int8 per token, exactly as the engine computes; the
//! backward pass lets gradients through the rounding unchanged (straight-through estimator).
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
mod report;
mod rng;
mod simd;
mod tokenizer;
mod trainer;

pub use config::{HiddenAct, ModelShape, Rates, Schedule, TrainConfig, WeightScale};
pub use corpus::{Corpus, documents, read_text};
pub use error::TrainError;
pub use model::LayerZeros;
pub use report::{History, Point};
pub use tokenizer::{SEPARATOR, TextTokenizer};
pub use trainer::{Evaluation, SampleOptions, StepReport, Trainer};
