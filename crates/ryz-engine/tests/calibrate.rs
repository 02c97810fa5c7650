//! Values in fewer dimensions: what a calibration learns and costs, and files that are not one.

mod common;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use common::*;
use ryz_engine::{
    CalibrateOptions, CalibrationReport, Engine, EngineConfig, EngineError, KvDType, Level, Prompt,
};
use tempfile::TempDir;

/// Texts over few tokens, so that there is something to be learnt.
fn text_of(sentences: usize) -> String {
    let words = [
        "the ", "fox ", "saw ", "a ", "old ", "tree ", "and ", "sun ",
    ];
    (0..sentences * 8)
        .map(|i| words[(i * i + 3 * i / 7) % words.len()])
        .collect()
}

fn calibrate(
    model: &str,
    output: &Path,
    text: &str,
    ranks: &[usize],
) -> Result<CalibrationReport, EngineError> {
    let options = CalibrateOptions {
        output: Some(output.to_owned()),
        window: Some(64),
        ranks: ranks.to_vec(),
    };
    let config = EngineConfig {
        kv: KvDType::F32,
        ..config()
    };
    let cancel = AtomicBool::new(false);
    let path = reference(model);
    Engine::calibrate(&path, text, &options, &config, &mut |_| {}, &cancel)
}

fn compressed(calibration: &Path, rank: usize) -> EngineConfig {
    EngineConfig {
        value_rank: Some(rank),
        calibration: Some(calibration.to_owned()),
        ..config()
    }
}

fn refused(model: &str, config: &EngineConfig) -> EngineError {
    Engine::load(&reference(model), config, &mut |_| {
        std::ops::ControlFlow::Continue(())
    })
    .expect_err("this is refused")
}

/// A calibration of the BitNet model.
fn made() -> (TempDir, PathBuf, CalibrationReport) {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("calibration.safetensors");
    let report = calibrate(BITNET, &path, &text_of(120), &[]).expect("it calibrates");
    (folder, path, report)
}

#[test]
fn more_dimensions_keep_more_and_all_of_them_everything() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("calibration");
    let channels = calibrate(BITNET, &path, &text_of(120), &[1])
        .expect("it calibrates")
        .channels;
    let ranks = [1, channels / 4, channels / 2, channels];
    let report = calibrate(BITNET, &path, &text_of(120), &ranks).expect("it calibrates");
    assert_eq!(report.path, path);
    assert!(report.tokens > 3 * report.held_out && report.held_out > 60);
    let kept: Vec<f64> = report.ranks.iter().map(|rank| rank.kept).collect();
    assert!(kept.is_sorted() && kept[0] > 0.0, "{kept:?}");
    assert!((kept[3] - 1.0).abs() < 1e-9, "{kept:?}");
    let cost = |index: usize| (report.ranks[index].mean_nll - report.mean_nll).abs();
    // All dimensions are a rotation and back: rounding alone is left, and what it turns in int8 activations.
    assert!(cost(3) < 0.01 * report.mean_nll, "{report:?}");
    assert!(cost(0) > cost(3), "{report:?}");
}

#[test]
fn values_take_half_the_memory_in_half_the_dimensions() {
    let (_folder, path, report) = made();
    for kv in KvDType::ALL {
        let whole = EngineConfig { kv, ..config() };
        let half = EngineConfig {
            kv,
            ..compressed(&path, report.channels / 2)
        };
        let (whole, loaded) = (load(BITNET, &whole), load(BITNET, &half));
        let bytes = |engine: &Engine| engine.model_info().kv_bytes;
        assert_eq!(loaded.model_info().value_rank, report.channels / 2);
        // Keys take as much as values did, so that a quarter is saved; scales are not.
        let saved = 1.0 - bytes(&loaded) as f64 / bytes(&whole) as f64;
        assert!((0.17..0.26).contains(&saved), "{kv}: {saved}");
        let estimate = Engine::estimate_memory(&reference(BITNET), &half).expect("an estimate");
        assert_eq!(estimate.kv_cache, bytes(&loaded));
    }
}

#[test]
fn compressed_values_give_the_same_bits_however_they_are_computed() {
    let (_folder, path, report) = made();
    let tokens: Vec<u32> = (0..150).map(|t| (t * 37 + 11) % 400).collect();
    for kv in KvDType::ALL {
        let with = |level, threads, prefill_chunk| {
            let config = EngineConfig {
                kv,
                level: Some(level),
                threads: Some(threads),
                prefill_chunk,
                ..compressed(&path, report.channels / 2)
            };
            let engine = load(BITNET, &config);
            let tokens = tokens.clone();
            let logits = wait(|reply| engine.logits(tokens, true, 0, reply)).expect("logits");
            logits.data.iter().map(|x| x.to_bits()).collect::<Vec<_>>()
        };
        let expected = with(Level::Scalar, 1, 512);
        let levels = Level::ALL.into_iter().filter(|level| level.supported());
        let others = levels.map(|level| (level, 2, 13));
        for (level, threads, chunk) in others.chain([(Level::detect(), 3, 1)]) {
            let got = with(level, threads, chunk);
            assert!(
                got == expected,
                "{kv} {level}, {threads} threads, chunks of {chunk}"
            );
        }
    }
}

#[test]
fn answers_are_the_same_alone_and_in_a_batch() {
    let (_folder, path, report) = made();
    let config = EngineConfig {
        kv: KvDType::Int4,
        ..compressed(&path, report.channels / 2)
    };
    let engine = load(BITNET, &config);
    let request = |i: u32| {
        let prompt = (0..20 + i * 7).map(|t| (t * 7 + i * 13) % 400).collect();
        greedy(Prompt::Tokens(prompt), 20)
    };
    let alone: Vec<_> = (0..5).map(|i| run(&engine, request(i)).tokens).collect();
    let running: Vec<_> = (0..5).map(|i| start(&engine, request(i))).collect();
    let together: Vec<_> = running.into_iter().map(|r| r.collect().tokens).collect();
    assert_eq!(together, alone);
    settled(&engine);
}

#[test]
fn the_calibration_of_another_model_is_refused() {
    let (_folder, path, report) = made();
    let error = refused(BONSAI, &compressed(&path, report.channels / 2));
    assert_eq!(error.code(), "INVALID_FILE");
    assert!(error.to_string().contains("model fingerprint"), "{error}");
}

#[test]
fn dimensions_that_a_value_does_not_have_are_refused() {
    let (_folder, path, report) = made();
    for rank in [0, report.channels + 1] {
        let config = compressed(&path, rank);
        assert_eq!(refused(BITNET, &config).code(), "INVALID_ARGUMENT");
        let error = Engine::estimate_memory(&reference(BITNET), &config).expect_err("refused");
        assert_eq!(error.code(), "INVALID_ARGUMENT");
    }
    let alone = EngineConfig {
        value_rank: None,
        ..compressed(&path, 1)
    };
    assert_eq!(refused(BITNET, &alone).code(), "INVALID_ARGUMENT");
}

#[test]
fn files_that_are_cut_short_or_changed_are_refused_and_missing_ones_named() {
    let (folder, path, report) = made();
    let bytes = std::fs::read(&path).expect("the calibration");
    let other = folder.path().join("other");
    let config = compressed(&other, report.channels / 2);
    assert_eq!(refused(BITNET, &config).code(), "FILE_NOT_FOUND");
    let header = String::from_utf8_lossy(&bytes[..bytes.len().min(2000)]).into_owned();
    let version = header.find("calibration.version\":\"1").expect("a version") + 22;
    let mut newer = bytes.clone();
    newer[version] = b'7';
    let mut infinite = bytes.clone();
    let end = infinite.len() - 4;
    infinite[end..].copy_from_slice(&f32::INFINITY.to_le_bytes());
    let cases = [
        (&bytes[..0], "no calibration"),
        (&bytes[..bytes.len() / 2], "no calibration"),
        (&bytes[..bytes.len() - 1], "no calibration"),
        (&newer, "version: expected 1, got 7"),
        (&infinite, "finite"),
    ];
    for (content, said) in cases {
        std::fs::write(&other, content).expect("a file");
        let error = refused(BITNET, &config);
        assert_eq!(error.code(), "INVALID_FILE", "{error}");
        assert!(error.to_string().contains(said), "{said}: {error}");
    }
}

#[test]
fn too_short_a_text_is_refused_and_a_cancelled_calibration_writes_nothing() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("calibration");
    let error = calibrate(BITNET, &path, "the fox", &[]).expect_err("two words");
    assert_eq!(error.code(), "INVALID_ARGUMENT");
    let options = CalibrateOptions {
        output: Some(path.clone()),
        window: Some(64),
        ..CalibrateOptions::default()
    };
    let (text, config) = (text_of(120), config());
    let (mut calls, cancel) = (0, AtomicBool::new(false));
    let mut progress = |_| {
        calls += 1;
        cancel.store(calls >= 10, Ordering::Relaxed);
    };
    let model = reference(BITNET);
    let error = Engine::calibrate(&model, &text, &options, &config, &mut progress, &cancel);
    assert_eq!(error.expect_err("cancelled").code(), "ABORTED");
    assert!(!path.exists());
}
