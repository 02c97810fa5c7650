//! Texts that match a pattern, as terminals of a grammar: as they are, or as strings of JSON.
//!
//! Of a string the terminal matches what is written between the quotation marks, escapes and all; each character has one way to be
//! written there, so that what is not matched can be said as well. Control characters without a short escape are never written.
//!
//! A pattern that looks ahead, or asks where the text begins, is a product of patterns over what is left of the text: `(?=A)B`
//! are the texts of `B` that also begin with `A`.

use std::fmt::Write as _;

use regex_syntax::hir::{ClassUnicode, ClassUnicodeRange};

use super::pattern::Pattern;

/// How a text is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Script {
    /// Between quotation marks, with escapes.
    Json,
    /// As it is.
    Plain,
}

impl Script {
    /// Any character.
    pub fn char(self) -> &'static str {
        match self {
            Self::Json => CHAR,
            Self::Plain => r"[^\x00]",
        }
    }

    /// The quotation mark.
    pub fn quote(self) -> &'static str {
        match self {
            Self::Json => "\"",
            Self::Plain => "",
        }
    }

    /// Characters of a class as they are written.
    fn class(self, class: &ClassUnicode) -> String {
        match self {
            Self::Json => quoted(class),
            Self::Plain => {
                let mut plain = class.clone();
                plain.difference(&ClassUnicode::new([ClassUnicodeRange::new('\0', '\0')]));
                match ranges(&plain) {
                    text if text.is_empty() => "[a&&b]".to_owned(),
                    text => text,
                }
            }
        }
    }
}

/// Any character of a string.
pub const CHAR: &str = r#"(?:[^"\\\x00-\x1f\x7f]|\\["\\bfnrt])"#;
/// Most bytes of a terminal.
const MAX_TERMINAL: usize = 64 << 10;
/// Most times that a part which looks ahead is written out.
const MAX_UNROLLED: u32 = 8;

/// Most times that a pattern looks ahead: the automata multiply.
const MAX_LOOKS: usize = 6;

const ESCAPED: [(char, char); 7] = [
    ('"', '"'),
    ('\\', '\\'),
    ('\u{8}', 'b'),
    ('\u{c}', 'f'),
    ('\n', 'n'),
    ('\r', 'r'),
    ('\t', 't'),
];

/// A terminal of the texts, with their quotation marks, in which the pattern matches somewhere.
pub fn text_with(pattern: &Pattern, script: Script) -> Result<String, String> {
    if looks(pattern) > MAX_LOOKS {
        return Err(format!("looks ahead more than {MAX_LOOKS} times"));
    }
    let char = script.char();
    let any = Remainder::Text(format!("{char}*"));
    let found = if asks_for_start(pattern) {
        let begun = left(pattern, &any, true, script)?;
        let later = before(&format!("{char}+"), left(pattern, &any, false, script)?)?;
        either(vec![begun, later])?
    } else {
        before(&format!("{char}*"), left(pattern, &any, false, script)?)?
    };
    match (found, script) {
        (Remainder::Nothing, _) => Err("matches no text".to_owned()),
        (Remainder::Text(text), Script::Json) => Ok(format!("/\"{text}\"/")),
        (Remainder::Terms(terms), Script::Json) => Ok(format!("\"\\\"\" ({terms}) \"\\\"\"")),
        (left, Script::Plain) => Ok(left.terms()),
    }
}

/// What may be left of a text.
#[derive(Debug, Clone, PartialEq)]
enum Remainder {
    Nothing,
    /// A regular expression.
    Text(String),
    /// Terminals with their operators.
    Terms(String),
}

impl Remainder {
    fn terms(&self) -> String {
        match self {
            Self::Nothing => "(/a/ & /b/)".to_owned(),
            Self::Text(text) if text.is_empty() => "\"\"".to_owned(),
            Self::Text(text) => format!("/{text}/"),
            Self::Terms(terms) => format!("({terms})"),
        }
    }

    fn bounded(self) -> Result<Self, String> {
        let length = match &self {
            Self::Nothing => 0,
            Self::Text(text) | Self::Terms(text) => text.len(),
        };
        if length <= MAX_TERMINAL {
            Ok(self)
        } else {
            Err("is too large once what it looks for is written out".to_owned())
        }
    }
}

/// A plain part before what is left.
fn before(text: &str, rest: Remainder) -> Result<Remainder, String> {
    if text.is_empty() {
        return Ok(rest);
    }
    match rest {
        Remainder::Nothing => Ok(Remainder::Nothing),
        Remainder::Text(rest) => Remainder::Text(format!("{text}{rest}")).bounded(),
        Remainder::Terms(rest) => Remainder::Terms(format!("/{text}/ ({rest})")).bounded(),
    }
}

fn either(parts: Vec<Remainder>) -> Result<Remainder, String> {
    let mut parts: Vec<_> = parts
        .into_iter()
        .filter(|part| *part != Remainder::Nothing)
        .collect();
    parts.dedup();
    if parts.len() <= 1 {
        return Ok(parts.pop().unwrap_or(Remainder::Nothing));
    }
    let texts: Option<Vec<_>> = parts
        .iter()
        .map(|part| match part {
            Remainder::Text(text) => Some(text.as_str()),
            _ => None,
        })
        .collect();
    match texts {
        Some(texts) => Remainder::Text(format!("(?:{})", texts.join("|"))).bounded(),
        None => {
            let terms: Vec<_> = parts.iter().map(Remainder::terms).collect();
            Remainder::Terms(terms.join(" | ")).bounded()
        }
    }
}

/// What is left of a text that goes on with the pattern and then with `rest`.
fn left(
    pattern: &Pattern,
    rest: &Remainder,
    at_start: bool,
    script: Script,
) -> Result<Remainder, String> {
    if *rest == Remainder::Nothing {
        return Ok(Remainder::Nothing);
    }
    if !pattern.looks() {
        return before(&plain(pattern, script)?, rest.clone());
    }
    match pattern {
        Pattern::Start if at_start => Ok(rest.clone()),
        Pattern::Start => Ok(Remainder::Nothing),
        Pattern::End => end(rest, script),
        Pattern::Look { of, negated } => {
            let any = Remainder::Text(format!("{}*", script.char()));
            let seen = left(of, &any, at_start, script)?;
            match (seen, *negated) {
                (Remainder::Nothing, false) => Ok(Remainder::Nothing),
                (Remainder::Nothing, true) => Ok(rest.clone()),
                (seen, negated) => {
                    let sign = if negated { "~" } else { "" };
                    Remainder::Terms(format!("{sign}{} & {}", seen.terms(), rest.terms())).bounded()
                }
            }
        }
        Pattern::Either(parts) => {
            let parts: Result<Vec<_>, _> = parts
                .iter()
                .map(|part| left(part, rest, at_start, script))
                .collect();
            either(parts?)
        }
        Pattern::Concat(parts) => concat(parts, rest, at_start, script),
        Pattern::Repeat { of, min, max } => {
            let Some(max) = max.filter(|&max| max <= MAX_UNROLLED) else {
                return Err("looks ahead within a repetition, which cannot be enforced".to_owned());
            };
            let mut choices = Vec::new();
            for count in *min..=max {
                let parts = vec![(**of).clone(); count as usize];
                choices.push(concat(&parts, rest, at_start, script)?);
            }
            either(choices)
        }
        Pattern::Class(_) => before(&plain(pattern, script)?, rest.clone()),
    }
}

fn concat(
    parts: &[Pattern],
    rest: &Remainder,
    at_start: bool,
    script: Script,
) -> Result<Remainder, String> {
    // Whether something stands before a part is known from the left, what is left of the text from the right.
    let mut starts = Vec::new();
    let mut start = at_start;
    let mut unsure = false;
    for part in parts {
        if unsure && asks_for_start(part) {
            return Err(
                "asks for the beginning behind what may be nothing, which cannot be enforced"
                    .to_owned(),
            );
        }
        starts.push(start);
        let is_place = matches!(part, Pattern::Start | Pattern::End | Pattern::Look { .. });
        unsure |= start && !is_place && may_be_empty(part);
        start &= is_place;
    }
    let mut rest = rest.clone();
    for (part, start) in parts.iter().zip(starts).rev() {
        rest = left(part, &rest, start, script)?;
    }
    Ok(rest)
}

fn looks(pattern: &Pattern) -> usize {
    match pattern {
        Pattern::Class(_) | Pattern::Start | Pattern::End => 0,
        Pattern::Concat(parts) | Pattern::Either(parts) => parts.iter().map(looks).sum(),
        Pattern::Repeat { of, .. } => looks(of),
        Pattern::Look { of, .. } => 1 + looks(of),
    }
}

fn asks_for_start(pattern: &Pattern) -> bool {
    match pattern {
        Pattern::Start => true,
        Pattern::Class(_) | Pattern::End => false,
        Pattern::Concat(parts) | Pattern::Either(parts) => parts.iter().any(asks_for_start),
        Pattern::Repeat { of, .. } | Pattern::Look { of, .. } => asks_for_start(of),
    }
}

fn may_be_empty(pattern: &Pattern) -> bool {
    match pattern {
        Pattern::Class(_) => false,
        Pattern::Concat(parts) => parts.iter().all(may_be_empty),
        Pattern::Either(parts) => parts.iter().any(may_be_empty),
        Pattern::Repeat { of, min, .. } => *min == 0 || may_be_empty(of),
        Pattern::Look { .. } | Pattern::Start | Pattern::End => true,
    }
}

/// The end of the text: what is left must be able to be nothing.
fn end(rest: &Remainder, script: Script) -> Result<Remainder, String> {
    match rest {
        Remainder::Text(text) if text.is_empty() || *text == format!("{}*", script.char()) => {
            Ok(Remainder::Text(String::new()))
        }
        Remainder::Nothing => Ok(Remainder::Nothing),
        rest => Ok(Remainder::Terms(format!("\"\" & {}", rest.terms()))),
    }
}

/// A part that does not look around.
fn plain(pattern: &Pattern, script: Script) -> Result<String, String> {
    let mut text = String::new();
    write(pattern, &mut text, script)?;
    Ok(text)
}

fn write(pattern: &Pattern, text: &mut String, script: Script) -> Result<(), String> {
    if text.len() > MAX_TERMINAL {
        return Err("is too large once its characters are written out".to_owned());
    }
    match pattern {
        Pattern::Class(class) => text.push_str(&script.class(class)),
        Pattern::Concat(parts) => {
            for part in parts {
                write(part, text, script)?;
            }
        }
        Pattern::Either(parts) => {
            text.push_str("(?:");
            for (index, part) in parts.iter().enumerate() {
                if index > 0 {
                    text.push('|');
                }
                write(part, text, script)?;
            }
            text.push(')');
        }
        Pattern::Repeat { of, min, max } => {
            text.push_str("(?:");
            write(of, text, script)?;
            text.push(')');
            match (min, max) {
                (0, None) => text.push('*'),
                (1, None) => text.push('+'),
                (0, Some(1)) => text.push('?'),
                (min, Some(max)) if min == max => drop(write!(text, "{{{min}}}")),
                (min, None) => drop(write!(text, "{{{min},}}")),
                (min, Some(max)) => drop(write!(text, "{{{min},{max}}}")),
            }
        }
        Pattern::Look { .. } | Pattern::Start | Pattern::End => {}
    }
    Ok(())
}

/// Characters of a class as they are written in a string.
fn quoted(class: &ClassUnicode) -> String {
    let mut plain = class.clone();
    let mut unwritten = ClassUnicode::new([
        ClassUnicodeRange::new('\0', '\u{1f}'),
        ClassUnicodeRange::new('"', '"'),
        ClassUnicodeRange::new('\\', '\\'),
        ClassUnicodeRange::new('\u{7f}', '\u{7f}'),
    ]);
    let escapes: String = ESCAPED
        .iter()
        .filter(|(char, _)| {
            class
                .iter()
                .any(|range| (range.start()..=range.end()).contains(char))
        })
        .map(|(_, letter)| {
            if *letter == '\\' {
                "\\\\".to_owned()
            } else {
                letter.to_string()
            }
        })
        .collect();
    plain.difference(&unwritten);
    unwritten.negate();
    let plain = if plain == unwritten {
        r#"[^"\\\x00-\x1f\x7f]"#.to_owned()
    } else {
        ranges(&plain)
    };
    match (plain.is_empty(), escapes.is_empty()) {
        (true, true) => "[a&&b]".to_owned(),
        (false, true) => plain,
        (true, false) => format!("\\\\[{escapes}]"),
        (false, false) => format!("(?:{plain}|\\\\[{escapes}])"),
    }
}

fn ranges(class: &ClassUnicode) -> String {
    let mut ranges = class.iter();
    let spelt = |char: char| {
        if char.is_ascii_alphanumeric() {
            char.to_string()
        } else {
            format!("\\x{{{:x}}}", char as u32)
        }
    };
    match (ranges.next(), ranges.next()) {
        (None, _) => String::new(),
        (Some(one), None) if one.start() == one.end() => spelt(one.start()),
        _ => {
            let parts: String = class
                .iter()
                .map(|range| match (range.start(), range.end()) {
                    (start, end) if start == end => spelt(start),
                    (start, end) => format!("{}-{}", spelt(start), spelt(end)),
                })
                .collect();
            format!("[{parts}]")
        }
    }
}
