//! Cuts text into the words that byte-level BPE merges within.
//!
//! A pre-tokenizer is a list of passes, each of which cuts every piece that the pass before left. The patterns are a
//! fixed set, known by name (GGUF) or by their exact source (tokenizer.json): a pattern out of a file is never compiled,
//! because a hostile one can hang a backtracking engine.
//!
//! The published patterns end in `\s+(?!\S)|\s+`: a run of white space leaves its last character to the word after it.
//! That look-ahead is the only thing in them that is not regular, so it is taken out of the expressions here, `\s+`
//! matches the run, and [`Words::cut`] gives the last character back. What is left runs in linear time on any text.

use regex_automata::{Anchored, Input, meta::Regex};

use crate::TokenizerError;

/// `\s+(?!\S)|\s+` at the end becomes `\s+`; see the module.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+";
const LLAMA3: &str = r"'(?:[sS]|[tT]|[rR][eE]|[vV][eE]|[mM]|[lL][lL]|[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+";
const QWEN2: &str = r"'(?:[sS]|[tT]|[rR][eE]|[vV][eE]|[mM]|[lL][lL]|[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+";
/// As published: `(?i:'s)` also matches `'ſ`, which the forms above, those of llama.cpp, do not.
const LLAMA3_PUBLISHED: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+";
const QWEN2_PUBLISHED: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+";

/// The patterns of a tokenizer.json's `Split` that are known, and what they are here.
const PUBLISHED: [(&str, &str); 4] = [
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        LLAMA3_PUBLISHED,
    ),
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        QWEN2_PUBLISHED,
    ),
    (
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        GPT2,
    ),
    (
        r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        GPT2,
    ),
];

/// What a GGUF's `tokenizer.ggml.pre` stands for, with the defaults that come with the name.
pub(crate) struct Named {
    pub(crate) pretokenizer: Pretokenizer,
    /// A word that is a token is that token, whatever the merges would make of it.
    pub(crate) ignore_merges: bool,
    /// Whether BOS is added unless the file says otherwise.
    pub(crate) add_bos: bool,
}

/// Cuts text into words.
pub(crate) struct Pretokenizer {
    passes: Vec<Pass>,
}

enum Pass {
    Words(Words),
    /// Matches are pieces, and so is what lies between them.
    Isolate(Regex),
}

/// One of the expressions above, which match at every position of any text.
struct Words {
    regex: Regex,
    /// `\s*[\r\n]+` comes before `\s+`, so that a match that ends a line gives nothing back.
    lines: bool,
}

impl Pretokenizer {
    /// The pre-tokenizer that llama.cpp means by a name.
    pub(crate) fn named(name: &str) -> Result<Named, TokenizerError> {
        let words = |source| Pretokenizer::new().words(source);
        let (pretokenizer, llama3) = match name {
            "llama-bpe" | "llama3" | "llama-v3" | "falcon3" | "falcon-h1" | "pixtral"
            | "midm-2.0" | "lfm2" => (words(LLAMA3)?, true),
            "dbrx" | "smaug-bpe" | "glm4" | "chatglm-bpe" => (words(LLAMA3)?, false),
            "qwen2" | "deepseek-r1-qwen" | "stablelm2" | "megrez" | "hunyuan" | "grok-2" => {
                (words(QWEN2)?, false)
            }
            "gpt-2" | "phi-2" | "mpt" | "olmo" | "jais" | "gigachat" | "a.x-4.0" | "mellum"
            | "modern-bert" | "exaone4" | "trillion" => (words(GPT2)?, false),
            "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone"
            | "minerva-7b" => (Pretokenizer::new().isolate(r"\p{N}")?.words(GPT2)?, false),
            "falcon" => (
                Pretokenizer::new()
                    .isolate(r"[\p{P}$+<=>^~|`]+")?
                    .words(GPT2)?
                    .isolate("[0-9][0-9][0-9]")?,
                false,
            ),
            "default" => (
                Pretokenizer::new()
                    .isolate(r"[\p{P}$+<=>^~|]+")?
                    .words(GPT2)?
                    .isolate(r"\p{N}+")?
                    .isolate("[0-9][0-9][0-9]")?,
                false,
            ),
            _ => {
                return Err(TokenizerError::Unsupported {
                    key: "tokenizer.ggml.pre".to_owned(),
                    got: name.to_owned(),
                });
            }
        };
        Ok(Named {
            pretokenizer,
            ignore_merges: llama3,
            add_bos: llama3,
        })
    }

    /// No passes: the text is one word.
    pub(crate) fn new() -> Pretokenizer {
        Pretokenizer { passes: Vec::new() }
    }

    /// Whether there are no passes.
    pub(crate) fn is_empty(&self) -> bool {
        self.passes.is_empty()
    }

    /// Adds a `Split` of a tokenizer.json, if its pattern is one of those known.
    pub(crate) fn published(self, pattern: &str) -> Option<Result<Pretokenizer, TokenizerError>> {
        if pattern == "[0-9][0-9][0-9]" {
            return Some(self.isolate(pattern));
        }
        let (_, source) = PUBLISHED
            .iter()
            .find(|(published, _)| *published == pattern)?;
        Some(self.words(source))
    }

    /// Adds GPT-2's own words, as the pre-tokenizer `ByteLevel` does with `use_regex`.
    pub(crate) fn gpt2(self) -> Result<Pretokenizer, TokenizerError> {
        self.words(GPT2)
    }

    /// Adds the pre-tokenizer `Digits`.
    pub(crate) fn digits(self, individual: bool) -> Result<Pretokenizer, TokenizerError> {
        self.isolate(if individual { r"\p{N}" } else { r"\p{N}+" })
    }

    /// Adds the pre-tokenizer `Punctuation` with the behaviours `Isolated` and `Contiguous`: ASCII's and Unicode's.
    pub(crate) fn punctuation(self, contiguous: bool) -> Result<Pretokenizer, TokenizerError> {
        self.isolate(if contiguous {
            r"[\p{P}$+<=>^`|~]+"
        } else {
            r"[\p{P}$+<=>^`|~]"
        })
    }

    fn words(mut self, source: &'static str) -> Result<Pretokenizer, TokenizerError> {
        self.passes.push(Pass::Words(Words {
            regex: compile(source)?,
            lines: source.contains(r"\s*[\r\n]+"),
        }));
        Ok(self)
    }

    fn isolate(mut self, source: &str) -> Result<Pretokenizer, TokenizerError> {
        self.passes.push(Pass::Isolate(compile(source)?));
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

fn split<E>(
    passes: &[Pass],
    text: &str,
    each: &mut impl FnMut(&str) -> Result<(), E>,
) -> Result<(), E> {
    let Some((pass, rest)) = passes.split_first() else {
        return if text.is_empty() { Ok(()) } else { each(text) };
    };
    match pass {
        Pass::Words(words) => {
            let mut start = 0;
            while start < text.len() {
                let end = words.cut(text, start);
                split(rest, &text[start..end], each)?;
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
    }
}

impl Words {
    /// Where the word that begins at `start` ends.
    fn cut(&self, text: &str, start: usize) -> usize {
        let input = Input::new(text).range(start..).anchored(Anchored::Yes);
        let end = match self.regex.search_half(&input) {
            Some(half) if half.offset() > start => half.offset(),
            // Not reached: the alternatives cover every character. One character is progress in any case.
            _ => return start + text[start..].chars().next().map_or(1, char::len_utf8),
        };
        let word = &text[start..end];
        let Some(last) = word.chars().next_back().filter(|c| c.is_whitespace()) else {
            return end;
        };
        let run = !(self.lines && matches!(last, '\r' | '\n'));
        let before_last = end - last.len_utf8();
        if run && end < text.len() && before_last > start {
            before_last
        } else {
            end
        }
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
        assert_eq!(
            error.to_string(),
            "tokenizer.ggml.pre: \"(a+)+$\" is not supported"
        );
    }
}
