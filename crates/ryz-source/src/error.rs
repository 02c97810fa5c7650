use std::path::{Path, PathBuf};

use ryz_format::FormatError;
use ryz_tmac::MemoryError;

/// Why a model's files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
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
    /// A file cannot be opened or read.
    #[error(transparent)]
    Read(#[from] MemoryError),
}

impl SourceError {
    /// A stable code that callers may switch on.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Format { source, .. } => source.code(),
            Self::Overrides(_) => "INVALID_ARGUMENT",
            Self::Read(error) => error.code(),
        }
    }
}

/// Wraps a fault of the file at `path`.
pub(crate) fn at(path: &Path) -> impl Fn(FormatError) -> SourceError {
    let path = path.to_owned();
    move |source| SourceError::Format {
        path: path.clone(),
        source,
    }
}
