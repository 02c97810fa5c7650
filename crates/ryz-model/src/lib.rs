//! Transformer architectures: weights, run state and the forward pass.
//!
//! [`ModelSource`] opens a model's files and validates their headers; [`Model::load`] reads the
//! weights into the arena; [`Model::forward`] computes one step of a ragged batch over a paged
//! cache. Configuration, weights and scratch are separate: a [`Model`] never changes during a step,
//! and each caller owns its [`RunState`].
#![forbid(unsafe_code)]

mod activations;
mod batch;
mod calibration;
mod compression;
mod error;
mod estimate;
mod fingerprint;
mod forward;
mod hooks;
mod lm_head;
mod load;
mod orders;
mod place;
mod rope;
mod run_state;
mod sparsity;
mod sync;
mod tensor;
mod tune;
mod weights;

pub use activations::Activations;
pub use batch::{BatchSequence, LogitDemand, Outputs};
pub use calibration::{AttentionStatistics, Calibration};
pub use compression::MAX_VALUE_DIM;
pub use error::ModelError;
pub use estimate::MemoryEstimate;
pub use fingerprint::Fingerprint;
pub use hooks::{HookPattern, HookPoint, Hooks};
pub use lm_head::{HeadScreening, HeadType, ROWS_PER_SURVIVOR, ScreenedHead};
pub use load::{LoadOptions, LoadProgress, Model, PARALLEL_FROM, QuantizedTensor};
pub use run_state::RunState;
pub use tune::{Counting, MatrixKind, ProductTimer};

pub use ryz_format::{ModelConfig, Quantized, Quantizer, SharedQuantizer, TensorError};
pub use ryz_source::{ModelSource, Overrides, SourceKind};
