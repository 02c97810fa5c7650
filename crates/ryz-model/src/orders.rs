//! Which matrices leave out too little to lie in their order.
//!
//! A matrix of which every row or column counts may be read more slowly in its order ([`ryz_kernels::LineOrder`]) than in tiles. At which
//! share both take as long is measured while a model is loaded ([`SparseTernary::order_share`]). What share of a layer counts, no file
//! says: it is counted in the first steps of one token, and a matrix of which more counts is laid out as tiles, where it is and
//! for good. No result changes.

use std::sync::atomic::{AtomicU64, Ordering};

use ryz_kernels::{Line, Linear, SparseTernary};
use ryz_tmac::{AlignedVec, Arena, BufferKind};

use crate::{
    Model, RunState,
    weights::{LayerWeights, Projection},
};

/// Tokens that are looked at.
const WATCHED_TOKENS: u64 = 64;

/// Counts what counts, until enough tokens were seen, and knows then which matrices are to be laid out as tiles.
#[derive(Debug)]
pub(crate) struct OrderWatch {
    tokens: u64,
    layers: Vec<WatchedLayer>,
    /// Matrices to be laid out as tiles, once it is known which.
    due: Option<Vec<Place>>,
    /// For a piece of any of them: memory is not asked for between steps.
    staging: AlignedVec<Line>,
}

/// A matrix that may be in an order: its layer, and where in that.
#[derive(Clone, Copy, Debug)]
struct Place {
    layer: usize,
    part: Part,
}

#[derive(Clone, Copy, Debug)]
enum Part {
    Up,
    Down,
}

/// What counted in one layer, on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct WatchedLayer {
    /// Rows of `up`.
    rows: AtomicU64,
    /// Columns of `down`.
    columns: AtomicU64,
}

impl WatchedLayer {
    /// Rows of `up` that counted for a token.
    pub fn add_rows(&self, rows: usize) {
        self.rows.fetch_add(rows as u64, Ordering::Relaxed);
    }

    /// Columns of `down` that did.
    pub fn add_columns(&self, columns: usize) {
        self.columns.fetch_add(columns as u64, Ordering::Relaxed);
    }
}

impl OrderWatch {
    /// `None` where every matrix is in the right order whatever counts, or there is no memory to lay it out anew.
    pub fn new(layers: &[LayerWeights], arena: &Arena) -> Option<Self> {
        let projections =
            (layers.iter().map(LayerWeights::gated)).flat_map(|gated| [&gated.up, &gated.down]);
        let in_question = projections
            .filter_map(ordered)
            .filter(|matrix| matrix.order_share() < 1.0);
        let lines = in_question.map(SparseTernary::piece_lines).max()?;
        let arena = arena.labelled("line orders");
        Some(Self {
            tokens: 0,
            layers: layers.iter().map(|_| WatchedLayer::default()).collect(),
            due: None,
            staging: arena.allocate_slice(lines, BufferKind::Staging).ok()?,
        })
    }

    /// Where a step of one token counts, unless enough was seen. A step that is not finished leaves a little too much behind.
    pub fn layers(&self) -> Option<&[WatchedLayer]> {
        (self.tokens < WATCHED_TOKENS).then_some(&self.layers)
    }

    /// Such a step was finished.
    pub fn add_token(&mut self) {
        self.tokens = (self.tokens + 1).min(WATCHED_TOKENS);
    }

    /// Finds the matrices of which more counts than pays, once enough tokens were seen.
    fn decide(&mut self, layers: &[LayerWeights]) {
        if self.tokens < WATCHED_TOKENS || self.due.is_some() {
            return;
        }
        let tokens = self.tokens;
        let mut due = Vec::new();
        for (layer, (weights, counts)) in layers.iter().zip(&self.layers).enumerate() {
            let gated = weights.gated();
            let up = (Part::Up, &gated.up, &counts.rows);
            let down = (Part::Down, &gated.down, &counts.columns);
            for (part, projection, count) in [up, down] {
                let Some(matrix) = ordered(projection) else {
                    continue;
                };
                let all = tokens * matrix.items() as u64;
                let share = count.load(Ordering::Relaxed) as f64 / all as f64;
                if share > f64::from(matrix.order_share()) {
                    due.push(Place { layer, part });
                }
            }
        }
        self.due = Some(due);
    }
}

impl Model {
    /// Between steps: lays out one of the matrices as tiles that leave out less than pays, if it is known by now and there is one
    /// left. That takes as long as reading it a few times, once in a model's life, and no memory. Whether there was one.
    pub fn settle_order(&mut self, state: &mut RunState) -> bool {
        let Some(watch) = &mut state.orders else {
            return false;
        };
        watch.decide(&self.weights.layers);
        let Some(due) = &mut watch.due else {
            return false;
        };
        let layers = &mut self.weights.layers;
        while let Some(place) = due.pop() {
            let gated = layers[place.layer].gated_mut();
            let projection = match place.part {
                Part::Up => &mut gated.up,
                Part::Down => &mut gated.down,
            };
            if let Linear::Sparse(matrix) = &mut projection.weight
                && !matrix.is_tiled()
            {
                matrix.lay_out(true, &mut watch.staging);
                return true;
            }
        }
        state.orders = None;
        false
    }
}

/// The matrix of a projection, where it is in an order.
fn ordered(projection: &Projection) -> Option<&SparseTernary> {
    match &projection.weight {
        Linear::Sparse(matrix) if !matrix.is_tiled() => Some(matrix),
        _ => None,
    }
}
