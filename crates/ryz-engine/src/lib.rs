//! Requests in, token events out: sequences, scheduler, sampler.
#![forbid(unsafe_code)]
