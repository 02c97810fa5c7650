//! Threads with names and stacks of their own, and what their panics said.

use std::sync::Arc;

use crate::error::EngineError;

/// Bytes of a thread's stack, whatever RUST_MIN_STACK says.
pub(crate) const STACK: usize = 2 << 20;

/// Starts a named thread.
pub(crate) fn spawn(
    name: &str,
    work: impl FnOnce() + Send + 'static,
) -> Result<std::thread::JoinHandle<()>, EngineError> {
    spawn_with_stack(name, STACK, work)
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

/// What a panic said.
pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> Arc<str> {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Arc::from(text.unwrap_or("no message"))
}
