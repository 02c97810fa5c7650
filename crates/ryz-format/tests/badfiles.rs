//! The set of malformed files: every case of this crate's at the stage where it belongs.
#![allow(clippy::unwrap_used)]

mod common;

use std::{fs, path::Path};

use common::shared;
use ryz_format::{FormatError, Gguf, ModelConfig, TensorView};
use serde_json::Value;

/// What a stage of loading says about a file.
fn container(file: &[u8]) -> Result<Gguf, FormatError> {
    Gguf::parse(file, file.len() as u64)
}

fn config(file: &[u8]) -> Result<ModelConfig, FormatError> {
    let gguf = container(file)?;
    ModelConfig::from_gguf_keys(&gguf.metadata, &gguf.tensors)
}

fn model(file: &[u8]) -> Result<ModelConfig, FormatError> {
    let gguf = container(file)?;
    let config = ModelConfig::from_gguf(&gguf.metadata, &gguf.tensors)?;
    for tensor in &gguf.tensors {
        let bytes = &file[tensor.offset as usize..][..tensor.bytes as usize];
        TensorView::new(&tensor.name, tensor.dtype, tensor.rows, tensor.cols, bytes)?;
    }
    Ok(config)
}

fn run(folder: &Path, name: &str, stage: &str) -> Result<(), FormatError> {
    let file = fs::read(folder.join(name)).unwrap();
    match stage {
        "container" => container(&file).map(drop),
        // A tokenizer case is a sound container for this crate.
        "tokenizer" => container(&file).map(drop),
        "config" => config(&file).map(drop),
        "model" | "generate" => model(&file).map(drop),
        other => panic!("{name}: stage {other}"),
    }
}

#[test]
fn gguf_cases() {
    let Some(folder) = shared("badfiles") else {
        return;
    };
    let manifest: Value =
        serde_json::from_slice(&fs::read(folder.join("manifest.json")).unwrap()).unwrap();
    let (mut cases, mut wrong) = (0, Vec::new());
    for case in manifest["cases"].as_array().unwrap() {
        let text = |field: &str| case[field].as_str().unwrap();
        let name = text("file");
        // gguf_tokenizer faults belong to the tokenizer.
        if !name.ends_with(".gguf") || text("class") == "gguf_tokenizer" {
            continue;
        }
        cases += 1;
        let result = run(&folder, name, text("stage"));
        let as_expected = match (text("expected"), &result) {
            ("ok", Ok(())) | ("any", _) => true,
            // The fault must be the case's own: the file that lacks only this fault passes the same stage.
            ("error", Err(_)) => case["control"]
                .as_str()
                .is_none_or(|c| run(&folder, c, text("stage")).is_ok()),
            _ => false,
        };
        if !as_expected {
            wrong.push(format!(
                "{name} ({}): expected {}, got {result:?}",
                text("fault"),
                text("expected")
            ));
        }
        if let Err(error) = &result {
            assert!(error.to_string().len() < 500, "{name}: {error}");
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {cases} cases:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(cases > 100, "{cases} cases");
}
