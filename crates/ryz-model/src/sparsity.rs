//! Which projections are laid out so that products may leave rows or columns out.
//!
//! With a squared ReLU a row of `up` is multiplied with 0 where its gate is not positive, and a column of `down` where the
//! int8 form of what came out is 0. Both matrices keep their one copy in an order in which such a row or column is memory
//! that is not read; results are the bits of the dense products. Where a list of rows would take longer than all of them is measured
//! at load, and decided token by token; where tiles would be faster, layer by layer ([`crate::orders`], `docs/sparsity.md`).

use ryz_format::{DType, HiddenAct, ModelConfig};
use ryz_kernels::{LineOrder, SparseTernary};
use ryz_tmac::LINE;

use crate::Activations;

/// What decides it, beside the matrix itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sparsity {
    /// Whether it is wanted, the network has zeroes, and activations have one scale a token.
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

    /// Whether the busiest thread has at most a quarter more than its share of rows.
    fn shares_evenly(self, order: LineOrder, rows: usize) -> bool {
        let granules = rows / order.row_granule();
        4 * granules.div_ceil(self.threads) * self.threads <= 5 * granules
            || order == LineOrder::Rows
    }

    /// Lines of scratch memory that one worker needs for a matrix in `order`: for its tiles, or a list of its rows.
    pub fn scratch_lines(order: LineOrder, rows: usize, cols: usize) -> usize {
        let list = match order {
            LineOrder::Rows => (rows * size_of::<u32>()).div_ceil(LINE),
            LineOrder::Columns => 0,
        };
        list.max(SparseTernary::scratch_lines_of(order, cols))
    }
}
