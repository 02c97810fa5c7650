//! From a conversation to tokens, so that nothing a message says becomes a control token.
//!
//! A template's own control tokens must be parsed, those inside messages must not. So each control token's text inside
//! a message is cut after its first character with a mark (a Unicode noncharacter that no message contains) before
//! rendering, and the rendered text is tokenised piece by piece between marks.

use std::borrow::Cow;
use std::sync::OnceLock;

use ryz_tokenizer::{ChatInput, ChatTemplate, EncodeOptions, HistoryForm, Tokenizer};
use serde_json::Value;

use crate::answer_form::AnswerForm;
use crate::error::EngineError;

/// A model's chat template and the texts that messages must not smuggle in.
pub(crate) struct Chat {
    pub template: ChatTemplate,
    /// Texts of the control tokens.
    control: Vec<String>,
    /// How the model answers without tools, and with them, as soon as it was asked.
    pub forms: [OnceLock<AnswerForm>; 2],
    /// What the template takes of a history, once it was asked for.
    history: OnceLock<HistoryForm>,
}

/// A conversation's tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatTokens {
    /// The tokens of the prompt.
    pub tokens: Vec<u32>,
    /// Whether they end within a thought that the template has opened.
    pub in_thought: bool,
}

impl Chat {
    pub fn new(template: ChatTemplate, tokenizer: &Tokenizer) -> Self {
        let control = (0..tokenizer.vocab_size())
            .filter(|&id| tokenizer.is_control(id))
            .map(|id| tokenizer.piece(id))
            .filter(|text| text.chars().nth(1).is_some())
            .collect();
        Self {
            template,
            control,
            forms: Default::default(),
            history: OnceLock::new(),
        }
    }

    /// The conversation in the shape that the template takes ([`HistoryForm::adapt`]).
    pub fn adapted<'a>(
        &self,
        input: &'a ChatInput,
        thorough: bool,
    ) -> Result<Cow<'a, ChatInput>, EngineError> {
        if !HistoryForm::concerns(&input.messages) {
            return Ok(Cow::Borrowed(input));
        }
        let form = self.history.get_or_init(|| self.template.history_form());
        let mut adapted = input.clone();
        form.adapt(&mut adapted.messages, thorough)?;
        Ok(Cow::Owned(adapted))
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
    ) -> Result<ChatTokens, EngineError> {
        let options = EncodeOptions {
            add_special: false,
            parse_special: true,
        };
        if !self.any_control(&input.messages) {
            let text = self.render(input)?;
            return Ok(ChatTokens {
                tokens: tokenizer.encode(&text, options)?,
                in_thought: self.opens_thought(&text, tokenizer),
            });
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
        Ok(ChatTokens {
            tokens,
            in_thought: self.opens_thought(&text, tokenizer),
        })
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
