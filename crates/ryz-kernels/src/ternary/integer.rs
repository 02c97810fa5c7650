//! Products with int8 activations, for any instruction set: the walk over tiles, units and tokens.
//!
//! Codes are unpacked in registers, once for up to eight tokens. A tile is read from memory once for a block of tokens: it
//! stays in the first-level cache meanwhile, and the block's activations in the second. Unpacking to memory first costs
//! more than it saves, whatever the number of tokens: 0.75 times the speed at 64 of them, a third at 8.

use std::ops::Range;

use ryz_tmac::MatMut;

use super::{LINE_COLS, ROW_TILE, Scales, TernaryView, code_dot::CodeDot};
use crate::{
    QuantizedRows,
    activations::{QuantizedRow, UNIT},
    simd::Simd,
};

/// Tokens that a tile meets before the next is read.
const TOKENS: usize = 64;

/// How sums become results; see the table in the module above.
pub(super) struct Fold<'a> {
    pub scales: &'a Scales,
    /// Columns that share an activation scale, when not all do.
    pub activation_group: Option<usize>,
    /// Columns of one integer sum, when it is not the whole row; of 64, 128 or 256.
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
            unit.is_none_or(|unit| [64, 128, 256].contains(&unit)),
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
    pub(super) fn add_unit<S: Simd>(
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
    pub(super) fn finish<S: Simd>(
        &self,
        s: S,
        y: S::F,
        tile: usize,
        row: &QuantizedRow<'_>,
    ) -> S::F {
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
    weights: TernaryView<'_>,
    rows: Range<usize>,
    x: QuantizedRows<'_>,
    mut out: MatMut<'_, f32>,
) {
    let fold = Fold::new(weights.scales, x.layout().group());
    let tiles = rows.start / ROW_TILE..rows.end.div_ceil(ROW_TILE);
    for first in (0..x.tokens()).step_by(TOKENS) {
        let end = x.tokens().min(first + TOKENS);
        for tile in tiles.clone() {
            let mut tile = Tile {
                k,
                weights,
                fold: &fold,
                tile,
                rows: &rows,
                x,
                out: &mut out,
            };
            let mut token = first;
            while token < end {
                token += match end - token {
                    8.. => tile.tokens::<8>(token),
                    4.. => tile.tokens::<4>(token),
                    3 => tile.tokens::<3>(token),
                    2 => tile.tokens::<2>(token),
                    _ => tile.tokens::<1>(token),
                };
            }
        }
    }
}

/// One tile of weights, in either packing, with tokens to come.
pub(super) struct Tile<'a, 'o, K, W> {
    pub k: K,
    pub weights: W,
    pub fold: &'a Fold<'a>,
    pub tile: usize,
    pub rows: &'a Range<usize>,
    pub x: QuantizedRows<'a>,
    pub out: &'a mut MatMut<'o, f32>,
}

impl<'a, K, W> Tile<'a, '_, K, W> {
    /// T tokens from `first` on.
    #[inline(always)]
    pub(super) fn activations<const T: usize>(&self, first: usize) -> [QuantizedRow<'a>; T] {
        // No closures here and below: one that is not inlined is a call a tile, which is much where tiles are short.
        let mut rows = [self.x.row(first); T];
        for t in 1..T {
            rows[t] = self.x.row(first + t);
        }
        rows
    }

    /// Stores the results of T tokens, with the scales that all columns share.
    #[inline(always)]
    pub(super) fn finish<S: Simd, const T: usize>(
        &mut self,
        s: S,
        first: usize,
        y: [S::F; T],
        x: &[QuantizedRow<'_>; T],
    ) {
        for t in 0..T {
            let y = self.fold.finish(s, y[t], self.tile, &x[t]);
            store(s, y, self.tile, self.rows, self.out.row_mut(first + t));
        }
    }
}

impl<K: CodeDot> Tile<'_, '_, K, TernaryView<'_>> {
    /// The products with T tokens from `first` on. T.
    #[inline(always)]
    fn tokens<const T: usize>(&mut self, first: usize) -> usize {
        let (k, s, fold, tile) = (self.k, self.k.simd(), self.fold, self.tile);
        let lines = self.weights.tile(tile);
        let (code_3, prefetch) = (self.weights.max_code == 3, self.weights.prefetch);
        let x = self.activations::<T>(first);
        let mut y = [s.splat(0.0); T];
        match fold.unit {
            None => {
                let mut values = [x[0].values; T];
                for t in 1..T {
                    values[t] = x[t].values;
                }
                let codes = k.span::<T>(lines, values, code_3, prefetch);
                for t in 0..T {
                    y[t] = s.to_f32(s.sub_i(codes[t], s.splat_i(x[t].sums.iter().sum())));
                }
            }
            Some(unit) => {
                let columns = lines.len() * LINE_COLS;
                for (index, lines) in lines.chunks(unit / LINE_COLS).enumerate() {
                    let columns = index * unit..columns.min((index + 1) * unit);
                    let mut values = [&x[0].values[columns.clone()]; T];
                    for t in 1..T {
                        values[t] = &x[t].values[columns.clone()];
                    }
                    let codes = k.span::<T>(lines, values, code_3, prefetch);
                    for t in 0..T {
                        y[t] = fold.add_unit(s, y[t], codes[t], tile, columns.clone(), &x[t]);
                    }
                }
            }
        }
        self.finish(s, first, y, &x);
        T
    }
}
