//! llguidance's automaton with its faults told apart.

use std::panic::AssertUnwindSafe;

use llguidance::api::StopReason;
use llguidance::panic_utils::catch_unwind;
use llguidance::toktrie::SimpleVob;
use llguidance::{CancellationHandle, TokenParser};

use super::keys::KeyTracker;
use crate::error::EngineError;

/// Most characters of a message.
const MAX_MESSAGE: usize = 500;

/// A constraint and how far into it a text has come.
pub(super) struct Automaton {
    parser: TokenParser,
    /// Tokens accepted so far.
    accepted: usize,
    /// Of text that is JSON as a whole.
    keys: Option<KeyTracker>,
}

impl Automaton {
    /// The beginning of a constraint.
    pub fn new(mut parser: TokenParser) -> Self {
        parser.start_without_prompt();
        Self {
            parser,
            accepted: 0,
            keys: None,
        }
    }

    /// The beginning of a constraint whose text is JSON as a whole: keys do not repeat in an object.
    pub fn of_json(parser: TokenParser) -> Self {
        let keys = KeyTracker::new(parser.token_env.tok_trie());
        Self {
            keys: Some(keys),
            ..Self::new(parser)
        }
    }

    /// A copy that shares nothing: what one computes, or how one fails, is nothing to the other.
    pub fn copy(&self) -> Self {
        Self {
            parser: self.parser.deep_clone(),
            accepted: self.accepted,
            keys: self.keys.clone(),
        }
    }

    /// What ends whatever it is computing.
    pub fn cancellable(&mut self) -> CancellationHandle {
        self.parser.enable_cancellation()
    }

    /// Bytes of its lexer, roughly.
    pub fn bytes(&self) -> usize {
        self.parser.parser.lexer_stats().num_bytes
    }

    /// The tokens that may come next, end tokens among them where the text may end.
    pub fn mask(&mut self) -> Result<SimpleVob, EngineError> {
        let parser = &mut self.parser;
        let mask = catch_unwind(AssertUnwindSafe(|| parser.compute_mask()));
        let mut mask = mask.map_err(|error| self.refusal(&error.to_string()))?;
        if let Some(keys) = &self.keys {
            keys.restrict(&mut mask, self.parser.token_env.tok_trie());
        }
        Ok(mask)
    }

    /// Goes on by a token. `true` when the text is complete and nothing can follow.
    pub fn accept(&mut self, token: u32) -> Result<bool, EngineError> {
        let parser = &mut self.parser;
        let accepted = catch_unwind(AssertUnwindSafe(|| {
            parser.consume_token(token)?;
            parser.check_stop()
        }));
        self.accepted += 1;
        if let Some(keys) = &mut self.keys {
            keys.push(self.parser.token_env.tok_trie().token(token));
        }
        accepted.map_err(|error| self.refusal(&error.to_string()))
    }

    /// Whether the text so far is complete, whether or not something can follow.
    pub fn is_whole(&mut self) -> bool {
        let parser = &mut self.parser;
        catch_unwind(AssertUnwindSafe(|| Ok(parser.is_accepting()))).unwrap_or(false)
    }

    /// Whether this text from the beginning would be complete.
    pub fn matches(&self, text: &str) -> bool {
        let trie = self.parser.token_env.tok_trie();
        let tokens = trie.greedy_tokenize(text.as_bytes());
        // A byte that is no token by itself is left out: then it cannot be said.
        let length: usize = tokens.iter().map(|&token| trie.token_len(token)).sum();
        let mut automaton = self.copy();
        let fits = |token| !automaton.parser.stopped() && automaton.accept(token).is_ok();
        length == text.len() && tokens.into_iter().all(fits) && automaton.is_whole()
    }

    fn refusal(&self, message: &str) -> EngineError {
        let position = self.accepted;
        match self.parser.stop_reason() {
            StopReason::LexerTooComplex | StopReason::ParserTooComplex => {
                EngineError::GrammarLimit {
                    option: "format".to_owned(),
                    message: format!("is too complex at token {position}: {}", plain(message)),
                }
            }
            StopReason::NoExtension | StopReason::NoExtensionBias => {
                EngineError::GrammarStuck { position }
            }
            _ => EngineError::GrammarFault {
                message: format!("at token {position}: {}", plain(message)),
            },
        }
    }
}

/// llguidance's message without its marks, and short: it may quote a whole grammar.
pub(super) fn plain(message: &str) -> String {
    let message = message.split("<backtrace>").next().unwrap_or_default();
    let message = message.trim();
    match message.char_indices().nth(MAX_MESSAGE) {
        Some((end, _)) => format!("{}…", &message[..end]),
        None => message.to_owned(),
    }
}
