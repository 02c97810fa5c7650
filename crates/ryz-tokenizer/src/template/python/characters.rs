//! Classes of characters as Python's `str` has them.

use std::sync::OnceLock;

use regex_automata::meta::Regex;

/// Digits that are no decimals.
macro_rules! digits {
    () => {
        concat!(
            r"\x{b2}-\x{b3}\x{b9}\x{1369}-\x{1371}\x{19da}\x{2070}\x{2074}-\x{2079}",
            r"\x{2080}-\x{2089}\x{2460}-\x{2468}\x{2474}-\x{247c}\x{2488}-\x{2490}\x{24ea}",
            r"\x{24f5}-\x{24fd}\x{24ff}\x{2776}-\x{277e}\x{2780}-\x{2788}\x{278a}-\x{2792}",
            r"\x{10a40}-\x{10a43}\x{10e60}-\x{10e68}\x{11052}-\x{1105a}\x{1f100}-\x{1f10a}",
        )
    };
}

/// Letters that are numbers: Chinese numerals.
macro_rules! hanzi {
    () => {
        concat!(
            r"\x{3405}\x{3483}\x{382a}\x{3b4d}\x{4e00}\x{4e03}\x{4e07}\x{4e09}\x{4e5d}",
            r"\x{4e8c}\x{4e94}\x{4e96}\x{4ebf}-\x{4ec0}\x{4edf}\x{4ee8}\x{4f0d}\x{4f70}",
            r"\x{5104}\x{5146}\x{5169}\x{516b}\x{516d}\x{5341}\x{5343}-\x{5345}\x{534c}",
            r"\x{53c1}-\x{53c4}\x{56db}\x{58f1}\x{58f9}\x{5e7a}\x{5efe}-\x{5eff}",
            r"\x{5f0c}-\x{5f0e}\x{5f10}\x{62fe}\x{634c}\x{67d2}\x{6f06}\x{7396}\x{767e}",
            r"\x{8086}\x{842c}\x{8cae}\x{8cb3}\x{8d30}\x{9621}\x{9646}\x{964c}\x{9678}",
            r"\x{96f6}\x{f96b}\x{f973}\x{f978}\x{f9b2}\x{f9d1}\x{f9d3}\x{f9fd}\x{20001}",
            r"\x{20064}\x{200e2}\x{20121}\x{2092a}\x{20983}\x{2098c}\x{2099c}\x{20aea}",
            r"\x{20afd}\x{20b19}\x{22390}\x{22998}\x{23b1b}\x{2626d}\x{2f890}",
        )
    };
}

/// A class of characters, compiled when it is first used.
pub(super) struct Class {
    pattern: &'static str,
    regex: OnceLock<Option<Regex>>,
}

impl Class {
    const fn new(pattern: &'static str) -> Class {
        Class {
            pattern,
            regex: OnceLock::new(),
        }
    }

    fn regex(&self) -> Option<&Regex> {
        let regex = self.regex.get_or_init(|| Regex::new(self.pattern).ok());
        regex.as_ref()
    }

    /// Whether the text holds a match.
    pub(super) fn matches(&self, text: &str) -> bool {
        self.regex().is_some_and(|regex| regex.is_match(text))
    }

    /// How many matches the text holds.
    pub(super) fn count(&self, text: &str) -> usize {
        self.regex()
            .map_or(0, |regex| regex.find_iter(text).count())
    }
}

/// `isalpha`.
pub(super) static ALPHABETIC: Class = Class::new(r"^\p{L}+$");
/// `isdecimal`.
pub(super) static DECIMAL: Class = Class::new(r"^\p{Nd}+$");
/// `isdigit`: decimals, superscripts and digits in circles.
pub(super) static DIGIT: Class = Class::new(concat!(r"^[", r"\p{Nd}", digits!(), "]+$"));
/// `isnumeric`: all numbers, those written in Chinese characters, too.
pub(super) static NUMERIC: Class = Class::new(concat!(r"^[", r"\p{N}", hanzi!(), "]+$"));
/// `isalnum`.
pub(super) static ALPHANUMERIC: Class = Class::new(r"^[\p{L}\p{N}]+$");
/// Words, as `\w+` has them.
pub(super) static WORD: Class = Class::new(r"[\p{L}\p{N}_]+");
/// Characters that `repr` escapes.
static UNPRINTABLE: Class = Class::new(r"[\p{C}\p{Z}]");

/// `isprintable` of a character.
pub(super) fn is_printable(char: char) -> bool {
    match char {
        // A mark that cuts a control token's text is no text, and must be found again.
        ' '..='~' | '\u{fdd0}'..='\u{fdef}' => true,
        _ if char.is_ascii() => false,
        _ => !UNPRINTABLE.matches(char.encode_utf8(&mut [0; 4])),
    }
}

/// `isspace` of a character: Unicode's white space and the four separators of ASCII.
pub(super) fn is_space(char: char) -> bool {
    char.is_whitespace() || matches!(char, '\x1c'..='\x1f')
}

/// Whether a character ends a line for `splitlines`.
pub(super) fn is_line_break(char: char) -> bool {
    matches!(
        char,
        '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}'
    )
}

/// Whether a character has a case: `title` begins a word after one that has none.
pub(super) fn is_cased(char: char) -> bool {
    char.is_lowercase() || char.is_uppercase() || is_titlecase(char)
}

/// One of the digraphs whose first half is a capital, as `ǅ`.
pub(super) fn is_titlecase(char: char) -> bool {
    matches!(char, '\u{1c5}' | '\u{1c8}' | '\u{1cb}' | '\u{1f2}')
}
