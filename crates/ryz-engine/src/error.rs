//! Everything that can go wrong between a request and its last event.

use std::path::PathBuf;
use std::sync::Arc;

use ryz_kernels::KernelError;
use ryz_kvcache::KvCacheError;
use ryz_model::{HookPoint, ModelError};
use ryz_numa::RegionError;
use ryz_source::SourceError;
use ryz_tokenizer::{TemplateError, TokenizerError};

/// An error of the engine. Options are named as the public TypeScript surface spells them, because that is where the
/// user reads the message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// An option is outside what it may be.
    #[error("{option}: expected {expected}, got {got}")]
    InvalidArgument {
        /// The option's public name, such as `topP`.
        option: &'static str,
        /// What it may be.
        expected: String,
        /// What it was.
        got: String,
    },
    /// What a pass computed is not a number or infinite, so nothing can be made of it.
    #[error(
        "position {position}: expected a finite {what} {index}, got {value}, from {}",
        whence(operators)
    )]
    NonFinite {
        /// "logit" or "hidden value".
        what: &'static str,
        /// Of the first such value: its token, or its place in the hidden state.
        index: usize,
        /// Position of the sequence it belongs to.
        position: usize,
        /// The value itself.
        value: f32,
        /// The operators that were called on the way.
        operators: Vec<String>,
    },
    /// Constraints, bans and minimum lengths together leave no token to choose.
    #[error(
        "format, logitBias, ignoreEos and minTokens leave no token to choose at position {position}"
    )]
    NoCandidates {
        /// Position of the sequence.
        position: usize,
    },
    /// A schema, a regular expression or a grammar is not one, or asks for what cannot be enforced.
    #[error("{option}: {message}")]
    InvalidGrammar {
        /// The option's public name and the place in it, such as `format.schema/properties/age`.
        option: String,
        /// What is wrong there.
        message: String,
    },
    /// A schema, a regular expression or a grammar is too large, too deep or too ambiguous.
    #[error("{option} {message}")]
    GrammarLimit {
        /// The option's public name.
        option: String,
        /// Which limit, and what was there.
        message: String,
    },
    /// No token of the vocabulary goes on with a constraint that is not complete.
    #[error("format: no token of the model's vocabulary can follow token {position} of the answer")]
    GrammarStuck {
        /// Tokens of the answer.
        position: usize,
    },
    /// A constraint failed although nothing is wrong with it: our own fault, or llguidance's.
    #[error("the constraint failed: {message}")]
    GrammarFault {
        /// What was said.
        message: String,
    },
    /// The model's chat template takes no tools, so no form of tool calls is known.
    #[error("tools: the model's chat template takes none")]
    NoToolCalls,
    /// A prompt does not fit the context with room for one more token.
    #[error("prompt: expected at most {limit} tokens for a context of {context_length}, got {got}")]
    ContextOverflow {
        /// The most that fit.
        limit: usize,
        /// The engine's context.
        context_length: usize,
        /// Tokens of the prompt.
        got: usize,
    },
    /// A text is more tokens than fit the context with room for one more.
    #[error(
        "prompt: expected at most {limit} tokens for a context of {context_length}, got more: \
         the text has {bytes} bytes"
    )]
    TextOverflow {
        /// The most that fit.
        limit: usize,
        /// The engine's context.
        context_length: usize,
        /// Bytes of the text.
        bytes: usize,
    },
    /// More requests wait than may.
    #[error("the queue is full: {limit} requests are waiting")]
    QueueFull {
        /// How many may wait.
        limit: usize,
    },
    /// The request or the load was cancelled.
    #[error("cancelled")]
    Aborted,
    /// The engine has been disposed.
    #[error("the engine has been disposed")]
    Disposed,
    /// A thread of the engine panicked: our own fault. The engine takes no more requests.
    #[error("a thread of the engine panicked: {message}")]
    Panicked {
        /// What the panic said.
        message: Arc<str>,
    },
    /// The model's files have no chat template.
    #[error("the model has no chat template: give one as chatTemplate")]
    NoChatTemplate,
    /// A model's folder lacks a file.
    #[error("{} has no {name}", folder.display())]
    MissingFile {
        /// The folder.
        folder: PathBuf,
        /// The file's name.
        name: String,
    },
    /// A saved state is damaged, cut short, or of another model, type or version.
    #[error("{}: saved state's {what}: expected {expected}, got {got}", path.display())]
    SavedState {
        /// The file.
        path: PathBuf,
        /// The property.
        what: &'static str,
        /// What it may be.
        expected: String,
        /// What it was.
        got: String,
    },
    /// A file is no saved state.
    #[error("{}: no saved state", path.display())]
    SavedStateFile {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        source: safetensors::SafeTensorError,
    },
    /// A state could not be written.
    #[error("{}", path.display())]
    SavedStateIo {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: ryz_files::OutputError,
    },
    /// The process may not take so much address space.
    #[error(
        "address space: expected {needed} bytes for the model, its cache and its threads, got {left} below the limit of the process (ulimit -v)"
    )]
    AddressSpace {
        /// Bytes that may be needed.
        needed: u64,
        /// Bytes there are.
        left: u64,
    },
    /// The system gave no thread.
    #[error("cannot start the engine's thread")]
    Thread {
        /// What it said.
        source: std::io::Error,
    },
    /// Loading or a step failed. Shared by all requests of the step.
    #[error(transparent)]
    Model(Arc<ModelError>),
    /// An operator of the program failed, for this request.
    #[error("operator {name} at {point}: {message}")]
    Operator {
        /// The operator's name.
        name: String,
        /// Where it was called.
        point: HookPoint,
        /// What it said.
        message: String,
    },
    /// The program's ranking of blocks failed, for this request.
    #[error("ranking of blocks: {message}")]
    BlockRanker {
        /// What it said.
        message: String,
    },
    /// Text could not be tokenised, or the model's tokenizer is unusable.
    #[error(transparent)]
    Tokenizer(TokenizerError),
    /// The chat template is unusable or failed.
    #[error(transparent)]
    Template(TemplateError),
    /// The key-value cache was refused.
    #[error(transparent)]
    KvCache(#[from] KvCacheError),
    /// A kernel was refused.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// No threads to compute with.
    #[error(transparent)]
    Region(#[from] RegionError),
}

impl From<ModelError> for EngineError {
    fn from(error: ModelError) -> Self {
        match error {
            ModelError::Aborted => Self::Aborted,
            other => Self::Model(Arc::new(other)),
        }
    }
}

impl From<SourceError> for EngineError {
    fn from(error: SourceError) -> Self {
        ModelError::from(error).into()
    }
}

impl From<TokenizerError> for EngineError {
    fn from(error: TokenizerError) -> Self {
        match error {
            TokenizerError::Cancelled => Self::Aborted,
            other => Self::Tokenizer(other),
        }
    }
}

impl From<TemplateError> for EngineError {
    fn from(error: TemplateError) -> Self {
        match error {
            TemplateError::Cancelled => Self::Aborted,
            other => Self::Template(other),
        }
    }
}

impl EngineError {
    /// A stable code that callers may switch on.
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidArgument { .. }
            | Self::NoCandidates { .. }
            | Self::InvalidGrammar { .. }
            | Self::GrammarStuck { .. } => "INVALID_ARGUMENT",
            Self::GrammarLimit { .. } => "GRAMMAR_LIMIT",
            Self::NoToolCalls => "INVALID_TEMPLATE",
            Self::NonFinite { .. } | Self::SavedState { .. } | Self::SavedStateFile { .. } => {
                "INVALID_FILE"
            }
            Self::SavedStateIo { .. } => "IO",
            Self::Panicked { .. } | Self::GrammarFault { .. } => "INTERNAL",
            Self::ContextOverflow { .. } | Self::TextOverflow { .. } => "CONTEXT_OVERFLOW",
            Self::QueueFull { .. } => "QUEUE_FULL",
            Self::Aborted => "ABORTED",
            Self::Disposed => "DISPOSED",
            Self::NoChatTemplate => "INVALID_TEMPLATE",
            Self::MissingFile { .. } => "FILE_NOT_FOUND",
            Self::Thread { .. } | Self::AddressSpace { .. } => "OUT_OF_MEMORY",
            Self::Operator { .. } => "OPERATOR_FAILED",
            Self::BlockRanker { .. } => "RANKER_FAILED",
            Self::Model(error) => error.code(),
            Self::Tokenizer(error) => error.code(),
            Self::Template(error) => error.code(),
            Self::KvCache(error) => error.code(),
            Self::Kernel(error) => error.code(),
            Self::Region(error) => error.code(),
        }
    }

    /// The same error; of a value that is not finite, with the operators that may have made it so.
    pub(crate) fn with_operators(mut self, names: impl Iterator<Item = String>) -> Self {
        if let Self::NonFinite { operators, .. } = &mut self {
            operators.extend(names);
        }
        self
    }

    /// An [`EngineError::InvalidArgument`].
    pub(crate) fn invalid(
        option: &'static str,
        expected: impl Into<String>,
        got: impl std::fmt::Display,
    ) -> Self {
        Self::InvalidArgument {
            option,
            expected: expected.into(),
            got: got.to_string(),
        }
    }
}

/// Where a value came from that is not finite.
fn whence(operators: &[String]) -> String {
    let weights = "the model's weights: its file is damaged, or was made wrongly";
    match operators {
        [] => weights.to_owned(),
        names => format!("what the operators {} gave, or {weights}", names.join(", ")),
    }
}
