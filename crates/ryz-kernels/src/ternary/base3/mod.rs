//! Ternary weights in 1.6 bits: five codes a byte, as a number in base 3, and the products with them.
//!
//! **Layout.** Tiles of 16 rows, as in 2 bits. Columns go in blocks of 320, five units of 64: 16 lines a block. Byte 4r + b of
//! line j is `Σ_k 3^k · code(row r, column 4j + b of unit k)`, up to 242: so a 32-bit lane still meets broadcast words of int8
//! activations, and each of the five places adds up a unit of its own, which is what scales of groups need. The units that
//! are left over, up to four, follow in lines of 2 bits: padding them to a block would cost as much.
//!
//! **Products.** For one token, codes are taken out of the bytes in registers ([`Base3Dot::units`]). Whatever else multiplies
//! (several tokens, tiles of tokens, f32) reads tiles of 2 bits that are unpacked into the cache, some at a time.
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
    integer::{Fold, store},
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

    /// Σ code·q of each row in each unit of a block.
    fn units(
        self,
        block: &[Line; BLOCK_LINES],
        x: &BlockValues,
        prefetch: PrefetchManager,
    ) -> [Integers<Self>; BLOCK_UNITS];
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

/// Products of one token.
#[inline(always)]
pub(crate) fn gemv<K: Base3Dot>(
    k: K,
    weights: Base3View<'_>,
    rows: Range<usize>,
    x: QuantizedRows<'_>,
    mut out: MatMut<'_, f32>,
) {
    let fold = Fold::new(weights.scales, x.layout().group());
    let x = x.row(0);
    for tile in rows.start / ROW_TILE..rows.end.div_ceil(ROW_TILE) {
        let s = k.codes().simd();
        let y = fold.finish(s, product(k, weights, &fold, tile, &x), tile, &x);
        store(s, y, tile, &rows, out.row_mut(0));
    }
}

/// The rows of a tile, before the scales that all their columns share.
#[inline(always)]
fn product<K: Base3Dot>(
    k: K,
    weights: Base3View<'_>,
    fold: &Fold<'_>,
    tile: usize,
    x: &QuantizedRow<'_>,
) -> <<K::Codes as CodeDot>::S as Simd>::F {
    let (codes, prefetch) = (k.codes(), weights.prefetch);
    let (blocks, rest) = weights.tile(tile);
    let (values, _) = x.values.as_chunks::<UNIT>();
    let (of_blocks, of_rest) = values.split_at(blocks.len() * BLOCK_UNITS);
    let mut sums = Sums::new(codes.simd(), fold, tile, x);
    for (block, x) in blocks.iter().zip(of_blocks.as_chunks().0) {
        for sum in k.units(block, x, prefetch) {
            sums.add(sum);
        }
    }
    for (lines, x) in rest.as_chunks::<UNIT_LINES>().0.iter().zip(of_rest) {
        let [sum] = codes.span::<1>(lines, [x], false, prefetch);
        sums.add(sum);
    }
    sums.finish()
}

/// The sums of a tile, unit by unit.
struct Sums<'a, S: Simd> {
    s: S,
    fold: &'a Fold<'a>,
    tile: usize,
    x: &'a QuantizedRow<'a>,
    /// Units that were added.
    units: usize,
    /// Those since the last scale.
    integers: S::I,
    y: S::F,
}

impl<'a, S: Simd> Sums<'a, S> {
    #[inline(always)]
    fn new(s: S, fold: &'a Fold<'a>, tile: usize, x: &'a QuantizedRow<'a>) -> Self {
        Self {
            s,
            fold,
            tile,
            x,
            units: 0,
            integers: s.splat_i(0),
            y: s.splat(0.0),
        }
    }

    #[inline(always)]
    fn add(&mut self, sum: S::I) {
        self.integers = self.s.add_i(self.integers, sum);
        self.units += 1;
        let Some(unit) = self.fold.unit else {
            return;
        };
        let end = self.units * UNIT;
        if end.is_multiple_of(unit) || self.units == self.x.sums.len() {
            let columns = (end - 1) / unit * unit..end;
            let (s, fold) = (self.s, self.fold);
            self.y = fold.add_unit(s, self.y, self.integers, self.tile, columns, self.x);
            self.integers = s.splat_i(0);
        }
    }

    #[inline(always)]
    fn finish(self) -> S::F {
        let s = self.s;
        match self.fold.unit {
            None => s.to_f32(s.sub_i(self.integers, s.splat_i(self.x.sums.iter().sum()))),
            Some(_) => self.y,
        }
    }
}

/// Products of any activations: one token's from the bytes as they are, others from tiles in 2 bits. Shapes are the caller's to
/// check.
pub(crate) fn matmul(
    kernels: Kernels,
    weights: Base3View<'_>,
    rows: Range<usize>,
    x: ActivationView<'_>,
    mut out: MatMut<'_, f32>,
) {
    if let ActivationView::I8(x) = x
        && x.tokens() == 1
    {
        return kernels.base3_gemv(weights, rows, x, out);
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
