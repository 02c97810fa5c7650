//! Selects matrices that skip too little to stay in a skippable order.
//!
//! A matrix whose rows or columns all count may be slower to read in its order
//! ([`ryz_kernels::LineOrder`]) than in tiles. The break-even share is measured while the model
//! loads ([`SparseTernary::order_share`]). No file records a layer's share, so the first
//! single-token steps count it, and a matrix above the break-even share is converted to tiles, in
//! place and permanently. Results do not change.

use std::sync::atomic::{AtomicU64, Ordering};

use ryz_kernels::{Line, Linear, SparseTernary};
use ryz_tmac::{AlignedVec, Arena, BufferKind};

use crate::{
    Model, RunState,
    weights::{LayerWeights, Projection},
};

/// Number of tokens to observe.
const WATCHED_TOKENS: u64 = 64;

/// Counts active rows and columns until enough tokens were seen, then lists the matrices to convert
/// to tiles.
#[derive(Debug)]
pub(crate) struct OrderWatch {
    tokens: u64,
    layers: Vec<WatchedLayer>,
    /// Matrices to convert to tiles, once known.
    due: Option<Vec<Place>>,
    /// Staging for a piece of any of them, so that nothing is allocated between steps.
    staging: AlignedVec<Line>,
}

/// A matrix that may be in an order: its layer, and its position in that layer.
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

/// Counts of one layer, on separate cache lines.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct WatchedLayer {
    /// Rows of `up`.
    rows: AtomicU64,
    /// Columns of `down`.
    columns: AtomicU64,
}

impl WatchedLayer {
    /// Adds the rows of `up` that counted for a token.
    pub fn add_rows(&self, rows: usize) {
        self.rows.fetch_add(rows as u64, Ordering::Relaxed);
    }

    /// Adds the columns of `down` that counted for a token.
    pub fn add_columns(&self, columns: usize) {
        self.columns.fetch_add(columns as u64, Ordering::Relaxed);
    }
}

impl OrderWatch {
    /// `None` if every matrix is in the right order for any counts, or if there is no memory to
    /// convert one.
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

    /// The counters of a single-token step, or `None` once enough tokens were seen. An unfinished
    /// step leaves a small excess.
    pub fn layers(&self) -> Option<&[WatchedLayer]> {
        (self.tokens < WATCHED_TOKENS).then_some(&self.layers)
    }

    /// Records that a counted step finished.
    pub fn add_token(&mut self) {
        self.tokens = (self.tokens + 1).min(WATCHED_TOKENS);
    }

    /// Finds the matrices whose share is above break-even, once enough tokens were seen.
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
    /// Call between steps: converts one matrix whose share is above break-even to tiles, if the
    /// choice is made and one is left. This takes as long as reading the matrix a few times,
    /// happens once per matrix, and allocates nothing. Returns whether a matrix was converted.
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

/// A projection's matrix, if it is in an order.
fn ordered(projection: &Projection) -> Option<&SparseTernary> {
    match &projection.weight {
        Linear::Sparse(matrix) if !matrix.is_tiled() => Some(matrix),
        _ => None,
    }
}
