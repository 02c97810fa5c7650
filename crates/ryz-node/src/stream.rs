//! The way of a generation's events to JavaScript: a token's text and id, or what was gathered in a batch, through one threadsafe function
//! a sequence.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use napi::bindgen_prelude::{Either, FnArgs, Function};
use napi::threadsafe_function::{
    ThreadsafeCallContext, ThreadsafeFunction, ThreadsafeFunctionCallMode,
};
use napi::{Result, Status};
use napi_derive::napi;
use ryz_engine::{Event, EventSink, RequestHandle, TokenLogprobs};

use crate::answer::{Failure, failure};

/// A token and the logarithm of its probability.
#[napi(object)]
pub struct TokenLogprob {
    /// Its id.
    pub token_id: u32,
    /// ln p.
    pub logprob: f64,
}

/// A chosen token, and the most probable ones at its place.
#[napi(object)]
pub struct ChosenLogprobs {
    /// Its id.
    pub token_id: u32,
    /// ln p.
    pub logprob: f64,
    /// Most probable first.
    pub top: Vec<TokenLogprob>,
}

/// New text.
#[napi(object)]
pub struct Delta {
    /// Whole characters.
    pub text: String,
    /// The tokens since the last delta.
    pub token_ids: Vec<u32>,
    /// One entry a token, if asked for.
    pub logprobs: Option<Vec<ChosenLogprobs>>,
}

/// How a generation ended.
#[napi(object)]
pub struct Finish {
    /// `stop`, `length` or `abort`.
    pub finish_reason: String,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens generated.
    pub completion_tokens: u32,
    /// Characters of the prompt that the vocabulary cannot say.
    pub unknown_characters: u32,
    /// From the request to its first step.
    pub queue_ms: f64,
    /// From its first step to its first token.
    pub prefill_ms: f64,
    /// From the request to its first token.
    pub time_to_first_token_ms: f64,
    /// From its first token to its last.
    pub decode_ms: f64,
    /// Tokens after the first, a second.
    pub tokens_per_second: f64,
}

/// What was delivered since the last call.
#[napi(object)]
pub struct Batch {
    /// New text, in order.
    pub deltas: Vec<Delta>,
    /// The end, if it is there.
    pub finish: Option<Finish>,
    /// The end by an error, if it is there.
    pub failure: Option<Failure>,
}

/// What the callback is given: the text and the id of one token, which nearly every call brings and which costs no objects,
/// or a batch of whatever there is.
pub type Delivery = FnArgs<(Either<Batch, String>, Option<u32>)>;

/// Weak: it is not what keeps the process alive.
type Callback = ThreadsafeFunction<(), (), Delivery, Status, false, true>;

/// What is to be delivered.
enum Item {
    Event(Event),
    Failure(Failure),
}

/// The callback, until the generation has ended.
struct Line {
    callback: Mutex<Option<Callback>>,
    pending: Arc<Mutex<Vec<Item>>>,
    /// The engine took the request, so that it owes an end.
    accepted: AtomicBool,
}

impl Line {
    fn push(&self, item: Item) {
        let first = {
            let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
            pending.push(item);
            pending.len() == 1
        };
        // One call is under way already when something was pending: it will take this along.
        if first && let Some(callback) = &*self.lock() {
            callback.call((), ThreadsafeFunctionCallMode::NonBlocking);
        }
    }

    fn release(&self) {
        self.lock().take();
    }

    fn lock(&self) -> MutexGuard<'_, Option<Callback>> {
        self.callback.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sending end, which the engine holds as long as the sequence lives.
pub struct Sender {
    line: Arc<Line>,
    ended: bool,
}

impl EventSink for Sender {
    fn deliver(&mut self, event: Event) {
        self.ended |= !matches!(event, Event::Delta(_));
        self.line.push(Item::Event(event));
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let accepted = self.line.accepted.load(Ordering::SeqCst);
        if !self.ended && accepted {
            self.line.push(Item::Failure(Failure::plain(
                "INTERNAL",
                "the engine dropped a generation without an end",
            )));
        }
        if self.ended || accepted {
            self.line.release();
        }
    }
}

/// A running generation, as TypeScript holds it.
#[napi]
pub struct NativeRequest {
    handle: Option<RequestHandle>,
}

#[napi]
impl NativeRequest {
    /// Ends it within one step.
    #[napi(catch_unwind)]
    pub fn cancel(&mut self) {
        if let Some(handle) = self.handle.take() {
            handle.cancel();
        }
    }

    /// Lets so many more tokens be delivered.
    #[napi(catch_unwind)]
    pub fn grant(&self, credits: u32) {
        if let Some(handle) = &self.handle {
            handle.grant(credits);
        }
    }
}

/// Starts a generation: `submit` gives the engine the sending end. Its failure arrives as the stream's only batch.
pub fn open(
    on_delivery: &Function<'_, Delivery, ()>,
    submit: impl FnOnce(Sender) -> std::result::Result<RequestHandle, Failure>,
) -> Result<NativeRequest> {
    let pending = Arc::new(Mutex::new(Vec::new()));
    let taken = Arc::clone(&pending);
    let callback = on_delivery
        .build_threadsafe_function::<()>()
        .weak::<true>()
        .build_callback(move |_: ThreadsafeCallContext<()>| {
            let items = std::mem::take(&mut *taken.lock().unwrap_or_else(PoisonError::into_inner));
            Ok(delivery(items))
        })?;
    let accepted = AtomicBool::new(false);
    let line = Arc::new(Line {
        callback: Mutex::new(Some(callback)),
        pending,
        accepted,
    });
    let request = |handle| NativeRequest { handle };
    match submit(Sender {
        line: Arc::clone(&line),
        ended: false,
    }) {
        Ok(handle) => {
            line.accepted.store(true, Ordering::SeqCst);
            Ok(request(Some(handle)))
        }
        Err(failure) => {
            line.push(Item::Failure(failure));
            line.release();
            Ok(request(None))
        }
    }
}

fn delivery(mut items: Vec<Item>) -> Delivery {
    if let [Item::Event(Event::Delta(delta))] = items.as_mut_slice()
        && let [token] = delta.token_ids[..]
        && delta.logprobs.is_empty()
    {
        return (Either::B(std::mem::take(&mut delta.text)), Some(token)).into();
    }
    (Either::A(batch(items)), None).into()
}

fn batch(items: Vec<Item>) -> Batch {
    let mut batch = Batch {
        deltas: Vec::with_capacity(items.len()),
        finish: None,
        failure: None,
    };
    for item in items {
        match item {
            Item::Event(Event::Delta(delta)) => batch.deltas.push(delta_of(delta)),
            Item::Event(Event::Finish(finish)) => batch.finish = Some(finish_of(&finish)),
            Item::Event(Event::Failed(error)) => batch.failure = Some(failure(&error)),
            Item::Event(_) => {}
            Item::Failure(failure) => batch.failure = Some(failure),
        }
    }
    batch
}

fn delta_of(delta: ryz_engine::Delta) -> Delta {
    let logprobs =
        (!delta.logprobs.is_empty()).then(|| delta.logprobs.iter().map(logprobs_of).collect());
    Delta {
        text: delta.text,
        token_ids: delta.token_ids,
        logprobs,
    }
}

fn logprobs_of(entry: &TokenLogprobs) -> ChosenLogprobs {
    let top = entry.top.iter();
    ChosenLogprobs {
        token_id: entry.token,
        logprob: f64::from(entry.logprob),
        top: top
            .map(|&(token_id, logprob)| TokenLogprob {
                token_id,
                logprob: f64::from(logprob),
            })
            .collect(),
    }
}

fn finish_of(finish: &ryz_engine::Finish) -> Finish {
    let ms = |duration: std::time::Duration| duration.as_secs_f64() * 1e3;
    let (usage, timings) = (finish.usage, finish.timings);
    Finish {
        finish_reason: finish.reason.as_str().to_owned(),
        prompt_tokens: count(usage.prompt_tokens),
        completion_tokens: count(usage.completion_tokens),
        unknown_characters: count(usage.unknown_characters),
        queue_ms: ms(timings.queue),
        prefill_ms: ms(timings.prefill),
        time_to_first_token_ms: ms(timings.time_to_first_token),
        decode_ms: ms(timings.decode),
        tokens_per_second: timings.tokens_per_second,
    }
}

fn count(tokens: usize) -> u32 {
    u32::try_from(tokens).unwrap_or(u32::MAX)
}
