//! From a path to an engine.

use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use ryz_kernels::{Level, Packing};
use ryz_kvcache::{BLOCK_TOKENS, BlockPool, KvCache, KvCacheConfig, KvDType};
use ryz_model::{
    Activations, Calibration, Fingerprint, HeadType, LoadProgress, Model, ModelConfig, ModelSource,
    QuantizedTensor, RunState,
};
use ryz_numa::{Lease, Placement};
use ryz_source::{Folder, Overrides, gguf_metadata};
use ryz_tmac::{Arena, ArenaConfig};
use ryz_tokenizer::{HfFiles, Tokenizer};

use crate::chat::Chat;
use crate::config::EngineConfig;
use crate::engine::{Engine, Inner};
use crate::error::EngineError;
use crate::estimate::{admit, load_options};
use crate::executor::{ExecutorParts, panic_message};
use crate::guide::{Guides, GuidesParts};
use crate::memory::CacheView;
use crate::sampler::Vocab;
use crate::scheduler::Limits;
use crate::screening::{self, Screening};
use crate::sequence::blocks_for;
use crate::shared::EngineState;
use crate::speculation::{self, Draft};
use crate::tuning::{self, Tuning};
use crate::{executor, frontend};

/// Memory for the logits of scored positions, per step.
const SCORE_LOGITS_BYTES: usize = 16 << 20;
/// Tokens of the warm-up's prompt.
const WARM_UP_TOKENS: usize = 16;
/// How long a consumer that reads nothing keeps its place while others wait.
const PATIENCE: Duration = Duration::from_millis(250);

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

impl Engine {
    /// Loads the model at `path`. `progress` is called now and then and may stop the load.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming the option; `FILE_NOT_FOUND`, `IO`, `INVALID_FILE`, `UNSUPPORTED`, `INVALID_TOKENIZER`
    /// for the file; `MEMORY_LIMIT`, `OUT_OF_MEMORY`; `KERNEL_REFUSED` when a kernel fails its self-test; `ABORTED`.
    pub fn load(
        path: &Path,
        config: &EngineConfig,
        progress: &mut (dyn FnMut(LoadProgress) -> ControlFlow<()> + Send),
    ) -> Result<Self, EngineError> {
        let started = Instant::now();
        config.validate()?;
        let source = ModelSource::open_with(path, &config.all_overrides()?)?;
        let context_length = config.context_for(source.config().max_position_embeddings)?;
        config.eviction.validate(context_length)?;
        let kernels = config.kernels()?;
        let options = load_options(config, &source)?;
        admit(config, &source, &options)?;
        let lease = Lease::with(config.lease())?;
        let arena = arena(config);
        let (text, model) = beside(
            || text(&source),
            |stop| {
                let mut progress = |loaded| match stop.load(Ordering::Relaxed) {
                    true => ControlFlow::Break(()),
                    false => progress(loaded),
                };
                Model::load(&source, &options, &arena, &lease, &mut progress)
            },
        )?;
        let ((tokenizer, chat), mut model) = (text?, model?);
        if let Some(rank) = config.value_rank {
            let given = config.calibration.clone();
            let calibration = given.unwrap_or_else(|| Calibration::default_path(path));
            let calibration =
                Calibration::load(&calibration, source.config(), model.fingerprint().text())?;
            model.compress_values(&calibration, rank, &arena)?;
        }
        let tuning = tuning::tune(&mut model, config, &lease, &arena)?;
        let limits = limits(config, source.config().vocab_size);
        let mut state = RunState::new(
            &model,
            &arena,
            limits.prefill_chunk + limits.max_sequences,
            limits.score_chunk + limits.max_sequences,
        )?;
        let mut cache = cache(config, &model, context_length, &arena)?;
        let head_screening = screening::choose(
            &mut model,
            options.head_screening,
            &mut state,
            &mut cache,
            &lease,
        )?;
        let beside = config.draft_model.as_deref().map(|path| {
            let main = (&tokenizer, model.config().vocab_size);
            let blocks = cache.config().blocks;
            Draft::load(path, config, main, blocks, &lease, &arena, progress)
        });
        let draft = beside.transpose()?;
        let c = model.config();
        let info = ModelInfo {
            path: path.to_owned(),
            architecture: c.architecture.name().to_owned(),
            name: source
                .metadata()
                .get_str("general.name")
                .ok()
                .map(str::to_owned),
            fingerprint: Arc::clone(model.fingerprint()),
            warnings: (source.warnings().into_iter())
                .chain(warnings_of(&tokenizer))
                .collect(),
            parameters: source
                .tensors()
                .iter()
                .map(|t| t.rows as u64 * t.cols as u64)
                .sum(),
            file_bytes: source.file_bytes(),
            layers: c.num_hidden_layers,
            hidden_size: c.hidden_size,
            intermediate_size: c.intermediate_size,
            attention_heads: c.num_attention_heads,
            key_value_heads: c.num_key_value_heads,
            vocab_size: c.vocab_size,
            trained_context_length: c.max_position_embeddings,
            context_length,
            kv_tokens: cache.config().blocks * BLOCK_TOKENS,
            max_sequences: config.max_sequences,
            kv: config.kv,
            value_rank: cache.config().value_dim,
            kv_bytes: cache.bytes(),
            activations: model.activations(),
            head: model.head(),
            head_screening,
            level: kernels.level(),
            threads: lease.threads(),
            nodes: nodes(&lease),
            memory: memory(&lease),
            kernels: model
                .kernel_names()
                .into_iter()
                .map(|name| name.to_string())
                .collect(),
            packings: model.packings(),
            packed_bytes: model.packed_bytes(),
            weight_bytes_per_token: model.weight_bytes_per_token(),
            has_chat_template: chat.is_some(),
            quantized: model.quantized().to_vec(),
            tuning,
            draft: draft
                .as_ref()
                .zip(config.draft_model.clone())
                .map(|(draft, path)| DraftInfo {
                    path,
                    packed_bytes: draft.model().packed_bytes(),
                    weight_bytes_per_token: draft.model().weight_bytes_per_token(),
                    kv_bytes: draft.cache_bytes(),
                    cost: speculation::cost(draft.model(), &model),
                }),
            load_time: started.elapsed(),
        };
        drop(source);
        let engine = start(
            config, model, state, cache, lease, draft, tokenizer, chat, limits, info, arena,
        )?;
        if config.warm_up {
            engine.warm_up()?;
        }
        Ok(engine)
    }

    /// Computes a short prompt and then a single token, whose results nobody reads.
    fn warm_up(&self) -> Result<(), EngineError> {
        let context = self.model_info().context_length;
        for tokens in [WARM_UP_TOKENS.min(context), 1] {
            let (sender, received) = mpsc::channel();
            // The receiver lives until the answer is there.
            let reply = Box::new(move |answer| drop(sender.send(answer)));
            let _request = self.logits(vec![0; tokens], false, 0, reply)?;
            received.recv().map_err(|_| EngineError::Disposed)??;
        }
        Ok(())
    }
}

/// The tokenizer and, where the model has one, its chat template.
fn text(source: &ModelSource) -> Result<(Tokenizer, Option<Chat>), EngineError> {
    let tokenizer = tokenizer(source)?;
    // A template that does not parse fails chats, not the load.
    let chat = tokenizer
        .chat_template()
        .map(|template| Chat::new(template, &tokenizer));
    Ok((tokenizer, chat))
}

/// Both results, of which the first is made on a thread of its own meanwhile; where it fails, the flag tells the second to stop.
///
/// # Errors
/// [`EngineError::Panicked`], [`EngineError::Thread`].
fn beside<A: Send, B>(
    first: impl FnOnce() -> Result<A, EngineError> + Send,
    second: impl FnOnce(&AtomicBool) -> B,
) -> Result<(Result<A, EngineError>, B), EngineError> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let work = || {
            let result = first();
            stop.store(result.is_err(), Ordering::Relaxed);
            result
        };
        let thread = thread::Builder::new().name("ryz-text".to_owned());
        let thread = thread.stack_size(frontend::STACK);
        let thread = thread.spawn_scoped(scope, work);
        let thread = thread.map_err(|source| EngineError::Thread { source })?;
        let second = second(&stop);
        let first = thread.join().map_err(|panic| EngineError::Panicked {
            message: panic_message(panic.as_ref()),
        })?;
        Ok((first, second))
    })
}

/// Where the engine's memory comes from.
pub(crate) fn arena(config: &EngineConfig) -> Arena {
    let arena_config = ArenaConfig {
        limit: config.memory_limit,
        huge_pages: config.huge_pages,
        ..ArenaConfig::default()
    };
    match &config.memory_policy {
        Some(policy) => Arena::with_policy(arena_config, policy.clone()),
        None => Arena::new(arena_config),
    }
}

/// The nodes of bound threads.
fn nodes(lease: &Lease) -> Vec<usize> {
    let Placement::Bound { spots } = lease.placement() else {
        return Vec::new();
    };
    let mut nodes: Vec<usize> = spots.iter().map(|spot| spot.node).collect();
    nodes.dedup();
    nodes
}

fn memory(lease: &Lease) -> &'static str {
    match (lease.memory_nodes().is_empty(), lease.groups().len()) {
        (true, _) => "any",
        (false, 1) => "interleaved",
        (false, _) => "local",
    }
}

/// What is probably wrong with the text side of a model: its vocabulary, and how that splits text.
///
/// # Errors
/// Those of [`Engine::load`] about it.
pub fn text_warnings(source: &ModelSource) -> Result<Vec<String>, EngineError> {
    Ok(warnings_of(&tokenizer(source)?).collect())
}

fn warnings_of(tokenizer: &Tokenizer) -> impl Iterator<Item = String> {
    tokenizer.warnings().iter().map(ToString::to_string)
}

/// The tokenizer of a GGUF file's metadata, or of the files beside a Hugging Face model.
pub(crate) fn tokenizer(source: &ModelSource) -> Result<Tokenizer, EngineError> {
    match source.folder() {
        Some(folder) => folder_tokenizer(folder, TOKENIZER_JSON),
        None => Ok(Tokenizer::from_gguf(source.metadata())?),
    }
}

/// The tokenizer of a GGUF file of any architecture, which may hold nothing else, of a
/// `tokenizer.json`, or of the folder that holds one.
///
/// # Errors
/// Those of [`Engine::load`] about it.
pub fn open_tokenizer(path: &Path, overrides: &Overrides) -> Result<Tokenizer, EngineError> {
    if path.is_dir() {
        return folder_tokenizer(&Folder::new(path, overrides)?, TOKENIZER_JSON);
    }
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    if name.ends_with(".json") {
        let folder = path.parent().unwrap_or(Path::new(""));
        return folder_tokenizer(&Folder::new(folder, overrides)?, name);
    }
    let metadata = gguf_metadata(path, overrides)?;
    Ok(Tokenizer::from_gguf(&metadata)?)
}

const TOKENIZER_JSON: &str = "tokenizer.json";

/// The tokenizer of a Hugging Face folder, in the file `name`.
fn folder_tokenizer(folder: &Folder, name: &str) -> Result<Tokenizer, EngineError> {
    let read = |name| folder.read(name);
    let tokenizer = read(name)?.ok_or_else(|| EngineError::MissingFile {
        folder: folder.path().to_owned(),
        name: name.to_owned(),
    })?;
    let tokenizer_config = read("tokenizer_config.json")?;
    let generation_config = read("generation_config.json")?;
    let chat_template = read("chat_template.jinja")?;
    let legacy_template = read("chat_template.json")?;
    let tool_use_template = read(HfFiles::TOOL_USE)?;
    Ok(Tokenizer::from_hf(&HfFiles {
        tokenizer: &tokenizer,
        tokenizer_config: tokenizer_config.as_deref(),
        generation_config: generation_config.as_deref(),
        chat_template: chat_template.as_deref(),
        legacy_template: legacy_template.as_deref(),
        tool_use_template: tool_use_template.as_deref(),
    })?)
}

/// Starts the engine's threads.
#[expect(
    clippy::too_many_arguments,
    reason = "the parts of one engine, put together in one place"
)]
fn start(
    config: &EngineConfig,
    model: Model,
    state: RunState,
    cache: KvCache,
    lease: Lease,
    draft: Option<Draft>,
    tokenizer: Tokenizer,
    chat: Option<Chat>,
    limits: Limits,
    info: ModelInfo,
    arena: Arena,
) -> Result<Engine, EngineError> {
    let (commands, received) = mpsc::channel();
    let (texts, received_texts) = mpsc::channel();
    let shared = Arc::new(EngineState::new(commands, info.layers));
    let context_length = info.context_length;
    let pieces = tokenizer.clone();
    let vocab = Vocab {
        size: info.vocab_size,
        end_tokens: tokenizer.end_of_generation().to_vec(),
        piece: Arc::new(move |id| pieces.token_bytes(id).to_vec()),
    };
    let pool = BlockPool::new(cache.config().blocks);
    let view = CacheView {
        blocks: pool.view().clone(),
        address: cache.address(),
    };
    let parts = ExecutorParts {
        model,
        state,
        cache,
        pool,
        prefix_cache: config.prefix_cache,
        compact_above: config.compact_above,
        lease,
        draft,
        tokenizer: tokenizer.clone(),
        context_length,
        limits,
        shared: Arc::clone(&shared),
    };
    let front_texts = texts.clone();
    let (front_tokenizer, front_shared) = (tokenizer.clone(), Arc::clone(&shared));
    let chat = chat.map(Arc::new);
    let guides = Guides::new(GuidesParts {
        tokenizer: tokenizer.clone(),
        vocab_size: info.vocab_size,
        chat: chat.clone(),
        texts: texts.clone(),
        shared: Arc::clone(&shared),
    });
    let inner = Inner {
        shared,
        texts,
        threads: Mutex::new(Vec::new()),
        tokenizer,
        chat,
        guides,
        vocab,
        info,
        arena,
        cache: view,
        max_queue: config.max_queue,
        eviction: config.eviction,
        next_id: AtomicU64::new(1), // 0 is nobody
    };
    let engine = Engine::new(inner);
    engine.adopt(frontend::spawn("ryz-engine", move || {
        executor::run(parts, &received);
        ryz_tmac::trim_heap();
    })?);
    engine.adopt(frontend::spawn("ryz-tokenize", move || {
        frontend::run(
            &received_texts,
            &front_texts,
            &front_tokenizer,
            context_length,
            &front_shared,
        );
    })?);
    Ok(engine)
}

pub(crate) fn limits(config: &EngineConfig, vocab_size: usize) -> Limits {
    let row = vocab_size.max(1).saturating_mul(size_of::<f32>());
    Limits {
        max_sequences: config.max_sequences,
        prefill_chunk: config.prefill_chunk,
        score_chunk: (SCORE_LOGITS_BYTES / row).clamp(1, config.prefill_chunk),
        patience: PATIENCE,
    }
}

/// The cache: what was asked for, or two contexts, or one when two do not fit the memory there is.
fn cache(
    config: &EngineConfig,
    model: &Model,
    context: usize,
    arena: &Arena,
) -> Result<KvCache, EngineError> {
    let with = |blocks| {
        let shape = kv_config(config, model.config(), model.stored_value_dim(), blocks);
        KvCache::new(arena, shape)
    };
    let wanted = kv_blocks(config, context)?;
    match with(wanted.most) {
        Err(_) if wanted.least < wanted.most => Ok(with(wanted.least)?),
        result => Ok(result?),
    }
}

/// Blocks of a cache.
pub(crate) struct KvBlocks {
    pub most: usize,
    /// What is taken when the memory does not allow `most`.
    pub least: usize,
}

pub(crate) fn kv_blocks(config: &EngineConfig, context: usize) -> Result<KvBlocks, EngineError> {
    let one = blocks_for(context);
    let Some(tokens) = config.kv_tokens else {
        return Ok(KvBlocks {
            most: one * config.max_sequences.min(2),
            least: one,
        });
    };
    if tokens < context {
        let expected = format!("at least one context of {context}");
        return Err(EngineError::invalid("kvTokens", expected, tokens));
    }
    let blocks = blocks_for(tokens);
    Ok(KvBlocks {
        most: blocks,
        least: blocks,
    })
}

pub(crate) fn kv_config(
    config: &EngineConfig,
    model: &ModelConfig,
    value_dim: usize,
    blocks: usize,
) -> KvCacheConfig {
    KvCacheConfig {
        layers: model.num_hidden_layers,
        kv_heads: model.num_key_value_heads,
        key_dim: model.key_head_dim,
        value_dim,
        dtype: config.kv,
        blocks,
        // Where a sequence's last step began and ended.
        tails: 2 * config.max_sequences,
    }
}
