//! What an engine says about itself.

use napi_derive::napi;
use ryz_engine::{Activations, Engine, HeadScreening, HeadType, KvDType, Numa, Pinning, Screening};
use ryz_tmac::BufferKind;

/// What was loaded, and how it runs.
#[napi(object)]
pub struct ModelInfo {
    /// The file.
    pub path: String,
    /// Name in the file.
    pub architecture: String,
    /// The model's own name.
    pub name: Option<String>,
    /// Elements of all tensors.
    pub parameters: f64,
    /// Layers.
    pub layers: u32,
    /// Size of the hidden state.
    pub hidden_size: u32,
    /// Size inside the feed-forward block.
    pub intermediate_size: u32,
    /// Query heads.
    pub attention_heads: u32,
    /// Key-value heads.
    pub key_value_heads: u32,
    /// Token ids are below this.
    pub vocabulary_size: u32,
    /// Positions it was made for.
    pub trained_context_length: u32,
    /// Positions a sequence may have.
    pub context_length: u32,
    /// Positions the cache holds for all sequences.
    pub kv_tokens: f64,
    /// Most requests that are computed together.
    pub max_sequences: u32,
    /// How inputs of ternary layers are quantised.
    pub activations: String,
    /// Type of the cache.
    pub kv: String,
    /// Dimensions that the cache keeps of each value.
    pub value_rank: u32,
    /// What the output matrix is multiplied as.
    pub head: String,
    /// By what rows of the head are left out.
    pub head_screening: Option<ScreenedHead>,
    /// Instruction set.
    pub level: String,
    /// Computing threads.
    pub threads: u32,
    /// Memory nodes of bound threads.
    pub nodes: Vec<u32>,
    /// Where the weights lie.
    pub weight_placement: String,
    /// Kernels in use.
    pub kernels: Vec<String>,
    /// The packings of the ternary matrices.
    pub packings: Vec<String>,
    /// Bytes of weights in memory.
    pub packed_bytes: f64,
    /// Bytes of weights that a decoded token reads.
    pub weight_bytes_per_token: f64,
    /// What was made ternary on load.
    pub quantized: Vec<QuantizedTensor>,
    /// What is probably wrong with its files.
    pub warnings: Vec<String>,
    /// How the ways in which weights are streamed were chosen.
    pub tuning: Tuning,
    /// The draft model.
    pub draft: Option<DraftModel>,
    /// Whether it can chat.
    pub has_chat_template: bool,
    /// Begins a text.
    pub bos_token: Option<u32>,
    /// Ends a text.
    pub eos_token: Option<u32>,
}

impl ModelInfo {
    /// Of this engine.
    pub fn of(engine: &Engine) -> Self {
        let info = engine.model_info();
        Self {
            path: info.path.display().to_string(),
            architecture: info.architecture.clone(),
            name: info.name.clone(),
            parameters: info.parameters as f64,
            layers: info.layers as u32,
            hidden_size: info.hidden_size as u32,
            intermediate_size: info.intermediate_size as u32,
            attention_heads: info.attention_heads as u32,
            key_value_heads: info.key_value_heads as u32,
            vocabulary_size: info.vocab_size as u32,
            trained_context_length: info.trained_context_length as u32,
            context_length: info.context_length as u32,
            kv_tokens: info.kv_tokens as f64,
            max_sequences: info.max_sequences as u32,
            activations: activations_name(info.activations).to_owned(),
            kv: kv_name(info.kv).to_owned(),
            value_rank: info.value_rank as u32,
            head: info.head.name().to_owned(),
            head_screening: info.head_screening.as_ref().map(ScreenedHead::of),
            level: info.level.to_string(),
            threads: info.threads as u32,
            nodes: info.nodes.iter().map(|&node| node as u32).collect(),
            weight_placement: info.memory.to_owned(),
            kernels: info.kernels.clone(),
            packings: (info.packings.iter())
                .map(|packing| packing.name().to_owned())
                .collect(),
            packed_bytes: info.packed_bytes as f64,
            weight_bytes_per_token: info.weight_bytes_per_token as f64,
            quantized: info.quantized.iter().map(QuantizedTensor::of).collect(),
            warnings: info.warnings.clone(),
            tuning: Tuning::of(&info.tuning),
            draft: info.draft.as_ref().map(DraftModel::of),
            has_chat_template: info.has_chat_template,
            bos_token: engine.tokenizer().bos(),
            eos_token: engine.tokenizer().eos(),
        }
    }
}

/// How rows of a head are left out.
#[napi(object)]
pub struct ScreenedHead {
    /// Bytes of the image, beside the head.
    pub image_bytes: f64,
    /// The share of rows that survived in the mean of a few tokens, where that was measured.
    pub survivors: Option<f64>,
}

impl ScreenedHead {
    fn of(screening: &Screening) -> Self {
        Self {
            image_bytes: screening.image_bytes as f64,
            survivors: screening.survivors,
        }
    }
}

/// How the ways in which weights are streamed were chosen.
#[napi(object)]
pub struct Tuning {
    /// Where they are from.
    pub source: String,
    /// How long it took.
    pub ms: f64,
    /// What was chosen.
    pub matrices: Vec<TunedMatrix>,
}

impl Tuning {
    fn of(tuning: &ryz_engine::Tuning) -> Self {
        Self {
            source: tuning.source.name().to_owned(),
            ms: tuning.time.as_secs_f64() * 1e3,
            matrices: tuning.matrices.iter().map(TunedMatrix::of).collect(),
        }
    }
}

/// What was chosen for the matrices of one kind.
#[napi(object)]
pub struct TunedMatrix {
    /// The kernel.
    pub kernel: String,
    /// Outputs.
    pub rows: u32,
    /// Inputs.
    pub cols: u32,
    /// How densely they are packed.
    pub packing: String,
    /// Cache lines ahead.
    pub prefetch: u32,
    /// Up to which share of rows those that count are listed.
    pub listed_share: Option<f64>,
    /// Where rows or columns can be left out: the share of them up to which that is faster than tiles.
    pub order_share: Option<f64>,
}

impl TunedMatrix {
    fn of(matrix: &ryz_engine::TunedMatrix) -> Self {
        Self {
            kernel: matrix.kernel.clone(),
            rows: matrix.rows as u32,
            cols: matrix.cols as u32,
            packing: matrix.packing.clone(),
            prefetch: matrix.prefetch as u32,
            listed_share: matrix.listed_share.map(f64::from),
            order_share: matrix.order_share.map(f64::from),
        }
    }
}

/// A draft model that was loaded beside.
#[napi(object)]
pub struct DraftModel {
    /// The file.
    pub path: String,
    /// Bytes of weights in memory.
    pub packed_bytes: f64,
    /// Bytes of weights that a token reads.
    pub weight_bytes_per_token: f64,
    /// Bytes of its cache.
    pub kv_bytes: f64,
}

impl DraftModel {
    fn of(draft: &ryz_engine::DraftInfo) -> Self {
        Self {
            path: draft.path.display().to_string(),
            packed_bytes: draft.packed_bytes as f64,
            weight_bytes_per_token: draft.weight_bytes_per_token as f64,
            kv_bytes: draft.kv_bytes as f64,
        }
    }
}

/// What making a tensor ternary on load cost.
#[napi(object)]
pub struct QuantizedTensor {
    /// Its name.
    pub name: String,
    /// Mean squared error.
    pub mse: f64,
    /// Cosine of the angle.
    pub cosine: f64,
    /// Largest error.
    pub max_abs: f64,
    /// Share of zeros.
    pub zero_fraction: f64,
}

impl QuantizedTensor {
    fn of(tensor: &ryz_engine::QuantizedTensor) -> Self {
        Self {
            name: tensor.name.clone(),
            mse: tensor.error.mse,
            cosine: tensor.error.cosine,
            max_abs: tensor.error.max_abs,
            zero_fraction: tensor.zero_fraction,
        }
    }
}

/// Names of the ways to quantise activations.
pub const ACTIVATIONS: [(&str, Activations); 3] = [
    ("int8", Activations::Int8),
    ("int8-group", Activations::Int8Group),
    ("f32", Activations::F32),
];

/// Names of the cache's types.
pub const KV_TYPES: [(&str, KvDType); 4] = [
    ("f32", KvDType::F32),
    ("f16", KvDType::F16),
    ("int8", KvDType::Int8),
    ("int4", KvDType::Int4),
];

/// Names of whether rows of a head are left out.
pub const HEAD_SCREENING: [(&str, HeadScreening); 2] =
    [("auto", HeadScreening::Auto), ("off", HeadScreening::Off)];

/// Names of what the output matrix is multiplied as.
pub const HEAD_TYPES: [(&str, HeadType); 3] = [
    ("file", HeadType::File),
    ("q8", HeadType::Q8),
    ("q4", HeadType::Q4),
];

/// Names of what threads are bound to.
pub const PINNING: [(&str, Pinning); 3] = [
    ("cores", Pinning::Cores),
    ("nodes", Pinning::Nodes),
    ("off", Pinning::Off),
];

/// Names of where weights lie.
pub const NUMA: [(&str, Numa); 3] = [
    ("auto", Numa::Auto),
    ("interleave", Numa::Interleave),
    ("off", Numa::Off),
];

fn activations_name(value: Activations) -> &'static str {
    ACTIVATIONS
        .iter()
        .find(|(_, other)| *other == value)
        .map_or("unknown", |(name, _)| name)
}

fn kv_name(value: KvDType) -> &'static str {
    KV_TYPES
        .iter()
        .find(|(_, other)| *other == value)
        .map_or("unknown", |(name, _)| name)
}

/// Bytes in use.
#[napi(object)]
pub struct MemoryStats {
    /// Weights.
    pub weights: f64,
    /// Keys and values.
    pub kv_cache: f64,
    /// Intermediate results.
    pub scratch: f64,
    /// What files are read through.
    pub staging: f64,
    /// All.
    pub in_use: f64,
    /// Held ready by pools.
    pub pooled: f64,
    /// Mapped from the system.
    pub mapped: f64,
    /// Live buffers.
    pub buffers: f64,
    /// Buffers ever taken.
    pub allocations: f64,
    /// The most that there was.
    pub high_water: f64,
    /// The most that there may be.
    pub limit: Option<f64>,
}

impl MemoryStats {
    /// Of this engine.
    pub fn of(engine: &Engine) -> Self {
        let stats = engine.memory_stats();
        let of = |kind| {
            let place = BufferKind::ALL.iter().position(|other| *other == kind);
            place.map_or(0.0, |place| stats.by_kind[place] as f64)
        };
        Self {
            weights: of(BufferKind::Weights),
            kv_cache: of(BufferKind::KvCache),
            scratch: of(BufferKind::Scratch),
            staging: of(BufferKind::Staging),
            in_use: stats.in_use as f64,
            pooled: stats.pooled as f64,
            mapped: stats.mapped as f64,
            buffers: stats.buffers as f64,
            allocations: stats.allocations as f64,
            high_water: stats.high_water as f64,
            limit: stats.limit.map(|limit| limit as f64),
        }
    }
}
