//! The same logits, bit for bit, from every engine that there can be for a model: whatever its instruction set, threads,
//! batch, chunks of the prompt, prefix cache and speculation.
#![allow(clippy::print_stdout)] // the rows in use are part of what is told

mod common;

use std::sync::mpsc::channel;
use std::time::Duration;

use common::*;
use ryz_engine::{EngineConfig, KvDType, Level, Prompt};

const THREADS: [usize; 4] = [1, 2, 3, 4];
const BATCHES: [usize; 3] = [1, 2, 7];
const CHUNKS: [usize; 3] = [1, 13, 512];
/// Most tokens that are proposed ahead.
const LOOKUPS: [usize; 2] = [0, 8];
/// Tokens of an answer: enough for some to come again, so that there are proposals.
const TOKENS: u32 = 10;

/// As many prompts as the largest batch has: all begin alike, the last ones for several blocks.
fn prompts() -> Vec<Vec<u32>> {
    let prompt = |index: u32| {
        let common = (0..index * 9).map(|t| t * 7 % 400);
        let own = (0..20 + index * 3).map(|t| (t * 11 + index * 29) % 400);
        common.chain(own).collect()
    };
    (0..7).map(prompt).collect()
}

/// The logits after each prompt, asked for `batch` at a time, and a greedy answer of each with its log-probabilities.
fn said(engine: &ryz_engine::Engine, batch: usize, lookup: usize) -> Vec<(Vec<u32>, String)> {
    let mut all = Vec::new();
    for group in prompts().chunks(batch) {
        let logits: Vec<_> = group
            .iter()
            .map(|prompt| {
                let (sender, received) = channel();
                let reply = Box::new(move |logits| drop(sender.send(logits)));
                let handle = engine
                    .logits(prompt.clone(), false, 0, reply)
                    .expect("a job");
                (handle, received)
            })
            .collect();
        let answers: Vec<Running> = group
            .iter()
            .map(|prompt| {
                let mut request = greedy(Prompt::Tokens(prompt.clone()), TOKENS);
                request.prompt_lookup = lookup;
                request.sampling.logprobs = Some(2);
                start(engine, request)
            })
            .collect();
        for ((_handle, received), answer) in logits.into_iter().zip(answers) {
            let wait = Duration::from_secs(60);
            let logits = received
                .recv_timeout(wait)
                .expect("in time")
                .expect("logits");
            let answer = answer.collect();
            let logprobs: Vec<_> = answer.deltas.iter().map(|d| &d.logprobs).collect();
            let bits = logits.data.iter().map(|logit| logit.to_bits()).collect();
            all.push((bits, format!("{:?} {logprobs:?}", answer.tokens)));
        }
    }
    all
}

#[test]
fn logits_depend_on_nothing_but_model_and_tokens() {
    let mut compared = 0;
    let mut rows = Vec::new();
    // Each prompt is asked for twice, and a token of it is always computed.
    let whole_blocks = |prompt: Vec<u32>| (prompt.len() as u64 - 1) / 16 * 16;
    let cached = 2 * prompts().into_iter().map(whole_blocks).sum::<u64>();
    let mut expected_runs = 0;
    let mut accepted = 0;
    let levels = Level::ALL.iter().filter(|level| level.supported()).count();
    // The default cache, and the one that has tails with a model of another kind.
    for (model, kv, all_threads) in [
        (BITNET, KvDType::Int8, &THREADS[..]),
        (BONSAI, KvDType::Int4, &THREADS[2..3]),
    ] {
        expected_runs +=
            levels * all_threads.len() * CHUNKS.len() * BATCHES.len() * LOOKUPS.len() * 2;
        let of = |level, threads, prefill_chunk, prefix_cache| EngineConfig {
            level: Some(level),
            threads: Some(threads),
            prefill_chunk,
            prefix_cache,
            kv,
            max_sequences: 14,
            ..config()
        };
        let expected = said(&load(model, &of(Level::Scalar, 1, 512, false)), 1, 0);
        for level in Level::ALL {
            if !level.supported() {
                println!("SKIPPED: level {level} is not on this machine");
                continue;
            }
            for &threads in all_threads {
                for chunk in CHUNKS {
                    let engine = load(model, &of(level, threads, chunk, true));
                    let kernels = &engine.model_info().kernels;
                    let of_level = |name: &String| name.ends_with(&format!("_{level}"));
                    assert!(
                        !kernels.is_empty() && kernels.iter().all(of_level),
                        "{level} computes with {kernels:?}"
                    );
                    rows.extend(kernels.iter().cloned());
                    let with_lookup = |batch| LOOKUPS.map(|lookup| (batch, lookup));
                    for (batch, lookup) in BATCHES.into_iter().flat_map(with_lookup) {
                        // The first time nothing is found, but what the batch itself has computed; the second time all.
                        engine.clear_prefix_cache().expect("the engine lives");
                        for hit in [false, true] {
                            let before = engine.stats();
                            let got = said(&engine, batch, lookup);
                            settled(&engine);
                            let after = engine.stats();
                            let reused = after.prefix_tokens_reused - before.prefix_tokens_reused;
                            if hit {
                                assert_eq!(reused, cached, "not all was found");
                            } else {
                                assert!(reused < cached, "nothing was computed");
                            }
                            assert!(
                                got == expected,
                                "{model} {kv} {level}, {threads} threads, chunks of {chunk}, batches of {batch}, {lookup} ahead, {}",
                                if hit { "found" } else { "computed" }
                            );
                            accepted += after.accepted_tokens - before.accepted_tokens;
                            compared += 1;
                        }
                    }
                }
            }
        }
    }
    rows.sort();
    rows.dedup();
    println!("{compared} runs compared; rows in use: {}", rows.join(" "));
    assert_eq!(compared, expected_runs);
    assert!(accepted > 0, "nothing was proposed and chosen");
    // Every level has rows of its own.
    assert!(rows.len() >= 2 * levels, "{rows:?}");
}
