//! Model files: from untrusted bytes to validated views.
//!
//! This crate opens and reads no files: the caller passes byte slices and the file's length. It
//! returns headers with every size, offset and shape checked, so that later code can index by them
//! without further checks.
//!
//! - [`Gguf::parse`] reads a GGUF header; [`ModelHeader::merge`] joins the parts of a split model.
//! - [`hf`] reads the files of a Hugging Face folder: config.json, safetensors, and the index of
//!   shards.
//! - [`ModelConfig`] is a model's configuration, independent of the file format, checked against
//!   the shapes of its tensors.
//! - [`TensorView`] is a tensor's bytes, with a length guaranteed to match its shape.
//! - [`decode`] is the reference decoder of every block type; [`encode`] is the inverse for
//!   writable types.
//!
//! # Examples
//!
//! ```
//! use ryz_format::{Gguf, GgufWriter, Value};
//!
//! let mut writer = GgufWriter::new();
//! writer.push("general.architecture", Value::from("llama"))?;
//! let mut file = Vec::new();
//! writer.start(&mut file)?.finish()?;
//!
//! let gguf = Gguf::parse(&file, file.len() as u64)?;
//! assert_eq!(gguf.metadata.get_str("general.architecture")?, "llama");
//! # Ok::<(), ryz_format::FormatError>(())
//! ```
#![forbid(unsafe_code)]

pub mod config;
pub mod decode;
mod dtype;
pub mod encode;
mod error;
mod error_sums;
pub mod gguf;
pub mod hf;
mod metadata;
mod overrides;
mod quantize;
mod view;
mod warning;

pub use config::{
    Architecture, ExpectedTensor, HiddenAct, ModelConfig, RopeConfig, RopeScaling, RopeStyle,
    TensorRole, WeightScales,
};
pub use dtype::{DType, PrepackedScales};
pub use error::FormatError;
pub use error_sums::{ErrorSums, TensorError};
pub use gguf::{
    Description, GgmlType, Gguf, GgufBody, GgufWriter, ModelHeader, SplitInfo, TensorDescription,
    TensorInfo, part_paths, split_paths, type_name,
};
pub use hf::FolderOverrides;
pub use metadata::{Array, Metadata, StringArray, Value};
pub use overrides::Overrides;
pub use quantize::{BuiltIn, QuantizeError, Quantized, Quantizer, ScaleGroup, SharedQuantizer};
pub use view::TensorView;
pub use warning::Warning;
