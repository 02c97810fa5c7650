//! Ternary weights in 1.6 bits: five codes a byte, as a number in base 3, and the products with them.
//!
//! **Layout.** Tiles of 16 rows, as in 2 bits. Columns go in blocks of 320, five units of 64: 16 lines a block. Byte 4r + b of
//! line j is `Σ_k 3^k · code(row r, column 4j + b of unit k)`, up to 242: so a 32-bit lane still meets broadcast words of int8
//! activations, and each of the five places adds up a unit of its own, which is what scales of groups need. The units that
//! are left over, up to four, follow in lines of 2 bits: padding them to a block would cost as much.
//!
//! **Products.** For one token, and with registers enough for up to eight, codes are taken out of the bytes in registers
//! ([`Base3Dot::units`]). Whatever else multiplies (more tokens, tiles of tokens, f32) reads tiles of 2 bits that are unpacked into
//! the cache, some at a time.
//! So results are the bits of the 2-bit products: sums of integers are the same, and floats are folded in the same order.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
mod convert;
mod reference;

use std::ops::Range;

use ryz_tmac::{MatMut, PrefetchManager};

use super::{
    Line, ROW_TILE, Scales, TernaryView, UNIT_LINES,
    code_dot::CodeDot,
    integer::{Fold, Tile},
};
use crate::{
    ActivationView, Kernels, QuantizedRows,
    activations::{QuantizedRow, UNIT},
    simd::Simd,
};

pub(crate) use convert::{pack_tile, unpack_tile};

/// Units of a block: codes of a byte.
pub(super) const BLOCK_UNITS: usize = 5;
/// Columns of a block.
pub(super) const BLOCK_COLS: usize = BLOCK_UNITS * UNIT;
/// Lines of a block, in 1.6 bits.
pub(super) const BLOCK_LINES: usize = UNIT / 4;
/// The most lines of a tile, in 2 bits, of a matrix that can be packed in 1.6: those that are unpacked on the stack, 128 KiB.
pub(super) const MAX_TILE_LINES: usize = 2048;

/// Lines of a tile of `cols` columns: those of whole blocks, and those of the units left over.
pub(super) const fn tile_lines(cols: usize) -> (usize, usize) {
    let units = cols.div_ceil(UNIT);
    (
        units / BLOCK_UNITS * BLOCK_LINES,
        units % BLOCK_UNITS * UNIT_LINES,
    )
}

/// A block's activations.
pub(crate) type BlockValues = [[i8; UNIT]; BLOCK_UNITS];

/// A token that proves an instruction set, with its sums of products of codes in base 3.
pub(crate) trait Base3Dot: Copy {
    /// The products of the units that are left over.
    type Codes: CodeDot;

    fn codes(self) -> Self::Codes;

    /// The most tokens of a product, four at a time; 1 where registers do not hold the sums of more than one.
    const TOKENS: usize;

    /// Adds code·q of each row in each unit of a block, with each of T tokens, to `sums`, as [`Base3Dot::units`] takes them. There
    /// is room for the blocks of the widest matrix.
    fn add<const T: usize>(
        self,
        block: &[Line; BLOCK_LINES],
        x: [&BlockValues; T],
        sums: [[Integers<Self>; BLOCK_UNITS]; T],
        prefetch: PrefetchManager,
    ) -> [[Integers<Self>; BLOCK_UNITS]; T];

    /// Σ code·q of each unit.
    fn units(self, sums: [Integers<Self>; BLOCK_UNITS]) -> [Integers<Self>; BLOCK_UNITS];
}

/// Sums of 16 rows.
pub(crate) type Integers<K> = <<<K as Base3Dot>::Codes as CodeDot>::S as Simd>::I;

/// A matrix as kernels read it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Base3View<'a> {
    /// (tiles, lines of a tile)
    pub lines: &'a [Line],
    pub cols: usize,
    pub scales: &'a Scales,
    pub prefetch: PrefetchManager,
}

impl<'a> Base3View<'a> {
    /// The blocks of a tile, and the lines of the units left over.
    #[inline(always)]
    fn tile(&self, tile: usize) -> (&'a [[Line; BLOCK_LINES]], &'a [Line]) {
        let (blocks, rest) = tile_lines(self.cols);
        let lines = &self.lines[tile * (blocks + rest)..][..blocks + rest];
        let (blocks, rest) = lines.split_at(blocks);
        (blocks.as_chunks().0, rest)
    }

    /// The codes of a row in sixteen columns, as line `at` of a tile has them in 2 bits.
    pub(super) fn word(&self, tile: usize, row: usize, at: usize) -> u32 {
        let (blocks, rest) = self.tile(tile);
        let (unit, line) = (at / UNIT_LINES, at % UNIT_LINES);
        let Some(block) = blocks.get(unit / BLOCK_UNITS) else {
            return rest[at - blocks.len() * BLOCK_UNITS * UNIT_LINES].word(row);
        };
        let power = 3u8.pow((unit % BLOCK_UNITS) as u32);
        let mut word = 0;
        for field in 0..4 {
            let numbers = block[4 * line + field].word(row).to_le_bytes();
            let codes = numbers.map(|number| number / power % 3);
            word |= u32::from_le_bytes(codes) << (2 * field);
        }
        word
    }
}

/// Products of up to [`Base3Dot::TOKENS`] tokens.
#[inline(always)]
pub(crate) fn gemm<K: Base3Dot>(
    k: K,
    weights: Base3View<'_>,
    rows: Range<usize>,
    x: QuantizedRows<'_>,
    mut out: MatMut<'_, f32>,
) {
    let fold = Fold::new(weights.scales, x.layout().group());
    for tile in rows.start / ROW_TILE..rows.end.div_ceil(ROW_TILE) {
        let mut tile = Tile {
            k,
            weights,
            fold: &fold,
            tile,
            rows: &rows,
            x,
            out: &mut out,
        };
        let mut token = 0;
        while token < x.tokens() {
            token += match x.tokens() - token {
                4.. if K::TOKENS >= 4 => tile.tokens::<4>(token),
                3 if K::TOKENS >= 3 => tile.tokens::<3>(token),
                2 if K::TOKENS >= 2 => tile.tokens::<2>(token),
                _ => tile.tokens::<1>(token),
            };
        }
    }
}

impl<K: Base3Dot> Tile<'_, '_, K, Base3View<'_>> {
    /// The products with T tokens from `first` on. T.
    #[inline(always)]
    fn tokens<const T: usize>(&mut self, first: usize) -> usize {
        let (k, fold, tile) = (self.k, self.fold, self.tile);
        let (codes, prefetch) = (k.codes(), self.weights.prefetch);
        let s = codes.simd();
        let (blocks, rest) = self.weights.tile(tile);
        let x = self.activations::<T>(first);
        let mut sums = Sums::<K, T> {
            integers: [s.splat_i(0); T],
            y: [s.splat(0.0); T],
            units: 0,
        };
        let zero = [[s.splat_i(0); BLOCK_UNITS]; T];
        let mut of_units = zero;
        for (index, block) in blocks.iter().enumerate() {
            let columns = index * BLOCK_COLS..(index + 1) * BLOCK_COLS;
            let values = x.map(|x| block_values(&x.values[columns.clone()]));
            of_units = k.add::<T>(block, values, of_units, prefetch);
            // Units of one scale are told apart once, behind the last block.
            if fold.unit.is_some() || index + 1 == blocks.len() {
                for t in 0..T {
                    of_units[t] = k.units(of_units[t]);
                }
                for unit in 0..BLOCK_UNITS {
                    let mut of_unit = [s.splat_i(0); T];
                    for t in 0..T {
                        of_unit[t] = of_units[t][unit];
                    }
                    sums.add(s, fold, tile, of_unit, &x);
                }
                of_units = zero;
            }
        }
        let start = blocks.len() * BLOCK_COLS;
        for (index, lines) in rest.as_chunks::<UNIT_LINES>().0.iter().enumerate() {
            let columns = start + index * UNIT..start + (index + 1) * UNIT;
            let values = x.map(|x| &x.values[columns.clone()]);
            let of_unit = codes.span::<T>(lines, values, false, prefetch);
            sums.add(s, fold, tile, of_unit, &x);
        }
        if fold.unit.is_none() {
            for t in 0..T {
                let sum = x[t].sums.iter().sum();
                sums.y[t] = s.to_f32(s.sub_i(sums.integers[t], s.splat_i(sum)));
            }
        }
        self.finish(s, first, sums.y, &x);
        T
    }
}

/// A block's activations, of as many values.
#[inline(always)]
fn block_values(values: &[i8]) -> &BlockValues {
    bytemuck::from_bytes(bytemuck::cast_slice(values))
}

/// The sums of a tile with T tokens, unit by unit.
struct Sums<K: Base3Dot, const T: usize> {
    /// Since the last scale.
    integers: [Integers<K>; T],
    y: [<<K::Codes as CodeDot>::S as Simd>::F; T],
    /// Units that were added.
    units: usize,
}

impl<K: Base3Dot, const T: usize> Sums<K, T> {
    #[inline(always)]
    fn add(
        &mut self,
        s: <K::Codes as CodeDot>::S,
        fold: &Fold<'_>,
        tile: usize,
        of_unit: [Integers<K>; T],
        x: &[QuantizedRow<'_>; T],
    ) {
        for t in 0..T {
            self.integers[t] = s.add_i(self.integers[t], of_unit[t]);
        }
        self.units += 1;
        let Some(unit) = fold.unit else {
            return;
        };
        let end = self.units * UNIT;
        if end.is_multiple_of(unit) || self.units == x[0].sums.len() {
            let columns = (end - 1) / unit * unit..end;
            for t in 0..T {
                let integers = self.integers[t];
                self.y[t] = fold.add_unit(s, self.y[t], integers, tile, columns.clone(), &x[t]);
                self.integers[t] = s.splat_i(0);
            }
        }
    }
}

/// Products of any activations: a few tokens' from the bytes as they are, others from tiles in 2 bits. Shapes are the caller's to
/// check.
pub(crate) fn matmul(
    kernels: Kernels,
    weights: Base3View<'_>,
    rows: Range<usize>,
    x: ActivationView<'_>,
    mut out: MatMut<'_, f32>,
) {
    if let ActivationView::I8(x) = x
        && x.tokens() <= kernels.set().base3_tokens
    {
        return kernels.base3_gemm(weights, rows, x, out);
    }
    let mut scratch = [Line([0; 64]); MAX_TILE_LINES];
    let of_tile = weights.cols.div_ceil(UNIT) * UNIT_LINES;
    let at_once = MAX_TILE_LINES / of_tile;
    for first in rows.clone().step_by(at_once * ROW_TILE) {
        let some = first..rows.end.min(first + at_once * ROW_TILE);
        let tiles = some.start / ROW_TILE..some.end.div_ceil(ROW_TILE);
        let scratch = &mut scratch[..tiles.len() * of_tile];
        let stored = stored_lines(weights.cols);
        for (tile, unpacked) in tiles.clone().zip(scratch.chunks_exact_mut(of_tile)) {
            let lines = &weights.lines[tile * stored..][..stored];
            kernels.base3_unpack(lines, unpacked, weights.prefetch);
        }
        let view = TernaryView {
            lines: scratch,
            first_tile: tiles.start,
            lines_per_tile: of_tile,
            max_code: 2,
            scales: weights.scales,
            // They are in the cache.
            prefetch: PrefetchManager::OFF,
        };
        let columns = some.start - rows.start..some.end - rows.start;
        kernels.ternary_matmul(view, some, x, out.columns(columns));
    }
}

/// Lines of a tile.
pub(super) const fn stored_lines(cols: usize) -> usize {
    let (blocks, rest) = tile_lines(cols);
    blocks + rest
}
