//! A saved state: its bytes are refused or restored, and what a request makes of what was restored is tokens or an error.
//!
//! Built for fuzzing, a checksum is computed and not compared, so that whatever a forger could write is reached.
#![no_main]

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::AtomicBool;

use libfuzzer_sys::fuzz_target;
use ryz_engine::{
    Engine, EngineConfig, EngineError, GenerateRequest, Pinning, Prompt, SamplingParams,
};

static GO_ON: AtomicBool = AtomicBool::new(false);

/// An engine of a tiny model, and the file that it restores from.
static ENGINE: LazyLock<(Engine, PathBuf)> = LazyLock::new(|| {
    let model = here("../__test__/fixtures/reference/b158-v1-tq2_0.gguf");
    let config = EngineConfig {
        threads: Some(1),
        pinning: Pinning::Off,
        context_length: Some(64),
        kv_tokens: Some(64),
        ..EngineConfig::default()
    };
    let engine = Engine::load(&model, &config, &mut |_| ControlFlow::Continue(()));
    let file = std::env::temp_dir().join(format!("ryz-fuzz-state-{}", std::process::id()));
    (engine.expect("a fixture loads"), file)
});

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Writes the seeds, before the corpus is read: states as this engine saves them.
fn seed() {
    let folder = here("corpus/state");
    std::fs::create_dir_all(&folder).expect("the corpus has a folder");
    for tokens in [0, 16, 48] {
        let text: Vec<u32> = (0..tokens).map(|at| at * 7 % 400).collect();
        let file = folder.join(format!("saved-{tokens}"));
        let saved = ENGINE.0.save_prefix(&text, b"a note", &file, &GO_ON);
        saved.expect("a state of a fixture can be saved");
    }
    ENGINE.0.clear_prefix_cache().expect("the engine lives");
}

fuzz_target!(init: seed(), |bytes: &[u8]| {
    let (engine, file) = &*ENGINE;
    std::fs::write(file, bytes).expect("the system's folder of temporary files can be written");
    let restored = match engine.restore_prefix(file, &GO_ON) {
        Ok(restored) => restored,
        Err(error) => return assert_eq!(error.code(), "INVALID_FILE", "{error}"),
    };
    let mut tokens = restored.tokens;
    tokens.truncate(62);
    tokens.push(1);
    let request = GenerateRequest {
        max_tokens: Some(1),
        sampling: SamplingParams::greedy(),
        ..GenerateRequest::new(Prompt::Tokens(tokens))
    };
    match engine.execute(request) {
        Ok(completion) => assert!(completion.finish.usage.prompt_tokens > 0),
        Err(error) => assert!(matches!(error, EngineError::NonFinite { .. }), "{error}"),
    }
    engine.clear_prefix_cache().expect("the engine lives");
});
