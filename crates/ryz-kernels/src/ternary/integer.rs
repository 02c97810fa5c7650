//! Products with int8 activations, for any instruction set: the walk over tiles, units and tokens.
//!
//! Few tokens: each tile's stream of lines is read once a token, codes unpacked in registers. Many tokens: a piece of a
//! tile is unpacked to bytes once, in the first-level cache, and multiplied with a block of tokens. Both make the same
//! integer sums and fold them in the same order, so a token's result does not depend on which it was.

use std::ops::Range;

use ryz_tmac::MatMut;

use super::{
    LINE_COLS, PackedTernary, ROW_TILE, Scales,
    code_dot::{CodeDot, LINE_QUADS, Quad, unpack},
};
use crate::{
    QuantizedRows,
    activations::{QuantizedRow, UNIT},
    simd::Simd,
};

/// Columns that are unpacked at a time: 8 KiB of codes a tile.
pub(super) const CHUNK: usize = 512;
/// Tokens that share an unpacked piece.
const TOKENS: usize = 64;
/// From this many tokens on, unpacking once pays.
const UNPACK_FROM: usize = 4;

/// How sums become results; see the table in the module above.
pub(super) struct Fold<'a> {
    pub scales: &'a Scales,
    /// Columns that share an activation scale, when not all do.
    pub activation_group: Option<usize>,
    /// Columns of one integer sum, when it is not the whole row; divides [`CHUNK`].
    pub unit: Option<usize>,
}

impl<'a> Fold<'a> {
    pub(super) fn new(scales: &'a Scales, activation_group: Option<usize>) -> Self {
        let weight_group = match scales {
            Scales::PerGroup { group, .. } => Some(*group),
            _ => None,
        };
        let unit = match (weight_group, activation_group) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        assert!(
            unit.is_none_or(|unit| unit.is_multiple_of(UNIT) && CHUNK.is_multiple_of(unit)),
            "groups are of 64, 128 or 256"
        );
        Self {
            scales,
            activation_group,
            unit,
        }
    }

    /// What the sum of the unit that starts at column `start` is multiplied with.
    #[inline(always)]
    fn unit_factor<S: Simd>(
        &self,
        s: S,
        tile: usize,
        start: usize,
        row: &QuantizedRow<'_>,
    ) -> S::F {
        let activation = self
            .activation_group
            .map(|group| row.factors[start / group]);
        match (self.scales, activation) {
            (
                Scales::PerGroup {
                    group,
                    groups,
                    halves,
                },
                None,
            ) => s.load_f16(&halves[tile * groups + start / group]),
            (
                Scales::PerGroup {
                    group,
                    groups,
                    halves,
                },
                Some(factor),
            ) => s.mul(
                s.load_f16(&halves[tile * groups + start / group]),
                s.splat(factor),
            ),
            (_, factor) => s.splat(factor.unwrap_or(1.0)),
        }
    }

    #[inline(always)]
    fn add_unit<S: Simd>(
        &self,
        s: S,
        y: S::F,
        codes: S::I,
        tile: usize,
        columns: Range<usize>,
        row: &QuantizedRow<'_>,
    ) -> S::F {
        let sum = row.sums[columns.start / UNIT..columns.end.div_ceil(UNIT)]
            .iter()
            .sum();
        let sum = s.sub_i(codes, s.splat_i(sum));
        s.fma(
            s.to_f32(sum),
            self.unit_factor(s, tile, columns.start, row),
            y,
        )
    }

    #[inline(always)]
    fn finish<S: Simd>(&self, s: S, y: S::F, tile: usize, row: &QuantizedRow<'_>) -> S::F {
        let y = match self.scales {
            Scales::PerTensor(scale) => s.mul(y, s.splat(*scale)),
            Scales::PerRow(scales) => s.mul(y, s.load(&scales.as_chunks().0[tile])),
            Scales::PerGroup { .. } => y,
        };
        match self.activation_group {
            None => s.div(y, s.splat(row.factors[0])),
            Some(_) => y,
        }
    }
}

/// Stores a tile's results of one token: those of its rows that are in `rows`, which starts on a tile.
#[inline(always)]
fn store<S: Simd>(s: S, y: S::F, tile: usize, rows: &Range<usize>, out: &mut [f32]) {
    let out = &mut out[tile * ROW_TILE - rows.start..];
    if let Some(out) = out.first_chunk_mut() {
        s.store(y, out);
    } else {
        let mut lanes = [0.0; ROW_TILE];
        s.store(y, &mut lanes);
        out.copy_from_slice(&lanes[..out.len()]);
    }
}

#[inline(always)]
pub(crate) fn matmul<K: CodeDot>(
    k: K,
    weights: &PackedTernary,
    rows: Range<usize>,
    x: QuantizedRows<'_>,
    mut out: MatMut<'_, f32>,
) {
    let fold = Fold::new(weights.scales(), x.layout().group());
    let tiles = rows.start / ROW_TILE..rows.end.div_ceil(ROW_TILE);
    if x.tokens() < UNPACK_FROM {
        for tile in tiles {
            for token in 0..x.tokens() {
                let y = tile_row(k, weights, &fold, tile, &x.row(token));
                store(k.simd(), y, tile, &rows, out.row_mut(token));
            }
        }
        return;
    }
    for first in (0..x.tokens()).step_by(TOKENS) {
        let tokens = first..x.tokens().min(first + TOKENS);
        let mut tile = tiles.start;
        while tile < tiles.end {
            if K::WIDE && tile + 2 <= tiles.end {
                block::<K, 2>(k, weights, &fold, tile, &rows, x, tokens.clone(), &mut out);
                tile += 2;
            } else {
                block::<K, 1>(k, weights, &fold, tile, &rows, x, tokens.clone(), &mut out);
                tile += 1;
            }
        }
    }
}

/// One tile with one token.
#[inline(always)]
fn tile_row<K: CodeDot>(
    k: K,
    weights: &PackedTernary,
    fold: &Fold<'_>,
    tile: usize,
    row: &QuantizedRow<'_>,
) -> <K::S as Simd>::F {
    let s = k.simd();
    let lines = weights.tile(tile);
    let (code_3, prefetch) = (weights.max_code() == 3, weights.prefetch());
    let y = match fold.unit {
        None => {
            let codes = k.span(lines, row.values, code_3, prefetch);
            s.to_f32(s.sub_i(codes, s.splat_i(row.sums.iter().sum())))
        }
        Some(unit) => {
            let units = lines.chunks(unit / LINE_COLS).zip(row.values.chunks(unit));
            let mut y = s.splat(0.0);
            for (index, (lines, values)) in units.enumerate() {
                let columns = index * unit..index * unit + values.len();
                y = fold.add_unit(
                    s,
                    y,
                    k.span(lines, values, code_3, prefetch),
                    tile,
                    columns,
                    row,
                );
            }
            y
        }
    };
    fold.finish(s, y, tile, row)
}

/// Sums of a tile and a block of tokens, between pieces of its columns.
struct State<S: Simd, const R: usize> {
    integers: [[S::I; TOKENS]; R],
    floats: [[S::F; TOKENS]; R],
}

/// R tiles with up to [`TOKENS`] tokens.
#[allow(
    clippy::too_many_arguments,
    reason = "operands and ranges of a product"
)]
#[inline(always)]
fn block<K: CodeDot, const R: usize>(
    k: K,
    weights: &PackedTernary,
    fold: &Fold<'_>,
    tile: usize,
    rows: &Range<usize>,
    x: QuantizedRows<'_>,
    tokens: Range<usize>,
    out: &mut MatMut<'_, f32>,
) {
    let s = k.simd();
    let mut state = State::<K::S, R> {
        integers: [[s.splat_i(0); TOKENS]; R],
        floats: [[s.splat(0.0); TOKENS]; R],
    };
    let columns = weights.lines_per_tile() * LINE_COLS;
    let prefetch = weights.prefetch();
    let mut quads = [const { [Quad([0; 64]); CHUNK / 4] }; R];
    for start in (0..columns).step_by(CHUNK) {
        let chunk = start..columns.min(start + CHUNK);
        let lines = chunk.start / LINE_COLS..chunk.end / LINE_COLS;
        for (r, quads) in quads.iter_mut().enumerate() {
            unpack(&weights.tile(tile + r)[lines.clone()], quads, prefetch);
        }
        let mut codes = [&quads[0][..]; R];
        for (codes, quads) in codes.iter_mut().zip(&quads) {
            *codes = &quads[..lines.len() * LINE_QUADS];
        }
        let mut piece = Piece {
            k,
            weights,
            fold,
            tile,
            codes,
            chunk,
            x,
            first: tokens.start,
        };
        let mut token = tokens.start;
        if K::WIDE {
            while token + 8 <= tokens.end {
                piece.tokens::<8>(token, &mut state);
                token += 8;
            }
        }
        while token + 4 <= tokens.end {
            piece.tokens::<4>(token, &mut state);
            token += 4;
        }
        while token < tokens.end {
            piece.tokens::<1>(token, &mut state);
            token += 1;
        }
    }
    for token in tokens.clone() {
        let row = x.row(token);
        let total = s.splat_i(row.sums.iter().sum());
        for r in 0..R {
            let y = match fold.unit {
                None => s.to_f32(s.sub_i(state.integers[r][token - tokens.start], total)),
                Some(_) => state.floats[r][token - tokens.start],
            };
            store(
                s,
                fold.finish(s, y, tile + r, &row),
                tile + r,
                rows,
                out.row_mut(token),
            );
        }
    }
}

/// Some columns of R tiles, unpacked.
struct Piece<'a, K: CodeDot, const R: usize> {
    k: K,
    weights: &'a PackedTernary,
    fold: &'a Fold<'a>,
    tile: usize,
    codes: [&'a [Quad]; R],
    chunk: Range<usize>,
    x: QuantizedRows<'a>,
    /// The token that the state starts with.
    first: usize,
}

impl<K: CodeDot, const R: usize> Piece<'_, K, R> {
    /// Adds the products with T tokens to the state.
    #[inline(always)]
    fn tokens<const T: usize>(&mut self, token: usize, state: &mut State<K::S, R>) {
        let (k, s) = (self.k, self.k.simd());
        let code_3 = self.weights.max_code() == 3;
        let slot = token - self.first;
        let rows: [QuantizedRow<'_>; T] = std::array::from_fn(|t| self.x.row(token + t));
        let Some(unit) = self.fold.unit else {
            let values = std::array::from_fn(|t| &rows[t].values[self.chunk.clone()]);
            let sums = k.quads::<R, T>(self.codes, values, code_3);
            for r in 0..R {
                for t in 0..T {
                    let known = &mut state.integers[r][slot + t];
                    *known = s.add_i(*known, sums[r][t]);
                }
            }
            return;
        };
        for start in self.chunk.clone().step_by(unit) {
            let columns = start..self.chunk.end.min(start + unit);
            let quads =
                (columns.start - self.chunk.start) / 4..(columns.end - self.chunk.start) / 4;
            let codes = std::array::from_fn(|r| &self.codes[r][quads.clone()]);
            let values = std::array::from_fn(|t| &rows[t].values[columns.clone()]);
            let sums = k.quads::<R, T>(codes, values, code_3);
            for r in 0..R {
                for t in 0..T {
                    let y = &mut state.floats[r][slot + t];
                    *y = self.fold.add_unit(
                        s,
                        *y,
                        sums[r][t],
                        self.tile + r,
                        columns.clone(),
                        &rows[t],
                    );
                }
            }
        }
    }
}
