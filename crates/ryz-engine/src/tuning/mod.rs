//! Choosing how weights are streamed on this machine, while a model is loaded.
//!
//! For each kind of ternary matrix ([`ryz_model::MatrixKind`]) that is too large for caches, products are timed in both
//! packings, on some matrices in each, then at some distances of [`PrefetchManager`], and, where rows or columns can be left out, with
//! all of them, half of them, and in tiles ([`choose`]); what was chosen is kept in a file of the user's cache folder ([`remember`]), so that a model is measured once for a processor, a number of threads
//! and a version. No choice changes a result, or takes memory: codes are packed anew where they are.

mod choose;
mod remember;

use std::time::{Duration, Instant};

use ryz_kernels::{LineOrder, Packing};
use ryz_model::{Counting, MatrixKind, Model, ModelError, ProductTimer};
use ryz_numa::{Lease, Topology};
use ryz_tmac::{Arena, PrefetchManager};
use serde::{Deserialize, Serialize};

use crate::config::EngineConfig;
use crate::error::EngineError;
use choose::{Shares, SparseMethod};
use remember::{Key, Store};

/// A kind with fewer bytes than this stays in a cache, where there is nothing to ask for.
const LEAST_BYTES: usize = 8 << 20;
/// What one measurement reads at least.
const BYTES_AT_ONCE: usize = 32 << 20;
/// What is laid out in tiles at most, of one kind, to compare it with as much in its order.
const BYTES_OF_ORDERS: usize = 96 << 20;
/// The most tokens of a step that packings are compared with, where there may be several sequences.
const SEVERAL: usize = 8;
/// How long measuring packings takes, all kinds together.
const PACKING_BUDGET: Duration = Duration::from_millis(100);
/// How long measuring distances takes.
const BUDGET: Duration = Duration::from_millis(90);
/// How long everything takes: what is left of it goes to what leaving out gains.
const TOTAL: Duration = Duration::from_millis(280);
/// With less than this left of it, matrices are not laid out in tiles to compare them.
const LEAST_FOR_TILES: Duration = Duration::from_millis(20);

/// How the ways in which weights are streamed were chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Tuning {
    /// Where they are from.
    pub source: TuningSource,
    /// How long it took.
    pub time: Duration,
    /// What was chosen, for each kind of matrix that was large enough; empty where nothing was chosen.
    pub matrices: Vec<TunedMatrix>,
}

/// Where choices are from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TuningSource {
    /// There was nothing to choose: the distance was given, tuning is off, or no kind of matrix is large enough.
    Fixed,
    /// Measured now.
    Measured,
    /// Measured by an earlier load.
    Remembered,
}

impl TuningSource {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fixed => "fixed",
            Self::Measured => "measured",
            Self::Remembered => "remembered",
        }
    }
}

/// What was chosen for the matrices of one kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TunedMatrix {
    /// The kernel of one token's products, in this packing.
    pub kernel: String,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// How densely they are packed: [`Packing::name`].
    pub packing: String,
    /// Cache lines that are asked for ahead; 0 for none.
    pub prefetch: usize,
    /// Where rows can be left out: the share of them up to which those that count are listed. Above it, all are read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listed_share: Option<f32>,
    /// Where rows or columns can be left out: the share of those that count up to which that is faster than reading all of them in
    /// tiles. Matrices of which more counts are laid out so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_share: Option<f32>,
}

impl TunedMatrix {
    fn new(kind: &MatrixKind, packing: Packing, prefetch: usize) -> Self {
        Self {
            kernel: kind.kernel_in(packing).unwrap_or(kind.kernel).to_owned(),
            rows: kind.rows,
            cols: kind.cols,
            packing: packing.name().to_owned(),
            prefetch,
            listed_share: None,
            order_share: None,
        }
    }

    /// Its packing; `None` where that is no name of one.
    fn packing(&self) -> Option<Packing> {
        self.packing.parse().ok()
    }

    fn is_of(&self, kind: &MatrixKind) -> bool {
        let kernel = self.packing().and_then(|packing| kind.kernel_in(packing));
        kernel == Some(self.kernel.as_str()) && (self.rows, self.cols) == (kind.rows, kind.cols)
    }
}

/// Chooses for `model`, by what is remembered or by measuring, unless `config` leaves nothing to choose.
///
/// # Errors
/// [`EngineError::Model`] when a worker panicked.
pub(crate) fn tune(
    model: &mut Model,
    config: &EngineConfig,
    lease: &Lease,
    arena: &Arena,
) -> Result<Tuning, EngineError> {
    let started = Instant::now();
    let mut tuning = Tuning {
        source: TuningSource::Fixed,
        time: Duration::ZERO,
        matrices: Vec::new(),
    };
    if !config.auto_tune || config.prefetch.is_some() {
        return Ok(tuning);
    }
    let most_tokens = most_tokens(config);
    // Where memory is short, weights are streamed as they are by default.
    let timers = model.product_timers(arena, LEAST_BYTES, BYTES_AT_ONCE, most_tokens);
    let Ok(mut timers) = timers else {
        return Ok(tuning);
    };
    if timers.is_empty() {
        return Ok(tuning);
    }
    let store = config.keep_tuning.then(Store::of_user).flatten();
    let key = Key {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        processor: Topology::detect().map_or_else(|_| String::new(), |machine| machine.processor()),
        level: model.kernels().level().name().to_owned(),
        threads: lease.threads(),
        tokens: most_tokens,
        packing: config.packing.map_or("auto", Packing::name).to_owned(),
    };
    let mut known = (store.as_ref()).map_or_else(Vec::new, |store| store.read(&key));
    let kinds: Vec<MatrixKind> = timers.iter().map(|timer| timer.kind().clone()).collect();
    timers.retain(|timer| !known.iter().any(|matrix| matrix.is_of(timer.kind())));
    // A mapped file is read from the disk as it is needed: a time would be the disk's.
    if timers.is_empty() || config.map_weights {
        tuning.source = TuningSource::Remembered;
    } else {
        tuning.source = TuningSource::Measured;
        let measured = measure(model, config, lease, arena, &mut timers, started)?;
        known.extend(measured);
        if let Some(store) = &store {
            store.write(&key, &known);
        }
    }
    for kind in kinds {
        if let Some(matrix) = known.iter().find(|matrix| matrix.is_of(&kind)) {
            if let Some(packing) = matrix.packing() {
                model.repack(lease, &kind, 0..usize::MAX, packing)?;
            }
            model.set_prefetch(&kind, PrefetchManager::new(matrix.prefetch));
            if let Some(share) = matrix.listed_share {
                model.set_listed_share(&kind, share);
            }
            if let Some(share) = matrix.order_share {
                model.set_order_share(&kind, share);
            }
            tuning.matrices.push(matrix.clone());
        }
    }
    if tuning.matrices.is_empty() {
        tuning.source = TuningSource::Fixed;
    }
    tuning.time = started.elapsed();
    Ok(tuning)
}

/// The most tokens of a step that counts.
fn most_tokens(config: &EngineConfig) -> usize {
    config.max_sequences.clamp(1, SEVERAL)
}

/// Measures what there is to choose for the kinds of `timers`.
///
/// # Errors
/// [`EngineError::Model`] when a worker panicked.
fn measure(
    model: &mut Model,
    config: &EngineConfig,
    lease: &Lease,
    arena: &Arena,
    timers: &mut [ProductTimer],
    started: Instant,
) -> Result<Vec<TunedMatrix>, EngineError> {
    let packings = match config.packing {
        Some(packing) => timers.iter().map(|timer| given(packing, timer)).collect(),
        None => packings(model, lease, timers, most_tokens(config))?,
    };
    let share = BUDGET / u32::try_from(timers.len()).unwrap_or(u32::MAX);
    let mut measured = Vec::new();
    for (timer, packing) in timers.iter_mut().zip(packings) {
        let kind = timer.kind().clone();
        let deadline = Instant::now() + share;
        let prefetch = choose::distance(|lines| {
            if Instant::now() >= deadline {
                return Ok(None);
            }
            model.set_prefetch(&kind, PrefetchManager::new(lines));
            model.time_products(lease, timer, 1).map(Some)
        })?;
        model.set_prefetch(&kind, PrefetchManager::new(prefetch));
        measured.push(TunedMatrix::new(&kind, packing, prefetch));
    }
    let is_ordered = |timer: &&ProductTimer| timer.kind().order.is_some();
    let mut left = timers.iter().filter(is_ordered).count() as u32;
    for (timer, matrix) in timers.iter_mut().zip(&mut measured) {
        let Some(order) = timer.kind().order else {
            continue;
        };
        let share = (started + TOTAL).saturating_duration_since(Instant::now()) / left;
        left -= 1;
        let shares = shares(model, lease, timer, order, arena, Instant::now() + share)?;
        matrix.listed_share = (order == LineOrder::Rows).then_some(shares.listed);
        matrix.order_share = Some(shares.order);
    }
    Ok(measured)
}

/// Measures for matrices in an order up to where a list is faster than all rows, and the order than tiles: some matrices lie in
/// tiles meanwhile, unless `deadline` is too near.
///
/// # Errors
/// [`EngineError::Model`] when a worker panicked.
fn shares(
    model: &mut Model,
    lease: &Lease,
    timer: &mut ProductTimer,
    order: LineOrder,
    arena: &Arena,
    deadline: Instant,
) -> Result<Shares, EngineError> {
    let mut ways = vec![
        SparseMethod::Order(Counting::Half),
        SparseMethod::Order(Counting::All),
    ];
    if order == LineOrder::Rows {
        ways.push(SparseMethod::WithoutList);
    }
    // More than caches hold: the ways read the same matrices, one after the other.
    let side = (BYTES_OF_ORDERS / BYTES_AT_ONCE * timer.products()).min(timer.matrices() / 2);
    let begun = Instant::now();
    if side > 0 && deadline.saturating_duration_since(begun) > LEAST_FOR_TILES {
        match model.lay_out(lease, timer, 0..side, true, arena) {
            Ok(()) => ways.push(SparseMethod::Tiles),
            Err(ModelError::Memory(_)) => {} // where it is short, tiles are not tried
            Err(error) => return Err(error.into()),
        }
    }
    // The way back takes as long.
    let deadline = deadline - begun.elapsed();
    let shares = choose::shares(&ways, |way| {
        if Instant::now() >= deadline {
            return Ok(None);
        }
        if side > 0 {
            timer.restrict(match way {
                SparseMethod::Tiles => 0..side,
                SparseMethod::Order(_) | SparseMethod::WithoutList => side..2 * side,
            });
        }
        let time = match way {
            SparseMethod::Order(counting) => model.time_counting(lease, timer, counting),
            SparseMethod::WithoutList | SparseMethod::Tiles => model.time_products(lease, timer, 1),
        };
        time.map(Some)
    })?;
    timer.restrict(0..timer.matrices());
    if ways.contains(&SparseMethod::Tiles) {
        model.lay_out(lease, timer, 0..side, false, arena)?;
    }
    Ok(shares)
}

/// The packing that was asked for, where the matrices can be packed so.
fn given(packing: Packing, timer: &ProductTimer) -> Packing {
    match timer.kind().kernel_in(packing) {
        Some(_) => packing,
        None => Packing::TwoBits,
    }
}

/// Measures the packing of each timer's kind: some matrices are packed in 1.6 bits and compared with as many others. All matrices
/// of a kind are packed as was chosen in the end. Products of one token and of `most_tokens` count alike: a step is the one where there is
/// one conversation, and the other where there are many.
///
/// # Errors
/// [`EngineError::Model`] when a worker panicked.
fn packings(
    model: &mut Model,
    lease: &Lease,
    timers: &mut [ProductTimer],
    most_tokens: usize,
) -> Result<Vec<Packing>, EngineError> {
    let deadline = Instant::now() + PACKING_BUDGET;
    let mut packings = vec![Packing::TwoBits; timers.len()];
    // Which timers, and how many matrices in each packing.
    let mut trials = Vec::new();
    for (index, timer) in timers.iter().enumerate() {
        let side = timer.products().min(timer.matrices() / 2);
        if side > 0 && timer.kind().base3_kernel.is_some() {
            model.repack(lease, timer.kind(), 0..side, Packing::Base3)?;
            trials.push((index, side));
        }
    }
    let tokens = match most_tokens {
        0..=1 => &[1][..],
        _ => &[1, most_tokens],
    };
    let chosen = choose::packings(trials.len(), tokens, |trial, packing, tokens| {
        if Instant::now() >= deadline {
            return Ok(None);
        }
        let (index, side) = trials[trial];
        let timer = &mut timers[index];
        timer.restrict(match packing {
            Packing::Base3 => 0..side,
            Packing::TwoBits => side..2 * side,
        });
        model.time_products(lease, timer, tokens).map(Some)
    })?;
    for ((index, _), packing) in trials.into_iter().zip(chosen) {
        let timer = &mut timers[index];
        model.repack(lease, timer.kind(), 0..timer.matrices(), packing)?;
        timer.restrict(0..timer.matrices());
        packings[index] = packing;
    }
    Ok(packings)
}
