//! Conversion errors.

use std::{fmt, io, path::PathBuf};

use ryz_format::{DType, FormatError, QuantizeError};
use ryz_source::SourceError;
use ryz_tmac::MemoryError;
use ryz_tokenizer::TokenizerError;

/// Why a conversion failed. The target is unchanged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// A source file is malformed or describes an unsupported model.
    #[error("{}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The fault.
        source: FormatError,
    },
    /// The source cannot be read.
    #[error(transparent)]
    Read(#[from] MemoryError),
    /// The source's tokenizer is malformed or unsupported.
    #[error("{}", path.display())]
    Tokenizer {
        /// The folder.
        path: PathBuf,
        /// The fault.
        source: TokenizerError,
    },
    /// A valid tokenizer that GGUF's keys cannot express.
    #[error("tokenizer.json: {field} has no form in GGUF: {}", QuotedText(got))]
    TokenizerForm {
        /// The field.
        field: &'static str,
        /// The requested value.
        got: String,
    },
    /// The tokenizer has more tokens than the model.
    #[error("tokenizer.json: expected ids below vocab_size {vocab_size}, got {got} tokens")]
    TooManyTokens {
        /// Rows of the embedding.
        vocab_size: usize,
        /// Number of tokens.
        got: usize,
    },
    /// An option is invalid, or two options exclude each other.
    #[error("{option}: expected {expected}, got {got:?}")]
    InvalidOption {
        /// The option.
        option: &'static str,
        /// The allowed value.
        expected: &'static str,
        /// The actual value.
        got: String,
    },
    /// The quantizer failed or returned an invalid result.
    #[error(transparent)]
    Quantizer(#[from] QuantizeError),
    /// The target exists and must not be replaced.
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
    /// The target path does not name a file.
    #[error("{}: expected a path of a file in a folder that is there, got {found}", path.display())]
    BadTarget {
        /// The target.
        path: PathBuf,
        /// What exists at the path.
        found: &'static str,
    },
    /// The target cannot be written.
    #[error("{}: cannot {action}", path.display())]
    Write {
        /// The target.
        path: PathBuf,
        /// The attempted action.
        action: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// A code 3 in a ternary type that has only 0, 1, 2; the file is invalid.
    #[error(
        "tensor {}: expected codes 0 to 2 in {dtype}, got 3 at row {row}, column {column}",
        QuotedText(name)
    )]
    BadCode {
        /// The tensor.
        name: String,
        /// Its type.
        dtype: DType,
        /// Its row.
        row: usize,
        /// Its column.
        column: usize,
    },
    /// A weight of +2, which the source's type can hold and the target's cannot.
    #[error(
        "tensor {}: expected weights -1, 0, +1 for {form}, got +2 at row {row}, column {column}",
        QuotedText(name)
    )]
    Unrepresentable {
        /// The tensor.
        name: String,
        /// The type in the target.
        form: DType,
        /// Its row.
        row: usize,
        /// Its column.
        column: usize,
    },
    /// Weights that share a scale in the target's type have different scales in the source.
    #[error(
        "tensor {}: expected one scale for each {per} of {form}, got {first} and {other} at row {row}",
        QuotedText(name)
    )]
    ScalesDiffer {
        /// The tensor.
        name: String,
        /// The type in the target.
        form: DType,
        /// The unit that shares a scale: "tensor", "block".
        per: &'static str,
        /// The row where the scale changes.
        row: usize,
        /// The first scale.
        first: f32,
        /// The scale at that row.
        other: f32,
    },
    /// A weight or scale that is not finite, or too large for the target's type.
    #[error(
        "tensor {}: expected finite numbers within {dtype}, got {got} at row {row}",
        QuotedText(name)
    )]
    NotFinite {
        /// The tensor.
        name: String,
        /// The type that cannot hold it.
        dtype: DType,
        /// Its row.
        row: usize,
        /// The value.
        got: f32,
    },
    /// Float weights, which the options refuse.
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
    /// The stable error code passed to TypeScript.
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

/// Text from a file, formatted for an error: quoted, escaped, and cut after 80 characters.
struct QuotedText<'a>(&'a str);

impl fmt::Display for QuotedText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.char_indices().nth(80) {
            None => write!(f, "{:?}", self.0),
            Some((end, _)) => write!(f, "{:?}… ({} bytes)", &self.0[..end], self.0.len()),
        }
    }
}
