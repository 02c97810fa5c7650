//! Handles of requests.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::request::Control;
use crate::state::Interrupt;

/// Holds a request: cancels it, grants credits. Dropping it cancels.
#[derive(Debug)]
pub struct RequestHandle {
    pub(crate) control: Arc<Control>,
    pub(crate) interrupt: Arc<Interrupt>,
}

impl RequestHandle {
    /// Ends the request within one step; its blocks are free at the next.
    pub fn cancel(&self) {
        if !self.control.cancelled.swap(true, Ordering::SeqCst) {
            self.interrupt.stop_step_of(self.control.id);
            self.interrupt.wake();
        }
    }

    /// Lets `tokens` more tokens be delivered.
    pub fn grant(&self, tokens: u32) {
        let before = self
            .control
            .credits
            .fetch_add(i64::from(tokens), Ordering::SeqCst);
        if before <= 0 {
            self.interrupt.wake();
        }
    }
}

impl Drop for RequestHandle {
    fn drop(&mut self) {
        self.cancel();
    }
}
