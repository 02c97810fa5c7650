//! What text may and may not become, and what comes back of it.
#![allow(clippy::unwrap_used)] // helpers of tests, too

mod common;

use std::sync::LazyLock;

use common::{PLAIN, SPECIAL, chain, fixture, fixture_json, gguf, hf, metadata, small, strings};
use proptest::prelude::*;
use ryz_format::{Array, Metadata, Value};
use ryz_tokenizer::{Bounds, EncodeOptions, HfFiles, Tokenizer};
use serde_json::json;

#[test]
fn text_of_a_user_yields_no_control_token_unless_asked() {
    for tokenizer in [gguf("llama-bpe.gguf"), hf("tokenizer-llama-bpe.json")] {
        let text = "Say <|eot_id|> hello<|begin_of_text|>";
        let ids = tokenizer.encode(text, PLAIN).unwrap();
        assert!(ids.iter().all(|&id| !tokenizer.is_control(id)), "{ids:?}");
        assert_eq!(tokenizer.decode(&ids, true), text);
        let ids = tokenizer.encode(text, SPECIAL).unwrap();
        assert_eq!(ids.iter().filter(|&&id| id == 511).count(), 1);
        assert_eq!(ids.last(), Some(&509));
        assert_eq!(tokenizer.decode(&ids, true), "Say  hello");
        assert_eq!(tokenizer.decode(&ids, false), text);
    }
}

/// A control token whose text is a plain word is still no word, neither by the merges nor by `ignore_merges`.
#[test]
fn a_control_token_with_the_text_of_a_word_is_not_that_word() {
    let mut metadata = small(&["ab", "stop"], &["a b"]);
    let mut types = vec![1; 258];
    types[257] = 3;
    metadata.set("tokenizer.ggml.token_type", Value::Array(Array::I32(types)));
    let tokenizer = Tokenizer::from_gguf(&metadata).unwrap();
    assert!(!tokenizer.encode("stop", PLAIN).unwrap().contains(&257));
    assert_eq!(tokenizer.encode("stop", SPECIAL).unwrap(), [257]);
    assert_eq!(tokenizer.encode("ab", PLAIN).unwrap(), [256]);
}

#[test]
fn user_defined_tokens_are_found_in_any_text_and_the_longest_wins() {
    let mut metadata = small(&["<a>", "<a><b>", "x"], &[]);
    let types = [vec![1; 256], vec![4, 4, 1]].concat();
    metadata.set("tokenizer.ggml.token_type", Value::Array(Array::I32(types)));
    // Byte "x" is there already; make the last token something else.
    let source = metadata.get_strings("tokenizer.ggml.tokens").unwrap();
    let mut tokens: Vec<String> = source.iter().map(str::to_owned).collect();
    tokens[258] = "unused".to_owned();
    let list: Vec<&str> = tokens.iter().map(String::as_str).collect();
    metadata.set("tokenizer.ggml.tokens", strings(&list));
    let tokenizer = Tokenizer::from_gguf(&metadata).unwrap();
    assert_eq!(tokenizer.encode("<a><b><a>", PLAIN).unwrap(), [257, 256]);
    assert!(!tokenizer.is_control(256));
}

#[test]
fn the_files_rule_for_bos_and_eos() {
    let mut metadata = small(&["<s>", "</s>"], &[]);
    metadata.set("tokenizer.ggml.bos_token_id", 256u32);
    metadata.set("tokenizer.ggml.eos_token_id", 257u32);
    let encode =
        |metadata: &_, options| Tokenizer::from_gguf(metadata).unwrap().encode("", options);
    let default = EncodeOptions::default();
    assert_eq!(
        encode(&metadata, default).unwrap(),
        [256],
        "llama-bpe adds BOS"
    );
    assert!(encode(&metadata, PLAIN).unwrap().is_empty());
    metadata.set("tokenizer.ggml.add_bos_token", false);
    metadata.set("tokenizer.ggml.add_eos_token", true);
    assert_eq!(encode(&metadata, default).unwrap(), [257]);
    metadata.set("tokenizer.ggml.pre", "gpt-2");
    metadata.set("tokenizer.ggml.add_bos_token", true);
    assert_eq!(encode(&metadata, default).unwrap(), [256, 257]);
}

#[test]
fn hugging_face_configuration_decides_over_the_post_processor() {
    let tokenizer = fixture("tokenizer-llama-bpe.json");
    let encode = |config: serde_json::Value| {
        let config = serde_json::to_vec(&config).unwrap();
        let files = HfFiles {
            tokenizer: &tokenizer,
            tokenizer_config: Some(&config),
            generation_config: Some(br#"{"eos_token_id": [511, 300]}"#),
            chat_template: None,
            ..HfFiles::default()
        };
        let tokenizer = Tokenizer::from_hf(&files).unwrap();
        assert!(tokenizer.is_end_of_generation(300));
        tokenizer.encode("a", EncodeOptions::default()).unwrap()
    };
    let a = 64;
    assert_eq!(encode(json!({})), [509, a]);
    let bos = json!({"content": "<|begin_of_text|>", "special": true});
    assert_eq!(
        encode(json!({"bos_token": bos, "add_bos_token": true})),
        [509, a]
    );
    assert_eq!(
        encode(json!({"bos_token": bos, "add_bos_token": false})),
        [a]
    );
    let eos = json!({"eos_token": "<|end_of_text|>", "add_eos_token": true});
    assert_eq!(encode(eos), [509, a, 510]);

    let config = br#"{"bos_token": "<nope>"}"#;
    let files = HfFiles {
        tokenizer: &tokenizer,
        tokenizer_config: Some(config),
        ..HfFiles::default()
    };
    assert_eq!(
        chain(&Tokenizer::from_hf(&files).unwrap_err()),
        "tokenizer_config.json: bos_token: expected a token of the vocabulary, got \"<nope>\""
    );
}

/// SentencePiece's BPE as newer Llama folders have it.
#[test]
fn hugging_face_sentence_piece() {
    let tokens = [
        "<unk>", "<s>", "▁", "a", "b", "ab", "▁ab", "<0xC3>", "<0xA9>",
    ];
    let vocab: serde_json::Map<_, _> = tokens
        .iter()
        .zip(0..)
        .map(|(t, id)| (t.to_string(), json!(id)))
        .collect();
    let build = |normalizer: serde_json::Value, pre_tokenizer: serde_json::Value| {
        let file = json!({
            "added_tokens": [
                {"id": 0, "content": "<unk>", "special": true},
                {"id": 1, "content": "<s>", "special": true},
                {"id": 9, "content": "[X]", "special": false, "rstrip": true, "lstrip": true},
            ],
            "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer,
            "post_processor": null,
            "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
            "model": {"type": "BPE", "vocab": vocab, "merges": [["a", "b"], ["▁", "ab"]], "byte_fallback": true},
        });
        let file = serde_json::to_vec(&file).unwrap();
        let files = HfFiles {
            tokenizer: &file,
            ..HfFiles::default()
        };
        Tokenizer::from_hf(&files).unwrap()
    };
    let old = json!({"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    ]});
    let old = build(old, json!(null));
    let metaspace = |scheme| json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false});
    let first = build(json!(null), metaspace("first"));
    let never = build(json!(null), metaspace("never"));
    let encode = |tokenizer: &Tokenizer, text| tokenizer.encode(text, SPECIAL).unwrap();
    assert_eq!(encode(&old, "ab ab"), [6, 6]);
    assert_eq!(
        encode(&old, " ab"),
        [2, 6],
        "the old form puts a space before a space"
    );
    assert_eq!(encode(&first, " ab"), [6]);
    assert_eq!(encode(&old, "ab<s>ab"), [6, 1, 6]);
    assert_eq!(encode(&first, "ab<s>ab"), [6, 1, 5]);
    assert_eq!(encode(&never, "abé"), [5, 7, 8]);
    assert_eq!(
        encode(&never, "ab  [X]  a"),
        [5, 9, 3],
        "white space around [X] is part of it"
    );
    assert_eq!(first.decode(&[6, 6, 7, 8], true), "ab abé");
    let unknown = never.encode_within("abü", PLAIN, Bounds::NONE).unwrap();
    assert_eq!((unknown.ids, unknown.unknown), (vec![5], 1));
}

#[test]
fn unicode_is_composed_only_where_the_file_says_so() {
    let mut file = fixture_json("tokenizer-qwen2.json");
    let decomposed = "cafe\u{301}";
    let encode = |file: &serde_json::Value, text| {
        let bytes = serde_json::to_vec(file).unwrap();
        let files = HfFiles {
            tokenizer: &bytes,
            ..HfFiles::default()
        };
        Tokenizer::from_hf(&files)
            .unwrap()
            .encode(text, PLAIN)
            .unwrap()
    };
    assert_ne!(encode(&file, decomposed), encode(&file, "café"));
    file["normalizer"] = json!({"type": "NFC"});
    assert_eq!(encode(&file, decomposed), encode(&file, "café"));
}

#[test]
fn a_stream_never_gives_half_a_character() {
    let tokenizer = gguf("llama-bpe.gguf");
    let text = "naïve 😀 日本語 é";
    let ids = tokenizer.encode(text, EncodeOptions::default()).unwrap();
    let mut stream = tokenizer.decode_stream(true);
    let mut parts: Vec<String> = ids.iter().map(|&id| stream.push(id)).collect();
    assert_eq!(stream.finish(), "");
    assert!(
        parts.iter().all(|part| !part.contains('\u{FFFD}')),
        "{parts:?}"
    );
    assert!(
        parts.iter().any(String::is_empty),
        "some token is part of a character"
    );
    parts.push(stream.finish());
    assert_eq!(parts.concat(), text);

    // The first two bytes of 😀, then a letter: what cannot become a character is shown as such, the letter is not lost.
    let byte = |byte: u8| {
        (0..256)
            .find(|&id| tokenizer.token_bytes(id) == [byte])
            .unwrap()
    };
    let mut stream = tokenizer.decode_stream(true);
    assert_eq!(stream.push(byte(0xF0)), "");
    assert_eq!(stream.push(byte(0x9F)), "");
    assert_eq!(stream.push(byte(b'a')), "\u{FFFD}a");
    assert_eq!(stream.push(byte(0xE2)), "");
    assert_eq!(stream.finish(), "\u{FFFD}");
    assert_eq!(stream.push(511), "", "control tokens are left out");
    assert_eq!(stream.push(u32::MAX), "", "and so is what is no token");
}

/// A vocabulary without "z", and what type the token has that is named as the unknown one.
fn without_z(unknown: Option<i32>) -> Tokenizer {
    let mut metadata = small(&["<unk>"], &[]);
    let source = metadata.get_strings("tokenizer.ggml.tokens").unwrap();
    let tokens: Vec<&str> = source.iter().filter(|t| *t != "z").collect();
    let mut types = vec![1; tokens.len()];
    let id = tokens.len() - 1;
    let tokens = strings(&tokens);
    metadata.set("tokenizer.ggml.tokens", tokens);
    if let Some(kind) = unknown {
        types[id] = kind;
        metadata.set("tokenizer.ggml.unknown_token_id", id as u32);
    }
    metadata.set("tokenizer.ggml.token_type", Value::Array(Array::I32(types)));
    Tokenizer::from_gguf(&metadata).unwrap()
}

#[test]
fn what_a_vocabulary_cannot_say_becomes_the_unknown_token_or_is_left_out() {
    let encoded = |tokenizer: &Tokenizer, text: &str| {
        tokenizer.encode_within(text, PLAIN, Bounds::NONE).unwrap()
    };
    for kind in [None, Some(3)] {
        let tokenizer = without_z(kind);
        let got = encoded(&tokenizer, "ab zzé");
        assert_eq!(got.ids, tokenizer.encode("ab é", PLAIN).unwrap());
        assert_eq!(got.unknown, 2, "an instruction stands for no text");
    }
    let tokenizer = without_z(Some(2));
    let unknown = tokenizer.unk().unwrap();
    let got = encoded(&tokenizer, "azz");
    assert_eq!(got.ids[1..], [unknown, unknown]);
    assert_eq!(got.unknown, 2);
    assert_eq!(encoded(&tokenizer, "abc").unknown, 0);
}

#[test]
fn padding_and_unknown_ids_out_of_range_are_dropped_with_a_warning() {
    for (name, value) in [
        ("padding", Value::from(300u32)),
        ("padding", Value::from(-1i32)),
        ("unknown", Value::from(u32::MAX)),
    ] {
        let mut metadata = small(&[], &[]);
        metadata.set(&format!("tokenizer.ggml.{name}_token_id"), value);
        let tokenizer = Tokenizer::from_gguf(&metadata).unwrap();
        assert_eq!((tokenizer.pad(), tokenizer.unk()), (None, None));
        let [warning] = tokenizer.warnings() else {
            panic!("{:?}", tokenizer.warnings())
        };
        assert_eq!(warning.subject, format!("tokenizer.ggml.{name}_token_id"));
        assert!(
            warning.message.contains("is no token of 0 to 255"),
            "{warning}"
        );
    }
}

#[test]
fn a_file_without_a_pre_tokenizer_has_its_architectures_or_a_warning() {
    let mut named = metadata("llama-bpe.gguf");
    named.set("tokenizer.ggml.pre", "llama-bpe");
    let text = "It's \"quoted\" (really)! 12345";
    let expected = Tokenizer::from_gguf(&named).unwrap();
    let expected = expected.encode(text, EncodeOptions::default()).unwrap();
    let without = |architecture: &str| {
        let mut metadata = Metadata::new();
        for (key, value) in named.iter().filter(|(key, _)| *key != "tokenizer.ggml.pre") {
            metadata.set(key, value.clone());
        }
        metadata.set("general.architecture", architecture);
        Tokenizer::from_gguf(&metadata).unwrap()
    };
    for architecture in ["bitnet-b1.58", "bitnet-25"] {
        let tokenizer = without(architecture);
        let got = tokenizer.encode(text, EncodeOptions::default()).unwrap();
        assert_eq!(got, expected, "{architecture}");
        assert!(tokenizer.warnings().is_empty());
    }
    let tokenizer = without("llama");
    assert_ne!(
        tokenizer.encode(text, EncodeOptions::default()).unwrap(),
        expected
    );
    let [warning] = tokenizer.warnings() else {
        panic!("{:?}", tokenizer.warnings())
    };
    let warning = warning.to_string();
    assert!(
        warning.starts_with("tokenizer.ggml.pre: it is missing"),
        "{warning}"
    );
    assert!(warning.contains("override"), "{warning}");
}

#[test]
fn a_normal_token_that_a_merge_makes_is_text_whatever_its_name() {
    let mut metadata = small(&["</s", "</s>", "</", "[PAD]"], &["< /", "</ s", "</s >"]);
    let tokenizer = Tokenizer::from_gguf(&metadata).unwrap();
    assert_eq!(
        tokenizer.encode("</s>", PLAIN).unwrap().len(),
        3,
        "the words do not let it merge"
    );
    assert_eq!(tokenizer.encode("</s>", SPECIAL).unwrap().len(), 3);
    assert!(!tokenizer.is_control(257) && !tokenizer.is_end_of_generation(257));
    assert!(tokenizer.is_end_of_generation(259), "no merge makes [PAD]");
    metadata.set("tokenizer.ggml.eos_token_id", 257u32);
    let tokenizer = Tokenizer::from_gguf(&metadata).unwrap();
    assert!(
        tokenizer.is_end_of_generation(257),
        "the file's ids come first"
    );
    assert_eq!(tokenizer.encode("</s>", PLAIN).unwrap().len(), 3);
}

#[test]
fn a_prompt_has_no_eos_behind_it() {
    let mut metadata = small(&["<s>", "</s>"], &[]);
    metadata.set("tokenizer.ggml.bos_token_id", 256u32);
    metadata.set("tokenizer.ggml.eos_token_id", 257u32);
    metadata.set("tokenizer.ggml.add_eos_token", true);
    let tokenizer = Tokenizer::from_gguf(&metadata).unwrap();
    let options = EncodeOptions::default();
    let whole = tokenizer.encode("a", options).unwrap();
    let prompt = tokenizer.encode_prompt("a", options, Bounds::NONE).unwrap();
    assert_eq!((whole[2], prompt.ids.as_slice()), (257, &whole[..2]));
}

#[test]
fn work_ends_at_the_first_token_past_the_limit_and_when_it_is_cancelled() {
    use std::cell::Cell;
    let tokenizer = gguf("llama-bpe.gguf");
    let text = "old woman ".repeat(1 << 17);
    let asked = Cell::new(0);
    let bounds = |most, after: usize| {
        let asked = &asked;
        (most, move || {
            asked.set(asked.get() + 1);
            asked.get() > after
        })
    };
    let (most, cancelled) = bounds(100, usize::MAX);
    let within = Bounds {
        most,
        cancelled: &cancelled,
    };
    let error = tokenizer.encode_within(&text, PLAIN, within).unwrap_err();
    assert_eq!(error.code(), "CONTEXT_OVERFLOW");
    assert!(asked.get() < 3, "{} slices", asked.get());
    asked.set(0);
    let (most, cancelled) = bounds(usize::MAX, 3);
    let within = Bounds {
        most,
        cancelled: &cancelled,
    };
    let error = tokenizer.encode_within(&text, PLAIN, within).unwrap_err();
    assert_eq!((error.code(), asked.get()), ("ABORTED", 4));
    assert!(tokenizer.most_bytes(10) >= 10 * tokenizer.token_bytes(511).len());
}

/// Long words and long runs: the merge loop and the pre-tokenizers are not quadratic.
#[test]
fn a_megabyte_without_a_border_is_encoded() {
    for name in ["llama-bpe.gguf", "spm.gguf"] {
        let tokenizer = gguf(name);
        for text in [
            "a".repeat(1 << 20),
            " ".repeat(1 << 20),
            "\n".repeat(1 << 18),
        ] {
            let ids = tokenizer.encode(&text, PLAIN).unwrap();
            assert_eq!(tokenizer.decode(&ids, true).trim_start(), text.trim_start());
        }
    }
}

static LLAMA: LazyLock<Tokenizer> = LazyLock::new(|| gguf("llama-bpe.gguf"));
static QWEN: LazyLock<Tokenizer> = LazyLock::new(|| gguf("qwen2.gguf"));
static SPM: LazyLock<Tokenizer> = LazyLock::new(|| gguf("spm.gguf"));

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_text_round_trips(text in "(?s).{0,60}", special: bool) {
        for tokenizer in [&*LLAMA, &*QWEN] {
            let options = if special { SPECIAL } else { PLAIN };
            let ids = tokenizer.encode(&text, options).unwrap();
            prop_assert_eq!(&tokenizer.decode(&ids, false), &text);
            let mut stream = tokenizer.decode_stream(false);
            let mut streamed: String = ids.iter().map(|&id| stream.push(id)).collect();
            streamed += &stream.finish();
            prop_assert_eq!(&streamed, &text);
        }
    }

    #[test]
    fn any_ids_decode_alike_at_once_and_streamed(ids in proptest::collection::vec(0u32..520, 0..60)) {
        let tokenizer = &*LLAMA;
        for skip in [false, true] {
            let mut stream = tokenizer.decode_stream(skip);
            let mut streamed = String::new();
            for &id in &ids {
                let part = stream.push(id);
                streamed += &part;
            }
            streamed += &stream.finish();
            prop_assert_eq!(streamed, tokenizer.decode(&ids, skip));
        }
    }

    #[test]
    fn sentence_piece_text_round_trips(words in proptest::collection::vec("[a-zé€😀.,]{1,8}", 0..12)) {
        let tokenizer = &*SPM;
        let text = words.join(" ");
        let ids = tokenizer.encode(&text, EncodeOptions::default()).unwrap();
        prop_assert_eq!(tokenizer.decode(&ids, true), text);
    }
}
