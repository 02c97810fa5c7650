//! From a conversation to tokens, so that nothing a message says becomes a control token.

use std::borrow::Cow;
use std::sync::OnceLock;

use ryz_tokenizer::{ChatInput, ChatTemplate, EncodeOptions, HistoryForm, Tokenizer};

use crate::answer_form::AnswerForm;
use crate::control_texts::ControlTexts;
use crate::error::EngineError;

/// A model's chat template and the texts that messages must not smuggle in.
pub(crate) struct Chat {
    pub template: ChatTemplate,
    control: ControlTexts,
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
        let control = ControlTexts::new(tokenizer);
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
        let Some((input, mark)) = self.control.cut_all(input)? else {
            let text = self.render(input)?;
            return Ok(ChatTokens {
                tokens: tokenizer.encode(&text, options)?,
                in_thought: self.opens_thought(&text, tokenizer),
            });
        };
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
}
