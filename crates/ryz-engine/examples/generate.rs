//! Generates greedily, as often as it is asked to: what the engine does without Node.js around it.
//!
//! ```text
//! cargo run --release -p ryz-engine --example generate -- MODEL.gguf THREADS CONTEXT
//! ```
//!
//! Each line of the input is a request, `{"prompt": [7, 9], "tokens": 64}`; each line of the output its answer,
//! `{"tokenIds": […], "tokensPerSecond": 12.3}`, where the speed is that of the tokens after the first. A first line
//! `{"ready": true}` says that the model is loaded. `npm run bench:peers` compares it with the TypeScript API.

use std::{
    error::Error,
    io::{self, BufRead, Write},
    ops::ControlFlow,
    path::Path,
    sync::mpsc,
    time::Instant,
};

use ryz_engine::{Engine, EngineConfig, Event, GenerateRequest, Prompt};
use serde_json::{Value, json};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, threads, context] = arguments.as_slice() else {
        return Err("usage: generate MODEL.gguf THREADS CONTEXT".into());
    };
    let config = EngineConfig {
        threads: Some(threads.parse()?),
        context_length: Some(context.parse()?),
        ..EngineConfig::default()
    };
    let engine = Engine::load(
        Path::new(model),
        &config,
        &mut |_| ControlFlow::Continue(()),
    )?;
    let mut out = io::stdout().lock();
    answer(&mut out, &json!({ "ready": true }))?;
    for line in io::stdin().lock().lines() {
        let request: Value = serde_json::from_str(&line?)?;
        answer(&mut out, &generate(&engine, &request)?)?;
    }
    engine.dispose();
    Ok(())
}

/// Writes one line.
fn answer(out: &mut impl Write, value: &Value) -> io::Result<()> {
    writeln!(out, "{value}")?;
    out.flush()
}

fn generate(engine: &Engine, request: &Value) -> Result<Value, Box<dyn Error>> {
    let prompt: Vec<u32> = serde_json::from_value(request["prompt"].clone())?;
    let tokens: u32 = serde_json::from_value(request["tokens"].clone())?;
    let mut request = GenerateRequest::new(Prompt::Tokens(prompt));
    request.max_tokens = Some(tokens);
    request.credits = tokens;
    request.sampling.temperature = 0.0;
    request.sampling.ignore_eos = true;

    let (sender, events) = mpsc::channel();
    let _handle = engine.generate(request, Box::new(move |event| drop(sender.send(event))))?;
    let mut ids = Vec::new();
    let mut first = None;
    for event in events {
        match event {
            Event::Delta(delta) => {
                ids.extend(delta.token_ids);
                first.get_or_insert((Instant::now(), ids.len()));
            }
            Event::Failed(error) => return Err(error.into()),
            _ => break,
        }
    }
    let (since, before) = first.ok_or("no token was generated")?;
    let speed = (ids.len() - before) as f64 / since.elapsed().as_secs_f64();
    Ok(json!({ "tokenIds": ids, "tokensPerSecond": speed }))
}
