//! Chat templates: the Jinja program that a model's files carry, which writes a conversation as the model knows it.
//!
//! A template comes out of a file and is a program, so it runs within bounds: of its source, of the nesting in it, of the
//! work it does and the memory it makes (minijinja's fuel pays for instructions, for bytes and for items), of recursion
//! and of the text it writes. It runs on a thread of its own, whose stack is large enough for whatever that fuel can nest. It reaches nothing but the conversation: there is no loader for other templates.

mod answer_form;
mod guard;
mod guarded;
mod history;
mod json;
mod literals;
mod namespaces;
mod python;
mod strftime;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, SystemTime};

use minijinja::{
    AutoEscape, Environment, Error, ErrorKind, Value, machinery, syntax::SyntaxConfig,
};
use serde_json::Value as Json;

use crate::TemplateError;
use namespaces::Namespaces;

pub use answer_form::{AnswerForm, CallBody, CallForm, JsonName, Marks, NameEnd, Parameter};
pub use history::{ArgumentForm, ContentForms, HistoryForm};

/// Fuel for any rendering: some ten milliseconds.
const FUEL: u64 = 100_000;
/// Fuel for each value of the conversation: its messages and their fields. Real templates use some fifty.
const FUEL_PER_VALUE: u64 = 250;
/// Bytes of the conversation that a fuel unit is added for; a unit pays for 64 bytes of text made.
const BYTES_PER_FUEL: u64 = 4;
/// Fuel for the largest conversations.
const MAX_FUEL: u64 = 3_000_000;
/// Stack for each fuel unit. A template can nest a value for less than two units a level, and minijinja frees it by
/// recursion: some hundred bytes a level.
const STACK_PER_FUEL: u64 = 256;
/// Stack for the rest.
const STACK: u64 = 4 << 20;
/// Nested macro calls and recursive loops.
const RECURSION: usize = 64;
/// Bytes of output beyond those of the conversation.
const OUTPUT: usize = 4 << 20;
/// How often a rendering under way is asked whether it was cancelled.
const CANCELLATION: Duration = Duration::from_millis(5);
/// How deeply messages may nest.
const INPUT_DEPTH: usize = 64;

const NAME: &str = "chat template";

/// A compiled chat template.
///
/// # Examples
///
/// ```
/// use ryz_tokenizer::{ChatInput, ChatTemplate};
/// use serde_json::json;
///
/// let source = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}{% endfor %}";
/// let template = ChatTemplate::new(source, "<s>", "</s>")?;
/// let input = ChatInput::new(json!([{ "role": "user", "content": "Hello" }]));
/// assert_eq!(template.render(&input)?, "<|user|>Hello</s>");
/// # Ok::<(), ryz_tokenizer::TemplateError>(())
/// ```
pub struct ChatTemplate {
    environment: Environment<'static>,
    syntax: SyntaxConfig,
    default: Source,
    /// The one for conversations with tools, where the model has one of its own for them.
    tool_use: Option<Source>,
    /// Texts of special tokens, by the names that templates know.
    tokens: Vec<(&'static str, String)>,
}

/// A template's source.
enum Source {
    /// It was found to parse.
    Parsed { text: String, names: guarded::Names },
    /// It does not.
    Broken { text: String },
}

impl Source {
    fn new(text: &str, syntax: &SyntaxConfig) -> Result<Source, TemplateError> {
        let text = guard::check(text)?;
        let names = guarded::Names::new(&text);
        guarded::compile(NAME, &text, syntax.clone(), &names)
            .map_err(|source| TemplateError::Syntax { source })?;
        Ok(Source::Parsed { text, names })
    }

    fn text(&self) -> &str {
        match self {
            Source::Parsed { text, .. } | Source::Broken { text } => text,
        }
    }

    fn unchecked(text: &str, syntax: &SyntaxConfig) -> Source {
        Source::new(text, syntax).unwrap_or_else(|_| Source::Broken {
            text: text.to_owned(),
        })
    }
}

/// What a template gets to see.
#[derive(Clone, Debug)]
pub struct ChatInput {
    /// The conversation: an array of objects with `role`, `content` and whatever else the template knows.
    pub messages: Json,
    /// Definitions of tools; none by default.
    pub tools: Option<Json>,
    /// Whether to end with the beginning of the assistant's turn. Default: true.
    pub add_generation_prompt: bool,
    /// Other variables, such as `enable_thinking`; they come before everything but `messages`.
    pub extra: serde_json::Map<String, Json>,
    /// What `strftime_now` takes for now, in UTC. Default: the time of rendering.
    pub now: Option<SystemTime>,
}

impl ChatInput {
    /// A conversation, with the defaults of the other fields.
    pub fn new(messages: Json) -> ChatInput {
        ChatInput {
            messages,
            tools: None,
            add_generation_prompt: true,
            extra: serde_json::Map::new(),
            now: None,
        }
    }

    /// Gives each answer's thought all of the names that templates know it by, as transformers 5 does:
    /// `reasoning_content`, `reasoning` and `thinking`.
    pub fn share_reasoning(&mut self) {
        const NAMES: [&str; 3] = ["reasoning_content", "reasoning", "thinking"];
        let messages = self.messages.as_array_mut().into_iter().flatten();
        for message in messages.filter_map(Json::as_object_mut) {
            let thought = NAMES.iter().find_map(|name| {
                let thought = message.get(*name)?;
                thought.is_string().then(|| thought.clone())
            });
            let Some(thought) = thought else { continue };
            for name in NAMES {
                let value = message.entry(name).or_insert(Json::Null);
                if value.is_null() {
                    *value = thought.clone();
                }
            }
        }
    }
}

impl ChatTemplate {
    /// Compiles a template; `bos_token` and `eos_token` are the texts that it knows by these names.
    ///
    /// # Errors
    ///
    /// [`TemplateError::Syntax`], or [`TemplateError::TooLarge`] for a source beyond anything real.
    pub fn new(
        source: &str,
        bos_token: &str,
        eos_token: &str,
    ) -> Result<ChatTemplate, TemplateError> {
        let default = Source::new(source, &syntax())?;
        Ok(ChatTemplate::of(default, bos_token, eos_token))
    }

    /// As [`ChatTemplate::new`], but what is wrong with the source is said when it is to render.
    pub fn unchecked(source: &str, bos_token: &str, eos_token: &str) -> ChatTemplate {
        let default = Source::unchecked(source, &syntax());
        ChatTemplate::of(default, bos_token, eos_token)
    }

    fn of(default: Source, bos_token: &str, eos_token: &str) -> ChatTemplate {
        let mut environment = Environment::new();
        environment.set_debug(false);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_recursion_limit(RECURSION);
        // Neither is used by real templates; the one shows the engine, the other's work grows with the square of a depth.
        environment.remove_global("debug");
        environment.remove_filter("pprint");
        python::install(&mut environment);
        environment.add_filter("tojson", json::tojson);
        guarded::install(&mut environment);
        ChatTemplate {
            environment,
            syntax: syntax(),
            default,
            tool_use: None,
            tokens: vec![
                ("bos_token", bos_token.to_owned()),
                ("eos_token", eos_token.to_owned()),
            ],
        }
    }

    /// Gives conversations with tools a template of their own; what is wrong with it is said when it is to render.
    pub fn set_tool_use(&mut self, source: &str) {
        self.tool_use = Some(Source::unchecked(source, &self.syntax));
    }

    /// Tells the template the text of a special token, such as `pad_token`.
    pub fn set_token(&mut self, name: &'static str, text: &str) {
        self.tokens.push((name, text.to_owned()));
    }

    /// As [`ChatTemplate::new`], from a file's bytes.
    ///
    /// # Errors
    ///
    /// [`TemplateError::NotUtf8`] besides.
    pub fn from_bytes(
        source: &[u8],
        bos_token: &str,
        eos_token: &str,
    ) -> Result<ChatTemplate, TemplateError> {
        let source = std::str::from_utf8(source).map_err(|error| TemplateError::NotUtf8 {
            offset: error.valid_up_to(),
        })?;
        ChatTemplate::new(source, bos_token, eos_token)
    }

    /// The template's text, with the line breaks that Jinja gives it.
    pub(crate) fn source(&self) -> &str {
        self.tool_use.as_ref().unwrap_or(&self.default).text()
    }

    /// Writes the conversation.
    ///
    /// # Errors
    ///
    /// [`TemplateError::Raised`] with what the template itself says, [`TemplateError::LimitExceeded`] when it takes more
    /// work, memory or output than any real one, [`TemplateError::Render`] for the rest.
    pub fn render(&self, input: &ChatInput) -> Result<String, TemplateError> {
        self.render_within(input, &|| false)
    }

    /// As [`ChatTemplate::render`], and ends soon after `cancelled` says so, which is asked every few milliseconds.
    ///
    /// # Errors
    ///
    /// [`TemplateError::Cancelled`] besides.
    pub fn render_within(
        &self,
        input: &ChatInput,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<String, TemplateError> {
        let (source, names) = match self.source_for(input) {
            Source::Parsed { text, names } => (text, names),
            // It fails as it failed before.
            Source::Broken { text } => {
                return Source::new(text, &self.syntax).map(|_| String::new());
            }
        };
        let mut size = Size::default();
        size.measure(&input.messages, 0)?;
        for json in input.tools.iter().chain(input.extra.values()) {
            size.measure(json, 0)?;
        }
        let fuel = FUEL
            .saturating_add(FUEL_PER_VALUE.saturating_mul(size.values))
            .saturating_add(size.bytes / BYTES_PER_FUEL)
            .min(MAX_FUEL);
        let stack = STACK + STACK_PER_FUEL * fuel;
        let limit = OUTPUT.saturating_add(
            usize::try_from(size.bytes)
                .unwrap_or(usize::MAX)
                .saturating_mul(4),
        );
        let ended = Arc::new(AtomicBool::new(false));
        std::thread::scope(|scope| {
            let (done, finished) = mpsc::channel::<Infallible>();
            let flag = Arc::clone(&ended);
            let work = move || {
                // Dropped at the end, by a panic too: whoever waits learns of it.
                let _done = done;
                guarded::end_with(flag);
                self.run(source, names, input, fuel, limit)
            };
            let thread = std::thread::Builder::new()
                .name(NAME.to_owned())
                .stack_size(usize::try_from(stack).unwrap_or(usize::MAX))
                .spawn_scoped(scope, work)
                .map_err(|source| TemplateError::Thread { source })?;
            while finished.recv_timeout(CANCELLATION) == Err(RecvTimeoutError::Timeout) {
                if cancelled() {
                    ended.store(true, Ordering::Relaxed);
                    break;
                }
            }
            match thread.join() {
                Ok(Err(_)) if ended.load(Ordering::Relaxed) => Err(TemplateError::Cancelled),
                Ok(rendered) => rendered,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// The source for that conversation.
    fn source_for(&self, input: &ChatInput) -> &Source {
        match &self.tool_use {
            Some(source) if input.tools.as_ref().is_some_and(is_some_tool) => source,
            _ => &self.default,
        }
    }

    fn run(
        &self,
        source: &str,
        names: &guarded::Names,
        input: &ChatInput,
        fuel: u64,
        limit: usize,
    ) -> Result<String, TemplateError> {
        let none = || Value::from(());
        let now = input.now.unwrap_or_else(SystemTime::now);
        let strftime_now = move |format: &str| strftime::format(now, format);
        let mut variables = vec![
            ("tools", input.tools.as_ref().map_or_else(none, value)),
            ("documents", none()),
            ("strftime_now", Value::from_function(strftime_now)),
            (
                "add_generation_prompt",
                Value::from(input.add_generation_prompt),
            ),
        ];
        let tokens = self.tokens.iter();
        variables.extend(tokens.map(|(name, text)| (*name, Value::from(text.as_str()))));
        variables.extend(
            input
                .extra
                .iter()
                .map(|(name, json)| (name.as_str(), value(json))),
        );
        variables.push(("messages", value(&input.messages)));

        let mut environment = self.environment.clone();
        environment.set_fuel(Some(fuel));
        let namespaces = Namespaces::default();
        namespaces.watch(&mut environment);
        // The instructions borrow the source, so they are made anew for each rendering: some ten microseconds.
        let program = guarded::compile(NAME, source, self.syntax.clone(), names)
            .map_err(|source| TemplateError::Syntax { source })?;
        let mut text = String::new();
        let rendered = machinery::eval(
            &environment,
            &program.instructions,
            Value::from_pairs(variables),
            &program.blocks,
            &mut machinery::make_string_output(&mut text),
            AutoEscape::None,
        )
        .map(drop)
        .map_err(render_error);
        environment.set_fuel(None);
        namespaces.clear(&environment, &self.syntax);
        rendered?;
        if text.len() > limit {
            return Err(TemplateError::LimitExceeded { what: "output" });
        }
        Ok(text)
    }
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatTemplate")
            .field("tokens", &self.tokens)
            .finish_non_exhaustive()
    }
}

/// The white space that transformers takes away.
fn syntax() -> SyntaxConfig {
    let builder = &mut SyntaxConfig::builder();
    let builder = builder.trim_blocks(true).lstrip_blocks(true);
    builder.build().unwrap_or_default()
}

/// Whether there are tools: an empty list has none.
fn is_some_tool(tools: &Json) -> bool {
    !tools.is_null() && tools.as_array().is_none_or(|tools| !tools.is_empty())
}

/// What a template says when it refuses a conversation.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct TemplateRefusal(String);

fn raised(message: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(TemplateRefusal(message))
}

fn render_error(error: Error) -> TemplateError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(source) = cause {
        if let Some(TemplateRefusal(message)) = source.downcast_ref() {
            return TemplateError::Raised {
                message: message.clone(),
            };
        }
        if let Some(error) = source.downcast_ref::<Error>() {
            if error.kind() == ErrorKind::OutOfFuel {
                return TemplateError::LimitExceeded { what: "work" };
            }
            if error.detail() == Some("recursion limit exceeded") {
                return TemplateError::LimitExceeded { what: "recursion" };
            }
        }
        cause = source.source();
    }
    TemplateError::Render { source: error }
}

/// How large a conversation is.
#[derive(Default)]
struct Size {
    values: u64,
    bytes: u64,
}

impl Size {
    fn measure(&mut self, json: &Json, depth: usize) -> Result<(), TemplateError> {
        if depth > INPUT_DEPTH {
            return Err(TemplateError::TooLarge {
                what: "levels of nesting in the conversation",
                limit: INPUT_DEPTH,
                got: depth,
            });
        }
        self.values += 1;
        match json {
            Json::Null | Json::Bool(_) | Json::Number(_) => {}
            Json::String(text) => self.bytes += text.len() as u64,
            Json::Array(items) => {
                for item in items {
                    self.measure(item, depth + 1)?;
                }
            }
            Json::Object(pairs) => {
                for (key, item) in pairs {
                    self.bytes += key.len() as u64;
                    self.measure(item, depth + 1)?;
                }
            }
        }
        Ok(())
    }
}

/// A value of the template's language.
fn value(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(bool) => Value::from(*bool),
        Json::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(number), _, _) => Value::from(number),
            (_, Some(number), _) => Value::from(number),
            (_, _, number) => Value::from(number.unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => Value::from(items.iter().map(value).collect::<Vec<Value>>()),
        Json::Object(pairs) => {
            Value::from_pairs(pairs.iter().map(|(key, item)| (key.as_str(), value(item))))
        }
    }
}
