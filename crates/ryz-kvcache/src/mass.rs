//! The attention weight that a sequence's blocks have received.

use std::sync::atomic::{AtomicU64, Ordering};

/// One, in fixed-point units.
const ONE: f32 = 4_294_967_296.0;

/// The attention weight received by each block of a sequence: the sum of the softmax weights of the
/// block's positions over queries, heads and layers.
///
/// Sums are integers in units of 2⁻³², so they do not depend on the order of addition.
///
/// ```
/// use ryz_kvcache::AttentionMass;
///
/// let mass = AttentionMass::new(2);
/// mass.add(1, 0.25);
/// mass.add(1, 0.5);
/// assert_eq!((mass.get(0), mass.get(1)), (0.0, 0.75));
/// ```
#[derive(Debug, Default)]
pub struct AttentionMass(Vec<AtomicU64>);

impl AttentionMass {
    /// For a sequence of at most `blocks` blocks.
    pub fn new(blocks: usize) -> Self {
        Self((0..blocks).map(|_| AtomicU64::new(0)).collect())
    }

    /// Number of blocks.
    pub fn blocks(&self) -> usize {
        self.0.len()
    }

    /// Adds `weight` (0 to 1) to the block at `index` of the sequence's table.
    ///
    /// # Panics
    /// When there is no such block.
    pub fn add(&self, index: usize, weight: f32) {
        self.0[index].fetch_add((weight * ONE) as u64, Ordering::Relaxed);
    }

    /// The weight that a block has received.
    ///
    /// # Panics
    /// When there is no such block.
    pub fn get(&self, index: usize) -> f64 {
        self.0[index].load(Ordering::Relaxed) as f64 / f64::from(ONE)
    }

    /// Resets all sums to zero.
    pub fn clear(&self) {
        self.0
            .iter()
            .for_each(|sum| sum.store(0, Ordering::Relaxed));
    }
}
