//! Patterns of JSON schema: ECMA-262's regular expressions in its `u` mode, as a tree.
//!
//! Here `\d` and `\w` are ASCII's and `\s` is ECMA-262's white space. What no automaton can do (back-references) is refused;
//! word boundaries and look-behind are refused as well.

use regex_syntax::hir::{ClassUnicode, ClassUnicodeRange, HirKind};

/// Most bytes of a pattern.
pub const MAX_BYTES: usize = 4 << 10;
/// Most brackets within each other.
const MAX_DEPTH: usize = 100;
/// Most repetitions that a pattern may count.
const MAX_COUNT: u32 = 10_000;

/// A part of a pattern.
#[derive(Debug, Clone)]
pub enum Pattern {
    Class(ClassUnicode),
    Concat(Vec<Pattern>),
    Either(Vec<Pattern>),
    Repeat {
        of: Box<Pattern>,
        min: u32,
        max: Option<u32>,
    },
    Look {
        of: Box<Pattern>,
        negated: bool,
    },
    Start,
    End,
}

impl Pattern {
    /// Reads a pattern. Errors say what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parser = Parser {
            chars: text.chars().collect(),
            at: 0,
            depth: 0,
        };
        let pattern = parser.either()?;
        match parser.peek() {
            None => Ok(pattern),
            Some(_) => Err("has a ) without a (".to_owned()),
        }
    }

    fn one(char: char) -> Self {
        Self::Class(ClassUnicode::new([ClassUnicodeRange::new(char, char)]))
    }

    /// Whether it looks around, or asks where the text begins or ends.
    pub fn looks(&self) -> bool {
        match self {
            Self::Class(_) => false,
            Self::Concat(parts) | Self::Either(parts) => parts.iter().any(Self::looks),
            Self::Repeat { of, .. } => of.looks(),
            Self::Look { .. } | Self::Start | Self::End => true,
        }
    }

    /// Whether it matches somewhere in the text, as JSON schema asks. `None` after too much work.
    pub fn is_match(&self, text: &str, work: &mut usize) -> Option<bool> {
        let text: Vec<char> = text.chars().collect();
        for from in 0..=text.len() {
            if !self.ends(&text, &[from], work)?.is_empty() {
                return Some(true);
            }
        }
        Some(false)
    }

    /// Where it may end when it begins at one of these places.
    fn ends(&self, text: &[char], from: &[usize], work: &mut usize) -> Option<Vec<usize>> {
        let left = work.checked_sub(1 + from.len());
        *work = left.unwrap_or(0);
        left?;
        let mut ends = match self {
            Self::Class(class) => from
                .iter()
                .filter(|&&at| text.get(at).is_some_and(|&char| contains(class, char)))
                .map(|at| at + 1)
                .collect(),
            Self::Concat(parts) => {
                let mut places = from.to_vec();
                for part in parts {
                    places = part.ends(text, &places, work)?;
                    if places.is_empty() {
                        break;
                    }
                }
                places
            }
            Self::Either(parts) => {
                let mut places = Vec::new();
                for part in parts {
                    places.extend(part.ends(text, from, work)?);
                }
                places
            }
            Self::Repeat { of, min, max } => {
                let mut places = from.to_vec();
                let mut found = if *min == 0 { from.to_vec() } else { Vec::new() };
                // After as many rounds as there are characters nothing new can come but by empty matches.
                let least = (*min as usize).min(text.len() + 1);
                let most = max.map_or(text.len() + 1, |max| (max as usize).min(text.len() + 1));
                for round in 1..=most.max(least) {
                    places = of.ends(text, &places, work)?;
                    if places.is_empty() {
                        break;
                    }
                    if round >= least {
                        found.extend(&places);
                    }
                }
                found
            }
            Self::Look { of, negated } => {
                let mut places = Vec::new();
                for &at in from {
                    if of.ends(text, &[at], work)?.is_empty() == *negated {
                        places.push(at);
                    }
                }
                places
            }
            Self::Start => from.iter().copied().filter(|&at| at == 0).collect(),
            Self::End => from
                .iter()
                .copied()
                .filter(|&at| at == text.len())
                .collect(),
        };
        ends.sort_unstable();
        ends.dedup();
        Some(ends)
    }

    /// Whether no text can match both, as far as the characters show that each begins with.
    pub fn excludes(&self, other: &Self) -> bool {
        let (a, b) = (self.beginning(), other.beginning());
        a.iter().zip(&b).any(|(a, b)| a != b)
    }

    fn beginning(&self) -> Vec<char> {
        let parts = match self {
            Self::Concat(parts) => parts.as_slice(),
            _ => &[],
        };
        let Some((Self::Start, rest)) = parts.split_first() else {
            return Vec::new();
        };
        rest.iter()
            .map_while(|part| match part {
                Self::Class(class) => match class.ranges() {
                    [one] if one.start() == one.end() => Some(one.start()),
                    _ => None,
                },
                _ => None,
            })
            .collect()
    }

    /// All the texts that match, if they are few and the pattern says where they begin and end.
    pub fn texts(&self, most: usize) -> Option<Vec<String>> {
        let Self::Concat(parts) = self else {
            return None;
        };
        let [Self::Start, inner @ .., Self::End] = parts.as_slice() else {
            return None;
        };
        let mut texts = vec![String::new()];
        for part in inner {
            texts = product(&texts, &part.spelt(most)?, most)?;
        }
        texts.sort();
        texts.dedup();
        Some(texts)
    }

    fn spelt(&self, most: usize) -> Option<Vec<String>> {
        match self {
            Self::Class(class) => {
                let count: usize = class
                    .iter()
                    .map(|range| range.end() as usize - range.start() as usize + 1)
                    .sum();
                let chars = class.iter().flat_map(|range| range.start()..=range.end());
                (count <= most).then(|| chars.map(String::from).collect())
            }
            Self::Concat(parts) => {
                let mut texts = vec![String::new()];
                for part in parts {
                    texts = product(&texts, &part.spelt(most)?, most)?;
                }
                Some(texts)
            }
            Self::Either(parts) => {
                let mut texts = Vec::new();
                for part in parts {
                    texts.extend(part.spelt(most)?);
                }
                (texts.len() <= most).then_some(texts)
            }
            Self::Repeat { of, min, max } => {
                let max = max.filter(|&max| max as usize <= most)?;
                let one = of.spelt(most)?;
                let mut power = vec![String::new()];
                let mut texts = Vec::new();
                for round in 0..=max {
                    if round >= *min {
                        texts.extend(power.iter().cloned());
                    }
                    if round < max {
                        power = product(&power, &one, most)?;
                    }
                }
                (texts.len() <= most).then_some(texts)
            }
            Self::Look { .. } | Self::Start | Self::End => None,
        }
    }
}

fn product(heads: &[String], tails: &[String], most: usize) -> Option<Vec<String>> {
    if heads.len() * tails.len() > most {
        return None;
    }
    let join = |head: &String| {
        tails
            .iter()
            .map(move |tail| format!("{head}{tail}"))
            .collect::<Vec<_>>()
    };
    Some(heads.iter().flat_map(join).collect())
}

fn contains(class: &ClassUnicode, char: char) -> bool {
    class
        .iter()
        .any(|range| (range.start()..=range.end()).contains(&char))
}

struct Parser {
    chars: Vec<char>,
    at: usize,
    depth: usize,
}

/// What stands at a place in a class.
enum Member {
    Char(char),
    Class(ClassUnicode),
}

impl Parser {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let char = self.peek()?;
        self.at += 1;
        Some(char)
    }

    fn eat(&mut self, text: &str) -> bool {
        let found = text
            .chars()
            .enumerate()
            .all(|(n, char)| self.chars.get(self.at + n) == Some(&char));
        if found {
            self.at += text.chars().count();
        }
        found
    }

    fn either(&mut self) -> Result<Pattern, String> {
        let mut parts = vec![self.concat()?];
        while self.eat("|") {
            parts.push(self.concat()?);
        }
        Ok(match parts.len() {
            1 => parts.swap_remove(0),
            _ => Pattern::Either(parts),
        })
    }

    fn concat(&mut self) -> Result<Pattern, String> {
        let mut parts = Vec::new();
        while let Some(char) = self.peek() {
            if char == '|' || char == ')' {
                break;
            }
            let part = self.atom()?;
            parts.push(self.repeated(part)?);
        }
        Ok(Pattern::Concat(parts))
    }

    fn atom(&mut self) -> Result<Pattern, String> {
        match self.next() {
            Some('^') => Ok(Pattern::Start),
            Some('$') => Ok(Pattern::End),
            Some('.') => Ok(Pattern::Class(class("[^\\n\\r\\x{2028}\\x{2029}]")?)),
            Some('[') => self.members(),
            Some('(') => self.group(),
            Some('\\') => match self.escape(false)? {
                Member::Char(char) => Ok(Pattern::one(char)),
                Member::Class(class) => Ok(Pattern::Class(class)),
            },
            Some(char @ ('*' | '+' | '?')) => Err(format!("has a {char} with nothing before it")),
            Some(char) => Ok(Pattern::one(char)),
            None => Err("ends too early".to_owned()),
        }
    }

    fn group(&mut self) -> Result<Pattern, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(format!(
                "has more than {MAX_DEPTH} brackets within each other"
            ));
        }
        let look = if self.eat("?=") {
            Some(false)
        } else if self.eat("?!") {
            Some(true)
        } else {
            if self.eat("?<=") || self.eat("?<!") {
                return Err("looks behind itself, which cannot be enforced".to_owned());
            }
            if self.eat("?<") {
                while self.next().is_some_and(|char| char != '>') {}
            } else if !self.eat("?:") && self.peek() == Some('?') {
                return Err("has a group of an unknown kind".to_owned());
            }
            None
        };
        let inner = self.either()?;
        if !self.eat(")") {
            return Err("has a ( without a )".to_owned());
        }
        self.depth -= 1;
        Ok(match look {
            Some(negated) => Pattern::Look {
                of: Box::new(inner),
                negated,
            },
            None => inner,
        })
    }

    fn repeated(&mut self, part: Pattern) -> Result<Pattern, String> {
        let from = self.at;
        let (min, max) = match self.peek() {
            Some('*') => (0, None),
            Some('+') => (1, None),
            Some('?') => (0, Some(1)),
            Some('{') => match self.counts() {
                Some(counts) => counts,
                None => {
                    self.at = from;
                    return Ok(part);
                }
            },
            _ => return Ok(part),
        };
        if self.at == from {
            self.at += 1;
        }
        self.eat("?");
        if matches!(part, Pattern::Start | Pattern::End) {
            return Err("repeats an anchor".to_owned());
        }
        if max.is_some_and(|max| max < min) {
            return Err("has a repetition whose numbers are out of order".to_owned());
        }
        if min > MAX_COUNT || max.is_some_and(|max| max > MAX_COUNT) {
            return Err(format!("counts more than {MAX_COUNT} repetitions"));
        }
        let of = Box::new(part);
        Ok(Pattern::Repeat { of, min, max })
    }

    /// `{n}`, `{n,}` or `{n,m}`; another brace is a character.
    fn counts(&mut self) -> Option<(u32, Option<u32>)> {
        self.at += 1;
        let min = self.number()?;
        let max = if self.eat(",") {
            if self.peek() == Some('}') {
                None
            } else {
                Some(self.number()?)
            }
        } else {
            Some(min)
        };
        self.eat("}").then_some((min, max))
    }

    fn number(&mut self) -> Option<u32> {
        let from = self.at;
        while self.peek().is_some_and(|char| char.is_ascii_digit()) {
            self.at += 1;
        }
        let digits: String = self.chars[from..self.at].iter().collect();
        (!digits.is_empty()).then(|| digits.parse().unwrap_or(u32::MAX))
    }

    fn members(&mut self) -> Result<Pattern, String> {
        let negated = self.eat("^");
        let mut all = ClassUnicode::empty();
        loop {
            let member = match self.next() {
                None => return Err("has a [ without a ]".to_owned()),
                Some(']') => break,
                Some('\\') => self.escape(true)?,
                Some(char) => Member::Char(char),
            };
            let is_range = self.peek() == Some('-')
                && self.chars.get(self.at + 1).is_some_and(|&char| char != ']');
            let Member::Char(low) = member else {
                if let Member::Class(class) = member {
                    all.union(&class);
                }
                continue;
            };
            if !is_range {
                all.push(ClassUnicodeRange::new(low, low));
                continue;
            }
            self.at += 1;
            let high = match self.next() {
                Some('\\') => self.escape(true)?,
                Some(char) => Member::Char(char),
                None => return Err("has a [ without a ]".to_owned()),
            };
            match high {
                Member::Char(high) if high < low => {
                    return Err("has a range of characters out of order".to_owned());
                }
                Member::Char(high) => all.push(ClassUnicodeRange::new(low, high)),
                Member::Class(class) => {
                    all.push(ClassUnicodeRange::new(low, low));
                    all.push(ClassUnicodeRange::new('-', '-'));
                    all.union(&class);
                }
            }
        }
        if negated {
            all.negate();
        }
        Ok(Pattern::Class(all))
    }

    fn escape(&mut self, in_class: bool) -> Result<Member, String> {
        const SPACE: &str = "\\t-\\r \\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}\\x{feff}";
        let escaped = self.next().ok_or("ends with a \\")?;
        let char = match escaped {
            'd' => return Ok(Member::Class(class("[0-9]")?)),
            'D' => return Ok(Member::Class(class("[^0-9]")?)),
            'w' => return Ok(Member::Class(class("[0-9A-Za-z_]")?)),
            'W' => return Ok(Member::Class(class("[^0-9A-Za-z_]")?)),
            's' => return Ok(Member::Class(class(&format!("[{SPACE}]"))?)),
            'S' => return Ok(Member::Class(class(&format!("[^{SPACE}]"))?)),
            'p' | 'P' => return self.property(escaped == 'P').map(Member::Class),
            'b' if in_class => '\u{8}',
            'b' | 'B' => return Err("has a word boundary, which cannot be enforced".to_owned()),
            'k' | '1'..='9' if !in_class => {
                return Err(
                    "refers back to what a group matched, which cannot be enforced".to_owned(),
                );
            }
            '0' => '\0',
            't' => '\t',
            'n' => '\n',
            'v' => '\u{b}',
            'f' => '\u{c}',
            'r' => '\r',
            'c' => {
                let letter = self.next().filter(char::is_ascii_alphabetic);
                let letter = letter.ok_or("has a \\c without a letter")?;
                char::from(letter as u8 % 32)
            }
            'x' => self.hex(2)?,
            'u' => self.unicode()?,
            char if char.is_ascii_alphanumeric() => {
                return Err(format!("has an unknown escape \\{char}"));
            }
            char => char,
        };
        Ok(Member::Char(char))
    }

    fn property(&mut self, negated: bool) -> Result<ClassUnicode, String> {
        if !self.eat("{") {
            return Err("has a \\p without braces".to_owned());
        }
        let mut name = String::new();
        while let Some(char) = self.next() {
            if char == '}' {
                let sign = if negated { 'P' } else { 'p' };
                return class(&format!("\\{sign}{{{name}}}"))
                    .map_err(|_| format!("has an unknown property of characters, {name:?}"));
            }
            name.push(char);
        }
        Err("has a { without a }".to_owned())
    }

    fn hex(&mut self, digits: usize) -> Result<char, String> {
        let code = self.code(digits)?;
        char::from_u32(code).ok_or_else(|| "has half of a surrogate pair".to_owned())
    }

    fn code(&mut self, digits: usize) -> Result<u32, String> {
        let end = self.at + digits;
        let text: String = self
            .chars
            .get(self.at..end)
            .unwrap_or_default()
            .iter()
            .collect();
        self.at = end.min(self.chars.len());
        let hex = text.chars().all(|char| char.is_ascii_hexdigit()) && !text.is_empty();
        let code = hex.then(|| u32::from_str_radix(&text, 16).ok()).flatten();
        code.ok_or_else(|| "has an escape without its hexadecimal digits".to_owned())
    }

    fn unicode(&mut self) -> Result<char, String> {
        if self.eat("{") {
            let from = self.at;
            while self.peek().is_some_and(|char| char != '}') {
                self.at += 1;
            }
            let length = self.at - from;
            self.at = from;
            let char = self.hex(length)?;
            self.eat("}");
            return Ok(char);
        }
        let high = self.code(4)?;
        if (0xd800..0xdc00).contains(&high) && self.eat("\\u") {
            let low = self.code(4)?;
            if (0xdc00..0xe000).contains(&low) {
                let code = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
                return char::from_u32(code)
                    .ok_or_else(|| "has half of a surrogate pair".to_owned());
            }
        }
        char::from_u32(high).ok_or_else(|| "has half of a surrogate pair".to_owned())
    }
}

/// A class as regex-syntax reads it.
fn class(text: &str) -> Result<ClassUnicode, String> {
    let hir = regex_syntax::parse(text).map_err(|error| error.to_string())?;
    match hir.into_kind() {
        HirKind::Class(regex_syntax::hir::Class::Unicode(class)) => Ok(class),
        HirKind::Literal(literal) => {
            let char = std::str::from_utf8(&literal.0)
                .ok()
                .and_then(|text| text.chars().next());
            let char = char.ok_or("has an empty class")?;
            Ok(ClassUnicode::new([ClassUnicodeRange::new(char, char)]))
        }
        _ => Err("has a class that is none".to_owned()),
    }
}
