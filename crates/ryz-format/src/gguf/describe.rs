//! A file's contents, whether or not its tensors are supported.

use super::{Gguf, header, types::type_name};
use crate::{FormatError, Metadata};

/// A header that only needs to be well formed.
#[derive(Debug)]
#[non_exhaustive]
pub struct Description {
    /// The key–value pairs.
    pub metadata: Metadata,
    /// The tensors, in the header's order.
    pub tensors: Vec<TensorDescription>,
    /// Why its tensors are not supported.
    pub fault: Option<FormatError>,
}

/// A tensor of any type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorDescription {
    /// The name.
    pub name: String,
    /// The type's name.
    pub dtype: String,
    /// All dimensions in the file's order, contiguous dimension first.
    pub shape: Vec<u64>,
    /// Its size in bytes; for types with unknown blocks, the bytes up to the next tensor.
    pub bytes: u64,
}

impl Description {
    /// Describes the file that starts with `prefix` and has `file_len` bytes in total.
    ///
    /// # Errors
    /// As [`Gguf::parse`], except for tensor types.
    pub fn parse(prefix: &[u8], file_len: u64) -> Result<Description, FormatError> {
        let fault = match Gguf::parse(prefix, file_len) {
            Ok(gguf) => {
                return Ok(Description {
                    metadata: gguf.metadata,
                    tensors: gguf
                        .tensors
                        .into_iter()
                        .map(|tensor| TensorDescription {
                            name: tensor.name,
                            dtype: tensor.dtype.name().to_owned(),
                            shape: tensor.shape,
                            bytes: tensor.bytes,
                        })
                        .collect(),
                    fault: None,
                });
            }
            Err(fault @ FormatError::UnsupportedType { .. }) => fault,
            Err(error) => return Err(error),
        };
        let header = header::read(prefix, file_len)?;
        let data_len = file_len.saturating_sub(header.data_start);
        let mut starts: Vec<u64> = header.tensors.iter().map(|tensor| tensor.offset).collect();
        starts.sort_unstable();
        let tensors = header.tensors.iter().map(|tensor| {
            let next = starts.partition_point(|&start| start <= tensor.offset);
            let end = starts.get(next).copied().unwrap_or(data_len);
            TensorDescription {
                name: tensor.name.to_owned(),
                dtype: type_name(tensor.type_id),
                shape: tensor.dims[..tensor.rank].to_vec(),
                bytes: (tensor.bytes()).unwrap_or(end.saturating_sub(tensor.offset)),
            }
        });
        Ok(Description {
            tensors: tensors.collect(),
            metadata: header.metadata,
            fault: Some(fault),
        })
    }
}
