//! From a conversation to tokens, so that nothing a message says becomes a control token.
//!
//! A template's own control tokens must be parsed, those inside messages must not. So each control token's text inside
//! a message is cut after its first character with a mark (a Unicode noncharacter that no message contains) before
//! rendering, and the rendered text is tokenised piece by piece between marks.

use ryz_tokenizer::{CallName, ChatInput, ChatTemplate, EncodeOptions, Tokenizer, ToolCallFormat};
use serde_json::Value;

use crate::error::EngineError;

/// A model's chat template and the texts that messages must not smuggle in.
pub(crate) struct Chat {
    template: ChatTemplate,
    /// Texts of the control tokens.
    control: Vec<String>,
}

/// How a model writes tool calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCalls {
    /// The text around a call and the JSON in it.
    pub format: ToolCallFormat,
    /// Control tokens that are part of that text: to be shown, or no call is ever seen.
    pub tokens: Vec<u32>,
}

impl Chat {
    pub fn new(template: ChatTemplate, tokenizer: &Tokenizer) -> Self {
        let control = (0..tokenizer.vocab_size())
            .filter(|&id| tokenizer.is_control(id))
            .map(|id| tokenizer.piece(id))
            .filter(|text| text.chars().nth(1).is_some())
            .collect();
        Self { template, control }
    }

    /// The text the template makes.
    pub fn render(&self, input: &ChatInput) -> Result<String, EngineError> {
        Ok(self.template.render(input)?)
    }

    /// The tokens of that text.
    pub fn encode(
        &self,
        input: &ChatInput,
        tokenizer: &Tokenizer,
    ) -> Result<Vec<u32>, EngineError> {
        let options = EncodeOptions {
            add_special: false,
            parse_special: true,
        };
        if !self.any_control(&input.messages) {
            return Ok(tokenizer.encode(&self.render(input)?, options)?);
        }
        let mut mark = '\u{fdd0}';
        while contains(&input.messages, &|text| text.contains(mark)) {
            mark = match mark {
                '\u{fdd0}'..'\u{fdef}' => char::from_u32(mark as u32 + 1).unwrap_or('\u{fdef}'),
                _ => {
                    return Err(EngineError::invalid(
                        "messages",
                        "Unicode characters",
                        "noncharacters",
                    ));
                }
            };
        }
        let mut input = input.clone();
        self.cut(&mut input.messages, mark);
        let text = self.render(&input)?;
        let mut tokens = Vec::new();
        for piece in text.split(mark) {
            tokens.extend(tokenizer.encode(piece, options)?);
        }
        Ok(tokens)
    }

    /// How tool calls are written; none where the template takes no tools.
    pub fn tool_calls(&self, tokenizer: &Tokenizer) -> Result<Option<ToolCalls>, EngineError> {
        let Some(mut format) = self.template.tool_call_format()? else {
            return Ok(None);
        };
        // A token that ends the answer is never delivered.
        let ends = tokenizer.end_of_generation().iter();
        let ends: Vec<String> = ends.map(|&id| tokenizer.piece(id)).collect();
        let without_end = |text: &str| {
            let mut ends = ends.iter().filter(|end| !end.is_empty());
            ends.find_map(|end| Some(text.strip_suffix(end.as_str())?.trim_end().len()))
        };
        while let Some(rest) = without_end(&format.close) {
            format.close.truncate(rest);
        }
        let between = match &format.name {
            CallName::Before(text) => text.as_str(),
            CallName::Inside(_) => "",
        };
        let texts = [format.open.as_str(), between, format.close.as_str()];
        let tokens = (0..tokenizer.vocab_size())
            .filter(|&id| tokenizer.is_special(id))
            .filter(|&id| {
                let piece = tokenizer.piece(id);
                !piece.is_empty() && texts.iter().any(|text| text.contains(piece.as_str()))
            })
            .collect();
        Ok(Some(ToolCalls { format, tokens }))
    }

    fn any_control(&self, messages: &Value) -> bool {
        contains(messages, &|text| {
            self.control.iter().any(|c| text.contains(c.as_str()))
        })
    }

    /// Marks every control token's text in every string.
    fn cut(&self, value: &mut Value, mark: char) {
        match value {
            Value::String(text) => {
                for control in &self.control {
                    if text.contains(control.as_str()) {
                        let mut marked = control.clone();
                        let first = marked.chars().next().map_or(0, char::len_utf8);
                        marked.insert(first, mark);
                        *text = text.replace(control.as_str(), &marked);
                    }
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.cut(item, mark)),
            Value::Object(fields) => fields.values_mut().for_each(|field| self.cut(field, mark)),
            _ => {}
        }
    }
}

/// Whether any string inside has the property. JSON that was parsed is not nested deeply.
fn contains(value: &Value, property: &impl Fn(&str) -> bool) -> bool {
    match value {
        Value::String(text) => property(text),
        Value::Array(items) => items.iter().any(|item| contains(item, property)),
        Value::Object(fields) => fields.values().any(|field| contains(field, property)),
        _ => false,
    }
}
