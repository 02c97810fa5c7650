//! Vocabularies that are wrong in one place: the error names the place. And many that are wrong anywhere: no panic.
#![allow(clippy::unwrap_used)] // helpers of tests, too

mod common;

use std::{fs, time::Instant};

use common::{PLAIN, Rng, chain, fixture, fixture_json, metadata, shared, small, strings};
use ryz_format::{Array, Gguf, Metadata, Value};
use ryz_tokenizer::{ChatInput, ChatTemplate, EncodeOptions, HfFiles, Tokenizer, TokenizerError};
use serde_json::json;

fn gguf_error(metadata: &Metadata) -> (String, &'static str) {
    let error = Tokenizer::from_gguf(metadata).unwrap_err();
    (chain(&error), error.code())
}

#[test]
fn gguf_faults_name_the_key_and_index() {
    let invalid = "INVALID_TOKENIZER";
    let array = |values: Vec<i32>| Value::Array(Array::I32(values));
    let cases: Vec<(&str, Value, &str, &str)> = vec![
        (
            "model",
            "markov".into(),
            "tokenizer.ggml.model: \"markov\" is not supported",
            "UNSUPPORTED",
        ),
        ("model", 7u32.into(), "tokenizer.ggml.model", invalid),
        (
            "pre",
            "nope".into(),
            "tokenizer.ggml.pre: \"nope\" is not known; if it cuts words as a known one does",
            "UNSUPPORTED",
        ),
        (
            "tokens",
            strings(&[]),
            "tokenizer.ggml.tokens is missing or empty",
            invalid,
        ),
        ("tokens", "a".into(), "tokenizer.ggml.tokens", invalid),
        (
            "tokens",
            strings(&["a", "b", "a"]),
            "tokenizer.ggml.tokens[2]: \"a\" is already token 0",
            invalid,
        ),
        (
            "merges",
            strings(&["ab"]),
            "tokenizer.ggml.merges[0]: expected two tokens whose union is a token, got \"ab\"",
            invalid,
        ),
        (
            "merges",
            strings(&["a b", "a c"]),
            "tokenizer.ggml.merges[1]: expected two tokens whose union is a token, got \"a c\"",
            invalid,
        ),
        (
            "merges",
            strings(&["a b", "zz a"]),
            "tokenizer.ggml.merges[1]",
            invalid,
        ),
        (
            "merges",
            strings(&["a b c"]),
            "tokenizer.ggml.merges[0]",
            invalid,
        ),
        (
            "merges",
            strings(&["", " "]),
            "tokenizer.ggml.merges[0]",
            invalid,
        ),
        (
            "token_type",
            array(vec![1; 3]),
            "tokenizer.ggml.token_type: expected 257 elements, one for each token, got 3",
            invalid,
        ),
        (
            "token_type",
            array(vec![6; 257]),
            "tokenizer.ggml.tokens[0]: expected a byte token",
            invalid,
        ),
        (
            "bos_token_id",
            257u32.into(),
            "tokenizer.ggml.bos_token_id: expected a token id below 257, got 257",
            invalid,
        ),
        (
            "eos_token_id",
            (-5i32).into(),
            "tokenizer.ggml.eos_token_id",
            invalid,
        ),
        (
            "eot_token_id",
            u32::MAX.into(),
            "tokenizer.ggml.eot_token_id: expected a token id below 257, got 4294967295",
            invalid,
        ),
        (
            "bos_token_id",
            "1".into(),
            "tokenizer.ggml.bos_token_id",
            invalid,
        ),
        (
            "add_bos_token",
            "yes".into(),
            "tokenizer.ggml.add_bos_token",
            invalid,
        ),
    ];
    for (key, value, expected, code) in cases {
        let mut metadata = small(&["ab"], &["a b"]);
        metadata.set(&format!("tokenizer.ggml.{key}"), value);
        let (message, got) = gguf_error(&metadata);
        assert!(message.contains(expected), "{key}: {message}");
        assert_eq!(got, code, "{message}");
    }
    assert_eq!(gguf_error(&Metadata::new()).1, invalid);
}

#[test]
fn sentence_piece_faults_name_the_key_and_index() {
    let floats = |values: Vec<f32>| Value::Array(Array::F32(values));
    for (key, value, expected) in [
        (
            "scores",
            floats(vec![0.0; 3]),
            "tokenizer.ggml.scores: expected 450 elements, one for each token, got 3",
        ),
        (
            "scores",
            floats(vec![f32::NAN; 450]),
            "tokenizer.ggml.scores[0]: expected a number, got NaN",
        ),
        ("scores", 1u32.into(), "tokenizer.ggml.scores"),
        (
            "tokens",
            strings(&["<0xGG>"]),
            "tokenizer.ggml.token_type: expected 1 elements",
        ),
    ] {
        let mut metadata = metadata("spm.gguf");
        metadata.set(&format!("tokenizer.ggml.{key}"), value);
        let (message, _) = gguf_error(&metadata);
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn the_first_of_two_equal_merges_counts() {
    let merges = ["a b", "b c", "ab c", "a bc", "b c"];
    let mut metadata = small(&["ab", "bc", "abc"], &merges);
    metadata.set("tokenizer.ggml.pre", "gpt-2");
    let once = Tokenizer::from_gguf(&metadata).unwrap();
    // Were the last to count, "b c" would still come after "a b"; so put the pair first and last.
    let mut swapped = small(&["ab", "bc", "abc"], &["b c", "a b", "b c"]);
    swapped.set("tokenizer.ggml.pre", "gpt-2");
    let swapped = Tokenizer::from_gguf(&swapped).unwrap();
    assert_eq!(once.encode("abc", PLAIN).unwrap(), [258]);
    assert_eq!(
        swapped.decode(&swapped.encode("abc", PLAIN).unwrap()[1..], true),
        "bc"
    );
}

#[test]
fn hugging_face_faults_name_the_field() {
    let cases: Vec<(&str, serde_json::Value, &str)> = vec![
        (
            "/model/type",
            json!("Unigram"),
            "tokenizer.json: model.type: \"Unigram\" is not supported",
        ),
        (
            "/model/vocab",
            json!([["a", 0.0]]),
            "tokenizer.json: model.vocab: \"a list\" is not supported",
        ),
        (
            "/model/vocab",
            json!({}),
            "tokenizer.json: model.vocab is missing or empty",
        ),
        ("/model/vocab", json!({"a": 1.5}), "expected u32"),
        (
            "/model/vocab",
            json!({"a": 4294967295u32}),
            "tokenizer.json: model.vocab: expected at most",
        ),
        (
            "/model/vocab",
            json!({"a": 1, "b": 1}),
            "tokenizer.json: model.vocab: \"a\" and \"b\" both have id 1",
        ),
        (
            "/model/merges",
            json!(null),
            "tokenizer.json: model.merges is missing or empty",
        ),
        (
            "/model/merges",
            json!([["z", "q"]]),
            "tokenizer.json: model.merges[0]",
        ),
        (
            "/model/merges",
            json!([["a", "b", "c"]]),
            "tokenizer.json does not parse: invalid length 3",
        ),
        (
            "/model/merges",
            json!(["ab"]),
            "tokenizer.json: model.merges[0]",
        ),
        (
            "/model/dropout",
            json!(0.5),
            "tokenizer.json: model.dropout",
        ),
        (
            "/model/end_of_word_suffix",
            json!("</w>"),
            "tokenizer.json: model.end_of_word_suffix",
        ),
        (
            "/normalizer",
            json!({"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "aa"}),
            "tokenizer.json: normalizer: \"(a+)+$\" is not supported",
        ),
        (
            "/normalizer",
            json!({"type": "Lowercase"}),
            "tokenizer.json: normalizer",
        ),
        (
            "/pre_tokenizer",
            json!(null),
            "tokenizer.json: pre_tokenizer",
        ),
        (
            "/pre_tokenizer/pretokenizers/0/pattern/Regex",
            json!("(a+)+$|(x+x+)+y"),
            "tokenizer.json: pre_tokenizer: \"(a+)+$|(x+x+)+y\" is not supported",
        ),
        (
            "/pre_tokenizer/pretokenizers/0/pattern/Regex",
            json!(""),
            "tokenizer.json: pre_tokenizer: \"\" is not supported",
        ),
        (
            "/pre_tokenizer/pretokenizers/0/behavior",
            json!("Removed"),
            "tokenizer.json: pre_tokenizer",
        ),
        (
            "/pre_tokenizer/pretokenizers/1/add_prefix_space",
            json!(true),
            "tokenizer.json: pre_tokenizer",
        ),
        (
            "/decoder",
            json!({"type": "Morse"}),
            "tokenizer.json: decoder",
        ),
        (
            "/post_processor/single/0/SpecialToken/id",
            json!("<nope>"),
            "tokenizer.json: post_processor.single: expected a name from special_tokens",
        ),
        (
            "/post_processor/special_tokens/<|begin_of_text|>/ids",
            json!([512]),
            "tokenizer.json: post_processor.pair: expected a token id below 512, got 512",
        ),
        ("/added_tokens/0/id", json!(-1), "expected u32"),
        (
            "/added_tokens/0/id",
            json!(3),
            "tokenizer.json: added_tokens",
        ),
        (
            "/added_tokens/0/content",
            json!(""),
            "tokenizer.json: added_tokens: expected tokens with text",
        ),
        (
            "/added_tokens/0/content",
            json!("a"),
            "tokenizer.json: added_tokens",
        ),
        (
            "/added_tokens/0/single_word",
            json!(true),
            "tokenizer.json: added_tokens",
        ),
        (
            "/added_tokens/1/content",
            json!("x".repeat(2_000_000)),
            "bytes of control and user-defined tokens: expected at most 1048576",
        ),
    ];
    let intact = fixture_json("tokenizer-llama-bpe.json");
    for (pointer, value, expected) in cases {
        let mut file = intact.clone();
        *file
            .pointer_mut(pointer)
            .unwrap_or_else(|| panic!("{pointer}")) = value;
        let bytes = serde_json::to_vec(&file).unwrap();
        let files = HfFiles {
            tokenizer: &bytes,
            ..HfFiles::default()
        };
        let error = Tokenizer::from_hf(&files)
            .err()
            .unwrap_or_else(|| panic!("{pointer} passes"));
        let message = chain(&error);
        assert!(message.contains(expected), "{pointer}: {message}");
        assert!(message.len() < 700, "{}", message.len());
        let known = ["INVALID_TOKENIZER", "UNSUPPORTED"];
        assert!(known.contains(&error.code()), "{message}");
    }
    let mut deep = intact;
    deep["pre_tokenizer"] = (0..50).fold(
        deep["pre_tokenizer"].clone(),
        |inner, _| json!({"type": "Sequence", "pretokenizers": [inner]}),
    );
    let bytes = serde_json::to_vec(&deep).unwrap();
    let files = HfFiles {
        tokenizer: &bytes,
        ..HfFiles::default()
    };
    assert!(matches!(
        Tokenizer::from_hf(&files),
        Err(TokenizerError::Unsupported { .. })
    ));
    let files = HfFiles {
        tokenizer: &b"[".repeat(20_000),
        ..HfFiles::default()
    };
    assert!(matches!(
        Tokenizer::from_hf(&files),
        Err(TokenizerError::Json { .. })
    ));
}

fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>) {
    if rng.below(8) == 0 {
        bytes.truncate(rng.below(bytes.len()));
        return;
    }
    for _ in 0..1 + rng.below(3) {
        let at = rng.below(bytes.len());
        match rng.below(4) {
            0 => bytes[at] ^= 1 << rng.below(8),
            1 => bytes[at] = rng.next() as u8,
            2 => {
                bytes.remove(at);
            }
            _ => {
                let from = rng.below(bytes.len());
                let piece: Vec<u8> =
                    bytes[from..(from + 1 + rng.below(12)).min(bytes.len())].to_vec();
                bytes.splice(at..at, piece);
            }
        }
    }
}

/// A smaller tokenizer.json, so that many mutations take little time.
fn small_json() -> Vec<u8> {
    let mut file = fixture_json("tokenizer-llama-bpe.json");
    let vocab = file["model"]["vocab"].as_object_mut().unwrap();
    vocab.retain(|text, _| {
        text.chars().count() == 1 && text.is_ascii()
            || ["Ġ", "Ġt", "he", "Ġa"].contains(&text.as_str())
    });
    file["model"]["merges"] = json!([["Ġ", "t"], ["h", "e"], ["Ġ", "a"]]);
    serde_json::to_vec(&file).unwrap()
}

fn try_tokenizer(result: Result<Tokenizer, TokenizerError>) -> bool {
    let Ok(tokenizer) = result else { return false };
    if let Ok(ids) = tokenizer.encode("the aa <|eot_id|> é", EncodeOptions::default()) {
        assert!(ids.iter().all(|&id| id < tokenizer.vocab_size()));
        tokenizer.decode(&ids, true);
    }
    true
}

/// For each parser.
const MUTATIONS: usize = 100_000;

#[test]
fn mutated_tokenizer_json_never_panics() {
    let seed = 0x5EED_0001;
    let mut rng = Rng(seed);
    let intact = small_json();
    let mut passed = 0;
    for _ in 0..MUTATIONS {
        let mut bytes = intact.clone();
        mutate(&mut rng, &mut bytes);
        let files = HfFiles {
            tokenizer: &bytes,
            ..HfFiles::default()
        };
        passed += usize::from(try_tokenizer(Tokenizer::from_hf(&files)));
    }
    assert!(
        (1_000..MUTATIONS - 1_000).contains(&passed),
        "seed {seed:#x}: {passed}"
    );
}

#[test]
fn mutated_gguf_metadata_never_panics() {
    let seed = 0x5EED_0002;
    let mut rng = Rng(seed);
    let mut passed = 0;
    for name in ["llama-bpe.gguf", "spm.gguf"] {
        let intact = fixture(name);
        for _ in 0..MUTATIONS / 2 {
            let mut bytes = intact.clone();
            mutate(&mut rng, &mut bytes);
            let Ok(gguf) = Gguf::parse(&bytes, bytes.len() as u64) else {
                continue;
            };
            passed += usize::from(try_tokenizer(Tokenizer::from_gguf(&gguf.metadata)));
        }
    }
    assert!(passed > 1_000, "seed {seed:#x}: {passed}");
}

#[test]
fn mutated_templates_never_panic() {
    let seed = 0x5EED_0003;
    let mut rng = Rng(seed);
    let intact: [&[u8]; 2] = [
        b"{%- set ns = namespace(n=0) %}{% for m in messages[::-1] %}{% if m.role == 'user' and m.content is string %}{{ '<' + m['role'] + '>' + m.content | trim }}{% elif not loop.last %}{{ m | tojson(indent=2) }}{% endif %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
        b"{% macro f(x, n=2) %}{{ x * n }}{% endmacro %}{{ f('ab', n=3) }}{{ [1, 2][0] }}{{ {'a': 1}.get('a') }}{{ 'a,b'.split(',') | join('-') | upper }}{{ 'x' if messages else 'y' }}",
    ];
    let messages =
        json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "é"}]);
    let input = ChatInput::new(messages);
    let mut passed = 0;
    for _ in 0..MUTATIONS / intact.len() {
        for source in intact {
            let mut bytes = source.to_vec();
            mutate(&mut rng, &mut bytes);
            let template = ChatTemplate::from_bytes(&bytes, "<s>", "</s>");
            passed += usize::from(
                template
                    .and_then(|template| template.render(&input))
                    .is_ok(),
            );
        }
    }
    assert!(passed > 1_000, "seed {seed:#x}: {passed}");
}

/// The whole set of malformed files: those of the tokenizers' and the templates' classes.
#[test]
fn shared_malformed_files_are_judged_as_its_manifest_says() {
    let Some(folder) = shared("badfiles") else {
        return;
    };
    let read = |name: &str| fs::read(folder.join(name)).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&read("manifest.json")).unwrap();
    let config = read("ok/hf_small/tokenizer_config.json");
    let input: serde_json::Value = serde_json::from_slice(&read("ok/template_input.json")).unwrap();
    let mut checked = 0;
    for case in manifest["cases"].as_array().unwrap() {
        let [file, class, stage] =
            ["file", "class", "stage"].map(|key| case[key].as_str().unwrap());
        let started = Instant::now();
        let outcome = if stage == "tokenizer" && file.ends_with(".gguf") {
            let bytes = read(file);
            Gguf::parse(&bytes, bytes.len() as u64)
                .map_err(|error| error.to_string())
                .and_then(|gguf| {
                    Tokenizer::from_gguf(&gguf.metadata).map_err(|error| chain(&error))
                })
                .map(|tokenizer| drop(tokenizer.encode("Hello wörld", PLAIN)))
        } else if class == "hf_tokenizer" || file == "ok/hf_small/tokenizer.json" {
            let files = HfFiles {
                tokenizer: &read(file),
                tokenizer_config: Some(&config),
                ..HfFiles::default()
            };
            Tokenizer::from_hf(&files)
                .and_then(|tokenizer| tokenizer.encode(&("a".repeat(5000) + "!"), PLAIN))
                .map(drop)
                .map_err(|error| chain(&error))
        } else if file.ends_with(".jinja") {
            let template =
                ChatTemplate::from_bytes(&read(file), "<|begin_of_text|>", "<|end_of_text|>");
            template
                .and_then(|template| template.render(&ChatInput::new(input["messages"].clone())))
                .map(drop)
                .map_err(|error| chain(&error))
        } else {
            continue;
        };
        match case["expected"].as_str().unwrap() {
            "ok" => assert_eq!(outcome, Ok(()), "{file}"),
            "error" => assert!(outcome.is_err(), "{file}"),
            _ => {}
        }
        // The manifest's own limits are for release builds on a quiet machine; this one catches a hang.
        assert!(started.elapsed().as_secs() < 60, "{file}");
        checked += 1;
    }
    assert!(checked >= 90, "{checked}");
}
