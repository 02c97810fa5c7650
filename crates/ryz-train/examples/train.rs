//! Trains a model from a text: `train OUTPUT.gguf CORPUS.txt [CONFIG.json]`, without Node.js.
#![allow(clippy::print_stdout)]

use ryz_train::{RunEvent, RunOptions, run};
use std::sync::atomic::AtomicBool;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [output, corpus, config @ ..] = args.as_slice() else {
        return Err("usage: train OUTPUT.gguf CORPUS.txt [CONFIG.json]".into());
    };
    let options = RunOptions {
        corpus: vec![corpus.into()],
        output: output.into(),
        config: match config.first() {
            Some(path) => serde_json::from_str(&std::fs::read_to_string(path)?)?,
            None => serde_json::Value::Null,
        },
        ..RunOptions::default()
    };
    let report = run(
        &options,
        &AtomicBool::new(false),
        &mut |event| match event {
            RunEvent::Step(step) => println!(
                "step {}/{} loss {:.4} {:.0} tokens/s",
                step.step, step.steps, step.loss, step.tokens_per_second
            ),
            event => println!("{event:?}"),
        },
    )?;
    println!("{report:?}");
    Ok(())
}
