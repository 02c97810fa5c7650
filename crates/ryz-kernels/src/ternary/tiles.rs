//! Products with token-interleaved activations, for any instruction set.
//!
//! ```text
//! Y[r][t] = Σ_c code[r][c] · q[t][c] − Σ_c q[t][c],  lanes = tokens t
//! ```
//!
//! A piece of a tile of weights is unpacked to bytes once; the codes of each of its rows are broadcast and multiplied with
//! the lines of two tiles of tokens. Scales fold in lane by lane, as in the products with rows and in their order, so the
//! results are the same bits. In the end the block is turned round: outputs are row-major by token.

use std::ops::Range;

use bytemuck::Pod;
use ryz_tmac::MatMut;

use super::{
    LINE_COLS, ROW_TILE, Scales, TernaryView,
    code_dot::{CodeDot, LINE_QUADS, Quad, unpack},
    integer::Fold,
};
use crate::{
    QuantizedTiles, TILE_TOKENS,
    activations::UNIT,
    simd::{LANES, Simd},
    tiles::Tile,
};

/// Columns that are unpacked at a time: 8 KiB of codes a tile.
const CHUNK: usize = 512;
/// Rows of weights that are multiplied at a time, with G tiles of tokens.
const ROWS: usize = 4;

#[inline(always)]
pub(crate) fn matmul<K: CodeDot>(
    k: K,
    weights: TernaryView<'_>,
    rows: Range<usize>,
    x: QuantizedTiles<'_>,
    mut out: MatMut<'_, f32>,
) {
    assert_eq!(x.shape(), K::SHAPE, "lines of the tiles");
    let fold = Fold::new(weights.scales, x.layout().group());
    let tiles = rows.start / ROW_TILE..rows.end.div_ceil(ROW_TILE);
    let count = x.tokens() / TILE_TOKENS;
    let mut first = 0;
    while first < count {
        // Two tiles of tokens share the broadcasts where registers hold the sums of both.
        let many = if K::WIDE && first + 2 <= count { 2 } else { 1 };
        for tile in tiles.clone() {
            if many == 2 {
                block::<K, 2>(k, weights, &fold, tile, &rows, x, first, &mut out);
            } else {
                block::<K, 1>(k, weights, &fold, tile, &rows, x, first, &mut out);
            }
        }
        first += many;
    }
}

/// Sums of a tile of weights and G tiles of tokens, between pieces of the columns: (row, tile of tokens, half).
struct State<S: Simd, const G: usize> {
    integers: [[[S::I; 2]; G]; ROW_TILE],
    floats: [[[S::F; 2]; G]; ROW_TILE],
}

/// One tile of weights with G tiles of tokens, from tile `first` on.
#[allow(
    clippy::too_many_arguments,
    reason = "operands and ranges of a product"
)]
#[inline(always)]
fn block<K: CodeDot, const G: usize>(
    k: K,
    weights: TernaryView<'_>,
    fold: &Fold<'_>,
    tile: usize,
    rows: &Range<usize>,
    x: QuantizedTiles<'_>,
    first: usize,
    out: &mut MatMut<'_, f32>,
) {
    let s = k.simd();
    let (code_3, prefetch) = (weights.max_code == 3, weights.prefetch);
    let tokens: [Tile<'_>; G] = std::array::from_fn(|g| x.tile(first + g));
    let mut state = State::<K::S, G> {
        integers: [[[s.splat_i(0); 2]; G]; ROW_TILE],
        floats: [[[s.splat(0.0); 2]; G]; ROW_TILE],
    };
    let columns = weights.lines_per_tile * LINE_COLS;
    let mut quads = const { [Quad([0; 64]); CHUNK / 4] };
    for start in (0..columns).step_by(CHUNK) {
        let end = columns.min(start + CHUNK);
        let lines = &weights.tile(tile)[start / LINE_COLS..end / LINE_COLS];
        unpack(k, lines, &mut quads, prefetch);
        let codes = &quads[..lines.len() * LINE_QUADS];
        for from in (start..end).step_by(fold.unit.unwrap_or(CHUNK)) {
            let to = end.min(from + fold.unit.unwrap_or(CHUNK));
            let codes = &codes[(from - start) / 4..(to - start) / 4];
            let mut lines = [[&[][..]; 2]; G];
            for g in 0..G {
                lines[g] = tokens[g].columns(K::SHAPE, from, to);
            }
            for row in (0..ROW_TILE).step_by(ROWS) {
                let sums = k.tokens::<ROWS, G>(codes, row, lines, code_3);
                for r in 0..ROWS {
                    for g in 0..G {
                        for half in 0..2 {
                            let sum = sums[r][g][half];
                            if fold.unit.is_none() {
                                let known = &mut state.integers[row + r][g][half];
                                *known = s.add_i(*known, sum);
                            } else {
                                let y = &mut state.floats[row + r][g][half];
                                let place = Place {
                                    tile,
                                    row: row + r,
                                    half,
                                };
                                *y = add_unit(s, fold, *y, sum, place, from..to, &tokens[g]);
                            }
                        }
                    }
                }
            }
        }
    }
    for g in 0..G {
        for half in 0..2 {
            let total = match fold.unit {
                None => sum_of(s, &tokens[g], half, 0..tokens[g].sums.len()),
                Some(_) => s.splat_i(0),
            };
            let mut turned = [[0.0; LANES]; ROW_TILE];
            for row in 0..ROW_TILE {
                let y = match fold.unit {
                    None => s.to_f32(s.sub_i(state.integers[row][g][half], total)),
                    Some(_) => state.floats[row][g][half],
                };
                let place = Place { tile, row, half };
                s.store(finish(s, fold, y, place, &tokens[g]), &mut turned[row]);
            }
            let token = (first + g) * TILE_TOKENS + half * LANES;
            store(&turned, token, tile, rows, out);
        }
    }
}

/// Where a vector of results belongs.
#[derive(Clone, Copy)]
struct Place {
    tile: usize,
    row: usize,
    half: usize,
}

/// The lanes of a line that has one value a token.
#[inline(always)]
fn lanes<T: Pod>(line: &[[T; 1]; LANES]) -> &[T; LANES] {
    bytemuck::cast_ref(line)
}

/// Σ q of each token, over some units.
#[inline(always)]
fn sum_of<S: Simd>(s: S, tokens: &Tile<'_>, half: usize, units: Range<usize>) -> S::I {
    let mut total = s.splat_i(0);
    for lines in &tokens.sums[units] {
        total = s.add_i(total, s.load_i(lanes(&lines[half].0)));
    }
    total
}

/// The factors of 16 tokens.
#[inline(always)]
fn factors<S: Simd>(s: S, tokens: &Tile<'_>, half: usize, group: usize) -> S::F {
    s.load(lanes(&tokens.factors[group][half].0))
}

/// As [`Fold::add_unit`], with tokens for lanes.
#[inline(always)]
fn add_unit<S: Simd>(
    s: S,
    fold: &Fold<'_>,
    y: S::F,
    codes: S::I,
    at: Place,
    columns: Range<usize>,
    tokens: &Tile<'_>,
) -> S::F {
    let units = columns.start / UNIT..columns.end.div_ceil(UNIT);
    let sum = s.sub_i(codes, sum_of(s, tokens, at.half, units));
    let activation = fold
        .activation_group
        .map(|group| factors(s, tokens, at.half, columns.start / group));
    let factor = match (fold.scales, activation) {
        (
            Scales::PerGroup {
                group,
                groups,
                halves,
            },
            activation,
        ) => {
            let scale = halves[at.tile * groups + columns.start / group][at.row];
            let scale = s.splat(s.half(scale));
            match activation {
                None => scale,
                Some(factor) => s.mul(scale, factor),
            }
        }
        (_, Some(factor)) => factor,
        (_, None) => s.splat(1.0),
    };
    s.fma(s.to_f32(sum), factor, y)
}

/// As [`Fold::finish`], with tokens for lanes.
#[inline(always)]
fn finish<S: Simd>(s: S, fold: &Fold<'_>, y: S::F, at: Place, tokens: &Tile<'_>) -> S::F {
    let y = match fold.scales {
        Scales::PerTensor(scale) => s.mul(y, s.splat(*scale)),
        Scales::PerRow(scales) => s.mul(y, s.splat(scales[at.tile * ROW_TILE + at.row])),
        Scales::PerGroup { .. } => y,
    };
    match fold.activation_group {
        None => s.div(y, factors(s, tokens, at.half, 0)),
        Some(_) => y,
    }
}

/// Stores 16 rows of 16 tokens: those of the rows that are in `rows`, which starts on a tile.
#[inline(always)]
fn store(
    turned: &[[f32; LANES]; ROW_TILE],
    token: usize,
    tile: usize,
    rows: &Range<usize>,
    out: &mut MatMut<'_, f32>,
) {
    let start = tile * ROW_TILE - rows.start;
    for lane in 0..LANES {
        let values: [f32; ROW_TILE] = std::array::from_fn(|row| turned[row][lane]);
        let out = &mut out.row_mut(token + lane)[start..];
        match out.first_chunk_mut() {
            Some(out) => *out = values,
            None => out.copy_from_slice(&values[..out.len()]),
        }
    }
}
