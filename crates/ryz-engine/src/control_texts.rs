//! Control tokens that users, servers and documents wrote: they stay plain text.
//!
//! A template's own control tokens must be parsed. Those inside messages, definitions of tools and variables must not. So each
//! control token's text in there is cut after its first character with a mark (a Unicode noncharacter that occurs nowhere in
//! the input) before rendering, and the rendered text is tokenised piece by piece between marks.

use aho_corasick::{AhoCorasick, Input};
use ryz_tokenizer::{ChatInput, Tokenizer};
use serde_json::Value;

use crate::error::EngineError;

/// Texts of the control tokens, all of them searched at once.
pub(crate) struct ControlTexts(Option<AhoCorasick>);

/// What others than the template's author wrote.
fn parts(input: &ChatInput) -> impl Iterator<Item = &Value> {
    let messages = std::iter::once(&input.messages);
    messages.chain(&input.tools).chain(input.extra.values())
}

impl ControlTexts {
    pub fn new(tokenizer: &Tokenizer) -> Self {
        let texts: Vec<String> = (0..tokenizer.vocab_size())
            .filter(|&id| tokenizer.is_control(id))
            .map(|id| tokenizer.piece(id))
            .filter(|text| text.chars().nth(1).is_some())
            .collect();
        if texts.is_empty() {
            return Self(None);
        }
        // It fails for texts of gigabytes only, which no vocabulary holds.
        Self(AhoCorasick::new(texts).ok())
    }

    /// The input with every control token's text cut, and the mark at the cuts; none where there is nothing to cut.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` when the input holds all of the characters that could be marks.
    pub fn cut_all(&self, input: &ChatInput) -> Result<Option<(ChatInput, char)>, EngineError> {
        if !parts(input).any(|part| contains(part, &|text| self.occurs(text))) {
            return Ok(None);
        }
        let free =
            |mark: &char| !parts(input).any(|part| contains(part, &|text| text.contains(*mark)));
        let Some(mark) = ('\u{fdd0}'..='\u{fdef}').find(free) else {
            return Err(EngineError::invalid(
                "messages",
                "Unicode characters",
                "noncharacters",
            ));
        };
        let mut input = input.clone();
        let messages = std::iter::once(&mut input.messages);
        let parts = messages
            .chain(&mut input.tools)
            .chain(input.extra.values_mut());
        parts.for_each(|part| self.cut_in(part, mark));
        Ok(Some((input, mark)))
    }

    fn occurs(&self, text: &str) -> bool {
        self.0.as_ref().is_some_and(|texts| texts.is_match(text))
    }

    /// Marks every control token's text in every string, and in the names of fields.
    fn cut_in(&self, value: &mut Value, mark: char) {
        match value {
            Value::String(text) => self.cut(text, mark),
            Value::Array(items) => items.iter_mut().for_each(|item| self.cut_in(item, mark)),
            Value::Object(fields) => {
                fields
                    .values_mut()
                    .for_each(|field| self.cut_in(field, mark));
                if fields.keys().any(|name| self.occurs(name)) {
                    let old = std::mem::take(fields).into_iter();
                    fields.extend(old.map(|(mut name, field)| {
                        self.cut(&mut name, mark);
                        (name, field)
                    }));
                }
            }
            _ => {}
        }
    }

    /// Puts a mark behind the first character of each control token's text, of overlapping ones, too.
    fn cut(&self, text: &mut String, mark: char) {
        let Some(texts) = &self.0 else { return };
        let mut cut = String::new();
        let mut at = 0;
        while let Some(found) = texts.find(Input::new(text.as_str()).range(at..)) {
            let first = text[found.start()..].chars().next();
            let behind = found.start() + first.map_or(1, char::len_utf8);
            cut.push_str(&text[at..behind]);
            cut.push(mark);
            at = behind;
        }
        if at > 0 {
            cut.push_str(&text[at..]);
            *text = cut;
        }
    }
}

/// Whether any string inside has the property. JSON that was parsed is not nested deeply.
fn contains(value: &Value, property: &impl Fn(&str) -> bool) -> bool {
    match value {
        Value::String(text) => property(text),
        Value::Array(items) => items.iter().any(|item| contains(item, property)),
        Value::Object(fields) => fields
            .iter()
            .any(|(name, field)| property(name) || contains(field, property)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_occurrence_is_cut_once_and_the_rest_stays() {
        let control = ControlTexts(AhoCorasick::new(["<|end|>", "<|e", "||", "é!"]).ok());
        for (text, cut) in [
            ("plain", "plain"),
            ("a<|end|>b<|end|>", "a<*|end|>b<*|end|>"),
            ("<<|end|>", "<<*|end|>"),
            ("|||", "|*|*|"),
            ("é!é", "é*!é"),
        ] {
            let mut text = text.to_owned();
            control.cut(&mut text, '*');
            assert_eq!(text, cut);
        }
        let mut value = serde_json::json!({ "a||": ["||", 1, { "b": "<|e" }] });
        control.cut_in(&mut value, '*');
        assert_eq!(
            value,
            serde_json::json!({ "a|*|": ["|*|", 1, { "b": "<*|e" }] })
        );
        assert!(contains(&value, &|text| text == "a|*|"));
    }
}
