//! What is compared: each variant adds one thing to one before it.

use ryz_kernels::{BatchLayout, KernelOptions};
use ryz_tmac::PrefetchManager;

/// A way to multiply the same tokens with the same matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// (a) Row-major weights at odd addresses, one token at a time, nothing asked for ahead.
    Naive,
    /// (b) Packed lines, the tokens together, activations row by row.
    Rows,
    /// (b) with weights asked for ahead.
    RowsPrefetch,
    /// (c) As (b), activations token-interleaved.
    Tiles,
    /// (d) As (c), with weights asked for ahead.
    TilesPrefetch,
}

impl Variant {
    pub const ALL: [Self; 5] = [
        Self::Naive,
        Self::Rows,
        Self::RowsPrefetch,
        Self::Tiles,
        Self::TilesPrefetch,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Naive => "naive",
            Self::Rows => "rows",
            Self::RowsPrefetch => "rows+prefetch",
            Self::Tiles => "tiles",
            Self::TilesPrefetch => "tiles+prefetch",
        }
    }

    /// The kernels' options; none for the baseline, which uses none of them.
    pub fn options(self, lines: usize) -> Option<KernelOptions> {
        let (batch, lines) = match self {
            Self::Naive => return None,
            Self::Rows => (BatchLayout::Rows, 0),
            Self::RowsPrefetch => (BatchLayout::Rows, lines),
            Self::Tiles => (BatchLayout::Tiles, 0),
            Self::TilesPrefetch => (BatchLayout::Tiles, lines),
        };
        Some(KernelOptions {
            batch: Some(batch),
            prefetch: PrefetchManager::new(lines),
        })
    }
}
