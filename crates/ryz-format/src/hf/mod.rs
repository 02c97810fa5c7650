//! Hugging Face folders: `config.json` ([`crate::ModelConfig::from_hf`]), `model.safetensors` or
//! its shards with their index, under the same tensor names as in GGUF.
//!
//! The files are passed as bytes. The index names the shards to open, only by plain file names in
//! the same folder.

mod index;
mod json;
mod names;
mod overrides;
mod safetensors;

pub use self::{index::ShardIndex, overrides::FolderOverrides, safetensors::Safetensors};
pub(crate) use self::{json::Object, names::linear_modules};

/// Maximum bytes of a `config.json` or index.
pub const MAX_JSON_BYTES: u64 = 16 << 20;
