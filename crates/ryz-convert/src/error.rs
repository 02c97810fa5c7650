//! Why a model cannot be converted.

use std::{fmt, io, path::PathBuf};

use ryz_format::{DType, FormatError, QuantizeError};
use ryz_source::SourceError;
use ryz_tmac::MemoryError;
use ryz_tokenizer::TokenizerError;

/// Why a model cannot be converted. The target is as it was before.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// A file of the source is malformed or describes a model that is not supported.
    #[error("{}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        source: FormatError,
    },
    /// The source cannot be read.
    #[error(transparent)]
    Read(#[from] MemoryError),
    /// The source's tokenizer is malformed or not supported.
    #[error("{}", path.display())]
    Tokenizer {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        source: TokenizerError,
    },
    /// A tokenizer that works, and that GGUF's keys cannot express.
    #[error("tokenizer.json: {field} has no form in GGUF: {}", QuotedText(got))]
    TokenizerForm {
        /// The field.
        field: &'static str,
        /// What it asks for.
        got: String,
    },
    /// A tokenizer with more tokens than the model.
    #[error("tokenizer.json: expected ids below vocab_size {vocab_size}, got {got} tokens")]
    TooManyTokens {
        /// Rows of the embedding.
        vocab_size: usize,
        /// Tokens there are.
        got: usize,
    },
    /// An option, or two together, cannot be.
    #[error("{option}: expected {expected}, got {got:?}")]
    InvalidOption {
        /// The option.
        option: &'static str,
        /// What it may be.
        expected: &'static str,
        /// What it was.
        got: String,
    },
    /// The quantiser failed, or what it gave cannot be.
    #[error(transparent)]
    Quantizer(#[from] QuantizeError),
    /// The target is there already and was not to be replaced.
    #[error("{}: exists already (--force or overwrite: true replaces it)", path.display())]
    TargetExists {
        /// The target.
        path: PathBuf,
    },
    /// The target is one of the source's own files.
    #[error("{}: is a file of the source", path.display())]
    TargetIsSource {
        /// The target.
        path: PathBuf,
    },
    /// The target names no file.
    #[error("{}: expected a path of a file in a folder that is there, got {found}", path.display())]
    BadTarget {
        /// The target.
        path: PathBuf,
        /// What is there.
        found: &'static str,
    },
    /// The target cannot be written.
    #[error("{}: cannot {action}", path.display())]
    Write {
        /// The target.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A ternary type whose codes are 0, 1, 2 has a 3: a fault of the file.
    #[error(
        "tensor {}: expected codes 0 to 2 in {dtype}, got 3 at row {row}, column {column}",
        QuotedText(name)
    )]
    BadCode {
        /// The tensor.
        name: String,
        /// Its type.
        dtype: DType,
        /// Where.
        row: usize,
        /// Where.
        column: usize,
    },
    /// A weight of +2, which the source's type has and the target's has not.
    #[error(
        "tensor {}: expected weights -1, 0, +1 for {form}, got +2 at row {row}, column {column}",
        QuotedText(name)
    )]
    Unrepresentable {
        /// The tensor.
        name: String,
        /// The type in the target.
        form: DType,
        /// Where.
        row: usize,
        /// Where.
        column: usize,
    },
    /// Weights that share a scale in the target's type have different ones in the source.
    #[error(
        "tensor {}: expected one scale for each {per} of {form}, got {first} and {other} at row {row}",
        QuotedText(name)
    )]
    ScalesDiffer {
        /// The tensor.
        name: String,
        /// The type in the target.
        form: DType,
        /// What shares a scale: "tensor", "block".
        per: &'static str,
        /// Where the scale changes.
        row: usize,
        /// The scale before.
        first: f32,
        /// The scale there.
        other: f32,
    },
    /// A weight or scale that is infinite or not a number, or too large for the target's type.
    #[error(
        "tensor {}: expected finite numbers within {dtype}, got {got} at row {row}",
        QuotedText(name)
    )]
    NotFinite {
        /// The tensor.
        name: String,
        /// The type that cannot hold it.
        dtype: DType,
        /// Where.
        row: usize,
        /// The number.
        got: f32,
    },
    /// Float weights, which were to be refused.
    #[error(
        "tensor {}: expected ternary weights, got {dtype} that are not",
        QuotedText(name)
    )]
    NotTernary {
        /// The tensor.
        name: String,
        /// Its type.
        dtype: DType,
    },
    /// The caller cancelled.
    #[error("cancelled")]
    Aborted,
}

impl From<SourceError> for ConvertError {
    fn from(error: SourceError) -> Self {
        match error {
            SourceError::Format { path, source } => Self::Format { path, source },
            SourceError::Overrides(source) => Self::Format {
                path: "overrides".into(),
                source,
            },
            SourceError::Read(error) => Self::Read(error),
        }
    }
}

impl ConvertError {
    /// The stable code that crosses to TypeScript.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Format { source, .. } => source.code(),
            Self::Read(error) => error.code(),
            Self::Quantizer(error) => error.code(),
            Self::Tokenizer { source, .. } => source.code(),
            Self::TooManyTokens { .. } => "INVALID_TOKENIZER",
            Self::BadCode { .. } | Self::NotFinite { .. } => "INVALID_FILE",
            Self::TokenizerForm { .. }
            | Self::Unrepresentable { .. }
            | Self::ScalesDiffer { .. }
            | Self::NotTernary { .. } => "UNSUPPORTED",
            Self::InvalidOption { .. }
            | Self::TargetExists { .. }
            | Self::TargetIsSource { .. }
            | Self::BadTarget { .. } => "INVALID_ARGUMENT",
            Self::Write { .. } => "IO",
            Self::Aborted => "ABORTED",
        }
    }
}

/// Text out of a file as an error shows it: quoted, escaped, and cut after 80 characters.
struct QuotedText<'a>(&'a str);

impl fmt::Display for QuotedText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.char_indices().nth(80) {
            None => write!(f, "{:?}", self.0),
            Some((end, _)) => write!(f, "{:?}… ({} bytes)", &self.0[..end], self.0.len()),
        }
    }
}
