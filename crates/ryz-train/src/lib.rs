//! Quantisation-aware training and conversion.
#![forbid(unsafe_code)]
