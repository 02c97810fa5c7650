//! What an engine will take of memory.

use std::path::Path;

use napi::bindgen_prelude::Function;
use napi::{Env, Result};
use napi_derive::napi;
use ryz_engine::Engine;

use crate::answer::{Answer, AnswerArgs, failure};
use crate::jobs;
use crate::load::{Config, engine_config};

/// Bytes that an engine will take.
#[napi(object, object_from_js = false)]
pub struct Estimate {
    /// Packed weights.
    pub weights: f64,
    /// Keys and values.
    pub kv_cache: f64,
    /// Intermediate results.
    pub scratch: f64,
    /// All of the draft model.
    pub draft: f64,
    /// What files are read through, while they are.
    pub staging: f64,
    /// All that stays.
    pub total: f64,
    /// The most there will be.
    pub peak: f64,
    /// Positions of all sequences.
    pub kv_tokens: f64,
    /// Positions of a sequence.
    pub context_length: f64,
}

/// Reads the header of a model and works out what an engine with this configuration takes.
#[napi(catch_unwind)]
pub fn estimate_memory(
    env: Env,
    path: String,
    config: Config,
    #[napi(ts_arg_type = "(failure: Failure | null, value: Estimate | null) => void")]
    done: Function<'_, AnswerArgs<Estimate>, ()>,
) -> Result<()> {
    let answer = Answer::new(&done)?;
    jobs::spawn(&env, "ryz-estimate", move |_| {
        answer.send_from(|| {
            let config = engine_config(config)?;
            let need = Engine::estimate_memory(Path::new(&path), &config)
                .map_err(|error| failure(&error))?;
            Ok(Estimate {
                weights: need.weights as f64,
                kv_cache: need.kv_cache as f64,
                scratch: need.scratch as f64,
                draft: need.draft as f64,
                staging: need.staging as f64,
                total: need.total() as f64,
                peak: need.peak() as f64,
                kv_tokens: need.kv_tokens as f64,
                context_length: need.context_length as f64,
            })
        });
    })?;
    Ok(())
}
