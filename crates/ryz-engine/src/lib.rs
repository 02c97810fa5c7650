//! Requests in, token events out: sequences, scheduler, sampler.
#![forbid(unsafe_code)]

pub mod error;
pub mod math;
pub mod sampler;
pub mod stop;

pub use error::EngineError;
pub use sampler::{
    Candidates, DryParams, Mirostat, Sampled, Sampler, SamplerKind, SamplingParams, TokenLogprobs,
    Vocab,
};
pub use stop::StopMatcher;
