//! Scratch of a step: allocated once for the largest batch and shared by the region's threads.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use ryz_format::ModelConfig;
use ryz_kernels::{
    ActivationView, BatchLayout, ByteLine, Line, QuantizedLayout, QuantizedRows, QuantizedTiles,
    TILE_TOKENS, TileShape,
};
use ryz_numa::{PartitionedSlice, ReadGuard};
use ryz_profile::{LayerActivity, PhaseClock};
use ryz_tmac::{AlignedVec, Arena, BufferKind, LINE, MatRef};

use crate::{
    AttentionStatistics, BatchSequence, Model, ModelError,
    batch::{BatchLimits, Plan},
    lm_head::{HeadImage, ScreenCounter, ScreenScratch, ScreenedHead, SharedScreen, screen_bytes},
    orders::{OrderWatch, WatchedLayer},
    weights::{LayerWeights, Projection},
};

/// The buffers of [`Model::forward`] for batches of up to `max_tokens` tokens and `max_outputs`
/// rows of logits.
#[derive(Debug)]
pub struct RunState {
    max_tokens: usize,
    max_outputs: usize,
    plan: Plan,
    buffers: Buffers,
    /// (worker, lines)
    scratch: AlignedVec<Line>,
    scratch_lines: usize,
    clock: Mutex<PhaseClock>,
    /// One for each layer; updated while the clock records.
    activity: Vec<ActivityCounter>,
    /// Present while the matrices' orders are being chosen.
    pub(crate) orders: Option<OrderWatch>,
    /// Present if the head has an image.
    screen: Option<ScreenScratch>,
    screened: ScreenCounter,
    statistics: Option<Arc<AttentionStatistics>>,
    /// Bytes of the model read per token.
    weight_bytes: usize,
}

/// [`LayerActivity`] counters shared by the workers, on separate cache lines.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct ActivityCounter {
    values: AtomicU64,
    zeros: AtomicU64,
    quantized_zeros: AtomicU64,
    skipped_bytes: AtomicU64,
}

impl ActivityCounter {
    /// Counts the outputs of gate and up.
    pub fn add(&self, values: &[f32]) {
        // Sums in lanes as wide as the values: four at a time, where `count` takes two.
        let zeros: u32 = values.iter().map(|&value| u32::from(value == 0.0)).sum();
        self.values
            .fetch_add(values.len() as u64, Ordering::Relaxed);
        self.zeros.fetch_add(u64::from(zeros), Ordering::Relaxed);
    }

    pub fn add_quantized(&self, zeros: u64) {
        self.quantized_zeros.fetch_add(zeros, Ordering::Relaxed);
    }

    pub fn add_skipped(&self, bytes: u64) {
        self.skipped_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn take(&mut self) -> LayerActivity {
        LayerActivity {
            values: std::mem::take(self.values.get_mut()),
            zeros: std::mem::take(self.zeros.get_mut()),
            quantized_zeros: std::mem::take(self.quantized_zeros.get_mut()),
            skipped_bytes: std::mem::take(self.skipped_bytes.get_mut()),
        }
    }
}

/// Shapes are (token, columns) unless noted.
#[derive(Debug)]
struct Buffers {
    /// cos and sin of each pair at the token's position, and of the rotation back for the sinks
    angles: Matrix,
    /// hidden: the residual stream
    residual: Matrix,
    /// hidden: its norm
    normed: Matrix,
    /// q_dim
    query: Matrix,
    /// k_dim
    key: Matrix,
    /// v_dim
    value: Matrix,
    /// heads_dim
    heads: Matrix,
    /// ffn
    gate: Matrix,
    /// ffn
    up: Matrix,
    /// hidden: a block's output, before it is added to the residual stream
    projected: Matrix,
    /// (output, hidden)
    hidden: Matrix,
    /// (output, vocab)
    logits: Matrix,
    /// Quantized inputs of projections, one per form.
    quantized: Vec<QuantizedScratch>,
}

/// Columns of the per-token matrices, in the order of [`Buffers`]. `angles` is the number of values
/// of a rotation table.
fn token_columns(config: &ModelConfig, angles: usize) -> [usize; 10] {
    let (hidden, ffn) = (config.hidden_size, config.intermediate_size);
    let [query, key, value] = [config.query_dim(), config.key_dim(), config.value_dim()];
    let heads = config.attention_dim();
    [
        2 * angles,
        hidden,
        hidden,
        query,
        key,
        value,
        heads,
        ffn,
        ffn,
        hidden,
    ]
}

/// Columns of the per-output matrices.
fn output_columns(config: &ModelConfig) -> [usize; 2] {
    [config.hidden_size, config.vocab_size]
}

/// Bytes that [`RunState::new`] allocates.
pub(crate) fn scratch_bytes(
    config: &ModelConfig,
    angles: usize,
    forms: &[QuantizedLayout],
    batch: BatchLayout,
    max_tokens: usize,
    max_outputs: usize,
    screened_rows: Option<usize>,
) -> usize {
    let matrix = |rows: usize, cols: usize| {
        let bytes = rows.saturating_mul(cols).saturating_mul(size_of::<f32>());
        bytes.div_ceil(LINE).saturating_mul(LINE)
    };
    let tokens = token_columns(config, angles).map(|cols| matrix(max_tokens, cols));
    let outputs = output_columns(config).map(|cols| matrix(max_outputs, cols));
    let screen = screened_rows.map(|rows| screen_bytes(rows, max_outputs, matrix));
    let quantized = forms
        .iter()
        .map(|form| {
            let rows = form.lines().saturating_mul(max_tokens);
            rows.saturating_add(tile_lines(form, batch, max_tokens))
        })
        .map(|lines| lines.saturating_mul(LINE));
    let all = tokens.into_iter().chain(outputs).chain(screen);
    all.chain(quantized).fold(0, usize::saturating_add)
}

/// Tile lines of a form for the whole tiles of the largest batch; 0 where batches stay in rows.
fn tile_lines(form: &QuantizedLayout, batch: BatchLayout, max_tokens: usize) -> usize {
    match batch {
        BatchLayout::Rows => 0,
        BatchLayout::Tiles => form.tile_lines().saturating_mul(max_tokens / TILE_TOKENS),
    }
}

/// Rows of `cols` values.
#[derive(Debug)]
pub(crate) struct Matrix {
    values: AlignedVec<f32>,
    cols: usize,
}

/// Inputs of projections, quantized in one form.
#[derive(Debug)]
struct QuantizedScratch {
    layout: QuantizedLayout,
    lines: AlignedVec<ByteLine>,
    shape: TileShape,
    /// The rows of whole tiles again, interleaved; empty where batches stay in rows.
    tiles: AlignedVec<ByteLine>,
}

impl RunState {
    /// Allocates the buffers from the arena.
    ///
    /// # Errors
    /// [`ModelError::Memory`].
    pub fn new(
        model: &Model,
        arena: &Arena,
        max_tokens: usize,
        max_outputs: usize,
    ) -> Result<Self, ModelError> {
        let config = model.config();
        let matrix = |name: &str, rows: usize, cols: usize| -> Result<Matrix, ModelError> {
            let len = rows.saturating_mul(cols);
            let values = arena
                .labelled(name)
                .allocate_slice(len, BufferKind::Scratch)?;
            Ok(Matrix { values, cols })
        };
        let mut layouts: Vec<QuantizedLayout> = Vec::new();
        let projections = model
            .weights
            .layers
            .iter()
            .flat_map(LayerWeights::projections);
        for layout in projections.filter_map(|projection| projection.form) {
            if !layouts.contains(&layout) {
                layouts.push(layout);
            }
        }
        let kernels = model.kernels();
        let quantized = layouts.into_iter().map(|layout| {
            let lines = layout.lines().saturating_mul(max_tokens);
            let tiles = tile_lines(&layout, kernels.batch(), max_tokens);
            let allocate = |name: &str, lines| {
                arena
                    .labelled(name)
                    .allocate_slice(lines, BufferKind::Scratch)
            };
            Ok(QuantizedScratch {
                layout,
                lines: allocate("quantized inputs", lines)?,
                shape: kernels.tile_shape(),
                tiles: allocate("interleaved inputs", tiles)?,
            })
        });
        let [
            angles,
            residual,
            normed,
            query,
            key,
            value,
            heads,
            gate,
            up,
            projected,
        ] = token_columns(config, model.angles.table_len());
        let [hidden, logits] = output_columns(config);
        let buffers = Buffers {
            quantized: quantized.collect::<Result<_, ModelError>>()?,
            angles: matrix("angles", max_tokens, angles)?,
            residual: matrix("residual", max_tokens, residual)?,
            normed: matrix("normed", max_tokens, normed)?,
            query: matrix("query", max_tokens, query)?,
            key: matrix("key", max_tokens, key)?,
            value: matrix("value", max_tokens, value)?,
            heads: matrix("heads", max_tokens, heads)?,
            gate: matrix("gate", max_tokens, gate)?,
            up: matrix("up", max_tokens, up)?,
            projected: matrix("projected", max_tokens, projected)?,
            hidden: matrix("hidden", max_outputs, hidden)?,
            logits: matrix("logits", max_outputs, logits)?,
        };
        let screened_rows = model.weights.lm_head.screened_rows();
        let screen = screened_rows.map(|rows| ScreenScratch::new(rows, max_outputs, matrix));
        let scratch_lines = model.scratch_lines;
        let lines = scratch_lines.saturating_mul(model.threads);
        let scratch = arena
            .labelled("scratch of products")
            .allocate_slice(lines, BufferKind::Scratch)?;
        Ok(Self {
            max_tokens,
            max_outputs,
            plan: Plan::default(),
            buffers,
            scratch,
            scratch_lines,
            clock: Mutex::new(PhaseClock::new(config.num_hidden_layers, ryz_numa::ticks)),
            orders: OrderWatch::new(&model.weights.layers, arena),
            screen: screen.transpose()?,
            screened: ScreenCounter::default(),
            statistics: None,
            weight_bytes: model.two_bit_bytes_per_token(),
            activity: (0..config.num_hidden_layers)
                .map(|_| ActivityCounter::default())
                .collect(),
        })
    }

    /// The clock that records the phases of steps as the first worker sees them; the other workers'
    /// excess time appears as its wait at barriers.
    pub fn clock(&self) -> MutexGuard<'_, PhaseClock> {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Each layer's activity in the steps since the last call, counted while the clock recorded.
    pub fn take_activity(&mut self) -> impl Iterator<Item = LayerActivity> {
        self.activity.iter_mut().map(ActivityCounter::take)
    }

    /// Counts of the screened steps since the last call.
    pub fn take_screened(&mut self) -> ScreenedHead {
        self.screened.take()
    }

    /// Adds the attention outputs of all later steps to `statistics`; `None` stops.
    pub fn observe(&mut self, statistics: Option<Arc<AttentionStatistics>>) {
        self.statistics = statistics;
    }

    /// Bytes of the model read per token, with ternary weights in 2 bits.
    pub(crate) fn weight_bytes(&self) -> usize {
        self.weight_bytes
    }

    /// Maximum tokens of a batch.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// Maximum rows of logits of a batch.
    pub fn max_outputs(&self) -> usize {
        self.max_outputs
    }

    /// Logits of the last step (output, vocab), in batch order.
    pub fn logits(&self) -> MatRef<'_, f32> {
        self.buffers.logits.first_rows(self.plan.outputs.len())
    }

    /// One row of [`RunState::logits`], which a sampler may modify in place.
    ///
    /// # Panics
    /// When the last step produced no such row.
    pub fn logits_row_mut(&mut self, row: usize) -> &mut [f32] {
        assert!(
            row < self.plan.outputs.len(),
            "row {row} of {} outputs",
            self.plan.outputs.len()
        );
        let logits = &mut self.buffers.logits;
        &mut logits.values[row * logits.cols..][..logits.cols]
    }

    /// Hidden states of the last step after the final norm (output, hidden), in batch order.
    pub fn hidden(&self) -> MatRef<'_, f32> {
        self.buffers.hidden.first_rows(self.plan.outputs.len())
    }

    /// Lays out a batch and shares the buffers for it. Rows of the head are skipped only with an
    /// `image`.
    pub(crate) fn begin(
        &mut self,
        batch: &[BatchSequence<'_>],
        limits: BatchLimits,
        image: Option<&HeadImage>,
    ) -> Result<(&Plan, StepBuffers<'_>), ModelError> {
        self.plan.fill(batch, limits)?;
        let (tokens, outputs) = (self.plan.rows.len(), self.plan.outputs.len());
        let recording = self.clock().is_recording();
        let buffers = &mut self.buffers;
        let scratch = match self.scratch_lines {
            0 => None,
            lines => Some(PartitionedSlice::new(&mut self.scratch, lines)),
        };
        let seen = self.screened.all();
        let image = image.filter(|image| image.still_pays(seen));
        let screen = match (image, &mut self.screen) {
            (Some(image), Some(screen)) => screen.share(image, &self.plan, &self.screened),
            _ => None,
        };
        let watched = match &self.orders {
            Some(orders) if tokens == 1 => orders.layers(),
            _ => None,
        };
        let mut forms = (buffers.quantized.iter_mut()).map(|scratch| scratch.share(tokens));
        let shared = StepBuffers {
            quantized: std::array::from_fn(|_| forms.next()),
            more_quantized: forms.collect(),
            angles: buffers.angles.share(tokens),
            residual: buffers.residual.share(tokens),
            normed: buffers.normed.share(tokens),
            query: buffers.query.share(tokens),
            key: buffers.key.share(tokens),
            value: buffers.value.share(tokens),
            heads: buffers.heads.share(tokens),
            gate: buffers.gate.share(tokens),
            up: buffers.up.share(tokens),
            projected: buffers.projected.share(tokens),
            hidden: buffers.hidden.share(outputs),
            logits: buffers.logits.share(outputs),
            scratch,
            screen,
            activity: recording.then_some(&*self.activity),
            watched,
            clock: &self.clock,
            statistics: self.statistics.as_deref(),
        };
        Ok((&self.plan, shared))
    }
}

impl Matrix {
    pub fn cols(&self) -> usize {
        self.cols
    }

    pub fn rows(&self) -> usize {
        self.values.len() / self.cols.max(1)
    }

    fn first_rows(&self, rows: usize) -> MatRef<'_, f32> {
        MatRef::from_slice(&self.values[..rows * self.cols], self.cols)
    }

    pub fn share(&mut self, rows: usize) -> PartitionedSlice<'_, f32> {
        PartitionedSlice::new(&mut self.values[..rows * self.cols], self.cols)
    }
}

impl QuantizedScratch {
    fn share(&mut self, rows: usize) -> SharedQuantized<'_> {
        let (lines, tile_lines) = (self.layout.lines(), self.layout.tile_lines());
        let tiles = (rows / TILE_TOKENS).min(self.tiles.len() / tile_lines);
        SharedQuantized {
            layout: self.layout,
            rows: PartitionedSlice::new(&mut self.lines[..rows * lines], lines),
            shape: self.shape,
            tiles: PartitionedSlice::new(&mut self.tiles[..tiles * tile_lines], tile_lines),
        }
    }
}

/// Forms of quantized inputs that a step shares without allocating: one for each input of common
/// models.
const INLINE_FORMS: usize = 4;

/// The buffers of one step; see [`Buffers`] for the shapes.
pub(crate) struct StepBuffers<'a> {
    pub angles: PartitionedSlice<'a, f32>,
    pub residual: PartitionedSlice<'a, f32>,
    pub normed: PartitionedSlice<'a, f32>,
    pub query: PartitionedSlice<'a, f32>,
    pub key: PartitionedSlice<'a, f32>,
    pub value: PartitionedSlice<'a, f32>,
    pub heads: PartitionedSlice<'a, f32>,
    pub gate: PartitionedSlice<'a, f32>,
    pub up: PartitionedSlice<'a, f32>,
    pub projected: PartitionedSlice<'a, f32>,
    pub hidden: PartitionedSlice<'a, f32>,
    pub logits: PartitionedSlice<'a, f32>,
    quantized: [Option<SharedQuantized<'a>>; INLINE_FORMS],
    more_quantized: Vec<SharedQuantized<'a>>,
    /// (worker): present if any product needs it.
    pub scratch: Option<PartitionedSlice<'a, Line>>,
    /// Present if the step skips rows of the head.
    pub screen: Option<SharedScreen<'a>>,
    /// Present while the clock records.
    pub activity: Option<&'a [ActivityCounter]>,
    /// Present while a single-token step counts the active rows and columns.
    pub watched: Option<&'a [WatchedLayer]>,
    /// The first worker's clock.
    pub clock: &'a Mutex<PhaseClock>,
    /// The receiver of attention outputs.
    pub statistics: Option<&'a AttentionStatistics>,
}

/// One form of quantized inputs.
pub(crate) struct SharedQuantized<'a> {
    pub layout: QuantizedLayout,
    pub rows: PartitionedSlice<'a, ByteLine>,
    shape: TileShape,
    /// (tile): the first rows, interleaved.
    pub tiles: PartitionedSlice<'a, ByteLine>,
}

impl<'a> StepBuffers<'a> {
    /// The forms that any of `projections` reads.
    pub fn forms_of(
        &self,
        projections: &[&Projection],
    ) -> impl Iterator<Item = &SharedQuantized<'a>> {
        let read =
            |form: &&SharedQuantized<'a>| projections.iter().any(|p| p.form == Some(form.layout));
        self.forms().filter(read)
    }

    fn forms(&self) -> impl Iterator<Item = &SharedQuantized<'a>> {
        self.quantized.iter().flatten().chain(&self.more_quantized)
    }

    /// The form of an input that `projection` reads; `values` is the input in f32.
    pub fn input_of<'s>(
        &'s self,
        projection: &Projection,
        values: &'s PartitionedSlice<'a, f32>,
    ) -> Input<'s> {
        let form = projection
            .form
            .and_then(|form| self.forms().find(|scratch| scratch.layout == form));
        match form {
            // Dense weights read rows.
            Some(form) if projection.weight.is_ternary() => Input::Quantized {
                layout: form.layout,
                rows: form.rows.read(),
                tiles: Some((form.shape, form.tiles.read())),
            },
            Some(form) => Input::Quantized {
                layout: form.layout,
                rows: form.rows.read(),
                tiles: None,
            },
            None => Input::F32(values.read()),
        }
    }
}

/// An input of a projection, locked for reading.
pub(crate) enum Input<'s> {
    F32(ReadGuard<'s, f32>),
    Quantized {
        layout: QuantizedLayout,
        rows: ReadGuard<'s, ByteLine>,
        /// Tiles of the first rows.
        tiles: Option<(TileShape, ReadGuard<'s, ByteLine>)>,
    },
}

impl Input<'_> {
    pub fn view(&self) -> ActivationView<'_> {
        match self {
            Self::F32(values) => ActivationView::F32(values.view()),
            Self::Quantized {
                layout,
                rows,
                tiles,
            } => {
                let rows = QuantizedRows::new(*layout, rows);
                match tiles {
                    Some((shape, lines)) if !lines.is_empty() => {
                        let tiles = QuantizedTiles::new(*layout, *shape, lines);
                        let rest = rows.from(tiles.tokens());
                        ActivationView::Tiles { tiles, rest }
                    }
                    _ => ActivationView::I8(rows),
                }
            }
        }
    }
}
