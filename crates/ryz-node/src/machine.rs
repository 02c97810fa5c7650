//! What this machine is and how fast its memory is.

use napi::bindgen_prelude::Function;
use napi::{Env, Result};
use napi_derive::napi;
use ryz_engine::Level;

use crate::answer::{Answer, AnswerArgs, Failure};
use crate::bandwidth::read_bandwidth as measure;
use crate::jobs;

const PASSES: usize = 5;

/// Measures how many bytes a second `threads` threads read together from `bytes` bytes of memory.
#[napi(catch_unwind)]
pub fn read_bandwidth(
    env: Env,
    bytes: f64,
    threads: u32,
    #[napi(ts_arg_type = "(failure: Failure | null, value: number | null) => void")] done: Function<
        '_,
        AnswerArgs<f64>,
        (),
    >,
) -> Result<()> {
    let answer = Answer::new(&done)?;
    jobs::spawn(&env, "ryz-bandwidth", move |_| {
        answer.send_from(|| {
            let refused = || {
                Failure::plain(
                    "OUT_OF_MEMORY",
                    format!("no memory for {bytes} bytes to read"),
                )
            };
            measure(bytes as usize, threads as usize, PASSES).ok_or_else(refused)
        });
    })?;
    Ok(())
}

/// The processor.
#[napi(object)]
pub struct CpuInfo {
    /// Threads an engine uses by default.
    pub default_threads: u32,
    /// The best instruction set.
    pub level: String,
    /// All that work here.
    pub levels: Vec<String>,
}

/// What the processor can do.
#[napi(catch_unwind)]
pub fn cpu_info() -> CpuInfo {
    CpuInfo {
        default_threads: ryz_numa::default_threads() as u32,
        level: Level::detect().to_string(),
        levels: Level::ALL
            .iter()
            .filter(|level| level.supported())
            .map(ToString::to_string)
            .collect(),
    }
}
