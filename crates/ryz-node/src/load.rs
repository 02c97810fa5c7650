//! Loading a model on a thread of its own.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use napi::bindgen_prelude::{ClassInstance, FnArgs, Function};
use napi::threadsafe_function::{
    ThreadsafeCallContext, ThreadsafeFunction, ThreadsafeFunctionCallMode,
};
use napi::{Env, Result, Status};
use napi_derive::napi;
use ryz_engine::{BatchLayout, Engine, EngineConfig, Level, LoadProgress, Packing};
use ryz_model::{ModelError, Overrides};

use crate::answer::{Failure, catching, failure, named};
use crate::engine::{NativeCancel, NativeEngine, Slot};
use crate::eviction::EvictionPolicy;
use crate::info::{ACTIVATIONS, HEAD_SCREENING, HEAD_TYPES, KV_TYPES, NUMA, PINNING};
use crate::jobs::{self, Ending};
use crate::memory::{HUGE_PAGES, NativeMemoryPolicy, built_in};
use crate::quantizer::{NativeQuantizer, built_in_quantizer};

/// What TypeScript asks for, already checked there.
#[napi(object, object_to_js = false)]
#[derive(Default)]
pub struct Config {
    /// Values of the metadata, as a JSON object.
    pub overrides: Option<String>,
    /// A chat template.
    pub chat_template: Option<String>,
    /// The file of one.
    pub chat_template_file: Option<String>,
    /// Computing threads.
    pub threads: Option<u32>,
    /// Instruction set.
    pub level: Option<String>,
    /// How inputs of ternary layers are quantised.
    pub activations: Option<String>,
    /// Type of the key-value cache.
    pub kv: Option<String>,
    /// Dimensions that the cache keeps of each value.
    pub value_rank: Option<u32>,
    /// The calibration for it.
    pub calibration: Option<String>,
    /// The model that proposes tokens.
    pub draft_model: Option<String>,
    /// Longest context.
    pub context_length: Option<u32>,
    /// Most prompt tokens in a step.
    pub prefill_chunk: Option<u32>,
    /// Most requests computed together.
    pub max_sequences: Option<u32>,
    /// Most requests that wait.
    pub max_queue: Option<u32>,
    /// Most bytes.
    pub memory_limit: Option<f64>,
    /// Pages of large buffers.
    pub huge_pages: Option<String>,
    /// A memory policy that comes with the engine.
    pub memory_policy: Option<String>,
    /// Bytes of the policy `limit`.
    pub memory_policy_limit: Option<f64>,
    /// Whether weights are read in place in the mapped file.
    pub map_weights: Option<bool>,
    /// Whether what a squared ReLU makes 0 is left out.
    pub sparsity: Option<bool>,
    /// What the output matrix is multiplied as.
    pub head: Option<String>,
    /// Whether rows of the head are left out that cannot matter.
    pub head_screening: Option<String>,
    /// Fragmentation of the cache above which its blocks are moved together.
    pub compact_above: Option<f64>,
    /// Whether blocks are kept for requests that begin alike.
    pub prefix_cache: Option<bool>,
    /// What requests forget.
    pub eviction: Option<EvictionPolicy>,
    /// How activations of a batch lie.
    pub batch_layout: Option<String>,
    /// How densely ternary weights are packed, where it is not to be measured.
    pub packing: Option<String>,
    /// Cache lines ahead.
    pub prefetch: Option<u32>,
    /// Whether it is measured how weights are streamed best.
    pub auto_tune: Option<bool>,
    /// Whether what was measured is kept in the user's cache folder.
    pub keep_tuning: Option<bool>,
    /// A quantiser that comes with the engine.
    pub quantizer: Option<String>,
    /// What threads are bound to.
    pub pinning: Option<String>,
    /// Where weights lie.
    pub numa: Option<String>,
    /// The only memory node.
    pub node: Option<u32>,
    /// Whether something is computed before the load is done.
    pub warm_up: Option<bool>,
}

/// How far a load has come.
#[napi(object)]
pub struct Progress {
    /// Bytes read and packed.
    pub loaded_bytes: f64,
    /// Bytes in all.
    pub total_bytes: f64,
}

type LoadArgs = FnArgs<(Option<Failure>, Option<NativeEngine>, Option<Progress>)>;

enum Message {
    Progress(Progress),
    Loaded(Slot),
    Failed(Failure),
}

type Callback = ThreadsafeFunction<Message, (), LoadArgs, Status, false>;

/// A loaded engine on its way to JavaScript: if the environment ends before it arrives, it is ended too.
#[derive(Default)]
struct Product(Arc<Mutex<Option<Slot>>>);

impl Ending for Product {
    fn end(&mut self) {
        if let Some(mut slot) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            slot.end();
        }
    }

    fn is_over(&self) -> bool {
        // The loading thread and JavaScript's queue hold the others.
        let slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slot.as_ref()
            .map_or(Arc::strong_count(&self.0) == 1, Ending::is_over)
    }
}

/// Loads a model. The callback gets progress any number of times, then a failure or an engine.
#[napi(catch_unwind)]
pub fn load_engine(
    env: Env,
    path: String,
    config: Config,
    with_progress: bool,
    quantizer: Option<ClassInstance<'_, NativeQuantizer>>,
    memory_policy: Option<ClassInstance<'_, NativeMemoryPolicy>>,
    #[napi(
        ts_arg_type = "(failure: Failure | null, engine: NativeEngine | null, progress: Progress | null) => void"
    )]
    on_message: Function<'_, LoadArgs, ()>,
) -> Result<NativeCancel> {
    let callback: Callback = on_message
        .build_threadsafe_function::<Message>()
        .build_callback(|context: ThreadsafeCallContext<Message>| {
            Ok(match context.value {
                Message::Progress(progress) => (None, None, Some(progress)).into(),
                Message::Loaded(slot) => (None, Some(NativeEngine::new(slot)), None).into(),
                Message::Failed(failure) => (Some(failure), None, None).into(),
            })
        })?;
    let quantizer = quantizer.map(|quantizer| quantizer.shared());
    let policy = memory_policy.map(|policy| policy.shared());
    let product = Product::default();
    let kept = Arc::clone(&product.0);
    let cancelled = jobs::spawn(&env, "ryz-load", move |cancelled| {
        let send = |message| {
            callback.call(message, ThreadsafeFunctionCallMode::NonBlocking);
        };
        let progress = |progress| {
            if with_progress {
                send(Message::Progress(progress));
            }
        };
        send(
            match catching(|| {
                let mut config = engine_config(config)?;
                config.quantizer = quantizer.or(config.quantizer);
                config.memory_policy = policy.or(config.memory_policy);
                load(&path, &config, cancelled, progress)
            }) {
                Ok(engine) => {
                    let slot = Slot::new(engine);
                    *kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(slot.clone());
                    Message::Loaded(slot)
                }
                Err(failure) => Message::Failed(failure),
            },
        );
    })?;
    // Kept after the thread: endings run in order, so the thread is over when its product is looked at.
    jobs::keep(&env, Box::new(product))?;
    Ok(NativeCancel::new(move || {
        cancelled.store(true, Ordering::Relaxed)
    }))
}

fn load(
    path: &str,
    config: &EngineConfig,
    cancelled: &AtomicBool,
    report: impl Fn(Progress) + Send + Sync,
) -> std::result::Result<Engine, Failure> {
    let mut reported = None;
    let mut progress = |progress: LoadProgress| {
        let percent = progress.done_bytes * 100 / progress.total_bytes.max(1);
        if reported != Some(percent) {
            reported = Some(percent);
            report(Progress {
                loaded_bytes: progress.done_bytes as f64,
                total_bytes: progress.total_bytes as f64,
            });
        }
        if cancelled.load(Ordering::Relaxed) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    Engine::load(Path::new(path), config, &mut progress).map_err(|error| failure(&error))
}

pub(crate) fn engine_config(config: Config) -> std::result::Result<EngineConfig, Failure> {
    let size = |value: u32| value as usize;
    let defaults = EngineConfig::default();
    let level = config
        .level
        .map(|name| Level::from_str(&name).map_err(|_| Failure::unknown("level", &name)));
    let batch_layout = config.batch_layout.map(|name| {
        BatchLayout::from_str(&name).map_err(|_| Failure::unknown("batchLayout", &name))
    });
    let packing = config
        .packing
        .map(|name| Packing::from_str(&name).map_err(|_| Failure::unknown("packing", &name)));
    let activations = config
        .activations
        .map(|name| named("activations", &ACTIVATIONS, &name));
    let head = config.head.map(|name| named("head", &HEAD_TYPES, &name));
    let head_screening = config
        .head_screening
        .map(|name| named("headScreening", &HEAD_SCREENING, &name));
    let kv = config.kv.map(|name| named("kv", &KV_TYPES, &name));
    let pinning = config.pinning.map(|name| named("pinning", &PINNING, &name));
    let huge_pages = config
        .huge_pages
        .map(|name| named("hugePages", &HUGE_PAGES, &name));
    let policy = config
        .memory_policy
        .map(|name| built_in(&name, config.memory_policy_limit));
    let quantizer = config.quantizer.map(|name| built_in_quantizer(&name));
    let eviction = config.eviction.map(EvictionPolicy::convert).transpose()?;
    let numa = config.numa.map(|name| named("numa", &NUMA, &name));
    let overrides = config.overrides.map(|json| Overrides::parse(&json));
    let overrides = overrides.transpose().map_err(|error| {
        let error = ModelError::Overrides(error);
        Failure::new(error.code(), &error)
    })?;
    Ok(EngineConfig {
        overrides: overrides.unwrap_or_default(),
        chat_template: config.chat_template,
        chat_template_file: config.chat_template_file.map(PathBuf::from),
        threads: config.threads.map(size),
        level: level.transpose()?,
        batch_layout: batch_layout.transpose()?,
        packing: packing.transpose()?,
        prefetch: config.prefetch.map(size),
        auto_tune: config.auto_tune.unwrap_or(defaults.auto_tune),
        keep_tuning: config.keep_tuning.unwrap_or(defaults.keep_tuning),
        activations: activations.transpose()?,
        kv: kv.transpose()?.unwrap_or(defaults.kv),
        value_rank: config.value_rank.map(size),
        calibration: config.calibration.map(PathBuf::from),
        draft_model: config.draft_model.map(PathBuf::from),
        context_length: config.context_length.map(size),
        prefill_chunk: config.prefill_chunk.map_or(defaults.prefill_chunk, size),
        max_sequences: config.max_sequences.map_or(defaults.max_sequences, size),
        max_queue: config.max_queue.map_or(defaults.max_queue, size),
        memory_limit: config.memory_limit.map(|bytes| bytes as usize),
        huge_pages: huge_pages.transpose()?.unwrap_or(defaults.huge_pages),
        memory_policy: policy.transpose()?,
        map_weights: config.map_weights.unwrap_or(defaults.map_weights),
        sparsity: config.sparsity.unwrap_or(defaults.sparsity),
        head: head.transpose()?.unwrap_or(defaults.head),
        head_screening: head_screening
            .transpose()?
            .unwrap_or(defaults.head_screening),
        compact_above: config.compact_above.unwrap_or(defaults.compact_above),
        prefix_cache: config.prefix_cache.unwrap_or(defaults.prefix_cache),
        eviction: eviction.unwrap_or(defaults.eviction),
        quantizer: quantizer.transpose()?,
        pinning: pinning.transpose()?.unwrap_or(defaults.pinning),
        numa: numa.transpose()?.unwrap_or(defaults.numa),
        node: config.node.map(size),
        warm_up: config.warm_up.unwrap_or(defaults.warm_up),
        ..defaults
    })
}
