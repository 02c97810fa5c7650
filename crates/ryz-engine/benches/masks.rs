//! What constraints cost: the mask of a token, what of it is left after the forward pass, and what requests without a
//! constraint pay beside one.
//!
//! `cargo bench -p ryz-engine --bench masks [-- MODEL.gguf THREADS]`; by default the story model of the package, two threads.
//! Runs take turns; medians with the least and the most are printed.
#![allow(clippy::print_stdout, reason = "it is a report")]

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::mpsc::channel;

use ryz_engine::{
    Constraint, Engine, EngineConfig, Event, Finish, GenerateRequest, Prompt, SamplingParams,
};

const ROUNDS: usize = 9;
const TOKENS: u32 = 120;

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|a| a != "--bench");
    let shipped = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../models/tales-6m/model.gguf"
    );
    let path = arguments
        .next()
        .map_or_else(|| PathBuf::from(shipped), PathBuf::from);
    let threads = arguments.next().map_or(2, |n| n.parse().expect("a number"));
    let config = EngineConfig {
        threads: Some(threads),
        ..EngineConfig::default()
    };
    let engine = Engine::load(&path, &config, &mut |_| ControlFlow::Continue(())).expect("a model");
    let info = engine.model_info();
    println!(
        "{}, {} tokens in the vocabulary, {threads} threads",
        path.display(),
        info.vocab_size
    );

    let string = r#"{ "type": "string", "minLength": 2000 }"#;
    let list = r#"{ "type": "array", "minItems": 200, "items": { "type": "object", "required": ["name", "age", "pet"],
        "properties": { "name": { "type": "string", "maxLength": 20 }, "age": { "type": "integer" },
        "pet": { "enum": ["cat", "dog", "bird"] } } } }"#;
    let kinds = [
        ("none", None),
        ("a long JSON string", Some(Constraint::json_schema(string))),
        ("a list of objects", Some(Constraint::json_schema(list))),
        (
            "regex [a-z ]{2000,}",
            Some(Constraint::Regex("[a-z ]{2000,}".into())),
        ),
    ];
    let mut rows = vec![Vec::new(); kinds.len()];
    for round in 0..=ROUNDS {
        for (row, (_, constraint)) in rows.iter_mut().zip(&kinds) {
            let measured = measure(&engine, constraint.clone(), round as u64);
            if round > 0 {
                row.push(measured);
            }
        }
    }
    println!(
        "{:<22}{:>26}{:>26}{:>26}",
        "constraint", "ms a token", "mask, µs", "left to wait for, µs"
    );
    for ((name, _), row) in kinds.iter().zip(&rows) {
        let column = |at: usize| {
            let mut values: Vec<f64> = row.iter().map(|measured| measured[at]).collect();
            values.sort_by(f64::total_cmp);
            let (least, most) = (values[0], values[values.len() - 1]);
            format!("{:.3} ({least:.3} to {most:.3})", values[values.len() / 2])
        };
        println!(
            "{name:<22}{:>26}{:>26}{:>26}",
            column(0),
            column(1),
            column(2)
        );
    }
}

/// Milliseconds a token, microseconds of its mask, and of waiting for it.
fn measure(engine: &Engine, constraint: Option<Constraint>, seed: u64) -> [f64; 3] {
    let before = engine.stats();
    let request = GenerateRequest {
        constraint,
        max_tokens: Some(TOKENS),
        sampling: SamplingParams {
            seed: Some(seed),
            ignore_eos: true,
            ..SamplingParams::default()
        },
        credits: 1_000_000,
        ..GenerateRequest::new(Prompt::Text("Once upon a time there was a little".into()))
    };
    let finish = run(engine, request);
    let after = engine.stats();
    let tokens = finish.usage.completion_tokens as f64;
    let masks = (after.masks - before.masks).max(1) as f64;
    [
        finish.timings.decode.as_secs_f64() * 1e3 / (tokens - 1.0),
        (after.mask_nanos - before.mask_nanos) as f64 / 1e3 / masks,
        (after.mask_wait_nanos - before.mask_wait_nanos) as f64 / 1e3 / masks,
    ]
}

fn run(engine: &Engine, request: GenerateRequest) -> Finish {
    let (sender, events) = channel();
    let handle = engine.generate(request, Box::new(move |event| drop(sender.send(event))));
    let _handle = handle.expect("a valid request");
    loop {
        match events.recv().expect("an event") {
            Event::Finish(finish) => return finish,
            Event::Failed(error) => panic!("{error}"),
            _ => {}
        }
    }
}
