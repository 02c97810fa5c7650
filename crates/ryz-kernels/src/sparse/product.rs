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
    if x.tokens() == 1 {
        return rows_of_one(k, weights, rows, &x.row(0), out.row_mut(0));
    }
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
        let [sums] = k.rows([lines], values, code_3, |_| {
            if token.is_multiple_of(TOKENS) {
                lines.iter().for_each(|line| prefetch.ahead(line));
            }
        });
        for t in 0..T {
            out.row_mut(token + t)[start + index] = folds[t].finish(row, sums[t]);
        }
    }
    T
}

/// All rows of `rows`, of one token: the sums of four are added up at once.
#[inline(always)]
fn rows_of_one<K: SparseDot>(
    k: K,
    weights: &SparseTernary,
    rows: Range<usize>,
    x: &QuantizedRow<'_>,
    out: &mut [f32],
) {
    let (prefetch, fold) = (weights.prefetch(), Fold::new(weights, x));
    let (fours, rest) = out.as_chunks_mut();
    let of_fours = rows.clone().step_by(4).zip(fours);
    let ahead = |row: usize| {
        weights
            .row(row)
            .iter()
            .for_each(|line| prefetch.ahead(line))
    };
    for (row, out) in of_fours {
        let rows = [row, row + 1, row + 2, row + 3];
        *out = results(k, weights, rows, x, &fold, |r| ahead(rows[r]));
    }
    for (row, out) in (rows.end - rest.len()..rows.end).zip(rest) {
        [*out] = results(k, weights, [row], x, &fold, |_| ahead(row));
    }
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
    let (prefetch, fold) = (weights.prefetch(), Fold::new(weights, x));
    let (fours, rest) = list.as_chunks::<4>();
    for (four, &rows) in fours.iter().enumerate() {
        let rows = [
            rows[0] as usize,
            rows[1] as usize,
            rows[2] as usize,
            rows[3] as usize,
        ];
        let results = results(k, weights, rows, x, &fold, |r| {
            prefetch.gathered_rows(weights.lines(), weights.row_lines(), list, 4 * four + r);
        });
        for (row, result) in rows.into_iter().zip(results) {
            out[row - first] = result;
        }
    }
    for &row in rest {
        [out[row as usize - first]] = results(k, weights, [row as usize], x, &fold, |_| {});
    }
}

/// Some rows' results of one token.
#[inline(always)]
fn results<K: SparseDot, const R: usize>(
    k: K,
    weights: &SparseTernary,
    rows: [usize; R],
    x: &QuantizedRow<'_>,
    fold: &Fold<'_>,
    before: impl Fn(usize),
) -> [f32; R] {
    let mut lines = [weights.row(rows[0]); R];
    for r in 1..R {
        lines[r] = weights.row(rows[r]);
    }
    let sums = k.rows(lines, [x.values], weights.max_code() == 3, before);
    let mut results = [0.0; R];
    for r in 0..R {
        results[r] = fold.finish(rows[r], sums[r][0]);
    }
    results
}

/// Tokens whose lists [`columns`] can hold in the scratch memory of a product, which has a line for each column.
pub(crate) const LISTS: usize = 8;

// An index and a value for each column, and room to fill up the last four.
const _: () =
    assert!(LISTS * (size_of::<u32>() + 1) * (crate::UNIT + 4) <= crate::UNIT * size_of::<Line>());

/// Active columns that all blocks of a run meet before the next ones are read: their lines stay in the first-level cache,
/// where those of the next ones are asked for meanwhile.
pub(crate) const COLUMNS: usize = 32;

/// Columns that all tokens meet before the next ones are read: the lines of a run stay in the second-level cache.
const SHARED_COLUMNS: usize = 256;

/// Blocks of 256 rows of a matrix in columns, of up to [`LISTS`] tokens: `out` (tokens, rows), which holds the integer sums
/// meanwhile. The lists of active columns are written to `scratch`.
#[inline(always)]
pub(crate) fn columns<K: SparseDot>(
    k: K,
    weights: &SparseTernary,
    rows: Range<usize>,
    x: QuantizedRows<'_>,
    scratch: &mut [Line],
    mut out: MatMut<'_, f32>,
) {
    let cols = x.layout().cols();
    let room = cols + 4;
    let (indices, rest) =
        bytemuck::cast_slice_mut::<Line, u32>(scratch).split_at_mut(x.tokens() * room);
    let values = &mut bytemuck::cast_slice_mut::<u32, i8>(rest)[..x.tokens() * room];
    let mut counts = [0; LISTS];
    let lists = indices
        .chunks_exact_mut(room)
        .zip(values.chunks_exact_mut(room));
    for (token, (indices, values)) in lists.enumerate() {
        counts[token] = list_active(x.row(token).values, indices, values);
        out.row_mut(token).fill(0.0); // the bits of 0
    }
    let blocks = rows.start / LINE_CODES..rows.end / LINE_CODES;
    let mut first = blocks.start;
    while first < blocks.end {
        let run = first..weights.run_end(first).min(blocks.end);
        let place = (first - blocks.start) * LINE_CODES;
        let mut done = [0; LISTS];
        let step = if x.tokens() == 1 {
            cols
        } else {
            SHARED_COLUMNS
        };
        for end in (step..cols + step).step_by(step) {
            for token in 0..x.tokens() {
                let list = token * room..token * room + counts[token];
                let listed = &indices[list.clone()];
                // Whole fours; the last of them may reach into the next columns.
                let (fours, _) = listed[done[token]..].as_chunks::<4>();
                let count = 4 * fours.partition_point(|four| (four[0] as usize) < end);
                let some = done[token]..done[token] + count;
                let active = ActiveColumns {
                    columns: &listed[some.clone()],
                    values: &values[list][some.clone()],
                };
                done[token] = some.end;
                let sums = &mut out.row_mut(token)[place..][..run.len() * LINE_CODES];
                run_of_columns(
                    k,
                    weights,
                    run.clone(),
                    active,
                    bytemuck::cast_slice_mut(sums),
                );
            }
        }
        first = run.end;
    }
    for token in 0..x.tokens() {
        let fold = Fold::new(weights, &x.row(token));
        let (blocks, _) = out.row_mut(token).as_chunks_mut::<LINE_CODES>();
        for (block, out) in blocks.iter_mut().enumerate() {
            let sums = k.settle(bytemuck::cast_ref(&*out));
            let first = rows.start + block * LINE_CODES;
            for (row, (out, sum)) in out.iter_mut().zip(sums).enumerate() {
                *out = fold.finish(first + row, sum);
            }
        }
    }
}

/// Adds what some active columns give to the sums of the blocks of a run, or of a part of one.
#[inline(always)]
fn run_of_columns<K: SparseDot>(
    k: K,
    weights: &SparseTernary,
    run: Range<usize>,
    active: ActiveColumns<'_>,
    sums: &mut [i32],
) {
    let code_3 = weights.max_code() == 3;
    let columns_of = |chunk: usize| {
        let mut chunks = active.columns.chunks(COLUMNS);
        chunks.nth(chunk).unwrap_or_default()
    };
    for block in run.clone() {
        let lines = weights.column_lines(block);
        columns_of(0).iter().for_each(|&column| lines.ask(column));
    }
    let chunks = active
        .columns
        .chunks(COLUMNS)
        .zip(active.values.chunks(COLUMNS));
    for (chunk, (columns, values)) in chunks.enumerate() {
        let active = ActiveColumns { columns, values };
        let next = columns_of(chunk + 1);
        for (block, sums) in run.clone().zip(sums.as_chunks_mut::<LINE_CODES>().0) {
            k.add_columns(weights.column_lines(block), active, code_3, next, sums);
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
