//! What the end-to-end tests share: the reference models and a consumer that reads everything.
#![allow(dead_code, reason = "each test file uses its part")]

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use ryz_engine::{
    CalibrateOptions, Delta, Engine, EngineConfig, EngineError, Event, Finish, FinishReason,
    GenerateRequest, Pinning, Prompt, Reply, RequestHandle, SamplingParams,
};

/// What nobody cancels.
pub static GO_ON: AtomicBool = AtomicBool::new(false);

pub const BITNET: &str = "b158-v1-tq2_0.gguf";
pub const BONSAI: &str = "bonsai-v-q2_0-g128.gguf";

pub fn reference(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../__test__/fixtures/reference")
        .join(name)
}

pub fn config() -> EngineConfig {
    EngineConfig {
        threads: Some(2),
        pinning: Pinning::Off,
        // These models are so small that one thread would compute every step.
        parallel_from: 0,
        ..EngineConfig::default()
    }
}

pub fn load(name: &str, config: &EngineConfig) -> Engine {
    Engine::load(&reference(name), config, &mut |_| ControlFlow::Continue(()))
        .expect("the reference model loads")
}

pub fn greedy(prompt: Prompt, max_tokens: u32) -> GenerateRequest {
    GenerateRequest {
        max_tokens: Some(max_tokens),
        sampling: SamplingParams {
            ignore_eos: true,
            ..SamplingParams::greedy()
        },
        credits: 1_000_000,
        ..GenerateRequest::new(prompt)
    }
}

pub fn text(prompt: &str) -> Prompt {
    Prompt::Text(prompt.to_owned())
}

/// A request whose events come through a channel.
pub struct Running {
    pub handle: RequestHandle,
    pub events: Receiver<Event>,
}

pub fn start(engine: &Engine, request: GenerateRequest) -> Running {
    let (sender, events) = channel();
    let sink = Box::new(move |event| drop(sender.send(event)));
    let handle = engine
        .generate(request, sink)
        .expect("the request is valid");
    Running { handle, events }
}

/// Everything a generation said.
#[derive(Debug)]
pub struct Output {
    pub deltas: Vec<Delta>,
    pub text: String,
    pub tokens: Vec<u32>,
    pub end: Result<Finish, EngineError>,
}

impl Output {
    pub fn finish(&self) -> &Finish {
        self.end.as_ref().expect("the generation finished")
    }

    pub fn reason(&self) -> FinishReason {
        self.finish().reason
    }
}

impl Running {
    pub fn next(&self) -> Option<Event> {
        self.events.recv_timeout(Duration::from_secs(60)).ok()
    }

    /// Reads to the end; nothing may come after it.
    pub fn collect(self) -> Output {
        let mut deltas = vec![];
        let end = loop {
            match self.next().expect("an event within a minute") {
                Event::Delta(delta) => deltas.push(delta),
                Event::Finish(finish) => break Ok(finish),
                Event::Failed(error) => break Err(error),
                other => panic!("unknown event {other:?}"),
            }
        };
        drop(self.handle);
        assert!(
            self.events.recv_timeout(Duration::from_secs(60)).is_err(),
            "nothing follows the end"
        );
        Output {
            text: deltas.iter().map(|d| d.text.as_str()).collect(),
            tokens: deltas
                .iter()
                .flat_map(|d| d.token_ids.iter().copied())
                .collect(),
            deltas,
            end,
        }
    }
}

pub fn run(engine: &Engine, request: GenerateRequest) -> Output {
    start(engine, request).collect()
}

/// Waits for a job.
pub fn wait<T: Send + 'static>(
    submit: impl FnOnce(Reply<T>) -> Result<RequestHandle, EngineError>,
) -> Result<T, EngineError> {
    let (sender, result) = channel();
    let handle = submit(Box::new(move |r| drop(sender.send(r))))?;
    let got = result
        .recv_timeout(Duration::from_secs(60))
        .expect("a result within a minute");
    drop(handle);
    got
}

/// Waits until all blocks are free and nothing runs or waits.
pub fn settled(engine: &Engine) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let s = engine.stats();
        if s.kv_blocks_free == s.kv_blocks && s.running == 0 && s.waiting == 0 {
            return;
        }
        assert!(Instant::now() < deadline, "something is still held: {s:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// An engine of the BitNet model whose values have 16 dimensions, learnt from a text.
pub fn calibrated(folder: &Path, text: &str) -> EngineConfig {
    let path = folder.join("calibration.safetensors");
    let options = CalibrateOptions {
        output: Some(path.clone()),
        window: Some(64),
        ranks: vec![],
    };
    Engine::calibrate(
        &reference(BITNET),
        &text.repeat(30),
        &options,
        &config(),
        &mut |_| {},
        &std::sync::atomic::AtomicBool::new(false),
    )
    .expect("it calibrates");
    EngineConfig {
        value_rank: Some(16),
        calibration: Some(path),
        ..config()
    }
}
