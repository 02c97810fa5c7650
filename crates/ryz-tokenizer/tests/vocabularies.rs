//! Real vocabularies give exactly the ids that the models' own tokenizers give.
//!
//! They are read from `../shared/vocab` and `../shared/reference2`, and from llama.cpp's sources, as
//! `scripts/fetch-llama-cpp.mjs` fetches them. What is missing is said loudly.
#![allow(clippy::unwrap_used)] // helpers of tests, too

mod common;

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    time::Instant,
};

use common::{PLAIN, SPECIAL, ids, metadata_of, note_ran, shared};
use ryz_format::Metadata;
use ryz_tokenizer::Tokenizer;
use serde_json::Value;

fn say(text: &str) {
    // Past the test harness's capture.
    let mut stderr = std::io::stderr();
    writeln!(stderr, "\n{text}").unwrap();
}

/// The pairs of `.inp` and `.out`: a text and its ids.
fn pairs(inp: &Path, out: &Path) -> Vec<(String, Vec<u32>)> {
    let texts = fs::read_to_string(inp).unwrap();
    let lines = fs::read_to_string(out).unwrap();
    let texts: Vec<&str> = texts.split("\n__ggml_vocab_test__\n").collect();
    let lines: Vec<&str> = lines.lines().collect();
    let last_is_empty = texts.last().is_some_and(|text| text.is_empty());
    let count = texts.len() - usize::from(last_is_empty && texts.len() > lines.len());
    assert_eq!(count, lines.len(), "{}", inp.display());
    let ids = |line: &str| {
        line.split_whitespace()
            .map(|id| id.parse().unwrap())
            .collect()
    };
    let texts = texts.into_iter().map(str::to_owned);
    texts.zip(lines.into_iter().map(ids)).collect()
}

fn check(name: &str, metadata: &Metadata, pairs: &[(String, Vec<u32>)]) {
    let began = Instant::now();
    let tokenizer =
        Tokenizer::from_gguf(metadata).unwrap_or_else(|error| panic!("{name}: {error}"));
    say(&format!(
        "{name}: loaded in {:.3} s",
        began.elapsed().as_secs_f64()
    ));
    for (text, expected) in pairs {
        let got = tokenizer.encode(text, PLAIN).unwrap();
        assert_eq!(&got, expected, "{name}: {text:?}");
        let whole = tokenizer.decode(&got, false);
        let leading = |text: &str| text.trim_start_matches(' ').to_owned();
        assert_eq!(leading(&whole), leading(text), "{name}: decoded");
    }
    assert!(pairs.len() > 30, "{name}: {} texts", pairs.len());
}

#[test]
fn every_handed_vocabulary_gives_its_ids() {
    let Some(folder) = shared("vocab") else {
        return;
    };
    let mut ran = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let Some(name) = name.strip_suffix(".gguf.xz") else {
            continue;
        };
        let of = |extension: &str| folder.join(format!("{name}.{extension}"));
        check(name, &metadata_of(&path), &pairs(&of("inp"), &of("out")));
        ran += 1;
    }
    assert!(ran >= 8, "{} has {ran} vocabularies", folder.display());
    say(&format!("vocabularies: {ran} ran, 0 skipped"));
    note_ran("vocabularies", ran, 0);
}

/// The folder `models` of llama.cpp's sources that `RYZ_LLAMA_MODELS` names, or what
/// `scripts/fetch-llama-cpp.mjs` fetched.
fn llama_cpps() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("RYZ_LLAMA_MODELS") {
        return Some(named.into());
    }
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache/llama-cpp");
    let versions = fs::read_dir(cache).ok()?.flatten();
    let folders = versions.map(|version| version.path().join("vocab"));
    folders.filter(|folder| folder.is_dir()).max()
}

/// More vocabularies, from llama.cpp's own sources.
#[test]
fn vocabularies_of_llama_cpps_sources_give_their_ids() {
    let Some(folder) = llama_cpps() else {
        say("SKIPPED: no vocabularies of llama.cpp; scripts/fetch-llama-cpp.mjs fetches them");
        return;
    };
    let (mut ran, mut skipped) = (0, Vec::new());
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let vocabulary = name
            .strip_prefix("ggml-vocab-")
            .and_then(|n| n.strip_suffix(".gguf"));
        let Some(vocabulary) = vocabulary else {
            continue;
        };
        let of = |extension: &str| folder.join(format!("{name}.{extension}"));
        let metadata = metadata_of(&path);
        let model = metadata.get_str("tokenizer.ggml.model").unwrap();
        if !["gpt2", "llama", "gemma4"].contains(&model) || !of("out").is_file() {
            skipped.push(format!("{vocabulary} (model {model})"));
            continue;
        }
        check(vocabulary, &metadata, &pairs(&of("inp"), &of("out")));
        ran += 1;
    }
    assert!(ran >= 10, "{} has {ran} vocabularies", folder.display());
    say(&format!(
        "vocabularies of llama.cpp: {ran} ran, skipped: {}",
        skipped.join(", ")
    ));
    note_ran("vocabularies of llama.cpp", ran, skipped.len());
}

/// The 23 tokens that Qwen 3 adds, as its files have them.
fn with_the_tokens_of_qwen3(mut metadata: Metadata) -> Metadata {
    let instructions = [
        "<|object_ref_start|>",
        "<|object_ref_end|>",
        "<|box_start|>",
        "<|box_end|>",
        "<|quad_start|>",
        "<|quad_end|>",
        "<|vision_start|>",
        "<|vision_end|>",
        "<|vision_pad|>",
        "<|image_pad|>",
        "<|video_pad|>",
    ];
    let texts = [
        "<tool_call>",
        "</tool_call>",
        "<|fim_prefix|>",
        "<|fim_middle|>",
        "<|fim_suffix|>",
        "<|fim_pad|>",
        "<|repo_name|>",
        "<|file_sep|>",
        "<tool_response>",
        "</tool_response>",
        "<think>",
        "</think>",
    ];
    let tokens = metadata.get_strings("tokenizer.ggml.tokens").unwrap();
    let mut tokens: Vec<String> = tokens.iter().map(str::to_owned).collect();
    let types = metadata.get_i32s("tokenizer.ggml.token_type").unwrap();
    let mut types = types.to_vec();
    let kinds = [(&instructions[..], 3), (&texts[..], 4)];
    let added = kinds
        .iter()
        .flat_map(|(list, kind)| list.iter().map(move |text| (text, *kind)));
    for (id, (text, kind)) in (151_646..).zip(added) {
        tokens[id] = (*text).to_owned();
        types[id] = kind;
    }
    let list: Vec<&str> = tokens.iter().map(String::as_str).collect();
    metadata.set("tokenizer.ggml.tokens", common::strings(&list));
    metadata.set(
        "tokenizer.ggml.token_type",
        ryz_format::Value::Array(ryz_format::Array::I32(types)),
    );
    metadata.set("tokenizer.ggml.eos_token_id", 151_645_u32);
    metadata
}

#[test]
fn reference_cases_of_real_vocabularies_give_their_ids() {
    let (Some(cases), Some(vocab)) = (shared("reference2"), shared("vocab")) else {
        return;
    };
    let mut ran = 0;
    for name in ["qwen2", "qwen35"] {
        let bytes = fs::read(cases.join(format!("tokenizer-cases-{name}.json"))).unwrap();
        let file: Value = serde_json::from_slice(&bytes).unwrap();
        let metadata = metadata_of(&vocab.join(format!("{name}.gguf.xz")));
        let tokenizer = Tokenizer::from_gguf(&with_the_tokens_of_qwen3(metadata)).unwrap();
        let compare = |text: &Value, expected: &Value, options, what: &str| {
            let text = text.as_str().unwrap();
            let got = tokenizer.encode(text, options).unwrap();
            assert_eq!(got, ids(expected), "{name}, {what}: {text:?}");
        };
        for case in file["upstream"].as_array().unwrap() {
            compare(&case["text"], &case["ids"], PLAIN, "upstream");
            ran += 1;
        }
        for case in file["own"].as_array().unwrap() {
            compare(&case["text"], &case["ids_no_special"], PLAIN, "own, plain");
            compare(
                &case["text"],
                &case["ids_parse_special"],
                SPECIAL,
                "own, special",
            );
            ran += 2;
        }
        for case in file["chats"].as_array().unwrap() {
            compare(&case["text"], &case["ids_parse_special"], SPECIAL, "chat");
            ran += 1;
        }
        assert_eq!(tokenizer.encode("</s>", PLAIN).unwrap(), [522, 82, 29]);
        assert_eq!(tokenizer.encode("</s>", SPECIAL).unwrap(), [522, 82, 29]);
        assert!(!tokenizer.is_control(128_247) && !tokenizer.is_end_of_generation(128_247));
        assert!(tokenizer.is_end_of_generation(151_645));
    }
    assert!(ran > 100, "{ran}");
    say(&format!("reference cases: {ran} ran, 0 skipped"));
    note_ran("tokenizer cases", ran, 0);
}
