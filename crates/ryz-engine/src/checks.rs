//! Checks of what callers give: tokens and their number.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::EngineError;

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

/// Fails once the caller has cancelled.
pub(crate) fn check_cancelled(cancel: &AtomicBool) -> Result<(), EngineError> {
    match cancel.load(Ordering::Relaxed) {
        true => Err(EngineError::Aborted),
        false => Ok(()),
    }
}
