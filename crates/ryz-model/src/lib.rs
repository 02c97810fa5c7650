//! Transformer architectures: weights, run state and the forward pass.
//!
//! [`ModelSource`] opens a model's files and validates their headers; [`Model::load`] reads the weights into the arena;
//! [`Model::forward`] computes one step of a ragged batch over a paged cache. Configuration, weights and scratch are
//! separate: a [`Model`] never changes, a [`RunState`] belongs to whoever runs it.
#![forbid(unsafe_code)]

mod activations;
mod batch;
mod calibration;
mod compression;
mod describe;
mod error;
mod estimate;
mod fingerprint;
mod forward;
mod head;
mod hooks;
mod load;
mod orders;
mod place;
mod rope;
mod run_state;
mod screen;
mod source;
mod sparsity;
mod tensor;
mod tune;
mod weights;

pub use activations::Activations;
pub use batch::{BatchSequence, Needed, Outputs};
pub use calibration::{AttentionStatistics, Calibration};
pub use compression::MAX_VALUE_DIM;
pub use describe::{Described, DescribedKind};
pub use error::ModelError;
pub use estimate::MemoryEstimate;
pub use fingerprint::Fingerprint;
pub use head::HeadType;
pub use hooks::{HookPattern, HookPoint, Hooks};
pub use load::{LoadOptions, LoadProgress, Model, PARALLEL_FROM, QuantizedTensor};
pub use run_state::RunState;
pub use screen::{HeadScreening, ROWS_PER_SURVIVOR, ScreenedHead};
pub use source::{ModelSource, SourceKind};
pub use tune::{Counting, MatrixKind, ProductTimer};

pub use ryz_format::{ModelConfig, Overrides, Quantized, Quantizer, SharedQuantizer, TensorError};
