//! Calls whose arguments are no JSON: each between marks, or as in a programming language.

use serde_json::json;

use super::align::{Frame, whole_prefix};
use super::calls::{Answers, form, name_end};
use super::probe::{KEYS, NAMES, NUMBER, VALUES, arguments};
use super::{CallBody, CallForm, Parameter};

/// One argument, and what stands around it.
struct Argument<'a> {
    /// Between the name and the key.
    before: &'a str,
    /// Between the key and the value.
    between: &'a str,
    /// Behind the value.
    behind: &'a str,
}

pub(super) fn learn(answers: &Answers<'_>) -> Option<CallForm> {
    let one = answers.of(&[arguments(1)], false)?;
    let (head, one) = one.split_once(NAMES[0])?;
    let one = Argument::of(one, VALUES[0])?;
    // Data that was printed, such as {'key': 'value'}: this template wants arguments as text.
    let quoted = one.between.trim_start_matches(['\'', '"']);
    if quoted.len() < one.between.len() && quoted.trim_start().starts_with(':') {
        return None;
    }
    let none = answers.of(&[arguments(0)], false)?;
    let (_, none) = none.split_once(NAMES[0])?;
    let two = answers.of_two(false);
    match one.before.trim_end().chars().last() {
        Some(open @ ('(' | '{')) => literal(head, open, &one, two.as_deref()),
        _ => tagged(answers, head, &one, none, two.as_deref()),
    }
}

impl<'a> Argument<'a> {
    fn of(text: &'a str, value: &str) -> Option<Self> {
        let (before, rest) = text.split_once(KEYS[0])?;
        let (between, behind) = rest.split_once(value)?;
        Some(Self {
            before,
            between,
            behind,
        })
    }
}

fn literal(head: &str, open: char, one: &Argument<'_>, two: Option<&str>) -> Option<CallForm> {
    let close = if open == '(' { ')' } else { '}' };
    let between = one.between.trim_start();
    let assign = between.chars().next().filter(|char| "=:".contains(*char))?;
    let quote = between[1..].trim();
    let (_, tail) = one.behind.split_once(close)?;
    let middle = two.and_then(|two| {
        let (_, rest) = two.split_once(VALUES[0])?;
        let (_, rest) = rest.split_once(close)?;
        let (middle, _) = rest.split_once(NAMES[1])?;
        Some(middle.to_owned())
    });
    let body = CallBody::Literal {
        open: open.to_string(),
        assign: assign.to_string(),
        close: close.to_string(),
        quote: if quote.is_empty() { "\"" } else { quote }.to_owned(),
    };
    Some(CallForm {
        single: middle.is_none(),
        ..form(Frame::new(head, middle.as_deref(), tail), body)
    })
}

fn tagged(
    answers: &Answers<'_>,
    head: &str,
    one: &Argument<'_>,
    none: &str,
    two: Option<&str>,
) -> Option<CallForm> {
    let text = |text: &str| text.trim().to_owned();
    let after = whole_prefix(none, one.before);
    let open = &one.before[after.len()..];
    let pair = answers.of(&[arguments(2)], false)?;
    let (_, rest) = pair.split_once(VALUES[0])?;
    let (between, _) = rest.split_once(KEYS[1])?;
    let close = whole_prefix(one.behind, between);
    let separator = between[close.len()..].strip_suffix(open)?;
    let number: serde_json::Value = serde_json::from_str(NUMBER).ok()?;
    let number = answers.of(&[json!({ KEYS[0]: number })], false);
    let other = number.as_deref().and_then(|text| {
        let (_, rest) = text.split_once(KEYS[0])?;
        Some(rest.split_once(NUMBER)?.0.to_owned())
    });
    let after_key = one.between.to_owned();
    if after_key.trim().is_empty() || close.trim().is_empty() {
        return None;
    }
    let tail = &one.behind[close.len()..];
    let second = two.and_then(|two| {
        let (_, rest) = two.split_once(VALUES[0])?;
        let (middle, rest) = rest.strip_prefix(close)?.split_once(NAMES[1])?;
        let after = &rest[..rest.find(KEYS[1])?];
        let after = after.strip_suffix(open).unwrap_or(after);
        Some((middle.to_owned(), after.to_owned()))
    });
    let (middle, other_after) = second.clone().unzip();
    let body = CallBody::Tagged {
        name: name_end(after, other_after.as_deref()),
        parameter: Parameter {
            open: text(open),
            after_key_other: other.unwrap_or_else(|| after_key.clone()),
            after_key,
            close: close.trim_end().to_owned(),
            separator: text(separator),
        },
    };
    Some(CallForm {
        single: second.is_none(),
        ..form(Frame::new(head, middle.as_deref(), tail), body)
    })
}
