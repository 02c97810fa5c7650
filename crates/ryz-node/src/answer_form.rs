//! How a model answers, for JavaScript.

use napi_derive::napi;
use ryz_engine::{CallBody, CallForm, JsonName, NameEnd};

/// Two texts, and what stands between them.
#[napi(object, object_from_js = false)]
pub struct Marks {
    /// The text before.
    pub open: String,
    /// The text after.
    pub close: String,
}

/// How a model writes thoughts, text and calls.
#[napi(object, object_from_js = false)]
pub struct AnswerForm {
    /// The marks around thoughts.
    pub reasoning: Option<Marks>,
    /// The marks around text.
    pub text: Option<Marks>,
    /// How calls are written.
    pub calls: Option<Calls>,
    /// Special tokens that are part of the form.
    pub tokens: Vec<u32>,
}

/// How calls are written: `begin (open call close) separator (open call close) … end`.
#[napi(object, object_from_js = false)]
#[derive(Default)]
pub struct Calls {
    /// The text before all calls.
    pub begin: String,
    /// The text behind all calls.
    pub end: String,
    /// The text between two.
    pub separator: String,
    /// The text before each.
    pub open: String,
    /// The text behind each.
    pub close: String,
    /// Other marks that may stand before the first.
    pub leads: Vec<String>,
    /// Of calls that are JSON: the keys that lead to the name, or
    pub name_path: Option<Vec<String>>,
    /// that the name is the only key;
    pub name_is_key: Option<bool>,
    /// all keys that the template writes.
    pub keys: Option<Vec<String>>,
    /// The keys that lead to the arguments.
    pub arguments_path: Vec<String>,
    /// Of other calls: the text behind the name;
    pub after_name: Option<String>,
    /// the text behind the id that follows it;
    pub after_id: Option<String>,
    /// the text between the name and the call's number.
    pub index: Option<String>,
    /// The marks around each argument.
    pub parameter: Option<Parameter>,
    /// The signs of arguments as a programming language writes them.
    pub literal: Option<Literal>,
    /// Whether the template takes arguments as text.
    pub arguments_as_text: bool,
    /// Whether a message holds one call at most.
    pub single: bool,
    /// Whether the template writes the calls of earlier turns.
    pub written: bool,
}

/// `open KEY after_key VALUE close`.
#[napi(object, object_from_js = false)]
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

/// `open KEY assign VALUE, … close`.
#[napi(object, object_from_js = false)]
pub struct Literal {
    /// The bracket before the arguments.
    pub open: String,
    /// The sign between key and value.
    pub assign: String,
    /// The bracket behind the arguments.
    pub close: String,
    /// The quotation mark.
    pub quote: String,
}

impl AnswerForm {
    /// The engine's own, for JavaScript.
    pub fn of(form: &ryz_engine::AnswerForm) -> Self {
        let marks = |marks: &ryz_engine::Marks| Marks {
            open: marks.open.clone(),
            close: marks.close.clone(),
        };
        Self {
            reasoning: form.reasoning.as_ref().map(marks),
            text: form.text.as_ref().map(marks),
            calls: form.calls.as_ref().map(|calls| Calls {
                leads: form.leads.clone(),
                ..Calls::of(calls)
            }),
            tokens: form.tokens.clone(),
        }
    }
}

impl Calls {
    fn of(form: &CallForm) -> Self {
        let mut calls = Self {
            begin: form.begin.clone(),
            end: form.end.clone(),
            separator: form.separator.clone(),
            open: form.open.clone(),
            close: form.close.clone(),
            arguments_as_text: form.arguments_as_text,
            single: form.single,
            written: form.written,
            ..Self::default()
        };
        match &form.body {
            CallBody::Json {
                name,
                arguments,
                example,
                ..
            } => {
                let example = example.get(0).unwrap_or(example);
                let keys = example.as_object().into_iter().flatten();
                calls.keys = Some(keys.map(|(key, _)| key.clone()).collect());
                calls.arguments_path.clone_from(arguments);
                match name {
                    JsonName::At(path) => calls.name_path = Some(path.clone()),
                    JsonName::Key => calls.name_is_key = Some(true),
                }
            }
            CallBody::Named {
                name, arguments, ..
            } => {
                calls.named(name);
                calls.arguments_path.clone_from(arguments);
            }
            CallBody::Tagged { name, parameter } => {
                calls.named(name);
                calls.parameter = Some(Parameter {
                    open: parameter.open.clone(),
                    after_key: parameter.after_key.clone(),
                    after_key_other: parameter.after_key_other.clone(),
                    close: parameter.close.clone(),
                    separator: parameter.separator.clone(),
                });
            }
            CallBody::Literal {
                open,
                assign,
                close,
                quote,
            } => {
                calls.literal = Some(Literal {
                    open: open.clone(),
                    assign: assign.clone(),
                    close: close.clone(),
                    quote: quote.clone(),
                });
            }
        }
        calls
    }

    fn named(&mut self, name: &NameEnd) {
        self.after_name = Some(name.after.clone());
        self.after_id.clone_from(&name.after_id);
        self.index.clone_from(&name.index);
    }
}
