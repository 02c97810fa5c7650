//! Byte-level BPE: words from a pre-tokenizer, merged by rank with the model of the `tokenizers` crate.

use ahash::{AHashMap, AHashSet};
use tokenizers::{
    Model,
    models::bpe::{BPE, BpeBuilder, Error},
};

use crate::{TokenizerError, byte_level, pretokenizer::Pretokenizer};

/// Words up to this long are remembered during one call.
const REMEMBERED_BYTES: usize = 64;
/// This many words are remembered during one call.
const REMEMBERED_WORDS: usize = 1 << 15;

/// Merges, and the words that they apply to.
pub(crate) struct ByteLevelBpe {
    model: BPE,
    pretokenizer: Pretokenizer,
    /// Which bytes have a token of their own.
    known: [bool; 256],
}

impl ByteLevelBpe {
    /// Builds the model; see [`build`] for the merges.
    pub(crate) fn new<'a>(
        key: &'static str,
        text_ids: AHashMap<String, u32>,
        merges: impl ExactSizeIterator<Item = Merge<'a>> + Clone,
        pretokenizer: Pretokenizer,
        ignore_merges: bool,
    ) -> Result<ByteLevelBpe, TokenizerError> {
        let known = byte_level::CHARS
            .map(|char| text_ids.contains_key(char.encode_utf8(&mut [0; 4]) as &str));
        let model = build(key, text_ids, merges, |builder| {
            builder.ignore_merges(ignore_merges)
        })?;
        Ok(ByteLevelBpe {
            model,
            pretokenizer,
            known,
        })
    }

    /// The id of a text.
    pub(crate) fn token_to_id(&self, text: &str) -> Option<u32> {
        self.model.token_to_id(text)
    }

    /// Appends the ids of text without added tokens.
    pub(crate) fn encode(&self, text: &str, out: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let mut remembered: AHashMap<Box<str>, (usize, usize)> = AHashMap::new();
        let mut chars = String::new();
        self.pretokenizer.split(text, &mut |word| {
            if let Some(&(from, to)) = remembered.get(word) {
                out.extend_from_within(from..to);
                return Ok(());
            }
            chars.clear();
            byte_level::push_chars(word.as_bytes(), &mut chars);
            let from = out.len();
            let tokens = self
                .model
                .tokenize(&chars)
                .map_err(|source| TokenizerError::Model { source })?;
            out.extend(tokens.iter().map(|token| token.id));
            // The model drops what it has no token for.
            let encoded: usize = tokens.iter().map(|t| t.offsets.1 - t.offsets.0).sum();
            if encoded != chars.len() {
                let byte = word.bytes().find(|&byte| !self.known[byte as usize]);
                return Err(TokenizerError::Unencodable {
                    byte: byte.unwrap_or_default(),
                    text: word.to_owned(),
                });
            }
            if word.len() <= REMEMBERED_BYTES && remembered.len() < REMEMBERED_WORDS {
                remembered.insert(word.into(), (from, out.len()));
            }
            Ok(())
        })
    }
}

/// A merge of a file: its two parts, or the text that is not a merge.
pub(crate) type Merge<'a> = Result<(&'a str, &'a str), &'a str>;

/// Builds the model of the `tokenizers` crate from merges that may be malformed. The first of two equal merges counts.
pub(crate) fn build<'a>(
    key: &'static str,
    text_ids: AHashMap<String, u32>,
    merges: impl ExactSizeIterator<Item = Merge<'a>> + Clone,
    configure: impl FnOnce(BpeBuilder) -> BpeBuilder,
) -> Result<BPE, TokenizerError> {
    let bad = |index, got: String| TokenizerError::BadMerge { key, index, got };
    let longest = text_ids.keys().map(String::len).max().unwrap_or(0);
    let mut checked = Vec::with_capacity(merges.len());
    let mut seen = AHashSet::with_capacity(merges.len());
    for (index, merge) in merges.clone().enumerate() {
        let (left, right) = merge.map_err(|got| bad(index, got.to_owned()))?;
        // The crate would index out of bounds.
        if left.len() + right.len() > longest {
            return Err(bad(index, format!("{left} {right}")));
        }
        if seen.insert((left, right)) {
            checked.push((left.to_owned(), right.to_owned()));
        }
    }
    // The crate's own cache is thread-local and is never freed.
    let builder = BPE::builder()
        .vocab_and_merges(text_ids, checked)
        .cache_capacity(0);
    configure(builder).build().map_err(|source| {
        // The crate names the text that is missing; the first merge that needs it is the one it stopped at.
        if let Some(Error::MergeTokenOutOfVocabulary(text)) = source.downcast_ref() {
            for (index, merge) in merges.enumerate() {
                if let Ok((left, right)) = merge
                    && (left == text || right == text || text.strip_prefix(left) == Some(right))
                {
                    return bad(index, format!("{left} {right}"));
                }
            }
        }
        TokenizerError::Model { source }
    })
}
