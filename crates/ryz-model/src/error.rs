use std::path::PathBuf;

use ryz_format::{FormatError, QuantizeError};
use ryz_kernels::KernelError;
use ryz_kvcache::KvCacheError;
use ryz_numa::RegionError;
use ryz_source::SourceError;
use ryz_tmac::MemoryError;

/// Why a model failed to load or a step failed to compute.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A file is malformed or describes an unsupported model.
    #[error("{}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The fault.
        source: FormatError,
    },
    /// A value given to override the file's own does not fit.
    #[error("overrides")]
    Overrides(#[source] FormatError),
    /// A tensor's bytes are invalid.
    #[error("{}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor and its fault.
        source: KernelError,
    },
    /// A read or an allocation failed.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The cache configuration is invalid.
    #[error(transparent)]
    KvCache(#[from] KvCacheError),
    /// A kernel failed its self-test, or an operand has the wrong shape.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// A quantizer failed, or returned an invalid matrix.
    #[error(transparent)]
    Quantizer(#[from] QuantizeError),
    /// A worker panicked. This is a bug in the engine; the process survives.
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
        /// Maximum positions.
        limit: usize,
        /// Requested positions.
        got: usize,
    },
    /// A batch does not fit the run state.
    #[error("sequence {sequence} of the batch: expected {what} {expected}, got {got}")]
    InvalidBatch {
        /// Its index in the batch.
        sequence: usize,
        /// The property.
        what: &'static str,
        /// The allowed value.
        expected: usize,
        /// The actual value.
        got: usize,
    },
    /// A name that is not one of [`crate::Activations`].
    #[error("activations: expected int8, int8-group or f32, got {got:?}")]
    UnknownActivations {
        /// The name given.
        got: String,
    },
    /// A name that is not a hook point.
    #[error(
        "expected embedding.output, layers.N.attention.output, layers.N.ffn.output (N may be *), norm.output or logits, \
         got {got:?}"
    )]
    UnknownHook {
        /// The name given.
        got: String,
    },
    /// A calibration belongs to another model, or has another shape or an unknown version.
    #[error("{}: calibration's {what}: expected {expected}, got {got}", path.display())]
    Calibration {
        /// The file.
        path: PathBuf,
        /// The property.
        what: &'static str,
        /// The expected value.
        expected: String,
        /// The actual value.
        got: String,
    },
    /// A calibration is not a safetensors file, or lacks a tensor.
    #[error("{}: no calibration", path.display())]
    CalibrationFile {
        /// The file.
        path: PathBuf,
        /// The fault.
        source: safetensors::SafeTensorError,
    },
    /// A calibration could not be written.
    #[error("{}", path.display())]
    CalibrationIo {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: ryz_files::OutputError,
    },
    /// Calibration met a value that is not finite.
    #[error("layer {layer}: expected finite attention outputs: the model's weights give none")]
    NonFiniteAttention {
        /// The first affected layer.
        layer: usize,
    },
    /// Values cannot be stored in this many dimensions.
    #[error("dimensions of a cached value: expected {expected}, got {got}")]
    ValueRank {
        /// The allowed values.
        expected: String,
        /// The requested dimensions.
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
    /// The stable error code passed to TypeScript.
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
