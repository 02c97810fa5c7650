//! Proposals by a second, smaller model that knows the same tokens (Leviathan et al., "Fast Inference from Transformers via
//! Speculative Decoding", 2023).
//!
//! It proposes what it finds most likely, one token after another, for all sequences of a step together, and stops where the
//! chance that the whole proposal holds, by its own probabilities, is less than what a token costs. It has a cache of its own.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use ryz_kvcache::{BlockId, BlockPool, KvCache, KvCacheConfig, KvDType};
use ryz_model::{
    BatchSequence, LoadProgress, LogitDemand, Model, ModelConfig, ModelError, ModelSource, Outputs,
    RunState,
};
use ryz_numa::Lease;
use ryz_tmac::Arena;
use ryz_tokenizer::Tokenizer;

use crate::capacity::{kv_config, limits};
use crate::config::EngineConfig;
use crate::error::EngineError;
use crate::eviction::blocks_for;
use crate::math::exp;
use crate::sequence::SequenceId;
use crate::text::tokenizer;
use crate::tuning;

/// What entering and leaving the parallel region, the barriers and the rest of a pass take, as bytes of weights that could be
/// read meanwhile: some 150 µs.
const PASS_BYTES: usize = 3 << 20;
/// Logits that are so far below the greatest are left out of its probability: a hundred thousand of them make 1 %.
const NEGLIGIBLE: f32 = 16.0;

/// The draft model of an engine.
pub(crate) struct Draft {
    model: Model,
    state: RunState,
    cache: KvCache,
    pool: BlockPool,
    sequences: HashMap<SequenceId, CachedSequence>,
    /// Positions a sequence may have.
    context: usize,
    /// Token ids below this are known to both models.
    vocab: usize,
    /// Passes since [`Draft::take_passes`].
    passes: u64,
}

/// What of a sequence is cached.
#[derive(Default)]
struct CachedSequence {
    tokens: Vec<u32>,
    blocks: Vec<BlockId>,
}

/// A sequence that wants a proposal.
#[derive(Debug)]
pub(crate) struct ProposalRequest<'a> {
    pub id: SequenceId,
    /// All its tokens, the due one included.
    pub tokens: &'a [u32],
    /// Tokens wanted, at most.
    pub most: usize,
    /// The least chance of being chosen that a token must have.
    pub least_chance: f32,
}

/// A proposal under way.
struct Drafting {
    /// Index of its wish.
    wish: usize,
    tokens: Vec<u32>,
    chance: f32,
}

impl Draft {
    /// Loads the model at `path` for an engine that has `main`, whose cache has `blocks` blocks.
    pub fn load(
        path: &Path,
        config: &EngineConfig,
        main: (&Tokenizer, usize),
        blocks: usize,
        lease: &Lease,
        arena: &Arena,
        progress: &mut (dyn FnMut(LoadProgress) -> ControlFlow<()> + Send),
    ) -> Result<Self, EngineError> {
        let source = ModelSource::open(path)?;
        let (main_tokenizer, main_vocab) = main;
        let vocab = main_vocab.min(source.config().vocab_size);
        same_tokens(main_tokenizer, &tokenizer(&source)?, vocab)?;
        let options = config.draft_load_options()?;
        let mut model = Model::load(&source, &options, arena, lease, progress)?;
        tuning::tune(&mut model, config, lease, arena)?;
        let limits = limits(config, source.config().vocab_size);
        let state = RunState::new(
            &model,
            arena,
            limits.prefill_chunk + limits.max_sequences,
            limits.max_sequences,
        )?;
        let shape = draft_cache(config, model.config(), model.stored_value_dim(), blocks);
        Ok(Self {
            cache: KvCache::new(arena, shape)?,
            pool: BlockPool::new(blocks),
            context: source.config().max_position_embeddings,
            model,
            state,
            sequences: HashMap::new(),
            vocab,
            passes: 0,
        })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Bytes of its cache.
    pub fn cache_bytes(&self) -> usize {
        self.cache.bytes()
    }

    /// Passes through the model since the last call.
    pub fn take_passes(&mut self) -> u64 {
        std::mem::take(&mut self.passes)
    }

    /// Gives back what it holds of sequences that are no more.
    pub fn forget(&mut self, lives: impl Fn(SequenceId) -> bool) {
        let pool = &mut self.pool;
        self.sequences.retain(|&id, cached| {
            let lives = lives(id);
            if !lives {
                cached.release(pool);
            }
            lives
        });
    }

    /// Proposals for `wishes`, in their order; empty ones for sequences whose text it has yet to read in part (a step reads as
    /// many tokens as one of a prompt's), that are too long for it or its cache, or that it is too unsure of.
    ///
    /// # Errors
    /// As [`Model::forward`].
    pub fn propose(
        &mut self,
        lease: &Lease,
        wishes: &[ProposalRequest<'_>],
    ) -> Result<Vec<Vec<u32>>, ModelError> {
        let mut proposals = vec![Vec::new(); wishes.len()];
        let mut active = self.catch_up(lease, wishes)?;
        while !active.is_empty() {
            let logits = self.state.logits();
            let mut row = 0;
            active.retain_mut(|drafting| {
                let wish = &wishes[drafting.wish];
                let likely = likeliest(&logits.row(row)[..self.vocab]);
                row += 1;
                let chance = likely.map_or(0.0, |(_, chance)| drafting.chance * chance);
                if let Some((token, _)) = likely.filter(|_| chance >= wish.least_chance) {
                    drafting.chance = chance;
                    drafting.tokens.push(token);
                    if drafting.tokens.len() < wish.most {
                        return true;
                    }
                }
                proposals[drafting.wish] = std::mem::take(&mut drafting.tokens);
                false
            });
            if !active.is_empty() {
                self.extend(lease, wishes, &active)?;
            }
        }
        Ok(proposals)
    }

    /// Computes what is not cached of the sequences; those that are through have a row of logits each, in order.
    fn catch_up(
        &mut self,
        lease: &Lease,
        wishes: &[ProposalRequest<'_>],
    ) -> Result<Vec<Drafting>, ModelError> {
        let mut left = self.state.max_tokens();
        let mut parts = Vec::new();
        for (index, wish) in wishes.iter().enumerate() {
            let Some(start) = self.begin(wish) else {
                continue;
            };
            let count = (wish.tokens.len() - start).min(left);
            left -= count;
            if count > 0 {
                parts.push((index, start, count));
            }
        }
        let through = |&(index, start, count): &(usize, usize, usize)| {
            start + count == wishes[index].tokens.len()
        };
        let batch = parts.iter().map(|part| BatchSequence {
            tokens: &wishes[part.0].tokens[part.1..part.1 + part.2],
            start: part.1,
            block_table: &self.sequences[&wishes[part.0].id].blocks,
            window: None,
            mass: None,
            needed: LogitDemand::All,
            outputs: match through(part) {
                true => Outputs::Last,
                false => Outputs::None,
            },
        });
        let batch: Vec<_> = batch.collect();
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        forward(&self.model, lease, &mut self.state, &mut self.cache, &batch)?;
        self.model.settle_order(&mut self.state);
        self.passes += 1;
        for &(index, start, count) in &parts {
            let wish = &wishes[index];
            if let Some(cached) = self.sequences.get_mut(&wish.id) {
                cached.tokens.extend(&wish.tokens[start..start + count]);
            }
        }
        let through = parts.iter().filter(|part| through(part));
        Ok(through
            .map(|&(wish, ..)| Drafting {
                wish,
                tokens: Vec::new(),
                chance: 1.0,
            })
            .collect())
    }

    /// Takes the blocks that a wish needs, and says from where on its tokens are to be computed; `None` when it cannot be
    /// fulfilled.
    fn begin(&mut self, wish: &ProposalRequest<'_>) -> Option<usize> {
        let cached = self.sequences.entry(wish.id).or_default();
        let same = cached.tokens.iter().zip(wish.tokens);
        let same = same.take_while(|(ours, theirs)| ours == theirs).count();
        // The due token is computed even where it was proposed before: its logits are wanted.
        let start = same.min(wish.tokens.len().checked_sub(1)?);
        cached.tokens.truncate(start);
        let longest = wish.tokens.len() + wish.most;
        let known = |&token: &u32| (token as usize) < self.vocab;
        let fits = longest <= self.context
            && wish.tokens[start..].iter().all(known)
            && cached.reserve(blocks_for(longest), &mut self.pool);
        if !fits {
            cached.release(&mut self.pool);
            return None;
        }
        Some(start)
    }

    /// Computes the last proposed token of each proposal.
    fn extend(
        &mut self,
        lease: &Lease,
        wishes: &[ProposalRequest<'_>],
        active: &[Drafting],
    ) -> Result<(), ModelError> {
        let batch = active.iter().filter_map(|drafting| {
            let cached = self.sequences.get(&wishes[drafting.wish].id)?;
            Some(BatchSequence {
                tokens: &drafting.tokens[drafting.tokens.len().checked_sub(1)?..],
                start: cached.tokens.len(),
                block_table: &cached.blocks,
                window: None,
                mass: None,
                needed: LogitDemand::All,
                outputs: Outputs::Last,
            })
        });
        let batch: Vec<_> = batch.collect();
        debug_assert_eq!(batch.len(), active.len());
        forward(&self.model, lease, &mut self.state, &mut self.cache, &batch)?;
        self.model.settle_order(&mut self.state);
        self.passes += 1;
        for drafting in active {
            if let Some(cached) = self.sequences.get_mut(&wishes[drafting.wish].id) {
                cached.tokens.extend(drafting.tokens.last());
            }
        }
        Ok(())
    }
}

impl CachedSequence {
    /// Takes blocks until it has `count`. `false` when the pool ran out.
    fn reserve(&mut self, count: usize, pool: &mut BlockPool) -> bool {
        while self.blocks.len() < count {
            let Some(block) = pool.allocate() else {
                return false;
            };
            self.blocks.push(block);
        }
        true
    }

    fn release(&mut self, pool: &mut BlockPool) {
        self.tokens.clear();
        self.blocks.drain(..).for_each(|block| pool.release(block));
    }
}

fn forward(
    model: &Model,
    lease: &Lease,
    state: &mut RunState,
    cache: &mut KvCache,
    batch: &[BatchSequence<'_>],
) -> Result<(), ModelError> {
    model.forward(lease, state, cache, batch, &AtomicBool::new(false))
}

/// The cache of a draft model beside one of `blocks` blocks.
pub(crate) fn draft_cache(
    config: &EngineConfig,
    model: &ModelConfig,
    value_dim: usize,
    blocks: usize,
) -> KvCacheConfig {
    KvCacheConfig {
        dtype: KvDType::Int8,
        ..kv_config(config, model, value_dim, blocks)
    }
}

/// What a token of a draft model costs, over one of the model's own: by the bytes of weights that they read, and what a pass
/// costs besides.
pub(crate) fn cost(draft: &Model, main: &Model) -> f32 {
    let cost = |model: &Model| (model.two_bit_bytes_per_token() + PASS_BYTES) as f32;
    cost(draft) / cost(main)
}

/// The index of the greatest of `logits`, the first of equals, and its probability among them, a little too great; `None` where
/// there are NaNs.
fn likeliest(logits: &[f32]) -> Option<(u32, f32)> {
    let greatest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let best = logits.iter().position(|&logit| logit == greatest)?;
    let near = logits.iter().map(|&logit| logit - greatest);
    let near = near.filter(|below| *below >= -NEGLIGIBLE || below.is_nan());
    let sum: f64 = near.map(|below| exp(f64::from(below))).sum();
    let chance = (1.0 / sum) as f32;
    chance.is_finite().then_some((best as u32, chance))
}

/// Refuses a draft model whose first `vocab` tokens are not the model's own.
fn same_tokens(main: &Tokenizer, draft: &Tokenizer, vocab: usize) -> Result<(), EngineError> {
    let differ = |&id: &u32| {
        main.token_bytes(id) != draft.token_bytes(id)
            || main.is_end_of_generation(id) != draft.is_end_of_generation(id)
    };
    let Some(id) = (0..vocab as u32).find(differ) else {
        return Ok(());
    };
    let (ours, theirs) = (main.piece(id), draft.piece(id));
    Err(EngineError::invalid(
        "draftModel",
        "a model with the same tokens",
        format!("one whose token {id} is {theirs:?}, not {ours:?}"),
    ))
}

#[cfg(test)]
mod tests {
    use ryz_kvcache::BLOCK_TOKENS;

    use super::*;

    #[test]
    fn the_likeliest_token_comes_with_its_probability() {
        let (token, chance) = likeliest(&[0.0, 1.0, 1.0]).unwrap();
        assert_eq!(token, 1);
        let expected = 1f32.exp() / (2.0 * 1f32.exp() + 1.0);
        assert!((chance - expected).abs() < 1e-6, "{chance}, not {expected}");
        let mut vocabulary = vec![-16.5; 100_000];
        vocabulary[7] = 0.0;
        let (token, chance) = likeliest(&vocabulary).unwrap();
        assert!(token == 7 && (chance - 1.0).abs() < 0.01, "{chance}");
        assert_eq!(likeliest(&[0.0, f32::NAN]), None);
        assert_eq!(likeliest(&[]), None);
    }

    fn load(prefill_chunk: usize, blocks: usize) -> (Draft, Lease) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../__test__/fixtures");
        let path = folder.join("reference/b158-v1-tq2_0.gguf");
        let config = EngineConfig {
            threads: Some(2),
            prefill_chunk,
            max_sequences: 2,
            auto_tune: false,
            ..EngineConfig::default()
        };
        let source = ModelSource::open(&path).unwrap();
        let main = (&tokenizer(&source).unwrap(), source.config().vocab_size);
        let lease = Lease::with(config.lease()).unwrap();
        let arena = crate::capacity::arena(&config);
        let progress = &mut |_| ControlFlow::Continue(());
        let draft = Draft::load(&path, &config, main, blocks, &lease, &arena, progress).unwrap();
        (draft, lease)
    }

    fn wish(id: SequenceId, tokens: &[u32], most: usize) -> ProposalRequest<'_> {
        ProposalRequest {
            id,
            tokens,
            most,
            least_chance: 0.0,
        }
    }

    #[test]
    fn proposals_do_not_depend_on_what_was_proposed_before_or_beside() {
        let (mut draft, lease) = load(64, 64);
        let mut propose = |wishes: &[ProposalRequest<'_>]| draft.propose(&lease, wishes).unwrap();
        let mut first: Vec<u32> = (3..23).collect();
        let second: Vec<u32> = (40..45).collect();
        let together = propose(&[wish(1, &first, 6), wish(2, &second, 3)]);
        assert_eq!((together[0].len(), together[1].len()), (6, 3));
        // Alone, in one sequence that has nothing cached, and token by token.
        assert_eq!(propose(&[wish(3, &first, 6)])[0], together[0]);
        assert_eq!(propose(&[wish(2, &second, 3)])[0], together[1]);
        first.extend(&together[0][..3]);
        assert_eq!(propose(&[wish(1, &first, 3)])[0], together[0][3..]);
        // The model chose otherwise.
        first.push(together[0][3] ^ 1);
        let other = propose(&[wish(1, &first, 4)]);
        assert_eq!(propose(&[wish(4, &first, 4)]), other);
        draft.forget(|id| id == 4);
        assert_eq!(
            draft.pool.available(),
            64 - draft.sequences[&4].blocks.len()
        );
        draft.forget(|_| false);
        assert_eq!(draft.pool.available(), 64);
    }

    #[test]
    fn long_texts_are_read_by_and_by_and_too_long_ones_not_at_all() {
        let (mut draft, lease) = load(4, 3);
        let text: Vec<u32> = (3..23).collect();
        let mut proposed = |wish| draft.propose(&lease, &[wish]).unwrap()[0].len();
        // Six tokens a step.
        let lengths = [(); 4].map(|()| proposed(wish(1, &text, 4)));
        assert_eq!(lengths, [0, 0, 0, 4]);
        // 24 tokens have two of the three blocks.
        assert_eq!(proposed(wish(2, &text, 4)), 0);
        assert_eq!(proposed(wish(3, &[3, u32::MAX], 4)), 0);
        assert_eq!(draft.pool.available(), 1);
        assert_eq!(draft.take_passes(), 4 + 3);
    }

    #[test]
    fn blocks_are_taken_once_and_given_back() {
        let mut pool = BlockPool::new(3);
        let mut cached = CachedSequence::default();
        assert!(cached.reserve(2, &mut pool) && cached.reserve(2, &mut pool));
        assert_eq!(pool.available(), 1);
        assert!(!cached.reserve(4, &mut pool));
        cached.release(&mut pool);
        assert_eq!(pool.available(), 3);
        assert_eq!(blocks_for(BLOCK_TOKENS + 1), 2);
    }
}
