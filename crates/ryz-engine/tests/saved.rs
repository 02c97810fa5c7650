//! Prefixes in files: they come back in another engine of the same model, and in no other.
#![allow(clippy::unwrap_used)] // helpers of tests, too

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::*;
use ryz_engine::{
    Activations, Engine, EngineConfig, EngineError, Event, KvDType, Operator, OperatorCall, Prompt,
};
use tempfile::TempDir;

const NOTE: &[u8] = b"what it was about";

fn tokens(count: u32) -> Vec<u32> {
    (0..count).map(|t| t * 7 % 400).collect()
}

fn answer(engine: &Engine, tokens: &[u32]) -> (Vec<u32>, String) {
    let mut request = greedy(Prompt::Tokens(tokens.to_vec()), 20);
    request.sampling.logprobs = Some(3);
    let output = run(engine, request);
    settled(engine);
    let logprobs: Vec<_> = output.deltas.iter().map(|delta| &delta.logprobs).collect();
    (output.tokens, format!("{logprobs:?}"))
}

/// A prefix of 100 tokens that was saved.
fn saved(config: &EngineConfig) -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("prefix");
    let engine = load(BITNET, config);
    let saved = engine
        .save_prefix(&tokens(100), NOTE, &path, &GO_ON)
        .unwrap();
    assert_eq!(saved.tokens, 96);
    assert_eq!(saved.bytes, path.metadata().unwrap().len());
    (folder, path)
}

fn refused(path: &Path, model: &str, config: &EngineConfig, what: &str) {
    let engine = load(model, config);
    let error = engine.restore_prefix(path, &GO_ON).unwrap_err();
    assert_eq!(error.code(), "INVALID_FILE", "{error}");
    let message = format!("{error:?} {error}");
    assert!(message.contains(what), "{message} does not name {what}");
    settled(&engine);
    assert_eq!(engine.stats().prefix_tokens_reused, 0);
    engine.clear_prefix_cache().unwrap();
}

#[test]
fn a_restored_prefix_is_not_computed_and_the_answer_is_the_same() {
    for kv in KvDType::ALL {
        let config = EngineConfig { kv, ..config() };
        let (_folder, path) = saved(&config);
        let want = answer(
            &load(
                BITNET,
                &EngineConfig {
                    prefix_cache: false,
                    ..config.clone()
                },
            ),
            &tokens(110),
        );
        let engine = load(BITNET, &config);
        let restored = engine.restore_prefix(&path, &GO_ON).unwrap();
        assert_eq!(restored.tokens, tokens(96));
        assert_eq!((restored.restored, &restored.note[..]), (96, NOTE));
        settled(&engine);
        let before = engine.stats();
        assert_eq!(before.kv_blocks_kept, 6);
        assert_eq!(answer(&engine, &tokens(110)), want, "{kv}");
        let after = engine.stats();
        assert_eq!(after.prompt_tokens - before.prompt_tokens, 14);
        // Again, where it is there already.
        assert_eq!(engine.restore_prefix(&path, &GO_ON).unwrap().restored, 96);
        settled(&engine);
        assert_eq!(engine.stats().kv_blocks_kept, after.kv_blocks_kept);
        engine.clear_prefix_cache().unwrap();
        settled(&engine);
    }
}

#[test]
fn what_is_saved_is_what_is_there_or_else_computed() {
    let folder = TempDir::new().unwrap();
    let (a, b) = (folder.path().join("a"), folder.path().join("b"));
    let engine = load(BITNET, &config());
    engine.save_prefix(&tokens(100), NOTE, &a, &GO_ON).unwrap();
    assert_eq!(engine.stats().prompt_tokens, 96);
    engine.save_prefix(&tokens(97), NOTE, &b, &GO_ON).unwrap();
    // All but the last block, whose logits a job waits for.
    assert_eq!(engine.stats().prompt_tokens, 96 + 16);
    // The order of facts in a header is any.
    let data = |path| {
        let bytes = std::fs::read(path).unwrap();
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        bytes[8 + header..].to_vec()
    };
    assert!(data(&a) == data(&b));
    // Less than a block is no more than its note.
    for few in [0, 15] {
        let saved = engine.save_prefix(&tokens(few), NOTE, &b, &GO_ON).unwrap();
        assert_eq!(saved.tokens, 0);
        let restored = engine.restore_prefix(&b, &GO_ON).unwrap();
        assert_eq!((restored.restored, &restored.note[..]), (0, NOTE));
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn another_model_type_or_activation_is_refused_by_name() {
    let (_folder, path) = saved(&config());
    refused(&path, BONSAI, &config(), "model fingerprint");
    let with = |change: fn(&mut EngineConfig)| {
        let mut config = config();
        change(&mut config);
        config
    };
    refused(&path, BITNET, &with(|c| c.kv = KvDType::F16), "cache type");
    let exact = with(|c| c.activations = Some(Activations::F32));
    refused(&path, BITNET, &exact, "activations");
    let folder = TempDir::new().unwrap();
    let compressed = calibrated(folder.path(), "the old fox saw a tree and the sun ");
    refused(&path, BITNET, &compressed, "value rank");
    // As many dimensions, but others: it is what would be computed that tells.
    let (_folder, other) = saved(&compressed);
    let folder = TempDir::new().unwrap();
    let compressed = calibrated(folder.path(), "a ship, a whale and nine old sailors ");
    refused(&other, BITNET, &compressed, "this engine computes");
    let short = with(|c| c.context_length = Some(64));
    refused(&path, BITNET, &short, "at most 64");
}

#[test]
fn a_file_that_was_cut_short_or_altered_anywhere_is_refused() {
    let (folder, path) = saved(&config());
    let whole = std::fs::read(&path).unwrap();
    let other = folder.path().join("other");
    let engine = load(BITNET, &config());
    let refused = |bytes: &[u8], case: String| {
        std::fs::write(&other, bytes).unwrap();
        let error = engine.restore_prefix(&other, &GO_ON).expect_err(&case);
        assert_eq!(error.code(), "INVALID_FILE", "{case}: {error}");
    };
    let step = whole.len() / 60;
    for len in (0..whole.len())
        .step_by(step)
        .chain([7, 8, 9, whole.len() - 1])
    {
        refused(&whole[..len], format!("cut to {len}"));
    }
    refused(&[&whole[..], &[0]].concat(), "with a byte more".to_owned());
    // Everywhere in the header, and here and there behind it.
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let data = (header..whole.len()).step_by(step / 4 + 1);
    for at in (0..header).chain(data).chain([whole.len() - 1]) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x05;
        refused(&bytes, format!("byte {at} changed"));
    }
    settled(&engine);
    assert_eq!(engine.stats().kv_blocks_kept, 0);
    // What claims to be huge takes no memory for it.
    let mut huge = whole.clone();
    huge[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    refused(&huge, "a header without end".to_owned());
    let missing = engine
        .restore_prefix(&folder.path().join("none"), &GO_ON)
        .unwrap_err();
    assert_eq!(missing.code(), "FILE_NOT_FOUND");
    assert!(engine.restore_prefix(folder.path(), &GO_ON).is_err());
    // And the engine is as good as new.
    assert_eq!(engine.restore_prefix(&path, &GO_ON).unwrap().restored, 96);
}

/// The file with other contents and a checksum that is right.
fn forged(path: &Path, change: impl FnOnce(&mut Vec<u32>, &mut Vec<u8>)) {
    let bytes = std::fs::read(path).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let mut facts = header.metadata().clone().unwrap();
    let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let (tokens, blocks) = (
        read.tensor("tokens").unwrap(),
        read.tensor("blocks").unwrap(),
    );
    let note = read.tensor("note").unwrap().data().to_vec();
    let words = tokens.data().as_chunks::<4>().0.iter();
    let mut ids: Vec<u32> = words.map(|word| u32::from_le_bytes(*word)).collect();
    let (shape, mut data) = (blocks.shape().to_vec(), blocks.data().to_vec());
    change(&mut ids, &mut data);
    let mut hash = xxhash_rust::xxh3::Xxh3::new();
    for key in [
        "state.version",
        "model_fingerprint",
        "kv",
        "value_rank",
        "activations",
    ] {
        let fact = &facts[&format!("ryzanstein.{key}")];
        hash.update(&(fact.len() as u64).to_le_bytes());
        hash.update(fact.as_bytes());
    }
    hash.update(&(ids.len() as u64).to_le_bytes());
    let words: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    [&words, &data, &note]
        .into_iter()
        .for_each(|part| hash.update(part));
    facts.insert(
        "ryzanstein.checksum".to_owned(),
        format!("{:032x}", hash.digest128()),
    );
    use safetensors::tensor::{Dtype, TensorView};
    let views = [
        (
            "tokens",
            TensorView::new(Dtype::U32, vec![ids.len()], &words).unwrap(),
        ),
        ("blocks", TensorView::new(Dtype::U8, shape, &data).unwrap()),
        (
            "note",
            TensorView::new(Dtype::U8, vec![note.len()], &note).unwrap(),
        ),
    ];
    std::fs::write(path, safetensors::serialize(views, Some(facts)).unwrap()).unwrap();
}

#[test]
fn what_this_engine_would_not_compute_is_refused_however_well_it_is_forged() {
    let restore = |change: fn(&mut Vec<u32>, &mut Vec<u8>)| {
        let (_folder, path) = saved(&config());
        forged(&path, change);
        let engine = load(BITNET, &config());
        let restored = engine.restore_prefix(&path, &GO_ON);
        settled(&engine);
        restored
    };
    // The forger knows the form.
    assert_eq!(restore(|_, _| {}).unwrap().restored, 96);
    let error = restore(|ids, _| ids[3] = 7_000_000).unwrap_err();
    assert!(error.to_string().contains("tokens"), "{error}");
    type Change = fn(&mut Vec<u32>, &mut Vec<u8>);
    let changes: [Change; 2] = [|ids, _| ids[3] += 1, |_, data| data[5] ^= 1];
    for change in changes {
        let error = restore(change).unwrap_err();
        assert_eq!(error.code(), "INVALID_FILE");
        assert!(
            error.to_string().contains("this engine computes"),
            "{error}"
        );
    }
    // Behind the first block a forger has his way: what comes of it is text or an error, and the engine lives.
    let (_folder, path) = saved(&config());
    forged(&path, |_, data| {
        let len = data.len();
        data[len / 6..].fill(0xff);
    });
    let engine = load(BITNET, &config());
    engine.restore_prefix(&path, &GO_ON).unwrap();
    let output = run(&engine, greedy(Prompt::Tokens(tokens(110)), 5));
    if let Err(error) = output.end {
        assert!(matches!(error, EngineError::NonFinite { .. }), "{error}");
    }
    engine.clear_prefix_cache().unwrap();
    let want = answer(&load(BITNET, &config()), &tokens(110));
    assert_eq!(answer(&engine, &tokens(110)), want);
}

#[test]
fn as_much_is_restored_as_there_is_room_for() {
    let tight = EngineConfig {
        context_length: Some(128),
        kv_tokens: Some(128),
        ..config()
    };
    let (_folder, path) = saved(&tight);
    let engine = load(BITNET, &tight);
    let mut request = greedy(Prompt::Tokens((0..70).map(|t| t * 3 % 400).collect()), 20);
    request.credits = 1;
    let live = start(&engine, request);
    live.next().unwrap();
    // Five of eight blocks are taken.
    assert_eq!(engine.restore_prefix(&path, &GO_ON).unwrap().restored, 48);
    live.handle.grant(100);
    assert_eq!(live.collect().tokens.len(), 19);
    settled(&engine);
}

struct Looks;

impl Operator for Looks {
    fn forward(&self, _: &OperatorCall, _: &mut [f32], _: &dyn Fn() -> bool) -> Result<(), String> {
        Ok(())
    }
}

#[test]
fn without_a_prefix_cache_or_with_operators_nothing_is_saved_or_restored() {
    let (folder, path) = saved(&config());
    let other = folder.path().join("other");
    let without = EngineConfig {
        prefix_cache: false,
        ..config()
    };
    let (off, operated) = (load(BITNET, &without), load(BITNET, &config()));
    let places = ["layers.0.ffn.output".to_owned()];
    operated
        .register_operator("looks", &places, Arc::new(Looks))
        .unwrap();
    for engine in [off, operated] {
        let error = engine
            .save_prefix(&tokens(100), NOTE, &other, &GO_ON)
            .unwrap_err();
        assert_eq!(error.code(), "INVALID_ARGUMENT");
        assert_eq!(
            engine.restore_prefix(&path, &GO_ON).unwrap_err().code(),
            "INVALID_ARGUMENT"
        );
        assert!(!other.exists());
        settled(&engine);
        engine.dispose();
        assert_eq!(
            engine.restore_prefix(&path, &GO_ON).unwrap_err().code(),
            "DISPOSED"
        );
    }
}

#[test]
fn what_cannot_be_written_is_an_error_and_leaves_nothing() {
    let folder = TempDir::new().unwrap();
    let engine = load(BITNET, &config());
    let nowhere = folder.path().join("none").join("prefix");
    let error = engine
        .save_prefix(&tokens(100), NOTE, &nowhere, &GO_ON)
        .unwrap_err();
    assert_eq!(error.code(), "IO");
    assert!(error.to_string().contains("prefix"), "{error}");
    let wrong = engine.save_prefix(&[1_000_000; 20], NOTE, &nowhere, &GO_ON);
    assert_eq!(wrong.unwrap_err().code(), "INVALID_ARGUMENT");
    let long = vec![0; (1 << 24) + 1];
    let error = engine
        .save_prefix(&tokens(100), &long, &nowhere, &GO_ON)
        .unwrap_err();
    assert!(error.to_string().contains("note"), "{error}");
}

/// Files in a folder.
fn files(folder: &TempDir) -> usize {
    std::fs::read_dir(folder.path()).unwrap().count()
}

#[test]
fn who_gives_up_before_saves_and_restores_nothing() {
    let (folder, path) = saved(&config());
    let before = std::fs::read(&path).unwrap();
    let engine = load(BITNET, &config());
    let cancel = AtomicBool::new(true);
    let error = engine.save_prefix(&tokens(48), NOTE, &path, &cancel);
    assert_eq!(error.unwrap_err().code(), "ABORTED");
    let error = engine.restore_prefix(&path, &cancel).unwrap_err();
    assert_eq!(error.code(), "ABORTED");
    assert_eq!(engine.stats().kv_blocks_kept, 0);
    assert_eq!(engine.stats().steps, 0);
    // The older file is as it was, and alone.
    assert!(std::fs::read(&path).unwrap() == before);
    assert_eq!(files(&folder), 1);
}

#[test]
fn who_gives_up_meanwhile_leaves_no_file_and_nothing_running() {
    let (kept, path) = saved(&config());
    let folder = TempDir::new().unwrap();
    // Behind a generation that holds the only slot, whoever saves or restores waits.
    let engine = load(
        BITNET,
        &EngineConfig {
            max_sequences: 1,
            ..config()
        },
    );
    for restores in [false, true] {
        let first = start(&engine, greedy(Prompt::Tokens(vec![9; 40]), 100_000));
        let Some(Event::Delta(_)) = first.next() else {
            panic!("no delta")
        };
        let cancel = AtomicBool::new(false);
        let error = std::thread::scope(|scope| {
            let waits = scope.spawn(|| match restores {
                false => {
                    let other = folder.path().join("other");
                    let saved = engine.save_prefix(&tokens(100), NOTE, &other, &cancel);
                    saved.map(drop).unwrap_err()
                }
                true => engine.restore_prefix(&path, &cancel).map(drop).unwrap_err(),
            });
            while engine.stats().waiting == 0 {
                std::thread::yield_now();
            }
            cancel.store(true, Ordering::Relaxed);
            waits.join().unwrap()
        });
        assert_eq!(error.code(), "ABORTED");
        first.handle.cancel();
        drop(first);
        settled(&engine);
    }
    assert_eq!((files(&folder), files(&kept)), (0, 1));
    assert_eq!(engine.restore_prefix(&path, &GO_ON).unwrap().restored, 96);
}

#[test]
fn who_gives_up_afterwards_finds_the_file_there() {
    let (folder, path) = saved(&config());
    let engine = load(BITNET, &config());
    let cancel = AtomicBool::new(false);
    engine
        .save_prefix(&tokens(48), NOTE, &path, &cancel)
        .unwrap();
    cancel.store(true, Ordering::Relaxed);
    assert_eq!(engine.restore_prefix(&path, &GO_ON).unwrap().restored, 48);
    assert_eq!(files(&folder), 1);
}
