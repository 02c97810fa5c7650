//! What this machine is and how fast its memory is.

use napi::bindgen_prelude::Function;
use napi::{Env, Result};
use napi_derive::napi;
use ryz_engine::Level;
use ryz_numa::{CpuBudget, Lease, LeaseOptions, Topology};

use crate::answer::{Answer, AnswerArgs, Failure};
use crate::bandwidth::read_bandwidth as measure;
use crate::jobs;

const PASSES: usize = 5;

/// Measures how many bytes a second threads, placed as an engine's are, read together from `bytes` bytes of
/// memory.
#[napi(catch_unwind)]
pub fn read_bandwidth(
    env: Env,
    bytes: f64,
    threads: Option<u32>,
    node: Option<u32>,
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
            let lease = Lease::with(LeaseOptions {
                threads: threads.map(|threads| threads as usize),
                node: node.map(|node| node as usize),
                ..LeaseOptions::default()
            });
            let measured = lease.and_then(|lease| measure(bytes as usize, &lease, PASSES));
            measured
                .map_err(|error| Failure::plain(error.code(), error.to_string()))?
                .ok_or_else(refused)
        });
    })?;
    Ok(())
}

/// The processor.
#[napi(object)]
pub struct CpuInfo {
    /// Cores that this process may use.
    pub physical_cores: u32,
    /// Memory nodes near them.
    pub nodes: Vec<u32>,
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
    let budget = CpuBudget::detect();
    let nodes = Topology::detect().map_or_else(|_| vec![0], |machine| machine.nodes().to_vec());
    CpuInfo {
        physical_cores: budget.cores as u32,
        nodes: nodes.into_iter().map(|node| node as u32).collect(),
        default_threads: budget.default_threads() as u32,
        level: Level::detect().to_string(),
        levels: Level::ALL
            .iter()
            .filter(|level| level.supported())
            .map(ToString::to_string)
            .collect(),
    }
}
