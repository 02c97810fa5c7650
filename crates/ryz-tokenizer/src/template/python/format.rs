//! `%` and `str.format`.

use minijinja::formatting::{FormatStyle, format};
use minijinja::value::{Kwargs, ValueKind, from_args};
use minijinja::{Error, State, Value};

use super::{invalid, pay, text};

/// Digits of a width or precision.
const MAX_DIGITS: usize = 4;
/// The largest width that comes as an argument.
const MAX_WIDTH: i64 = 9999;

/// `format % value`.
pub(crate) fn percent(
    state: &State<'_, '_>,
    pattern: &str,
    value: &Value,
) -> Result<String, Error> {
    if pattern.contains("%(") {
        if value.kind() != ValueKind::Map {
            return Err(invalid("format requires a mapping"));
        }
        return printf(state, pattern, std::slice::from_ref(value));
    }
    if value.is_tuple() {
        let items: Vec<Value> = value.try_iter()?.collect();
        return printf(state, pattern, &items);
    }
    printf(state, pattern, std::slice::from_ref(value))
}

/// A pattern with `%s`, `%d` and the like, and its arguments.
pub(super) fn printf(
    state: &State<'_, '_>,
    pattern: &str,
    args: &[Value],
) -> Result<String, Error> {
    check_widths(state, pattern, '%')?;
    if pattern.contains('*') {
        let wide = |value: &Value| value.as_i64().is_some_and(|width| width.abs() > MAX_WIDTH);
        if args.iter().any(wide) {
            return Err(invalid("a width is too large"));
        }
    }
    let args: Vec<Value> = if pattern.contains("%(") {
        args.to_vec()
    } else {
        args.iter().map(readable).collect()
    };
    format(FormatStyle::Printf, pattern, &args)
}

/// `pattern.format(…)`.
pub(super) fn braces(
    state: &State<'_, '_>,
    pattern: &str,
    args: &[Value],
) -> Result<String, Error> {
    check_widths(state, pattern, '{')?;
    let (positional, named): (&[Value], Kwargs) = from_args(args)?;
    let values = positional.iter().map(readable);
    let values: Vec<Value> = values.chain([Value::from(named)]).collect();
    format(FormatStyle::StrFormat, pattern, &values)
}

/// `pattern.format_map(mapping)`.
pub(super) fn braces_of(
    state: &State<'_, '_>,
    pattern: &str,
    mapping: &Value,
) -> Result<String, Error> {
    check_widths(state, pattern, '{')?;
    let pairs = mapping.try_iter()?.filter_map(|key| {
        let value = mapping.get_item(&key).ok()?;
        Some((key.as_str()?.to_owned(), readable(&value)))
    });
    let named: Kwargs = pairs.collect();
    format(FormatStyle::StrFormat, pattern, &[Value::from(named)])
}

/// Lists become their text, which minijinja would write in its own way; mappings stay for `{0[key]}`.
fn readable(value: &Value) -> Value {
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => Value::from(text(value)),
        _ => value.clone(),
    }
}

/// Refuses long numbers, and widths that come out of other arguments; pays for those that are there.
fn check_widths(state: &State<'_, '_>, pattern: &str, mark: char) -> Result<(), Error> {
    pay(state, pattern.len())?;
    let mut digits = 0;
    for char in pattern.chars() {
        digits = if char.is_ascii_digit() { digits + 1 } else { 0 };
        if digits > MAX_DIGITS {
            return Err(invalid("a width is too large"));
        }
    }
    let fields = pattern.matches(mark).count();
    if mark == '{'
        && pattern
            .replace("{{", "")
            .split('{')
            .skip(1)
            .any(|rest| !rest.contains('}'))
    {
        return Err(invalid("a field inside a field is not supported"));
    }
    state.consume_fuel(fields as u64 * 4)?;
    if pattern.contains(|char: char| char.is_ascii_digit() || char == '*') {
        pay(state, fields * MAX_WIDTH as usize)?;
    }
    Ok(())
}
