//! JSON schemas as grammars.
//!
//! ```text
//! JSON ──► build: keywords, references ──► Node: what is allowed, kind by kind ──► emit: rules and terminals (Lark)
//! ```
//!
//! The grammar is our own, not llguidance's: so every step is counted, a refusal knows its place, names do not repeat where
//! they are counted, and numbers, patterns and white space are what JSON schema says they are.

mod build;
mod emit;
mod formats;
mod node;
mod number;
mod pattern;
pub(super) mod pointer;
mod quote;

use serde_json::Value;

use self::build::Builder;
use self::emit::Emitter;
pub(super) use self::emit::TerminalBody;
use super::constraint::{SchemaSettings, WhiteSpace};
use crate::error::EngineError;

/// Most bytes of a schema, a grammar or a list of tools.
pub(super) const MAX_BYTES: usize = 256 << 10;
/// Most levels of JSON from a schema's root through all that it refers to.
const MAX_LEVELS: usize = 4096;
/// Most values in a schema: objects, lists, strings, numbers.
const MAX_VALUES: usize = 50_000;
/// Most bytes of one regular expression.
pub(super) const MAX_PATTERN_BYTES: usize = 4 << 10;

/// Reads a schema's text. JSON is read up to 128 levels deep.
pub(super) fn parse(option: &str, text: &str) -> Result<Value, EngineError> {
    limit(option, "bytes", text.len(), MAX_BYTES)?;
    serde_json::from_str(text).map_err(|error| {
        let message = error.to_string();
        if message.starts_with("recursion limit") {
            return EngineError::GrammarLimit {
                option: option.to_owned(),
                message: "is nested more than 127 levels deep".to_owned(),
            };
        }
        EngineError::InvalidGrammar {
            option: option.to_owned(),
            message: format!("is not JSON: {message}"),
        }
    })
}

/// The grammar of the JSON that a schema describes; it begins with the rule `start`. What is wrong, too large or cannot be
/// enforced is refused with its place behind `option`.
pub(super) fn grammar(
    option: &str,
    root: &Value,
    settings: SchemaSettings,
) -> Result<String, EngineError> {
    check_size(option, root)?;
    let mut settings = settings;
    if let Some(own) = root.get("x-guidance") {
        settings = with_own(option, own, settings)?;
    }
    let builder = Builder::new(option, root, settings.strict);
    Emitter::new(builder, settings.white_space).grammar()
}

/// What a text that a schema describes must be, where it is written as it is, without quotation marks; none where it may be
/// anything. What cannot be enforced is refused with its place behind `option`.
pub(super) fn text(
    option: &str,
    root: &Value,
    settings: SchemaSettings,
) -> Result<Option<TerminalBody>, EngineError> {
    let builder = Builder::new(option, root, settings.strict);
    Emitter::new(builder, settings.white_space).text()
}

/// The same inside of another grammar, in place of a rule.
pub(super) fn nested(
    option: &str,
    root: &Value,
    settings: SchemaSettings,
) -> Result<String, EngineError> {
    Ok(format!("%lark {{\n{}}}", grammar(option, root, settings)?))
}

/// Whether a grammar may force a long text by counting, so that what is forced had better not be looked for.
pub(super) fn repeats_much(grammar: &str) -> bool {
    emit::repeats_much(grammar)
}

/// What a schema itself says of how it is to be taken.
fn with_own(
    option: &str,
    own: &Value,
    settings: SchemaSettings,
) -> Result<SchemaSettings, EngineError> {
    let mut settings = settings;
    for (key, value) in own.as_object().into_iter().flatten() {
        match (key.as_str(), value) {
            ("whitespace_flexible", Value::Bool(true)) => {
                settings.white_space = WhiteSpace::Flexible;
            }
            ("whitespace_flexible", Value::Bool(false)) => {
                settings.white_space = WhiteSpace::Compact;
            }
            ("lenient", Value::Bool(lenient)) => settings.strict &= !lenient,
            _ => {
                return Err(EngineError::InvalidGrammar {
                    option: format!("{option}/x-guidance/{}", pointer::escape(key)),
                    message: "is not known; whitespace_flexible and lenient are".to_owned(),
                });
            }
        }
    }
    Ok(settings)
}

/// Refuses what is too large or too deep.
fn check_size(option: &str, root: &Value) -> Result<(), EngineError> {
    let anchors = pointer::anchors(root);
    let mut levels = height(root);
    let mut values = 0;
    let mut seen = std::collections::HashSet::new();
    let mut rest = vec![root];
    while let Some(value) = rest.pop() {
        values += 1;
        match value {
            Value::Array(items) => rest.extend(items),
            Value::Object(fields) => rest.extend(fields.values()),
            _ => {}
        }
        let reference = value.get("$ref").and_then(Value::as_str);
        if let Some(reference) = reference
            && seen.insert(reference)
            && seen.len() <= MAX_LEVELS
            && let Some(target) = pointer::of_reference(root, &anchors, reference)
            && let Some(target) = pointer::at(root, &target)
        {
            levels += height(target);
        }
    }
    limit(option, "values", values, MAX_VALUES)?;
    limit(option, "references", seen.len(), MAX_LEVELS)?;
    limit(option, "levels with references", levels, MAX_LEVELS)
}

/// Refuses a number that is too large.
pub(super) fn limit(option: &str, what: &str, got: usize, limit: usize) -> Result<(), EngineError> {
    if got <= limit {
        return Ok(());
    }
    Err(EngineError::GrammarLimit {
        option: option.to_owned(),
        message: format!("expected at most {limit} {what}, got {got}"),
    })
}

/// JSON that was read is at most 128 levels deep.
fn height(value: &Value) -> usize {
    let inner: usize = match value {
        Value::Array(items) => items.iter().map(height).max().unwrap_or(0),
        Value::Object(fields) => fields.values().map(height).max().unwrap_or(0),
        _ => 0,
    };
    inner + 1
}

#[cfg(test)]
mod tests;
