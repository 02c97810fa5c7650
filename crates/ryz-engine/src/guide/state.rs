//! One request's constraint: which tokens may follow, computed beside the forward pass.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use llguidance::toktrie::SimpleVob;

use super::automaton::Automaton;
use super::pool::Pool;
use super::worker::{ComputedMask, MaskSource, MaskTask, Watch};
use crate::error::EngineError;
use crate::state::EngineState;

/// Keeps a generation to its constraint. The next mask is under way or there, until the text is complete.
pub(crate) struct Guide {
    masks: Pool<MaskTask>,
    compiled: Arc<Automaton>,
    state: State,
    watch: Arc<Watch>,
    /// What was delivered.
    text: String,
    shared: Arc<EngineState>,
}

enum State {
    New,
    Computing(Receiver<ComputedMask>),
    Ready {
        automaton: Box<Automaton>,
        mask: SimpleVob,
    },
    /// What computing the mask came to.
    Failed(EngineError),
    /// Complete, or failed.
    Over,
}

impl Guide {
    pub(super) fn new(
        compiled: Arc<Automaton>,
        masks: Pool<MaskTask>,
        shared: Arc<EngineState>,
    ) -> Self {
        Self {
            masks,
            compiled,
            state: State::New,
            watch: Arc::new(Watch::new(Arc::clone(&shared))),
            text: String::new(),
            shared,
        }
    }

    /// Has the first mask computed, while the prompt is.
    pub fn begin(&mut self) {
        if let State::New = self.state {
            self.compute(MaskSource::Start(Arc::clone(&self.compiled)));
        }
    }

    /// Whether the mask is there, or what came instead of it, within this time. If it is not, the engine is woken when it is.
    pub fn is_ready(&mut self, patience: Duration) -> bool {
        if self.arrived(patience) {
            return true;
        }
        self.watch.hold();
        // It may have come between the two.
        self.arrived(Duration::ZERO)
    }

    fn arrived(&mut self, patience: Duration) -> bool {
        let State::Computing(reply) = &self.state else {
            return true;
        };
        let began = Instant::now();
        let ready = match reply.recv_timeout(patience) {
            Err(RecvTimeoutError::Timeout) => {
                self.count(began, None);
                return false;
            }
            ready => ready.ok(),
        };
        self.count(began, ready.as_ref());
        self.state = match ready {
            Some(ComputedMask {
                automaton,
                mask: Ok(mask),
                ..
            }) => State::Ready { automaton, mask },
            Some(ComputedMask {
                mask: Err(error), ..
            }) => State::Failed(error),
            None => State::Failed(EngineError::GrammarFault {
                message: "the thread that computes masks is gone".to_owned(),
            }),
        };
        true
    }

    /// The tokens that may come next, a bit each. Waits for the mask.
    pub fn allowed(&mut self) -> Result<&[u32], EngineError> {
        while !self.arrived(Duration::from_millis(100)) {}
        if let State::Failed(_) = self.state
            && let State::Failed(error) = std::mem::replace(&mut self.state, State::Over)
        {
            return Err(error);
        }
        match &self.state {
            State::Ready { mask, .. } => Ok(mask.as_slice()),
            _ => Err(EngineError::GrammarFault {
                message: "no mask is under way".to_owned(),
            }),
        }
    }

    /// Goes on by a token that was allowed, and has the next mask computed. `true` when the text is complete and nothing can
    /// follow.
    pub fn accept(&mut self, token: u32) -> Result<bool, EngineError> {
        let State::Ready { mut automaton, .. } = std::mem::replace(&mut self.state, State::Over)
        else {
            return Err(EngineError::GrammarFault {
                message: "a token was chosen without a mask".to_owned(),
            });
        };
        let complete = automaton.accept(token)?;
        if !complete {
            self.compute(MaskSource::Live(automaton));
        }
        Ok(complete)
    }

    /// Keeps what was delivered, for [`Guide::is_whole_text`].
    pub fn delivered(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// Whether the tokens accepted so far are a complete answer, before the next one is chosen.
    pub fn is_whole(&mut self) -> bool {
        match &mut self.state {
            State::Ready { automaton, .. } => automaton.is_whole(),
            _ => false,
        }
    }

    /// Whether what was delivered, which a stop string may have cut, is a complete answer.
    pub fn is_whole_text(&self) -> bool {
        self.compiled.matches(&self.text)
    }

    fn compute(&mut self, from: MaskSource) {
        let (reply, receiver) = channel();
        let watch = Arc::clone(&self.watch);
        // Where no thread takes it the reply's sender is dropped, and `arrived` hears of it.
        drop(self.masks.push(MaskTask { from, reply, watch }));
        self.state = State::Computing(receiver);
    }

    fn count(&self, began: Instant, ready: Option<&ComputedMask>) {
        let counters = &self.shared.counters;
        let wait = began.elapsed().as_nanos() as u64;
        counters.mask_wait_nanos.fetch_add(wait, Ordering::Relaxed);
        if let Some(ready) = ready {
            let took = ready.took.as_nanos() as u64;
            counters.masks.fetch_add(1, Ordering::Relaxed);
            counters.mask_nanos.fetch_add(took, Ordering::Relaxed);
        }
    }
}

impl Drop for Guide {
    fn drop(&mut self) {
        self.watch.cancel();
    }
}
