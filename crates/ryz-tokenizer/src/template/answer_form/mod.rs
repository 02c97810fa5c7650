//! How a model writes an answer, learnt from its own chat template: its thoughts, and its tool calls.
//!
//! Every family has a form of its own, and the template is where it is written down: it must write
//! earlier turns as the model learnt them. So answers with texts that occur nowhere else are
//! rendered, and what stands around these texts is the form. No family is known by name here.

mod align;
mod calls;
mod probe;
mod tagged;
mod thoughts;
mod unwritten;

use serde_json::Value as Json;

use super::ChatTemplate;
use crate::TemplateError;
use probe::Probe;

/// The form of a model's answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnswerForm {
    /// The marks around a thought; none where the template knows no thoughts.
    pub reasoning: Option<Marks>,
    /// The marks around text, where it has some, such as `<|START_RESPONSE|>`.
    pub text: Option<Marks>,
    /// How calls are written; none where the template takes no tools.
    pub calls: Option<CallForm>,
}

/// Two texts, and what stands between them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// The text before.
    pub open: String,
    /// The text after.
    pub close: String,
}

/// How calls are written: `begin (open call close) separator (open call close) … end`.
///
/// Every text but the call may be empty. White space between them does not matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallForm {
    /// The text before all calls of an answer, such as `<|tool_calls_section_begin|>`.
    pub begin: String,
    /// The text after all of them.
    pub end: String,
    /// The text before each call, such as `<tool_call>`.
    pub open: String,
    /// The text after each, such as `</tool_call>`.
    pub close: String,
    /// The text between two calls, such as a comma.
    pub separator: String,
    /// The call itself.
    pub body: CallBody,
    /// Whether the template takes the arguments of earlier calls as text that holds JSON.
    pub arguments_as_text: bool,
    /// Whether a message holds one call at most: the template refuses more, or leaves them out.
    pub single: bool,
    /// Whether the template writes the calls of earlier turns. Where it does not, the form is
    /// guessed from the marks that the template mentions.
    pub written: bool,
}

/// What a call is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallBody {
    /// JSON that is a call, or a list of calls.
    Json {
        /// Where the function's name is.
        name: JsonName,
        /// The keys that lead to the arguments; none where the name is their key.
        arguments: Vec<String>,
        /// The JSON as the template wrote it, with a name, arguments and an id that are made up.
        example: Json,
        /// The keys beside the name whose value counts the calls.
        counters: Vec<String>,
    },
    /// The name, and then the arguments as JSON.
    Named {
        /// What stands behind the name.
        name: NameEnd,
        /// The keys that lead to the arguments inside the JSON; mostly none.
        arguments: Vec<String>,
        /// The JSON as the template wrote it.
        example: Json,
    },
    /// The name, and then each argument between marks, such as `<parameter=KEY>VALUE</parameter>`.
    Tagged {
        /// What stands behind the name.
        name: NameEnd,
        /// The marks of an argument.
        parameter: Parameter,
    },
    /// The name, and then arguments as in a programming language: `(key="value", other=1)`.
    Literal {
        /// The bracket before the arguments.
        open: String,
        /// The sign between key and value.
        assign: String,
        /// The bracket behind the arguments.
        close: String,
        /// The quotation mark of strings. Anything but `"` and `'` knows no escapes.
        quote: String,
    },
}

/// Where the name is inside JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JsonName {
    /// At the end of these keys.
    At(Vec<String>),
    /// It is the only key, and the arguments are its value.
    Key,
}

/// What stands between a call's name and its arguments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameEnd {
    /// The text behind the name; empty where the arguments follow at once.
    pub after: String,
    /// Behind that: the call's id and this text.
    pub after_id: Option<String>,
    /// Between the name and `after`: this text and the number of the call.
    pub index: Option<String>,
}

/// How an argument is written between marks: `open KEY after_key VALUE close`.
///
/// Line breaks around the value are part of the marks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parameter {
    /// The text before the key.
    pub open: String,
    /// The text between the key and a string.
    pub after_key: String,
    /// The text between the key and any other value.
    pub after_key_other: String,
    /// The text behind the value.
    pub close: String,
    /// The text between two arguments.
    pub separator: String,
}

impl CallForm {
    /// The id of the call in an example: where it stands, a call of the model has one of its own.
    pub const EXAMPLE_ID: &str = probe::IDS[0];

    /// Every mark, in the order in which they are written.
    pub fn marks(&self) -> Vec<&str> {
        let mut marks = vec![
            self.begin.as_str(),
            &self.open,
            &self.close,
            &self.separator,
            &self.end,
        ];
        match &self.body {
            CallBody::Json { .. } => {}
            CallBody::Named { name, .. } => marks.extend(name.marks()),
            CallBody::Tagged { name, parameter } => {
                marks.extend(name.marks());
                marks.extend([
                    parameter.open.as_str(),
                    &parameter.after_key,
                    &parameter.after_key_other,
                    &parameter.close,
                    &parameter.separator,
                ]);
            }
            CallBody::Literal {
                open, close, quote, ..
            } => marks.extend([open.as_str(), close, quote]),
        }
        marks.retain(|mark| !mark.is_empty());
        marks
    }

    /// The text that begins the first call; empty where that is the call itself.
    pub fn first_mark(&self) -> &str {
        if self.begin.is_empty() {
            &self.open
        } else {
            &self.begin
        }
    }
}

impl NameEnd {
    fn marks(&self) -> impl Iterator<Item = &str> {
        [Some(&self.after), self.after_id.as_ref()]
            .into_iter()
            .flatten()
            .map(String::as_str)
    }
}

impl ChatTemplate {
    /// The form in which this model answers; that of its calls is learnt where there are tools. The work ends soon
    /// after `cancelled` says so.
    ///
    /// # Errors
    ///
    /// Those of [`ChatTemplate::render_within`], if it cannot even write a question with tools.
    ///
    /// # Examples
    ///
    /// ```
    /// use ryz_tokenizer::{CallBody, ChatTemplate, JsonName};
    ///
    /// let source = "{{ tools | tojson }}{% for m in messages %}<{{ m.role }}>{{ m.content }}
    ///     {%- for call in m.tool_calls or [] %}<call>{{ call.function | tojson }}</call>{% endfor %}<end>{% endfor %}
    ///     {%- if add_generation_prompt %}<assistant>{% endif %}";
    /// let form = ChatTemplate::new(source, "<s>", "</s>")?.answer_form(true, &|| false)?;
    /// let calls = form.calls.expect("a form");
    /// assert_eq!((calls.open.as_str(), calls.close.as_str()), ("<call>", "</call>"));
    /// let CallBody::Json { name, arguments, .. } = calls.body else { panic!() };
    /// assert_eq!(name, JsonName::At(vec!["name".into()]));
    /// assert_eq!(arguments, ["arguments"]);
    /// # Ok::<(), ryz_tokenizer::TemplateError>(())
    /// ```
    pub fn answer_form(
        &self,
        tools: bool,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<AnswerForm, TemplateError> {
        let (reasoning, text) = thoughts::learn(&Probe::new(self, false, cancelled));
        let calls = if tools {
            let probe = Probe::new(self, true, cancelled);
            calls::learn(&probe, reasoning.as_ref())?
        } else {
            None
        };
        // What was cancelled midway looked like a refusal of the template.
        if cancelled() {
            return Err(TemplateError::Cancelled);
        }
        Ok(AnswerForm {
            reasoning,
            text,
            calls,
        })
    }
}
