//! Byte-level BPE: words from a pre-tokenizer, merged by rank with the model of the `tokenizers` crate.

use ahash::{AHashMap, AHashSet};
use tokenizers::{Model, models::bpe::BPE};

use crate::{TokenizerError, byte_level, pretokenizer::Pretokenizer};

/// Words up to this long are remembered during one call.
const REMEMBERED_BYTES: usize = 64;
/// This many words are remembered during one call.
const REMEMBERED_WORDS: usize = 1 << 15;

/// Merges that have been checked against the texts, and the words they apply to.
pub(crate) struct ByteLevelBpe {
    model: BPE,
    pretokenizer: Pretokenizer,
    /// Which bytes have a token of their own.
    known: [bool; 256],
}

impl ByteLevelBpe {
    /// Builds the model; `merges` come from [`check_merges`].
    pub(crate) fn new(
        text_ids: AHashMap<String, u32>,
        merges: Vec<(String, String)>,
        pretokenizer: Pretokenizer,
        ignore_merges: bool,
    ) -> Result<ByteLevelBpe, TokenizerError> {
        let known = byte_level::CHARS
            .map(|char| text_ids.contains_key(char.encode_utf8(&mut [0; 4]) as &str));
        // The crate's own cache is thread-local and is never freed, so there is one for each call instead.
        let model = BPE::builder()
            .vocab_and_merges(text_ids, merges)
            .ignore_merges(ignore_merges)
            .cache_capacity(0)
            .build()
            .map_err(|source| TokenizerError::Model { source })?;
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

/// Checks that both parts of each merge, and what they make, are in the vocabulary. The first of two equal merges counts.
pub(crate) fn check_merges<'a>(
    key: &'static str,
    text_ids: &AHashMap<String, u32>,
    merges: impl ExactSizeIterator<Item = Result<(&'a str, &'a str), &'a str>>,
) -> Result<Vec<(String, String)>, TokenizerError> {
    let mut checked = Vec::with_capacity(merges.len());
    let mut seen = AHashSet::with_capacity(merges.len());
    let mut union = String::new();
    for (index, merge) in merges.enumerate() {
        let bad = |got: &str| TokenizerError::BadMerge {
            key,
            index,
            got: got.to_owned(),
        };
        let (left, right) = merge.map_err(bad)?;
        union.clear();
        union.push_str(left);
        union.push_str(right);
        let ids = (text_ids.get(left), text_ids.get(right));
        let (Some(&left_id), Some(&right_id)) = ids else {
            return Err(bad(&format!("{left} {right}")));
        };
        if !text_ids.contains_key(&union) {
            return Err(bad(&format!("{left} {right}")));
        }
        if seen.insert((left_id, right_id)) {
            checked.push((left.to_owned(), right.to_owned()));
        }
    }
    Ok(checked)
}
