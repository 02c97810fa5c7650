use std::path::PathBuf;

use ryz_format::{FormatError, QuantizeError};
use ryz_kernels::KernelError;
use ryz_kvcache::KvCacheError;
use ryz_numa::RegionError;
use ryz_source::SourceError;
use ryz_tmac::MemoryError;

/// Why a model cannot be loaded or a step cannot be computed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A file is malformed or describes a model that is not supported.
    #[error("{}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        source: FormatError,
    },
    /// A value that was given in the place of the file's own does not fit.
    #[error("overrides")]
    Overrides(#[source] FormatError),
    /// A tensor's bytes cannot be used.
    #[error("{}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// Which one, and what is wrong with it.
        source: KernelError,
    },
    /// Reading failed, or memory was refused.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The cache was refused.
    #[error(transparent)]
    KvCache(#[from] KvCacheError),
    /// A kernel failed its self-test or an operand did not fit.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// A quantiser failed, or gave what no matrix can be made of.
    #[error(transparent)]
    Quantizer(#[from] QuantizeError),
    /// A worker panicked: our own fault, but the process lives.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// A token id is not in the vocabulary.
    #[error("token id: expected less than {vocab_size}, got {token}")]
    TokenOutOfRange {
        /// The id.
        token: u32,
        /// Ids are below this.
        vocab_size: usize,
    },
    /// A sequence would be longer than the context.
    #[error("sequence {sequence}: expected at most {limit} positions, got {got}")]
    ContextOverflow {
        /// Its index in the batch.
        sequence: usize,
        /// Positions there are.
        limit: usize,
        /// Positions wanted.
        got: usize,
    },
    /// A batch does not fit the run state.
    #[error("sequence {sequence} of the batch: expected {what} {expected}, got {got}")]
    InvalidBatch {
        /// Its index in the batch.
        sequence: usize,
        /// The property.
        what: &'static str,
        /// What it may be.
        expected: usize,
        /// What it was.
        got: usize,
    },
    /// A name that is no [`crate::Activations`].
    #[error("activations: expected int8, int8-group or f32, got {got:?}")]
    UnknownActivations {
        /// The name given.
        got: String,
    },
    /// A name that is no place for a hook.
    #[error(
        "expected embedding.output, layers.N.attention.output, layers.N.ffn.output (N may be *), norm.output or logits, \
         got {got:?}"
    )]
    UnknownHook {
        /// The name given.
        got: String,
    },
    /// A calibration is of another model, of another shape, or of a version that is not known.
    #[error("{}: calibration's {what}: expected {expected}, got {got}", path.display())]
    Calibration {
        /// The file.
        path: PathBuf,
        /// The property.
        what: &'static str,
        /// What it may be.
        expected: String,
        /// What it was.
        got: String,
    },
    /// A calibration is no safetensors file, or lacks a tensor.
    #[error("{}: no calibration", path.display())]
    CalibrationFile {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        source: safetensors::SafeTensorError,
    },
    /// A calibration could not be written.
    #[error("{}", path.display())]
    CalibrationIo {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: ryz_files::OutputError,
    },
    /// A calibration saw what is no number.
    #[error("layer {layer}: expected finite attention outputs: the model's weights give none")]
    NonFiniteAttention {
        /// The first such layer.
        layer: usize,
    },
    /// Values cannot be stored in so many dimensions.
    #[error("dimensions of a cached value: expected {expected}, got {got}")]
    ValueRank {
        /// What they may be.
        expected: String,
        /// What was asked for.
        got: usize,
    },
    /// The caller cancelled.
    #[error("cancelled")]
    Aborted,
}

impl From<SourceError> for ModelError {
    fn from(error: SourceError) -> Self {
        match error {
            SourceError::Format { path, source } => Self::Format { path, source },
            SourceError::Overrides(source) => Self::Overrides(source),
            SourceError::Read(error) => Self::Memory(error),
        }
    }
}

impl ModelError {
    /// The stable code that crosses to TypeScript.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Format { source, .. } => source.code(),
            Self::Tensor { source, .. } => source.code(),
            Self::Memory(error) => error.code(),
            Self::KvCache(error) => error.code(),
            Self::Kernel(error) => error.code(),
            Self::Quantizer(error) => error.code(),
            Self::Region(error) => error.code(),
            Self::Calibration { .. }
            | Self::CalibrationFile { .. }
            | Self::NonFiniteAttention { .. } => "INVALID_FILE",
            Self::CalibrationIo { .. } => "IO",
            Self::Overrides(_)
            | Self::TokenOutOfRange { .. }
            | Self::ValueRank { .. }
            | Self::UnknownActivations { .. }
            | Self::UnknownHook { .. } => "INVALID_ARGUMENT",
            Self::InvalidBatch { .. } => "INTERNAL",
            Self::ContextOverflow { .. } => "CONTEXT_OVERFLOW",
            Self::Aborted => "ABORTED",
        }
    }
}
