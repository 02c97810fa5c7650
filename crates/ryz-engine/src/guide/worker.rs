//! The thread that computes masks while the engine's threads compute the forward pass.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use llguidance::toktrie::SimpleVob;

use super::automaton::Automaton;
use crate::error::EngineError;

/// What the thread is told.
pub(super) enum MaskCommand {
    /// Compute the mask of the next token.
    Compute { from: From, reply: Sender<Ready> },
    /// End.
    Stop,
}

/// Whose mask.
pub(super) enum From {
    /// The beginning of a constraint: the copy is made here, too.
    Start(Arc<Automaton>),
    /// An automaton under way.
    Live(Box<Automaton>),
}

/// A mask, and the automaton it is of.
pub(super) struct Ready {
    pub automaton: Box<Automaton>,
    pub mask: Result<SimpleVob, EngineError>,
    pub took: Duration,
}

/// Works until it is told to stop. Who waits for a mask that a panic swallowed finds its channel closed.
pub(super) fn run(commands: &Receiver<MaskCommand>) {
    while let Ok(MaskCommand::Compute { from, reply }) = commands.recv() {
        if let Ok(ready) = catch_unwind(AssertUnwindSafe(|| compute(from))) {
            // Nobody waits for the mask of a request that was cancelled.
            drop(reply.send(ready));
        }
    }
}

fn compute(from: From) -> Ready {
    let began = Instant::now();
    let mut automaton = match from {
        From::Start(compiled) => Box::new(compiled.copy()),
        From::Live(automaton) => automaton,
    };
    let mask = automaton.mask();
    Ready {
        automaton,
        mask,
        took: began.elapsed(),
    }
}
