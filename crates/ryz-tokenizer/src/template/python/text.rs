//! Values as text: Python's `str` and `repr`.

use std::borrow::Cow;
use std::fmt::Write;

use minijinja::Value;
use minijinja::value::ValueKind;

use super::characters::is_printable;
use super::collections::{Range, View};

/// `str(value)`.
pub(crate) fn text(value: &Value) -> Cow<'_, str> {
    match value.as_str() {
        Some(text) if value.kind() == ValueKind::String => Cow::Borrowed(text),
        _ => {
            let mut out = String::new();
            if !value.is_undefined() {
                write_repr(&mut out, value);
            }
            Cow::Owned(out)
        }
    }
}

/// Adds `repr(value)`; the caller has looked how deep the value is.
pub(super) fn write_repr(out: &mut String, value: &Value) {
    match value.kind() {
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::Number if !value.is_integer() => {
            let number = f64::try_from(value.clone()).unwrap_or(f64::NAN);
            out.push_str(&float(number));
        }
        ValueKind::String => write_quoted(out, value.as_str().unwrap_or_default()),
        ValueKind::Bytes => write_bytes(out, value.as_bytes().unwrap_or_default()),
        ValueKind::Seq | ValueKind::Iterable => write_sequence(out, value),
        ValueKind::Map => {
            out.push('{');
            for (index, key) in value.try_iter().into_iter().flatten().enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                write_repr(out, &key);
                out.push_str(": ");
                write_repr(out, &value.get_item(&key).unwrap_or_default());
            }
            out.push('}');
        }
        _ => display(out, value),
    }
}

fn display(out: &mut String, value: &Value) {
    // Writing to a string does not fail.
    let _ = write!(out, "{value}");
}

fn write_sequence(out: &mut String, value: &Value) {
    if value.downcast_object_ref::<Range>().is_some() {
        return display(out, value);
    }
    let view = value.downcast_object_ref::<View>().map(View::name);
    let (open, close) = match (view, value.is_tuple()) {
        (Some(None), _) => return out.push_str("<generator object>"),
        (Some(Some(name)), _) => {
            out.push_str(name);
            ("([", "])")
        }
        (None, true) => ("(", if value.len() == Some(1) { ",)" } else { ")" }),
        (None, false) => ("[", "]"),
    };
    out.push_str(open);
    for (index, item) in value.try_iter().into_iter().flatten().enumerate() {
        out.push_str(if index > 0 { ", " } else { "" });
        write_repr(out, &item);
    }
    out.push_str(close);
}

fn write_quoted(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    out.push(quote);
    for char in text.chars() {
        match char {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            char if char == quote => {
                out.push('\\');
                out.push(quote);
            }
            char if is_printable(char) => out.push(char),
            char => {
                let code = u32::from(char);
                let _ = match code {
                    0..=0xff => write!(out, "\\x{code:02x}"),
                    0x100..=0xffff => write!(out, "\\u{code:04x}"),
                    _ => write!(out, "\\U{code:08x}"),
                };
            }
        }
    }
    out.push(quote);
}

fn write_bytes(out: &mut String, bytes: &[u8]) {
    let quote = if bytes.contains(&b'\'') && !bytes.contains(&b'"') {
        '"'
    } else {
        '\''
    };
    out.push('b');
    out.push(quote);
    for &byte in bytes {
        match char::from(byte) {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            char if char == quote || char == '\\' => {
                out.push('\\');
                out.push(char);
            }
            char @ ' '..='~' => out.push(char),
            _ => {
                let _ = write!(out, "\\x{byte:02x}");
            }
        }
    }
    out.push(quote);
}

/// `repr` of a float: the shortest digits, with an exponent below 1e-4 and from 1e16.
pub(crate) fn float(number: f64) -> String {
    let size = number.abs();
    if number.is_nan() {
        "nan".to_owned()
    } else if size.is_infinite() {
        if number > 0.0 { "inf" } else { "-inf" }.to_owned()
    } else if size != 0.0 && !(1e-4..1e16).contains(&size) {
        let text = format!("{number:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = match exponent.strip_prefix('-') {
            Some(exponent) => ('-', exponent),
            None => ('+', exponent),
        };
        format!("{digits}e{sign}{exponent:0>2}")
    } else {
        format!("{number:?}")
    }
}
