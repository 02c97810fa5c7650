//! What a conversion says while it runs and when it is done.

use std::path::PathBuf;

use ryz_format::{DType, TensorError};

/// What a conversion is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConvertPhase {
    /// Reading all weights once, to find scales and faults before anything is written.
    Scan,
    /// Writing the target.
    Write,
}

/// How far a conversion has come, some megabytes after the last time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvertProgress<'a> {
    /// What it is doing.
    pub phase: ConvertPhase,
    /// The tensor in work; empty at the end of a phase.
    pub tensor: &'a str,
    /// Bytes of the source's tensors that are done in this phase.
    pub done_bytes: u64,
    /// Bytes of the source's tensors.
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
    /// Tensors of the source that nothing reads and that were left out.
    pub dropped: Vec<String>,
    /// What the target cannot say about the tokenizer, one sentence each.
    pub tokenizer_notes: Vec<String>,
}

impl ConvertReport {
    /// Whether the target has exactly the source's weights. A BitNet checkpoint's master weights count as what its own
    /// rule makes of them.
    pub fn is_lossless(&self) -> bool {
        self.tensors.iter().all(|tensor| tensor.lossless)
    }
}

/// What became of one tensor.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TensorReport {
    /// The name in the target.
    pub name: String,
    /// The type in the source; `None` for a tensor that the source says in another way.
    pub source: Option<DType>,
    /// The type in the target.
    pub target: DType,
    /// Rows; 1 for a vector.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// How it was made.
    pub method: Method,
    /// Whether it has exactly the source's values.
    pub lossless: bool,
    /// Share of weights that are 0, for ternary tensors.
    pub zero_fraction: Option<f64>,
    /// How far it is from the source, where values were rounded.
    pub error: Option<TensorError>,
}

/// How a tensor was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Method {
    /// The source's bytes.
    Copied,
    /// Ternary codes and scales from one form to another.
    Repacked,
    /// Exactly ternary weights that the source has in another type.
    Recognized,
    /// Weights made ternary by the absmean rule.
    Quantized,
    /// Floats in another type.
    Converted,
    /// Not a tensor in the source: a scale, or the factors of the rotary embedding.
    Derived,
}
