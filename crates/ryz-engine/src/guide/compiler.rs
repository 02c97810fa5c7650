//! Compiling constraints: on a thread of its own, so that a large one delays nobody else, and each once.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::InferenceCapabilities;
use llguidance::{ParserFactory, regex_to_lark};
use ryz_tokenizer::{EncodeOptions, Tokenizer};
use serde_json::{Value, json};

use super::automaton::{Automaton, plain};
use super::constraint::Constraint;
use super::worker::{self, MaskCommand};
use super::{Guide, grammar, schema, tools};
use crate::chat::Chat;
use crate::error::EngineError;
use crate::executor::panic_message;
use crate::frontend::{TextCommand, spawn_with_stack};
use crate::guide::vocabulary::token_env;
use crate::shared::{Command, Shared};
use crate::submission::Submission;

/// Most compiled constraints that are kept, and the bytes of them and their texts.
const MAX_KEPT: usize = 32;
const MAX_KEPT_BYTES: usize = 64 << 20;
/// Classes of patterns that are ASCII's, as in JavaScript and in llguidance's JSON schema: `\d` and `\w`.
const ASCII_CLASSES: &str = "dw";
/// The compiler recurses; what it is given is bounded by [`schema`] and [`grammar`] to fit.
const COMPILE_STACK: usize = 128 << 20;
const MASK_STACK: usize = 16 << 20;

/// What compiles an engine's constraints. Its threads start with the first one.
pub(crate) struct Guides {
    parts: GuidesParts,
    running: OnceLock<Running>,
    kept: Arc<Mutex<Vec<Kept>>>,
}

/// What constraints are compiled with.
#[derive(Clone)]
pub(crate) struct GuidesParts {
    pub tokenizer: Tokenizer,
    pub vocab_size: usize,
    pub chat: Option<Arc<Chat>>,
    pub texts: Sender<TextCommand>,
    pub shared: Arc<Shared>,
}

struct Running {
    compile: Sender<CompileCommand>,
    masks: Sender<MaskCommand>,
}

enum CompileCommand {
    Compile(Box<Waiting>),
    Stop,
}

/// A request that waits for its constraint.
struct Waiting {
    constraint: Constraint,
    submission: Box<Submission>,
    /// Its prompt, if that is text.
    prompt: Option<(String, EncodeOptions)>,
}

struct Kept {
    constraint: Constraint,
    automaton: Arc<Automaton>,
    bytes: usize,
}

impl Guides {
    pub fn new(parts: GuidesParts) -> Self {
        Self {
            parts,
            running: OnceLock::new(),
            kept: Arc::default(),
        }
    }

    /// Compiles the constraint and passes the request on; errors reach its sink.
    pub fn submit(
        &self,
        constraint: Constraint,
        mut submission: Box<Submission>,
        prompt: Option<(String, EncodeOptions)>,
        adopt: impl Fn(JoinHandle<()>),
    ) -> Result<(), EngineError> {
        let running = match self.running.get() {
            Some(running) => running,
            None => self.start(adopt)?,
        };
        if let Some(automaton) = find(&self.kept, &constraint) {
            let shared = Arc::clone(&self.parts.shared);
            submission.guide(Guide::new(automaton, running.masks.clone(), shared));
            pass_on(&self.parts, submission, prompt);
            return Ok(());
        }
        let waiting = Waiting {
            constraint,
            submission,
            prompt,
        };
        // A closed channel drops the submission, which tells its sink that the engine is disposed.
        drop(
            running
                .compile
                .send(CompileCommand::Compile(Box::new(waiting))),
        );
        Ok(())
    }

    /// Ends the threads, if they were started.
    pub fn stop(&self) {
        if let Some(running) = self.running.get() {
            drop(running.compile.send(CompileCommand::Stop));
            drop(running.masks.send(MaskCommand::Stop));
        }
    }

    fn start(&self, adopt: impl Fn(JoinHandle<()>)) -> Result<&Running, EngineError> {
        let (compile, compiled) = channel();
        let (masks, masked) = channel();
        let compiler = Compiler {
            parts: self.parts.clone(),
            masks: masks.clone(),
            kept: Arc::clone(&self.kept),
            factory: None,
        };
        let threads = [
            spawn_with_stack("ryz-grammar", COMPILE_STACK, move || {
                compiler.run(&compiled)
            })?,
            spawn_with_stack("ryz-mask", MASK_STACK, move || worker::run(&masked))?,
        ];
        // When two requests are the first at once, one pair of threads ends for want of anyone who could ask it.
        let running = self.running.get_or_init(|| Running { compile, masks });
        threads.into_iter().for_each(adopt);
        Ok(running)
    }
}

/// To the tokenizer, or to the engine's thread where the prompt is tokens.
fn pass_on(
    parts: &GuidesParts,
    submission: Box<Submission>,
    prompt: Option<(String, EncodeOptions)>,
) {
    match prompt {
        Some((text, options)) => {
            let command = TextCommand::Encode {
                text,
                options,
                submission,
            };
            drop(parts.texts.send(command));
        }
        None => parts.shared.send(Command::Submit(submission)),
    }
}

/// A kept constraint, which becomes the one used last.
fn find(kept: &Mutex<Vec<Kept>>, constraint: &Constraint) -> Option<Arc<Automaton>> {
    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
    let at = kept
        .iter()
        .position(|kept| kept.constraint == *constraint)?;
    let found = kept.remove(at);
    let automaton = Arc::clone(&found.automaton);
    kept.push(found);
    Some(automaton)
}

/// The thread that compiles.
struct Compiler {
    parts: GuidesParts,
    masks: Sender<MaskCommand>,
    kept: Arc<Mutex<Vec<Kept>>>,
    factory: Option<ParserFactory>,
}

impl Compiler {
    fn run(mut self, commands: &Receiver<CompileCommand>) {
        while let Ok(CompileCommand::Compile(waiting)) = commands.recv() {
            let Waiting {
                constraint,
                mut submission,
                prompt,
            } = *waiting;
            let compiled = catch_unwind(AssertUnwindSafe(|| self.compiled(constraint)));
            let compiled = compiled.unwrap_or_else(|panic| {
                Err(EngineError::GrammarFault {
                    message: panic_message(panic.as_ref()).to_string(),
                })
            });
            match compiled {
                Ok(automaton) => {
                    let shared = Arc::clone(&self.parts.shared);
                    submission.guide(Guide::new(automaton, self.masks.clone(), shared));
                    pass_on(&self.parts, submission, prompt);
                }
                // A consumer's panic must not end the others' compiling.
                Err(error) => {
                    drop(catch_unwind(AssertUnwindSafe(|| submission.fail(error))));
                }
            }
        }
    }

    fn compiled(&mut self, constraint: Constraint) -> Result<Arc<Automaton>, EngineError> {
        // Another request may have brought it meanwhile.
        if let Some(automaton) = find(&self.kept, &constraint) {
            return Ok(automaton);
        }
        let automaton = Arc::new(self.compile(&constraint)?);
        let bytes = automaton.bytes() + constraint.len();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push(Kept {
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

    fn compile(&mut self, constraint: &Constraint) -> Result<Automaton, EngineError> {
        match constraint {
            Constraint::Json => self.schema("format", &json!({ "type": "object" })),
            Constraint::JsonSchema(text) => {
                let root = schema::parse("format.schema", text)?;
                self.schema("format.schema", &root)
            }
            Constraint::Regex(pattern) => {
                schema::limit(
                    "format.pattern",
                    "bytes",
                    pattern.len(),
                    schema::MAX_PATTERN_BYTES,
                )?;
                let pattern = regex_to_lark(without_anchors(pattern), ASCII_CLASSES);
                let top = TopLevelGrammar::from_lark(format!("start: /{pattern}/"));
                self.grammar("format.pattern", top)
            }
            Constraint::Grammar(text) => {
                grammar::check("format.grammar", text)?;
                let top = TopLevelGrammar::from_lark(text.clone());
                self.grammar("format.grammar", top)
            }
            Constraint::Tools {
                tools,
                choice,
                in_thought,
            } => {
                let chat = self.parts.chat.as_ref();
                let chat = chat.ok_or(EngineError::NoChatTemplate)?;
                let form = chat.answer_form(&self.parts.tokenizer, true)?;
                let request = tools::Request {
                    tools,
                    choice,
                    in_thought: *in_thought,
                };
                let text = tools::grammar(form, &self.parts.tokenizer, &request)?;
                self.grammar("tools", TopLevelGrammar::from_lark(text))
            }
        }
    }

    fn schema(&mut self, option: &str, root: &Value) -> Result<Automaton, EngineError> {
        schema::check(option, root)?;
        let top = TopLevelGrammar::from_json_schema(schema::with_white_space(root.clone()));
        self.grammar(option, top).map_err(|error| match error {
            EngineError::InvalidGrammar { message, .. } => EngineError::InvalidGrammar {
                option: format!("{option}{}", schema::place_of_fault(root)),
                message,
            },
            other => other,
        })
    }

    fn grammar(&mut self, option: &str, top: TopLevelGrammar) -> Result<Automaton, EngineError> {
        let parser = self.factory()?.create_parser(top);
        parser.map(Automaton::new).map_err(|error| {
            let message = plain(&format!("{error:#}"));
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
    fn factory(&mut self) -> Result<&ParserFactory, EngineError> {
        if self.factory.is_none() {
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
            self.factory = Some(factory);
        }
        self.factory.as_ref().ok_or(EngineError::GrammarFault {
            message: "no vocabulary".to_owned(),
        })
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
        initial_lexer_fuel: 1_000_000,
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
