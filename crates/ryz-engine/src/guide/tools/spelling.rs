//! Marks as a grammar has them: literals, and the special tokens among them.

use ryz_tokenizer::Tokenizer;
use serde_json::Value;

/// A part of a mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    Text(String),
    Token(u32),
}

pub(super) struct Spelling<'a> {
    tokens: &'a [u32],
    tokenizer: &'a Tokenizer,
}

impl<'a> Spelling<'a> {
    pub fn new(tokens: &'a [u32], tokenizer: &'a Tokenizer) -> Self {
        Self { tokens, tokenizer }
    }

    /// A mark as a grammar has it.
    pub fn spelt(&self, text: &str) -> String {
        self.spell(&self.parts(text))
    }

    /// Parts as a grammar has them.
    #[allow(clippy::unused_self)] // It belongs to the others.
    pub fn spell(&self, parts: &[Part]) -> String {
        let parts = parts.iter().map(|part| match part {
            Part::Text(text) => literal(text),
            Part::Token(id) => format!("<[{id}]>"),
        });
        parts.collect::<Vec<_>>().join(" ")
    }

    /// The literals and the special tokens of a mark.
    pub fn parts(&self, text: &str) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let tokens = self.tokens.iter().filter_map(|&id| {
                let piece = self.tokenizer.piece(id);
                Some((
                    rest.find(piece.as_str())?,
                    std::cmp::Reverse(piece.len()),
                    id,
                ))
            });
            match tokens.min() {
                Some((at, length, id)) => {
                    if at > 0 {
                        parts.push(Part::Text(rest[..at].to_owned()));
                    }
                    parts.push(Part::Token(id));
                    rest = &rest[at + length.0..];
                }
                None => {
                    parts.push(Part::Text(rest.to_owned()));
                    break;
                }
            }
        }
        parts
    }
}

/// A text as a grammar has it.
pub(super) fn literal(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}
