//! Activations as int8 rows: what the integer kernels read.
//!
//! A row of x is quantised as a whole (BitNet: s = 127 / max(max|x|, 1e−5), q = clip(round(x·s), −128, 127)) or in
//! groups, each with its own s. One record of whole 64-byte lines holds everything of a row:
//!
//! ```text
//! | q: cols bytes, zeroes up to whole lines | sums: i32 of each 64 q | factors: f32 |
//! ```
//!
//! The sums turn unsigned weight codes into signed weights: Σ (code − 1)·q = Σ code·q − Σ q. The factor is s for a whole
//! row, which products are divided by, and 1/s for each group, which they are multiplied with.

use bytemuck::{Pod, Zeroable};
use ryz_tmac::{AlignedVec, Arena, BufferKind, MatRef, MemoryError};

use crate::QuantizedTiles;

/// Columns that one sum of a quantised row covers; groups of weights and activations are whole multiples of it.
pub const UNIT: usize = 64;

/// 64 bytes on a cache line of their own: the element of a quantised row.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct ByteLine(pub [u8; 64]);

const _: () = assert!(size_of::<ByteLine>() == 64);

/// The shape of quantised rows: how wide, and in which groups.
///
/// ```
/// use ryz_kernels::QuantizedLayout;
///
/// let layout = QuantizedLayout::per_token(2560);
/// assert_eq!(layout.lines(), 40 + 3 + 1); // values, 40 sums, one factor
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QuantizedLayout {
    cols: usize,
    group: Option<usize>,
}

impl QuantizedLayout {
    /// One scale for a row of `cols` values.
    pub const fn per_token(cols: usize) -> Self {
        Self { cols, group: None }
    }

    /// One scale for every `group` values of a row: 64, 128 or 256.
    ///
    /// # Panics
    /// When `group` is another number.
    pub const fn per_group(cols: usize, group: usize) -> Self {
        assert!(
            group == 64 || group == 128 || group == 256,
            "activation groups are of 64, 128 or 256"
        );
        Self {
            cols,
            group: Some(group),
        }
    }

    /// Values of a row.
    pub const fn cols(&self) -> usize {
        self.cols
    }

    /// Values that share a scale, when it is not the whole row.
    pub const fn group(&self) -> Option<usize> {
        self.group
    }

    /// Sums of a row.
    pub const fn units(&self) -> usize {
        self.cols.div_ceil(UNIT)
    }

    /// Factors of a row.
    pub const fn factors(&self) -> usize {
        match self.group {
            None => 1,
            Some(group) => self.cols.div_ceil(group),
        }
    }

    /// Lines that a row occupies: `tokens · lines()` of them hold a batch.
    pub const fn lines(&self) -> usize {
        self.units() + self.units().div_ceil(16) + self.factors().div_ceil(16)
    }

    /// Values of one row that are 0.
    ///
    /// # Panics
    /// When `row` is not [`QuantizedLayout::lines`] long.
    pub fn zeros(&self, row: &[ByteLine]) -> usize {
        assert_eq!(row.len(), self.lines(), "lines of a quantised row");
        let values: &[u8] = bytemuck::cast_slice(&row[..self.units()]);
        // Bytes are added up as bytes, as many whole vectors as a byte can hold: sixteen at a time, where `count` takes two.
        let chunks = values[..self.cols].chunks(usize::from(u8::MAX) / 16 * 16);
        let zeros = chunks.map(|chunk| chunk.iter().map(|&q| u8::from(q == 0)).sum::<u8>());
        zeros.map(usize::from).sum()
    }

    /// The parts of one row's lines, for writing.
    ///
    /// # Panics
    /// When there are not [`QuantizedLayout::lines`] of them.
    pub(crate) fn split_mut<'a>(&self, row: &'a mut [ByteLine]) -> QuantizedRowMut<'a> {
        assert_eq!(row.len(), self.lines(), "lines of a quantised row");
        let (values, rest) = row.split_at_mut(self.units());
        let (sums, factors) = rest.split_at_mut(self.units().div_ceil(16));
        QuantizedRowMut {
            values: bytemuck::cast_slice_mut(values),
            sums: &mut bytemuck::cast_slice_mut(sums)[..self.units()],
            factors: &mut bytemuck::cast_slice_mut(factors)[..self.factors()],
        }
    }
}

/// The parts of a quantised row that is being written.
pub(crate) struct QuantizedRowMut<'a> {
    /// (cols, padded to whole units)
    pub values: &'a mut [i8],
    /// (units)
    pub sums: &'a mut [i32],
    /// (factors)
    pub factors: &'a mut [f32],
}

/// The parts of a quantised row.
#[derive(Clone, Copy)]
pub(crate) struct QuantizedRow<'a> {
    /// (cols, padded to whole units with zeroes)
    pub values: &'a [i8],
    /// (units)
    pub sums: &'a [i32],
    /// (factors)
    pub factors: &'a [f32],
}

/// Quantised rows of a batch, one for each token.
#[derive(Clone, Copy, Debug)]
pub struct QuantizedRows<'a> {
    layout: QuantizedLayout,
    lines: &'a [ByteLine],
    tokens: usize,
}

impl<'a> QuantizedRows<'a> {
    /// Views whole rows of `layout`.
    ///
    /// # Panics
    /// When `lines` is no whole number of them.
    pub fn new(layout: QuantizedLayout, lines: &'a [ByteLine]) -> Self {
        assert!(layout.cols > 0, "a quantised row has values");
        assert!(
            lines.len().is_multiple_of(layout.lines()),
            "{} lines are no rows of {}",
            lines.len(),
            layout.lines()
        );
        Self {
            layout,
            lines,
            tokens: lines.len() / layout.lines(),
        }
    }

    /// The shape of the rows.
    pub fn layout(&self) -> QuantizedLayout {
        self.layout
    }

    /// Rows.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// The rows from `token` on.
    ///
    /// # Panics
    /// When there are fewer.
    pub fn from(&self, token: usize) -> Self {
        assert!(token <= self.tokens, "row {token} of {}", self.tokens);
        Self {
            lines: &self.lines[token * self.layout.lines()..],
            tokens: self.tokens - token,
            layout: self.layout,
        }
    }

    /// The lines of one row.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn lines(&self, token: usize) -> &'a [ByteLine] {
        &self.lines[token * self.layout.lines()..][..self.layout.lines()]
    }

    /// The int8 values of one row.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn values(&self, token: usize) -> &'a [i8] {
        &self.row(token).values[..self.layout.cols]
    }

    /// The factors of one row: s for a row quantised as a whole, 1/s for each group.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn factors(&self, token: usize) -> &'a [f32] {
        self.row(token).factors
    }

    #[inline(always)]
    pub(crate) fn row(&self, token: usize) -> QuantizedRow<'a> {
        let row = &self.lines[token * self.layout.lines()..][..self.layout.lines()];
        let (values, rest) = row.split_at(self.layout.units());
        let (sums, factors) = rest.split_at(self.layout.units().div_ceil(16));
        QuantizedRow {
            values: bytemuck::cast_slice(values),
            sums: &bytemuck::cast_slice(sums)[..self.layout.units()],
            factors: &bytemuck::cast_slice(factors)[..self.layout.factors()],
        }
    }
}

/// Scratch that holds quantised rows, for those who need no shared one.
#[derive(Debug)]
pub struct QuantizedActivations {
    layout: QuantizedLayout,
    lines: AlignedVec<ByteLine>,
}

impl QuantizedActivations {
    /// Room for `tokens` rows.
    ///
    /// # Errors
    /// [`MemoryError`] when the arena refuses.
    pub fn new(layout: QuantizedLayout, tokens: usize, arena: &Arena) -> Result<Self, MemoryError> {
        let lines =
            arena.allocate_slice(layout.lines().saturating_mul(tokens), BufferKind::Scratch)?;
        Ok(Self { layout, lines })
    }

    /// The lines of one row, for [`Kernels::quantize_row`](crate::Kernels::quantize_row).
    ///
    /// # Panics
    /// When there is no such row.
    pub fn row_mut(&mut self, token: usize) -> &mut [ByteLine] {
        &mut self.lines[token * self.layout.lines()..][..self.layout.lines()]
    }

    /// The first `tokens` rows.
    ///
    /// # Panics
    /// When there are fewer.
    pub fn rows(&self, tokens: usize) -> QuantizedRows<'_> {
        QuantizedRows::new(self.layout, &self.lines[..tokens * self.layout.lines()])
    }
}

/// What a linear layer multiplies: one row for each token.
#[derive(Clone, Copy, Debug)]
pub enum ActivationView<'a> {
    /// (tokens, cols) as they are: the exactness path.
    F32(MatRef<'a, f32>),
    /// int8, with one scale a row or one a group.
    I8(QuantizedRows<'a>),
    /// The same, token-interleaved as far as tiles are full; the tokens left over are rows.
    Tiles {
        /// The first tokens.
        tiles: QuantizedTiles<'a>,
        /// The others.
        rest: QuantizedRows<'a>,
    },
}

impl ActivationView<'_> {
    /// Rows.
    pub fn tokens(&self) -> usize {
        match self {
            Self::F32(rows) => rows.rows(),
            Self::I8(rows) => rows.tokens(),
            Self::Tiles { tiles, rest } => tiles.tokens() + rest.tokens(),
        }
    }

    /// Values of a row.
    pub fn cols(&self) -> usize {
        match self {
            Self::F32(rows) => rows.cols(),
            Self::I8(rows) => rows.layout().cols(),
            Self::Tiles { tiles, .. } => tiles.layout().cols(),
        }
    }
}
