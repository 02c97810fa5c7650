//! What templates know of Python: its values' text, methods, filters and tests, where minijinja's differ.
//!
//! Chat templates are written for Jinja2, whose values are Python's. minijinja has the language; this has the library.

mod arguments;
mod characters;
mod collections;
mod filters;
mod format;
mod globals;
mod strings;
mod text;
mod text_filters;
mod type_tests;

use minijinja::{Environment, Error, ErrorKind, State, Value, value::ValueKind};

pub(super) use arguments::bind;
pub(super) use collections::{attribute, is_dict, is_method};
pub(super) use format::percent;
pub(super) use globals::dict;
pub(super) use text::{float, text};
pub(super) use text_filters::escape;

/// Registers filters, tests and functions.
pub(super) fn install(environment: &mut Environment<'static>) {
    filters::install(environment);
    text_filters::install(environment);
    type_tests::install(environment);
    globals::install(environment);
}

/// A method of Python's on a text, a mapping or a sequence.
pub(super) fn method(
    state: &mut State<'_, '_>,
    value: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        return strings::method(state, text, name, args);
    }
    match value.kind() {
        ValueKind::Map => collections::map_method(state, value, name, args),
        ValueKind::Seq | ValueKind::Iterable => {
            collections::sequence_method(state, value, name, args)
        }
        ValueKind::Number if name == "is_integer" && args.is_empty() => {
            Ok(f64::try_from(value.clone())?.fract().eq(&0.0).into())
        }
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

fn invalid(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

/// Pays for making so many bytes.
fn pay(state: &State<'_, '_>, bytes: usize) -> Result<(), Error> {
    state.consume_fuel(bytes as u64 / 64)
}
