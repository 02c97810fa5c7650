//! Jinja2's filters of text that minijinja lacks.

use std::fmt::Write;

use minijinja::value::{Rest, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, Value};

use super::arguments::{bind, flag, integer, named, optional_text, required, width};
use super::characters::{WORD, is_space};
use super::strings::{split_lines, strip};
use super::{pay, text};

/// The longest indentation.
const MAX_INDENT: usize = 1 << 12;

pub(super) fn install(environment: &mut Environment<'static>) {
    macro_rules! filter {
        ($name:literal, $function:expr) => {
            environment.add_filter(
                $name,
                |state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>| {
                    let args = args.into_values();
                    let (value, rest) = args
                        .split_first()
                        .ok_or_else(|| Error::from(ErrorKind::MissingArgument))?;
                    let this = text(value);
                    pay(state, this.len())?;
                    let function: fn(&State<'_, '_>, &str, &[Value]) -> Result<String, Error> =
                        $function;
                    function(state, &this, rest)
                },
            );
        };
    }
    filter!("center", |state, this, args| {
        let [size] = bind(["width"], args)?;
        let missing = width(&size, 80)?.saturating_sub(this.chars().count());
        pay(state, missing)?;
        let left = missing / 2 + (missing & (missing + this.chars().count()) & 1);
        Ok([&" ".repeat(left), this, &" ".repeat(missing - left)].concat())
    });
    filter!("filesizeformat", |_, this, args| {
        let [binary] = bind(["binary"], args)?;
        file_size(this, flag(&binary, false))
    });
    filter!("indent", indent);
    filter!("replace", |state, this, args| {
        let [old, new, count] = bind(["old", "new", "count"], args)?;
        let (old, new) = (required(old)?, required(new)?);
        let count = integer(&count)?.unwrap_or(-1);
        super::strings::replace(state, this, &text(&old), &text(&new), count)
    });
    filter!("striptags", |_, this, args| {
        bind([], args)?;
        Ok(strip_tags(this))
    });
    filter!("trim", |_, this, args| {
        let [chars] = bind(["chars"], args)?;
        Ok(strip(this, "strip", optional_text(&chars)?).to_owned())
    });
    filter!("truncate", truncate);
    filter!("wordwrap", super::text_filters::word_wrap);
    environment.add_filter("wordcount", |value: &Value| WORD.count(&text(value)));
    for name in ["escape", "e", "forceescape"] {
        environment.add_filter(name, escape);
    }
    environment.add_filter("urlencode", url_encode);
    environment.add_filter("xmlattr", xml_attributes);
    environment.add_filter(
        "groupby",
        |state: &State<'_, '_>, value: Value, args: Rest<ValueOrKwargs>| {
            let args = args.into_values();
            let args = named(["attribute", "default", "case_sensitive"], &args)?;
            state.consume_fuel(value.len().unwrap_or(0) as u64 * 8)?;
            minijinja::filters::groupby(value, None, args)
        },
    );
}

fn indent(state: &State<'_, '_>, this: &str, args: &[Value]) -> Result<String, Error> {
    let [size, first, blank] = bind(["width", "first", "blank"], args)?;
    let (first, blank) = (flag(&first, false), flag(&blank, false));
    let indentation = match size.as_ref().and_then(Value::as_str) {
        Some(text) => text.to_owned(),
        None => " ".repeat(width(&size, 4)?.min(MAX_INDENT)),
    };
    // A text of no lines, and one that ends with a line break, have an empty last line.
    let this = format!("{this}\n");
    let lines = split_lines(&this, false);
    pay(state, lines.len().saturating_mul(indentation.len() + 1))?;
    let mut out = String::new();
    for (index, line) in lines.iter().enumerate() {
        out.push_str(if index > 0 { "\n" } else { "" });
        let wanted = if index == 0 {
            first
        } else {
            blank || !line.is_empty()
        };
        out.push_str(if wanted { &indentation } else { "" });
        out.push_str(line);
    }
    Ok(out)
}

fn truncate(_: &State<'_, '_>, this: &str, args: &[Value]) -> Result<String, Error> {
    let [length, kill, end, leeway] = bind(["length", "killwords", "end", "leeway"], args)?;
    let length = width(&length, 255)?;
    let end = end.unwrap_or_else(|| "...".into());
    let end = text(&end);
    let leeway = width(&leeway, 5)?;
    if this.chars().count() <= length + leeway {
        return Ok(this.to_owned());
    }
    let kept = length.saturating_sub(end.chars().count());
    let cut: String = this.chars().take(kept).collect();
    let cut = match cut.rfind(' ') {
        Some(at) if !flag(&kill, false) => &cut[..at],
        _ => &cut,
    };
    Ok([cut, &end].concat())
}

pub(super) fn word_wrap(
    state: &State<'_, '_>,
    this: &str,
    args: &[Value],
) -> Result<String, Error> {
    let names = [
        "width",
        "break_long_words",
        "wrapstring",
        "break_on_hyphens",
    ];
    let [size, long, wrap, hyphens] = bind(names, args)?;
    let size = width(&size, 79)?.max(1);
    let (long, hyphens) = (flag(&long, true), flag(&hyphens, true));
    let wrap = optional_text(&wrap)?.unwrap_or("\n");
    let lines = split_lines(this, false).into_iter();
    let wrapped = lines.map(|line| wrap_line(line, size, long, hyphens).join(wrap));
    let wrapped: Vec<String> = wrapped.collect();
    let joined = wrapped.join(wrap);
    pay(state, joined.len())?;
    Ok(joined)
}

/// Cuts a line into runs of white space and words; words end behind a hyphen between letters.
fn chunks(line: &str, hyphens: bool) -> Vec<Vec<char>> {
    let chars: Vec<char> = line.chars().collect();
    let mut chunks: Vec<Vec<char>> = Vec::new();
    for (at, &char) in chars.iter().enumerate() {
        let before = |back: usize| at.checked_sub(back).map(|at| chars[at]);
        let letter = |char: Option<char>| char.is_some_and(char::is_alphabetic);
        let broken = hyphens
            && before(1) == Some('-')
            && letter(before(2))
            && (letter(before(3)) || before(3).is_none())
            && char.is_alphabetic();
        let begins = match before(1) {
            None => true,
            Some(last) => is_space(last) != is_space(char) || broken,
        };
        if begins {
            chunks.push(Vec::new());
        }
        if let Some(chunk) = chunks.last_mut() {
            chunk.push(char);
        }
    }
    chunks
}

/// Lines of at most `size` characters.
fn wrap_line(line: &str, size: usize, long: bool, hyphens: bool) -> Vec<String> {
    let mut left: Vec<Vec<char>> = chunks(line, hyphens);
    left.reverse();
    let blank = |chunk: &[char]| chunk.iter().all(|&char| is_space(char));
    let mut lines: Vec<String> = Vec::new();
    while !left.is_empty() {
        let mut current: Vec<Vec<char>> = Vec::new();
        let mut length = 0;
        if !lines.is_empty() && left.last().is_some_and(|chunk| blank(chunk)) {
            left.pop();
        }
        while let Some(chunk) = left.pop() {
            if length + chunk.len() > size {
                left.push(chunk);
                break;
            }
            length += chunk.len();
            current.push(chunk);
        }
        if let Some(mut chunk) = left.pop() {
            if chunk.len() <= size {
                left.push(chunk);
            } else if long {
                let mut room = size - length;
                if hyphens && chunk.len() > room {
                    let hyphen = chunk[..room].iter().rposition(|&char| char == '-');
                    let inner = hyphen.filter(|&at| chunk[..at].iter().any(|&char| char != '-'));
                    room = inner.map_or(room, |at| if at > 0 { at + 1 } else { room });
                }
                let rest = chunk.split_off(room);
                current.push(chunk);
                left.push(rest);
            } else if current.is_empty() {
                current.push(chunk);
            } else {
                left.push(chunk);
            }
        }
        if current.last().is_some_and(|chunk| blank(chunk)) {
            current.pop();
        }
        if !current.is_empty() {
            lines.push(current.iter().flatten().collect());
        }
    }
    lines
}

/// Text without HTML's tags and comments, with single spaces and without entities.
fn strip_tags(this: &str) -> String {
    let mut plain = String::with_capacity(this.len());
    let mut rest = this;
    while let Some(start) = rest.find("<!--") {
        let Some(end) = rest[start..].find("-->") else {
            break;
        };
        plain.push_str(&rest[..start]);
        rest = &rest[start + end + 3..];
    }
    plain.push_str(rest);
    let mut out = String::with_capacity(plain.len());
    let mut rest = plain.as_str();
    while let Some(start) = rest.find('<') {
        let Some(end) = rest[start..].find('>') else {
            break;
        };
        out.push_str(&rest[..start]);
        rest = &rest[start + end + 1..];
    }
    out.push_str(rest);
    let words: Vec<&str> = out
        .split(is_space)
        .filter(|word| !word.is_empty())
        .collect();
    minijinja_contrib::filters::striptags(words.join(" ").replace('<', "&lt;"))
}

fn escape_text(out: &mut String, this: &str) {
    for char in this.chars() {
        match char {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            char => out.push(char),
        }
    }
}

/// A text as HTML has it, marked as safe; one that is marked already stays as it is.
pub(crate) fn escape(value: &Value) -> Value {
    if value.is_safe() {
        return value.clone();
    }
    let mut out = String::new();
    escape_text(&mut out, &text(value));
    Value::from_safe_string(out)
}

fn percent(out: &mut String, this: &str, safe: &[u8], space: &str) {
    for &byte in this.as_bytes() {
        match byte {
            b' ' => out.push_str(space),
            _ if byte.is_ascii_alphanumeric()
                || b"_.-~".contains(&byte)
                || safe.contains(&byte) =>
            {
                out.push(char::from(byte));
            }
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
}

fn url_encode(value: &Value) -> Result<String, Error> {
    let mut out = String::new();
    let mut pair = |key: &Value, value: &Value| {
        out.push_str(if out.is_empty() { "" } else { "&" });
        percent(&mut out, &text(key), b"", "+");
        out.push('=');
        percent(&mut out, &text(value), b"", "+");
    };
    match value.kind() {
        ValueKind::Map => {
            for key in value.try_iter()? {
                pair(&key, &value.get_item(&key)?);
            }
        }
        ValueKind::Seq | ValueKind::Iterable => {
            for item in value.try_iter()? {
                pair(&item.get_item_by_index(0)?, &item.get_item_by_index(1)?);
            }
        }
        _ => percent(&mut out, &text(value), b"/", "%20"),
    }
    Ok(out)
}

fn xml_attributes(value: &Value, autospace: Option<bool>) -> Result<String, Error> {
    let mut out = String::new();
    for key in value.try_iter()? {
        let item = value.get_item(&key)?;
        if item.is_none() || item.is_undefined() {
            continue;
        }
        let key = text(&key);
        if key.contains(|char: char| is_space(char) || matches!(char, '/' | '>' | '=')) {
            return Err(super::invalid(
                "xmlattr: a character is not allowed in a name",
            ));
        }
        out.push_str(if out.is_empty() { "" } else { " " });
        escape_text(&mut out, &key);
        out.push_str("=\"");
        escape_text(&mut out, &text(&item));
        out.push('"');
    }
    if autospace.unwrap_or(true) && !out.is_empty() {
        out.insert(0, ' ');
    }
    Ok(out)
}

fn file_size(this: &str, binary: bool) -> Result<String, Error> {
    const DECIMAL: [&str; 8] = ["kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"];
    const BINARY: [&str; 8] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"];
    let bytes: f64 = this
        .trim()
        .parse()
        .map_err(|_| super::invalid("filesizeformat: expected a number"))?;
    let (base, names) = if binary {
        (1024.0, BINARY)
    } else {
        (1000.0, DECIMAL)
    };
    if bytes == 1.0 {
        return Ok("1 Byte".to_owned());
    }
    if bytes < base {
        return Ok(format!("{} Bytes", bytes.trunc()));
    }
    let mut unit = base;
    for name in names {
        unit *= base;
        if bytes < unit || name.starts_with('Y') {
            return Ok(format!("{:.1} {name}", base * bytes / unit));
        }
    }
    Ok(String::new())
}
