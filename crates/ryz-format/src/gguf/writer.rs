//! Writes GGUF version 3: declare pairs and tensors, then stream the data.

use std::io::Write;

use super::DEFAULT_ALIGNMENT;
use crate::{Array, DType, FormatError, Value};

/// Collects a file's pairs and tensor declarations; [`GgufWriter::start`] writes them and then
/// accepts the data.
///
/// The alignment is 32, or the value of the pair `general.alignment` (a u32).
#[derive(Clone, Debug, Default)]
pub struct GgufWriter {
    pairs: Vec<(String, Value)>,
    tensors: Vec<TensorDeclaration>,
}

#[derive(Clone, Debug)]
struct TensorDeclaration {
    name: String,
    type_id: u32,
    shape: Vec<u64>,
    bytes: u64,
}

impl GgufWriter {
    /// An empty writer.
    pub fn new() -> GgufWriter {
        GgufWriter::default()
    }

    /// Appends a pair.
    ///
    /// # Errors
    ///
    /// [`FormatError::DuplicateKey`].
    pub fn push(&mut self, key: &str, value: Value) -> Result<&mut GgufWriter, FormatError> {
        if self.pairs.iter().any(|(existing, _)| existing == key) {
            return Err(FormatError::DuplicateKey {
                key: key.to_owned(),
            });
        }
        self.pairs.push((key.to_owned(), value));
        Ok(self)
    }

    /// Declares the next tensor, with `shape` in the file's order, contiguous dimension first.
    ///
    /// # Errors
    /// [`FormatError::BadShape`] when the shape is invalid for the type;
    /// [`FormatError::UnsupportedType`] for a type that GGUF lacks;
    /// [`FormatError::DuplicateTensor`].
    pub fn declare(
        &mut self,
        name: &str,
        dtype: DType,
        shape: &[u64],
    ) -> Result<&mut GgufWriter, FormatError> {
        if self.tensors.iter().any(|tensor| tensor.name == name) {
            return Err(FormatError::DuplicateTensor {
                name: name.to_owned(),
            });
        }
        let Some(type_id) = dtype.gguf_id() else {
            return Err(super::layout::unsupported(name, dtype.name().to_owned()));
        };
        let cols = shape.first().copied().unwrap_or(1);
        let rows = shape
            .iter()
            .skip(1)
            .try_fold(1u64, |product, &dim| product.checked_mul(dim));
        let bytes =
            rows.and_then(|rows| dtype.tensor_bytes(rows.try_into().ok()?, cols.try_into().ok()?));
        match bytes {
            Some(bytes) if shape.len() <= 4 && !shape.contains(&0) => {
                self.tensors.push(TensorDeclaration {
                    name: name.to_owned(),
                    type_id,
                    shape: shape.to_vec(),
                    bytes,
                });
                Ok(self)
            }
            _ => Err(FormatError::BadShape {
                name: name.to_owned(),
                expected: format!(
                    "1 to 4 dimensions in rows of whole {dtype} blocks of {}",
                    dtype.block_values()
                ),
                got: format!("{shape:?}"),
            }),
        }
    }

    /// Writes the header and its padding; the tensors' data follow in declaration order.
    ///
    /// # Errors
    /// [`FormatError::Write`] when `out` fails; [`FormatError::KeyValue`] when `general.alignment`
    /// is not a u32 power of two of at least 8.
    pub fn start<W: Write>(self, out: W) -> Result<GgufBody<W>, FormatError> {
        let alignment = match self
            .pairs
            .iter()
            .find(|(key, _)| key == "general.alignment")
        {
            None => DEFAULT_ALIGNMENT,
            Some((_, Value::U32(alignment))) if *alignment >= 8 && alignment.is_power_of_two() => {
                (*alignment).into()
            }
            Some((key, value)) => {
                return Err(FormatError::KeyValue {
                    key: key.clone(),
                    expected: "a power of two, at least 8, as u32".to_owned(),
                    got: format!("{value:?}"),
                });
            }
        };
        let mut header = b"GGUF".to_vec();
        header.extend(3u32.to_le_bytes());
        header.extend((self.tensors.len() as u64).to_le_bytes());
        header.extend((self.pairs.len() as u64).to_le_bytes());
        for (key, value) in &self.pairs {
            put_string(&mut header, key);
            put_value(&mut header, value);
        }
        let mut offset = 0u64;
        for tensor in &self.tensors {
            put_string(&mut header, &tensor.name);
            header.extend((tensor.shape.len() as u32).to_le_bytes());
            tensor
                .shape
                .iter()
                .for_each(|dim| header.extend(dim.to_le_bytes()));
            header.extend(tensor.type_id.to_le_bytes());
            header.extend(offset.to_le_bytes());
            offset = offset
                .checked_add(tensor.bytes)
                .and_then(|end| end.checked_next_multiple_of(alignment))
                .ok_or_else(|| FormatError::BadShape {
                    name: tensor.name.clone(),
                    expected: "fewer than 2^64 bytes in all".to_owned(),
                    got: format!("{:?}", tensor.shape),
                })?;
        }
        let mut body = GgufBody {
            out,
            tensors: self.tensors,
            alignment,
            current: 0,
            written: 0,
        };
        body.put("the header", &header)?;
        body.pad(header.len() as u64)?;
        Ok(body)
    }
}

/// A GGUF file with its header written, which accepts the tensors' data in declaration order.
#[derive(Debug)]
pub struct GgufBody<W: Write> {
    out: W,
    tensors: Vec<TensorDeclaration>,
    alignment: u64,
    /// The current tensor, and how many of its bytes are written.
    current: usize,
    written: u64,
}

impl<W: Write> GgufBody<W> {
    /// Writes the whole next tensor.
    ///
    /// # Errors
    /// [`FormatError::ByteCount`] when the length of `bytes` differs from the declaration;
    /// [`FormatError::Write`].
    ///
    /// # Panics
    /// When `name` is not the next tensor, or when that tensor is already partly written.
    pub fn tensor(&mut self, name: &str, bytes: &[u8]) -> Result<(), FormatError> {
        let next = &self.tensors[self.current];
        assert_eq!(
            (next.name.as_str(), self.written),
            (name, 0),
            "tensors are written in the order declared"
        );
        if next.bytes != bytes.len() as u64 {
            return Err(FormatError::ByteCount {
                name: name.to_owned(),
                expected: next.bytes,
                got: bytes.len() as u64,
            });
        }
        self.append(bytes)
    }

    /// Writes more bytes of the current tensor; once it is complete, pads it and continues with the
    /// next.
    ///
    /// # Errors
    /// [`FormatError::ByteCount`] when they exceed the rest of the tensor; [`FormatError::Write`].
    ///
    /// # Panics
    /// When all tensors are complete.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), FormatError> {
        let tensor = &self.tensors[self.current];
        let (written, declared) = (self.written + bytes.len() as u64, tensor.bytes);
        if written > declared {
            return Err(FormatError::ByteCount {
                name: tensor.name.clone(),
                expected: declared,
                got: written,
            });
        }
        self.put("tensor data", bytes)?;
        self.written = written;
        if written == declared {
            self.pad(declared)?;
            self.current += 1;
            self.written = 0;
        }
        Ok(())
    }

    /// Flushes and returns the sink.
    ///
    /// # Errors
    /// [`FormatError::MissingTensor`] when a declared tensor was not written;
    /// [`FormatError::Write`].
    pub fn finish(mut self) -> Result<W, FormatError> {
        if let Some(tensor) = self.tensors.get(self.current) {
            return Err(FormatError::MissingTensor {
                name: tensor.name.clone(),
            });
        }
        self.out.flush().map_err(|source| FormatError::Write {
            what: "the file's end",
            source,
        })?;
        Ok(self.out)
    }

    fn put(&mut self, what: &'static str, bytes: &[u8]) -> Result<(), FormatError> {
        self.out
            .write_all(bytes)
            .map_err(|source| FormatError::Write { what, source })
    }

    fn pad(&mut self, len: u64) -> Result<(), FormatError> {
        const ZEROS: [u8; 256] = [0; 256];
        let mut missing = (self.alignment - len % self.alignment) % self.alignment;
        while missing > 0 {
            let some = missing.min(ZEROS.len() as u64);
            self.put("padding", &ZEROS[..some as usize])?;
            missing -= some;
        }
        Ok(())
    }
}

fn put_string(out: &mut Vec<u8>, string: &str) {
    out.extend((string.len() as u64).to_le_bytes());
    out.extend(string.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    macro_rules! put {
        ($id:expr, $v:expr) => {{
            out.extend(u32::to_le_bytes($id));
            out.extend($v.to_le_bytes());
        }};
    }
    match value {
        Value::U8(v) => put!(0, v),
        Value::I8(v) => put!(1, v),
        Value::U16(v) => put!(2, v),
        Value::I16(v) => put!(3, v),
        Value::U32(v) => put!(4, v),
        Value::I32(v) => put!(5, v),
        Value::F32(v) => put!(6, v),
        Value::Bool(v) => put!(7, u8::from(*v)),
        Value::String(v) => {
            out.extend(8u32.to_le_bytes());
            put_string(out, v);
        }
        Value::Array(v) => {
            out.extend(9u32.to_le_bytes());
            put_array(out, v);
        }
        Value::U64(v) => put!(10, v),
        Value::I64(v) => put!(11, v),
        Value::F64(v) => put!(12, v),
    }
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    macro_rules! put {
        ($id:expr, $v:expr) => {{
            out.extend(u32::to_le_bytes($id));
            out.extend(($v.len() as u64).to_le_bytes());
            $v.iter().for_each(|x| out.extend(x.to_le_bytes()));
        }};
    }
    match array {
        Array::U8(v) => put!(0, v),
        Array::I8(v) => put!(1, v),
        Array::U16(v) => put!(2, v),
        Array::I16(v) => put!(3, v),
        Array::U32(v) => put!(4, v),
        Array::I32(v) => put!(5, v),
        Array::F32(v) => put!(6, v),
        Array::Bool(v) => {
            out.extend(7u32.to_le_bytes());
            out.extend((v.len() as u64).to_le_bytes());
            out.extend(v.iter().map(|&b| u8::from(b)));
        }
        Array::Strings(v) => {
            out.extend(8u32.to_le_bytes());
            out.extend((v.len() as u64).to_le_bytes());
            v.iter().for_each(|s| put_string(out, s));
        }
        Array::U64(v) => put!(10, v),
        Array::I64(v) => put!(11, v),
        Array::F64(v) => put!(12, v),
    }
}
