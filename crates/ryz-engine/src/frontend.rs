//! The thread that tokenises prompts, so that neither the caller nor the engine thread waits for a long text.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::Receiver;
use std::time::Instant;

use ryz_profile::Phase;
use ryz_tokenizer::{EncodeOptions, Tokenizer};

use crate::error::EngineError;
use crate::executor::panic_message;
use crate::shared::{Command, Shared};
use crate::submission::Submission;

/// What the thread is told.
pub(crate) enum TextCommand {
    /// Tokenise this prompt and submit it.
    Encode {
        text: String,
        options: EncodeOptions,
        submission: Box<Submission>,
    },
    /// End.
    Stop,
}

/// Works until it is told to stop.
pub(crate) fn run(
    commands: &Receiver<TextCommand>,
    tokenizer: &Tokenizer,
    context_length: usize,
    shared: &Shared,
) {
    while let Ok(TextCommand::Encode {
        text,
        options,
        mut submission,
    }) = commands.recv()
    {
        let began = Instant::now();
        let encoded = catch_unwind(AssertUnwindSafe(|| tokenizer.encode(&text, options)));
        shared.profiler.beside(Phase::Tokenize, began);
        let tokens = match encoded {
            Ok(Ok(tokens)) => {
                let longest = submission.terms.eviction.longest(context_length);
                check_prompt(&tokens, longest).map(|()| tokens)
            }
            Ok(Err(error)) => Err(error.into()),
            Err(panic) => Err(EngineError::Panicked {
                message: panic_message(panic.as_ref()),
            }),
        };
        match tokens {
            Ok(tokens) => {
                submission.tokens = tokens;
                shared.send(Command::Submit(submission));
            }
            // A consumer's panic must not end the others' tokenising.
            Err(error) => drop(catch_unwind(AssertUnwindSafe(|| submission.fail(error)))),
        }
    }
}

/// A prompt has a token, and the context has room for one more.
pub(crate) fn check_prompt(tokens: &[u32], context_length: usize) -> Result<(), EngineError> {
    if tokens.is_empty() {
        return Err(EngineError::invalid("prompt", "at least one token", 0));
    }
    check_length(tokens.len(), context_length - 1, context_length)
}

/// At most `limit` tokens.
pub(crate) fn check_length(
    got: usize,
    limit: usize,
    context_length: usize,
) -> Result<(), EngineError> {
    if got <= limit {
        return Ok(());
    }
    Err(EngineError::ContextOverflow {
        limit,
        context_length,
        got,
    })
}

/// Ids that the model has.
pub(crate) fn check_ids(
    option: &'static str,
    ids: &[u32],
    vocab_size: usize,
) -> Result<(), EngineError> {
    match ids.iter().find(|&&id| id as usize >= vocab_size) {
        None => Ok(()),
        Some(id) => Err(EngineError::invalid(
            option,
            format!("token ids below {vocab_size}"),
            id,
        )),
    }
}

/// Starts a named thread.
pub(crate) fn spawn(
    name: &str,
    work: impl FnOnce() + Send + 'static,
) -> Result<std::thread::JoinHandle<()>, EngineError> {
    spawn_with_stack(name, 2 << 20, work)
}

/// Starts a named thread with a stack of its own size.
pub(crate) fn spawn_with_stack(
    name: &str,
    stack: usize,
    work: impl FnOnce() + Send + 'static,
) -> Result<std::thread::JoinHandle<()>, EngineError> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .stack_size(stack)
        .spawn(work)
        .map_err(|source| EngineError::Thread { source })
}
