//! A loaded engine, as TypeScript holds it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use napi::bindgen_prelude::{Either, Float32Array, Function, ToNapiValue, Uint8Array, Uint32Array};
use napi::{Env, Result};
use napi_derive::napi;
use ryz_engine::{EncodeOptions, Engine, EngineError, Reply, RequestHandle};

use crate::answer::{Answer, AnswerArgs, Failure, failure};
use crate::answer_form::AnswerForm;
use crate::chat;
use crate::info::{MemoryStats, ModelInfo};
use crate::jobs::{self, Ending};
use crate::request::Request;
use crate::stream::{self, Delivery, NativeRequest};

/// An engine until it is disposed of; shared with the environment's clean-up.
#[derive(Clone)]
pub struct Slot(Arc<Mutex<Option<Engine>>>);

impl Slot {
    /// A slot with an engine in it.
    pub fn new(engine: Engine) -> Self {
        Self(Arc::new(Mutex::new(Some(engine))))
    }

    fn take(&self) -> Option<Engine> {
        locked(&self.0).take()
    }

    pub(crate) fn get(&self) -> std::result::Result<Engine, Failure> {
        let engine = locked(&self.0).clone();
        engine.ok_or_else(|| Failure::plain("DISPOSED", "the engine has been disposed of"))
    }
}

impl Ending for Slot {
    fn end(&mut self) {
        if let Some(engine) = self.take() {
            engine.dispose();
        }
    }

    fn is_over(&self) -> bool {
        locked(&self.0).is_none()
    }
}

/// Stops a job.
#[napi]
pub struct NativeCancel(Box<dyn Fn() + Send>);

#[napi]
impl NativeCancel {
    pub(crate) fn new(cancel: impl Fn() + Send + 'static) -> Self {
        Self(Box::new(cancel))
    }

    /// The job ends early, with a failure.
    #[napi(catch_unwind)]
    pub fn cancel(&self) {
        (self.0)();
    }
}

/// Logits as a matrix.
#[napi(object)]
pub struct Logits {
    /// Positions.
    pub rows: u32,
    /// The vocabulary's size.
    pub columns: u32,
    /// Row after row.
    pub data: Float32Array,
}

/// A score over a text.
#[napi(object)]
pub struct Score {
    /// Tokens that were scored.
    pub tokens: f64,
    /// The sum of their negative log-likelihoods.
    pub sum_nll: f64,
}

/// A loaded engine.
#[napi]
pub struct NativeEngine {
    slot: Slot,
}

#[napi]
impl NativeEngine {
    pub(crate) fn new(slot: Slot) -> Self {
        Self { slot }
    }

    /// What was loaded.
    #[napi(catch_unwind)]
    pub fn model_info(&self) -> Result<ModelInfo> {
        Ok(ModelInfo::of(&self.engine()?))
    }

    /// Memory in use.
    #[napi(catch_unwind)]
    pub fn memory_stats(&self) -> Result<MemoryStats> {
        Ok(MemoryStats::of(&self.engine()?))
    }

    /// Starts a generation.
    #[napi(catch_unwind)]
    pub fn generate(
        &self,
        request: Request,
        #[napi(ts_arg_type = "(delivered: Batch | string, tokenId: number | null) => void")]
        on_delivery: Function<'_, Delivery, ()>,
    ) -> Result<NativeRequest> {
        stream::open(&on_delivery, |sink| {
            self.slot
                .get()?
                .generate(request.convert()?, Box::new(sink))
                .map_err(|error| failure(&error))
        })
    }

    /// Text to token ids. With `whole` EOS is put behind the text where the model's files say so; with
    /// `fits` it must fit the context.
    #[napi(catch_unwind)]
    pub fn tokenize(
        &self,
        text: String,
        add_special: bool,
        parse_special: bool,
        whole: bool,
        fits: bool,
        #[napi(ts_arg_type = "(failure: Failure | null, value: Uint32Array | null) => void")] done: Function<
            '_,
            AnswerArgs<Uint32Array>,
            (),
        >,
    ) -> Result<NativeCancel> {
        let options = EncodeOptions {
            add_special,
            parse_special,
        };
        let waiting = Arc::new(Mutex::new(Some(Answer::new(&done)?)));
        let replied = Arc::clone(&waiting);
        let answer = move |result| {
            if let Some(answer) = locked(&replied).take() {
                answer.send(result);
            }
        };
        let refuse = answer.clone();
        let reply: Reply<Vec<u32>> = Box::new(move |result| {
            let ids = result.map(Uint32Array::new);
            answer(ids.map_err(|error| failure(&error)));
        });
        let begun = self.slot.get().and_then(|engine| {
            let begun = engine.tokenize(text, options, whole, fits, reply);
            begun.map_err(|error| failure(&error))
        });
        let cancelled = match begun {
            Ok(cancelled) => cancelled,
            Err(failure) => {
                refuse(Err(failure));
                Arc::default()
            }
        };
        Ok(NativeCancel::new(move || {
            cancelled.store(true, Ordering::Relaxed);
        }))
    }

    /// Token ids to text.
    #[napi(catch_unwind)]
    pub fn detokenize(
        &self,
        env: Env,
        tokens: Uint32Array,
        skip_special: bool,
        #[napi(ts_arg_type = "(failure: Failure | null, value: string | null) => void")]
        done: Function<'_, AnswerArgs<String>, ()>,
    ) -> Result<()> {
        let tokens = tokens.to_vec();
        self.soon(&env, &done, move |engine| {
            engine
                .check_known("tokens", &tokens)
                .map_err(|error| failure(&error))?;
            Ok(engine.tokenizer().decode(&tokens, skip_special))
        })
    }

    /// The text of each token.
    #[napi(catch_unwind)]
    pub fn pieces(
        &self,
        env: Env,
        tokens: Uint32Array,
        #[napi(ts_arg_type = "(failure: Failure | null, value: Array<string> | null) => void")]
        done: Function<'_, AnswerArgs<Vec<String>>, ()>,
    ) -> Result<()> {
        let tokens = tokens.to_vec();
        self.soon(&env, &done, move |engine| {
            engine
                .check_known("tokens", &tokens)
                .map_err(|error| failure(&error))?;
            let tokenizer = engine.tokenizer();
            Ok(tokens.iter().map(|&id| tokenizer.piece(id)).collect())
        })
    }

    /// Renders the chat template. The input is JSON, as text or as UTF-8.
    #[napi(catch_unwind)]
    pub fn apply_chat_template(
        &self,
        env: Env,
        input: Either<String, Uint8Array>,
        #[napi(ts_arg_type = "(failure: Failure | null, value: string | null) => void")]
        done: Function<'_, AnswerArgs<String>, ()>,
    ) -> Result<NativeCancel> {
        let input = chat::bytes(input);
        self.with_template(&env, &done, input.len(), move |engine, cancelled| {
            let text = engine.apply_template(&chat::parse(&input)?, cancelled);
            text.map_err(|error| failure(&error))
        })
    }

    /// The tokens of a conversation, `most` at most. The input is as that of `apply_chat_template`.
    #[napi(catch_unwind)]
    pub fn chat_tokens(
        &self,
        env: Env,
        input: Either<String, Uint8Array>,
        most: u32,
        #[napi(ts_arg_type = "(failure: Failure | null, value: ChatTokens | null) => void")]
        done: Function<'_, AnswerArgs<chat::ChatTokens>, ()>,
    ) -> Result<NativeCancel> {
        let input = chat::bytes(input);
        self.with_template(&env, &done, input.len(), move |engine, cancelled| {
            let chat = engine.chat_tokens(&chat::parse(&input)?, most as usize, cancelled);
            let chat = chat.map_err(|error| failure(&error))?;
            Ok(chat::ChatTokens {
                tokens: Uint32Array::new(chat.tokens),
                in_thought: chat.in_thought,
            })
        })
    }

    /// How the model answers, and how it calls tools where there are any.
    #[napi(catch_unwind)]
    pub fn answer_form(
        &self,
        env: Env,
        tools: bool,
        #[napi(ts_arg_type = "(failure: Failure | null, value: AnswerForm | null) => void")]
        done: Function<'_, AnswerArgs<AnswerForm>, ()>,
    ) -> Result<NativeCancel> {
        // A template is rendered some dozens of times to learn it.
        self.with_template(&env, &done, usize::MAX, move |engine, cancelled| {
            let form = engine.answer_form(tools, cancelled);
            form.map(AnswerForm::of).map_err(|error| failure(&error))
        })
    }

    /// Logits of the last position, or of all.
    #[napi(catch_unwind)]
    pub fn logits(
        &self,
        tokens: Uint32Array,
        all: bool,
        priority: i32,
        #[napi(ts_arg_type = "(failure: Failure | null, value: Logits | null) => void")]
        done: Function<'_, AnswerArgs<Logits>, ()>,
    ) -> Result<NativeCancel> {
        let tokens = tokens.to_vec();
        let convert = |output: ryz_engine::LogitsOutput| Logits {
            rows: output.rows as u32,
            columns: output.columns as u32,
            data: Float32Array::new(output.data),
        };
        self.job(&done, convert, move |engine, reply| {
            engine.logits(tokens, all, priority, reply)
        })
    }

    /// The final hidden state of the last position.
    #[napi(catch_unwind)]
    pub fn embed(
        &self,
        tokens: Uint32Array,
        normalize: bool,
        priority: i32,
        #[napi(ts_arg_type = "(failure: Failure | null, value: Float32Array | null) => void")] done: Function<
            '_,
            AnswerArgs<Float32Array>,
            (),
        >,
    ) -> Result<NativeCancel> {
        let tokens = tokens.to_vec();
        self.job(&done, Float32Array::new, move |engine, reply| {
            engine.embed(tokens, normalize, priority, reply)
        })
    }

    /// How well the model predicts the tokens, in windows.
    #[napi(catch_unwind)]
    pub fn score(
        &self,
        tokens: Uint32Array,
        window: u32,
        priority: i32,
        #[napi(ts_arg_type = "(failure: Failure | null, value: Score | null) => void")]
        done: Function<'_, AnswerArgs<Score>, ()>,
    ) -> Result<NativeCancel> {
        let tokens = tokens.to_vec();
        let convert = |output: ryz_engine::ScoreOutput| Score {
            tokens: output.tokens as f64,
            sum_nll: output.sum_nll,
        };
        self.job(&done, convert, move |engine, reply| {
            engine.score(tokens, Some(window as usize), priority, reply)
        })
    }

    /// Ends everything and frees the memory.
    #[napi(catch_unwind)]
    pub fn dispose(
        &self,
        env: Env,
        #[napi(ts_arg_type = "(failure: Failure | null, value: boolean | null) => void")]
        done: Function<'_, AnswerArgs<bool>, ()>,
    ) -> Result<()> {
        let answer = Answer::new(&done)?;
        let engine = self.slot.take();
        jobs::spawn(&env, "ryz-dispose", move |_| {
            answer.send_from(|| {
                if let Some(engine) = engine {
                    engine.dispose();
                }
                Ok(true)
            });
        })?;
        Ok(())
    }

    pub(crate) fn slot(&self) -> &Slot {
        &self.slot
    }

    pub(crate) fn engine(&self) -> Result<Engine> {
        self.slot.get().map_err(|failure| failure.thrown())
    }

    /// Work that takes no forward pass, on the environment's helper thread.
    pub(crate) fn soon<T: ToNapiValue + Send + 'static>(
        &self,
        env: &Env,
        done: &Function<'_, AnswerArgs<T>, ()>,
        work: impl FnOnce(&Engine) -> std::result::Result<T, Failure> + Send + 'static,
    ) -> Result<()> {
        let answer = Answer::new(done)?;
        match self.slot.get() {
            Ok(engine) => jobs::soon(env, move |_| answer.send_from(|| work(&engine)))?,
            Err(failure) => answer.send(Err(failure)),
        }
        Ok(())
    }

    /// Work with the chat template on so many bytes; it is told when it should stop early.
    fn with_template<T: ToNapiValue + Send + 'static>(
        &self,
        env: &Env,
        done: &Function<'_, AnswerArgs<T>, ()>,
        bytes: usize,
        work: impl FnOnce(&Engine, &dyn Fn() -> bool) -> std::result::Result<T, Failure>
        + Send
        + 'static,
    ) -> Result<NativeCancel> {
        let engine = self.slot.get();
        cancellable(env, done, bytes, move |cancelled| work(&engine?, cancelled))
    }

    /// Work of the engine thread.
    fn job<T: Send + 'static, J: ToNapiValue + Send + 'static>(
        &self,
        done: &Function<'_, AnswerArgs<J>, ()>,
        convert: impl FnOnce(T) -> J + Send + 'static,
        submit: impl FnOnce(&Engine, Reply<T>) -> std::result::Result<RequestHandle, EngineError>,
    ) -> Result<NativeCancel> {
        let waiting = Arc::new(Mutex::new(PendingAnswer {
            answer: Some(Answer::new(done)?),
            handle: None,
        }));
        let replied = Arc::clone(&waiting);
        let reply: Reply<T> = Box::new(move |result| {
            locked(&replied).finish(result.map(convert).map_err(|error| failure(&error)));
        });
        let submitted = self
            .slot
            .get()
            .and_then(|engine| submit(&engine, reply).map_err(|error| failure(&error)));
        match submitted {
            Ok(handle) => locked(&waiting).hold(handle),
            Err(failure) => locked(&waiting).finish(Err(failure)),
        }
        Ok(NativeCancel::new(move || {
            if let Some(handle) = &locked(&waiting).handle {
                handle.cancel();
            }
        }))
    }
}

/// Bytes of a text that is worth a thread.
const LONG: usize = 1 << 15;

/// Work on so many bytes that a cancel, or the environment's end, stops early. Short work does not wait for long work.
pub(crate) fn cancellable<T: ToNapiValue + Send + 'static>(
    env: &Env,
    done: &Function<'_, AnswerArgs<T>, ()>,
    bytes: usize,
    work: impl FnOnce(&dyn Fn() -> bool) -> std::result::Result<T, Failure> + Send + 'static,
) -> Result<NativeCancel> {
    let answer = Answer::new(done)?;
    let cancelled = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&cancelled);
    let work = move |ended: &AtomicBool| {
        let is_cancelled = || asked.load(Ordering::Relaxed) || ended.load(Ordering::Relaxed);
        answer.send_from(|| work(&is_cancelled));
    };
    if bytes > LONG {
        jobs::beside(env, work)?;
    } else {
        jobs::soon(env, work)?;
    }
    Ok(NativeCancel::new(move || {
        cancelled.store(true, Ordering::Relaxed);
    }))
}

/// A job that is not answered yet. Dropping its handle would cancel it, so it is held until then.
struct PendingAnswer<J: ToNapiValue + 'static> {
    answer: Option<Answer<J>>,
    handle: Option<RequestHandle>,
}

impl<J: ToNapiValue + Send + 'static> PendingAnswer<J> {
    fn hold(&mut self, handle: RequestHandle) {
        if self.answer.is_some() {
            self.handle = Some(handle);
        }
    }

    fn finish(&mut self, result: std::result::Result<J, Failure>) {
        self.handle = None;
        if let Some(answer) = self.answer.take() {
            answer.send(result);
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for NativeEngine {
    /// An engine that was dropped without `dispose` is collected: the thread that collects must not wait for it.
    fn drop(&mut self) {
        if let Some(engine) = self.slot.take() {
            jobs::detach("ryz-dispose", move || engine.dispose());
        }
    }
}
