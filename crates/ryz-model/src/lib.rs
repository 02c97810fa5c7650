//! Transformer architectures: weights, run state and the forward pass.
#![forbid(unsafe_code)]
