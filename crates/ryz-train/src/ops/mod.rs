//! Fused element-wise operators with their backward passes, and the matrix product between them.
//!
//! Each file holds one operator: the equation, forward, backward, and a gradient check against
//! finite differences.

pub(crate) mod attention;
pub(crate) mod cross_entropy;
pub(crate) mod gate;
#[cfg(test)]
pub(crate) mod gradient_check;
pub(crate) mod matmul;
pub(crate) mod norm;
pub(crate) mod rope;
pub(crate) mod weights;
