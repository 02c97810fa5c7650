//! Decoding ids that come one at a time.

use crate::Tokenizer;

/// Turns ids into text as they come, and never gives half a character.
///
/// A token may end inside a character of UTF-8; its bytes wait for the rest of it. Bytes that no continuation can make
/// valid come out as U+FFFD, as [`Tokenizer::decode`] gives them.
///
/// A stream continues a text: unlike [`Tokenizer::decode`], it keeps the space that a SentencePiece model's first token has.
#[derive(Clone, Debug)]
pub struct DecodeStream {
    tokenizer: Tokenizer,
    skip_special: bool,
    /// Special tokens that are text all the same.
    shown: Vec<u32>,
    /// The beginning of a character, at most three bytes.
    pending: Vec<u8>,
}

impl DecodeStream {
    pub(crate) fn new(tokenizer: Tokenizer, skip_special: bool) -> DecodeStream {
        DecodeStream {
            tokenizer,
            skip_special,
            shown: Vec::new(),
            pending: Vec::new(),
        }
    }

    /// The same stream, with the text of these special tokens in it, such as the one that begins a tool call.
    #[must_use]
    pub fn showing(mut self, ids: &[u32]) -> DecodeStream {
        self.shown.extend_from_slice(ids);
        self
    }

    /// Adds a token; gives the text that is complete with it, which may be empty.
    pub fn push(&mut self, id: u32) -> String {
        if self.skip_special && self.tokenizer.is_special(id) && !self.shown.contains(&id) {
            return String::new();
        }
        self.pending
            .extend_from_slice(self.tokenizer.token_bytes(id));
        let mut text = String::new();
        let mut rest = &self.pending[..];
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(std::str::from_utf8(valid).unwrap_or_default());
                    rest = after;
                    let Some(bad) = error.error_len() else { break };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[bad..];
                }
            }
        }
        let keep = rest.len();
        self.pending.drain(..self.pending.len() - keep);
        text
    }

    /// Ends the text where it was cut: half a character is left out. The stream can then be used anew.
    pub fn cut(&mut self) -> String {
        self.pending.clear();
        String::new()
    }

    /// Ends the text: U+FFFD for a character that was never completed. The stream can then be used anew.
    pub fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        text
    }
}
