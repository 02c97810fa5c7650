//! Ternary matrices of which a product reads only what counts: the rows that someone asks for, or the columns whose
//! activation is not 0.
//!
//! In a feed-forward network with a squared ReLU, `down · (relu(gate)² · up)`, rows of `up` are multiplied with 0 where
//! the gate is not positive, and so are columns of `down`, and those where the int8 form of the activation is 0 as well.
//! Leaving them out changes no bit: what they add is 0, in integers.
//!
//! **Layout.** One copy of the codes, in lines that hold nothing but one row or one column, so that a line that is not
//! read is 64 bytes that are not read ([`LineOrder`]):
//!
//! | order | a line | in a line | lines follow |
//! |---|---|---|---|
//! | rows | 1 row × 256 columns | column 64·p + j in byte j, bits 2·p | row by row |
//! | columns | 256 rows × 1 column | row 64·p + j in byte j, bits 2·p | some 256s of rows of a column, then the next column |
//!
//! Lines of one column lie together, up to [`MAX_RUN`] of them: memory gives single lines out of many at two thirds of the
//! speed at which it gives runs of five.
//!
//! **Dense products** (many tokens, or f32 activations) go through the kernels of the packed form: a tile, or 16 of them,
//! is laid out anew in scratch memory that stays in the cache, and multiplied there.
//!
//! **Equations.** As those of the packed form with one scale for the tensor or for each row:
//! y = (f32(Σ code·q − Σ q) · s_w) / s_x. A sum over 2^16 columns of 3·64·128 fits int32.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod matrix;
pub(crate) mod order;
pub(crate) mod product;
mod reference;

use ryz_tmac::PrefetchManager;

pub use matrix::SparseTernary;
pub use order::LineOrder;

use crate::Line;

/// Rows of a line of one column, and columns of a line of one row.
pub(crate) const LINE_CODES: usize = 256;
/// Rows and columns whose codes share a byte's place: codes of a line that have the same bits.
pub(crate) const PLANE: usize = 64;
/// The widest matrix in columns: one int32 takes 192 · 128 for each.
pub(crate) const MAX_COLUMNS: usize = 1 << 16;

const _: () = assert!(MAX_COLUMNS as u64 * 192 * 128 < 1 << 31);

/// The most lines of one column that lie together.
pub(crate) const MAX_RUN: usize = 8;

/// Some columns that count for one token, four at a time: a list is filled up with any column and the value 0.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ActiveColumns<'a> {
    pub columns: &'a [u32],
    /// As many.
    pub values: &'a [i8],
}

/// The lines of 256 rows, one for each column.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ColumnLines<'a> {
    /// From the first column's on.
    lines: &'a [Line],
    /// Lines from a column's to the next one's.
    run: usize,
    prefetch: PrefetchManager,
}

impl<'a> ColumnLines<'a> {
    #[inline(always)]
    pub fn line(&self, column: u32) -> &'a Line {
        &self.lines[column as usize * self.run]
    }

    /// Asks for a column's line, unless prefetching is off.
    #[inline(always)]
    pub fn ask(&self, column: u32) {
        if let Some(line) = self.lines.get(column as usize * self.run) {
            self.prefetch.line(line);
        }
    }
}

/// What an instruction set gives to sparse products.
pub(crate) trait SparseDot: crate::ternary::code_dot::CodeDot {
    /// Adds Σ code·q of 256 rows over at most [`product::COLUMNS`] active columns to `sums`, in an order and at sizes of its
    /// own, and asks for the lines of the columns `next` on the way.
    fn add_columns(
        self,
        lines: ColumnLines<'_>,
        active: ActiveColumns<'_>,
        code_3: bool,
        next: &[u32],
        sums: &mut [i32; LINE_CODES],
    );

    /// The sums of 256 rows, row by row, from what [`SparseDot::add_columns`] made.
    fn settle(self, sums: &[i32; LINE_CODES]) -> [i32; LINE_CODES];

    /// Σ code·q of R rows, one after another, with T tokens: their lines, and 256 of each `x` for each. `before` is called
    /// with each row's place before it is read.
    fn rows<const R: usize, const T: usize>(
        self,
        lines: [&[Line]; R],
        x: [&[i8]; T],
        code_3: bool,
        before: impl Fn(usize),
    ) -> [[i32; T]; R];
}
