//! The engine as its users hold it: a handle that any thread may use and clone.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use ryz_model::ModelError;
use ryz_tmac::{Arena, MemoryError};
use ryz_tokenizer::{Bounds, ChatInput, EncodeOptions, Tokenizer};

use super::info::ModelInfo;
use crate::answer_form::AnswerForm;
use crate::chat::{Chat, ChatTokens};
use crate::checks::{check_ids, check_length, check_prompt};
use crate::command::{Command, Commands};
use crate::error::EngineError;
use crate::eviction::Eviction;
use crate::frontend::{TextCommand, TokenizeTask};
use crate::generation::GenerationParts;
use crate::guide::compiler::Guides;
use crate::handle::RequestHandle;
use crate::jobs::{Job, Score};
use crate::memory::CacheView;
use crate::request::{
    Control, EventSink, GenerateRequest, LogitsOutput, Prompt, Reply, ScoreOutput,
};
use crate::sampler::{Sampler, Vocab};
use crate::speculation::Speculation;
use crate::state::{EngineState, EngineStats};
use crate::submission::{SchedulingOptions, Submission, Work};

/// Most stop strings, and bytes of each.
const MAX_STOPS: usize = 64;
const MAX_STOP_BYTES: usize = 4096;
/// Most bytes of logits that one call returns.
const MAX_LOGITS_BYTES: usize = 1 << 30;

/// A loaded model that takes requests. Clones are the same engine; it ends with [`Engine::dispose`] or its last clone.
///
/// ```no_run
/// use ryz_engine::{Engine, EngineConfig, Event, GenerateRequest, Prompt};
/// use std::ops::ControlFlow;
///
/// let engine = Engine::load("model.gguf".as_ref(), &EngineConfig::default(), &mut |_| ControlFlow::Continue(()))?;
/// let (sender, events) = std::sync::mpsc::channel();
/// let request = GenerateRequest::new(Prompt::Text("Once upon a time".into()));
/// let handle = engine.generate(request, Box::new(move |event| drop(sender.send(event))))?;
/// for event in events {
///     if let Event::Delta(delta) = event {
///         handle.grant(delta.token_ids.len() as u32);
///     }
/// }
/// # Ok::<(), ryz_engine::EngineError>(())
/// ```
#[derive(Clone)]
pub struct Engine {
    pub(crate) inner: Arc<Inner>,
}

/// What the handles of one engine share.
pub(crate) struct Inner {
    pub commands: Commands,
    pub state: Arc<EngineState>,
    pub texts: Sender<TextCommand>,
    pub threads: Mutex<Vec<JoinHandle<()>>>,
    pub tokenizer: Tokenizer,
    pub chat: Option<Arc<Chat>>,
    pub guides: Guides,
    pub vocab: Vocab,
    pub info: ModelInfo,
    pub arena: Arena,
    pub cache: CacheView,
    pub max_queue: usize,
    /// Of requests that do not say.
    pub eviction: Eviction,
    pub next_id: AtomicU64,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("info", &self.inner.info)
            .finish_non_exhaustive()
    }
}

impl Engine {
    pub(crate) fn new(inner: Inner) -> Self {
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Takes charge of one of its threads, to join it in the end.
    pub(crate) fn adopt(&self, thread: JoinHandle<()>) {
        self.inner
            .threads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(thread);
    }

    /// Generates text. Returns at once; everything that follows comes through `sink`, on a thread of the engine.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming the option, `CONTEXT_OVERFLOW` for prompts of tokens (those of text fail through the
    /// sink), `QUEUE_FULL`, `DISPOSED`, `INTERNAL` after a panic. A constraint that cannot be compiled fails through the sink:
    /// `INVALID_ARGUMENT`, `GRAMMAR_LIMIT`.
    pub fn generate(
        &self,
        request: GenerateRequest,
        sink: Box<dyn EventSink>,
    ) -> Result<RequestHandle, EngineError> {
        self.inner.state.check_alive()?;
        self.check_request(&request)?;
        let draft = self.inner.info.draft.as_ref();
        let speculation = match draft {
            Some(model) => {
                let most = request.draft.unwrap_or(GenerateRequest::USUALLY_DRAFTED);
                Speculation::new(request.prompt_lookup, most, model.cost)
            }
            None => Speculation::new(request.prompt_lookup, 0, 0.0),
        };
        let parts = GenerationParts {
            sampler: Sampler::new(request.sampling, &self.inner.vocab, &request.stop_tokens)?,
            guide: None,
            stop: request.stop,
            stop_tokens: request.stop_tokens,
            speculation,
            shown_tokens: request.shown_tokens,
            max_tokens: request.max_tokens,
            unknown_characters: 0,
            sink,
            submitted: Instant::now(),
        };
        let work = Work::Generate(Box::new(parts));
        let terms = SchedulingOptions {
            eviction: request.eviction.unwrap_or(self.inner.eviction),
            priority: request.priority,
            credits: request.credits,
        };
        let options = EncodeOptions {
            add_special: request.add_special,
            parse_special: request.parse_special,
        };
        if let Some(constraint) = request.constraint {
            let (tokens, text) = match request.prompt {
                Prompt::Tokens(tokens) => (tokens, None),
                Prompt::Text(text) => (Vec::new(), Some((text, options))),
            };
            let (handle, submission) = self.enqueue(tokens, work, terms)?;
            self.inner.guides.submit(constraint, submission, text)?;
            return Ok(handle);
        }
        match request.prompt {
            Prompt::Tokens(tokens) => self.submit(tokens, work, terms),
            Prompt::Text(text) => {
                let (handle, submission) = self.enqueue(Vec::new(), work, terms)?;
                let command = TextCommand::Encode {
                    text,
                    options,
                    submission,
                };
                // A closed channel drops the submission, which tells the sink that the engine is disposed.
                drop(self.inner.texts.send(command));
                Ok(handle)
            }
        }
    }

    /// The tokens of a text, made on a thread of the engine; other texts do not wait for a long one.
    /// Setting the flag ends the work with `ABORTED`.
    ///
    /// With `whole` EOS is put behind the text where the model's files say so; without, the text is one
    /// to be continued. With `fits` it may be no more tokens than a job can read.
    ///
    /// # Errors
    /// `DISPOSED`, `INTERNAL` after a panic. Through `reply` also `CONTEXT_OVERFLOW`, `ABORTED`.
    pub fn tokenize(
        &self,
        text: String,
        options: EncodeOptions,
        whole: bool,
        fits: bool,
        reply: Reply<Vec<u32>>,
    ) -> Result<Arc<AtomicBool>, EngineError> {
        self.inner.state.check_alive()?;
        let cancelled = Arc::new(AtomicBool::new(false));
        let longest = self.longest();
        let task = TokenizeTask {
            text,
            options,
            whole,
            fits: fits.then_some((longest, self.inner.info.context_length)),
            cancelled: Arc::clone(&cancelled),
            reply: Some(reply),
        };
        // A closed channel drops the task, which answers that the engine is disposed.
        drop(self.inner.texts.send(TextCommand::Tokenize(Box::new(task))));
        Ok(cancelled)
    }

    /// Logits after the last token, or after every token with `all`; `priority` as [`GenerateRequest::priority`]. Dropping the
    /// handle cancels.
    ///
    /// # Errors
    /// As [`Engine::generate`].
    pub fn logits(
        &self,
        tokens: Vec<u32>,
        all: bool,
        priority: i32,
        reply: Reply<LogitsOutput>,
    ) -> Result<RequestHandle, EngineError> {
        self.check_tokens(&tokens, self.longest())?;
        let columns = self.inner.vocab.size;
        let expected = if all { tokens.len() } else { 1 };
        let wanted = expected.saturating_mul(columns * size_of::<f32>());
        if wanted > MAX_LOGITS_BYTES {
            let most = MAX_LOGITS_BYTES / (columns * size_of::<f32>());
            return Err(EngineError::invalid(
                "tokens",
                format!("at most {most} with all"),
                tokens.len(),
            ));
        }
        let mut data = Vec::new();
        let reserved = data.try_reserve_exact(expected * columns);
        reserved.map_err(|_| out_of_memory(wanted))?;
        let output = LogitsOutput {
            rows: 0,
            columns,
            data,
        };
        let job = Job::Logits {
            output,
            expected,
            reply,
        };
        self.submit(tokens, Work::Job(job), self.job_terms(priority))
    }

    /// The hidden state after the last token and the final norm, divided by its Euclidean length with `normalize`; `priority` as
    /// [`GenerateRequest::priority`].
    ///
    /// # Errors
    /// As [`Engine::generate`].
    pub fn embed(
        &self,
        tokens: Vec<u32>,
        normalize: bool,
        priority: i32,
        reply: Reply<Vec<f32>>,
    ) -> Result<RequestHandle, EngineError> {
        self.check_tokens(&tokens, self.longest())?;
        let embedding = Vec::with_capacity(self.inner.info.hidden_size);
        let job = Job::Embed {
            embedding,
            normalize,
            reply,
        };
        self.submit(tokens, Work::Job(job), self.job_terms(priority))
    }

    /// The negative log-likelihood of a text, for perplexity: consecutive windows of `window` tokens that do not
    /// overlap, each on a fresh cache; every token of a window but its first is scored. Without `window` the whole text
    /// is one window. `priority` as [`GenerateRequest::priority`].
    ///
    /// # Errors
    /// As [`Engine::generate`].
    pub fn score(
        &self,
        tokens: Vec<u32>,
        window: Option<usize>,
        priority: i32,
        reply: Reply<ScoreOutput>,
    ) -> Result<RequestHandle, EngineError> {
        self.inner.state.check_alive()?;
        let context = self.longest();
        if let Some(window) = window
            && !(2..=context).contains(&window)
        {
            return Err(EngineError::invalid(
                "window",
                format!("2 to {context}"),
                window,
            ));
        }
        if tokens.len() < 2 {
            return Err(EngineError::invalid("tokens", "at least two", tokens.len()));
        }
        check_ids("tokens", &tokens, self.inner.vocab.size)?;
        let window = window.unwrap_or(tokens.len());
        check_length(window, context, context)?;
        let (score, first) = Score::new(&tokens, window);
        let job = Job::Score { score, reply };
        self.submit(first, Work::Job(job), self.job_terms(priority))
    }

    /// The text that the model's chat template makes of a conversation. The work ends early when `cancelled` says so.
    ///
    /// # Errors
    /// `INVALID_TEMPLATE`, also when the model has no template; `TEMPLATE_LIMIT`, `ABORTED`, `DISPOSED`.
    pub fn apply_template(
        &self,
        input: &ChatInput,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<String, EngineError> {
        self.while_alive(cancelled, |chat, cancelled| chat.apply(input, cancelled))
    }

    /// The tokens of that text. Unlike tokenising it whole with `parse_special`, nothing that a message says becomes a
    /// control token.
    ///
    /// At most `most`; the work ends early when `cancelled` says so.
    ///
    /// # Errors
    /// As [`Engine::apply_template`], and `CONTEXT_OVERFLOW`.
    pub fn chat_tokens(
        &self,
        input: &ChatInput,
        most: usize,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<ChatTokens, EngineError> {
        let context = self.inner.info.context_length;
        self.while_alive(cancelled, |chat, cancelled| {
            let input = chat.adapted(input, true, cancelled)?;
            let bounds = Bounds { most, cancelled };
            chat.encode(&input, &self.inner.tokenizer, bounds, context)
        })
    }

    /// How this model answers, as its chat template has it; how it calls tools where there are any.
    ///
    /// # Errors
    /// As [`Engine::apply_template`].
    pub fn answer_form(
        &self,
        tools: bool,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<&AnswerForm, EngineError> {
        self.while_alive(cancelled, |chat, cancelled| {
            chat.answer_form(&self.inner.tokenizer, tools, cancelled)
        })
    }

    /// Work with the chat template that ends early when it is cancelled or the engine is disposed of.
    fn while_alive<'a, T>(
        &'a self,
        cancelled: &dyn Fn() -> bool,
        work: impl FnOnce(&'a Chat, &dyn Fn() -> bool) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        let chat = self.chat()?;
        let disposed = || self.is_disposed();
        match work(chat, &|| disposed() || cancelled()) {
            Err(EngineError::Aborted) if disposed() => Err(EngineError::Disposed),
            result => result,
        }
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.inner.tokenizer
    }

    /// Refuses ids that neither the tokenizer nor the model has.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming `option`.
    pub fn check_known(&self, option: &'static str, ids: &[u32]) -> Result<(), EngineError> {
        // A model may have more rows than its tokenizer has tokens, and generate their ids.
        let known = self.inner.tokenizer.vocab_size() as usize;
        check_ids(option, ids, known.max(self.inner.vocab.size))
    }

    /// What was loaded, and how.
    pub fn model_info(&self) -> &ModelInfo {
        &self.inner.info
    }

    /// Counters.
    pub fn stats(&self) -> EngineStats {
        self.inner.state.stats()
    }

    /// Frees the blocks that the prefix cache keeps and no request uses.
    ///
    /// # Errors
    /// `DISPOSED`, `INTERNAL` after a panic.
    pub fn clear_prefix_cache(&self) -> Result<(), EngineError> {
        self.inner.state.check_alive()?;
        self.inner.commands.send(Command::ClearPrefixes);
        Ok(())
    }

    /// Cancels every request and waits until the engine's threads have ended. Does nothing the second time.
    pub fn dispose(&self) {
        self.inner.dispose();
    }

    /// Whether [`Engine::dispose`] has been called.
    pub fn is_disposed(&self) -> bool {
        self.inner.state.disposed.load(Ordering::SeqCst)
    }

    fn chat(&self) -> Result<&Chat, EngineError> {
        self.inner
            .chat
            .as_deref()
            .ok_or(EngineError::NoChatTemplate)
    }

    fn check_request(&self, request: &GenerateRequest) -> Result<(), EngineError> {
        let eviction = request.eviction.unwrap_or(self.inner.eviction);
        let context = self.inner.info.context_length;
        eviction.validate(context)?;
        if matches!(eviction, Eviction::Ranked { .. }) && self.inner.state.ranker.get().is_none() {
            let expected = "an engine with a ranker of blocks, to be ranked";
            return Err(EngineError::invalid("eviction.policy", expected, "none"));
        }
        if let Prompt::Tokens(tokens) = &request.prompt {
            check_prompt(tokens, eviction.longest(context))?;
            check_ids("prompt", tokens, self.inner.vocab.size)?;
        }
        if request.max_tokens == Some(0) {
            return Err(EngineError::invalid("maxTokens", "at least 1", 0));
        }
        if request.prompt_lookup > GenerateRequest::MOST_DRAFTED {
            let expected = format!("at most {} tokens", GenerateRequest::MOST_DRAFTED);
            let got = request.prompt_lookup;
            return Err(EngineError::invalid("promptLookup", expected, got));
        }
        match request.draft {
            Some(got) if got > GenerateRequest::MOST_DRAFTED => {
                let expected = format!("at most {} tokens", GenerateRequest::MOST_DRAFTED);
                return Err(EngineError::invalid("draft", expected, got));
            }
            Some(got) if got > 0 && self.inner.info.draft.is_none() => {
                return Err(EngineError::invalid(
                    "draft",
                    "an engine with a draftModel",
                    got,
                ));
            }
            _ => {}
        }
        if request.stop.len() > MAX_STOPS {
            return Err(EngineError::invalid(
                "stop",
                format!("at most {MAX_STOPS} strings"),
                request.stop.len(),
            ));
        }
        if let Some(bad) = request
            .stop
            .iter()
            .find(|s| s.is_empty() || s.len() > MAX_STOP_BYTES)
        {
            let expected = format!("strings of 1 to {MAX_STOP_BYTES} bytes");
            return Err(EngineError::invalid(
                "stop",
                expected,
                format!("{} bytes", bad.len()),
            ));
        }
        check_ids("stopTokens", &request.stop_tokens, self.inner.vocab.size)
    }

    /// The most tokens that a job may read.
    fn longest(&self) -> usize {
        let context = self.inner.info.context_length;
        self.inner.eviction.longest(context)
    }

    fn job_terms(&self, priority: i32) -> SchedulingOptions {
        SchedulingOptions {
            eviction: self.inner.eviction,
            priority,
            credits: 0,
        }
    }

    /// Tokens that a job may read: one at least, `most` at most.
    pub(crate) fn check_tokens(&self, tokens: &[u32], most: usize) -> Result<(), EngineError> {
        self.inner.state.check_alive()?;
        if tokens.is_empty() {
            return Err(EngineError::invalid("tokens", "at least one", 0));
        }
        check_length(tokens.len(), most, most)?;
        check_ids("tokens", tokens, self.inner.vocab.size)
    }

    pub(crate) fn submit(
        &self,
        tokens: Vec<u32>,
        work: Work,
        terms: SchedulingOptions,
    ) -> Result<RequestHandle, EngineError> {
        let (handle, submission) = self.enqueue(tokens, work, terms)?;
        self.inner.commands.send(Command::Submit(submission));
        Ok(handle)
    }

    /// Takes a place in the queue.
    fn enqueue(
        &self,
        tokens: Vec<u32>,
        work: Work,
        terms: SchedulingOptions,
    ) -> Result<(RequestHandle, Box<Submission>), EngineError> {
        let state = &self.inner.state;
        state.enqueue(self.inner.max_queue)?;
        let control = Arc::new(Control {
            id: self.inner.next_id.fetch_add(1, Ordering::Relaxed),
            cancelled: AtomicBool::new(false),
            credits: AtomicI64::new(i64::from(terms.credits)),
        });
        let of_request = Arc::clone(&control);
        let submission = Submission::new(of_request, tokens, work, terms, Arc::clone(state));
        let handle = RequestHandle {
            control,
            interrupt: Arc::clone(&state.interrupt),
        };
        Ok((handle, Box::new(submission)))
    }
}

impl Inner {
    fn dispose(&self) {
        self.state.disposed.store(true, Ordering::SeqCst);
        self.state.interrupt.stop.store(true, Ordering::SeqCst);
        self.commands.send(Command::Dispose);
        // A closed channel: the thread has ended already.
        drop(self.texts.send(TextCommand::Stop));
        self.guides.stop();
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // The last handle may be dropped by a consumer, on the engine's own thread.
            if thread.thread().id() != std::thread::current().id() {
                // A thread catches its own panics.
                drop(thread.join());
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.dispose();
    }
}

/// There is no memory for what a job gives back.
fn out_of_memory(requested: usize) -> EngineError {
    let kind = ryz_tmac::BufferKind::Scratch;
    ModelError::from(MemoryError::OutOfMemory { kind, requested }).into()
}
