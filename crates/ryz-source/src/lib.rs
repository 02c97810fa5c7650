//! The files of a model: a GGUF file, all parts of a split one, or a Hugging Face folder.
//!
//! [`ModelSource`] opens a runnable model before any weight is read; loading and conversion both
//! begin with it. [`ModelDescription`] opens any model file. [`gguf_metadata`] and [`Folder`] read
//! a tokenizer's inputs, also from files that hold nothing else.

#![forbid(unsafe_code)]

mod describe;
mod error;
mod folder;
mod parts;
mod source;

pub use describe::{ModelDescription, ModelFileKind};
pub use error::SourceError;
pub use folder::Folder;
pub use parts::gguf_metadata;
pub use source::{ModelSource, SourceKind};

pub use ryz_format::Overrides;
