//! From a path to an engine.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Instant;

use ryz_kvcache::{BLOCK_TOKENS, BlockPool, KvCache};
use ryz_model::{Calibration, LoadProgress, Model, ModelSource, RunState};
use ryz_numa::{Lease, Placement};
use ryz_tmac::Arena;
use ryz_tokenizer::Tokenizer;

use super::engine::{Engine, Inner};
use super::estimate::{admit, load_options};
use super::info::{DraftInfo, ModelInfo};
use crate::capacity::{arena, kv_blocks, kv_config, limits};
use crate::chat::Chat;
use crate::command::{Command, Commands};
use crate::config::EngineConfig;
use crate::error::EngineError;
use crate::executor::ExecutorParts;
use crate::guide::compiler::{Guides, GuidesParts};
use crate::memory::CacheView;
use crate::sampler::Vocab;
use crate::scheduler::Limits;
use crate::screening;
use crate::speculation::{self, Draft};
use crate::state::EngineState;
use crate::text::{tokenizer, warnings_of};
use crate::threads::{self, panic_message};
use crate::tuning;
use crate::{executor, frontend};

/// Tokens of the warm-up's prompt.
const WARM_UP_TOKENS: usize = 16;

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
        let thread = thread.stack_size(threads::STACK);
        let thread = thread.spawn_scoped(scope, work);
        let thread = thread.map_err(|source| EngineError::Thread { source })?;
        let second = second(&stop);
        let first = thread.join().map_err(|panic| EngineError::Panicked {
            message: panic_message(panic.as_ref()),
        })?;
        Ok((first, second))
    })
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
    let (sender, received) = mpsc::channel();
    let (texts, received_texts) = mpsc::channel();
    let commands = Commands::new(sender);
    let waker = commands.clone();
    let engine_state = EngineState::new(move || waker.send(Command::Wake), info.layers);
    let engine_state = Arc::new(engine_state);
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
        shared: Arc::clone(&engine_state),
    };
    let front_texts = texts.clone();
    let (front_tokenizer, front_state) = (tokenizer.clone(), Arc::clone(&engine_state));
    let front_commands = commands.clone();
    let chat = chat.map(Arc::new);
    let guides = Guides::new(GuidesParts {
        tokenizer: tokenizer.clone(),
        vocab_size: info.vocab_size,
        chat: chat.clone(),
        texts: texts.clone(),
        commands: commands.clone(),
        state: Arc::clone(&engine_state),
    });
    let inner = Inner {
        commands,
        state: engine_state,
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
    engine.adopt(threads::spawn("ryz-engine", move || {
        executor::run(parts, &received);
        ryz_tmac::trim_heap();
    })?);
    engine.adopt(threads::spawn("ryz-tokenize", move || {
        frontend::run(
            &received_texts,
            &front_texts,
            &front_tokenizer,
            context_length,
            &front_commands,
            &front_state,
        );
    })?);
    Ok(engine)
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
