//! Parses the header: counts, pairs, tensor infos.

use super::{DEFAULT_ALIGNMENT, Gguf, layout, mistaken::mistaken, reader::Reader};
use crate::{Array, FormatError, Metadata, StringArray, Value, error::QuotedText};

/// More than any real file has, yet few enough that their parsed form takes at most twice the
/// file's size.
const MAX_PAIRS: u64 = 1 << 16;
const MAX_TENSORS: u64 = 1 << 17;
/// The format's limit for keys.
const MAX_KEY_BYTES: u64 = 65535;
/// The format's limit for tensor names.
const MAX_NAME_BYTES: u64 = 64;
/// Minimum bytes of a pair (1-byte key, u8) and of a tensor info (1-byte name, no dimension).
const MIN_PAIR_BYTES: u64 = 8 + 1 + 4 + 1;
const MIN_TENSOR_BYTES: u64 = 8 + 1 + 4 + 4 + 8;

/// A raw header, before it is known whether its tensors are supported and lie inside the file.
pub(super) struct Header<'a> {
    pub version: u32,
    pub metadata: Metadata,
    pub tensors: Vec<layout::RawTensor<'a>>,
    pub data_start: u64,
    pub alignment: u64,
}

pub(super) fn parse(prefix: &[u8], file_len: u64) -> Result<Gguf, FormatError> {
    let header = read(prefix, file_len)?;
    let (data_start, alignment) = (header.data_start, header.alignment);
    let tensors = layout::place(&header.tensors, data_start, alignment, file_len)?;
    Ok(Gguf {
        version: header.version,
        metadata: header.metadata,
        tensors,
        data_start,
        alignment,
    })
}

pub(super) fn read(prefix: &[u8], file_len: u64) -> Result<Header<'_>, FormatError> {
    let mut reader = Reader::new(prefix, file_len);
    let magic = reader.bytes::<4>("the magic")?;
    if magic != *b"GGUF" {
        return Err(match mistaken(prefix) {
            Some(is) => FormatError::Mistaken { is },
            None => FormatError::BadMagic { got: magic },
        });
    }
    let version = reader.u32("the version")?;
    if !matches!(version, 2 | 3) {
        return Err(FormatError::BadVersion { got: version });
    }
    let tensor_count = count(&mut reader, "tensor", MAX_TENSORS, MIN_TENSOR_BYTES)?;
    let pair_count = count(&mut reader, "metadata pair", MAX_PAIRS, MIN_PAIR_BYTES)?;

    let mut pairs = Vec::new();
    for _ in 0..pair_count {
        let key = reader.name("a metadata key", MAX_KEY_BYTES)?;
        pairs.push((key.to_owned(), value(&mut reader, key)?));
    }
    let metadata = Metadata::from_pairs(pairs)?;
    let alignment = alignment(&metadata)?;

    let mut tensors = Vec::new();
    for _ in 0..tensor_count {
        tensors.push(tensor(&mut reader)?);
    }
    let data_start = reader
        .offset()
        .checked_next_multiple_of(alignment)
        .unwrap_or(u64::MAX);
    Ok(Header {
        version,
        metadata,
        tensors,
        data_start,
        alignment,
    })
}

/// A count of items of at least `least_bytes` each, for which the file must have room.
fn count(
    reader: &mut Reader<'_>,
    of: &str,
    limit: u64,
    least_bytes: u64,
) -> Result<u64, FormatError> {
    let count = reader.u64(&format!("the {of} count"))?;
    if count > limit {
        return Err(FormatError::LimitExceeded {
            what: format!("the {of} count"),
            limit,
            got: count,
        });
    }
    reader.require(&format!("the {count} {of}s"), count * least_bytes)?;
    Ok(count)
}

fn alignment(metadata: &Metadata) -> Result<u64, FormatError> {
    let key = "general.alignment";
    let alignment = metadata.find_u32(key)?.map_or(DEFAULT_ALIGNMENT, u64::from);
    if alignment < 8 || !alignment.is_power_of_two() {
        return Err(FormatError::KeyValue {
            key: key.to_owned(),
            expected: "a power of two, at least 8".to_owned(),
            got: alignment.to_string(),
        });
    }
    Ok(alignment)
}

fn value(reader: &mut Reader<'_>, key: &str) -> Result<Value, FormatError> {
    let what = &format!("key {}", QuotedText(key));
    let value_type = reader.u32(what)?;
    Ok(match value_type {
        0 => Value::U8(reader.u8(what)?),
        1 => Value::I8(reader.u8(what)?.cast_signed()),
        2 => Value::U16(u16::from_le_bytes(reader.bytes(what)?)),
        3 => Value::I16(i16::from_le_bytes(reader.bytes(what)?)),
        4 => Value::U32(reader.u32(what)?),
        5 => Value::I32(reader.u32(what)?.cast_signed()),
        6 => Value::F32(f32::from_le_bytes(reader.bytes(what)?)),
        7 => Value::Bool(boolean(reader.u8(what)?, key)?),
        8 => Value::String(reader.string(what)?.to_owned()),
        9 => Value::Array(array(reader, key, what)?),
        10 => Value::U64(reader.u64(what)?),
        11 => Value::I64(reader.u64(what)?.cast_signed()),
        12 => Value::F64(f64::from_le_bytes(reader.bytes(what)?)),
        got => {
            return Err(FormatError::BadValueType {
                key: key.to_owned(),
                got,
            });
        }
    })
}

fn boolean(byte: u8, key: &str) -> Result<bool, FormatError> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        got => Err(FormatError::KeyValue {
            key: key.to_owned(),
            expected: "a bool byte 0 or 1".to_owned(),
            got: got.to_string(),
        }),
    }
}

fn array(reader: &mut Reader<'_>, key: &str, what: &str) -> Result<Array, FormatError> {
    let element_type = reader.u32(what)?;
    let count = reader.u64(what)?;

    /// Takes `count` elements of N bytes; checks the length before allocating.
    fn elements<const N: usize, T>(
        reader: &mut Reader<'_>,
        what: &str,
        count: u64,
        read: impl Fn([u8; N]) -> T,
    ) -> Result<Vec<T>, FormatError> {
        let bytes = reader.take(what, count.saturating_mul(N as u64))?;
        Ok(bytes
            .as_chunks::<N>()
            .0
            .iter()
            .map(|chunk| read(*chunk))
            .collect())
    }

    Ok(match element_type {
        0 => Array::U8(elements(reader, what, count, u8::from_le_bytes)?),
        1 => Array::I8(elements(reader, what, count, i8::from_le_bytes)?),
        2 => Array::U16(elements(reader, what, count, u16::from_le_bytes)?),
        3 => Array::I16(elements(reader, what, count, i16::from_le_bytes)?),
        4 => Array::U32(elements(reader, what, count, u32::from_le_bytes)?),
        5 => Array::I32(elements(reader, what, count, i32::from_le_bytes)?),
        6 => Array::F32(elements(reader, what, count, f32::from_le_bytes)?),
        7 => {
            let bytes = reader.take(what, count)?;
            Array::Bool(
                bytes
                    .iter()
                    .map(|&byte| boolean(byte, key))
                    .collect::<Result<_, _>>()?,
            )
        }
        8 => Array::Strings(strings(reader, what, count)?),
        9 => {
            return Err(FormatError::NestedArray {
                key: key.to_owned(),
            });
        }
        10 => Array::U64(elements(reader, what, count, u64::from_le_bytes)?),
        11 => Array::I64(elements(reader, what, count, i64::from_le_bytes)?),
        12 => Array::F64(elements(reader, what, count, f64::from_le_bytes)?),
        got => {
            return Err(FormatError::BadValueType {
                key: key.to_owned(),
                got,
            });
        }
    })
}

/// Reads the strings twice: first for their total length, so that the second pass allocates
/// exactly.
fn strings(reader: &mut Reader<'_>, what: &str, count: u64) -> Result<StringArray, FormatError> {
    reader.require(what, count.saturating_mul(8))?;
    let mut ahead = reader.fork();
    let mut bytes = 0;
    for _ in 0..count {
        bytes += ahead.string(what)?.len() as u64;
    }
    let limit = u64::from(u32::MAX);
    if bytes > limit {
        return Err(FormatError::LimitExceeded {
            what: format!("text of {what}"),
            limit,
            got: bytes,
        });
    }
    let mut array = StringArray::with_capacity(count as usize, bytes as usize);
    for _ in 0..count {
        array.push(reader.string(what)?);
    }
    Ok(array)
}

fn tensor<'a>(reader: &mut Reader<'a>) -> Result<layout::RawTensor<'a>, FormatError> {
    let name = reader.name("a tensor name", MAX_NAME_BYTES)?;
    let what = &format!("tensor {}", QuotedText(name));
    let rank = reader.u32(what)?;
    let bad_shape = |expected: &str, got: u64| FormatError::BadShape {
        name: name.to_owned(),
        expected: expected.to_owned(),
        got: got.to_string(),
    };
    if rank > 4 {
        return Err(bad_shape("at most 4 dimensions", rank.into()));
    }
    let mut dims = [1u64; 4];
    for dim in &mut dims[..rank as usize] {
        *dim = reader.u64(what)?;
        if *dim == 0 || i64::try_from(*dim).is_err() {
            return Err(bad_shape("dimensions 1 to 2^63 - 1", *dim));
        }
    }
    let type_id = reader.u32(what)?;
    let offset = reader.u64(what)?;
    Ok(layout::RawTensor {
        name,
        rank: rank as usize,
        dims,
        type_id,
        offset,
    })
}
