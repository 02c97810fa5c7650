//! Node.js bindings: JavaScript types to engine types and back.
//!
//! Nothing is decided here. Every function that may take time runs on another thread and delivers its result through a
//! callback `(failure, value)`, where a failure is a plain `{ code, message }`: TypeScript makes the error class.

// napi-derive registers nothing in a test build, so all it would export looks unused.
#![cfg_attr(test, allow(dead_code))]

mod answer;
mod answer_form;
mod bandwidth;
mod calibrate;
mod chat;
mod check;
mod classes;
mod convert;
mod engine;
mod estimate;
mod eviction;
mod info;
mod inspect;
mod jobs;
mod load;
mod machine;
mod memory;
mod operators;
mod profile;
mod quantizer;
mod questions;
mod ranker;
mod request;
mod saved;
mod stats;
mod stream;
mod tokenizer;
mod train;

use napi_derive::napi;

/// The version of the native library.
#[napi]
pub fn version() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}
