//! The filter `tojson` as Hugging Face's templates have it: Python's `json.dumps` with `ensure_ascii=False`.

use std::fmt::Write;

use minijinja::{
    Error, ErrorKind, State, Value,
    value::{Rest, ValueKind, ValueOrKwargs},
};

use super::python::{bind, float};

/// How deeply a value may nest; a namespace can contain itself.
const MAX_DEPTH: usize = 64;

/// Writes a value as JSON: `, ` and `: ` between items, or lines with `indent`.
///
/// The arguments are those of transformers' `tojson`, in its order.
pub(super) fn tojson(
    state: &State,
    value: &Value,
    args: Rest<ValueOrKwargs>,
) -> Result<String, Error> {
    let names = ["ensure_ascii", "indent", "separators", "sort_keys"];
    let [ascii, indent, separators, sort_keys] = bind(names, &args.into_values())?;
    let indent = match indent {
        None => None,
        Some(indent) if indent.is_none() => None,
        Some(indent) => match (indent.as_str(), indent.as_usize()) {
            (Some(text), _) if text.len() <= 16 => Some(text.to_owned()),
            (_, Some(spaces)) if spaces <= 16 => Some(" ".repeat(spaces)),
            _ => return Err(invalid("indent: expected 0 to 16 spaces")),
        },
    };
    let mut separators_used = (
        if indent.is_some() { "," } else { ", " }.to_owned(),
        ": ".to_owned(),
    );
    if let Some(pair) = separators.filter(|pair| !pair.is_none()) {
        let texts: Vec<String> = pair
            .try_iter()?
            .filter_map(|text| Some(text.as_str()?.to_owned()))
            .collect();
        match <[String; 2]>::try_from(texts) {
            Ok([item, key]) => separators_used = (item, key),
            Err(_) => return Err(invalid("separators: expected two texts")),
        }
    }
    let mut writer = Writer {
        state,
        out: String::new(),
        paid: 0,
        indent,
        separators: separators_used,
        sort_keys: sort_keys.is_some_and(|sort| sort.is_true()),
        ascii: ascii.is_some_and(|ascii| ascii.is_true()),
    };
    writer.value(value, 0)?;
    Ok(writer.out)
}

fn invalid(message: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

struct Writer<'a> {
    state: &'a State<'a, 'a>,
    out: String,
    /// Bytes of `out` that fuel was paid for.
    paid: usize,
    indent: Option<String>,
    separators: (String, String),
    sort_keys: bool,
    ascii: bool,
}

impl Writer<'_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(invalid("tojson: the value is nested too deeply"));
        }
        self.state
            .consume_fuel(1 + (self.out.len() - self.paid) as u64 / 8)?;
        self.paid = self.out.len();
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self
                .out
                .push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number if value.is_integer() => self.push(format_args!("{value}")),
            ValueKind::Number => self.float(value.clone().try_into()?),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => self.list(value, depth)?,
            ValueKind::Map => self.map(value, depth)?,
            kind => {
                let message = format!("tojson: {kind} has no form in JSON");
                return Err(Error::new(ErrorKind::InvalidOperation, message));
            }
        }
        Ok(())
    }

    fn list(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.out.push('[');
        let mut empty = true;
        for item in value.try_iter()? {
            self.separate(&mut empty, depth + 1);
            self.value(&item, depth + 1)?;
        }
        self.close(empty, depth, ']');
        Ok(())
    }

    fn map(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.out.push('{');
        let mut keys: Vec<Value> = value.try_iter()?.collect();
        if self.sort_keys {
            keys.sort();
        }
        let mut empty = true;
        for key in keys {
            self.separate(&mut empty, depth + 1);
            match key.as_str() {
                Some(text) => self.string(text),
                // Python writes the keys true, none and numbers as text.
                None => {
                    self.out.push('"');
                    self.value(&key, MAX_DEPTH)?;
                    self.out.push('"');
                }
            }
            self.out.push_str(&self.separators.1);
            self.value(&value.get_item(&key)?, depth + 1)?;
        }
        self.close(empty, depth, '}');
        Ok(())
    }

    fn separate(&mut self, empty: &mut bool, depth: usize) {
        if !std::mem::take(empty) {
            self.out.push_str(&self.separators.0);
        }
        self.line(depth);
    }

    fn close(&mut self, empty: bool, depth: usize, bracket: char) {
        if !empty {
            self.line(depth);
        }
        self.out.push(bracket);
    }

    fn line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            (0..depth).for_each(|_| self.out.push_str(indent));
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for char in text.chars() {
            match char {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                // A mark that cuts a control token's text is no text, and must be found again.
                '\u{fdd0}'..='\u{fdef}' => self.out.push(char),
                char if char < ' ' || self.ascii && char > '~' => {
                    for &unit in char.encode_utf16(&mut [0; 2]).iter() {
                        self.push(format_args!("\\u{unit:04x}"));
                    }
                }
                char => self.out.push(char),
            }
        }
        self.out.push('"');
    }

    fn float(&mut self, number: f64) {
        match number {
            f64::INFINITY => self.out.push_str("Infinity"),
            f64::NEG_INFINITY => self.out.push_str("-Infinity"),
            number if number.is_nan() => self.out.push_str("NaN"),
            number => self.out.push_str(&float(number)),
        }
    }

    fn push(&mut self, arguments: std::fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = self.out.write_fmt(arguments);
    }
}
