//! Computing masks beside the forward pass. One that is not wanted any more is given up.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use llguidance::CancellationHandle;
use llguidance::toktrie::SimpleVob;

use super::automaton::Automaton;
use crate::error::EngineError;
use crate::state::EngineState;

/// A mask to be computed.
pub(super) struct MaskTask {
    pub from: MaskSource,
    pub reply: Sender<ComputedMask>,
    pub watch: Arc<Watch>,
}

/// Whose mask.
pub(super) enum MaskSource {
    /// The beginning of a constraint: the copy is made here, too.
    Start(Arc<Automaton>),
    /// An automaton under way.
    Live(Box<Automaton>),
}

/// A mask, and the automaton it is of.
pub(super) struct ComputedMask {
    pub automaton: Box<Automaton>,
    pub mask: Result<SimpleVob, EngineError>,
    pub took: Duration,
}

/// What a request and the thread that computes for it tell each other.
pub(super) struct Watch {
    shared: Arc<EngineState>,
    /// The engine goes on without the request until its mask is there.
    held: AtomicBool,
    cancelled: AtomicBool,
    handle: Mutex<Option<CancellationHandle>>,
}

impl Watch {
    pub fn new(shared: Arc<EngineState>) -> Self {
        Self {
            shared,
            held: AtomicBool::new(false),
            cancelled: AtomicBool::new(false),
            handle: Mutex::default(),
        }
    }

    /// Wakes the engine when the mask is there.
    pub fn hold(&self) {
        self.held.store(true, Ordering::SeqCst);
    }

    /// Gives up what is being computed.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
        let handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = handle.as_ref() {
            handle.cancel();
        }
    }

    fn follow(&self, handle: CancellationHandle) {
        let mut own = self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        if self.cancelled.load(Ordering::SeqCst) {
            handle.cancel();
        }
        *own = Some(handle);
    }
}

/// Computes one. Who waits for a mask that a panic swallowed finds its channel closed.
pub(super) fn run(task: MaskTask) {
    let MaskTask { from, reply, watch } = task;
    if !watch.cancelled.load(Ordering::SeqCst)
        && let Ok(ready) = catch_unwind(AssertUnwindSafe(|| compute(from, &watch)))
    {
        // Nobody waits for the mask of a request that was cancelled.
        drop(reply.send(ready));
    } else {
        drop(reply);
    }
    if watch.held.swap(false, Ordering::SeqCst) {
        watch.shared.interrupt.wake();
    }
}

fn compute(from: MaskSource, watch: &Watch) -> ComputedMask {
    let began = Instant::now();
    let mut automaton = match from {
        MaskSource::Start(compiled) => {
            let mut automaton = Box::new(compiled.copy());
            watch.follow(automaton.cancellable());
            automaton
        }
        MaskSource::Live(automaton) => automaton,
    };
    let mask = automaton.mask();
    ComputedMask {
        automaton,
        mask,
        took: began.elapsed(),
    }
}
