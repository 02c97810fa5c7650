//! All faults of model files, each with its location, the expected value and the actual value.

use std::{fmt, io};

/// A fault of a model file, or a feature that is not supported.
///
/// This crate does not know the file's path; callers add it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The prefix is shorter than the header; call again with at least `needed` bytes.
    #[error("header continues past the {got} bytes given: at least {needed} are needed")]
    Incomplete {
        /// Bytes from the start of the file that are needed to continue.
        needed: u64,
        /// Bytes provided.
        got: u64,
    },
    /// The file is truncated.
    #[error(
        "file ends inside {what}: expected {expected} bytes at offset {offset}, got {got}: the file is incomplete, download it again"
    )]
    Truncated {
        /// The item being read.
        what: String,
        /// The item's offset.
        offset: u64,
        /// The item's size.
        expected: u64,
        /// Bytes left in the file.
        got: u64,
    },
    /// The first four bytes are not `GGUF`.
    #[error("not a GGUF file: expected magic \"GGUF\", got {}", QuotedText(&String::from_utf8_lossy(got)))]
    BadMagic {
        /// The first four bytes.
        got: [u8; 4],
    },
    /// A recognized file of another kind.
    #[error("not a model: the file is {is}")]
    Mistaken {
        /// Its kind, and what to do.
        is: &'static str,
    },
    /// The version is not 2 or 3.
    #[error("GGUF version: expected 2 or 3 (little endian), got {got:#x}")]
    BadVersion {
        /// The version field.
        got: u32,
    },
    /// A count or length exceeds a limit that no real file reaches.
    #[error("{what}: expected at most {limit}, got {got}")]
    LimitExceeded {
        /// The counted item.
        what: String,
        /// The limit.
        limit: u64,
        /// The count in the file.
        got: u64,
    },
    /// Text that is not UTF-8, or that is empty where a name is required.
    #[error("{what} at offset {offset} is not {expected}")]
    BadText {
        /// The item being read.
        what: String,
        /// Offset of its bytes.
        offset: u64,
        /// The expected content.
        expected: &'static str,
    },
    /// A key occurs twice.
    #[error("key {} occurs twice", QuotedText(key))]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// A value's type id is not one of GGUF's.
    #[error("key {}: expected a value type 0 to 12, got {got:#x}", QuotedText(key))]
    BadValueType {
        /// The key.
        key: String,
        /// The type id.
        got: u32,
    },
    /// An array of arrays.
    #[error("key {}: nested arrays are not supported", QuotedText(key))]
    NestedArray {
        /// The key.
        key: String,
    },
    /// A required key or field is missing.
    #[error("key {} is missing", QuotedText(key))]
    MissingKey {
        /// The key.
        key: String,
    },
    /// A value has the wrong type.
    #[error("key {}: expected {expected}, got {got}", QuotedText(key))]
    KeyType {
        /// The key.
        key: String,
        /// The required type.
        expected: &'static str,
        /// The type in the file.
        got: &'static str,
    },
    /// A value has the right type but is invalid.
    #[error(
        "key {}: expected {expected}, got {}",
        QuotedText(key),
        QuotedText(got)
    )]
    KeyValue {
        /// The key.
        key: String,
        /// The allowed value.
        expected: String,
        /// The value in the file.
        got: String,
    },
    /// A well-formed value that requests an unimplemented feature.
    #[error("{} is not supported: got {}", QuotedText(key), QuotedText(got))]
    UnsupportedValue {
        /// The key or field.
        key: String,
        /// The value in the file.
        got: String,
    },
    /// An unknown key of the architecture, which may change the result.
    #[error(
        "key {} is not known and may change what the model computes: where it does not, the override null leaves it out",
        QuotedText(key)
    )]
    UnknownKey {
        /// The key.
        key: String,
    },
    /// Sliding-window attention with a context longer than the window.
    #[error(
        "{} is not supported below the context of {context}: got {window} (with an override of {} to at most {window} it runs)",
        QuotedText(key),
        QuotedText(context_key)
    )]
    SlidingWindow {
        /// The key or field.
        key: String,
        /// Positions in the window.
        window: usize,
        /// The context.
        context: usize,
        /// The key or field of the context.
        context_key: String,
    },
    /// The architecture is not implemented.
    #[error(
        "architecture {} is not supported: expected one of {expected}",
        QuotedText(got)
    )]
    UnsupportedArchitecture {
        /// The implemented architectures.
        expected: &'static str,
        /// The architecture in the file.
        got: String,
    },
    /// Two tensors have the same name.
    #[error("tensor {} occurs twice", QuotedText(name))]
    DuplicateTensor {
        /// The tensor.
        name: String,
    },
    /// A tensor's dimensions are invalid.
    #[error("tensor {}: expected {expected}, got {got}", QuotedText(name))]
    BadShape {
        /// The tensor.
        name: String,
        /// The required shape.
        expected: String,
        /// The shape in the file.
        got: String,
    },
    /// A tensor's type is unknown, removed, or not implemented.
    #[error(
        "tensor {}: type {got} does not run here: expected one of {expected}",
        QuotedText(name)
    )]
    UnsupportedType {
        /// The tensor.
        name: String,
        /// The supported types of the format.
        expected: String,
        /// The type's name.
        got: String,
    },
    /// A tensor has a type that its role does not allow.
    #[error("tensor {}: expected type {expected}, got {got}", QuotedText(name))]
    BadType {
        /// The tensor.
        name: String,
        /// The allowed types.
        expected: &'static str,
        /// The type in the file.
        got: String,
    },
    /// A tensor's offset is not a multiple of the alignment.
    #[error(
        "tensor {}: expected an offset that is a multiple of {alignment}, got {offset}",
        QuotedText(name)
    )]
    Misaligned {
        /// The tensor.
        name: String,
        /// The file's alignment.
        alignment: u64,
        /// The offset in the data section.
        offset: u64,
    },
    /// A tensor's data extend past the end of the file.
    #[error(
        "tensor {}: {bytes} bytes at offset {offset} of the data end past the file's {file_len} bytes{}",
        QuotedText(name), Truncation(*file_len, *needed)
    )]
    OutOfFile {
        /// The tensor.
        name: String,
        /// Its offset in the data section.
        offset: u64,
        /// Its size.
        bytes: u64,
        /// The file's length.
        file_len: u64,
        /// The file length that would hold all tensors.
        needed: u64,
    },
    /// Two tensors share bytes.
    #[error("tensor {} overlaps tensor {}", QuotedText(name), QuotedText(other))]
    Overlap {
        /// The later tensor.
        name: String,
        /// The tensor that it starts inside.
        other: String,
    },
    /// The file's Q2_0 tensors fit neither or both of the layouts with groups of 64 and of 128.
    #[error(
        "tensor {}: Q2_0 needs {g64} bytes in groups of 64 or {g128} in groups of 128, got {got} bytes, which {verdict}",
        QuotedText(name)
    )]
    Q2Layout {
        /// The first tensor that does not fit.
        name: String,
        /// Bytes including padding, in groups of 64.
        g64: u64,
        /// Bytes including padding, in groups of 128.
        g128: u64,
        /// Bytes up to the next tensor or the end of the file.
        got: u64,
        /// `fit neither` or `fit both`.
        verdict: &'static str,
    },
    /// A tensor required by the architecture is missing.
    #[error("tensor {} is missing", QuotedText(name))]
    MissingTensor {
        /// The tensor.
        name: String,
    },
    /// A tensor unknown to the architecture; ignoring it would change the result.
    #[error(
        "tensor {} is not part of the {architecture} architecture",
        QuotedText(name)
    )]
    UnexpectedTensor {
        /// The tensor.
        name: String,
        /// The architecture.
        architecture: &'static str,
    },
    /// The parts of a split model do not match.
    #[error("split model, part {part}: expected {what} {expected}, got {got}")]
    BadSplit {
        /// The part, from 0.
        part: usize,
        /// The mismatched property.
        what: &'static str,
        /// The expected value.
        expected: u64,
        /// The value in the part.
        got: u64,
    },
    /// The name of one file of a split model does not identify the others.
    #[error(
        "part {part} of {count} of a split model, whose parts are found by their names: expected NAME-{part:05}-of-{count:05}.gguf \
         beside the others, got {}; {}",
        QuotedText(got),
        FileList("parts", beside)
    )]
    SplitName {
        /// The part, from 1.
        part: u32,
        /// Number of parts.
        count: u32,
        /// The file's name.
        got: String,
        /// Files in its folder with names of parts.
        beside: Vec<String>,
    },
    /// A part of a split model is missing.
    #[error(
        "split model: part {part} of {count} is missing: expected {} beside {}",
        QuotedText(name),
        QuotedText(first)
    )]
    MissingPart {
        /// The part, from 1.
        part: usize,
        /// Number of parts.
        count: usize,
        /// The missing file.
        name: String,
        /// The model's first file.
        first: String,
    },
    /// A folder without a model.
    #[error(
        "a folder without config.json: pass a .gguf file, or a folder with config.json and safetensors; {}",
        FileList("GGUF files", holds)
    )]
    NoConfig {
        /// GGUF files in it.
        holds: Vec<String>,
    },
    /// A slice's length does not match the shape and type.
    #[error("tensor {}: expected {expected} bytes, got {got}", QuotedText(name))]
    ByteCount {
        /// The tensor.
        name: String,
        /// Required bytes.
        expected: u64,
        /// Provided bytes.
        got: u64,
    },
    /// JSON, or a safetensors header, that does not parse or violates its format.
    #[error("{what} is malformed: {}", Cut(source))]
    Json {
        /// The document.
        what: &'static str,
        /// The position and reason.
        source: serde_json::Error,
    },
    /// A safetensors header whose offsets and shapes do not agree.
    #[error("safetensors header is malformed: {}", Cut(source))]
    Safetensors {
        /// The violated rule.
        source: safetensors::SafeTensorError,
    },
    /// A writer's sink failed.
    #[error("cannot write {what}")]
    Write {
        /// The item being written.
        what: &'static str,
        /// The reason.
        source: io::Error,
    },
}

impl FormatError {
    /// Whether a longer prefix of the same file may succeed.
    pub fn is_incomplete(&self) -> bool {
        matches!(self, FormatError::Incomplete { .. })
    }

    /// A stable code for programs.
    pub fn code(&self) -> &'static str {
        match self {
            FormatError::NestedArray { .. }
            | FormatError::UnsupportedValue { .. }
            | FormatError::UnknownKey { .. }
            | FormatError::SlidingWindow { .. }
            | FormatError::UnsupportedArchitecture { .. }
            | FormatError::UnsupportedType { .. }
            | FormatError::UnexpectedTensor { .. } => "UNSUPPORTED",
            // Version 1 and byte-swapped supported versions are well formed.
            FormatError::BadVersion {
                got: 1 | 0x0200_0000 | 0x0300_0000,
            } => "UNSUPPORTED",
            FormatError::Write { .. } => "IO",
            FormatError::MissingPart { .. } | FormatError::NoConfig { .. } => "FILE_NOT_FOUND",
            _ => "INVALID_FILE",
        }
    }
}

/// Text from a file, formatted for an error: quoted, escaped, and cut after 64 characters.
pub(crate) struct QuotedText<'a>(pub &'a str);

impl fmt::Display for QuotedText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.char_indices().nth(64) {
            Some((end, _)) => write!(f, "{:?}… ({} bytes)", &self.0[..end], self.0.len()),
            None => write!(f, "{:?}", self.0),
        }
    }
}

/// Some of a folder's files.
struct FileList<'a>(&'a str, &'a [String]);

impl fmt::Display for FileList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FileList(what, names) = self;
        if names.is_empty() {
            return write!(f, "no {what} lie in it");
        }
        write!(f, "{what} in it: ")?;
        for (i, name) in names.iter().take(4).enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            write!(f, "{comma}{}", QuotedText(name))?;
        }
        match names.len() {
            more @ 5.. => write!(f, " and {} more", more - 4),
            _ => Ok(()),
        }
    }
}

/// How much of a file exists, if it may be truncated; nothing if one of the numbers must be wrong.
struct Truncation(u64, u64);

impl fmt::Display for Truncation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let &Truncation(got, needed) = self;
        // No file is that long.
        if got >= needed || needed > 1 << 50 {
            return Ok(());
        }
        let (unit, name) = match needed {
            1_000_000_000.. => (1e9, "GB"),
            1_000_000.. => (1e6, "MB"),
            _ => (1e3, "kB"),
        };
        let [got, needed] = [got, needed].map(|bytes| bytes as f64 / unit);
        write!(
            f,
            ": the file is incomplete ({got:.1} of {needed:.1} {name}): download it again"
        )
    }
}

/// A parser's message, which may quote the file at any length: cut after 200 characters, with
/// control characters escaped.
struct Cut<'a>(&'a dyn fmt::Display);

impl fmt::Display for Cut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        for c in text.chars().take(200) {
            if c.is_control() {
                write!(f, "{}", c.escape_default())?
            } else {
                write!(f, "{c}")?
            }
        }
        if text.chars().nth(200).is_some() {
            f.write_str("…")
        } else {
            Ok(())
        }
    }
}
