//! The walks over the rows and blocks of a sparse matrix, for any instruction set.

use std::ops::Range;

use ryz_tmac::MatMut;

use super::{ActiveColumns, LINE_CODES, SparseDot, SparseTernary};
use crate::{Line, QuantizedRows, activations::QuantizedRow, ternary::Scales};

/// How the sum of a row becomes its result.
struct Fold<'a> {
    scales: &'a Scales,
    /// Σ q
    total: i32,
    /// s_x
    factor: f32,
}

impl<'a> Fold<'a> {
    fn new(weights: &'a SparseTernary, x: &QuantizedRow<'_>) -> Self {
        Self {
            scales: weights.scales(),
            total: x.sums.iter().sum(),
            factor: x.factors[0],
        }
    }

    /// The result of a row of which Σ code·q is `sum`.
    #[inline(always)]
    fn finish(&self, row: usize, sum: i32) -> f32 {
        let scale = match self.scales {
            Scales::PerTensor(scale) => *scale,
            Scales::PerRow(scales) => scales[row],
            Scales::PerGroup { .. } => unreachable!("groups are not in these orders"),
        };
        (sum - self.total) as f32 * scale / self.factor
    }
}

/// Tokens that some rows meet before the next are read: their activations stay in the second-level cache.
const TOKENS: usize = 64;
/// Rows that stay in the first-level cache meanwhile.
const SHARED: usize = 16;

/// Rows of a matrix in rows, of every token: `out` (tokens, rows).
#[inline(always)]
pub(crate) fn rows<K: SparseDot>(
    k: K,
    weights: &SparseTernary,
    rows: Range<usize>,
    x: QuantizedRows<'_>,
    mut out: MatMut<'_, f32>,
) {
    for tokens in (0..x.tokens()).step_by(TOKENS) {
        let end = x.tokens().min(tokens + TOKENS);
        for first in rows.clone().step_by(SHARED) {
            let some = first..rows.end.min(first + SHARED);
            let start = first - rows.start;
            let mut token = tokens;
            while token < end {
                token += match end - token {
                    8.. => some_rows::<K, 8>(k, weights, some.clone(), start, x, token, &mut out),
                    4.. => some_rows::<K, 4>(k, weights, some.clone(), start, x, token, &mut out),
                    3 => some_rows::<K, 3>(k, weights, some.clone(), start, x, token, &mut out),
                    2 => some_rows::<K, 2>(k, weights, some.clone(), start, x, token, &mut out),
                    _ => some_rows::<K, 1>(k, weights, some.clone(), start, x, token, &mut out),
                };
            }
        }
    }
}

/// Rows with T tokens, from `token` on; `start` is where the first row's result belongs. T.
#[allow(
    clippy::too_many_arguments,
    reason = "operands and ranges of a product"
)]
#[inline(always)]
fn some_rows<K: SparseDot, const T: usize>(
    k: K,
    weights: &SparseTernary,
    rows: Range<usize>,
    start: usize,
    x: QuantizedRows<'_>,
    token: usize,
    out: &mut MatMut<'_, f32>,
) -> usize {
    let (code_3, prefetch) = (weights.max_code() == 3, weights.prefetch());
    let x: [QuantizedRow<'_>; T] = std::array::from_fn(|t| x.row(token + t));
    let folds = x.map(|x| Fold::new(weights, &x));
    let values = x.map(|x| x.values);
    for (index, row) in rows.enumerate() {
        let lines = weights.row(row);
        if token.is_multiple_of(TOKENS) {
            for line in lines {
                prefetch.ahead(line);
            }
        }
        let sums = k.row::<T>(lines, values, code_3);
        for t in 0..T {
            out.row_mut(token + t)[start + index] = folds[t].finish(row, sums[t]);
        }
    }
    T
}

/// Some rows of a matrix in rows, of one token; `out` starts with row `first`, and is left as it is elsewhere.
#[inline(always)]
pub(crate) fn listed_rows<K: SparseDot>(
    k: K,
    weights: &SparseTernary,
    list: &[u32],
    first: usize,
    x: &QuantizedRow<'_>,
    out: &mut [f32],
) {
    let (code_3, prefetch) = (weights.max_code() == 3, weights.prefetch());
    let fold = Fold::new(weights, x);
    for (at, &row) in list.iter().enumerate() {
        prefetch.gathered_rows(weights.lines(), weights.row_lines(), list, at);
        let row = row as usize;
        let [sum] = k.row(weights.row(row), [x.values], code_3);
        out[row - first] = fold.finish(row, sum);
    }
}

/// Tokens whose lists [`columns`] can hold in the scratch memory of a product, which has a line for each column.
pub(crate) const LISTS: usize = 8;

// An index and a value for each column, and room to fill up the last four.
const _: () =
    assert!(LISTS * (size_of::<u32>() + 1) * (crate::UNIT + 4) <= crate::UNIT * size_of::<Line>());

/// Blocks of 256 rows of a matrix in columns, of up to [`LISTS`] tokens: `out` (tokens, rows). The lists of active columns
/// are written to `scratch`. A block stays in the second-level cache until all tokens have met it.
#[inline(always)]
pub(crate) fn columns<K: SparseDot>(
    k: K,
    weights: &SparseTernary,
    rows: Range<usize>,
    x: QuantizedRows<'_>,
    scratch: &mut [Line],
    mut out: MatMut<'_, f32>,
) {
    let (code_3, prefetch) = (weights.max_code() == 3, weights.prefetch());
    let room = x.layout().cols() + 4;
    let (indices, rest) =
        bytemuck::cast_slice_mut::<Line, u32>(scratch).split_at_mut(x.tokens() * room);
    let values = &mut bytemuck::cast_slice_mut::<u32, i8>(rest)[..x.tokens() * room];
    let mut counts = [0; LISTS];
    let lists = indices
        .chunks_exact_mut(room)
        .zip(values.chunks_exact_mut(room));
    for (token, (indices, values)) in lists.enumerate() {
        counts[token] = list_active(x.row(token).values, indices, values);
    }
    for first in rows.clone().step_by(LINE_CODES) {
        let block = weights.block(first / LINE_CODES);
        for token in 0..x.tokens() {
            let row = x.row(token);
            let fold = Fold::new(weights, &row);
            let list = token * room..token * room + counts[token];
            let active = ActiveColumns {
                columns: &indices[list.clone()],
                values: &values[list],
            };
            let sums = k.columns(block, active, code_3, prefetch);
            let out = &mut out.row_mut(token)[first - rows.start..][..LINE_CODES];
            for (row, (out, sum)) in out.iter_mut().zip(sums).enumerate() {
                *out = fold.finish(first + row, sum);
            }
        }
    }
}

/// Lists the columns whose value is not 0, filled up to whole fours. How many.
#[inline(always)]
fn list_active(values: &[i8], columns: &mut [u32], listed: &mut [i8]) -> usize {
    let mut count = 0;
    for (column, &q) in (0..).zip(values) {
        // Written in any case, kept when it counts.
        columns[count] = column;
        listed[count] = q;
        count += usize::from(q != 0);
    }
    let filled = count.next_multiple_of(4);
    columns[count..filled].fill(0);
    listed[count..filled].fill(0);
    filled
}
