//! Merging gives what the `tokenizers` crate gives, on real vocabularies and long words.
#![allow(clippy::unwrap_used)] // helpers of tests, too

mod common;

use common::{PLAIN, Rng, metadata, metadata_of, shared};
use ryz_format::Metadata;
use ryz_tokenizer::Tokenizer;
use tokenizers::{Model, models::bpe::BPE};

/// The same vocabulary in the crate.
fn reference(metadata: &Metadata) -> BPE {
    let tokens = metadata.get_strings("tokenizer.ggml.tokens").unwrap();
    let vocab = tokens.iter().map(str::to_owned).zip(0..).collect();
    let merges = metadata.get_strings("tokenizer.ggml.merges").unwrap();
    let split = |merge: &str| {
        let (left, right) = merge.split_once(' ').unwrap();
        (left.to_owned(), right.to_owned())
    };
    BPE::builder()
        .vocab_and_merges::<ahash::AHashMap<_, _>>(vocab, merges.iter().map(split).collect())
        .cache_capacity(0)
        .build()
        .unwrap()
}

#[test]
fn long_and_short_words_merge_as_in_the_tokenizers_crate() {
    let mut vocabularies = vec![("llama-bpe, 512 tokens", metadata("llama-bpe.gguf"))];
    if let Some(folder) = shared("vocab") {
        for name in ["qwen2", "deepseek-llm"] {
            vocabularies.push((name, metadata_of(&folder.join(format!("{name}.gguf.xz")))));
        }
    }
    let mut rng = Rng(0x5EED_0011);
    for (name, mut metadata) in vocabularies {
        let crates = reference(&metadata);
        metadata.set("tokenizer.ggml.pre", "gpt-2");
        let tokenizer = Tokenizer::from_gguf(&metadata).unwrap();
        // Letters alone are one word.
        let syllables = [
            "the", "a", "ing", "er", "qu", "x", "ab", "tion", "re", "zz", "e",
        ];
        for round in 0..60 {
            let parts = if round % 10 == 0 {
                12_000
            } else {
                1 + rng.below(60)
            };
            let kinds = 1 + rng.below(syllables.len());
            let word: String = (0..parts).map(|_| syllables[rng.below(kinds)]).collect();
            let expected = crates.tokenize(&word).unwrap();
            let expected: Vec<u32> = expected.iter().map(|token| token.id).collect();
            let got = tokenizer.encode(&word, PLAIN).unwrap();
            assert_eq!(got, expected, "{name}, seed round {round}");
        }
    }
}
