//! What one step computes: new tokens of several sequences, each over its own blocks of the cache.

use ryz_kvcache::{AttentionMass, BLOCK_TOKENS, BlockId, Window};

use crate::ModelError;

/// Which positions of a sequence's new tokens want logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outputs {
    /// None: a chunk of a prompt that goes on.
    None,
    /// The last new token: decoding, or the end of a prompt.
    Last,
    /// Every new token: scoring.
    All,
}

impl Outputs {
    /// Rows of logits that `tokens` new tokens give.
    pub fn count(self, tokens: usize) -> usize {
        match self {
            Self::None => 0,
            Self::Last => 1,
            Self::All => tokens,
        }
    }
}

/// Which logits of an output are looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogitDemand {
    /// Every one.
    #[default]
    All,
    /// The so many largest, of equal ones those with the lowest ids: all others may be −∞.
    Largest(usize),
}

/// One sequence's part of a step.
#[derive(Clone, Copy, Debug)]
pub struct BatchSequence<'a> {
    /// New tokens, at least one.
    pub tokens: &'a [u32],
    /// Tokens whose keys and values are cached already: the position of the first new one.
    pub start: usize,
    /// The sequence's blocks, covering `start + tokens.len()` positions. Blocks that new tokens write must not be shared.
    pub block_table: &'a [BlockId],
    /// What its queries see; default all. With a window it may go past the positions that the model was made for, and the
    /// blocks that no new token sees may have been evicted.
    pub window: Option<Window>,
    /// To what the attention of its queries is added, block by block; default nothing. It has room for all blocks of the table.
    pub mass: Option<&'a AttentionMass>,
    /// Which of the new tokens want logits.
    pub outputs: Outputs,
    /// Which of their logits are looked at; [`LogitDemand::All`] in any case of doubt. Where a head has no image
    /// ([`crate::HeadScreening`]), all are there anyway.
    pub needed: LogitDemand,
}

/// Where a token of the batch belongs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenRow {
    /// Index of its sequence in the batch.
    pub sequence: usize,
    /// Its id.
    pub token: u32,
    /// Its position in the sequence.
    pub position: usize,
}

/// A validated batch: its tokens as rows, and the rows that give logits.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub rows: Vec<TokenRow>,
    pub outputs: Vec<usize>,
    /// Which logits each of them needs.
    pub needed: Vec<LogitDemand>,
}

/// Sizes a batch is checked against.
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

    /// Whether no output needs more logits than `most`.
    pub fn needs_at_most(&self, most: usize) -> bool {
        let few =
            |needed: &LogitDemand| matches!(*needed, LogitDemand::Largest(count) if count <= most);
        self.needed.iter().all(few)
    }

    /// Whether a row goes on in the block of the row before it.
    fn continues_block(&self, row: usize) -> bool {
        let (before, this) = (&self.rows[row - 1], &self.rows[row]);
        before.sequence == this.sequence && !this.position.is_multiple_of(BLOCK_TOKENS)
    }

    /// The first row from `row` on that begins a block or a sequence; as many as there are rows when none does.
    pub fn block_start(&self, row: usize) -> usize {
        let goes_on = |row: &usize| *row > 0 && self.continues_block(*row);
        let count = self.rows.len();
        row + (row..count).take_while(goes_on).count()
    }

    /// The row after the last that is in one block with `row`.
    pub fn block_end(&self, row: usize) -> usize {
        self.block_start(row + 1)
    }
}
