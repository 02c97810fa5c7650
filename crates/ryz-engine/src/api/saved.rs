//! Prefixes saved to files and brought back.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use ryz_kvcache::BLOCK_TOKENS;
use ryz_tmac::{Buffer, BufferKind};

use super::Engine;
use crate::checks::{check_cancelled, check_ids};
use crate::command::Command;
use crate::error::EngineError;
use crate::eviction::Eviction;
use crate::handle::RequestHandle;
use crate::jobs::Job;
use crate::saved::{self, Identity, RestoreRequest, State, StateJob};
use crate::submission::{SchedulingOptions, Work};

/// How often a thread that waits for the engine's looks whether it is to give up.
const LOOK: Duration = Duration::from_millis(10);

/// What [`Engine::save_prefix`] wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SavedPrefix {
    /// Tokens whose keys and values are in the file: those of whole blocks.
    pub tokens: usize,
    /// Bytes of the file.
    pub bytes: u64,
}

/// What [`Engine::restore_prefix`] brought back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoredPrefix {
    /// The tokens of the file, from the text's first one on.
    pub tokens: Vec<u32>,
    /// How many of them are in the prefix cache now: fewer where live requests hold the blocks for the others.
    pub restored: usize,
    /// What was saved beside them.
    pub note: Vec<u8>,
}

impl Engine {
    /// Saves the keys and values of the whole blocks of 16 that `tokens` begin with, if any, and a note, to a file; what is not in the
    /// prefix cache is computed first. Waits until it is done, or `cancel` is set. The file appears when it is complete, in place of an
    /// older one.
    ///
    /// # Errors
    /// As [`Engine::logits`]; `ABORTED` when `cancel` was set, and then there is no file, or still the older one; `IO` when the file cannot be written; `INVALID_ARGUMENT` when the prefix cache is off or there are
    /// operators.
    pub fn save_prefix(
        &self,
        tokens: &[u32],
        note: &[u8],
        path: &Path,
        cancel: &AtomicBool,
    ) -> Result<SavedPrefix, EngineError> {
        if tokens.is_empty() {
            self.inner.state.check_alive()?;
        } else {
            self.check_tokens(tokens, self.inner.info.context_length)?;
        }
        saved::check_note(note.len())?;
        let state = State {
            tokens: whole_blocks(tokens).to_vec(),
            blocks: self.state_of(tokens, cancel)?,
            note: note.to_vec(),
        };
        let bytes = saved::write(path, &self.identity(), &state, cancel)?;
        Ok(SavedPrefix {
            tokens: state.tokens.len(),
            bytes,
        })
    }

    /// Brings a saved prefix back into the prefix cache, so that requests which begin with it begin behind it. Waits until it is
    /// done, or `cancel` is set. The file is not trusted: it is checked before it is used, and its first block is computed anew and
    /// compared.
    ///
    /// # Errors
    /// `FILE_NOT_FOUND`, `IO`; `ABORTED` when `cancel` was set before its blocks were on their way into the cache; `INVALID_FILE` when the file is damaged, cut short, of another version, or of an engine whose
    /// model, cache type, value rank or arithmetic differ; otherwise as [`Engine::save_prefix`].
    pub fn restore_prefix(
        &self,
        path: &Path,
        cancel: &AtomicBool,
    ) -> Result<RestoredPrefix, EngineError> {
        self.inner.state.check_alive()?;
        let identity = self.identity();
        let context = self.inner.info.context_length;
        let state = saved::read(path, &identity, context, &self.inner.arena)?;
        if check_ids("tokens", &state.tokens, self.inner.vocab.size).is_err() {
            let size = self.inner.vocab.size;
            return Err(saved::wrong(
                path,
                "tokens",
                format!("ids below {size}"),
                "others",
            ));
        }
        if let Some(first) = state.tokens.first_chunk::<BLOCK_TOKENS>() {
            let computed = self.state_of(first, cancel)?;
            if !state.blocks.as_bytes().starts_with(computed.as_bytes()) {
                let expected = "what this engine computes for its first tokens";
                return Err(saved::wrong(path, "blocks", expected, "something else"));
            }
        }
        check_cancelled(cancel)?;
        let State {
            tokens,
            blocks,
            note,
        } = state;
        let (sender, received) = mpsc::channel();
        // The receiver lives until the answer is there.
        let reply = Box::new(move |answer| drop(sender.send(answer)));
        let request = RestoreRequest::new(tokens.clone(), blocks, reply);
        self.inner
            .commands
            .send(Command::Restore(Box::new(request)));
        let restored = received.recv().map_err(|_| EngineError::Disposed)??;
        Ok(RestoredPrefix {
            tokens,
            restored,
            note,
        })
    }

    /// The full blocks of a text, computed where they are not there.
    fn state_of(&self, tokens: &[u32], cancel: &AtomicBool) -> Result<Buffer, EngineError> {
        check_cancelled(cancel)?;
        let blocks = tokens.len() / BLOCK_TOKENS;
        let arena = self.inner.arena.labelled("saved keys and values");
        let bytes = blocks * self.inner.cache.address.1;
        let buffer = arena.allocate(bytes, BufferKind::Staging);
        let blocks = buffer.map_err(ryz_model::ModelError::from)?;
        if bytes == 0 {
            return Ok(blocks);
        }
        let (sender, received) = mpsc::channel();
        let job = StateJob::new(blocks, Box::new(move |answer| drop(sender.send(answer))));
        let tokens = whole_blocks(tokens).to_vec();
        let work = Work::Job(Job::State(job));
        let terms = SchedulingOptions {
            // Whole: what is kept serves requests of every policy, each as far as it sees all.
            eviction: Eviction::None,
            priority: 0,
            credits: 0,
        };
        let _request: RequestHandle = self.submit(tokens, work, terms)?;
        answer(&received, cancel)?
    }

    fn identity(&self) -> Identity {
        let info = &self.inner.info;
        Identity {
            fingerprint: info.fingerprint.text().to_owned(),
            kv: info.kv.to_string(),
            value_rank: info.value_rank.to_string(),
            activations: info.activations.to_string(),
            block_bytes: self.inner.cache.address.1,
        }
    }
}

/// What the engine's thread answers, unless it is not wanted any more.
fn answer<T>(received: &Receiver<T>, cancel: &AtomicBool) -> Result<T, EngineError> {
    loop {
        match received.recv_timeout(LOOK) {
            Ok(answer) => return Ok(answer),
            Err(RecvTimeoutError::Timeout) => check_cancelled(cancel)?,
            Err(RecvTimeoutError::Disconnected) => return Err(EngineError::Disposed),
        }
    }
}

fn whole_blocks(tokens: &[u32]) -> &[u32] {
    let (blocks, _) = tokens.as_chunks::<BLOCK_TOKENS>();
    blocks.as_flattened()
}
