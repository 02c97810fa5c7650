//! Times prefill and decode of a model without an engine around it: what the forward pass alone costs.
//!
//! ```text
//! cargo run --release -p ryz-model --example decode -- MODEL.gguf [THREADS] [LEVEL] [PROMPT] [STEPS] [dense|sparse] [2-bit|1.6-bit] [NEEDED]
//! ```
//!
//! With NEEDED, the head is screened for so many of the largest logits.

use std::{
    error::Error,
    io::{self, Write},
    ops::ControlFlow,
    path::Path,
    sync::atomic::AtomicBool,
    time::Instant,
};

use ryz_kernels::{Kernels, Level, Packing};
use ryz_kvcache::{BLOCK_TOKENS, BlockPool, KvCache, KvCacheConfig, KvDType};
use ryz_model::{
    BatchSequence, HeadScreening, LoadOptions, LogitDemand, Model, ModelSource, Outputs, RunState,
};
use ryz_numa::{Lease, Pinning};
use ryz_tmac::{Arena, ArenaConfig};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument =
        |index: usize, default: &str| arguments.get(index).cloned().unwrap_or(default.to_owned());
    let path = arguments
        .first()
        .ok_or(
            "usage: decode MODEL.gguf [THREADS] [LEVEL] [PROMPT] [STEPS] [dense|sparse] [2-bit|1.6-bit] [NEEDED]",
        )?;
    let threads: usize = argument(1, "2").parse()?;
    let level: Level = argument(2, Level::detect().name()).parse()?;
    let (prompt, steps): (usize, usize) = (argument(3, "128").parse()?, argument(4, "32").parse()?);

    let needed = match argument(7, "").parse() {
        Ok(largest) => LogitDemand::Largest(largest),
        Err(_) => LogitDemand::All,
    };

    let started = Instant::now();
    let arena = Arena::new(ArenaConfig::default());
    let lease = Lease::new(threads, Pinning::Cores)?;
    let source = ModelSource::open(Path::new(path))?;
    let options = LoadOptions {
        kernels: Kernels::new(level)?,
        sparsity: argument(5, "") != "dense",
        packing: argument(6, Packing::default().name()).parse()?,
        head_screening: match needed {
            LogitDemand::All => HeadScreening::Off,
            LogitDemand::Largest(_) => HeadScreening::Always,
        },
        ..LoadOptions::default()
    };
    let model = Model::load(&source, &options, &arena, &lease, &mut |_| {
        ControlFlow::Continue(())
    })?;
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "load {:.2} s, {} kernels {:?}",
        started.elapsed().as_secs_f64(),
        level,
        model.kernel_names()
    )?;

    let config = model.config();
    let blocks = (prompt + steps).div_ceil(BLOCK_TOKENS);
    let cache = KvCacheConfig {
        layers: config.num_hidden_layers,
        kv_heads: config.num_key_value_heads,
        key_dim: config.key_head_dim,
        value_dim: config.value_head_dim,
        dtype: KvDType::F16,
        blocks,
        tails: 2,
    };
    let mut cache = KvCache::new(&arena, cache)?;
    let mut state = RunState::new(&model, &arena, prompt.max(1), 1)?;
    let mut pool = BlockPool::new(blocks);
    let block_table: Vec<_> = std::iter::from_fn(|| pool.allocate()).collect();
    let cancel = AtomicBool::new(false);
    let mut rescored = Vec::with_capacity(steps + 1);
    let mut step = |tokens: &[u32], start: usize| {
        let batch = [BatchSequence {
            tokens,
            start,
            block_table: &block_table,
            window: None,
            mass: None,
            needed,
            outputs: Outputs::Last,
        }];
        let result = model.forward(&lease, &mut state, &mut cache, &batch, &cancel);
        rescored.push(state.take_screened());
        result
    };

    let tokens: Vec<u32> = (0..prompt as u32)
        .map(|i| i % config.vocab_size as u32)
        .collect();
    let started = Instant::now();
    step(&tokens, 0)?;
    let seconds = started.elapsed().as_secs_f64();
    writeln!(out, "pp{prompt} {:.1} tokens/s", prompt as f64 / seconds)?;
    let mut times = Vec::with_capacity(steps);
    for index in 0..steps {
        let started = Instant::now();
        step(
            &[(7 + 7919 * index as u32) % config.vocab_size as u32],
            prompt + index,
        )?;
        times.push(started.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    let median = times[steps / 2];
    let bytes = model.weight_bytes_per_token() as f64;
    writeln!(
        out,
        "tg{steps} {:.2} tokens/s (median step), {:.0} MB a token, {:.1} GB/s",
        1.0 / median,
        bytes / 1e6,
        bytes / median / 1e9
    )?;
    if let Some(rows) = rescored.iter().map(|head| head.rows).max()
        && matches!(needed, LogitDemand::Largest(_))
    {
        let sum: u64 = rescored.iter().map(|head| head.rows).sum();
        let mean = sum as f64 / rescored.len() as f64;
        writeln!(out, "rows of the head a step: {mean:.0}, at most {rows}")?;
    }
    Ok(())
}
