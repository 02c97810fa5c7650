//! SentencePiece's BPE as GGUF files store it: a score for each token and no list of merges.
//!
//! The model of the `tokenizers` crate needs an ordered list of merges. Here any two neighbours merge when their union
//! is a token, the highest score first and of equal scores the leftmost, so that tokens of one score keep the text's
//! order: no list of ranks says that, and so the loop is written out. It is llama.cpp's `llm_tokenizer_spm`.

use std::{cmp::Ordering, collections::BinaryHeap};

use ahash::AHashMap;

use crate::TokenizerError;

/// Tokens with scores.
pub(crate) struct Spm {
    text_ids: AHashMap<String, u32>,
    /// Score of each id.
    scores: Vec<f32>,
    /// The token of each byte: `<0xHH>`, else a token that is the byte's own character.
    byte_ids: [Option<u32>; 256],
}

/// A piece of the text; pieces form a list by their indices.
struct Symbol {
    start: usize,
    /// 0 once it was merged into its left neighbour.
    len: usize,
    previous: usize,
    next: usize,
}

const NONE: usize = usize::MAX;

/// Two neighbours whose union is a token.
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    /// Bytes of the union: a symbol that has since grown tells that the pair is out of date.
    len: usize,
}

impl Ord for Pair {
    fn cmp(&self, other: &Pair) -> Ordering {
        self.score
            .total_cmp(&other.score)
            .then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Pair) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Pair) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Pair {}

impl Spm {
    /// Checks the scores: one a token, each a number.
    pub(crate) fn new(
        key: &'static str,
        text_ids: AHashMap<String, u32>,
        vocab_size: u32,
        scores: &[f32],
    ) -> Result<Spm, TokenizerError> {
        if scores.len() != vocab_size as usize {
            return Err(TokenizerError::LengthMismatch {
                key,
                expected: vocab_size as usize,
                got: scores.len(),
            });
        }
        if let Some((index, &got)) = (0..).zip(scores).find(|(_, score)| score.is_nan()) {
            return Err(TokenizerError::BadScore { key, index, got });
        }
        let byte_ids = std::array::from_fn(|byte| {
            let own = char::from(byte as u8);
            let own = own.is_ascii().then(|| own.to_string());
            text_ids
                .get(&format!("<0x{byte:02X}>"))
                .or_else(|| text_ids.get(&own?))
                .copied()
        });
        Ok(Spm {
            text_ids,
            // One zero, so that an order of all floats has equal scores where the file has.
            scores: scores.iter().map(|score| score + 0.0).collect(),
            byte_ids,
        })
    }

    /// The id of a text.
    pub(crate) fn token_to_id(&self, text: &str) -> Option<u32> {
        self.text_ids.get(text).copied()
    }

    /// Appends the ids of text in which spaces are `▁`.
    pub(crate) fn encode(&self, text: &str, out: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let mut symbols: Vec<Symbol> = Vec::with_capacity(text.len());
        for (i, (start, char)) in text.char_indices().enumerate() {
            symbols.push(Symbol {
                start,
                len: char.len_utf8(),
                previous: i.checked_sub(1).unwrap_or(NONE),
                next: i + 1,
            });
        }
        let Some(last) = symbols.last_mut() else {
            return Ok(());
        };
        last.next = NONE;

        let mut queue = BinaryHeap::with_capacity(symbols.len());
        for right in 1..symbols.len() {
            self.push_pair(text, &symbols, right - 1, right, &mut queue);
        }
        while let Some(pair) = queue.pop() {
            let (left, right) = (&symbols[pair.left], &symbols[pair.right]);
            if left.len == 0 || right.len == 0 || left.len + right.len != pair.len {
                continue;
            }
            let (previous, next) = (left.previous, right.next);
            symbols[pair.left].len = pair.len;
            symbols[pair.left].next = next;
            symbols[pair.right].len = 0;
            if next != NONE {
                symbols[next].previous = pair.left;
                self.push_pair(text, &symbols, pair.left, next, &mut queue);
            }
            if previous != NONE {
                self.push_pair(text, &symbols, previous, pair.left, &mut queue);
            }
        }
        for symbol in symbols.iter().filter(|symbol| symbol.len > 0) {
            let piece = &text[symbol.start..symbol.start + symbol.len];
            if let Some(&id) = self.text_ids.get(piece) {
                out.push(id);
                continue;
            }
            for byte in piece.bytes() {
                let id = self.byte_ids[byte as usize];
                let id = id.ok_or_else(|| TokenizerError::Unencodable {
                    byte,
                    text: piece.to_owned(),
                })?;
                out.push(id);
            }
        }
        Ok(())
    }

    fn push_pair(
        &self,
        text: &str,
        symbols: &[Symbol],
        left: usize,
        right: usize,
        queue: &mut BinaryHeap<Pair>,
    ) {
        let start = symbols[left].start;
        let len = symbols[left].len + symbols[right].len;
        if let Some(&id) = self.text_ids.get(&text[start..start + len]) {
            queue.push(Pair {
                score: self.scores[id as usize],
                left,
                right,
                len,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spm(tokens: &[(&str, f32)]) -> Spm {
        let ids = (0..)
            .zip(tokens)
            .map(|(id, (text, _))| (text.to_string(), id));
        let scores: Vec<f32> = tokens.iter().map(|(_, score)| *score).collect();
        Spm::new("s", ids.collect(), tokens.len() as u32, &scores).unwrap()
    }

    fn ids(spm: &Spm, text: &str) -> Vec<u32> {
        let mut out = Vec::new();
        spm.encode(text, &mut out).unwrap();
        out
    }

    #[test]
    fn best_score_first_then_leftmost() {
        let spm = spm(&[
            ("a", 0.0),
            ("b", 0.0),
            ("ab", -2.0),
            ("ba", -1.0),
            ("aba", -3.0),
        ]);
        assert_eq!(ids(&spm, "aba"), [4]);
        assert_eq!(ids(&spm, "bba"), [1, 3]);
        assert_eq!(ids(&spm, "ab"), [2]);
        assert_eq!(ids(&spm, "baba"), [3, 3]);
        let spm = super::tests::spm(&[("a", 0.0), ("aa", -1.0), ("aaa", -1.0)]);
        assert_eq!(ids(&spm, "aaaaa"), [2, 1]);
    }

    #[test]
    fn bytes_are_the_last_resort() {
        let spm = spm(&[
            ("a", 0.0),
            ("<0xE2>", 0.0),
            ("<0x82>", 0.0),
            ("<0xAC>", 0.0),
            ("!", 0.0),
        ]);
        assert_eq!(ids(&spm, "a€!"), [0, 1, 2, 3, 4]);
        let error = spm.encode("aé", &mut Vec::new()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the vocabulary has no token for byte 0xc3 of \"é\""
        );
    }
}
