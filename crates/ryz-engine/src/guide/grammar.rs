//! Bounds of a grammar's text, before it is compiled: its rules, its brackets, and the schemas in it.
//!
//! The compiler recurses through rules and brackets; their numbers bound how deep. Literals and comments are skipped.

use serde_json::Value;

use super::constraint::SchemaSettings;
use super::schema::{self, MAX_PATTERN_BYTES, limit};
use crate::error::EngineError;

/// Most rules and terminals.
const MAX_RULES: usize = 2000;
/// Most brackets, of any kind.
const MAX_BRACKETS: usize = 8000;
/// Most signs of conjunction: automata multiply.
const MAX_CONJUNCTIONS: usize = 12;
/// Longer literals are chosen token by token.
const LONG: usize = 200;
/// Most signs of negation.
const MAX_NEGATIONS: usize = 500;

/// A grammar with its JSON schemas written out as grammars. Refuses one that is too large, or that has a schema that is.
pub(super) fn expanded(option: &str, text: &str) -> Result<String, EngineError> {
    limit(option, "bytes", text.len(), schema::MAX_BYTES)?;
    let (mut rules, mut brackets, mut negations, mut conjunctions) = (0, 0, 0, 0);
    let mut long = schema::repeats_much(text);
    let mut result = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' => {
                let length = literal(rest, '"');
                long |= length > LONG;
                length
            }
            '&' => {
                conjunctions += 1;
                1
            }
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' => {
                let length = literal(rest, '/');
                limit(
                    option,
                    "bytes of a regular expression",
                    length,
                    MAX_PATTERN_BYTES,
                )?;
                length
            }
            '%' if rest.starts_with("%json") => {
                let (value, length) = json(option, &rest[5..])?;
                result += &schema::nested(option, &value, SchemaSettings::default())?;
                rest = &rest[5 + length..];
                continue;
            }
            ':' => {
                rules += 1;
                1
            }
            '(' | '[' | '{' => {
                brackets += 1;
                1
            }
            '~' => {
                negations += 1;
                1
            }
            other => other.len_utf8(),
        };
        result += &rest[..length];
        rest = &rest[length..];
    }
    limit(option, "rules", rules, MAX_RULES)?;
    limit(option, "brackets", brackets, MAX_BRACKETS)?;
    limit(option, "negations", negations, MAX_NEGATIONS)?;
    limit(
        option,
        "signs of conjunction",
        conjunctions,
        MAX_CONJUNCTIONS,
    )?;
    if long {
        // What is forced is not looked for from each token to its end.
        result += "\n%llguidance { \"no_forcing\": true }\n";
    }
    Ok(result)
}

/// The length of a literal up to its closing sign. One that is never closed ends with its line, as nothing closes it there.
fn literal(text: &str, close: char) -> usize {
    let mut escaped = false;
    for (at, char) in text.char_indices().skip(1) {
        match char {
            '\n' => return at,
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            char if char == close => return at + char.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

/// The value at the beginning of a text, and how much of it that is.
fn json(option: &str, text: &str) -> Result<(Value, usize), EngineError> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    match values.next() {
        Some(Ok(value)) => Ok((value, values.byte_offset())),
        Some(Err(error)) if error.to_string().starts_with("recursion limit") => {
            Err(EngineError::GrammarLimit {
                option: option.to_owned(),
                message: "has a %json that is nested more than 127 levels deep".to_owned(),
            })
        }
        Some(Err(error)) => Err(EngineError::InvalidGrammar {
            option: option.to_owned(),
            message: format!("%json: {error}"),
        }),
        None => Err(EngineError::InvalidGrammar {
            option: option.to_owned(),
            message: "%json without a schema".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_and_brackets_are_counted_outside_of_literals() {
        let rules = "a: b\n".repeat(MAX_RULES + 1);
        assert_eq!(expanded("g", &rules).unwrap_err().code(), "GRAMMAR_LIMIT");
        let brackets = format!("start: {}", "(".repeat(MAX_BRACKETS + 1));
        assert_eq!(
            expanded("g", &brackets).unwrap_err().code(),
            "GRAMMAR_LIMIT"
        );
        let negations = format!("A: {}/a/", "~".repeat(MAX_NEGATIONS + 1));
        assert_eq!(
            expanded("g", &negations).unwrap_err().code(),
            "GRAMMAR_LIMIT"
        );
        let literals = format!(
            r#"start: "{}" /{}/ // {}"#,
            "(".repeat(9000),
            "\\(".repeat(1500),
            "(".repeat(9000)
        );
        assert!(expanded("g", &literals).is_ok());
    }

    #[test]
    fn an_open_literal_hides_its_line_only() {
        let text = format!("start: \"(\nA: {}", "(".repeat(MAX_BRACKETS + 1));
        assert_eq!(expanded("g", &text).unwrap_err().code(), "GRAMMAR_LIMIT");
    }

    #[test]
    fn schemas_in_it_are_checked_and_broken_ones_named() {
        let deep = format!("start: %json {}1{}", "[".repeat(200), "]".repeat(200));
        assert_eq!(expanded("g", &deep).unwrap_err().code(), "GRAMMAR_LIMIT");
        assert_eq!(
            expanded("g", "start: %json {").unwrap_err().code(),
            "INVALID_ARGUMENT"
        );
        assert!(expanded("g", r#"start: %json { "type": "string" } "x""#).is_ok());
    }
}
