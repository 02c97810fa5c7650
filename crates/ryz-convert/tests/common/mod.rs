//! Where test data are, and models made on the spot.
#![allow(dead_code, reason = "each test file uses a part")]

use std::{
    fs,
    io::Write,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use ryz_convert::{ConvertError, ConvertOptions, ConvertReport};
use ryz_format::{DType, Gguf, GgufWriter, Metadata, TensorInfo, TensorView, Value, encode};
use ryz_kernels::{Kernels, Level};
use ryz_kvcache::{BLOCK_TOKENS, BlockPool, KvCache, KvCacheConfig, KvDType};
use ryz_model::{
    Activations, BatchSequence, LoadOptions, LogitDemand, ModelSource, Outputs, RunState,
};
use ryz_numa::{Lease, Pinning};
use ryz_tmac::{Arena, ArenaConfig};

/// The reference files of the repository.
pub fn committed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../__test__/fixtures/reference")
}

/// The whole reference set, which lies beside a full checkout. Where it is missing this says so past the test harness's
/// capture, so that a skipped set is seen.
pub fn whole_set() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/reference");
    if path.is_dir() {
        return Some(path);
    }
    let mut stderr = std::io::stderr();
    writeln!(
        stderr,
        "\nSKIPPED: the whole reference set is not at {}",
        path.display()
    )
    .unwrap();
    None
}

/// The whole set where it is, else the repository's part.
pub fn reference() -> PathBuf {
    whole_set().unwrap_or_else(committed)
}

pub fn convert(
    source: &Path,
    target: &Path,
    options: &ConvertOptions,
) -> Result<ConvertReport, ConvertError> {
    ryz_convert::convert(source, target, options, &mut |_| ControlFlow::Continue(()))
}

/// A parsed file.
pub struct Model {
    pub gguf: Gguf,
    pub file: Vec<u8>,
}

impl Model {
    pub fn read(path: &Path) -> Model {
        Model::parse(fs::read(path).unwrap())
    }

    pub fn parse(file: Vec<u8>) -> Model {
        let gguf = Gguf::parse(&file, file.len() as u64).unwrap();
        Model { gguf, file }
    }

    pub fn info(&self, name: &str) -> &TensorInfo {
        let found = self.gguf.tensors.iter().find(|tensor| tensor.name == name);
        found.unwrap_or_else(|| panic!("no tensor {name}"))
    }

    pub fn bytes(&self, name: &str) -> &[u8] {
        let info = self.info(name);
        &self.file[info.offset as usize..][..info.bytes as usize]
    }

    pub fn values(&self, name: &str) -> Vec<f32> {
        let info = self.info(name);
        let view =
            TensorView::new(name, info.dtype, info.rows, info.cols, self.bytes(name)).unwrap();
        let mut out = vec![0.0; info.rows * info.cols];
        for (row, out) in out.chunks_exact_mut(info.cols).enumerate() {
            view.decode_row(row, out);
        }
        out
    }

    pub fn names(&self) -> Vec<String> {
        self.gguf.tensors.iter().map(|t| t.name.clone()).collect()
    }
}

/// Whether a tensor is one of a layer's seven projections.
pub fn is_projection(name: &str) -> bool {
    name.starts_with("blk.") && name.ends_with(".weight") && !name.contains("norm")
}

/// A tensor for [`write`].
pub struct Tensor {
    pub name: String,
    pub dtype: DType,
    pub shape: Vec<u64>,
    pub bytes: Vec<u8>,
}

impl Tensor {
    pub fn floats(name: &str, dtype: DType, shape: &[u64], values: &[f32]) -> Tensor {
        let mut bytes = Vec::new();
        encode::encode_floats(dtype, values, &mut bytes);
        Tensor {
            name: name.to_owned(),
            dtype,
            shape: shape.to_vec(),
            bytes,
        }
    }

    pub fn ternary(
        name: &str,
        dtype: DType,
        shape: &[u64],
        codes: &[u8],
        scales: &[f32],
    ) -> Tensor {
        let mut bytes = Vec::new();
        encode::encode_ternary(dtype, codes, scales, &mut bytes);
        Tensor {
            name: name.to_owned(),
            dtype,
            shape: shape.to_vec(),
            bytes,
        }
    }
}

/// A file of these pairs and tensors.
pub fn write(pairs: &Metadata, tensors: &[Tensor]) -> Vec<u8> {
    let mut writer = GgufWriter::new();
    for (key, value) in pairs.iter() {
        writer.push(key, value.clone()).unwrap();
    }
    for tensor in tensors {
        writer
            .declare(&tensor.name, tensor.dtype, &tensor.shape)
            .unwrap();
    }
    let mut body = writer.start(Vec::new()).unwrap();
    for tensor in tensors {
        body.tensor(&tensor.name, &tensor.bytes).unwrap();
    }
    body.finish().unwrap()
}

/// SplitMix64.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    pub fn codes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| (self.next() % 3) as u8).collect()
    }
}

/// Shape of [`tiny`].
#[derive(Clone, Copy)]
pub struct Shape {
    pub hidden: usize,
    pub inner: usize,
}

/// Pairs and tensors of a llama of one layer, 4 heads, 2 kv heads and 4 tokens; `linear` makes each projection.
pub fn tiny(
    shape: Shape,
    mut linear: impl FnMut(&str, usize, usize) -> Tensor,
) -> (Metadata, Vec<Tensor>) {
    let Shape { hidden, inner } = shape;
    let mut pairs = Metadata::new();
    pairs.set("general.architecture", "llama");
    pairs.set("general.name", "tiny");
    for (key, value) in [
        ("block_count", 1),
        ("embedding_length", hidden),
        ("feed_forward_length", inner),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
        ("context_length", 128),
        ("vocab_size", 4),
    ] {
        pairs.set(&format!("llama.{key}"), Value::U32(value as u32));
    }
    pairs.set("llama.attention.layer_norm_rms_epsilon", 1e-5f32);
    let ones = vec![1.0; hidden];
    let embedding: Vec<f32> = (0..4 * hidden).map(|i| (i % 127) as f32 / 64.0).collect();
    let vocab = [hidden as u64, 4];
    let vector = |name: &str| Tensor::floats(name, DType::F32, &[hidden as u64], &ones);
    let mut tensors = vec![
        Tensor::floats("token_embd.weight", DType::F16, &vocab, &embedding),
        vector("blk.0.attn_norm.weight"),
        vector("blk.0.ffn_norm.weight"),
        vector("output_norm.weight"),
    ];
    for (name, rows, cols) in [
        ("attn_q", hidden, hidden),
        ("attn_k", hidden / 2, hidden),
        ("attn_v", hidden / 2, hidden),
        ("attn_output", hidden, hidden),
        ("ffn_gate", inner, hidden),
        ("ffn_up", inner, hidden),
        ("ffn_down", hidden, inner),
    ] {
        tensors.push(linear(&format!("blk.0.{name}.weight"), rows, cols));
    }
    (pairs, tensors)
}

/// The files in a folder.
pub fn listing(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Logits of every position, with caches in f32.
pub fn logits(path: &Path, activations: Activations, tokens: &[u32]) -> Vec<f32> {
    let arena = Arena::new(ArenaConfig::default());
    let lease = Lease::new(1, Pinning::Off).unwrap();
    let source = ModelSource::open(path).unwrap();
    let options = LoadOptions {
        kernels: Kernels::new(Level::detect()).unwrap(),
        activations: Some(activations),
        ..LoadOptions::default()
    };
    let mut go_on = |_| ControlFlow::Continue(());
    let model = ryz_model::Model::load(&source, &options, &arena, &lease, &mut go_on).unwrap();
    let config = model.config();
    let blocks = tokens.len().div_ceil(BLOCK_TOKENS);
    let cache = KvCacheConfig {
        layers: config.num_hidden_layers,
        kv_heads: config.num_key_value_heads,
        key_dim: config.key_head_dim,
        value_dim: config.value_head_dim,
        dtype: KvDType::F32,
        blocks,
        tails: 2,
    };
    let mut cache = KvCache::new(&arena, cache).unwrap();
    let mut pool = BlockPool::new(blocks);
    let block_table: Vec<_> = std::iter::from_fn(|| pool.allocate()).collect();
    let mut state = RunState::new(&model, &arena, tokens.len(), tokens.len()).unwrap();
    let batch = [BatchSequence {
        tokens,
        start: 0,
        block_table: &block_table,
        window: None,
        mass: None,
        needed: LogitDemand::All,
        outputs: Outputs::All,
    }];
    let cancel = AtomicBool::new(false);
    model
        .forward(&lease, &mut state, &mut cache, &batch, &cancel)
        .unwrap();
    let rows = state.logits();
    (0..rows.rows())
        .flat_map(|row| rows.row(row).to_vec())
        .collect()
}
