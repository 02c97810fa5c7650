//! SentencePiece's BPE as tokenizer.json stores it: a list of merges over the whole text, bytes for unknown characters.

use ahash::AHashMap;
use tokenizers::{Model, models::bpe::BPE};

use crate::{
    TokenizerError,
    bpe::{Merge, build},
};

/// Merges over text without words.
pub(crate) struct SentencePieceBpe {
    model: BPE,
}

impl SentencePieceBpe {
    /// Builds the model; see [`build`] for the merges.
    pub(crate) fn new<'a>(
        key: &'static str,
        text_ids: AHashMap<String, u32>,
        merges: impl ExactSizeIterator<Item = Merge<'a>> + Clone,
        byte_fallback: bool,
        ignore_merges: bool,
    ) -> Result<SentencePieceBpe, TokenizerError> {
        let model = build(key, text_ids, merges, |builder| {
            builder
                .byte_fallback(byte_fallback)
                .ignore_merges(ignore_merges)
        })?;
        Ok(SentencePieceBpe { model })
    }

    /// The id of a text.
    pub(crate) fn token_to_id(&self, text: &str) -> Option<u32> {
        self.model.token_to_id(text)
    }

    /// Appends the ids of text in which spaces are `▁`.
    pub(crate) fn encode(&self, text: &str, out: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let tokens = self
            .model
            .tokenize(text)
            .map_err(|source| TokenizerError::Model { source })?;
        // The model drops characters that it has no token for.
        let encoded: usize = tokens.iter().map(|t| t.offsets.1 - t.offsets.0).sum();
        if encoded != text.len() {
            let known = |char: char| {
                let mut buffer = [0; 4];
                let text = &*char.encode_utf8(&mut buffer);
                let byte = |byte| self.token_to_id(&format!("<0x{byte:02X}>")).is_some();
                self.token_to_id(text).is_some()
                    || self.model.byte_fallback && text.bytes().all(byte)
            };
            let char = text.chars().find(|&char| !known(char)).unwrap_or_default();
            return Err(TokenizerError::Unencodable {
                byte: char.encode_utf8(&mut [0; 4]).as_bytes()[0],
                text: char.to_string(),
            });
        }
        out.extend(tokens.iter().map(|token| token.id));
        Ok(())
    }
}
