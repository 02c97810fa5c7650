//! Learning a model's values on a text, and what storing them in fewer dimensions costs.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ryz_kvcache::{BlockId, BlockPool, KvCache};
use ryz_model::{
    AttentionStatistics, BatchSequence, Calibration, HeadScreening, LoadOptions, LogitDemand,
    Model, ModelSource, Outputs, RunState,
};
use ryz_numa::Lease;
use ryz_tmac::Arena;
use ryz_tokenizer::EncodeOptions;

use super::Engine;
use crate::capacity::{arena, kv_config, limits};
use crate::config::EngineConfig;
use crate::error::EngineError;
use crate::eviction::blocks_for;
use crate::jobs::check_logits;
use crate::math::log_sum_exp;
use crate::text::tokenizer;

/// Windows without which nothing can be learnt and measured.
const LEAST_WINDOWS: usize = 2;
/// One window of so many is kept from the calibration, to measure its cost on.
const HELD_OUT: usize = 5;

/// Options of [`Engine::calibrate`].
#[derive(Debug, Clone, Default)]
pub struct CalibrateOptions {
    /// Where the calibration goes; default beside the model ([`Calibration::default_path`]).
    pub output: Option<PathBuf>,
    /// Tokens that are computed together; default 512, or what the model was made for.
    pub window: Option<usize>,
    /// Dimensions of a value whose cost is measured; default ¾, ½, ⅜ and ¼ of its channels.
    pub ranks: Vec<usize>,
}

/// How far a calibration has come, in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CalibrateProgress {
    /// Tokens computed.
    pub done: usize,
    /// Tokens in all.
    pub total: usize,
}

/// What a number of dimensions costs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RankCost {
    /// Dimensions that are stored of each value.
    pub rank: usize,
    /// The part of the variance of attention outputs that they hold.
    pub kept: f64,
    /// Mean negative log-likelihood of the tokens that were held out.
    pub mean_nll: f64,
}

/// What was learnt, and what it costs to use.
#[derive(Debug, Clone, PartialEq)]
pub struct CalibrationReport {
    /// The file written.
    pub path: PathBuf,
    /// Tokens that were learnt from.
    pub tokens: usize,
    /// Tokens that costs were measured on: none of those.
    pub held_out: usize,
    /// Channels of a value.
    pub channels: usize,
    /// Mean negative log-likelihood of the tokens that were held out, values stored whole.
    pub mean_nll: f64,
    /// By number of dimensions, in the order asked for.
    pub ranks: Vec<RankCost>,
}

impl Engine {
    /// Learns the principal components of a model's values on a text, writes them to a file, and measures on the last fifth of
    /// the text, which was kept from it, what storing values in fewer dimensions costs ([`EngineConfig::value_rank`]). Of the
    /// configuration it takes what concerns computing. It ends soon once `cancel` is set.
    ///
    /// # Errors
    /// As [`Engine::load`]; `INVALID_ARGUMENT` when the text has less than two windows.
    pub fn calibrate(
        path: &Path,
        text: &str,
        options: &CalibrateOptions,
        config: &EngineConfig,
        progress: &mut (dyn FnMut(CalibrateProgress) + Send),
        cancel: &AtomicBool,
    ) -> Result<CalibrationReport, EngineError> {
        config.validate()?;
        let source = ModelSource::open_with(path, &config.all_overrides()?)?;
        let shape = source.config();
        let channels = shape.value_head_dim;
        let window = options
            .window
            .unwrap_or(512.min(shape.max_position_embeddings));
        if !(2..=shape.max_position_embeddings).contains(&window) {
            let expected = format!("2 to {}", shape.max_position_embeddings);
            return Err(EngineError::invalid("window", expected, window));
        }
        let default = [
            3 * channels / 4,
            channels / 2,
            3 * channels / 8,
            channels / 4,
        ];
        let ranks = match options.ranks.is_empty() {
            true => &default[..],
            false => &options.ranks,
        };
        for &rank in ranks {
            ryz_model::MemoryEstimate::value_projections(shape, rank)?;
        }
        let encode = EncodeOptions {
            add_special: false,
            parse_special: false,
        };
        let tokens = tokenizer(&source)?.encode(text, encode)?;
        let windows: Vec<&[u32]> = tokens.chunks_exact(window).collect();
        if windows.len() < LEAST_WINDOWS {
            let expected = format!("at least {} tokens", LEAST_WINDOWS * window);
            return Err(EngineError::invalid("text", expected, tokens.len()));
        }
        let (learnt, held_out) = windows.split_at(windows.len() - windows.len().div_ceil(HELD_OUT));
        let mut run = Run::load(&source, config, window, progress, cancel)?;
        run.total = window * (learnt.len() + held_out.len() * (1 + ranks.len()));

        let statistics = Arc::new(AttentionStatistics::new(run.model.config()));
        run.state.observe(Some(Arc::clone(&statistics)));
        for window in learnt {
            run.window(window, false)?;
        }
        run.state.observe(None);
        let count = learnt.len() * window;
        let fingerprint = run.model.fingerprint().text().to_owned();
        let calibration = statistics.calibration(fingerprint, count as u64, cancel)?;
        let mean_nll = run.mean_nll(held_out)?;
        let costs = ranks.iter().map(|&rank| {
            run.compress(&calibration, rank)?;
            Ok(RankCost {
                rank,
                kept: calibration.kept(rank),
                mean_nll: run.mean_nll(held_out)?,
            })
        });
        let costs = costs.collect::<Result<_, EngineError>>()?;
        let default_path = || Calibration::default_path(path);
        let output = options.output.clone().unwrap_or_else(default_path);
        calibration.save(&output)?;
        Ok(CalibrationReport {
            path: output,
            tokens: count,
            held_out: held_out.len() * (window - 1),
            channels,
            mean_nll,
            ranks: costs,
        })
    }
}

/// A model with a cache for one sequence.
struct Run<'a> {
    config: &'a EngineConfig,
    arena: Arena,
    lease: Lease,
    model: Model,
    state: RunState,
    cache: KvCache,
    blocks: Vec<BlockId>,
    score_chunk: usize,
    progress: &'a mut (dyn FnMut(CalibrateProgress) + Send),
    cancel: &'a AtomicBool,
    done: usize,
    total: usize,
}

impl<'a> Run<'a> {
    fn load(
        source: &ModelSource,
        config: &'a EngineConfig,
        window: usize,
        progress: &'a mut (dyn FnMut(CalibrateProgress) + Send),
        cancel: &'a AtomicBool,
    ) -> Result<Self, EngineError> {
        let lease = Lease::with(config.lease())?;
        let arena = arena(config);
        let options = LoadOptions {
            head_screening: HeadScreening::Off,
            ..config.load_options()?
        };
        let begun = CalibrateProgress { done: 0, total: 1 };
        let mut loading = |_| {
            progress(begun);
            match cancel.load(Ordering::Relaxed) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        };
        let model = Model::load(source, &options, &arena, &lease, &mut loading)?;
        let limits = limits(config, model.config().vocab_size);
        let state = RunState::new(&model, &arena, limits.prefill_chunk, limits.score_chunk)?;
        let count = blocks_for(window);
        let mut pool = BlockPool::new(count);
        let shape = kv_config(config, model.config(), model.stored_value_dim(), count);
        Ok(Self {
            cache: KvCache::new(&arena, shape)?,
            blocks: (0..count).filter_map(|_| pool.allocate()).collect(),
            score_chunk: limits.score_chunk,
            config,
            arena,
            lease,
            model,
            state,
            progress,
            cancel,
            done: 0,
            total: 0,
        })
    }

    /// Stores values in `rank` dimensions from now on.
    fn compress(&mut self, calibration: &Calibration, rank: usize) -> Result<(), EngineError> {
        self.model.compress_values(calibration, rank, &self.arena)?;
        let dim = self.model.stored_value_dim();
        let shape = kv_config(self.config, self.model.config(), dim, self.blocks.len());
        self.cache = KvCache::new(&self.arena, shape)?;
        Ok(())
    }

    /// Computes a window on a fresh cache; the sum of its tokens' negative log-likelihoods when it is scored.
    fn window(&mut self, tokens: &[u32], scored: bool) -> Result<f64, EngineError> {
        let (outputs, chunk) = match scored {
            true => (Outputs::All, self.score_chunk),
            false => (Outputs::None, self.state.max_tokens()),
        };
        self.cache.keep_tails(std::iter::empty());
        let mut sum = 0.0;
        for (index, part) in tokens.chunks(chunk).enumerate() {
            let start = index * chunk;
            let batch = [BatchSequence {
                tokens: part,
                start,
                block_table: &self.blocks,
                window: None,
                mass: None,
                needed: LogitDemand::All,
                outputs,
            }];
            let (state, cache) = (&mut self.state, &mut self.cache);
            self.model
                .forward(&self.lease, state, cache, &batch, self.cancel)?;
            let logits = self.state.logits();
            for row in 0..logits.rows() {
                let Some(&next) = tokens.get(start + row + 1) else {
                    break;
                };
                check_logits(logits.row(row), start + row)?;
                let row = logits.row(row);
                sum += log_sum_exp(row) - f64::from(row[next as usize]);
            }
            self.done += part.len();
            (self.progress)(CalibrateProgress {
                done: self.done,
                total: self.total,
            });
        }
        Ok(sum)
    }

    fn mean_nll(&mut self, windows: &[&[u32]]) -> Result<f64, EngineError> {
        let (mut sum, mut count) = (0.0, 0);
        for window in windows {
            sum += self.window(window, true)?;
            count += window.len() - 1;
        }
        Ok(sum / count as f64)
    }
}
