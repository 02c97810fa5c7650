//! What was computed of a text, kept in a file: it feeds the prefix cache of another engine of the same model.
//!
//! Saving computes what is not cached of the text, copies its full blocks between two steps, and writes the file on the caller's
//! thread. Restoring reads and checks the file there; then the first block is computed anew and must be the same to the last
//! bit, which holds for every engine that would compute the rest alike (same weights, types, calibration and arithmetic) and
//! for hardly any other; and then the blocks enter the prefix cache between two steps, where requests find them.

mod file;

use ryz_kvcache::{BLOCK_TOKENS, BlockPool, KvCache, PrefixCursor};
use ryz_tmac::Buffer;

use crate::error::EngineError;
use crate::request::Reply;
use crate::sequence::Sequence;

pub(crate) use file::{Identity, State, check_note, read, write, wrong};

/// Copies the full blocks of a text once it is computed.
pub(crate) struct StateJob {
    blocks: Buffer,
    shared: bool,
    reply: Reply<Buffer>,
}

impl StateJob {
    /// Into `blocks`, which holds as many as the text has.
    pub fn new(blocks: Buffer, reply: Reply<Buffer>) -> Self {
        Self {
            blocks,
            shared: false,
            reply,
        }
    }

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
    /// The blocks of these tokens.
    pub fn new(tokens: Vec<u32>, blocks: Buffer, reply: Reply<usize>) -> Self {
        Self {
            tokens,
            blocks,
            reply: Some(reply),
        }
    }

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
