//! Everything that can be wrong with a model file, each fault with its place, what was expected and what was there.

use std::{fmt, io};

/// A fault of a model file, or a feature of it that is not handled.
///
/// Callers know the file's path, this crate does not: they add it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The prefix given is shorter than the header; come back with at least `needed` bytes.
    #[error("header continues past the {got} bytes given: at least {needed} are needed")]
    Incomplete {
        /// Bytes from the start of the file that are needed to get further.
        needed: u64,
        /// Bytes that were given.
        got: u64,
    },
    /// The file ends inside something.
    #[error(
        "file ends inside {what}: expected {expected} bytes at offset {offset}, got {got}: the file is incomplete, download it again"
    )]
    Truncated {
        /// What was being read.
        what: String,
        /// Where it begins.
        offset: u64,
        /// Bytes that it needs.
        expected: u64,
        /// Bytes that the file has left.
        got: u64,
    },
    /// The first four bytes are not `GGUF`.
    #[error("not a GGUF file: expected magic \"GGUF\", got {}", QuotedText(&String::from_utf8_lossy(got)))]
    BadMagic {
        /// The first four bytes.
        got: [u8; 4],
    },
    /// The file is something else, which is recognised.
    #[error("not a model: the file is {is}")]
    Mistaken {
        /// What it is, and what to do.
        is: &'static str,
    },
    /// The version is not 2 or 3.
    #[error("GGUF version: expected 2 or 3 (little endian), got {got:#x}")]
    BadVersion {
        /// The version field.
        got: u32,
    },
    /// A count or length is over a limit that no real file reaches.
    #[error("{what}: expected at most {limit}, got {got}")]
    LimitExceeded {
        /// What was counted.
        what: String,
        /// The limit.
        limit: u64,
        /// The count in the file.
        got: u64,
    },
    /// Text that is not UTF-8, or is empty where a name is needed.
    #[error("{what} at offset {offset} is not {expected}")]
    BadText {
        /// What was being read.
        what: String,
        /// Where its bytes begin.
        offset: u64,
        /// What it should have been.
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
    /// A required key or field is not there.
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
        /// The type that was needed.
        expected: &'static str,
        /// The type in the file.
        got: &'static str,
    },
    /// A value has the right type and is still impossible.
    #[error(
        "key {}: expected {expected}, got {}",
        QuotedText(key),
        QuotedText(got)
    )]
    KeyValue {
        /// The key.
        key: String,
        /// What was needed.
        expected: String,
        /// The value in the file.
        got: String,
    },
    /// A well-formed value that asks for something that is not implemented.
    #[error("{} is not supported: got {}", QuotedText(key), QuotedText(got))]
    UnsupportedValue {
        /// The key or field.
        key: String,
        /// The value in the file.
        got: String,
    },
    /// A key of the architecture that is not known, and that may change the function.
    #[error(
        "key {} is not known and may change what the model computes: where it does not, the override null leaves it out",
        QuotedText(key)
    )]
    UnknownKey {
        /// The key.
        key: String,
    },
    /// Attention to the last positions alone, in a context that is longer.
    #[error(
        "{} is not supported below the context of {context}: got {window} (with an override of {} to at most {window} it runs)",
        QuotedText(key),
        QuotedText(context_key)
    )]
    SlidingWindow {
        /// The key or field.
        key: String,
        /// Positions that are seen.
        window: usize,
        /// The context.
        context: usize,
        /// The key or field of the context.
        context_key: String,
    },
    /// The architecture is not one of those implemented.
    #[error(
        "architecture {} is not supported: expected one of {expected}",
        QuotedText(got)
    )]
    UnsupportedArchitecture {
        /// The architectures that are.
        expected: &'static str,
        /// The architecture in the file.
        got: String,
    },
    /// Two tensors have one name.
    #[error("tensor {} occurs twice", QuotedText(name))]
    DuplicateTensor {
        /// The tensor.
        name: String,
    },
    /// A tensor's dimensions are impossible.
    #[error("tensor {}: expected {expected}, got {got}", QuotedText(name))]
    BadShape {
        /// The tensor.
        name: String,
        /// What was needed.
        expected: String,
        /// What the file says.
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
        /// The types that the format has and that run.
        expected: String,
        /// The type's name.
        got: String,
    },
    /// A tensor has a type that its place does not allow.
    #[error("tensor {}: expected type {expected}, got {got}", QuotedText(name))]
    BadType {
        /// The tensor.
        name: String,
        /// The types allowed.
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
    /// A tensor's data reach past the end of the file.
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
        /// The length that holds all tensors.
        needed: u64,
    },
    /// Two tensors share bytes.
    #[error("tensor {} overlaps tensor {}", QuotedText(name), QuotedText(other))]
    Overlap {
        /// The later tensor.
        name: String,
        /// The tensor that it begins inside of.
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
        /// Bytes, with padding, in groups of 64.
        g64: u64,
        /// Bytes, with padding, in groups of 128.
        g128: u64,
        /// Bytes up to the next tensor or the end of the file.
        got: u64,
        /// `fit neither` or `fit both`.
        verdict: &'static str,
    },
    /// A tensor that the architecture needs is not there.
    #[error("tensor {} is missing", QuotedText(name))]
    MissingTensor {
        /// The tensor.
        name: String,
    },
    /// A tensor that the architecture does not know; leaving it out would change the model's function.
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
    /// The parts of a split model do not belong together.
    #[error("split model, part {part}: expected {what} {expected}, got {got}")]
    BadSplit {
        /// The part, from 0.
        part: usize,
        /// What does not agree.
        what: &'static str,
        /// What was needed.
        expected: u64,
        /// What the part says.
        got: u64,
    },
    /// One file of a split model has a name by which the others cannot be found.
    #[error(
        "part {part} of {count} of a split model, whose parts are found by their names: expected NAME-{part:05}-of-{count:05}.gguf \
         beside the others, got {}; {}",
        QuotedText(got),
        FileList("parts", beside)
    )]
    SplitName {
        /// The part, from 1.
        part: u32,
        /// How many there are.
        count: u32,
        /// The file's name.
        got: String,
        /// Files in its folder that are named as parts.
        beside: Vec<String>,
    },
    /// A part of a split model is not there.
    #[error(
        "split model: part {part} of {count} is missing: expected {} beside {}",
        QuotedText(name),
        QuotedText(first)
    )]
    MissingPart {
        /// The part, from 1.
        part: usize,
        /// How many there are.
        count: usize,
        /// The missing file.
        name: String,
        /// The model's first file.
        first: String,
    },
    /// A folder that is no model's.
    #[error(
        "a folder without config.json: pass a .gguf file, or a folder with config.json and safetensors; {}",
        FileList("GGUF files", holds)
    )]
    NoConfig {
        /// GGUF files in it.
        holds: Vec<String>,
    },
    /// A slice has another length than the shape and type need.
    #[error("tensor {}: expected {expected} bytes, got {got}", QuotedText(name))]
    ByteCount {
        /// The tensor.
        name: String,
        /// Bytes that the shape and type need.
        expected: u64,
        /// Bytes that were given.
        got: u64,
    },
    /// A JSON document, or the header of a safetensors file, that does not parse or breaks its format's rules.
    #[error("{what} is malformed: {}", Cut(source))]
    Json {
        /// Which document.
        what: &'static str,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A safetensors header whose offsets and shapes do not agree.
    #[error("safetensors header is malformed: {}", Cut(source))]
    Safetensors {
        /// Which rule it breaks.
        source: safetensors::SafeTensorError,
    },
    /// The sink of a writer failed.
    #[error("cannot write {what}")]
    Write {
        /// What was being written.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl FormatError {
    /// Whether a longer prefix of the same file may do.
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
            // Version 1, and the versions that we read in the other byte order, are well formed.
            FormatError::BadVersion {
                got: 1 | 0x0200_0000 | 0x0300_0000,
            } => "UNSUPPORTED",
            FormatError::Write { .. } => "IO",
            FormatError::MissingPart { .. } | FormatError::NoConfig { .. } => "FILE_NOT_FOUND",
            _ => "INVALID_FILE",
        }
    }
}

/// Text from a file as an error message may show it: quoted, escaped, and cut after 64 characters.
pub(crate) struct QuotedText<'a>(pub &'a str);

impl fmt::Display for QuotedText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.char_indices().nth(64) {
            Some((end, _)) => write!(f, "{:?}… ({} bytes)", &self.0[..end], self.0.len()),
            None => write!(f, "{:?}", self.0),
        }
    }
}

/// A few of the files of a folder.
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

/// How much of a file is there, where it may have been cut short; nothing where a number in it must be wrong.
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

/// A parser's own words, which may quote the file at any length: cut after 200 characters, control characters escaped.
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
