//! Tokens that are found in text before anything is merged, and those that end a generation.

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};

use crate::{TokenizerError, vocab::Kind};

/// Names that end a generation in whatever vocabulary they occur, as llama.cpp collects them.
const END_OF_GENERATION: [&str; 21] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
];

/// Fill-in-the-middle names whose tokens end a generation too: padding, repository, file.
const END_OF_INFILL: [&str; 11] = [
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<PAD>",
    "[PAD]",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
    "<|file_sep|>",
];

/// Whether a token of this name ends a generation.
pub(crate) fn ends_generation(text: &str) -> bool {
    END_OF_GENERATION.contains(&text) || ends_infill(text)
}

/// Whether a token of this name ends what is filled in: it is no instruction in itself.
pub(crate) fn ends_infill(text: &str) -> bool {
    END_OF_INFILL.contains(&text)
}

/// An added token and how it takes its neighbourhood.
#[derive(Clone, Debug)]
pub(crate) struct Added {
    pub(crate) id: u32,
    pub(crate) text: String,
    pub(crate) kind: Kind,
    /// White space before it belongs to it.
    pub(crate) lstrip: bool,
    /// White space after it belongs to it.
    pub(crate) rstrip: bool,
}

/// Finds added tokens in text, the longest at each place.
pub(crate) struct AddedTokens {
    /// All of them, for text that may yield control tokens.
    all: Finder,
    /// Those that any text yields.
    user_defined: Finder,
}

#[derive(Default)]
struct Finder {
    automaton: Option<AhoCorasick>,
    tokens: Vec<Added>,
}

/// A piece of text, or a token that was found.
pub(crate) enum Fragment<'a> {
    Text(&'a str),
    Token(u32),
}

impl AddedTokens {
    /// Builds the automata; an empty text is never found.
    pub(crate) fn new(tokens: Vec<Added>) -> Result<AddedTokens, TokenizerError> {
        let mut tokens = tokens;
        tokens.retain(|token| !token.text.is_empty());
        let user_defined = tokens
            .iter()
            .filter(|token| token.kind == Kind::UserDefined)
            .cloned()
            .collect();
        Ok(AddedTokens {
            all: Finder::new(tokens)?,
            user_defined: Finder::new(user_defined)?,
        })
    }

    /// Gives the text's fragments in order until `each` fails.
    pub(crate) fn split<'t>(
        &self,
        text: &'t str,
        parse_special: bool,
        each: &mut impl FnMut(Fragment<'t>) -> Result<(), TokenizerError>,
    ) -> Result<(), TokenizerError> {
        let finder = if parse_special {
            &self.all
        } else {
            &self.user_defined
        };
        let mut start = 0;
        if let Some(automaton) = &finder.automaton {
            for found in automaton.find_iter(text) {
                let token = &finder.tokens[found.pattern().as_usize()];
                // A match inside the white space that the token before has taken.
                if found.start() < start {
                    continue;
                }
                let mut before = &text[start..found.start()];
                if token.lstrip {
                    before = before.trim_end();
                }
                if !before.is_empty() {
                    each(Fragment::Text(before))?;
                }
                each(Fragment::Token(token.id))?;
                start = found.end();
                if token.rstrip {
                    let rest = &text[start..];
                    start += rest.len() - rest.trim_start().len();
                }
            }
        }
        if start < text.len() {
            each(Fragment::Text(&text[start..]))?;
        }
        Ok(())
    }

    /// All of them.
    pub(crate) fn tokens(&self) -> &[Added] {
        &self.all.tokens
    }

    /// The id of an added token's text.
    pub(crate) fn token_to_id(&self, text: &str) -> Option<u32> {
        let mut tokens = self.all.tokens.iter();
        tokens
            .find(|token| token.text == text)
            .map(|token| token.id)
    }
}

impl Finder {
    fn new(tokens: Vec<Added>) -> Result<Finder, TokenizerError> {
        if tokens.is_empty() {
            return Ok(Finder::default());
        }
        // The contiguous automaton is the one whose size is a small multiple of the patterns'.
        let automaton = AhoCorasick::builder()
            .kind(Some(AhoCorasickKind::ContiguousNFA))
            .match_kind(MatchKind::LeftmostLongest)
            .build(tokens.iter().map(|token| &token.text))
            .map_err(|source| TokenizerError::Model {
                source: Box::new(source),
            })?;
        Ok(Finder {
            automaton: Some(automaton),
            tokens,
        })
    }
}
