//! From logits to the next token.
//!
//! Logits pass a chain: a constraint's mask, logit bias and bans, then the samplers in [`SamplingParams::order`], then one draw. All
//! arithmetic is the engine's own (see [`crate::math`]) and the generator is fixed (see [`rng`]), so a seed gives the
//! same text on every machine.

mod adjust;
mod candidates;
mod dry;
mod mirostat;
mod needed;
mod params;
pub mod rng;
mod truncate;

pub(crate) use candidates::non_finite_logit;
pub use candidates::{Candidate, Candidates};
pub use dry::PieceFn;
pub use params::{DryParams, MAX_LOGPROBS, Mirostat, SamplerKind, SamplingParams};

use crate::error::EngineError;
use crate::math::log_sum_exp;
use dry::Dry;
use mirostat::MirostatState;
use rng::Rng;
use ryz_model::LogitDemand;

/// What a sampler must know of the vocabulary.
#[derive(Clone)]
pub struct Vocab {
    /// Number of ids.
    pub size: usize,
    /// The ids that end a generation by the model's own rule.
    pub end_tokens: Vec<u32>,
    /// A token's bytes.
    pub piece: PieceFn,
}

/// Log-probabilities of one position, under the model's own distribution before any sampler.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprobs {
    /// The chosen token.
    pub token: u32,
    /// Its log-probability.
    pub logprob: f32,
    /// The most probable tokens, most probable first.
    pub top: Vec<(u32, f32)>,
}

/// A chosen token.
#[derive(Debug, Clone, PartialEq)]
pub struct SampledToken {
    /// Its id.
    pub token: u32,
    /// Present when [`SamplingParams::logprobs`] asks for them.
    pub logprobs: Option<TokenLogprobs>,
}

/// The sampling state of one sequence: generator, mirostat, DRY, and how many tokens it has chosen.
pub struct Sampler {
    params: SamplingParams,
    vocab_size: usize,
    seed: u64,
    rng: Rng,
    mirostat: Option<MirostatState>,
    dry: Option<Dry>,
    end_tokens: Vec<u32>,
    stop_tokens: Vec<u32>,
    chosen: u32,
}

impl Sampler {
    /// Checks the parameters and prepares the state. `stop_tokens` are the request's own, held back like the model's
    /// end tokens until `min_tokens` is reached. A missing seed is taken from the operating system.
    pub fn new(
        params: SamplingParams,
        vocab: &Vocab,
        stop_tokens: &[u32],
    ) -> Result<Self, EngineError> {
        params.validate(vocab.size)?;
        let seed = params.seed.unwrap_or_else(random_seed);
        let mut params = params;
        // Each step walks through them beside the candidates.
        params.logit_bias.sort_by_key(|&(id, _)| id);
        Ok(Self {
            rng: Rng::new(seed),
            mirostat: MirostatState::new(params.mirostat),
            dry: Dry::new(&params.dry, vocab.piece.clone()),
            end_tokens: sorted(&vocab.end_tokens),
            stop_tokens: sorted(stop_tokens),
            vocab_size: vocab.size,
            seed,
            chosen: 0,
            params,
        })
    }

    /// The seed in use.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Takes note of the prompt.
    pub fn observe_prompt(&mut self, tokens: &[u32]) {
        if let Some(dry) = &mut self.dry {
            tokens.iter().for_each(|&t| dry.observe(t));
        }
    }

    /// Chooses the token that follows `history` (prompt and generated tokens so far, all of them observed), of those that
    /// `allowed` has a bit for.
    pub fn sample(
        &mut self,
        scratch: &mut Candidates,
        logits: &[f32],
        history: &[u32],
        allowed: Option<&[u32]>,
    ) -> Result<SampledToken, EngineError> {
        debug_assert_eq!(logits.len(), self.vocab_size);
        let position = history.len();
        let first = match self.params.logprobs {
            Some(_) => None, // those of the model, whatever is allowed
            None => allowed,
        };
        match (first, self.needed(position)) {
            (None, LogitDemand::Largest(count)) => scratch.fill_largest(logits, count, position)?,
            _ => scratch.fill(logits, first, position)?,
        }
        let logprobs = self.params.logprobs.map(|n| {
            scratch.sort_front(n as usize);
            let total = log_sum_exp(logits);
            let top = scratch.items[..scratch.len().min(n as usize)]
                .iter()
                .map(|c| (c.id, (f64::from(c.logit) - total) as f32))
                .collect();
            (total, top)
        });
        if self
            .params
            .logprobs
            .is_some_and(|n| n > 0 || allowed.is_some())
        {
            scratch.fill(logits, allowed, position)?; // back to id order
        }
        self.ban_and_bias(scratch);
        if scratch.len() == 0 {
            return Err(EngineError::NoCandidates { position });
        }
        let token = self.choose(scratch, history);
        self.chosen = self.chosen.saturating_add(1);
        if let Some(dry) = &mut self.dry {
            dry.observe(token);
        }
        let logprobs = logprobs.map(|(total, top)| TokenLogprobs {
            token,
            logprob: (f64::from(logits[token as usize]) - total) as f32,
            top,
        });
        Ok(SampledToken { token, logprobs })
    }

    /// Which logits [`Sampler::sample`] looks at for the tokens that follow up to `history` others, where all are allowed.
    pub fn needed(&self, history: usize) -> LogitDemand {
        let ends = self.end_tokens.len();
        let held_back = match self.chosen < self.params.min_tokens {
            true => ends + self.stop_tokens.len(),
            false if self.params.ignore_eos => ends,
            false => 0,
        };
        self.params.needed(held_back, history)
    }

    fn ban_and_bias(&self, c: &mut Candidates) {
        c.bias(&self.params.logit_bias);
        let too_early = self.chosen < self.params.min_tokens;
        let ends = too_early || self.params.ignore_eos;
        let ended: &[u32] = if ends { &self.end_tokens } else { &[] };
        let stopped: &[u32] = if too_early { &self.stop_tokens } else { &[] };
        if !(ended.is_empty() && stopped.is_empty()) {
            let held_back =
                |id| ended.binary_search(&id).is_ok() || stopped.binary_search(&id).is_ok();
            c.retain(|c| !held_back(c.id));
        }
    }

    fn choose(&mut self, c: &mut Candidates, history: &[u32]) -> u32 {
        let params = &self.params;
        let greedy = params.is_greedy();
        let truncates = !greedy && self.mirostat.is_none();
        for kind in &params.order {
            match kind {
                SamplerKind::Penalties => adjust::penalties(c, params, history),
                SamplerKind::Dry => {
                    if let Some(dry) = &self.dry {
                        dry.apply(c, history);
                    }
                }
                SamplerKind::Temperature if !greedy => adjust::temperature(c, params),
                SamplerKind::TopNSigma if truncates => truncate::top_n_sigma(c, params.top_n_sigma),
                SamplerKind::TopK if truncates => truncate::top_k(c, params.top_k),
                SamplerKind::Typical if truncates => truncate::typical(c, params.typical_p),
                SamplerKind::TopP if truncates => truncate::top_p(c, params.top_p),
                SamplerKind::MinP if truncates => truncate::min_p(c, params.min_p),
                SamplerKind::Xtc if truncates && params.xtc_probability > 0.0 => {
                    let chance = self.rng.next_f64();
                    truncate::xtc(c, params.xtc_threshold, params.xtc_probability, chance);
                }
                _ => {}
            }
        }
        if greedy {
            return c.best().map_or(0, |best| best.id);
        }
        let u = self.rng.next_f64();
        let index = match &mut self.mirostat {
            Some(mirostat) => mirostat.sample(c, self.vocab_size, u),
            None => c.draw(u),
        };
        c.items[index].id
    }
}

fn sorted(tokens: &[u32]) -> Vec<u32> {
    let mut tokens = tokens.to_vec();
    tokens.sort_unstable();
    tokens
}

/// A seed from the operating system's entropy, through the standard library's own hasher keys.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish()
}

#[cfg(test)]
mod tests;
