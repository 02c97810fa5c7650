//! Training errors, each with the name, the expected value and the actual value.

use std::path::PathBuf;

/// Errors of the trainer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A file could not be read, or the path is not a file.
    #[error(transparent)]
    Read(#[from] ryz_tmac::MemoryError),
    /// A file could not be written.
    #[error("{}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: ryz_files::OutputError,
    },
    /// An option is out of range.
    #[error("{name} must be {expected}, got {got}")]
    InvalidOption {
        /// The option's name in the configuration file.
        name: &'static str,
        /// The allowed value.
        expected: String,
        /// The actual value.
        got: String,
    },
    /// The configuration file is not JSON of the right form.
    #[error("malformed training configuration")]
    Config(#[source] serde_json::Error),
    /// The corpus is too short for one batch.
    #[error("the {what} corpus has {got} tokens, at least {expected} are needed")]
    CorpusTooSmall {
        /// "training" or "validation".
        what: &'static str,
        /// Tokens needed.
        expected: usize,
        /// Tokens found.
        got: usize,
    },
    /// A corpus file is not UTF-8.
    #[error("{} is not UTF-8 text", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
        /// The position of the first invalid byte.
        source: std::str::Utf8Error,
    },
    /// The system could not create the threads.
    #[error("cannot start {threads} threads")]
    Threads {
        /// Requested threads.
        threads: usize,
        /// The pool's error.
        source: rayon::ThreadPoolBuildError,
    },
    /// The tokenizer crate returned an error.
    #[error("cannot {action}")]
    Tokenizer {
        /// The attempted action.
        action: &'static str,
        /// The tokenizer crate's error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A checkpoint is damaged or does not fit the configuration.
    #[error("checkpoint {}: {name} must be {expected}, got {got}", path.display())]
    InvalidCheckpoint {
        /// The file.
        path: PathBuf,
        /// The tensor or field.
        name: String,
        /// The value that the configuration needs.
        expected: String,
        /// The value in the file.
        got: String,
    },
    /// A checkpoint is not a safetensors file.
    #[error("checkpoint {} is not readable", path.display())]
    UnreadableCheckpoint {
        /// The file.
        path: PathBuf,
        /// The parser's error.
        source: safetensors::SafeTensorError,
    },
    /// The initial model or the teacher cannot be read.
    #[error("cannot read the model {}", path.display())]
    Model {
        /// The model.
        path: PathBuf,
        /// The fault.
        source: Box<ryz_convert::ConvertError>,
    },
    /// The trainer does not support the model, or it does not fit the run.
    #[error("model {}: {name} must be {expected}, got {got}", path.display())]
    UnfitModel {
        /// The model.
        path: PathBuf,
        /// The property.
        name: &'static str,
        /// The allowed value.
        expected: String,
        /// The actual value.
        got: String,
    },
    /// A file exists and must not be replaced.
    #[error("{} exists already: {hint}", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
        /// How to proceed.
        hint: &'static str,
    },
    /// The exported file could not be created.
    #[error("cannot export the model")]
    Export(#[from] ryz_format::FormatError),
    /// The loss is not finite: the learning rate is too high, or the data is damaged.
    #[error(
        "the loss became {loss} at step {step}; lower the learning rate and resume from the last checkpoint"
    )]
    Diverged {
        /// The step with the invalid loss.
        step: u64,
        /// The loss.
        loss: f64,
    },
    /// Training was cancelled.
    #[error("training was cancelled")]
    Aborted,
}

impl TrainError {
    /// The stable error code passed to TypeScript.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Read(error) => error.code(),
            Self::Write { .. } => "IO",
            Self::Threads { .. } => "OUT_OF_MEMORY",
            Self::InvalidOption { .. }
            | Self::Config(_)
            | Self::CorpusTooSmall { .. }
            | Self::NotText { .. }
            | Self::Exists { .. }
            | Self::Diverged { .. } => "INVALID_ARGUMENT",
            Self::Model { source, .. } => source.code(),
            Self::UnfitModel { .. } => "UNSUPPORTED",
            Self::Tokenizer { .. } => "INVALID_TOKENIZER",
            Self::InvalidCheckpoint { .. } | Self::UnreadableCheckpoint { .. } => "INVALID_FILE",
            Self::Aborted => "ABORTED",
            Self::Export(source) => source.code(),
        }
    }
}
