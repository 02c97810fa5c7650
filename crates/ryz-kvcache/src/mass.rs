//! How much attention the blocks of a sequence have had.

use std::sync::atomic::{AtomicU64, Ordering};

/// Fixed-point parts of one.
const ONE: f32 = 4_294_967_296.0;

/// The attention that each block of a sequence has had, summed over queries, heads and layers: for every one of them, the
/// sum of the weights that the softmax gave to the block's positions.
///
/// Sums are of integers, in parts of 2⁻³², so that they do not depend on who adds first.
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
    /// Of a sequence of so many blocks at most.
    pub fn new(blocks: usize) -> Self {
        Self((0..blocks).map(|_| AtomicU64::new(0)).collect())
    }

    /// Blocks.
    pub fn blocks(&self) -> usize {
        self.0.len()
    }

    /// Adds `weight` (0 to 1) to what the block at `index` of its sequence's table has had.
    ///
    /// # Panics
    /// When there is no such block.
    pub fn add(&self, index: usize, weight: f32) {
        self.0[index].fetch_add((weight * ONE) as u64, Ordering::Relaxed);
    }

    /// What a block has had.
    ///
    /// # Panics
    /// When there is no such block.
    pub fn get(&self, index: usize) -> f64 {
        self.0[index].load(Ordering::Relaxed) as f64 / f64::from(ONE)
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.0
            .iter()
            .for_each(|sum| sum.store(0, Ordering::Relaxed));
    }
}
