//! One request's constraint: which tokens may follow, computed beside the forward pass.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use llguidance::toktrie::SimpleVob;

use super::automaton::Automaton;
use super::worker::{From, MaskCommand, Ready};
use crate::error::EngineError;
use crate::shared::Shared;

/// Keeps a generation to its constraint. The next mask is under way or there, until the text is complete.
pub(crate) struct Guide {
    worker: Sender<MaskCommand>,
    compiled: Arc<Automaton>,
    state: State,
    /// What was delivered.
    text: String,
    shared: Arc<Shared>,
}

enum State {
    New,
    Computing(Receiver<Ready>),
    Ready {
        automaton: Box<Automaton>,
        mask: SimpleVob,
    },
    /// Complete, or failed.
    Over,
}

impl Guide {
    pub(super) fn new(
        compiled: Arc<Automaton>,
        worker: Sender<MaskCommand>,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            worker,
            compiled,
            state: State::New,
            text: String::new(),
            shared,
        }
    }

    /// Has the first mask computed, while the prompt is.
    pub fn begin(&mut self) {
        if let State::New = self.state {
            self.compute(From::Start(Arc::clone(&self.compiled)));
        }
    }

    /// The tokens that may come next, a bit each. Waits for the mask.
    pub fn allowed(&mut self) -> Result<&[u32], EngineError> {
        if let State::Computing(reply) = &self.state {
            let began = Instant::now();
            let ready = reply.recv();
            self.count(began, &ready);
            self.state = State::Over;
            let ready = ready.map_err(|_| EngineError::GrammarFault {
                message: "the thread that computes masks is gone".to_owned(),
            })?;
            self.state = State::Ready {
                automaton: ready.automaton,
                mask: ready.mask?,
            };
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
            self.compute(From::Live(automaton));
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

    fn compute(&mut self, from: From) {
        let (reply, receiver) = channel();
        // Without the thread the reply's sender is dropped here, and `allowed` hears of it.
        drop(self.worker.send(MaskCommand::Compute { from, reply }));
        self.state = State::Computing(receiver);
    }

    fn count(&self, began: Instant, ready: &Result<Ready, std::sync::mpsc::RecvError>) {
        let counters = &self.shared.counters;
        let took = ready.as_ref().map_or(0, |ready| ready.took.as_nanos());
        let wait = began.elapsed().as_nanos();
        counters.masks.fetch_add(1, Ordering::Relaxed);
        counters
            .mask_nanos
            .fetch_add(took as u64, Ordering::Relaxed);
        counters
            .mask_wait_nanos
            .fetch_add(wait as u64, Ordering::Relaxed);
    }
}
