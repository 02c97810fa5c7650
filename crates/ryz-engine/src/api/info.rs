//! What was loaded.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ryz_kernels::{Level, Packing};
use ryz_kvcache::KvDType;
use ryz_model::{Activations, Fingerprint, HeadType, QuantizedTensor};

use crate::screening::Screening;
use crate::tuning::Tuning;

/// What was loaded, and how.
#[derive(Debug, Clone)]
pub struct ModelInfo {
    /// The file.
    pub path: PathBuf,
    /// The architecture's name, as GGUF has it.
    pub architecture: String,
    /// The name the file gives the model.
    pub name: Option<String>,
    /// What tells the model from others.
    pub fingerprint: Arc<Fingerprint>,
    /// What is probably wrong with its files although it runs, each in a sentence.
    pub warnings: Vec<String>,
    /// Weights in all tensors.
    pub parameters: u64,
    /// Bytes of the file, or of all its parts.
    pub file_bytes: u64,
    /// Layers.
    pub layers: usize,
    /// Size of the hidden state.
    pub hidden_size: usize,
    /// Size inside the feed-forward block.
    pub intermediate_size: usize,
    /// Query heads.
    pub attention_heads: usize,
    /// Key-value heads.
    pub key_value_heads: usize,
    /// Token ids are below this.
    pub vocab_size: usize,
    /// Positions the model was made for.
    pub trained_context_length: usize,
    /// Positions a sequence may have in this engine.
    pub context_length: usize,
    /// Positions the cache holds for all sequences.
    pub kv_tokens: usize,
    /// Most requests that are computed together.
    pub max_sequences: usize,
    /// Number type of the cache.
    pub kv: KvDType,
    /// Dimensions that the cache keeps of each value: all channels, unless values are compressed.
    pub value_rank: usize,
    /// Bytes of the cache.
    pub kv_bytes: usize,
    /// How inputs of ternary layers are quantised.
    pub activations: Activations,
    /// What the output matrix is multiplied as: the file's own type also where the one asked for is no smaller.
    pub head: HeadType,
    /// By what rows of the head are left out; `None` where each token reads all of it.
    pub head_screening: Option<Screening>,
    /// The instruction set in use.
    pub level: Level,
    /// Threads that compute.
    pub threads: usize,
    /// The memory nodes on which they are bound, by the system's indices; none when the system places them.
    pub nodes: Vec<usize>,
    /// Where the weights lie: `local` on the nodes of the threads that read them, `interleaved` over all nodes, `any`
    /// where it was left to the system, as on every machine with one node.
    pub memory: &'static str,
    /// The kernels in use.
    pub kernels: Vec<String>,
    /// The packings of the ternary matrices.
    pub packings: Vec<Packing>,
    /// Bytes of the packed weights.
    pub packed_bytes: usize,
    /// Bytes of weights that one decoded token reads where nothing is left out.
    pub weight_bytes_per_token: usize,
    /// Whether the model has a chat template.
    pub has_chat_template: bool,
    /// What was made ternary on load.
    pub quantized: Vec<QuantizedTensor>,
    /// How the ways in which weights are streamed were chosen.
    pub tuning: Tuning,
    /// The draft model.
    pub draft: Option<DraftInfo>,
    /// How long loading took, the warm-up apart.
    pub load_time: Duration,
}

/// A draft model that was loaded beside.
#[derive(Debug, Clone, PartialEq)]
pub struct DraftInfo {
    /// The file.
    pub path: PathBuf,
    /// Bytes of its packed weights.
    pub packed_bytes: usize,
    /// Bytes of weights that one of its tokens reads.
    pub weight_bytes_per_token: usize,
    /// Bytes of its cache.
    pub kv_bytes: usize,
    /// What a token of it is taken to cost, over one of the model's own.
    pub cost: f32,
}
