//! Which matrices leave out too little to lie in their order.
//!
//! A matrix of which every row or column counts may be read more slowly in its order ([`ryz_kernels::LineOrder`]) than in tiles. At which
//! share both take as long is measured while a model is loaded ([`SparseTernary::order_share`]). What share of a layer counts, no file
//! says: it is counted in the first steps of one token, and a matrix of which more counts is laid out as tiles, where it is and
//! for good. No result changes.

use std::sync::atomic::{AtomicU64, Ordering};

use ryz_kernels::{Line, Linear, SparseTernary};
use ryz_tmac::{Arena, BufferKind};

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
    arena: Arena,
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
    /// `None` where every matrix is in the right order whatever counts.
    pub fn new(layers: &[LayerWeights], arena: &Arena) -> Option<Self> {
        let of_some = |layer: &LayerWeights| {
            [&layer.up, &layer.down]
                .into_iter()
                .any(|projection| ordered(projection).is_some_and(|it| it.order_share() < 1.0))
        };
        layers.iter().any(of_some).then(|| Self {
            tokens: 0,
            layers: layers.iter().map(|_| WatchedLayer::default()).collect(),
            due: None,
            arena: arena.labelled("line orders"),
        })
    }

    /// Where a step of one token counts, unless enough was seen.
    pub fn step(&mut self) -> Option<&[WatchedLayer]> {
        if self.tokens == WATCHED_TOKENS {
            return None;
        }
        self.tokens += 1;
        Some(&self.layers)
    }

    /// The matrices of which more counts than pays; `None` until that is known.
    fn due(&mut self, layers: &[LayerWeights]) -> Option<&mut Vec<Place>> {
        if self.tokens < WATCHED_TOKENS {
            return None;
        }
        let (tokens, counts) = (self.tokens, &self.layers);
        Some(self.due.get_or_insert_with(|| {
            let counted = layers.iter().zip(counts).enumerate();
            let places = counted.flat_map(|(layer, (weights, counts))| {
                let up = (Part::Up, &weights.up, &counts.rows);
                let down = (Part::Down, &weights.down, &counts.columns);
                [up, down].into_iter().filter_map(move |(part, it, count)| {
                    let matrix = ordered(it)?;
                    let share = count.load(Ordering::Relaxed) as f64
                        / (tokens * matrix.items() as u64) as f64;
                    (share > f64::from(matrix.order_share())).then_some(Place { layer, part })
                })
            });
            places.collect()
        }))
    }
}

impl Model {
    /// Between steps: lays out one of the matrices as tiles that leave out less than pays, if it is known by now and there is one
    /// left. That takes as long as reading it a few times, once in a model's life. Whether there was one.
    pub fn settle_order(&mut self, state: &mut RunState) -> bool {
        let Some(watch) = &mut state.orders else {
            return false;
        };
        let Some(due) = watch.due(&self.weights.layers) else {
            return false;
        };
        let place = due.pop();
        let layers = &mut self.weights.layers;
        let matrix = place.and_then(|place| match place.part {
            Part::Up => ordered_mut(&mut layers[place.layer].up),
            Part::Down => ordered_mut(&mut layers[place.layer].down),
        });
        let Some(matrix) = matrix else {
            state.orders = None;
            return false;
        };
        let lines = matrix.piece_lines();
        // Where memory is short, it stays as it is.
        let staging = watch
            .arena
            .allocate_slice::<Line>(lines, BufferKind::Staging);
        if let Ok(mut staging) = staging {
            matrix.lay_out(true, &mut staging);
        }
        true
    }
}

/// The matrix of a projection, where it is in an order.
fn ordered(projection: &Projection) -> Option<&SparseTernary> {
    match &projection.weight {
        Linear::Sparse(matrix) if !matrix.is_tiled() => Some(matrix),
        _ => None,
    }
}

fn ordered_mut(projection: &mut Projection) -> Option<&mut SparseTernary> {
    match &mut projection.weight {
        Linear::Sparse(matrix) if !matrix.is_tiled() => Some(matrix),
        _ => None,
    }
}
