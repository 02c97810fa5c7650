//! From a conversation to tokens, so that nothing a message says becomes a control token.

use std::borrow::Cow;
use std::sync::OnceLock;

use ryz_tokenizer::{
    Bounds, ChatInput, ChatTemplate, EncodeOptions, HistoryForm, Tokenizer, TokenizerError,
};

use crate::answer_form::AnswerForm;
use crate::control_texts::ControlTexts;
use crate::error::EngineError;

/// A model's chat template and the texts that messages must not smuggle in.
pub struct Chat {
    template: ChatTemplate,
    control: ControlTexts,
    /// How the model answers without tools, and with them, as soon as it was asked.
    forms: [OnceLock<AnswerForm>; 2],
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
    /// A template and the tokenizer that the model has with it.
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
    pub(crate) fn adapted<'a>(
        &self,
        input: &'a ChatInput,
        thorough: bool,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Cow<'a, ChatInput>, EngineError> {
        if !HistoryForm::concerns(&input.messages) {
            return Ok(Cow::Borrowed(input));
        }
        let form = match self.history.get() {
            Some(form) => form,
            None => {
                let form = self.template.history_form(cancelled)?;
                self.history.get_or_init(|| form)
            }
        };
        let mut adapted = input.clone();
        form.adapt(&mut adapted.messages, thorough)?;
        Ok(Cow::Owned(adapted))
    }

    /// The text the template makes of a conversation as clients send it.
    ///
    /// # Errors
    /// `INVALID_TEMPLATE`, `TEMPLATE_LIMIT`, `ABORTED`.
    pub fn apply(
        &self,
        input: &ChatInput,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<String, EngineError> {
        self.render(&*self.adapted(input, false, cancelled)?, cancelled)
    }

    /// The text the template makes.
    fn render(
        &self,
        input: &ChatInput,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<String, EngineError> {
        Ok(self.template.render_within(input, cancelled)?)
    }

    /// The tokens of that text, of which a context has `context_length`.
    pub(crate) fn encode(
        &self,
        input: &ChatInput,
        tokenizer: &Tokenizer,
        bounds: Bounds<'_>,
        context_length: usize,
    ) -> Result<ChatTokens, EngineError> {
        let options = EncodeOptions {
            add_special: false,
            parse_special: true,
        };
        let cut = self.control.cut_all(input)?;
        let (input, mark) = match &cut {
            Some((input, mark)) => (input, Some(*mark)),
            None => (input, None),
        };
        let text = self.render(input, bounds.cancelled)?;
        let too_long = || EngineError::TextOverflow {
            limit: bounds.most,
            context_length,
            bytes: text.len(),
        };
        if text.len() > tokenizer.most_bytes(bounds.most) {
            return Err(too_long());
        }
        let mut tokens = Vec::new();
        for piece in text.split(|c| Some(c) == mark) {
            let left = Bounds {
                most: bounds.most - tokens.len(),
                ..bounds
            };
            match tokenizer.encode_within(piece, options, left) {
                Ok(encoded) => tokens.extend(encoded.ids),
                Err(TokenizerError::TooManyTokens { .. }) => return Err(too_long()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(ChatTokens {
            tokens,
            in_thought: self.opens_thought(&text, tokenizer, bounds.cancelled)?,
        })
    }

    /// How the model answers; how it calls tools is learnt where there are any.
    pub fn answer_form(
        &self,
        tokenizer: &Tokenizer,
        tools: bool,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<&AnswerForm, EngineError> {
        let learnt = &self.forms[usize::from(tools)];
        if let Some(form) = learnt.get() {
            return Ok(form);
        }
        let form = AnswerForm::new(self.template.answer_form(tools, cancelled)?, tokenizer);
        Ok(learnt.get_or_init(|| form))
    }

    /// Whether a prompt ends within a thought.
    pub(crate) fn opens_thought(
        &self,
        prompt: &str,
        tokenizer: &Tokenizer,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<bool, EngineError> {
        let form = match self.answer_form(tokenizer, false, cancelled) {
            Err(error @ EngineError::Aborted) => return Err(error),
            form => form.ok(),
        };
        let reasoning = form.and_then(|form| form.reasoning.as_ref());
        Ok(reasoning.is_some_and(|marks| prompt.trim_end().ends_with(marks.open.trim())))
    }
}
