//! Ternary and dense CPU kernels, one table row each, bit-identical on every SIMD level.
//!
//! [`Kernels`] is a level's table, proved to run on this machine, and is passed by value. Its methods are the kernels on
//! vectors: norms, rotations, activations, softmax, attention's products, quantisation. Weights are packed once, at
//! load, into a [`Linear`], which keeps its kernels and multiplies [`ActivationView`]s.
//!
//! Nothing here starts threads, and nothing that a step calls allocates. Every level computes the same bits: integers
//! where the model is integer, and float reductions in sixteen lanes and one fixed tree, fused only where it says so
//! (the `simd` module). [`math`] replaces libm.
//!
//! ```
//! use ryz_format::{DType, TensorView};
//! use ryz_kernels::{ActivationView, Kernels, PackedTernary, QuantizedActivations, QuantizedLayout};
//! use ryz_tmac::{Arena, ArenaConfig, MatMut};
//!
//! let arena = Arena::new(ArenaConfig::default());
//! let kernels = Kernels::default();
//! // 4 rows of 128 weights of +1, scale 0.5, as microsoft/BitNet packs them.
//! let codes = [0b10_10_10_10; 4 * 32];
//! let view = TensorView::with_scale("w", DType::I2S, 4, 128, &codes, 0.5).unwrap();
//! let weights = PackedTernary::pack(&view, kernels, &arena)?;
//!
//! let layout = QuantizedLayout::per_token(128);
//! let mut activations = QuantizedActivations::new(layout, 1, &arena)?;
//! kernels.quantize_row(layout, &[2.0; 128], activations.row_mut(0));
//! let mut y = [0.0; 4];
//! weights.matmul(0..4, ActivationView::I8(activations.rows(1)), MatMut::from_slice(&mut y, 4));
//! assert_eq!(y, [128.0; 4]);
//! # Ok::<(), ryz_kernels::KernelError>(())
//! ```

#![allow(
    clippy::needless_range_loop,
    reason = "register tiles are indexed by row and token, several arrays at a time"
)]

mod activations;
mod dense;
mod error;
mod level;
mod linear;
pub mod math;
mod options;
mod self_test;
mod simd;
mod sparse;
mod table;
mod ternary;
mod tiles;
mod vector;

pub use activations::{
    ActivationView, ByteLine, QuantizedActivations, QuantizedLayout, QuantizedRows, UNIT,
};
pub use dense::{COARSE_FLOOR, DenseWeight, PreparedInput};
pub use error::KernelError;
pub use level::Level;
pub use linear::Linear;
pub use options::{BatchLayout, KernelOptions};
pub use self_test::self_test;
pub use sparse::{LineOrder, SparseTernary};
pub use table::Kernels;
pub use ternary::{
    Line, MAX_COLS, PackChunk, PackedTernary, Packing, ROW_TILE, ScaleLayout, TernaryPacker,
};
pub use tiles::{QuantizedTiles, TILE_TOKENS, TileShape, TiledActivations};
pub use vector::{
    BLOCK as KV_BLOCK, Int4Block, KvBlock, MAX_QUERIES, RunningSoftmax, Tile, VALUE_GROUP,
};

/// The function on the gate of a feed-forward network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// x / (1 + e^−x).
    Silu,
    /// max(x, 0)².
    Relu2,
}
