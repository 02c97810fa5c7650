//! Ternary and dense CPU kernels, one table row each, bit-identical on every SIMD level.
