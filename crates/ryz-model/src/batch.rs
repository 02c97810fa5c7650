//! The input of one step: new tokens of several sequences, each with its own cache blocks.

use ryz_kvcache::{AttentionMass, BLOCK_TOKENS, BlockId, Window};

use crate::ModelError;

/// Which of a sequence's new tokens produce logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outputs {
    /// None: a chunk of a prompt that continues in a later step.
    None,
    /// The last new token: decode, or the end of a prompt.
    Last,
    /// Every new token: scoring.
    All,
}

impl Outputs {
    /// Rows of logits produced by `tokens` new tokens.
    pub fn count(self, tokens: usize) -> usize {
        match self {
            Self::None => 0,
            Self::Last => 1,
            Self::All => tokens,
        }
    }
}

/// Which logits of an output the caller reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogitDemand {
    /// All of them.
    #[default]
    All,
    /// The given number of largest logits, ties resolved by the lowest id; all others may be −∞.
    Largest(usize),
}

/// One sequence's part of a step.
#[derive(Clone, Copy, Debug)]
pub struct BatchSequence<'a> {
    /// New tokens; at least one.
    pub tokens: &'a [u32],
    /// Number of tokens already cached, which is the position of the first new token.
    pub start: usize,
    /// The sequence's blocks, covering `start + tokens.len()` positions. Blocks that receive new
    /// tokens must not be shared.
    pub block_table: &'a [BlockId],
    /// The positions that its queries see; default all. With a window, the sequence may exceed the
    /// model's context length, and blocks that no new token sees may have been evicted.
    pub window: Option<Window>,
    /// Accumulates the attention mass of its queries per block; default none. It must have room for
    /// all blocks of the table.
    pub mass: Option<&'a AttentionMass>,
    /// Which of the new tokens produce logits.
    pub outputs: Outputs,
    /// Which of their logits the caller reads; use [`LogitDemand::All`] when in doubt. Without a
    /// head image ([`crate::HeadScreening`]), all logits are computed regardless.
    pub needed: LogitDemand,
}

/// The sequence and position of a token of the batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenRow {
    /// Index of its sequence in the batch.
    pub sequence: usize,
    /// Its id.
    pub token: u32,
    /// Its position in the sequence.
    pub position: usize,
}

/// A validated batch: its tokens as rows, and the rows that produce logits.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub rows: Vec<TokenRow>,
    pub outputs: Vec<usize>,
    /// The logits needed of each.
    pub needed: Vec<LogitDemand>,
}

/// The limits that a batch is checked against.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchLimits {
    pub max_tokens: usize,
    pub max_outputs: usize,
    pub max_positions: usize,
    pub vocab_size: usize,
    pub cache_blocks: usize,
}

impl Plan {
    /// Lays out `batch`, reusing this plan's memory.
    pub fn fill(
        &mut self,
        batch: &[BatchSequence<'_>],
        limits: BatchLimits,
    ) -> Result<(), ModelError> {
        self.rows.clear();
        self.outputs.clear();
        self.needed.clear();
        for (index, sequence) in batch.iter().enumerate() {
            let new = sequence.tokens.len();
            let end = sequence.start.saturating_add(new);
            let invalid = |what, expected, got| {
                Err(ModelError::InvalidBatch {
                    sequence: index,
                    what,
                    expected,
                    got,
                })
            };
            if new == 0 {
                return invalid("new tokens", 1, 0);
            }
            if end > limits.max_positions && sequence.window.is_none() {
                return Err(ModelError::ContextOverflow {
                    sequence: index,
                    limit: limits.max_positions,
                    got: end,
                });
            }
            if sequence.block_table.len() < end.div_ceil(BLOCK_TOKENS) {
                return invalid(
                    "blocks",
                    end.div_ceil(BLOCK_TOKENS),
                    sequence.block_table.len(),
                );
            }
            let counted = sequence.mass.map_or(usize::MAX, AttentionMass::blocks);
            if counted < sequence.block_table.len() {
                return invalid("blocks of the mass", sequence.block_table.len(), counted);
            }
            let gone = sequence.window.map(|window| window.gone(sequence.start));
            let may_be_gone = |index: usize| match &gone {
                Some(gone) => gone.contains(&index),
                None => index < sequence.start / BLOCK_TOKENS,
            };
            let blocks = sequence.block_table.iter().enumerate();
            if let Some((_, block)) = blocks
                .filter(|(index, block)| !(block.is_evicted() && may_be_gone(*index)))
                .find(|(_, block)| block.index() >= limits.cache_blocks)
            {
                return invalid("block index below", limits.cache_blocks, block.index());
            }
            if self.rows.len() + new > limits.max_tokens {
                return invalid(
                    "tokens of the batch at most",
                    limits.max_tokens,
                    self.rows.len() + new,
                );
            }
            let first_row = self.rows.len();
            for (offset, &token) in sequence.tokens.iter().enumerate() {
                if token as usize >= limits.vocab_size {
                    return Err(ModelError::TokenOutOfRange {
                        token,
                        vocab_size: limits.vocab_size,
                    });
                }
                self.rows.push(TokenRow {
                    sequence: index,
                    token,
                    position: sequence.start + offset,
                });
            }
            let wanted = sequence.outputs.count(new);
            self.outputs
                .extend(first_row + new - wanted..first_row + new);
            self.needed.resize(self.outputs.len(), sequence.needed);
            if self.outputs.len() > limits.max_outputs {
                return invalid(
                    "outputs of the batch at most",
                    limits.max_outputs,
                    self.outputs.len(),
                );
            }
        }
        if self.rows.is_empty() {
            return Err(ModelError::InvalidBatch {
                sequence: 0,
                what: "sequences",
                expected: 1,
                got: 0,
            });
        }
        Ok(())
    }

    /// Whether no output needs more than `most` logits.
    pub fn needs_at_most(&self, most: usize) -> bool {
        let few =
            |needed: &LogitDemand| matches!(*needed, LogitDemand::Largest(count) if count <= most);
        self.needed.iter().all(few)
    }

    /// Whether a row is in the same block as the row before it.
    fn continues_block(&self, row: usize) -> bool {
        let (before, this) = (&self.rows[row - 1], &self.rows[row]);
        before.sequence == this.sequence && !this.position.is_multiple_of(BLOCK_TOKENS)
    }

    /// The first row at or after `row` that begins a block or a sequence; the number of rows if
    /// none does.
    pub fn block_start(&self, row: usize) -> usize {
        let goes_on = |row: &usize| *row > 0 && self.continues_block(*row);
        let count = self.rows.len();
        row + (row..count).take_while(goes_on).count()
    }

    /// The row after the last one in the same block as `row`.
    pub fn block_end(&self, row: usize) -> usize {
        self.block_start(row + 1)
    }
}
