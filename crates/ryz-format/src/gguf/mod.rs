//! GGUF, versions 2 and 3, little endian: the header of one file, and of a model in several files.
//!
//! ```text
//! "GGUF"  version u32  tensor count u64  pair count u64
//! pairs:   key string, value type u32, value          (string = length u64, bytes)
//! tensors: name string, rank u32, dims u64…, type u32, offset u64 (from the start of the data)
//! padding to general.alignment (default 32), then the data
//! ```

mod describe;
mod header;
mod layout;
pub(crate) mod mistaken;
mod reader;
mod split;
mod types;
mod writer;

pub use describe::{Description, TensorDescription};
pub use layout::TensorInfo;
pub use split::{ModelHeader, SplitInfo, part_paths, split_paths};
pub use types::{GgmlType, type_name};
pub use writer::{GgufBody, GgufWriter};

use crate::{FormatError, Metadata};

/// The default alignment of tensor data.
pub const DEFAULT_ALIGNMENT: u64 = 32;

/// The header of one GGUF file, checked against the file's length.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Gguf {
    /// 2 or 3.
    pub version: u32,
    /// The key–value pairs.
    pub metadata: Metadata,
    /// The tensors, in the header's order.
    pub tensors: Vec<TensorInfo>,
    /// Offset of the data section in bytes from the start of the file.
    pub data_start: u64,
    /// Alignment of tensor offsets.
    pub alignment: u64,
}

impl Gguf {
    /// Parses the header from a prefix of a file with `file_len` bytes in total.
    ///
    /// All tensor offsets and sizes are checked against `file_len`, so callers can read each
    /// tensor's `offset..offset + bytes` without further checks. No allocation is sized by a count
    /// that the file's length does not support.
    ///
    /// # Errors
    /// [`FormatError::Incomplete`] when the prefix ends inside the header and is shorter than the
    /// file ([`FormatError::is_incomplete`]: read more and call again); otherwise the file's fault.
    pub fn parse(prefix: &[u8], file_len: u64) -> Result<Gguf, FormatError> {
        header::parse(prefix, file_len)
    }
}
