//! The methods of Python's `str`.

use minijinja::value::{Tuple, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

use super::arguments::{bind, flag, integer, optional_text, required, text, width};
use super::characters::{
    ALPHABETIC, ALPHANUMERIC, DECIMAL, DIGIT, NUMERIC, is_cased, is_line_break, is_printable,
    is_space, is_titlecase,
};
use super::{format, invalid, pay};

/// Names that are methods of texts, and so are found before anything else as attributes.
pub(super) const NAMES: [&str; 46] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "encode",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "translate",
    "upper",
    "zfill",
];

/// Calls a method of a text.
pub(super) fn method(
    state: &mut State<'_, '_>,
    this: &str,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let this: &str = this;
    match name {
        "upper" | "lower" | "swapcase" | "title" | "capitalize" | "casefold" => {
            bind([], args)?;
            Ok(change_case(this, name).into())
        }
        "strip" | "lstrip" | "rstrip" => {
            let [chars] = bind(["chars"], args)?;
            Ok(strip(this, name, optional_text(&chars)?).into())
        }
        "split" | "rsplit" => {
            let [separator, most] = bind(["sep", "maxsplit"], args)?;
            let most = integer(&most)?.unwrap_or(-1);
            let most = usize::try_from(most).unwrap_or(usize::MAX);
            let parts = match (optional_text(&separator)?, name) {
                (Some(""), _) => return Err(invalid("empty separator")),
                (Some(separator), "split") => split(this, separator, most),
                (Some(separator), _) => split_back(this, separator, most),
                (None, "split") => split_space(this, most),
                (None, _) => split_space_back(this, most),
            };
            pay(state, parts.len() * 24)?;
            Ok(parts.into())
        }
        "splitlines" => {
            let [keep] = bind(["keepends"], args)?;
            let lines = split_lines(this, flag(&keep, false));
            pay(state, lines.len() * 24)?;
            Ok(lines
                .into_iter()
                .map(Value::from)
                .collect::<Vec<_>>()
                .into())
        }
        "partition" | "rpartition" => {
            let [separator] = bind(["sep"], args)?;
            partition(this, text(&separator)?, name == "rpartition")
        }
        "removeprefix" => {
            let [prefix] = bind(["prefix"], args)?;
            Ok(this.strip_prefix(text(&prefix)?).unwrap_or(this).into())
        }
        "removesuffix" => {
            let [suffix] = bind(["suffix"], args)?;
            Ok(this.strip_suffix(text(&suffix)?).unwrap_or(this).into())
        }
        "find" | "rfind" | "index" | "rindex" => {
            let [wanted, start, end] = bind(["sub", "start", "end"], args)?;
            find(this, text(&wanted)?, &start, &end, name)
        }
        "count" => {
            let [wanted, start, end] = bind(["sub", "start", "end"], args)?;
            let wanted = text(&wanted)?;
            let count = within(this, &start, &end)?.map(|(_, part)| match wanted {
                "" => part.chars().count() + 1,
                wanted => part.matches(wanted).count(),
            });
            Ok(count.unwrap_or(0).into())
        }
        "startswith" | "endswith" => {
            let [wanted, start, end] = bind(["affix", "start", "end"], args)?;
            affix(this, &required(wanted)?, &start, &end, name)
        }
        "replace" => {
            let [old, new, count] = bind(["old", "new", "count"], args)?;
            let count = integer(&count)?.unwrap_or(-1);
            replace(state, this, text(&old)?, text(&new)?, count).map(Value::from)
        }
        "join" => {
            let [items] = bind(["iterable"], args)?;
            join(state, this, &required(items)?)
        }
        "center" | "ljust" | "rjust" | "zfill" => pad(state, this, name, args),
        "expandtabs" => {
            let [size] = bind(["tabsize"], args)?;
            expand_tabs(state, this, width(&size, 8)?)
        }
        "format" => format::braces(state, this, args).map(Value::from),
        "format_map" => {
            let [mapping] = bind(["mapping"], args)?;
            format::braces_of(state, this, &required(mapping)?).map(Value::from)
        }
        "encode" => {
            let [encoding, _] = bind(["encoding", "errors"], args)?;
            match optional_text(&encoding)?
                .unwrap_or("utf-8")
                .to_lowercase()
                .as_str()
            {
                "utf-8" | "utf8" => Ok(Value::from_bytes(this.into())),
                "ascii" if this.is_ascii() => Ok(Value::from_bytes(this.into())),
                other => Err(invalid(format!("cannot encode as {other}"))),
            }
        }
        "translate" => {
            let [table] = bind(["table"], args)?;
            translate(state, this, &required(table)?)
        }
        _ => {
            let answer = predicate(this, name).ok_or_else(|| Error::from(ErrorKind::UnknownMethod));
            let answer = answer?;
            bind([], args)?;
            Ok(answer.into())
        }
    }
}

fn predicate(this: &str, name: &str) -> Option<bool> {
    let all = |class: fn(char) -> bool| !this.is_empty() && this.chars().all(class);
    let cased = || this.chars().any(is_cased);
    Some(match name {
        "isalpha" => ALPHABETIC.matches(this),
        "isalnum" => ALPHANUMERIC.matches(this) || NUMERIC.matches(this),
        "isascii" => this.is_ascii(),
        "isdecimal" => DECIMAL.matches(this),
        "isdigit" => DIGIT.matches(this),
        "isnumeric" => NUMERIC.matches(this),
        "isspace" => all(is_space),
        "isprintable" => this.chars().all(is_printable),
        "islower" => cased() && !this.chars().any(|c| c.is_uppercase() || is_titlecase(c)),
        "isupper" => cased() && !this.chars().any(|c| c.is_lowercase() || is_titlecase(c)),
        "istitle" => is_title(this),
        "isidentifier" => {
            let start = |c: char| c == '_' || c.is_alphabetic();
            this.starts_with(start) && this.chars().all(|c| c == '_' || c.is_alphanumeric())
        }
        _ => return None,
    })
}

fn is_title(this: &str) -> bool {
    let (mut found, mut after_cased) = (false, false);
    for char in this.chars() {
        let upper = char.is_uppercase() || is_titlecase(char);
        if (upper && after_cased) || (char.is_lowercase() && !after_cased) {
            return false;
        }
        after_cased = is_cased(char);
        found |= after_cased;
    }
    found
}

fn change_case(this: &str, name: &str) -> String {
    match name {
        "upper" => this.to_uppercase(),
        "lower" => this.to_lowercase(),
        "casefold" => {
            let upper = this.chars().flat_map(char::to_uppercase);
            upper.flat_map(char::to_lowercase).collect()
        }
        "swapcase" => {
            let mut out = String::with_capacity(this.len());
            for char in this.chars() {
                if char.is_uppercase() {
                    out.extend(char.to_lowercase());
                } else {
                    out.extend(char.to_uppercase());
                }
            }
            out
        }
        "capitalize" => {
            let first = this.chars().next();
            let rest = first.map_or("", |first| &this[first.len_utf8()..]);
            first.map_or_else(String::new, title_char) + &rest.to_lowercase()
        }
        _ => {
            let mut out = String::with_capacity(this.len());
            let mut after_cased = false;
            for char in this.chars() {
                if after_cased {
                    out.extend(char.to_lowercase());
                } else {
                    out += &title_char(char);
                }
                after_cased = is_cased(char);
            }
            out
        }
    }
}

/// A character at the start of a title: the first of its capitals, and the rest of them small.
fn title_char(char: char) -> String {
    match char {
        '\u{1c4}'..='\u{1c6}' => return '\u{1c5}'.into(),
        '\u{1c7}'..='\u{1c9}' => return '\u{1c8}'.into(),
        '\u{1ca}'..='\u{1cc}' => return '\u{1cb}'.into(),
        '\u{1f1}'..='\u{1f3}' => return '\u{1f2}'.into(),
        // Georgian has capitals for whole words only.
        '\u{10d0}'..='\u{10ff}' => return char.into(),
        _ => {}
    }
    let mut upper = char.to_uppercase();
    let mut out: String = upper.next().into_iter().collect();
    let small = out.chars().all(is_cased);
    for char in upper {
        if small {
            out.extend(char.to_lowercase());
        } else {
            out.push(char);
        }
    }
    out
}

pub(super) fn strip<'a>(this: &'a str, name: &str, chars: Option<&str>) -> &'a str {
    let stripped = |char: char| match chars {
        Some(chars) => chars.contains(char),
        None => is_space(char),
    };
    let start = if name == "rstrip" {
        this
    } else {
        this.trim_start_matches(stripped)
    };
    if name == "lstrip" {
        start
    } else {
        start.trim_end_matches(stripped)
    }
}

fn split(this: &str, separator: &str, most: usize) -> Vec<Value> {
    let parts = this.splitn(most.saturating_add(1), separator);
    parts.map(Value::from).collect()
}

fn split_back(this: &str, separator: &str, most: usize) -> Vec<Value> {
    let parts = this.rsplitn(most.saturating_add(1), separator);
    let mut parts: Vec<Value> = parts.map(Value::from).collect();
    parts.reverse();
    parts
}

fn split_space(this: &str, most: usize) -> Vec<Value> {
    let mut parts = Vec::new();
    let mut rest = this.trim_start_matches(is_space);
    while !rest.is_empty() {
        let end = rest.find(is_space).unwrap_or(rest.len());
        if parts.len() == most {
            parts.push(rest.into());
            break;
        }
        parts.push(rest[..end].into());
        rest = rest[end..].trim_start_matches(is_space);
    }
    parts
}

fn split_space_back(this: &str, most: usize) -> Vec<Value> {
    let mut parts: Vec<Value> = Vec::new();
    let mut rest = this.trim_end_matches(is_space);
    while !rest.is_empty() {
        let last = rest.char_indices().rev().find(|&(_, char)| is_space(char));
        let start = last.map_or(0, |(at, char)| at + char.len_utf8());
        if parts.len() == most {
            parts.push(rest.into());
            break;
        }
        parts.push(rest[start..].into());
        rest = rest[..start].trim_end_matches(is_space);
    }
    parts.reverse();
    parts
}

/// The lines of a text, with their ends where they are kept.
pub(super) fn split_lines(this: &str, keep: bool) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = this;
    while !rest.is_empty() {
        let (end, next) = match rest.find(is_line_break) {
            None => (rest.len(), rest.len()),
            Some(end) if rest[end..].starts_with("\r\n") => (end, end + 2),
            Some(end) => (
                end,
                end + rest[end..].chars().next().map_or(0, char::len_utf8),
            ),
        };
        lines.push(&rest[..if keep { next } else { end }]);
        rest = &rest[next..];
    }
    lines
}

fn partition(this: &str, separator: &str, back: bool) -> Result<Value, Error> {
    if separator.is_empty() {
        return Err(invalid("empty separator"));
    }
    let cut = if back {
        this.rsplit_once(separator)
    } else {
        this.split_once(separator)
    };
    let parts = match (cut, back) {
        (Some((before, after)), _) => [before, separator, after],
        (None, true) => ["", "", this],
        (None, false) => [this, "", ""],
    };
    Ok(Tuple::new(parts.map(Value::from).into()).into())
}

/// The part of a text between two places, as slices have them, and the characters before it.
fn within<'a>(
    this: &'a str,
    start: &Option<Value>,
    end: &Option<Value>,
) -> Result<Option<(usize, &'a str)>, Error> {
    let (start, end) = (integer(start)?, integer(end)?);
    if start.is_none() && end.is_none() {
        return Ok(Some((0, this)));
    }
    let length = this.chars().count() as i64;
    let place = |at: i64| {
        if at < 0 {
            at.saturating_add(length).max(0)
        } else {
            at
        }
    };
    let (start, end) = (
        place(start.unwrap_or(0)),
        place(end.unwrap_or(length)).min(length),
    );
    if start > end {
        return Ok(None);
    }
    let byte = |at: i64| {
        let mut places = this.char_indices().map(|(byte, _)| byte);
        places.nth(at as usize).unwrap_or(this.len())
    };
    Ok(Some((start as usize, &this[byte(start)..byte(end)])))
}

fn find(
    this: &str,
    wanted: &str,
    start: &Option<Value>,
    end: &Option<Value>,
    name: &str,
) -> Result<Value, Error> {
    let found = within(this, start, end)?.and_then(|(before, part)| {
        let back = name.starts_with('r');
        let at = if back {
            part.rfind(wanted)
        } else {
            part.find(wanted)
        }?;
        Some(before + part[..at].chars().count())
    });
    match found {
        Some(at) => Ok(at.into()),
        None if name.ends_with("index") => Err(invalid("substring not found")),
        None => Ok((-1).into()),
    }
}

fn affix(
    this: &str,
    wanted: &Value,
    start: &Option<Value>,
    end: &Option<Value>,
    name: &str,
) -> Result<Value, Error> {
    let part = within(this, start, end)?;
    let has = |affix: &str| {
        part.is_some_and(|(_, part)| match name {
            "startswith" => part.starts_with(affix),
            _ => part.ends_with(affix),
        })
    };
    if let Some(wanted) = wanted.as_str() {
        return Ok(has(wanted).into());
    }
    let refused = || invalid(format!("{name}: expected a string or a tuple of strings"));
    if !wanted.is_tuple() {
        return Err(refused());
    }
    for affix in wanted.try_iter()? {
        if has(affix.as_str().ok_or_else(refused)?) {
            return Ok(true.into());
        }
    }
    Ok(false.into())
}

pub(super) fn replace(
    state: &State<'_, '_>,
    this: &str,
    old: &str,
    new: &str,
    count: i64,
) -> Result<String, Error> {
    let most = usize::try_from(count).unwrap_or(usize::MAX);
    let found = match old {
        "" => this.chars().count() + 1,
        old => this.matches(old).count(),
    };
    pay(state, found.min(most).saturating_mul(new.len()))?;
    Ok(this.replacen(old, new, most))
}

fn join(state: &State<'_, '_>, this: &str, items: &Value) -> Result<Value, Error> {
    let mut out = String::new();
    for (index, item) in items.try_iter()?.enumerate() {
        let refused = || {
            let kind = item.kind();
            invalid(format!("join: item {index}: expected a string, got {kind}"))
        };
        let item = item.as_str().ok_or_else(refused)?;
        let separator = if index > 0 { this } else { "" };
        state.consume_fuel(1 + (item.len() + separator.len()) as u64 / 64)?;
        out.push_str(separator);
        out.push_str(item);
    }
    Ok(out.into())
}

fn pad(state: &State<'_, '_>, this: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    let length = this.chars().count();
    if name == "zfill" {
        let [size] = bind(["width"], args)?;
        let missing = width(&Some(required(size)?), 0)?.saturating_sub(length);
        pay(state, missing)?;
        let (sign, digits) = this.split_at(usize::from(this.starts_with(['+', '-'])));
        return Ok([sign, &"0".repeat(missing), digits].concat().into());
    }
    let [size, fill] = bind(["width", "fillchar"], args)?;
    let size = width(&Some(required(size)?), 0)?;
    let fill = optional_text(&fill)?.unwrap_or(" ");
    if fill.chars().count() != 1 {
        return Err(invalid(
            "the fill character must be exactly one character long",
        ));
    }
    let missing = size.saturating_sub(length);
    pay(state, missing * fill.len())?;
    let left = match name {
        "center" => missing / 2 + (missing & size & 1),
        "rjust" => missing,
        _ => 0,
    };
    Ok([&fill.repeat(left), this, &fill.repeat(missing - left)]
        .concat()
        .into())
}

fn expand_tabs(state: &State<'_, '_>, this: &str, size: usize) -> Result<Value, Error> {
    pay(state, this.matches('\t').count().saturating_mul(size))?;
    let mut out = String::with_capacity(this.len());
    let mut column = 0;
    for char in this.chars() {
        match char {
            '\t' => {
                let spaces = if size == 0 { 0 } else { size - column % size };
                out.push_str(&" ".repeat(spaces));
                column += spaces;
            }
            char => {
                out.push(char);
                column = if matches!(char, '\n' | '\r') {
                    0
                } else {
                    column + 1
                };
            }
        }
    }
    Ok(out.into())
}

fn translate(state: &State<'_, '_>, this: &str, table: &Value) -> Result<Value, Error> {
    let mut out = String::with_capacity(this.len());
    for char in this.chars() {
        let to = table.get_item(&Value::from(u32::from(char)))?;
        match (to.kind(), to.as_str()) {
            (_, Some(text)) => {
                pay(state, text.len())?;
                out.push_str(text);
            }
            (ValueKind::None, _) => {}
            (ValueKind::Number, _) => {
                let code = u32::try_from(to).ok().and_then(char::from_u32);
                out.push(code.ok_or_else(|| invalid("translate: expected a code point"))?);
            }
            _ => out.push(char),
        }
    }
    Ok(out.into())
}
