//! Compiling constraints: on threads of their own, so that a large one delays nobody else, and each once.
//!
//! Compiling cannot be interrupted, so what is compiled is bounded before ([`schema`], [`grammar`], [`limits`]): it ends within
//! a second by itself. Nobody waits for a thread that is at it, neither another request nor the end of the engine.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::InferenceCapabilities;
use llguidance::{ParserFactory, regex_to_lark};
use ryz_tokenizer::{EncodeOptions, Tokenizer};
use serde_json::json;

use super::automaton::{Automaton, plain};
use super::constraint::{Constraint, SchemaSettings};
use super::pool::Pool;
use super::worker::{self, MaskTask};
use super::{Guide, grammar, schema, tools};
use crate::chat::Chat;
use crate::command::{Command, Commands};
use crate::error::EngineError;
use crate::frontend::TextCommand;
use crate::guide::vocabulary::token_env;
use crate::state::EngineState;
use crate::submission::Submission;
use crate::threads::panic_message;

/// Most compiled constraints that are kept, and the bytes of them and their texts.
const MAX_KEPT: usize = 32;
const MAX_KEPT_BYTES: usize = 64 << 20;
/// Classes of patterns that are ASCII's, as in JavaScript: `\d` and `\w`.
const ASCII_CLASSES: &str = "dw";
/// The compiler recurses; what it is given is bounded by [`schema`] and [`grammar`] to fit.
const COMPILE_STACK: usize = 256 << 20;
const MASK_STACK: usize = 16 << 20;
/// Most constraints that are compiled, and masks that are computed, at the same time.
const MAX_COMPILERS: usize = 2;
const MAX_MASKS: usize = 4;

/// What compiles an engine's constraints. Its threads start with the first one.
pub(crate) struct Guides {
    compiler: Arc<Compiler>,
    running: OnceLock<GuideThreads>,
}

/// What constraints are compiled with.
pub(crate) struct GuidesParts {
    pub tokenizer: Tokenizer,
    pub vocab_size: usize,
    pub chat: Option<Arc<Chat>>,
    pub texts: Sender<TextCommand>,
    pub commands: Commands,
    pub state: Arc<EngineState>,
}

struct GuideThreads {
    compile: Pool<PendingRequest>,
    masks: Pool<MaskTask>,
}

/// A request that waits for its constraint.
struct PendingRequest {
    constraint: Constraint,
    submission: Box<Submission>,
    /// Its prompt, if that is text.
    prompt: Option<(String, EncodeOptions)>,
    masks: Pool<MaskTask>,
}

struct KeptConstraint {
    constraint: Constraint,
    automaton: Arc<Automaton>,
    bytes: usize,
}

impl Guides {
    pub fn new(parts: GuidesParts) -> Self {
        Self {
            compiler: Arc::new(Compiler {
                parts,
                kept: Mutex::default(),
                factory: Mutex::default(),
            }),
            running: OnceLock::new(),
        }
    }

    /// Compiles the constraint and passes the request on; errors reach its sink.
    pub fn submit(
        &self,
        constraint: Constraint,
        mut submission: Box<Submission>,
        prompt: Option<(String, EncodeOptions)>,
    ) -> Result<(), EngineError> {
        let running = self.running.get_or_init(|| {
            let compiler = Arc::clone(&self.compiler);
            GuideThreads {
                compile: Pool::new(
                    "ryz-grammar",
                    COMPILE_STACK,
                    MAX_COMPILERS,
                    move |waiting| {
                        compiler.take(waiting);
                    },
                ),
                masks: Pool::new("ryz-mask", MASK_STACK, MAX_MASKS, worker::run),
            }
        });
        let masks = running.masks.clone();
        if let Some(automaton) = self.compiler.find(&constraint) {
            let shared = Arc::clone(&self.compiler.parts.state);
            submission.guide(Guide::new(automaton, masks, shared));
            self.compiler.pass_on(submission, prompt);
            return Ok(());
        }
        // One that is dropped with its engine says so to its sink.
        running.compile.push(PendingRequest {
            constraint,
            submission,
            prompt,
            masks,
        })
    }

    /// Ends the threads, if they were started; one that is at work ends with it.
    pub fn stop(&self) {
        if let Some(running) = self.running.get() {
            running.compile.stop();
            running.masks.stop();
        }
    }
}

/// What the threads that compile share.
struct Compiler {
    parts: GuidesParts,
    kept: Mutex<Vec<KeptConstraint>>,
    factory: Mutex<Option<Arc<ParserFactory>>>,
}

impl Compiler {
    /// To the tokenizer, or to the engine's thread where the prompt is tokens.
    fn pass_on(&self, submission: Box<Submission>, prompt: Option<(String, EncodeOptions)>) {
        match prompt {
            Some((text, options)) => {
                let command = TextCommand::Encode {
                    text,
                    options,
                    submission,
                };
                drop(self.parts.texts.send(command));
            }
            None => self.parts.commands.send(Command::Submit(submission)),
        }
    }

    /// A kept constraint, which becomes the one used last.
    fn find(&self, constraint: &Constraint) -> Option<Arc<Automaton>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let at = kept
            .iter()
            .position(|kept| kept.constraint == *constraint)?;
        let found = kept.remove(at);
        let automaton = Arc::clone(&found.automaton);
        kept.push(found);
        Some(automaton)
    }

    /// Compiles for a request that waits, unless nobody waits any more.
    fn take(&self, waiting: PendingRequest) {
        let PendingRequest {
            constraint,
            mut submission,
            prompt,
            masks,
        } = waiting;
        if submission.control.cancelled.load(Ordering::SeqCst) {
            self.pass_on(submission, None);
            return;
        }
        let compiled = catch_unwind(AssertUnwindSafe(|| self.compiled(constraint)));
        let compiled = compiled.unwrap_or_else(|panic| {
            Err(EngineError::GrammarFault {
                message: panic_message(panic.as_ref()).to_string(),
            })
        });
        match compiled {
            Ok(automaton) => {
                let shared = Arc::clone(&self.parts.state);
                submission.guide(Guide::new(automaton, masks, shared));
                self.pass_on(submission, prompt);
            }
            // A consumer's panic must not end the others' compiling.
            Err(error) => {
                drop(catch_unwind(AssertUnwindSafe(|| submission.fail(error))));
            }
        }
    }

    fn compiled(&self, constraint: Constraint) -> Result<Arc<Automaton>, EngineError> {
        // Another request may have brought it meanwhile.
        if let Some(automaton) = self.find(&constraint) {
            return Ok(automaton);
        }
        let automaton = Arc::new(self.compile(&constraint)?);
        let bytes = automaton.bytes() + constraint.len();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push(KeptConstraint {
            constraint,
            automaton: Arc::clone(&automaton),
            bytes,
        });
        while kept.len() > MAX_KEPT
            || kept.iter().map(|kept| kept.bytes).sum::<usize>() > MAX_KEPT_BYTES
        {
            kept.remove(0);
        }
        Ok(automaton)
    }

    fn compile(&self, constraint: &Constraint) -> Result<Automaton, EngineError> {
        let (option, text) = match constraint {
            Constraint::Json => {
                let any = json!({ "type": "object" });
                let settings = SchemaSettings::default();
                ("format", schema::grammar("format", &any, settings)?)
            }
            Constraint::JsonSchema { schema, settings } => {
                let root = schema::parse("format.schema", schema)?;
                let text = schema::grammar("format.schema", &root, *settings)?;
                ("format.schema", text)
            }
            Constraint::Regex(pattern) => {
                let most = schema::MAX_PATTERN_BYTES;
                schema::limit("format.pattern", "bytes", pattern.len(), most)?;
                let pattern = regex_to_lark(without_anchors(pattern), ASCII_CLASSES);
                let unforced = if schema::repeats_much(&pattern) || pattern.len() > 200 {
                    "\n%llguidance { \"no_forcing\": true }"
                } else {
                    ""
                };
                ("format.pattern", format!("start: /{pattern}/{unforced}\n"))
            }
            Constraint::Grammar(text) => {
                ("format.grammar", grammar::expanded("format.grammar", text)?)
            }
            Constraint::Tools {
                tools,
                choice,
                in_thought,
            } => {
                let chat = self.parts.chat.as_ref();
                let chat = chat.ok_or(EngineError::NoChatTemplate)?;
                let form = chat.answer_form(&self.parts.tokenizer, true, &|| false)?;
                let request = tools::Request {
                    tools,
                    choice,
                    in_thought: *in_thought,
                };
                let text = tools::grammar(form, &self.parts.tokenizer, &request)?;
                ("tools", text)
            }
        };
        let parser = self
            .factory()?
            .create_parser(TopLevelGrammar::from_lark(text));
        let is_json = matches!(constraint, Constraint::Json | Constraint::JsonSchema { .. });
        let automaton = parser.map(|parser| match is_json {
            true => Automaton::of_json(parser),
            false => Automaton::new(parser),
        });
        automaton.map_err(|error| {
            let mut message = plain(&format!("{error:#}"));
            if option != "format.grammar" {
                // What follows quotes a grammar that nobody wrote.
                message.truncate(message.find('\n').unwrap_or(message.len()));
            }
            if message.starts_with("panic") {
                return EngineError::GrammarFault { message };
            }
            let option = option.to_owned();
            if is_limit(&message) {
                EngineError::GrammarLimit { option, message }
            } else {
                EngineError::InvalidGrammar { option, message }
            }
        })
    }

    /// The vocabulary's trie, made once.
    fn factory(&self) -> Result<Arc<ParserFactory>, EngineError> {
        let mut kept = self.factory.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(factory) = kept.as_ref() {
            return Ok(Arc::clone(factory));
        }
        let tokens = token_env(&self.parts.tokenizer, self.parts.vocab_size);
        let factory = ParserFactory::new(
            &tokens,
            InferenceCapabilities::default(),
            &SlicedBiasComputer::general_slices(),
        );
        let mut factory = factory.map_err(|error| EngineError::GrammarFault {
            message: plain(&error.to_string()),
        })?;
        factory.quiet();
        *factory.limits_mut() = limits();
        let factory = Arc::new(factory);
        *kept = Some(Arc::clone(&factory));
        Ok(factory)
    }
}

/// A pattern without `^` and `$` around it: the whole text is matched anyway.
fn without_anchors(pattern: &str) -> &str {
    let pattern = pattern.strip_prefix('^').unwrap_or(pattern);
    let Some(rest) = pattern.strip_suffix('$') else {
        return pattern;
    };
    let escapes = rest.bytes().rev().take_while(|&byte| byte == b'\\').count();
    if escapes % 2 == 0 { rest } else { pattern }
}

/// What an automaton may cost: about 20 ms to begin, 15 ms and a few MiB for a token, 50 MiB in all.
fn limits() -> ParserLimits {
    ParserLimits {
        max_items_in_row: 2000,
        initial_lexer_fuel: 500_000,
        step_lexer_fuel: 200_000,
        step_max_items: 50_000,
        max_lexer_states: 25_000,
        max_grammar_size: 100_000,
        precompute_large_lexemes: true,
        verbose_errors: false,
    }
}

/// Whether a refusal is about size: llguidance has messages only.
fn is_limit(message: &str) -> bool {
    [
        "too big",
        "too large",
        "too many",
        "too complex",
        "too deeply",
        "exceeded",
        "fuel",
        "nesting",
        "is too high",
    ]
    .iter()
    .any(|words| message.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors_are_taken_off_and_characters_are_not() {
        assert_eq!(without_anchors("^a|b$"), "a|b");
        assert_eq!(without_anchors(r"\^a\$"), r"\^a\$");
        assert_eq!(without_anchors(r"a\\$"), r"a\\");
        assert_eq!(without_anchors("^$"), "");
    }
}
