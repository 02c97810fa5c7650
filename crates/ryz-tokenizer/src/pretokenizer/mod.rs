//! Cuts text into the words that byte-level BPE merges within.
//!
//! A pre-tokenizer is a list of passes, each of which cuts every piece that the pass before left.
//! The patterns are a fixed set, known by name (GGUF) or by their exact source (tokenizer.json): a
//! pattern out of a file is never compiled, because a hostile one can hang a backtracking engine.
//!
//! The published patterns end in `\s+(?!\S)|\s+`: a run of white space leaves its last character to
//! the word after it. That look-ahead is the only thing in them that is not regular, so it is taken
//! out of the expressions here, `\s+` matches the run, and [`Words::end`] gives the last character
//! back. What is left runs in linear time on any text.
//!
//! Character classes are those of the `regex` crates, which are those of the models' own tokenizers.

mod names;
mod patterns;

use regex_automata::{Anchored, Input, meta::Regex};

pub(crate) use self::names::Defaults;
use self::names::ROWS;
use crate::TokenizerError;

/// The end of most published patterns.
const SPACES: &str = r"\s+(?!\S)|\s+";
/// The end of Jais 2's pattern: white space in runs of powers of two.
const POWERS: &str = r"\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}";

/// A step of a pre-tokenizer, as data.
#[derive(Clone, Copy)]
enum Step {
    /// A published pattern that matches at every position of any text.
    Words(&'static str),
    /// A published pattern that leaves something between its matches, which is a piece too.
    Gaps(&'static str),
    /// A regular expression. Its matches are pieces, and so is what lies between them.
    Isolate(&'static str),
    /// Digits in groups of three from the right.
    RightToLeft(Thousands),
}

/// Which digits are grouped, and what becomes of the text around them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Thousands {
    /// Runs of numbers of any script; groups are pieces.
    Numbers,
    /// Runs of digits that no letter follows; groups are pieces.
    Words,
    /// Runs of digits; the text is only cut before groups of three.
    Cuts,
}

/// What a GGUF's `tokenizer.ggml.pre` stands for, with the defaults that come with the name.
pub(crate) struct PretokenizerName {
    pub(crate) pretokenizer: Pretokenizer,
    pub(crate) defaults: Defaults,
}

/// Cuts text into words.
pub(crate) struct Pretokenizer {
    passes: Vec<Pass>,
}

enum Pass {
    Words(Words),
    /// Matches are pieces, and so is what lies between them.
    Isolate(Regex),
    RightToLeft(Thousands),
}

/// A published pattern without its look-ahead.
struct Words {
    regex: Regex,
    /// `\s*[\r\n]` comes before `\s+`, so that a match that ends a line gives nothing back.
    lines: bool,
    /// It matches everywhere.
    total: bool,
    /// White space comes in runs of powers of two.
    powers: bool,
}

impl Pretokenizer {
    /// The pre-tokenizer that llama.cpp means by a name.
    pub(crate) fn named(name: &str) -> Result<PretokenizerName, TokenizerError> {
        let row = ROWS.iter().find(|row| row.names.contains(&name));
        let row = row.ok_or_else(|| TokenizerError::UnknownPretokenizer {
            name: name.to_owned(),
        })?;
        let mut pretokenizer = Pretokenizer::new();
        for &step in row.steps {
            pretokenizer = pretokenizer.step(step)?;
        }
        Ok(PretokenizerName {
            pretokenizer,
            defaults: row.defaults,
        })
    }

    /// Every name that is known.
    #[cfg(test)]
    pub(crate) fn names() -> impl Iterator<Item = &'static str> {
        ROWS.iter().flat_map(|row| row.names.iter().copied())
    }

    /// No passes: the text is one word.
    pub(crate) fn new() -> Pretokenizer {
        Pretokenizer { passes: Vec::new() }
    }

    /// Whether there are no passes.
    pub(crate) fn is_empty(&self) -> bool {
        self.passes.is_empty()
    }

    /// Adds a `Split` of a tokenizer.json, if its pattern is one of those known; `removed` where what
    /// lies between matches is left out.
    pub(crate) fn published(
        self,
        pattern: &str,
        removed: bool,
    ) -> Option<Result<Pretokenizer, TokenizerError>> {
        // Files write line ends in patterns as they are, or escaped.
        let escaped = pattern.replace('\r', r"\r").replace('\n', r"\n");
        let same = |known: &&str| **known == *pattern || **known == *escaped;
        let step = match pattern {
            patterns::GPT2_SHORT => Step::Words(patterns::GPT2_SHORT),
            r"\d{1,3}(?=(?:\d{3})*\b)" => Step::RightToLeft(Thousands::Words),
            r"(?=(\d{3})+(?!\d))" => Step::RightToLeft(Thousands::Cuts),
            _ => {
                let mut steps = ROWS.iter().flat_map(|row| row.steps);
                *steps.find(|step| match step {
                    Step::Words(known) | Step::Gaps(known) | Step::Isolate(known) => same(known),
                    Step::RightToLeft(_) => false,
                })?
            }
        };
        (!removed || matches!(step, Step::Words(_))).then(|| self.step(step))
    }

    /// Adds GPT-2's own words, as the pre-tokenizer `ByteLevel` does with `use_regex`.
    pub(crate) fn gpt2(self) -> Result<Pretokenizer, TokenizerError> {
        self.step(Step::Words(patterns::GPT2))
    }

    /// Adds the pre-tokenizer `Digits`.
    pub(crate) fn digits(self, individual: bool) -> Result<Pretokenizer, TokenizerError> {
        self.step(Step::Isolate(if individual { r"\p{N}" } else { r"\p{N}+" }))
    }

    /// Adds the pre-tokenizer `Punctuation` with the behaviours `Isolated` and `Contiguous`: ASCII's and Unicode's.
    pub(crate) fn punctuation(self, contiguous: bool) -> Result<Pretokenizer, TokenizerError> {
        self.step(Step::Isolate(if contiguous {
            r"[\p{P}$+<=>^`|~]+"
        } else {
            r"[\p{P}$+<=>^`|~]"
        }))
    }

    /// Adds runs of line ends as pieces of their own.
    pub(crate) fn line_ends(self) -> Result<Pretokenizer, TokenizerError> {
        self.step(Step::Isolate(r"\n+"))
    }

    fn step(mut self, step: Step) -> Result<Pretokenizer, TokenizerError> {
        self.passes.push(match step {
            Step::Words(pattern) => Pass::Words(Words::new(pattern, true)?),
            Step::Gaps(pattern) => Pass::Words(Words::new(pattern, false)?),
            Step::Isolate(pattern) => Pass::Isolate(compile(pattern)?),
            Step::RightToLeft(which) => Pass::RightToLeft(which),
        });
        Ok(self)
    }

    /// Gives each word of the text, in order, until `each` fails.
    pub(crate) fn split<E>(
        &self,
        text: &str,
        each: &mut impl FnMut(&str) -> Result<(), E>,
    ) -> Result<(), E> {
        split(&self.passes, text, each)
    }
}

/// The names in `tokenizer.ggml.pre` that mean a `Split` by this pattern and nothing else, each with
/// whether a word that is a token needs no merges.
pub fn names_of_pattern(pattern: &str) -> Vec<(&'static str, bool)> {
    let pattern = match pattern {
        patterns::GPT2_SHORT => patterns::GPT2,
        other => other,
    };
    let alone = |row: &&names::Row| matches!(row.steps, [Step::Words(known)] if *known == pattern);
    let rows = ROWS.iter().filter(alone);
    rows.map(|row| (row.names[0], row.defaults.ignore_merges))
        .collect()
}

fn split<E>(
    passes: &[Pass],
    text: &str,
    each: &mut impl FnMut(&str) -> Result<(), E>,
) -> Result<(), E> {
    if text.is_empty() {
        return Ok(());
    }
    let Some((pass, rest)) = passes.split_first() else {
        return each(text);
    };
    match pass {
        Pass::Words(words) => {
            let mut start = 0;
            while start < text.len() {
                let (from, end) = words.next(text, start);
                split(rest, &text[start..from], each)?;
                split(rest, &text[from..end], each)?;
                start = end;
            }
            Ok(())
        }
        Pass::Isolate(regex) => {
            let mut start = 0;
            for found in regex.find_iter(text) {
                split(rest, &text[start..found.start()], each)?;
                split(rest, &text[found.range()], each)?;
                start = found.end();
            }
            split(rest, &text[start..], each)
        }
        Pass::RightToLeft(which) => {
            let mut start = 0;
            let mut error = None;
            which.cuts(text, |cut| {
                if error.is_none() {
                    error = split(rest, &text[start..cut], each).err();
                    start = cut;
                }
                error.is_none()
            });
            match error {
                Some(error) => Err(error),
                None => split(rest, &text[start..], each),
            }
        }
    }
}

impl Words {
    fn new(pattern: &str, total: bool) -> Result<Words, TokenizerError> {
        let powers = pattern.ends_with(POWERS);
        // The classes before possessive repetitions and behind them share no character.
        let regular = pattern
            .replace(if powers { POWERS } else { SPACES }, r"\s+")
            .replace("]?+", "]?")
            .replace("]++", "]+");
        Ok(Words {
            regex: compile(&regular)?,
            lines: pattern.contains(r"\s*[\r\n]"),
            total,
            powers,
        })
    }

    /// The next match in `text[start..]`, or its end twice where nothing more matches.
    fn next(&self, text: &str, start: usize) -> (usize, usize) {
        let input = Input::new(text).range(start..);
        let (from, end) = if self.total {
            match self.regex.search_half(&input.anchored(Anchored::Yes)) {
                Some(half) if half.offset() > start => (start, half.offset()),
                // Not reached: the alternatives cover every character. One character is progress.
                _ => {
                    let char = text[start..].chars().next();
                    return (start, start + char.map_or(1, char::len_utf8));
                }
            }
        } else {
            match self.regex.search(&input) {
                Some(found) => (found.start(), found.end()),
                None => return (text.len(), text.len()),
            }
        };
        (from, self.end(text, from, end))
    }

    /// Where the word of a match ends.
    fn end(&self, text: &str, start: usize, end: usize) -> usize {
        let word = &text[start..end];
        let Some(last) = word.chars().next_back().filter(|c| c.is_whitespace()) else {
            return end;
        };
        if self.lines && matches!(last, '\r' | '\n') {
            return end;
        }
        if self.powers {
            return start + power(word, end == text.len());
        }
        let before_last = end - last.len_utf8();
        if end < text.len() && before_last > start {
            before_last
        } else {
            end
        }
    }
}

/// Bytes of the first piece of a run of white space, whose pieces are powers of two; all but the last
/// of a text leave a character.
fn power(run: &str, last: bool) -> usize {
    let available = run.chars().count() - usize::from(!last);
    let most = [512, 256, 128, 64, 32, 16, 8, 4, 2, 1];
    let take = most.into_iter().find(|&power| power <= available);
    run.chars()
        .take(take.unwrap_or(1))
        .map(char::len_utf8)
        .sum()
}

impl Thousands {
    /// Tells each place of a cut in order, until `each` says no.
    fn cuts(self, text: &str, mut each: impl FnMut(usize) -> bool) {
        let mut chars = text.char_indices().peekable();
        let counted = |c: char| match self {
            Thousands::Numbers => c.is_numeric(),
            Thousands::Words | Thousands::Cuts => is_digit(c),
        };
        let mut run: Vec<usize> = Vec::new();
        while let Some((at, char)) = chars.next() {
            if !counted(char) {
                continue;
            }
            run.clear();
            run.push(at);
            while let Some((at, _)) = chars.next_if(|&(_, c)| counted(c)) {
                run.push(at);
            }
            let next = chars.peek();
            let end = next.map_or(text.len(), |&(at, _)| at);
            if self == Thousands::Words && next.is_some_and(|&(_, c)| is_word(c)) {
                continue;
            }
            let grouped = (0..run.len()).filter(|i| (run.len() - i).is_multiple_of(3));
            let whole = self != Thousands::Cuts;
            if whole && !run.len().is_multiple_of(3) && !each(run[0]) {
                return;
            }
            for i in grouped {
                if !each(run[i]) {
                    return;
                }
            }
            if whole && !each(end) {
                return;
            }
        }
    }
}

/// `\d`: decimal digits of every script.
fn is_digit(c: char) -> bool {
    c.is_ascii_digit() || !c.is_ascii() && c.is_numeric() && DIGITS.is_match(c)
}

/// What ends no word: `\w`, and numbers of every kind, as Oniguruma has it.
fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || !c.is_ascii() && (c.is_numeric() || WORD.is_match(c))
}

/// A class of characters that the standard library does not know.
struct Class(std::sync::LazyLock<Option<Regex>>);

static DIGITS: Class = Class(std::sync::LazyLock::new(|| Regex::new(r"^\d$").ok()));
static WORD: Class = Class(std::sync::LazyLock::new(|| Regex::new(r"^\w$").ok()));

impl Class {
    fn is_match(&self, c: char) -> bool {
        let regex = self.0.as_ref();
        regex.is_some_and(|regex| regex.is_match(&*c.encode_utf8(&mut [0; 4])))
    }
}

fn compile(source: &str) -> Result<Regex, TokenizerError> {
    Regex::new(source).map_err(|source| TokenizerError::Model {
        source: Box::new(source),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(name: &str, text: &str) -> Vec<String> {
        let named = Pretokenizer::named(name).unwrap();
        let mut out = Vec::new();
        named
            .pretokenizer
            .split(text, &mut |word| {
                out.push(word.to_owned());
                Ok::<(), ()>(())
            })
            .unwrap();
        assert_eq!(out.concat(), text, "nothing is lost");
        out
    }

    #[test]
    fn white_space_leaves_its_last_character_to_the_next_word() {
        let text = "a  b\n\n c \t\n";
        assert_eq!(
            words("gpt-2", text),
            ["a", " ", " b", "\n\n", " c", " \t\n"]
        );
        assert_eq!(
            words("llama-bpe", text),
            ["a", " ", " b", "\n\n", " c", " \t\n"]
        );
        assert_eq!(words("gpt-2", "x\n\ny"), ["x", "\n", "\n", "y"]);
        assert_eq!(words("llama-bpe", "x\n\ny"), ["x", "\n\n", "y"]);
        assert_eq!(words("llama-bpe", "x \n  y"), ["x", " \n", " ", " y"]);
        assert_eq!(words("gpt-2", "   "), ["   "]);
        assert_eq!(
            words("gpt-2", "\u{a0}\u{3000}é"),
            ["\u{a0}", "\u{3000}", "é"]
        );
        assert_eq!(
            words("llama-bpe", "\u{a0}\u{3000}é"),
            ["\u{a0}", "\u{3000}é"]
        );
    }

    #[test]
    fn numbers_by_name() {
        assert_eq!(words("llama-bpe", "x12345"), ["x", "123", "45"]);
        assert_eq!(words("qwen2", "x12345"), ["x", "1", "2", "3", "4", "5"]);
        assert_eq!(words("gpt-2", "x 12345"), ["x", " 12345"]);
        assert_eq!(words("smollm", "x 12"), ["x", " ", "1", "2"]);
        assert_eq!(words("falcon", "x 12345"), ["x", " ", "123", "45"]);
        assert_eq!(words("default", "x 12345"), ["x", " ", "123", "45"]);
        assert_eq!(words("falcon3", "½٣४12"), ["½٣४", "12"]);
    }

    #[test]
    fn contractions_and_punctuation() {
        assert_eq!(words("gpt-2", "I'm IT'S"), ["I", "'m", " IT", "'", "S"]);
        assert_eq!(words("qwen2", "I'm IT'S"), ["I", "'m", " IT", "'S"]);
        assert_eq!(
            words("llama-bpe", "if (x == 7) {\n\n}"),
            ["if", " (", "x", " ==", " ", "7", ")", " {\n\n", "}"]
        );
        assert_eq!(
            words("default", "a...b $5"),
            ["a", "...", "b", " ", "$", "5"]
        );
        assert_eq!(words("llama-bpe", "日本語。ok"), ["日本語", "。ok"]);
        assert_eq!(words("llama-bpe", ""), Vec::<String>::new());
    }

    #[test]
    fn long_runs_take_linear_time() {
        for text in [
            " ".repeat(1 << 20),
            "\n ".repeat(1 << 19),
            "'".repeat(1 << 20),
        ] {
            for name in ["llama-bpe", "qwen2", "gpt-2", "smollm", "falcon", "default"] {
                words(name, &text);
            }
        }
    }

    #[test]
    fn unknown_names_are_refused() {
        let error = Pretokenizer::named("(a+)+$").err().unwrap();
        assert_eq!(error.code(), "UNSUPPORTED");
        assert!(
            error
                .to_string()
                .starts_with("tokenizer.ggml.pre: \"(a+)+$\" is not known"),
            "{error}"
        );
    }

    /// The models' own tokenizers, as PyPI's `tokenizers` runs them, cut the same pieces.
    #[test]
    fn pieces_are_those_of_the_models_own_tokenizers() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/fixtures/pretokenizers.json"
        );
        let file: serde_json::Value =
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let texts = file["texts"].as_array().unwrap();
        let mut wrong = Vec::new();
        for (name, all) in file["names"].as_object().unwrap() {
            for (text, expected) in texts.iter().zip(all.as_array().unwrap()) {
                let expected = expected.as_array().unwrap();
                let expected: Vec<&str> = expected.iter().map(|p| p.as_str().unwrap()).collect();
                let got = words(name, text.as_str().unwrap());
                if got != expected {
                    wrong.push(format!("{name}: {text}\n  {got:?}\n  {expected:?}"));
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        assert!(texts.len() > 35);
    }

    #[test]
    fn every_name_cuts_any_text_in_linear_time_and_loses_nothing() {
        let mut names = 0;
        for name in Pretokenizer::names() {
            for text in [
                "a",
                " ",
                "1",
                "\n ",
                "é\u{301}",
                "'",
                "A!",
                "\u{10d40}",
                "日本",
            ] {
                words(name, &text.repeat(1 << 14));
            }
            names += 1;
        }
        assert!(names > 70, "{names}");
    }
}
