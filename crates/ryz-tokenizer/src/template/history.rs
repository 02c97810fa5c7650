//! What a chat template takes of a history, learnt from the template itself.
//!
//! Clients send histories in the shape of OpenAI's API: arguments as JSON text, `content: null`
//! beside calls, any id. Templates differ in what they take: some want objects, some fail on
//! null, some print an argument text as a JSON string once more. A made-up call is rendered in
//! each way, and the ways that come out whole are the ones that messages are brought into.

use std::collections::HashMap;

use serde_json::{Map, Value as Json, json};

use super::{ChatInput, ChatTemplate};
use crate::TemplateError;

const NAME: &str = "zqtool";
const KEY: &str = "zqkey";
const VALUE: &str = "zqvalue";
const SECOND: &str = "zqsecond";
/// Some templates refuse ids of any other length.
const SHORT_ID: &str = "call00000";
const LONG_ID: &str = "call_zqAbCdEfGhIjKlMnOp";
/// The texts of two parts.
const PARTS: [&str; 2] = ["zqfirst part", "zqnext part"];
/// Roles whose content may come in parts.
const ROLES: [&str; 4] = ["system", "user", "assistant", "tool"];
/// The keys under which clients send a model's thoughts.
const REASONING_KEYS: [&str; 3] = ["reasoning_content", "reasoning", "thinking"];

/// The shape of messages that a template writes without loss.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryForm {
    /// How it takes the arguments of a call.
    pub arguments: ArgumentForm,
    /// What it takes as the content of a message with calls.
    pub content: ContentForms,
    /// Whether it takes one call a message at most.
    pub single_call: bool,
    /// Whether it refuses call ids that are not nine letters and digits.
    pub short_ids: bool,
    /// Whether it knows the role `developer`.
    pub developer: bool,
    /// The key under which it looks for a model's thoughts; none where it looks for no thoughts.
    pub reasoning: Option<&'static str>,
    /// The roles whose content it takes as a list of text parts.
    pub parts: Vec<&'static str>,
}

/// How a template takes the arguments of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArgumentForm {
    /// As an object.
    Object,
    /// As text that holds JSON.
    Text,
    /// Both are written alike.
    Either,
}

/// Which contents beside calls a template writes without loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentForms {
    /// The empty text.
    pub empty: bool,
    /// Null.
    pub null: bool,
    /// No content at all.
    pub missing: bool,
}

/// The content of a probe.
#[derive(Clone, Copy)]
enum Content {
    Empty,
    Null,
    Missing,
}

impl ChatTemplate {
    /// What this template takes of a history. The work ends soon after `cancelled` says so.
    ///
    /// # Errors
    ///
    /// [`TemplateError::Cancelled`].
    pub fn history_form(&self, cancelled: &dyn Fn() -> bool) -> Result<HistoryForm, TemplateError> {
        let object = json!({ KEY: VALUE });
        let text = Json::String(format!("{{\"{KEY}\": \"{VALUE}\"}}"));
        let contents = [Content::Empty, Content::Null, Content::Missing];
        let mut arguments = (ArgumentForm::Either, &object);
        let mut working = None;
        for content in contents {
            let probe = |arguments| self.probe(content, arguments, SHORT_ID, cancelled);
            let learnt = match (probe(&object), probe(&text)) {
                (Some(object), Some(text)) => argument_form(&object, &text),
                (Some(_), None) => ArgumentForm::Object,
                (None, Some(_)) => ArgumentForm::Text,
                (None, None) => continue,
            };
            let shown = if learnt == ArgumentForm::Text {
                &text
            } else {
                &object
            };
            arguments = (learnt, shown);
            working = Some(content);
            break;
        }
        let (form, arguments) = arguments;
        let mut learnt = HistoryForm {
            arguments: form,
            content: ContentForms {
                empty: true,
                null: true,
                missing: true,
            },
            single_call: false,
            short_ids: false,
            developer: self.source().contains("developer"),
            reasoning: self.reasoning_key(),
            parts: Vec::new(),
        };
        let takes_parts = |role: &&str| self.takes_parts(role, arguments, cancelled);
        learnt.parts = ROLES.into_iter().filter(takes_parts).collect();
        // A template that writes no call in any way may fail on what stands beside one.
        if working.is_none() {
            let renders = |content| {
                let messages = vec![
                    calling(content, &[call(SHORT_ID, &object)]),
                    result(SHORT_ID),
                ];
                self.rendered(messages, cancelled).is_some()
            };
            let any = [Content::Empty, Content::Null, Content::Missing].map(renders);
            if any.contains(&true) {
                let [empty, null, missing] = any;
                learnt.content = ContentForms {
                    empty,
                    null,
                    missing,
                };
            }
        }
        if let Some(content) = working {
            let none = |text: &str| text.matches("None").count();
            let whole = |content| self.probe(content, arguments, SHORT_ID, cancelled);
            let printed = whole(content).as_deref().map_or(0, none);
            let works = |content| whole(content).is_some_and(|text| none(&text) <= printed);
            learnt.content = ContentForms {
                empty: works(Content::Empty),
                null: works(Content::Null),
                missing: works(Content::Missing),
            };
            let long = self.probe(content, arguments, LONG_ID, cancelled);
            learnt.short_ids = long.is_none();
            let other = match arguments {
                Json::String(text) => Json::String(text.replace(VALUE, SECOND)),
                _ => json!({ KEY: SECOND }),
            };
            let two = [call(SHORT_ID, arguments), call("call00001", &other)];
            let results = [result(SHORT_ID), result("call00001")];
            let messages = [&[calling(content, &two)], results.as_slice()].concat();
            let written = self.rendered(messages, cancelled);
            learnt.single_call =
                !written.is_some_and(|text| text.contains(VALUE) && text.contains(SECOND));
        }
        // What was cancelled midway looked like a refusal of the template.
        if cancelled() {
            return Err(TemplateError::Cancelled);
        }
        Ok(learnt)
    }

    /// The rendering of one call and its result; none when it fails or loses the call.
    fn probe(
        &self,
        content: Content,
        arguments: &Json,
        id: &str,
        cancelled: &dyn Fn() -> bool,
    ) -> Option<String> {
        let messages = vec![calling(content, &[call(id, arguments)]), result(id)];
        self.rendered(messages, cancelled)
            .filter(|text| text.contains(VALUE))
    }

    /// Whether it writes the text of both parts of a message, and not the list itself.
    fn takes_parts(&self, role: &str, arguments: &Json, cancelled: &dyn Fn() -> bool) -> bool {
        let parts = PARTS.map(|text| json!({ "type": "text", "text": text }));
        let message = json!({ "role": role, "content": parts });
        let user = json!({ "role": "user", "content": "Hello" });
        let messages = match role {
            "system" => vec![message, user],
            "tool" => {
                let mut result = result(SHORT_ID);
                result["content"] = message["content"].clone();
                let call = call(SHORT_ID, arguments);
                let rendered =
                    self.rendered(vec![calling(Content::Empty, &[call]), result], cancelled);
                return rendered.is_some_and(|text| writes_parts(&text));
            }
            "assistant" => vec![user, message],
            _ => vec![message],
        };
        let rendered = self.render_within(&ChatInput::new(messages.into()), cancelled);
        rendered.is_ok_and(|text| writes_parts(&text))
    }

    fn rendered(&self, messages: Vec<Json>, cancelled: &dyn Fn() -> bool) -> Option<String> {
        let user = json!({ "role": "user", "content": "Hello" });
        let mut input = ChatInput::new(std::iter::once(user).chain(messages).collect());
        let schema = json!({ "type": "object", "properties": { KEY: { "type": "string" } } });
        let tool = json!({ "name": NAME, "description": "A tool.", "parameters": schema });
        input.tools = Some(json!([{ "type": "function", "function": tool }]));
        self.render_within(&input, cancelled).ok()
    }

    /// The key of thoughts that the source names.
    fn reasoning_key(&self) -> Option<&'static str> {
        REASONING_KEYS.into_iter().find(|key| {
            let source = self.source();
            source.match_indices(key).any(|(at, _)| {
                let before = source[..at].chars().next_back();
                let after = source[at + key.len()..].chars().next();
                matches!(before, Some('.' | '\'' | '"'))
                    && !after.is_some_and(|next| next.is_alphanumeric() || next == '_')
            })
        })
    }
}

fn writes_parts(text: &str) -> bool {
    PARTS.iter().all(|part| text.contains(part))
        && !text.contains("'text'")
        && !text.contains("\"text\"")
}

fn call(id: &str, arguments: &Json) -> Json {
    json!({ "id": id, "type": "function", "function": { "name": NAME, "arguments": arguments } })
}

fn result(id: &str) -> Json {
    json!({ "role": "tool", "tool_call_id": id, "name": NAME, "content": "zqresult" })
}

fn calling(content: Content, calls: &[Json]) -> Json {
    let mut message = json!({ "role": "assistant", "content": "", "tool_calls": calls });
    match content {
        Content::Empty => {}
        Content::Null => message["content"] = Json::Null,
        Content::Missing => drop(message.as_object_mut().map(|m| m.shift_remove("content"))),
    }
    message
}

/// The better of two renderings that both show the argument.
fn argument_form(object: &str, text: &str) -> ArgumentForm {
    let doubled = text.contains(&format!("\\\"{KEY}\\\""));
    let python = object.contains(&format!("{{'{KEY}'"));
    if python && !doubled {
        ArgumentForm::Text
    } else if doubled || without_spaces(object) != without_spaces(text) {
        ArgumentForm::Object
    } else {
        ArgumentForm::Either
    }
}

fn without_spaces(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace()).collect()
}

impl HistoryForm {
    /// Whether any of these messages may need [`HistoryForm::adapt`]: most conversations do not.
    #[must_use]
    pub fn concerns(messages: &Json) -> bool {
        let messages = messages.as_array().map_or(&[][..], Vec::as_slice);
        messages.iter().any(|message| {
            !message.get("content").is_some_and(Json::is_string)
                || message.get("tool_calls").is_some()
                || message.get("tool_call_id").is_some()
                || message["role"] == "developer"
                || REASONING_KEYS.iter().any(|key| message.get(key).is_some())
        })
    }

    /// Brings messages into the shape that the template takes.
    ///
    /// With `thorough` also where it changes what stands in the conversation: several calls of
    /// one message become messages of one call each, for a template that takes one.
    ///
    /// # Errors
    ///
    /// [`TemplateError::Arguments`] for arguments that are text, to a template that takes
    /// objects, and are not the JSON of an object.
    pub fn adapt(&self, messages: &mut Json, thorough: bool) -> Result<(), TemplateError> {
        let Some(list) = messages.as_array_mut() else {
            return Ok(());
        };
        let mut ids = HashMap::new();
        for (index, message) in list.iter_mut().enumerate() {
            if let Some(message) = message.as_object_mut() {
                self.adapt_message(index, message, thorough, &mut ids)?;
            }
        }
        if thorough && self.single_call {
            *list = split_calls(std::mem::take(list));
        }
        Ok(())
    }

    fn adapt_message(
        &self,
        index: usize,
        message: &mut Map<String, Json>,
        thorough: bool,
        ids: &mut HashMap<String, usize>,
    ) -> Result<(), TemplateError> {
        if !self.developer && message.get("role").is_some_and(|role| role == "developer") {
            message.insert("role".into(), "system".into());
        }
        self.join_parts(message);
        self.name_thoughts(message);
        if self.short_ids
            && let Some(Json::String(id)) = message.get_mut("tool_call_id")
        {
            shorten(id, ids);
        }
        let calls = message.get_mut("tool_calls").and_then(Json::as_array_mut);
        let Some(calls) = calls.filter(|calls| !calls.is_empty()) else {
            if message.get("content").is_none_or(Json::is_null) {
                message.insert("content".into(), "".into());
            }
            return Ok(());
        };
        for (at, call) in calls.iter_mut().enumerate() {
            if let (true, Some(Json::String(id))) = (self.short_ids, call.get_mut("id")) {
                shorten(id, ids);
            }
            let Some(arguments) = call.pointer_mut("/function/arguments") else {
                continue;
            };
            match (self.arguments, &*arguments) {
                (ArgumentForm::Object, Json::String(text)) => {
                    let read = serde_json::from_str(text).ok().filter(Json::is_object);
                    *arguments = read.ok_or(TemplateError::Arguments {
                        message: index,
                        call: at,
                    })?;
                }
                (ArgumentForm::Text, value) if !value.is_string() => {
                    *arguments = Json::String(python_json(value));
                }
                _ => {}
            }
        }
        self.adapt_content(message, thorough);
        Ok(())
    }

    /// The content beside calls.
    fn adapt_content(&self, message: &mut Map<String, Json>, thorough: bool) {
        let forms = self.content;
        let fits = match message.get("content") {
            None => forms.missing,
            Some(Json::Null) => forms.null,
            Some(Json::String(text)) if text.is_empty() => forms.empty || !thorough,
            Some(_) => true,
        };
        if fits {
            return;
        }
        if forms.empty {
            message.insert("content".into(), "".into());
        } else if forms.null {
            message.insert("content".into(), Json::Null);
        } else {
            message.shift_remove("content");
        }
    }

    /// Text parts as one text, a line each, where the template takes no list.
    fn join_parts(&self, message: &mut Map<String, Json>) {
        let role = message.get("role").and_then(Json::as_str);
        if role.is_some_and(|role| self.parts.contains(&role)) {
            return;
        }
        let Some(Json::Array(parts)) = message.get("content") else {
            return;
        };
        let texts: Option<Vec<&str>> = parts.iter().map(|part| part["text"].as_str()).collect();
        if let Some(texts) = texts {
            let text = texts.join("\n");
            message.insert("content".into(), text.into());
        }
    }

    /// Thoughts under the key that the template looks for.
    fn name_thoughts(&self, message: &mut Map<String, Json>) {
        let Some(wanted) = self.reasoning.filter(|key| !message.contains_key(*key)) else {
            return;
        };
        for key in REASONING_KEYS {
            if message.get(key).is_some_and(Json::is_string) {
                let thoughts = message.shift_remove(key).unwrap_or_default();
                message.insert(wanted.into(), thoughts);
                return;
            }
        }
    }
}

/// Nine letters and digits for an id, the same for each place where it stands.
fn shorten(id: &mut String, ids: &mut HashMap<String, usize>) {
    if id.len() == 9 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return;
    }
    let next = ids.len();
    let at = *ids.entry(std::mem::take(id)).or_insert(next);
    *id = format!("zq{at:07}");
}

/// A message of several calls, as messages of one call, each followed by its result.
fn split_calls(messages: Vec<Json>) -> Vec<Json> {
    let mut out = Vec::with_capacity(messages.len());
    let mut rest = messages.into_iter().peekable();
    while let Some(mut message) = rest.next() {
        let calls = match message.get_mut("tool_calls").map(Json::take) {
            Some(Json::Array(calls)) if calls.len() > 1 => calls,
            Some(calls) => {
                message["tool_calls"] = calls;
                out.push(message);
                continue;
            }
            None => {
                out.push(message);
                continue;
            }
        };
        let mut results = Vec::new();
        while let Some(result) = rest.next_if(|next| next["role"] == "tool") {
            results.push(result);
        }
        for call in calls {
            let id = call.get("id").cloned().unwrap_or_default();
            message["tool_calls"] = json!([call]);
            out.push(message.clone());
            let own = |result: &Json| !id.is_null() && result.get("tool_call_id") == Some(&id);
            let at = results.iter().position(own);
            let at = at
                .or_else(|| id.is_null().then_some(0))
                .filter(|&at| at < results.len());
            out.extend(at.map(|at| results.remove(at)));
            // What was said and thought stands before the first call alone.
            if message.get("content").is_some_and(Json::is_string) {
                message["content"] = "".into();
            }
            if let Some(message) = message.as_object_mut() {
                message.retain(|key, _| !REASONING_KEYS.contains(&key.as_str()));
            }
        }
        out.extend(results);
    }
    out
}

/// JSON with the spaces that Python writes, which models were trained on.
fn python_json(value: &Json) -> String {
    match value {
        Json::Array(items) => {
            let items: Vec<String> = items.iter().map(python_json).collect();
            format!("[{}]", items.join(", "))
        }
        Json::Object(fields) => {
            let field = |(key, value): (&String, &Json)| {
                format!("{}: {}", Json::from(key.as_str()), python_json(value))
            };
            let fields: Vec<String> = fields.iter().map(field).collect();
            format!("{{{}}}", fields.join(", "))
        }
        plain => plain.to_string(),
    }
}
