//! Progress and report of a conversion.

use std::path::PathBuf;

use ryz_format::{DType, TensorError};

/// The phase of a conversion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConvertPhase {
    /// Reading all weights once, to find scales and faults before anything is written.
    Scan,
    /// Writing the target.
    Write,
}

/// Progress of a conversion, reported every few megabytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvertProgress<'a> {
    /// The current phase.
    pub phase: ConvertPhase,
    /// The current tensor; empty at the end of a phase.
    pub tensor: &'a str,
    /// Bytes of the source's tensors finished in this phase.
    pub done_bytes: u64,
    /// Total bytes of the source's tensors.
    pub total_bytes: u64,
}

/// A finished conversion.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ConvertReport {
    /// The file written.
    pub target: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// Bytes of the source's tensors.
    pub source_bytes: u64,
    /// Every tensor of the target, in its order.
    pub tensors: Vec<TensorReport>,
    /// Unused tensors of the source, which were omitted.
    pub dropped: Vec<String>,
    /// What the target cannot express about the tokenizer, one sentence each.
    pub tokenizer_notes: Vec<String>,
}

impl ConvertReport {
    /// Whether the target holds exactly the source's weights. A BitNet checkpoint's master weights
    /// count as quantized by its own rule.
    pub fn is_lossless(&self) -> bool {
        self.tensors.iter().all(|tensor| tensor.lossless)
    }
}

/// The conversion of one tensor.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TensorReport {
    /// The name in the target.
    pub name: String,
    /// The type in the source; `None` for a tensor that the source expresses differently.
    pub source: Option<DType>,
    /// The type in the target.
    pub target: DType,
    /// Rows; 1 for a vector.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// How it was made.
    pub method: Method,
    /// Whether it holds exactly the source's values.
    pub lossless: bool,
    /// Fraction of weights that are 0, for ternary tensors.
    pub zero_fraction: Option<f64>,
    /// The error relative to the source, if values were rounded.
    pub error: Option<TensorError>,
}

/// How a tensor was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Method {
    /// Bytes copied from the source.
    Copied,
    /// Ternary codes and scales converted from one form to another.
    Repacked,
    /// Exactly ternary weights stored in another type in the source.
    Recognized,
    /// Weights made ternary by the absmean rule.
    Quantized,
    /// Floats converted to another type.
    Converted,
    /// Not a tensor of the source: a scale, or the factors of the rotary embedding.
    Derived,
}
