//! Quantised activations, token-interleaved: what the tile kernels read.
//!
//! A tile holds [`TILE_TOKENS`] tokens whole, in lines:
//!
//! ```text
//! | q: 2 lines every 4 channels | sums: 2 lines a unit of 64 | factors: 2 lines each |
//! ```
//!
//! The q are in the lines of the tile's [`TileShape`]: fours make two columns of lines, one for each 16 tokens, one after
//! the other; pairs one, for all 32. Sums and factors lie in lines of 16 tokens × 1, the first 16 tokens' line before the
//! others'. What a sum and a factor are, [`crate::QuantizedLayout`] says.

use ryz_tmac::{
    AlignedVec, Arena, BufferKind, FloatLine, MemoryError, PairLine, QuadLine, SumLine,
};

use crate::{ActivationView, ByteLine, Kernels, QuantizedLayout, QuantizedRows, activations::UNIT};

/// Tokens of a tile.
pub const TILE_TOKENS: usize = 32;

/// Which int8 lines a tile is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TileShape {
    /// 16 tokens × 4 channels, for instructions that add four products (and for portable code).
    Quads,
    /// 32 tokens × 2 channels, for those that add two.
    Pairs,
}

impl QuantizedLayout {
    /// Lines of a tile of [`TILE_TOKENS`] tokens.
    pub const fn tile_lines(&self) -> usize {
        self.value_lines() + 2 * (self.units() + self.factors())
    }

    const fn value_lines(&self) -> usize {
        self.units() * UNIT / 2
    }
}

/// Packs the quantised row of one token into its tile.
///
/// # Panics
/// When the tile has no such token, or lines are not those of the layout.
pub(crate) fn set_token(
    layout: QuantizedLayout,
    shape: TileShape,
    row: &[ByteLine],
    tile: &mut [ByteLine],
    token: usize,
) {
    assert!(token < TILE_TOKENS, "token {token} of a tile");
    assert_eq!(tile.len(), layout.tile_lines(), "lines of a tile");
    let rows = QuantizedRows::new(layout, row);
    assert_eq!(rows.tokens(), 1, "tokens of a row");
    let row = rows.row(0);
    let (half, lane) = (token / 16, token % 16);
    let (values, rest) = tile.split_at_mut(layout.value_lines());
    let (sums, factors) = rest.split_at_mut(2 * layout.units());
    match shape {
        TileShape::Quads => {
            let (first, second) = values.split_at_mut(layout.value_lines() / 2);
            let lines = if half == 0 { first } else { second };
            QuadLine::set_token(bytemuck::cast_slice_mut(lines), lane, row.values);
        }
        TileShape::Pairs => {
            PairLine::set_token(bytemuck::cast_slice_mut(values), token, row.values);
        }
    }
    let sums: &mut [SumLine] = bytemuck::cast_slice_mut(sums);
    for (lines, &sum) in sums.as_chunks_mut::<2>().0.iter_mut().zip(row.sums) {
        lines[half].0[lane] = [sum];
    }
    let factors: &mut [FloatLine] = bytemuck::cast_slice_mut(factors);
    for (lines, &factor) in factors.as_chunks_mut::<2>().0.iter_mut().zip(row.factors) {
        lines[half].0[lane] = [factor];
    }
}

/// Whole tiles of a batch.
#[derive(Clone, Copy, Debug)]
pub struct QuantizedTiles<'a> {
    layout: QuantizedLayout,
    shape: TileShape,
    lines: &'a [ByteLine],
    tiles: usize,
}

impl<'a> QuantizedTiles<'a> {
    /// Views whole tiles, which [`Kernels::interleave_row`](crate::Kernels::interleave_row) wrote for `shape`.
    ///
    /// # Panics
    /// When `lines` is no whole number of them.
    pub fn new(layout: QuantizedLayout, shape: TileShape, lines: &'a [ByteLine]) -> Self {
        assert!(layout.cols() > 0, "a tile has values");
        assert!(
            lines.len().is_multiple_of(layout.tile_lines()),
            "{} lines are no tiles of {}",
            lines.len(),
            layout.tile_lines()
        );
        Self {
            layout,
            shape,
            lines,
            tiles: lines.len() / layout.tile_lines(),
        }
    }

    /// The shape of the rows.
    pub fn layout(&self) -> QuantizedLayout {
        self.layout
    }

    /// The lines that the values are in.
    pub fn shape(&self) -> TileShape {
        self.shape
    }

    /// Tokens, those of all tiles.
    pub fn tokens(&self) -> usize {
        self.tiles * TILE_TOKENS
    }

    /// The int8 values of one token.
    ///
    /// # Panics
    /// When there is no such token or `values` is not as long as a row.
    pub fn values(&self, token: usize, values: &mut [i8]) {
        assert_eq!(values.len(), self.layout.cols(), "values of a token");
        let tile = self.tile(token / TILE_TOKENS);
        let (token, channels) = (token % TILE_TOKENS, values.len());
        match self.shape {
            TileShape::Quads => {
                let (first, second) = tile.values.split_at(tile.values.len() / 2);
                let lines: &[QuadLine] =
                    bytemuck::cast_slice(if token < 16 { first } else { second });
                QuadLine::get_token(&lines[..QuadLine::lines(channels)], token % 16, values);
            }
            TileShape::Pairs => {
                let lines: &[PairLine] = bytemuck::cast_slice(tile.values);
                PairLine::get_token(&lines[..PairLine::lines(channels)], token, values);
            }
        }
    }

    #[inline(always)]
    pub(crate) fn tile(&self, tile: usize) -> Tile<'a> {
        let lines = &self.lines[tile * self.layout.tile_lines()..][..self.layout.tile_lines()];
        let (values, rest) = lines.split_at(self.layout.value_lines());
        let (sums, factors) = rest.split_at(2 * self.layout.units());
        let (sums, factors): (&[SumLine], &[FloatLine]) =
            (bytemuck::cast_slice(sums), bytemuck::cast_slice(factors));
        Tile {
            values,
            sums: sums.as_chunks().0,
            factors: factors.as_chunks().0,
        }
    }
}

/// Scratch that holds tiles, for those who need no shared one.
#[derive(Debug)]
pub struct TiledActivations {
    layout: QuantizedLayout,
    shape: TileShape,
    lines: AlignedVec<ByteLine>,
}

impl TiledActivations {
    /// Interleaves the rows of as many whole tiles as there are, in the lines that `kernels` reads.
    ///
    /// # Errors
    /// [`MemoryError`] when the arena refuses.
    pub fn of_rows(
        rows: QuantizedRows<'_>,
        kernels: Kernels,
        arena: &Arena,
    ) -> Result<Self, MemoryError> {
        let layout = rows.layout();
        let tiles = rows.tokens() / TILE_TOKENS;
        let mut lines: AlignedVec<ByteLine> = arena.allocate_slice(
            tiles.saturating_mul(layout.tile_lines()),
            BufferKind::Scratch,
        )?;
        for token in 0..tiles * TILE_TOKENS {
            let tile = &mut lines[token / TILE_TOKENS * layout.tile_lines()..];
            let tile = &mut tile[..layout.tile_lines()];
            kernels.interleave_row(layout, rows.lines(token), tile, token % TILE_TOKENS);
        }
        Ok(Self {
            layout,
            shape: kernels.tile_shape(),
            lines,
        })
    }

    /// All of them.
    pub fn tiles(&self) -> QuantizedTiles<'_> {
        QuantizedTiles::new(self.layout, self.shape, &self.lines)
    }

    /// What a product with `rows`, of which these are the first tiles, reads.
    ///
    /// # Panics
    /// When there are fewer rows than tokens in the tiles, or of another layout.
    pub fn view<'a>(&'a self, rows: QuantizedRows<'a>) -> ActivationView<'a> {
        let tiles = self.tiles();
        assert_eq!(rows.layout(), self.layout, "layout of the rows");
        ActivationView::Tiles {
            tiles,
            rest: rows.from(tiles.tokens()),
        }
    }
}

/// The parts of a tile.
#[derive(Clone, Copy)]
pub(crate) struct Tile<'a> {
    /// (2 lines for every 4 columns, padded to whole units)
    pub values: &'a [ByteLine],
    /// (units, halves)
    pub sums: &'a [[SumLine; 2]],
    /// (factors, halves)
    pub factors: &'a [[FloatLine; 2]],
}

impl<'a> Tile<'a> {
    /// The lines of some columns, a multiple of four: those of each half for fours; for pairs all, and none.
    #[inline(always)]
    pub(crate) fn columns(
        &self,
        shape: TileShape,
        start: usize,
        end: usize,
    ) -> [&'a [ByteLine]; 2] {
        match shape {
            TileShape::Quads => {
                let (first, second) = self.values.split_at(self.values.len() / 2);
                [&first[start / 4..end / 4], &second[start / 4..end / 4]]
            }
            TileShape::Pairs => [&self.values[start / 2..end / 2], &[]],
        }
    }
}
