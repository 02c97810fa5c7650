//! What can go wrong in training, each with the name, the expectation and what was found.

use std::path::PathBuf;

/// Errors of the trainer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A file could not be read, or is none.
    #[error(transparent)]
    Read(#[from] ryz_tmac::MemoryError),
    /// A file could not be written.
    #[error("{}", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: ryz_files::OutputError,
    },
    /// An option is out of range.
    #[error("{name} must be {expected}, got {got}")]
    InvalidOption {
        /// Option, by its name in the configuration file.
        name: &'static str,
        /// What it may be.
        expected: String,
        /// What it was.
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
        /// Which file.
        path: PathBuf,
        /// Where it stops being UTF-8.
        source: std::str::Utf8Error,
    },
    /// The system gave no threads.
    #[error("cannot start {threads} threads")]
    Threads {
        /// Threads asked for.
        threads: usize,
        /// What the pool said.
        source: rayon::ThreadPoolBuildError,
    },
    /// The tokenizer crate refused.
    #[error("cannot {action}")]
    Tokenizer {
        /// What was being done.
        action: &'static str,
        /// The tokenizer crate's error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A checkpoint is damaged or does not fit the configuration.
    #[error("checkpoint {}: {name} must be {expected}, got {got}", path.display())]
    InvalidCheckpoint {
        /// Which file.
        path: PathBuf,
        /// Tensor or field.
        name: String,
        /// What the configuration asks for.
        expected: String,
        /// What the file holds.
        got: String,
    },
    /// A checkpoint is not a safetensors file.
    #[error("checkpoint {} is not readable", path.display())]
    UnreadableCheckpoint {
        /// Which file.
        path: PathBuf,
        /// The parser's error.
        source: safetensors::SafeTensorError,
    },
    /// A model to start from or to learn from cannot be read.
    #[error("cannot read the model {}", path.display())]
    Model {
        /// Which model.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<ryz_convert::ConvertError>,
    },
    /// A model that the trainer has no passes for, or that does not fit the run.
    #[error("model {}: {name} must be {expected}, got {got}", path.display())]
    UnfitModel {
        /// Which model.
        path: PathBuf,
        /// What of it.
        name: &'static str,
        /// What it may be.
        expected: String,
        /// What it is.
        got: String,
    },
    /// A file is there already and was not to be replaced.
    #[error("{} exists already: {hint}", path.display())]
    Exists {
        /// Which file.
        path: PathBuf,
        /// What can be done.
        hint: &'static str,
    },
    /// The exported file could not be made.
    #[error("cannot export the model")]
    Export(#[from] ryz_format::FormatError),
    /// The loss is not a number: the learning rate is too high or the data is damaged.
    #[error(
        "the loss became {loss} at step {step}; lower the learning rate and resume from the last checkpoint"
    )]
    Diverged {
        /// Step of the bad loss.
        step: u64,
        /// The loss.
        loss: f64,
    },
    /// Training was cancelled.
    #[error("training was cancelled")]
    Aborted,
}

impl TrainError {
    /// The stable code that the TypeScript side sees.
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
