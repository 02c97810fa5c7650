//! Token ids of the reference models, made with the PyPI `tokenizers` and checked with llama.cpp.
#![allow(clippy::unwrap_used)] // helpers of tests, too

mod common;

use std::fs;

use common::{PLAIN, gguf, hf, ids, reference};
use ryz_format::Gguf;
use ryz_tokenizer::{EncodeOptions, HfFiles, Tokenizer};

/// Every tokenizer that a golden names: by GGUF metadata, by tokenizer.json, from whole folders.
#[test]
fn golden_prompts_have_the_golden_ids() {
    let folder = reference();
    let mut checked = 0;
    for entry in fs::read_dir(folder.join("golden")).unwrap() {
        let golden: serde_json::Value =
            serde_json::from_slice(&fs::read(entry.unwrap().path()).unwrap()).unwrap();
        let mut tokenizers: Vec<(String, Tokenizer)> = Vec::new();
        let json = golden["tokenizer"].as_str().unwrap();
        tokenizers.push((json.to_owned(), hf(json)));
        let small = match json {
            "tokenizer-llama-bpe.json" => "llama-bpe.gguf",
            _ => "qwen2.gguf",
        };
        tokenizers.push((small.to_owned(), gguf(small)));
        for file in golden["files"].as_array().unwrap() {
            let name = file["file"].as_str().unwrap();
            let path = folder.join(name);
            if path.is_dir() {
                tokenizers.push((name.to_owned(), from_folder(&path)));
            } else if name.ends_with(".gguf") && path.is_file() {
                let bytes = fs::read(&path).unwrap();
                let metadata = Gguf::parse(&bytes, bytes.len() as u64).unwrap().metadata;
                tokenizers.push((name.to_owned(), Tokenizer::from_gguf(&metadata).unwrap()));
            }
        }
        let add_bos = golden["add_bos"].as_bool().unwrap();
        for (name, tokenizer) in &tokenizers {
            // The lone tokenizer.json files are without a configuration, and have their rule in the post-processor.
            assert_eq!(tokenizer.vocab_size(), 512, "{name}");
            for prompt in golden["prompts"].as_array().unwrap() {
                let expected = ids(&prompt["ids"]);
                if let Some(text) = prompt["text"].as_str() {
                    let got = tokenizer.encode(text, EncodeOptions::default()).unwrap();
                    assert_eq!(got, expected, "{name}: {text:?}");
                    assert_eq!(tokenizer.decode(&got, true), text, "{name}");
                }
            }
            let expected = ids(&golden["nll"]["ids"]);
            let text = tokenizer.decode(&expected, true);
            let got = tokenizer.encode(&text, EncodeOptions::default()).unwrap();
            assert_eq!(got, expected, "{name}: the NLL text");
            assert_eq!(
                got.len() - usize::from(add_bos),
                tokenizer.encode(&text, PLAIN).unwrap().len()
            );
            checked += 1;
        }
    }
    assert!(checked >= 16, "{checked}");
}

fn from_folder(path: &std::path::Path) -> Tokenizer {
    let read = |name: &str| fs::read(path.join(name)).ok();
    let [config, generation, template] = [
        "tokenizer_config.json",
        "generation_config.json",
        "chat_template.jinja",
    ]
    .map(read);
    let files = HfFiles {
        tokenizer: &fs::read(path.join("tokenizer.json")).unwrap(),
        tokenizer_config: config.as_deref(),
        generation_config: generation.as_deref(),
        chat_template: template.as_deref(),
        ..HfFiles::default()
    };
    let tokenizer = Tokenizer::from_hf(&files).unwrap();
    assert!(tokenizer.bos().is_some() && tokenizer.eos().is_some());
    tokenizer
}

#[test]
fn special_tokens_by_name() {
    let llama = gguf("llama-bpe.gguf");
    assert_eq!((llama.bos(), llama.eos()), (Some(509), Some(510)));
    assert!(llama.adds_bos());
    assert_eq!(llama.end_of_generation(), [510, 511], "EOS and <|eot_id|>");
    assert_eq!(llama.token_id("<|eot_id|>"), Some(511));
    assert!(llama.is_control(511) && !llama.is_control(300));
    let qwen = gguf("qwen2.gguf");
    assert!(!qwen.adds_bos());
    assert_eq!(qwen.piece(511), "<|im_end|>");
    assert_eq!(
        qwen.end_of_generation(),
        [509, 511],
        "<|endoftext|> and <|im_end|>"
    );
    assert_eq!(hf("tokenizer-qwen2.json").end_of_generation(), [509, 511]);
    assert_eq!(qwen.piece(99_999), "");
    assert_eq!(qwen.decode(&[99_999, 511], true), "");
}
