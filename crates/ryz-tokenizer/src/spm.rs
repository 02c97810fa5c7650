//! SentencePiece's BPE as GGUF files store it: a score for each token and no list of merges.
//!
//! Any two neighbours merge when their union is a token, the highest score first and of equal scores
//! the leftmost. It is llama.cpp's `llm_tokenizer_spm`.

use ahash::AHashMap;

use crate::{
    TokenizerError,
    merge::{NONE, Pairs, Scratch, Step, Symbol, Union, merge},
    output::Output,
};

/// Tokens with scores.
pub(crate) struct Spm {
    text_ids: AHashMap<String, u32>,
    /// Rank of each id: less is better.
    ranks: Vec<u32>,
    /// The token of each byte: `<0xHH>`, else a token that is the byte's own character.
    byte_ids: [Option<u32>; 256],
}

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
            ranks: scores.iter().copied().map(rank).collect(),
            byte_ids,
        })
    }

    /// The id of a text.
    pub(crate) fn token_to_id(&self, text: &str) -> Option<u32> {
        self.text_ids.get(text).copied()
    }

    /// Appends the ids of text in which spaces are `▁`.
    pub(crate) fn encode(&self, text: &str, out: &mut Output<'_>) -> Result<(), TokenizerError> {
        merge(
            self,
            text,
            &mut Scratch::default(),
            &mut |step| match step {
                Step::Token { id: NONE, text } => self.push_bytes(text, out),
                Step::Token { id, .. } => out.push(id),
                Step::Worked(bytes) => out.worked(bytes),
            },
        )
    }

    /// A character without a token becomes its bytes, or is unknown.
    fn push_bytes(&self, text: &str, out: &mut Output<'_>) -> Result<(), TokenizerError> {
        let ids = || text.bytes().map(|byte| self.byte_ids[usize::from(byte)]);
        if ids().any(|id| id.is_none()) {
            return out.push_unknown();
        }
        ids().flatten().try_for_each(|id| out.push(id))
    }
}

impl Pairs for Spm {
    fn symbols(&self, text: &str, out: &mut Vec<Symbol>) {
        for (at, char) in text.char_indices() {
            let len = char.len_utf8();
            let id = self.token_to_id(&text[at..at + len]);
            out.push(Symbol::new(id.unwrap_or(NONE), at, len));
        }
    }

    fn union(&self, text: &str, left: &Symbol, right: &Symbol) -> Option<Union> {
        let whole = left.start as usize..(right.start + right.len) as usize;
        let id = self.token_to_id(&text[whole])?;
        Some(Union {
            rank: self.ranks[id as usize],
            id,
        })
    }
}

/// A number that is less for a higher score, and equal for equal scores.
fn rank(score: f32) -> u32 {
    // One zero.
    let bits = (score + 0.0).to_bits();
    let ascending = if bits >> 31 == 1 {
        !bits
    } else {
        bits | 1 << 31
    };
    !ascending
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::{Bounds, Encoded, UnknownToken};

    fn spm(tokens: &[(&str, f32)]) -> Spm {
        let ids = (0..)
            .zip(tokens)
            .map(|(id, (text, _))| (text.to_string(), id));
        let scores: Vec<f32> = tokens.iter().map(|(_, score)| *score).collect();
        Spm::new("s", ids.collect(), tokens.len() as u32, &scores).unwrap()
    }

    fn ids(spm: &Spm, text: &str) -> Vec<u32> {
        encoded(spm, text).ids
    }

    fn encoded(spm: &Spm, text: &str) -> Encoded {
        let unknown = UnknownToken {
            id: Some(99),
            fused: false,
        };
        let mut out = Output::new(0, Bounds::NONE, unknown);
        spm.encode(text, &mut out).unwrap();
        out.encoded
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
        let unknown = encoded(&spm, "aé");
        assert_eq!((unknown.ids, unknown.unknown), (vec![0, 99], 1));
    }

    #[test]
    fn ranks_are_in_the_order_of_scores() {
        let scores = [f32::INFINITY, 3.5, 1.0, 0.0, -0.5, -1e10, f32::NEG_INFINITY];
        assert!(scores.windows(2).all(|pair| rank(pair[0]) < rank(pair[1])));
        assert_eq!(rank(0.0), rank(-0.0));
    }
}
