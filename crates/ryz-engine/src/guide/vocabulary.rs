//! A model's vocabulary as llguidance takes it: the bytes of every token, in a trie.

use std::collections::HashSet;
use std::sync::Arc;

use llguidance::toktrie::{INVALID_TOKEN, TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};
use ryz_tokenizer::{EncodeOptions, Tokenizer};

/// Longer tokens are never chosen: the trie's nodes count up to 1,024 levels.
const MAX_TOKEN_BYTES: usize = 512;

struct Vocabulary {
    tokenizer: Tokenizer,
    trie: TokTrie,
    /// The tokenizer splits the middle of a text as it splits a whole one, so forced text is chosen as it would split it.
    canonical: bool,
}

/// The trie of a tokenizer's vocabulary, with `size` ids, the model's: those that no text has stay out.
pub(super) fn token_env(tokenizer: &Tokenizer, size: usize) -> TokEnv {
    let mut words = vec![Vec::new(); size];
    let mut seen: HashSet<&[u8]> = HashSet::new();
    let ids = 0..tokenizer.vocab_size().min(size as u32);
    // Bytes come last: where a token stands for the same byte as text, it is that one which a text has.
    let (bytes, others): (Vec<u32>, Vec<u32>) = ids.partition(|&id| tokenizer.is_byte(id));
    for id in others.into_iter().chain(bytes) {
        let word = &mut words[id as usize];
        let text = tokenizer.token_bytes(id);
        if tokenizer.is_special(id) || tokenizer.is_end_of_generation(id) {
            // Never text. A grammar names it as `<|name|>` or `<[id]>`.
            word.push(TokTrie::SPECIAL_TOKEN_MARKER);
            if is_name(text) {
                word.extend_from_slice(text);
            } else {
                word.extend_from_slice(format!("<id {id}>").as_bytes());
            }
        } else if tokenizer.is_text(id)
            && text.len() <= MAX_TOKEN_BYTES
            && !text.contains(&TokTrie::SPECIAL_TOKEN_MARKER)
            && seen.insert(text)
        {
            word.extend_from_slice(text);
        }
    }
    let ends = tokenizer.end_of_generation().iter().copied();
    let ends: Vec<TokenId> = ends.filter(|&id| (id as usize) < size).collect();
    let eos = ends.first().copied().unwrap_or(INVALID_TOKEN);
    let mut trie = TokTrie::from(&TokRxInfo::new(size as u32, eos), &words);
    if ends.len() > 1 {
        trie = trie.with_eos_tokens(&ends);
    }
    Arc::new(Vocabulary {
        tokenizer: tokenizer.clone(),
        trie,
        canonical: !tokenizer.adds_space(),
    })
}

/// `<…>`, as a grammar can name it.
fn is_name(text: &[u8]) -> bool {
    text.len() > 2
        && text.len() <= MAX_TOKEN_BYTES
        && text.starts_with(b"<")
        && text.ends_with(b">")
        && !text[1..text.len() - 1]
            .iter()
            .any(|byte| matches!(byte, b'<' | b'>' | 0xff) || byte.is_ascii_whitespace())
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        let options = EncodeOptions {
            add_special: false,
            parse_special: false,
        };
        self.trie.tokenize_with_greedy_fallback(bytes, |text| {
            let ids = self.tokenizer.encode(text, options).unwrap_or_default();
            let mut rest = text.as_bytes();
            let same = ids.iter().all(|&id| {
                let token = self.trie.token(id);
                let left = rest.strip_prefix(token).filter(|_| !token.is_empty());
                rest = left.unwrap_or(rest);
                left.is_some()
            });
            // A tokenizer may change a text (its normal form, for one): what is forced must be this very text.
            if same && rest.is_empty() {
                ids
            } else {
                self.trie.greedy_tokenize(text.as_bytes())
            }
        })
    }

    fn tokenize_is_canonical(&self) -> bool {
        self.canonical
    }
}
