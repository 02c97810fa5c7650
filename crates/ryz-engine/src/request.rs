//! What goes into the engine and what comes out: requests, events, results.

use std::sync::atomic::{AtomicBool, AtomicI64};
use std::time::Duration;

use crate::error::EngineError;
use crate::eviction::Eviction;
use crate::guide::Constraint;
use crate::sampler::{SamplingParams, TokenLogprobs};
use crate::sequence::SequenceId;

/// What a generation continues.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompt {
    /// Text, tokenised off the caller's thread with the model's own beginning-of-sequence rule.
    Text(String),
    /// Token ids, as they are.
    Tokens(Vec<u32>),
}

/// A generation.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateRequest {
    /// What to continue.
    pub prompt: Prompt,
    /// Whether text may name control tokens such as `<|im_end|>`; default false.
    pub parse_special: bool,
    /// Whether the model's own special tokens (usually a beginning-of-sequence token) are added to text; default true.
    pub add_special: bool,
    /// Most tokens to generate; default until the context is full.
    pub max_tokens: Option<u32>,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// The form that the answer must have; default none.
    pub constraint: Option<Constraint>,
    /// Texts that end the generation; they are never delivered.
    pub stop: Vec<String>,
    /// Ids that end the generation, besides the model's own end tokens.
    pub stop_tokens: Vec<u32>,
    /// Special tokens whose text is delivered, such as one that begins a tool call; default none.
    pub shown_tokens: Vec<u32>,
    /// Most tokens that are proposed ahead of a step, from what the text repeats, and verified in it; at most
    /// [`GenerateRequest::MOST_DRAFTED`]; default 0, for none. The answer does not depend on it.
    pub prompt_lookup: usize,
    /// Most tokens that the engine's draft model proposes ahead of a step, where the text repeats nothing; at most
    /// [`GenerateRequest::MOST_DRAFTED`]; 0 for none; default [`GenerateRequest::USUALLY_DRAFTED`] where the engine has one.
    /// The answer does not depend on it.
    pub draft: Option<usize>,
    /// Who has more is computed first and, where slots or blocks are short, instead of others, who are computed again later;
    /// equal ones go in the order they came. Default 0.
    pub priority: i32,
    /// What it forgets when it grows long; default as the engine's configuration has it.
    pub eviction: Option<Eviction>,
    /// Tokens that may be delivered before the consumer grants more. Without credits the sequence is not scheduled.
    pub credits: u32,
}

impl GenerateRequest {
    /// The greatest `prompt_lookup` and `draft`.
    pub const MOST_DRAFTED: usize = 64;
    /// The default of `draft` where there is a draft model.
    pub const USUALLY_DRAFTED: usize = 8;

    /// A request with default sampling and 32 credits.
    pub fn new(prompt: Prompt) -> Self {
        Self {
            prompt,
            parse_special: false,
            add_special: true,
            max_tokens: None,
            sampling: SamplingParams::default(),
            constraint: None,
            stop: Vec::new(),
            stop_tokens: Vec::new(),
            shown_tokens: Vec::new(),
            prompt_lookup: 0,
            draft: None,
            priority: 0,
            eviction: None,
            credits: 32,
        }
    }
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended it, or a stop string or stop token did, or its constraint is fulfilled.
    Stop,
    /// `max_tokens` or the context's length was reached.
    Length,
    /// A stop string or a stop token ended it before its constraint was fulfilled.
    StopSequence,
    /// It was cancelled.
    Abort,
}

impl FinishReason {
    /// `stop`, `length`, `stop-sequence` or `abort`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::StopSequence => "stop-sequence",
            Self::Abort => "abort",
        }
    }
}

/// Token counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens generated; the end token that the model chose last does not count.
    pub completion_tokens: usize,
    /// Characters of a prompt of text that the vocabulary cannot say: each became the unknown token,
    /// or was left out where there is none.
    pub unknown_characters: usize,
}

/// Where the time went.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Timings {
    /// From the request to its first step.
    pub queue: Duration,
    /// From its first step to its first token.
    pub prefill: Duration,
    /// From the request to its first token, waiting included.
    pub time_to_first_token: Duration,
    /// From its first token to its last.
    pub decode: Duration,
    /// Tokens after the first per second of `decode`; 0 when there is only one.
    pub tokens_per_second: f64,
}

/// New text.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Delta {
    /// Whole characters, never a part of a stop string.
    pub text: String,
    /// The tokens the text came from, since the last delta. Each takes a credit.
    pub token_ids: Vec<u32>,
    /// One entry per token when they were asked for.
    pub logprobs: Vec<TokenLogprobs>,
}

/// How a generation ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Finish {
    /// Why.
    pub reason: FinishReason,
    /// Token counts.
    pub usage: Usage,
    /// Times.
    pub timings: Timings,
    /// The seed of the draw, so that it can be repeated.
    pub seed: u64,
}

/// What a generation tells its consumer: deltas, then exactly one `Finish` or `Failed`.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// New text.
    Delta(Delta),
    /// The end.
    Finish(Finish),
    /// The end, by an error.
    Failed(EngineError),
}

/// The sending end of a consumer. Called on a thread of the engine: it must not block.
pub trait EventSink: Send {
    /// Takes one event.
    fn deliver(&mut self, event: Event);
}

impl<F: FnMut(Event) + Send> EventSink for F {
    fn deliver(&mut self, event: Event) {
        self(event);
    }
}

/// Takes the one result of a job. Called on a thread of the engine: it must not block.
pub type Reply<T> = Box<dyn FnOnce(Result<T, EngineError>) + Send>;

/// Logits of one or all positions.
#[derive(Debug, Clone, PartialEq)]
pub struct LogitsOutput {
    /// Positions.
    pub rows: usize,
    /// The vocabulary's size.
    pub columns: usize,
    /// (rows, columns), row by row.
    pub data: Vec<f32>,
}

/// A score over a text.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ScoreOutput {
    /// How many tokens were scored.
    pub tokens: usize,
    /// The sum of their negative log-likelihoods in nats.
    pub sum_nll: f64,
}

impl ScoreOutput {
    /// Mean negative log-likelihood; NaN when nothing was scored.
    pub fn mean_nll(&self) -> f64 {
        self.sum_nll / self.tokens as f64
    }

    /// `e^mean_nll`.
    pub fn perplexity(&self) -> f64 {
        crate::math::exp(self.mean_nll())
    }
}

/// What a handle and the engine thread share of one request.
#[derive(Debug)]
pub(crate) struct Control {
    pub id: SequenceId,
    pub cancelled: AtomicBool,
    /// Tokens that may still be delivered; a delta of several may take it below zero.
    pub credits: AtomicI64,
}
