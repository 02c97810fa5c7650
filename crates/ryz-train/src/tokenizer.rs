//! Trains the byte-level BPE and turns text into tokens.
//!
//! The pre-tokenizer is GPT-2's (`tokenizer.ggml.pre` = `gpt-2`), which the engine and llama.cpp know, so that the exported
//! vocabulary gives the same tokens there.

use crate::error::TrainError;
use std::str::FromStr;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, TokenizerBuilder};

/// The document separator: it opens every document and, generated, ends a story.
pub const SEPARATOR: &str = "<|endoftext|>";

/// The vocabulary of a run.
#[derive(Debug, Clone)]
pub struct TextTokenizer {
    inner: tokenizers::Tokenizer,
    separator: u32,
}

impl TextTokenizer {
    /// Learns `vocab_size` tokens, the separator included, from texts.
    pub fn train<'a>(
        texts: impl Iterator<Item = &'a str> + Send,
        vocab_size: usize,
    ) -> Result<Self, TrainError> {
        let failed = |source| TrainError::Tokenizer {
            action: "train the tokenizer",
            source,
        };
        let byte_level = ByteLevel::new(false, true, true);
        let mut tokenizer =
            TokenizerBuilder::<BPE, NFC, ByteLevel, ByteLevel, ByteLevel>::default()
                .with_model(BPE::default())
                .with_pre_tokenizer(Some(byte_level))
                .with_decoder(Some(byte_level))
                .build()
                .map_err(failed)?;
        let mut trainer = BpeTrainer::builder()
            .show_progress(false)
            .vocab_size(vocab_size)
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .special_tokens(vec![AddedToken::from(SEPARATOR, true)])
            .build();
        tokenizer.train(&mut trainer, texts).map_err(failed)?;
        Self::from_json(&tokenizer.to_string(false).map_err(failed)?)
    }

    /// Reads a `tokenizer.json`.
    pub fn from_json(json: &str) -> Result<Self, TrainError> {
        let failed = |source| TrainError::Tokenizer {
            action: "read the tokenizer",
            source,
        };
        let inner = tokenizers::Tokenizer::from_str(json).map_err(failed)?;
        let separator = inner
            .token_to_id(SEPARATOR)
            .ok_or_else(|| failed(format!("no token {SEPARATOR}").into()))?;
        Ok(Self { inner, separator })
    }

    /// The `tokenizer.json`.
    pub fn to_json(&self) -> Result<String, TrainError> {
        self.inner
            .to_string(false)
            .map_err(|source| TrainError::Tokenizer {
                action: "write the tokenizer",
                source,
            })
    }

    /// Tokens of a text, without separators; special tokens in the text are not parsed.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TrainError> {
        let mut ids = Vec::with_capacity(text.len() / 3);
        // The separator's own spelling in a text is text: keep it from the added-token matcher.
        for (i, part) in text.split(SEPARATOR).enumerate() {
            if i > 0 {
                let (head, tail) = SEPARATOR.split_at(2);
                for piece in [head, tail] {
                    ids.extend(self.encode_plain(piece)?);
                }
            }
            ids.extend(self.encode_plain(part)?);
        }
        Ok(ids)
    }

    fn encode_plain(&self, text: &str) -> Result<Vec<u32>, TrainError> {
        let encoding = self.inner.encode_fast(text, false);
        let encoding = encoding.map_err(|source| TrainError::Tokenizer {
            action: "encode a text",
            source,
        })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Text of tokens, specials left out.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TrainError> {
        self.inner
            .decode(ids, true)
            .map_err(|source| TrainError::Tokenizer {
                action: "decode tokens",
                source,
            })
    }

    /// Tokens in all.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Id of the document separator.
    pub fn separator(&self) -> u32 {
        self.separator
    }

    /// Every token in GPT-2's byte alphabet, by id.
    pub(crate) fn tokens(&self) -> Vec<String> {
        (0..self.vocab_size() as u32)
            .map(|id| self.inner.id_to_token(id).unwrap_or_default())
            .collect()
    }

    /// The merges in order, both halves separated by a space.
    pub(crate) fn merges(&self) -> Result<Vec<String>, TrainError> {
        let json: serde_json::Value =
            serde_json::from_str(&self.to_json()?).map_err(TrainError::Config)?;
        let merges = json["model"]["merges"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        let text = |v: &serde_json::Value| v.as_str().unwrap_or_default().to_owned();
        let merge = |v: &serde_json::Value| match v.as_array() {
            Some(pair) => pair.iter().map(text).collect::<Vec<_>>().join(" "),
            None => text(v),
        };
        Ok(merges.iter().map(merge).collect())
    }
}
