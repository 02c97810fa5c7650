//! Questions that a native thread asks JavaScript, and waits to have answered. JavaScript's thread never waits.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use napi::Status;

/// How often a waiting thread looks whether the answer is still wanted.
const LOOK: Duration = Duration::from_millis(20);

/// An answer, or what went wrong, in words.
pub type Reply<T> = Result<T, String>;

/// The questions that wait for an answer.
pub struct Questions<T> {
    next: AtomicU64,
    asked: Mutex<HashMap<u64, SyncSender<Reply<T>>>>,
}

impl<T> Default for Questions<T> {
    fn default() -> Self {
        Self {
            next: AtomicU64::new(0),
            asked: Mutex::default(),
        }
    }
}

impl<T> Questions<T> {
    /// Asks: `send` gives the question with its number to JavaScript. Waits for the answer, until `given_up` has a reason
    /// not to.
    pub fn ask(
        &self,
        send: impl FnOnce(u64) -> Status,
        given_up: impl Fn() -> Option<String>,
    ) -> Reply<T> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = sync_channel(1);
        self.asked().insert(id, sender);
        let reply = if send(id) == Status::Ok {
            loop {
                match answer.recv_timeout(LOOK) {
                    Ok(reply) => break reply,
                    Err(RecvTimeoutError::Disconnected) => {
                        break Err("it never answered".to_owned());
                    }
                    Err(RecvTimeoutError::Timeout) => {
                        if let Some(reason) = given_up() {
                            break Err(reason);
                        }
                    }
                }
            }
        } else {
            Err("its JavaScript environment has ended".to_owned())
        };
        self.asked().remove(&id);
        reply
    }

    /// Answers a question. One that nobody waits for any more does nothing.
    pub fn answer(&self, id: f64, reply: Reply<T>) {
        if let Some(sender) = self.asked().remove(&(id as u64)) {
            // The other side may have given up just now.
            drop(sender.try_send(reply));
        }
    }

    fn asked(&self) -> MutexGuard<'_, HashMap<u64, SyncSender<Reply<T>>>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
