//! What the engine thread is told.

use std::sync::mpsc::Sender;

use crate::memory::CompactRequest;
use crate::saved::RestoreRequest;
use crate::submission::Submission;

/// What the engine thread is told.
pub(crate) enum Command {
    /// A new request.
    Submit(Box<Submission>),
    /// Close the holes in the cache.
    Compact(CompactRequest),
    /// Put saved blocks into the prefix cache.
    Restore(Box<RestoreRequest>),
    /// Free the blocks that are only kept.
    ClearPrefixes,
    /// Some flag has changed: look again.
    Wake,
    /// End everything.
    Dispose,
}

/// The way to the engine thread.
#[derive(Clone)]
pub(crate) struct Commands(Sender<Command>);

impl Commands {
    pub fn new(sender: Sender<Command>) -> Self {
        Self(sender)
    }

    /// Tells the engine thread; nothing happens when it is gone.
    pub fn send(&self, command: Command) {
        // A closed channel means that the engine has been disposed, and then there is nothing to tell.
        drop(self.0.send(command));
    }
}
