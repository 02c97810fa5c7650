//! Tokenizes text with the engine's own tokenizer, and trains a byte-level BPE for a new model.
//!
//! A trained vocabulary uses GPT-2's pre-tokenizer (`tokenizer.ggml.pre` = `gpt-2`), which the
//! engine and llama.cpp support, so that the exported vocabulary produces the same tokens there.

use crate::error::TrainError;
use crate::parallel::STACK;
use ryz_format::{Array, Gguf, GgufWriter, Metadata, Value};
use ryz_tokenizer::{EncodeOptions, Tokenizer};
use std::sync::atomic::{AtomicBool, Ordering};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, TokenizerBuilder};

/// The document separator of a trained vocabulary: it begins every document and, when generated,
/// ends a text.
pub const SEPARATOR: &str = "<|endoftext|>";

/// The vocabulary of a run.
#[derive(Clone)]
pub struct TextTokenizer {
    inner: Tokenizer,
    /// `tokenizer.*` of the exported file.
    pairs: Metadata,
}

impl std::fmt::Debug for TextTokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TextTokenizer of {} tokens", self.vocab_size())
    }
}

impl TextTokenizer {
    /// Trains a vocabulary of `vocab_size` tokens, including the separator, on texts. Stops reading
    /// them once `cancel` is set.
    ///
    /// # Errors
    /// [`TrainError::Threads`], [`TrainError::Tokenizer`], [`TrainError::Aborted`].
    pub fn train<'a>(
        texts: impl Iterator<Item = &'a str> + Send,
        vocab_size: usize,
        threads: usize,
        cancel: &AtomicBool,
    ) -> Result<Self, TrainError> {
        let byte_level = ByteLevel::new(false, true, true);
        let mut tokenizer =
            TokenizerBuilder::<BPE, NFC, ByteLevel, ByteLevel, ByteLevel>::default()
                .with_model(BPE::default())
                .with_pre_tokenizer(Some(byte_level))
                .with_decoder(Some(byte_level))
                .build()
                .map_err(failed("train the tokenizer"))?;
        let mut trainer = BpeTrainer::builder()
            .show_progress(false)
            .vocab_size(vocab_size)
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .special_tokens(vec![AddedToken::from(SEPARATOR, true)])
            .build();
        // A separate pool, with our thread count and stack size, whose creation failure is an error
        // rather than a panic.
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .stack_size(STACK)
            .build()
            .map_err(|source| TrainError::Threads { threads, source })?;
        let wanted = || !cancel.load(Ordering::Relaxed);
        pool.install(|| {
            let read = texts.take_while(|_| wanted());
            tokenizer.train(&mut trainer, read).map(drop)
        })
        .map_err(failed("train the tokenizer"))?;
        if !wanted() {
            return Err(TrainError::Aborted);
        }
        let json = tokenizer
            .to_string(false)
            .map_err(failed("write the tokenizer"))?;
        Self::from_metadata(&pairs(&json)?)
    }

    /// Creates the tokenizer from a GGUF file's pairs.
    pub fn from_metadata(metadata: &Metadata) -> Result<Self, TrainError> {
        let mut pairs = Metadata::new();
        for (key, value) in metadata.iter() {
            if key.starts_with("tokenizer.") {
                pairs.set(key, value.clone());
            }
        }
        let inner = Tokenizer::from_gguf(&pairs)
            .map_err(|source| failed("read the tokenizer")(source.into()))?;
        Ok(Self { inner, pairs })
    }

    /// The tokenizer as a GGUF file without tensors.
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>, TrainError> {
        let mut writer = GgufWriter::new();
        for (key, value) in self.pairs.iter() {
            writer.push(key, value.clone())?;
        }
        Ok(writer.start(Vec::new())?.finish()?)
    }

    /// Reads the output of [`Self::to_bytes`].
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, TrainError> {
        let gguf = Gguf::parse(bytes, bytes.len() as u64)
            .map_err(|source| failed("read the tokenizer")(source.into()))?;
        Self::from_metadata(&gguf.metadata)
    }

    /// `tokenizer.*` of an exported file.
    pub(crate) fn pairs(&self) -> &Metadata {
        &self.pairs
    }

    /// The tokens in id order, to compare vocabularies.
    pub(crate) fn tokens(&self) -> Option<&Value> {
        self.pairs.get("tokenizer.ggml.tokens")
    }

    /// Tokens of a text, without begin and end tokens; spelled-out special tokens are plain text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TrainError> {
        let options = EncodeOptions {
            add_special: false,
            parse_special: false,
        };
        self.inner
            .encode(text, options)
            .map_err(|source| failed("encode a text")(source.into()))
    }

    /// The text of tokens, without special tokens.
    pub fn decode(&self, ids: &[u32]) -> String {
        self.inner.decode(ids, true)
    }

    /// Number of tokens.
    pub fn vocab_size(&self) -> usize {
        self.inner.vocab_size() as usize
    }

    /// The token that begins every document.
    pub fn begin(&self) -> Option<u32> {
        self.inner.bos().filter(|_| self.inner.adds_bos())
    }

    /// The token that ends every document, if it differs from the one that begins the next.
    pub fn end(&self) -> Option<u32> {
        self.inner.eos().filter(|end| self.begin() != Some(*end))
    }

    /// Whether this token, when generated, ends a text.
    pub fn is_end(&self, id: u32) -> bool {
        self.inner.is_end_of_generation(id)
    }
}

/// Wraps an error of the tokenizer crates.
fn failed(action: &'static str) -> impl Fn(Box<dyn std::error::Error + Send + Sync>) -> TrainError {
    move |source| TrainError::Tokenizer { action, source }
}

/// GGUF's keys for a trained `tokenizer.json`.
fn pairs(json: &str) -> Result<Metadata, TrainError> {
    #[derive(serde::Deserialize)]
    struct File {
        model: Model,
    }
    #[derive(serde::Deserialize)]
    struct Model {
        vocab: std::collections::HashMap<String, u32>,
        merges: Vec<(String, String)>,
    }
    let File { model } = serde_json::from_str(json)
        .map_err(|source| failed("read the learnt tokenizer")(source.into()))?;
    let mut tokens = vec![""; model.vocab.len()];
    for (text, id) in &model.vocab {
        tokens[*id as usize] = text;
    }
    let kinds = tokens
        .iter()
        .map(|token| if *token == SEPARATOR { 3 } else { 1 });
    let merges: Vec<String> = model
        .merges
        .iter()
        .map(|(left, right)| format!("{left} {right}"))
        .collect();
    let separator = Value::U32(model.vocab.get(SEPARATOR).copied().unwrap_or_default());
    let mut pairs = Metadata::new();
    pairs.set("tokenizer.ggml.model", "gpt2");
    pairs.set("tokenizer.ggml.pre", "gpt-2");
    pairs.set(
        "tokenizer.ggml.tokens",
        Array::Strings(tokens.iter().copied().collect()),
    );
    pairs.set("tokenizer.ggml.token_type", Array::I32(kinds.collect()));
    pairs.set(
        "tokenizer.ggml.merges",
        Array::Strings(merges.iter().map(String::as_str).collect()),
    );
    pairs.set("tokenizer.ggml.bos_token_id", separator.clone());
    pairs.set("tokenizer.ggml.eos_token_id", separator);
    pairs.set("tokenizer.ggml.add_bos_token", true);
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_learnt_tokenizer_reads_and_writes_any_text() {
        let text =
            "Once upon a time there was a king.\n\nThe king had a queen; the queen had a king. ";
        let tokenizer =
            TextTokenizer::train(std::iter::once(text), 280, 1, &AtomicBool::new(false)).unwrap();
        assert_eq!(tokenizer.vocab_size(), 280);
        let again = TextTokenizer::from_bytes(&tokenizer.to_bytes().unwrap()).unwrap();
        for text in [text, "Größe — 日本 <|endoftext|> \u{1f600}", ""] {
            let ids = tokenizer.encode(text).unwrap();
            assert_eq!(again.encode(text).unwrap(), ids);
            assert!(ids.iter().all(|id| Some(*id) != tokenizer.begin()));
            assert_eq!(tokenizer.decode(&ids), text);
        }
        assert!(tokenizer.encode(text).unwrap().len() < text.len());
        assert_eq!((tokenizer.begin(), tokenizer.end()), (Some(0), None));
        assert!(tokenizer.is_end(0));
        assert!(TextTokenizer::from_bytes(b"GGUF").is_err());
    }
}
