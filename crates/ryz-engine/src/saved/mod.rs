//! What was computed of a text, kept in a file: it feeds the prefix cache of another engine of the same model.
//!
//! Saving computes what is not cached of the text, copies its full blocks between two steps, and writes the file on the caller's
//! thread. Restoring reads and checks the file there; then the first block is computed anew and must be the same to the last
//! bit, which holds for every engine that would compute the rest alike (same weights, types, calibration and arithmetic) and
//! for hardly any other; and then the blocks enter the prefix cache between two steps, where requests find them.

mod file;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use ryz_kvcache::{BLOCK_TOKENS, BlockPool, KvCache, PrefixCursor};
use ryz_tmac::{Buffer, BufferKind};

use crate::engine::Engine;
use crate::error::EngineError;
use crate::eviction::Eviction;
use crate::frontend::check_ids;
use crate::jobs::Job;
use crate::request::{Reply, RequestHandle};
use crate::sequence::Sequence;
use crate::shared::Command;
use crate::submission::{SchedulingOptions, Work};

pub(crate) use file::{Identity, State};

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

/// Copies the full blocks of a text once it is computed.
pub(crate) struct StateJob {
    blocks: Buffer,
    shared: bool,
    reply: Reply<Buffer>,
}

impl StateJob {
    /// Takes what a step computed, when that was the last.
    pub fn advance(&mut self, sequence: &Sequence, cache: &KvCache) {
        let bytes = cache.address().1;
        let blocks = self.blocks.as_bytes_mut().chunks_exact_mut(bytes);
        // Only what all may share is the text's alone: no operator has changed it.
        self.shared = sequence.cursor.blocks() == blocks.len();
        let reader = cache.reader();
        for (&block, bytes) in sequence.block_table.iter().zip(blocks) {
            reader.copy_block(block, bytes);
        }
    }

    /// Delivers the blocks.
    pub fn finish(self) {
        (self.reply)(if self.shared {
            Ok(self.blocks)
        } else {
            Err(unavailable())
        });
    }

    /// Delivers an error.
    pub fn fail(self, error: EngineError) {
        (self.reply)(Err(error));
    }
}

fn unavailable() -> EngineError {
    let expected = "a prefix cache that is on, and no operators";
    EngineError::invalid("prefixCache", expected, "one without")
}

/// A state on its way into the prefix cache, answered even when nobody is there to take it.
pub(crate) struct RestoreRequest {
    tokens: Vec<u32>,
    blocks: Buffer,
    reply: Option<Reply<usize>>,
}

impl RestoreRequest {
    /// Puts its blocks into the tree, as many as there is room for. How many tokens those are.
    pub fn carry_out(
        &self,
        cache: &mut KvCache,
        pool: &mut BlockPool,
        sharing: bool,
    ) -> Result<usize, EngineError> {
        if !sharing {
            return Err(unavailable());
        }
        let (texts, _) = self.tokens.as_chunks::<BLOCK_TOKENS>();
        let blocks = self.blocks.as_bytes().chunks_exact(cache.address().1);
        let mut cursor = PrefixCursor::default();
        let mut table = Vec::with_capacity(texts.len());
        for (tokens, bytes) in texts.iter().zip(blocks) {
            let (block, behind) = match pool.reuse(cursor, tokens) {
                Some(found) => found,
                None => {
                    let Some(block) = pool.allocate() else { break };
                    cache.write_block(block, bytes);
                    pool.share(cursor, tokens, block)
                }
            };
            table.push(block);
            cursor = behind;
        }
        // Held so far, so that none made room for another.
        let restored = table.len() * BLOCK_TOKENS;
        table
            .into_iter()
            .rev()
            .for_each(|block| pool.release(block));
        Ok(restored)
    }

    /// Answers, once.
    pub fn answer(&mut self, answer: Result<usize, EngineError>) {
        if let Some(reply) = self.reply.take() {
            reply(answer);
        }
    }
}

impl Drop for RestoreRequest {
    fn drop(&mut self) {
        self.answer(Err(EngineError::Disposed));
    }
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
            self.inner.shared.check_alive()?;
        } else {
            self.check_tokens(tokens, self.inner.info.context_length)?;
        }
        file::check_note(note.len())?;
        let state = State {
            tokens: whole_blocks(tokens).to_vec(),
            blocks: self.state_of(tokens, cancel)?,
            note: note.to_vec(),
        };
        let bytes = file::write(path, &self.identity(), &state, cancel)?;
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
        self.inner.shared.check_alive()?;
        let identity = self.identity();
        let context = self.inner.info.context_length;
        let state = file::read(path, &identity, context, &self.inner.arena)?;
        if check_ids("tokens", &state.tokens, self.inner.vocab.size).is_err() {
            let size = self.inner.vocab.size;
            return Err(file::wrong(
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
                return Err(file::wrong(path, "blocks", expected, "something else"));
            }
        }
        check(cancel)?;
        let State {
            tokens,
            blocks,
            note,
        } = state;
        let (sender, received) = mpsc::channel();
        let request = RestoreRequest {
            tokens: tokens.clone(),
            blocks,
            // The receiver lives until the answer is there.
            reply: Some(Box::new(move |answer| drop(sender.send(answer)))),
        };
        self.inner.shared.send(Command::Restore(Box::new(request)));
        let restored = received.recv().map_err(|_| EngineError::Disposed)??;
        Ok(RestoredPrefix {
            tokens,
            restored,
            note,
        })
    }

    /// The full blocks of a text, computed where they are not there.
    fn state_of(&self, tokens: &[u32], cancel: &AtomicBool) -> Result<Buffer, EngineError> {
        check(cancel)?;
        let blocks = tokens.len() / BLOCK_TOKENS;
        let arena = self.inner.arena.labelled("saved keys and values");
        let bytes = blocks * self.inner.cache.address.1;
        let buffer = arena.allocate(bytes, BufferKind::Staging);
        let blocks = buffer.map_err(ryz_model::ModelError::from)?;
        if bytes == 0 {
            return Ok(blocks);
        }
        let (sender, received) = mpsc::channel();
        let job = StateJob {
            blocks,
            shared: false,
            reply: Box::new(move |answer| drop(sender.send(answer))),
        };
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

/// Whether to go on.
fn check(cancel: &AtomicBool) -> Result<(), EngineError> {
    match cancel.load(Ordering::Relaxed) {
        true => Err(EngineError::Aborted),
        false => Ok(()),
    }
}

/// What the engine's thread answers, unless it is not wanted any more.
fn answer<T>(received: &Receiver<T>, cancel: &AtomicBool) -> Result<T, EngineError> {
    loop {
        match received.recv_timeout(LOOK) {
            Ok(answer) => return Ok(answer),
            Err(RecvTimeoutError::Timeout) => check(cancel)?,
            Err(RecvTimeoutError::Disconnected) => return Err(EngineError::Disposed),
        }
    }
}

fn whole_blocks(tokens: &[u32]) -> &[u32] {
    let (blocks, _) = tokens.as_chunks::<BLOCK_TOKENS>();
    blocks.as_flattened()
}
