//! Selects projections laid out so that products may skip rows or columns.
//!
//! With a squared ReLU, a row of `up` is multiplied by 0 if its gate is not positive, and a column
//! of `down` is multiplied by 0 if its int8 input is 0. Both matrices keep a single copy, in an
//! order that makes such a row or column a stretch of memory that need not be read. Results equal
//! the dense products bit for bit. Measurements at load decide, token by token, when a list of rows
//! would take longer than all rows, and layer by layer, when tiles would be faster
//! ([`crate::orders`], `docs/sparsity.md`).

use ryz_format::{DType, HiddenAct, ModelConfig};
use ryz_kernels::{LineOrder, SparseTernary};
use ryz_tmac::LINE;

use crate::Activations;

/// The conditions for an order, besides the matrix itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sparsity {
    /// Whether it is requested, the network produces zeros, and activations have one scale per
    /// token.
    possible: bool,
    activations: Activations,
    threads: usize,
}

impl Sparsity {
    pub fn new(
        wanted: bool,
        config: &ModelConfig,
        activations: Activations,
        threads: usize,
    ) -> Self {
        Self {
            possible: wanted && config.hidden_act == HiddenAct::Relu2,
            activations,
            threads,
        }
    }

    /// The order of a matrix of weights of `dtype`; `None` for tiles.
    pub fn order(self, name: &str, dtype: DType, rows: usize, cols: usize) -> Option<LineOrder> {
        if !self.possible || !dtype.is_ternary() {
            return None;
        }
        let order = if name.ends_with(".ffn_up.weight") {
            LineOrder::Rows
        } else if name.ends_with(".ffn_down.weight") {
            LineOrder::Columns
        } else {
            return None;
        };
        let form = self.activations.form(dtype, cols)?;
        let fits = form.group().is_none() && order.fits(rows, cols);
        (fits && self.shares_evenly(order, rows)).then_some(order)
    }

    /// Whether the busiest thread has at most 25 % more than its share of rows.
    fn shares_evenly(self, order: LineOrder, rows: usize) -> bool {
        let granules = rows / order.row_granule();
        4 * granules.div_ceil(self.threads) * self.threads <= 5 * granules
            || order == LineOrder::Rows
    }

    /// Scratch lines per worker for a matrix in `order`: for its tiles, or for a list of its rows.
    pub fn scratch_lines(order: LineOrder, rows: usize, cols: usize) -> usize {
        let list = match order {
            LineOrder::Rows => (rows * size_of::<u32>()).div_ceil(LINE),
            LineOrder::Columns => 0,
        };
        list.max(SparseTernary::scratch_lines_of(order, cols))
    }
}
