//! What an engine is loaded with.

use std::path::{Path, PathBuf};

use ryz_kernels::{BatchLayout, KernelOptions, Kernels, Level, Packing};
use ryz_kvcache::KvDType;
use ryz_model::{
    Activations, HeadScreening, HeadType, LoadOptions, Overrides, PARALLEL_FROM, SharedQuantizer,
};
use ryz_numa::{LeaseOptions, Numa, Pinning};
use ryz_tmac::{HugePages, InputFile, PrefetchManager, SharedPolicy};

use crate::error::EngineError;
use crate::eviction::Eviction;

/// Options of [`crate::Engine::load`]; each has a default.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Values in the place of the file's own, known before anything reads it.
    pub overrides: Overrides,
    /// A chat template in the place of the file's own.
    pub chat_template: Option<String>,
    /// The same, in a file.
    pub chat_template_file: Option<PathBuf>,
    /// Threads that compute; default the physical cores this process may use, within its CPU quota.
    pub threads: Option<usize>,
    /// The instruction set; default the best of this machine. Every level gives the same logits.
    pub level: Option<Level>,
    /// How int8 activations of many tokens lie while ternary weights multiply them: row by row, or in tiles of 32 tokens;
    /// default what was measured to be faster for the level. Both give the same logits.
    pub batch_layout: Option<BatchLayout>,
    /// How densely ternary weights are packed, where they can be; default what `auto_tune` finds for each kind of matrix, else 2
    /// bits. Memory is planned for 2 bits; both give the same logits.
    pub packing: Option<Packing>,
    /// How many cache lines ahead streams of weights are asked for, up to [`PrefetchManager::MAX_LINES`]; 0 for not at all;
    /// default what `auto_tune` finds, else [`PrefetchManager::DEFAULT_LINES`].
    pub prefetch: Option<usize>,
    /// Whether it is measured for this machine how large matrices are streamed best, at most a quarter of a second when a
    /// kind of matrix is met for the first time; default true. Tokens are the same.
    pub auto_tune: bool,
    /// Whether what that found is kept in the user's cache folder, and looked up there. Default true.
    pub keep_tuning: bool,
    /// How the inputs of ternary layers are quantised; default as the model was trained.
    pub activations: Option<Activations>,
    /// Number type of the key-value cache; default int8.
    pub kv: KvDType,
    /// Dimensions that the cache keeps of each value, by the projection of a calibration; default all channels, without one.
    pub value_rank: Option<usize>,
    /// The calibration for `value_rank`; default the one beside the model ([`ryz_model::Calibration::default_path`]).
    pub calibration: Option<PathBuf>,
    /// Longest sequence, prompt and answer together; default the model's own, at most 4,096.
    pub context_length: Option<usize>,
    /// Positions the cache holds for all sequences together; default two contexts (one, when the memory limit does not
    /// allow two), at most `max_sequences` of them.
    pub kv_tokens: Option<usize>,
    /// Most prompt tokens in one step; default 512. A cancel takes effect between layers of a step.
    pub prefill_chunk: usize,
    /// Most requests computed together; default 8.
    pub max_sequences: usize,
    /// Most requests that wait for their first step; default 128. One more is refused.
    pub max_queue: usize,
    /// Most bytes of weights, cache and scratch; default no limit.
    pub memory_limit: Option<usize>,
    /// Fragmentation of the cache (which part of the blocks up to the last one in use is free) above which its blocks are
    /// moved together when a request ends: 0 to 1, which is never; default 0.5.
    pub compact_above: f64,
    /// Whether blocks of keys and values are kept for requests that begin with the same tokens; default true.
    pub prefix_cache: bool,
    /// A smaller model with the same tokens, which proposes what may come next ([`crate::GenerateRequest::draft`]); default
    /// none.
    pub draft_model: Option<PathBuf>,
    /// What requests forget when they grow long, where they do not say; default nothing.
    pub eviction: Eviction,
    /// Pages of large buffers; default transparent huge pages.
    pub huge_pages: HugePages,
    /// Asked before memory is mapped; default nobody.
    pub memory_policy: Option<SharedPolicy>,
    /// Whether prepacked and dense matrices are read in place in the mapped file; default false. A file that is cut short
    /// while the engine is there kills the process.
    pub map_weights: bool,
    /// Whether what a squared ReLU makes 0 is left out of the products that follow; default true. Tokens are the same.
    pub sparsity: bool,
    /// What the output matrix is multiplied as; default what the file has. Fewer bits are read faster and cost likelihood
    /// (`docs/head.md`).
    pub head: HeadType,
    /// Whether rows of a head of 16 or 32 bits are left out that cannot matter; default where it pays, is allowed by
    /// `memory_limit` and weights are not mapped. Tokens are the same (`docs/head.md`).
    pub head_screening: HeadScreening,
    /// How many bytes a layer a step reads at least that is shared among threads ([`ryz_model::LoadOptions::parallel_from`]); default
    /// [`PARALLEL_FROM`].
    pub parallel_from: usize,
    /// What makes float projections ternary while they are loaded; default nothing, but for master weights, which absmean
    /// makes ternary as their training did.
    pub quantizer: Option<SharedQuantizer>,
    /// What computing threads are bound to; default a core each.
    pub pinning: Pinning,
    /// Where weights lie on a machine with several memory nodes; default near the threads that read them.
    pub numa: Numa,
    /// The only memory node whose cores and memory are used, by the system's index; default all.
    pub node: Option<usize>,
    /// Whether a prompt and a token are computed before the load is done, so that the first request finds the memory
    /// mapped and the caches warm; default false.
    pub warm_up: bool,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            overrides: Overrides::default(),
            chat_template: None,
            chat_template_file: None,
            threads: None,
            level: None,
            batch_layout: None,
            packing: None,
            prefetch: None,
            auto_tune: true,
            keep_tuning: true,
            activations: None,
            kv: KvDType::default(),
            value_rank: None,
            calibration: None,
            context_length: None,
            kv_tokens: None,
            prefill_chunk: 512,
            max_sequences: 8,
            max_queue: 128,
            memory_limit: None,
            compact_above: 0.5,
            prefix_cache: true,
            draft_model: None,
            eviction: Eviction::None,
            huge_pages: HugePages::default(),
            memory_policy: None,
            map_weights: false,
            sparsity: true,
            head: HeadType::File,
            head_screening: HeadScreening::Auto,
            parallel_from: PARALLEL_FROM,
            quantizer: None,
            pinning: Pinning::default(),
            numa: Numa::default(),
            node: None,
            warm_up: false,
        }
    }
}

/// The context that is taken when none is asked for, if the model has as much.
const DEFAULT_CONTEXT: usize = 4096;

impl EngineConfig {
    /// All that is put in the place of the file's own.
    ///
    /// # Errors
    /// When the file of a chat template cannot be read.
    pub fn all_overrides(&self) -> Result<Overrides, EngineError> {
        let mut overrides = self.overrides.clone();
        if let Some(template) = &self.chat_template {
            overrides.set_chat_template(template.clone());
        }
        if let Some(path) = &self.chat_template_file {
            overrides.set_chat_template(template_of(path)?);
        }
        Ok(overrides)
    }

    /// Checks what can be checked without a model.
    pub fn validate(&self) -> Result<(), EngineError> {
        if let Some(threads) = self.threads {
            within("threads", threads, 1, 1024)?;
        }
        if let Some(calibration) = &self.calibration
            && self.value_rank.is_none()
        {
            let got = calibration.display();
            return Err(EngineError::invalid("calibration", "with valueRank", got));
        }
        if let Some(tokens) = self.kv_tokens {
            within("kvTokens", tokens, 1, 1 << 40)?;
        }
        if let Some(lines) = self.prefetch {
            within("prefetch", lines, 0, PrefetchManager::MAX_LINES)?;
        }
        within("prefillChunk", self.prefill_chunk, 1, 65_536)?;
        within("maxSequences", self.max_sequences, 1, 4096)?;
        within("maxQueue", self.max_queue, 1, 1 << 20)?;
        if let Some(limit) = self.memory_limit {
            within("memoryLimit", limit, 1, usize::MAX)?;
        }
        if !(0.0..=1.0).contains(&self.compact_above) {
            let got = self.compact_above;
            return Err(EngineError::invalid("compactAbove", "0 to 1", got));
        }
        Ok(())
    }

    /// The kernels, of options that are valid.
    pub(crate) fn kernels(&self) -> Result<Kernels, EngineError> {
        let kernels = Kernels::new(self.level.unwrap_or_else(Level::detect))?;
        Ok(kernels.with_options(KernelOptions {
            batch: self.batch_layout,
            prefetch: self
                .prefetch
                .map_or(PrefetchManager::default(), PrefetchManager::new),
        }))
    }

    /// How the model is read, by options that are valid, where there is memory for all that they allow.
    pub(crate) fn load_options(&self) -> Result<LoadOptions, EngineError> {
        Ok(LoadOptions {
            kernels: self.kernels()?,
            activations: self.activations,
            quantizer: self.quantizer.clone(),
            map_weights: self.map_weights,
            sparsity: self.sparsity,
            packing: self.packing.unwrap_or_default(),
            head: self.head,
            // An image is made of all of the head, which whoever maps a file does not want read.
            head_screening: match self.map_weights {
                true => HeadScreening::Off,
                false => self.head_screening,
            },
            parallel_from: self.parallel_from,
        })
    }

    /// The same for a draft model, which is used as its file has it.
    pub(crate) fn draft_load_options(&self) -> Result<LoadOptions, EngineError> {
        Ok(LoadOptions {
            activations: None,
            quantizer: None,
            head: HeadType::File,
            head_screening: HeadScreening::Off,
            ..self.load_options()?
        })
    }

    /// What threads the engine needs, and where.
    pub(crate) fn lease(&self) -> LeaseOptions {
        LeaseOptions {
            threads: self.threads,
            pinning: self.pinning,
            numa: self.numa,
            node: self.node,
        }
    }

    /// The context of an engine for a model that was made for `trained` positions.
    pub fn context_for(&self, trained: usize) -> Result<usize, EngineError> {
        let Some(wanted) = self.context_length else {
            return Ok(trained.min(DEFAULT_CONTEXT));
        };
        within("contextLength", wanted, 2, trained)?;
        Ok(wanted)
    }
}

/// The longest template that is read; real ones have some ten thousand bytes.
const MAX_TEMPLATE_BYTES: u64 = 1 << 20;

/// The text of a template's file.
fn template_of(path: &Path) -> Result<String, EngineError> {
    let file = InputFile::open(path).map_err(ryz_model::ModelError::from)?;
    if file.len() > MAX_TEMPLATE_BYTES {
        let expected = format!("a file of at most {MAX_TEMPLATE_BYTES} bytes");
        let got = format!("{} of {}", path.display(), file.len());
        return Err(EngineError::invalid("chatTemplate", expected, got));
    }
    let mut bytes = vec![0; file.len() as usize];
    let read = file.read_at(0, &mut bytes);
    read.map_err(ryz_model::ModelError::from)?;
    String::from_utf8(bytes)
        .map_err(|_| EngineError::invalid("chatTemplate", "UTF-8".to_owned(), path.display()))
}

fn within(option: &'static str, got: usize, low: usize, high: usize) -> Result<(), EngineError> {
    if (low..=high).contains(&got) {
        return Ok(());
    }
    Err(EngineError::invalid(
        option,
        format!("{low} to {high}"),
        got,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blamed(change: impl FnOnce(&mut EngineConfig)) -> &'static str {
        let mut config = EngineConfig::default();
        change(&mut config);
        match config.validate() {
            Err(EngineError::InvalidArgument { option, .. }) => option,
            other => panic!("expected an invalid argument, got {other:?}"),
        }
    }

    #[test]
    fn each_option_is_refused_by_name() {
        EngineConfig::default().validate().unwrap();
        assert_eq!(blamed(|c| c.threads = Some(0)), "threads");
        assert_eq!(blamed(|c| c.prefill_chunk = 0), "prefillChunk");
        assert_eq!(blamed(|c| c.max_sequences = 0), "maxSequences");
        assert_eq!(blamed(|c| c.max_queue = 0), "maxQueue");
        assert_eq!(blamed(|c| c.kv_tokens = Some(0)), "kvTokens");
        assert_eq!(blamed(|c| c.memory_limit = Some(0)), "memoryLimit");
        for wrong in [-0.1, 1.1, f64::NAN] {
            assert_eq!(blamed(|c| c.compact_above = wrong), "compactAbove");
        }
    }

    #[test]
    fn the_context_is_the_models_own_within_reason() {
        let with = |context_length| EngineConfig {
            context_length,
            ..Default::default()
        };
        assert_eq!(with(None).context_for(2048).unwrap(), 2048);
        assert_eq!(with(None).context_for(131_072).unwrap(), 4096);
        assert_eq!(with(Some(131_072)).context_for(131_072).unwrap(), 131_072);
        let error = with(Some(4097)).context_for(4096).unwrap_err();
        assert_eq!(error.code(), "INVALID_ARGUMENT");
        assert!(error.to_string().contains("contextLength"), "{error}");
    }
}
