//! The profile of a run.

mod common;

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use common::*;
use ryz_engine::{Event, Operation, ProfileObserver, Prompt};

/// Counts the operations of each step it hears of.
#[derive(Default)]
struct Steps(Mutex<Vec<Vec<Operation>>>);

impl ProfileObserver for Steps {
    fn step(&self, operations: &[Operation]) {
        self.0.lock().expect("no panic").push(operations.to_vec());
    }
}

#[test]
fn an_observer_hears_of_every_operation_of_the_steps_it_asked_for() {
    let engine = load(BITNET, &config());
    let steps = Arc::new(Steps::default());
    engine.set_profile_observer(Some(steps.clone()), 1).unwrap();
    run(&engine, greedy(prompt(), 9));
    let all = std::mem::take(&mut *steps.0.lock().unwrap());
    assert_eq!(all.len(), 9);
    let layers = engine.model_info().layers;
    for operations in &all {
        for name in ["embed", "head", "sample"] {
            assert_eq!(
                operations.iter().filter(|o| o.phase.name() == name).count(),
                1,
                "{name}"
            );
        }
        let attention = operations.iter().filter(|o| o.phase.name() == "attention");
        assert_eq!(attention.count(), layers);
        let in_order = operations.windows(2).all(|w| w[0].start <= w[1].start);
        assert!(in_order);
    }
    assert_eq!(
        engine.profile().tokens.decoded,
        0,
        "the profile itself was not started"
    );
    // Every third step, from the first on.
    engine.set_profile_observer(Some(steps.clone()), 3).unwrap();
    run(&engine, greedy(prompt(), 9));
    engine.set_profile_observer(None, 1).unwrap();
    run(&engine, greedy(prompt(), 3));
    assert_eq!(steps.0.lock().unwrap().len(), 3);
    assert!(engine.set_profile_observer(None, 0).is_err());
}

const PROMPT: [u32; 5] = [7, 41, 300, 5, 77];

fn prompt() -> Prompt {
    Prompt::Tokens(PROMPT.to_vec())
}

#[test]
fn a_profile_accounts_for_every_token_and_changes_none() {
    let engine = load(BITNET, &config());
    let want = run(&engine, greedy(prompt(), 20)).tokens;
    assert_eq!(
        engine.profile().tokens.decoded,
        0,
        "nothing is recorded unasked"
    );

    engine.start_profiling(100_000);
    assert!(engine.is_profiling());
    assert_eq!(run(&engine, greedy(prompt(), 20)).tokens, want);
    engine.stop_profiling();
    run(&engine, greedy(prompt(), 20));

    let profile = engine.profile();
    let prompt_tokens = PROMPT.len() as u64;
    assert_eq!(profile.tokens.prompt, prompt_tokens);
    assert_eq!(profile.tokens.decoded, 19, "the first came with the prompt");
    assert_eq!(profile.decode.map(|d| d.steps), Some(19));
    assert_eq!(profile.prefill.map(|p| p.steps), Some(1));
    assert!((profile.phases.iter().map(|p| p.share).sum::<f64>() - 1.0).abs() < 1e-9);
    let info = engine.model_info();
    assert_eq!(profile.layers.len(), info.layers);
    for layer in &profile.layers {
        let names: Vec<&str> = layer.phases.iter().map(|p| p.phase.as_str()).collect();
        for name in [
            "qkv",
            "rope",
            "attention",
            "output",
            "gate-up",
            "down",
            "norm",
            "quantize",
            "barrier",
        ] {
            assert!(names.contains(&name), "{name} in {names:?}");
        }
        // Squared ReLU of random weights: about half of the gates are shut, and more of what is left rounds to 0.
        let zeros = layer.zero_fraction.unwrap();
        assert!((0.3..0.7).contains(&zeros), "{zeros}");
        assert!(layer.quantized_zero_fraction.unwrap() >= zeros);
    }
    let tokens = (prompt_tokens + 19) as f64;
    let steps = 20.0;
    // With the gates that are shut, some rows of `up` and columns of `down` are left out.
    let (read, skipped) = (
        profile.bandwidth.weight_bytes_per_token,
        profile.bandwidth.skipped_bytes_per_token,
    );
    assert!(skipped > 0.0 && skipped < read);
    assert!((read + skipped - info.weight_bytes_per_token as f64 * steps / tokens).abs() < 1.0);
    assert!(profile.memory_high_water_bytes >= info.packed_bytes as u64);

    let trace: serde_json::Value = serde_json::from_str(&engine.profile_trace()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let heads = events.iter().filter(|e| e["name"] == "head").count();
    assert_eq!(heads, 20, "one for each step");
}

/// Asked in the very call that says so: nobody can be sooner.
#[test]
fn who_hears_of_an_end_finds_its_steps_in_the_profile_and_its_blocks_free() {
    let engine = load(BITNET, &config());
    engine.start_profiling(0);
    let (sender, heard) = channel();
    let asked = engine.clone();
    let sink = move |event| {
        if let Event::Finish(_) = event {
            sender
                .send((asked.profile().tokens, asked.stats()))
                .unwrap();
        }
    };
    let _generation = engine.generate(greedy(prompt(), 6), Box::new(sink));
    let (tokens, stats) = heard.recv().unwrap();
    assert_eq!((tokens.prompt, tokens.decoded), (5, 5));
    assert_eq!(stats.kv_blocks_free, stats.kv_blocks);
    assert_eq!(
        (stats.running, stats.waiting, stats.generated_tokens),
        (0, 0, 6)
    );
    // And of a job.
    let (sender, heard) = channel();
    let asked = engine.clone();
    let reply = move |_| {
        sender
            .send((asked.profile().tokens, asked.stats()))
            .unwrap()
    };
    let _job = engine
        .score(PROMPT.to_vec(), None, 0, Box::new(reply))
        .unwrap();
    let (tokens, stats) = heard.recv().unwrap();
    assert_eq!(tokens.prompt, 10);
    assert_eq!(stats.kv_blocks_free, stats.kv_blocks);
}

#[test]
fn a_new_profile_starts_from_nothing() {
    let engine = load(BITNET, &config());
    engine.start_profiling(0);
    run(&engine, greedy(text("some words"), 3));
    let first = engine.profile();
    assert!(
        first
            .phases
            .iter()
            .any(|p| p.phase == "tokenize" && p.total_ms > 0.0)
    );
    engine.start_profiling(0);
    assert_eq!(engine.profile().tokens.prompt, 0);
    let timer = engine.start_timer("mine").unwrap();
    assert!(engine.end_timer(timer).is_some());
    assert_eq!(engine.end_timer(timer), None);
    assert_eq!(engine.profile().timers[0].path, "mine");
    assert!(engine.profile().report().contains("mine"));
}
