//! Tokenising, off the caller's thread and the engine's, so that neither waits for a long text.
//!
//! Short texts are done by one thread in turn. Each long one has a thread of its own, so that short
//! ones do not wait for it; a few at a time, the others in turn. A text that cannot fit the context
//! is refused before any work, and work ends within a slice of its cancellation.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::thread;
use std::time::Instant;

use ryz_profile::Phase;
use ryz_tokenizer::{Bounds, EncodeOptions, Encoded, Tokenizer, TokenizerError};

use crate::checks::check_prompt;
use crate::command::{Command, Commands};
use crate::error::EngineError;
use crate::request::Reply;
use crate::state::EngineState;
use crate::submission::Submission;
use crate::threads::panic_message;

/// Bytes of a text that is worth a thread.
const LONG: usize = 1 << 15;
/// Long texts that are tokenised at once.
const MOST_LONG: usize = 4;

/// What the thread is told.
pub(crate) enum TextCommand {
    /// Tokenise this prompt and submit it.
    Encode {
        text: String,
        options: EncodeOptions,
        submission: Box<Submission>,
    },
    /// Tokenise this text.
    Tokenize(Box<TokenizeTask>),
    /// A long text is done.
    Done,
    /// End.
    Stop,
}

/// A text whose tokens are asked for.
pub(crate) struct TokenizeTask {
    pub text: String,
    pub options: EncodeOptions,
    /// EOS is put behind it, where the model's files say so.
    pub whole: bool,
    /// The most tokens that it may be, and the context that this comes from.
    pub fits: Option<(usize, usize)>,
    pub cancelled: Arc<AtomicBool>,
    pub reply: Option<Reply<Vec<u32>>>,
}

impl TokenizeTask {
    fn answer(&mut self, result: Result<Vec<u32>, EngineError>) {
        if let Some(reply) = self.reply.take() {
            // A consumer's panic must not end the others' tokenising.
            drop(catch_unwind(AssertUnwindSafe(|| reply(result))));
        }
    }
}

impl Drop for TokenizeTask {
    fn drop(&mut self) {
        self.answer(Err(EngineError::Disposed));
    }
}

/// What all texts of an engine share.
#[derive(Clone, Copy)]
struct Desk<'a> {
    tokenizer: &'a Tokenizer,
    context_length: usize,
    commands: &'a Commands,
    state: &'a EngineState,
}

/// Works until it is told to stop. `commands_back` is the other end of `commands`.
pub(crate) fn run(
    commands: &Receiver<TextCommand>,
    commands_back: &Sender<TextCommand>,
    tokenizer: &Tokenizer,
    context_length: usize,
    engine: &Commands,
    state: &EngineState,
) {
    let desk = Desk {
        tokenizer,
        context_length,
        commands: engine,
        state,
    };
    thread::scope(|scope| {
        let mut waiting: VecDeque<TextCommand> = VecDeque::new();
        let mut running = 0;
        while let Ok(command) = commands.recv() {
            match command {
                TextCommand::Stop => break,
                TextCommand::Done => running -= 1,
                command if desk.is_long(&command) => waiting.push_back(command),
                command => desk.work(command),
            }
            while running < MOST_LONG
                && let Some(command) = waiting.pop_front()
            {
                let done = commands_back.clone();
                let builder = thread::Builder::new().name("ryz-tokenize-long".to_owned());
                let spawned = builder.spawn_scoped(scope, move || {
                    desk.work(command);
                    drop(done.send(TextCommand::Done));
                });
                // Without a thread the command is dropped, which answers it.
                running += usize::from(spawned.is_ok());
            }
        }
    });
}

impl Desk<'_> {
    /// Whether a text takes long: one that is refused at once does not.
    fn is_long(&self, command: &TextCommand) -> bool {
        let (text, limit) = match command {
            TextCommand::Encode {
                text, submission, ..
            } => (text, self.limit(submission)),
            TextCommand::Tokenize(task) => {
                (&task.text, task.fits.map_or(usize::MAX, |fits| fits.0))
            }
            TextCommand::Done | TextCommand::Stop => return false,
        };
        text.len() > LONG && text.len() <= self.tokenizer.most_bytes(limit)
    }

    /// The most tokens of a prompt, which leave room for one more.
    fn limit(&self, submission: &Submission) -> usize {
        let longest = submission.terms.eviction.longest(self.context_length);
        longest.saturating_sub(1)
    }

    fn work(&self, command: TextCommand) {
        match command {
            TextCommand::Encode {
                text,
                options,
                submission,
            } => self.prompt(&text, options, submission),
            TextCommand::Tokenize(mut task) => {
                let cancelled = Arc::clone(&task.cancelled);
                let cancelled = || cancelled.load(Ordering::Relaxed);
                let (limit, context) = task.fits.unwrap_or((usize::MAX, usize::MAX));
                let encoded =
                    self.encode(&task.text, limit, context, &cancelled, |text, bounds| {
                        if task.whole {
                            self.tokenizer.encode_within(text, task.options, bounds)
                        } else {
                            self.tokenizer.encode_prompt(text, task.options, bounds)
                        }
                    });
                task.answer(encoded.map(|encoded| encoded.ids));
            }
            TextCommand::Done | TextCommand::Stop => {}
        }
    }

    fn prompt(&self, text: &str, options: EncodeOptions, mut submission: Box<Submission>) {
        let limit = self.limit(&submission);
        let control = Arc::clone(&submission.control);
        let cancelled = || control.cancelled.load(Ordering::Relaxed);
        let encoded = self.encode(
            text,
            limit,
            self.context_length,
            &cancelled,
            |text, bounds| self.tokenizer.encode_prompt(text, options, bounds),
        );
        let checked = encoded.and_then(|encoded| {
            check_prompt(&encoded.ids, limit.saturating_add(1))?;
            Ok(encoded)
        });
        match checked {
            Ok(Encoded { ids, unknown }) => {
                submission.tokens = ids;
                submission.unknown(unknown);
                self.commands.send(Command::Submit(submission));
            }
            Err(EngineError::Aborted) => {
                // The engine's thread tells a generation, as it tells all others.
                if submission.is_generation() {
                    self.commands.send(Command::Submit(submission));
                } else {
                    let refuse = || submission.fail(EngineError::Aborted);
                    drop(catch_unwind(AssertUnwindSafe(refuse)));
                }
            }
            Err(error) => drop(catch_unwind(AssertUnwindSafe(|| submission.fail(error)))),
        }
    }

    /// Tokenises within bounds; a panic is an error.
    fn encode(
        &self,
        text: &str,
        limit: usize,
        context_length: usize,
        cancelled: &dyn Fn() -> bool,
        work: impl FnOnce(&str, Bounds<'_>) -> Result<Encoded, TokenizerError>,
    ) -> Result<Encoded, EngineError> {
        let too_long = || EngineError::TextOverflow {
            limit,
            context_length,
            bytes: text.len(),
        };
        if text.len() > self.tokenizer.most_bytes(limit) {
            return Err(too_long());
        }
        let disposed = || self.state.disposed.load(Ordering::Relaxed);
        let bounds = Bounds {
            most: limit,
            cancelled: &|| disposed() || cancelled(),
        };
        let began = Instant::now();
        let encoded = catch_unwind(AssertUnwindSafe(|| work(text, bounds)));
        self.state.profiler.beside(Phase::Tokenize, began);
        match encoded {
            Ok(Ok(encoded)) => Ok(encoded),
            Ok(Err(TokenizerError::TooManyTokens { .. })) => Err(too_long()),
            Ok(Err(TokenizerError::Cancelled)) if disposed() => Err(EngineError::Disposed),
            Ok(Err(TokenizerError::Cancelled)) => Err(EngineError::Aborted),
            Ok(Err(error)) => Err(error.into()),
            Err(panic) => Err(EngineError::Panicked {
                message: panic_message(panic.as_ref()),
            }),
        }
    }
}
