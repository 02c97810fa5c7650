//! One generation from its first token to its last event: sampler, text, limits, clock.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ryz_model::LogitDemand;
use ryz_profile::{Phase, PhaseClock};
use ryz_tokenizer::{DecodeStream, Tokenizer};

use crate::assembler::Assembler;
use crate::error::EngineError;
use crate::guide::Guide;
use crate::request::{Control, Event, EventSink, Finish, FinishReason, Timings, Usage};
use crate::sampler::{Candidates, Sampler};
use crate::sequence::Sequence;
use crate::speculation::Speculation;

/// What a generation is made from; everything in it has been validated.
pub(crate) struct GenerationParts {
    pub sampler: Sampler,
    pub guide: Option<Guide>,
    pub stop: Vec<String>,
    pub stop_tokens: Vec<u32>,
    pub shown_tokens: Vec<u32>,
    pub max_tokens: Option<u32>,
    /// Of the prompt.
    pub unknown_characters: usize,
    pub speculation: Speculation,
    pub sink: Box<dyn EventSink>,
    pub submitted: Instant,
}

/// A generation under way.
pub(crate) struct Generation {
    sampler: Sampler,
    guide: Option<Guide>,
    /// Logits that wait for the mask of their position.
    held: Option<Vec<f32>>,
    stream: DecodeStream,
    assembler: Assembler,
    /// Ids that end it: the request's own and the model's, sorted.
    end_tokens: Vec<u32>,
    max_tokens: usize,
    speculation: Speculation,
    sink: Box<dyn EventSink>,
    control: Arc<Control>,
    usage: Usage,
    submitted: Instant,
    started: Option<Instant>,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
}

impl Generation {
    pub fn new(
        parts: GenerationParts,
        prompt: &[u32],
        tokenizer: &Tokenizer,
        control: Arc<Control>,
    ) -> Self {
        let mut sampler = parts.sampler;
        sampler.observe_prompt(prompt);
        let mut guide = parts.guide;
        if let Some(guide) = &mut guide {
            guide.begin();
        }
        let mut end_tokens = parts.stop_tokens;
        end_tokens.extend_from_slice(tokenizer.end_of_generation());
        end_tokens.sort_unstable();
        Self {
            sampler,
            guide,
            held: None,
            stream: tokenizer.decode_stream(true).showing(&parts.shown_tokens),
            assembler: Assembler::new(&parts.stop),
            end_tokens,
            max_tokens: parts.max_tokens.map_or(usize::MAX, |n| n as usize),
            speculation: parts.speculation,
            sink: parts.sink,
            control,
            usage: Usage {
                prompt_tokens: prompt.len(),
                completion_tokens: 0,
                unknown_characters: parts.unknown_characters,
            },
            submitted: parts.submitted,
            started: None,
            first_token: None,
            last_token: None,
        }
    }

    /// Its first step begins.
    pub fn start(&mut self, now: Instant) {
        self.started.get_or_insert(now);
    }

    /// How many tokens may be proposed for the sequence's next step, where there is room for `room`: as many as may be
    /// delivered, but for the one that the step gives besides.
    fn proposable(&self, room: usize) -> usize {
        let left = self.max_tokens.saturating_sub(self.usage.completion_tokens);
        let granted = self.control.credits.load(Ordering::SeqCst);
        room.min(left.saturating_sub(1))
            .min(usize::try_from(granted - 1).unwrap_or(0))
    }

    /// Proposes what may follow from the text itself, `room` tokens at most, to be verified in the sequence's next step.
    /// Where there is nothing, how many tokens the draft model is to propose, and the least chance that they must have.
    pub fn propose(&mut self, sequence: &mut Sequence, room: usize) -> Option<(usize, f32)> {
        let room = self.proposable(room);
        let Sequence { tokens, ahead, .. } = sequence;
        let (&due, true) = (tokens.last()?, room > 0) else {
            return None;
        };
        ahead.push(due);
        self.speculation.look_up(tokens, room, ahead);
        if ahead.len() > 1 {
            return None;
        }
        ahead.clear();
        self.speculation.wanted(room)
    }

    /// Learns what became of a proposal.
    pub fn verified(&mut self, proposed: usize, accepted: usize) {
        self.speculation.verified(proposed, accepted);
    }

    /// Which logits it will look at to choose tokens behind up to `history` others.
    pub fn needed(&self, history: usize) -> LogitDemand {
        match &self.guide {
            Some(_) => LogitDemand::All,
            None => self.sampler.needed(history),
        }
    }

    /// Whether a token can be chosen without waiting longer than this for what a constraint allows.
    pub fn is_ready(&mut self, patience: Duration) -> bool {
        let guide = self.guide.as_mut();
        guide.is_none_or(|guide| guide.is_ready(patience))
    }

    /// Keeps the logits of its next token until it can be chosen.
    pub fn hold(&mut self, logits: &[f32]) {
        let mut held = self.held.take().unwrap_or_default();
        held.clear();
        held.extend_from_slice(logits);
        self.held = Some(held);
    }

    /// Whether it keeps logits.
    pub fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// The logits that it keeps, which it does not any longer.
    pub fn release(&mut self) -> Option<Vec<f32>> {
        self.held.take()
    }

    /// Chooses the next token from `logits`, delivers its text, and says how the generation has ended, if it has: its last
    /// event is left to the caller ([`Generation::finish`], [`Generation::fail`]).
    pub fn advance(
        &mut self,
        sequence: &mut Sequence,
        logits: &[f32],
        scratch: &mut Candidates,
        context_length: usize,
        clock: &mut PhaseClock,
    ) -> Option<Result<FinishReason, EngineError>> {
        let allowed = self.guide.as_mut().map(Guide::allowed).transpose();
        let sampled = allowed.and_then(|allowed| {
            let history = &sequence.tokens;
            self.sampler.sample(scratch, logits, history, allowed)
        });
        let sampled = match sampled {
            Ok(sampled) => sampled,
            Err(error) => return Some(Err(error)),
        };
        clock.lap(Phase::Sample, None);
        let now = Instant::now();
        self.first_token.get_or_insert(now);
        self.last_token = Some(now);
        if self.end_tokens.binary_search(&sampled.token).is_ok() {
            let whole = self.guide.as_mut().is_none_or(Guide::is_whole);
            let rest = self.stream.finish();
            self.flush(&rest, clock);
            return Some(Ok(stopped(whole)));
        }
        // At once, so that the next mask is computed while this token is delivered and the forward pass runs.
        let complete = match &mut self.guide {
            Some(guide) => guide.accept(sampled.token),
            None => Ok(false),
        };
        sequence.tokens.push(sampled.token);
        self.usage.completion_tokens += 1;
        let text = self.stream.push(sampled.token);
        let assembled = self.assembler.push(sampled.token, sampled.logprobs, &text);
        clock.lap(Phase::Detokenize, None);
        if let Some(delta) = assembled.delta {
            let spent = delta.token_ids.len() as i64;
            self.control.credits.fetch_sub(spent, Ordering::SeqCst);
            if let Some(guide) = &mut self.guide {
                guide.delivered(&delta.text);
            }
            self.sink.deliver(Event::Delta(delta));
            clock.lap(Phase::Deliver, None);
        }
        let complete = match complete {
            Ok(complete) => complete,
            Err(error) => return Some(Err(error)),
        };
        let reason = if assembled.stopped {
            stopped(self.guide.as_ref().is_none_or(Guide::is_whole_text))
        } else if complete {
            FinishReason::Stop
        } else if self.usage.completion_tokens >= self.max_tokens
            || sequence.tokens.len() >= context_length
        {
            FinishReason::Length
        } else {
            return None;
        };
        if !assembled.stopped {
            // A cut inside a character ends with the character before.
            let rest = match reason {
                FinishReason::Stop | FinishReason::StopSequence => self.stream.finish(),
                FinishReason::Length | FinishReason::Abort => self.stream.cut(),
            };
            self.flush(&rest, clock);
        }
        Some(Ok(reason))
    }

    /// Ends it with an error.
    pub fn fail(&mut self, error: EngineError) {
        self.sink.deliver(Event::Failed(error));
    }

    /// Delivers what is still held back, and `rest` behind it.
    fn flush(&mut self, rest: &str, clock: &mut PhaseClock) {
        if let Some(delta) = self.assembler.finish(rest) {
            self.sink.deliver(Event::Delta(delta));
            clock.lap(Phase::Deliver, None);
        }
    }

    /// Ends it.
    pub fn finish(&mut self, reason: FinishReason) {
        let finish = Finish {
            reason,
            usage: self.usage,
            timings: self.timings(),
            seed: self.sampler.seed(),
        };
        self.sink.deliver(Event::Finish(finish));
    }

    fn timings(&self) -> Timings {
        let span = |from: Option<Instant>, to: Option<Instant>| match (from, to) {
            (Some(from), Some(to)) => to.saturating_duration_since(from),
            _ => Duration::ZERO,
        };
        let submitted = Some(self.submitted);
        let decode = span(self.first_token, self.last_token);
        let after_first = self.usage.completion_tokens.saturating_sub(1);
        Timings {
            queue: span(submitted, self.started),
            prefill: span(self.started, self.first_token),
            time_to_first_token: span(submitted, self.first_token),
            decode,
            tokens_per_second: if decode.is_zero() {
                0.0
            } else {
                after_first as f64 / decode.as_secs_f64()
            },
        }
    }
}

/// Why a generation ended that an end token or a stop string ended: one that a constraint does not hold complete is cut short.
fn stopped(whole: bool) -> FinishReason {
    if whole {
        FinishReason::Stop
    } else {
        FinishReason::StopSequence
    }
}
