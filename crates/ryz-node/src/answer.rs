//! How results get back to JavaScript: one call of a `(failure, value)` callback, from whatever thread.

use std::panic::{AssertUnwindSafe, catch_unwind};

use napi::bindgen_prelude::{FnArgs, Function, ToNapiValue};
use napi::threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode};
use napi::{Error, Result, Status};
use napi_derive::napi;
use ryz_engine::EngineError;

/// What went wrong, for TypeScript to make an error of.
#[napi(object)]
#[derive(Clone, Debug)]
pub struct Failure {
    /// One of the stable codes.
    pub code: String,
    /// What was wrong, where, what was expected and what was there.
    pub message: String,
    /// The option or argument that was refused.
    pub option: Option<String>,
    /// What it may be.
    pub expected: Option<String>,
    /// What it was.
    pub got: Option<String>,
}

impl Failure {
    /// A failure with this code and the error's chain of messages.
    pub fn new(code: &str, error: &dyn std::error::Error) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            if !message.contains(&text) {
                message = format!("{message}: {text}");
            }
            source = cause.source();
        }
        Self::plain(code, message)
    }

    /// A failure that no error type stands behind.
    pub fn plain(code: &str, message: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            message: message.into(),
            option: None,
            expected: None,
            got: None,
        }
    }

    /// The same failure, of an option: its public name, what it may be and what it was.
    pub fn of_option(
        self,
        option: impl Into<String>,
        expected: impl Into<String>,
        got: Option<String>,
    ) -> Self {
        Self {
            option: Some(option.into()),
            expected: Some(expected.into()),
            got,
            ..self
        }
    }

    /// It as what a call throws, which TypeScript takes apart again.
    pub fn thrown(&self) -> Error {
        Error::from_reason(format!("{}: {}", self.code, self.message))
    }

    /// A value that an option cannot have.
    pub fn unknown(option: &str, got: &str) -> Self {
        let message = format!("{option}: there is no {got:?}");
        let failure = Self::plain("INVALID_ARGUMENT", message);
        failure.of_option(option, "one that there is", Some(got.to_owned()))
    }
}

/// A failure of the engine.
pub fn failure(error: &EngineError) -> Failure {
    let failure = Failure::new(error.code(), error);
    match error {
        EngineError::InvalidArgument {
            option,
            expected,
            got,
        } => failure.of_option(*option, expected, Some(got.clone())),
        EngineError::InvalidGrammar { option, message } => failure.of_option(option, message, None),
        _ => failure,
    }
}

/// The value of that name.
pub(crate) fn named<T: Copy>(
    option: &str,
    names: &[(&str, T)],
    name: &str,
) -> std::result::Result<T, Failure> {
    let found = names.iter().find(|(other, _)| *other == name);
    found
        .map(|(_, value)| *value)
        .ok_or_else(|| Failure::unknown(option, name))
}

/// The arguments of a callback: one of them is null.
pub type AnswerArgs<T> = FnArgs<(Option<Failure>, Option<T>)>;

/// The JavaScript callback of one call, to be answered once.
pub struct Answer<T: ToNapiValue + 'static> {
    callback: ThreadsafeFunction<std::result::Result<T, Failure>, (), AnswerArgs<T>, Status, false>,
}

impl<T: ToNapiValue + Send + 'static> Answer<T> {
    /// Takes hold of a callback. The process stays alive until it is answered.
    pub fn new(callback: &Function<'_, AnswerArgs<T>, ()>) -> Result<Self> {
        let callback = callback.build_threadsafe_function().build_callback(
            |context: napi::threadsafe_function::ThreadsafeCallContext<
                std::result::Result<T, Failure>,
            >| {
                Ok(match context.value {
                    Ok(value) => (None, Some(value)).into(),
                    Err(failure) => (Some(failure), None).into(),
                })
            },
        )?;
        Ok(Self { callback })
    }

    /// Answers. Where the JavaScript side is gone already, nothing happens.
    pub fn send(self, result: std::result::Result<T, Failure>) {
        self.callback
            .call(result, ThreadsafeFunctionCallMode::NonBlocking);
    }

    /// Answers with what `work` returns, or with `INTERNAL` when it panics.
    pub fn send_from(self, work: impl FnOnce() -> std::result::Result<T, Failure>) {
        self.send(catching(work));
    }
}

/// Runs `work`; a panic becomes a failure with the code `INTERNAL`.
pub fn catching<T>(
    work: impl FnOnce() -> std::result::Result<T, Failure>,
) -> std::result::Result<T, Failure> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let said = said.or_else(|| panic.downcast_ref::<String>().cloned());
        let said = said.unwrap_or_else(|| "no message".to_owned());
        Err(Failure::plain(
            "INTERNAL",
            format!("a native thread panicked: {said}"),
        ))
    })
}
