//! The header of a safetensors file: a length, that many bytes of JSON, then only the listed
//! tensors.

use std::collections::HashSet;

use safetensors::tensor::{Dtype, Metadata as Table, TensorInfo as Entry};
use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny, MapAccess, Visitor},
};

use super::{ShardIndex, names};
use crate::{DType, FormatError, Metadata, ModelHeader, TensorInfo, gguf::mistaken::mistaken};

/// Headers of real files are below a tenth of this.
const MAX_HEADER_BYTES: u64 = 16 << 20;
const MAX_TENSORS: usize = 1 << 17;

/// The tensors of one safetensors file, checked against the file's length.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Safetensors {
    /// The tensors under their Hugging Face names, in the order of their data.
    tensors: Vec<(String, Entry)>,
    /// Offset of the data in bytes from the start of the file.
    pub data_start: u64,
}

impl Safetensors {
    /// Parses the header from a prefix of a file with `file_len` bytes in total.
    ///
    /// The tensors must fill the rest of the file without gaps or overlaps, as the format requires.
    ///
    /// # Errors
    /// [`FormatError::Incomplete`] as for [`crate::Gguf::parse`]; otherwise the file's fault.
    pub fn parse(prefix: &[u8], file_len: u64) -> Result<Safetensors, FormatError> {
        let header = header(prefix, file_len)?;
        let data_start = 8 + header.len() as u64;
        // The format requires the object to begin at once; spaces may follow it.
        if header[0] != b'{' {
            let source = Error::custom("expected the header to begin with an object");
            return Err(FormatError::Json {
                what: "safetensors header",
                source,
            });
        }
        let Entries(mut tensors) =
            serde_json::from_slice(header).map_err(|source| FormatError::Json {
                what: "safetensors header",
                source,
            })?;
        for (name, entry) in &tensors {
            // A dimension of 0 must not hide invalid other dimensions.
            let count = entry
                .shape
                .iter()
                .filter(|&&dim| dim > 0)
                .try_fold(1usize, |n, &dim| n.checked_mul(dim));
            if count.is_none_or(|count| i64::try_from(count).is_err()) {
                return Err(FormatError::BadShape {
                    name: name.clone(),
                    expected: "fewer than 2^63 elements".to_owned(),
                    got: shape_text(&entry.shape),
                });
            }
        }
        tensors.sort_by_key(|(_, entry)| entry.data_offsets);
        let table = Table::new(None, tensors.clone())
            .map_err(|source| FormatError::Safetensors { source })?;
        let (expected, got) = (table.data_len() as u64, file_len - data_start);
        if expected > got {
            return Err(FormatError::OutOfFile {
                name: "(all tensors)".to_owned(),
                offset: 0,
                bytes: expected,
                file_len,
                needed: data_start.saturating_add(expected),
            });
        }
        if expected < got {
            return Err(FormatError::ByteCount {
                name: "(all tensors)".to_owned(),
                expected,
                got,
            });
        }
        Ok(Safetensors {
            tensors,
            data_start,
        })
    }

    /// The names in the file, with its type and shape notation, and bytes, in data order.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = (&str, String, &[usize], u64)> {
        self.tensors.iter().map(|(name, entry)| {
            let (start, end) = entry.data_offsets;
            (
                name.as_str(),
                format!("{:?}", entry.dtype),
                entry.shape.as_slice(),
                (end - start) as u64,
            )
        })
    }
}

impl ModelHeader {
    /// Merges the safetensors files of a model under GGUF's names
    /// (`model.layers.0.self_attn.q_proj.weight` is `blk.0.attn_q.weight`, its `weight_scale` is
    /// `blk.0.attn_q.scale`), in the order of [`ShardIndex::files`]; a model in one file is a list
    /// of one, with or without an index.
    ///
    /// A linear layer's uint8 weights are [`DType::HfPacked`]. The metadata are empty.
    ///
    /// # Errors
    /// [`FormatError::MissingTensor`] when the index places a tensor in a shard that lacks it;
    /// [`FormatError::DuplicateTensor`]; [`FormatError::UnsupportedType`];
    /// [`FormatError::BadShape`] for more than two dimensions, or a dimension of 0.
    pub fn from_safetensors(
        parts: &[Safetensors],
        index: Option<&ShardIndex>,
    ) -> Result<ModelHeader, FormatError> {
        if let Some(index) = index {
            if index.files.len() != parts.len() {
                let (expected, got) = (index.files.len() as u64, parts.len() as u64);
                return Err(FormatError::BadSplit {
                    part: 0,
                    what: "shards",
                    expected,
                    got,
                });
            }
            let held =
                |part: &'_ Safetensors| part.tensors.iter().map(|(name, _)| name.clone()).collect();
            let held: Vec<HashSet<String>> = parts.iter().map(held).collect();
            for (name, &shard) in &index.tensors {
                if !held[shard].contains(name) {
                    return Err(FormatError::MissingTensor { name: name.clone() });
                }
            }
        }
        let mut tensors = Vec::new();
        for (shard, part) in parts.iter().enumerate() {
            for (name, entry) in part
                .tensors
                .iter()
                .filter(|(name, _)| !names::is_unused(name))
            {
                tensors.push(info(name, entry, part.data_start, shard)?);
            }
        }
        ModelHeader::new(Metadata::default(), tensors, parts.len())
    }
}

/// The header's bytes; at least one.
fn header(prefix: &[u8], file_len: u64) -> Result<&[u8], FormatError> {
    let got = prefix.len() as u64;
    let need = |what: &str, offset: u64, bytes: u64| {
        if offset + bytes > file_len {
            let what = what.to_owned();
            return Err(FormatError::Truncated {
                what,
                offset,
                expected: bytes,
                got: file_len - offset,
            });
        }
        if offset + bytes > got {
            return Err(FormatError::Incomplete {
                needed: offset + bytes,
                got,
            });
        }
        Ok(())
    };
    need("the header's length", 0, 8)?;
    let len = u64::from_le_bytes(*prefix.first_chunk().expect("8 bytes are there"));
    // The first 16 bytes of a valid header match none of these.
    if let Some(is) = mistaken(prefix).filter(|_| prefix.get(8) != Some(&b'{')) {
        return Err(FormatError::Mistaken { is });
    }
    if len > MAX_HEADER_BYTES {
        let what = "the safetensors header's length".to_owned();
        return Err(FormatError::LimitExceeded {
            what,
            limit: MAX_HEADER_BYTES,
            got: len,
        });
    }
    need("the header", 8, len.max(2))?;
    Ok(&prefix[8..8 + len.max(1) as usize])
}

/// One tensor, under GGUF's name.
fn info(
    name: &str,
    entry: &Entry,
    data_start: u64,
    shard: usize,
) -> Result<TensorInfo, FormatError> {
    let name = names::to_gguf(name).unwrap_or_else(|| name.to_owned());
    let dtype = match entry.dtype {
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::U8 if names::is_linear(&name) => DType::HfPacked,
        other => {
            return Err(FormatError::UnsupportedType {
                name,
                expected: "F32, F16, BF16, and U8 for a linear layer's packed weights".to_owned(),
                got: format!("{other:?}"),
            });
        }
    };
    let bad_shape = |expected: &str| FormatError::BadShape {
        name: name.clone(),
        expected: expected.to_owned(),
        got: shape_text(&entry.shape),
    };
    let (rows, cols) = match *entry.shape {
        [] => (1, 1),
        [len] => (1, len),
        [rows, cols] => (rows, cols),
        _ => return Err(bad_shape("at most 2 dimensions")),
    };
    let packed = if dtype == DType::HfPacked { 4 } else { 1 };
    let rows = rows
        .checked_mul(packed)
        .ok_or_else(|| bad_shape("fewer rows"))?;
    let (start, end) = entry.data_offsets;
    let bytes = (end - start) as u64;
    if rows == 0 || cols == 0 || dtype.tensor_bytes(rows, cols) != Some(bytes) {
        return Err(bad_shape("dimensions of at least 1"));
    }
    let shape = if entry.shape.len() == 2 {
        vec![cols as u64, rows as u64]
    } else {
        vec![cols as u64]
    };
    Ok(TensorInfo {
        name,
        dtype,
        rows,
        cols,
        shape,
        offset: data_start + start as u64,
        bytes,
        shard,
    })
}

fn shape_text(shape: &[usize]) -> String {
    let shown = shape
        .iter()
        .take(8)
        .map(usize::to_string)
        .collect::<Vec<_>>()
        .join(" × ");
    if shape.len() > 8 {
        format!("{shown} … ({} dimensions)", shape.len())
    } else {
        shown
    }
}

/// The header's entries except `__metadata__`, without duplicate names. The crate's own type
/// silently keeps the last duplicate.
struct Entries(Vec<(String, Entry)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Entries, D::Error> {
        struct Header;
        impl<'de> Visitor<'de> for Header {
            type Value = Entries;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut tensors: Vec<(String, Entry)> = Vec::new();
                let mut metadata = false;
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        if std::mem::replace(&mut metadata, true) {
                            return Err(Error::custom("__metadata__ occurs twice"));
                        }
                        map.next_value::<StringMap>()?;
                    } else if tensors.len() == MAX_TENSORS {
                        return Err(Error::custom("more tensors than any model has"));
                    } else {
                        tensors.push((name, map.next_value()?));
                    }
                }
                let mut names = HashSet::with_capacity(tensors.len());
                match tensors.iter().find(|(name, _)| !names.insert(name)) {
                    Some(_) => Err(Error::custom("a tensor occurs twice")),
                    None => Ok(Entries(tensors)),
                }
            }
        }
        deserializer.deserialize_map(Header)
    }
}

/// An unused map of strings to strings.
struct StringMap;

impl<'de> Deserialize<'de> for StringMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<StringMap, D::Error> {
        struct Strings;
        impl<'de> Visitor<'de> for Strings {
            type Value = StringMap;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a map of strings to strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<StringMap, A::Error> {
                while map.next_entry::<IgnoredAny, String>()?.is_some() {}
                Ok(StringMap)
            }
        }
        deserializer.deserialize_map(Strings)
    }
}
