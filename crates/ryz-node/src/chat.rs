//! A conversation: from the JSON that TypeScript makes to what the chat template takes.

use napi_derive::napi;
use ryz_engine::{CallName, ChatInput, ToolCalls};
use serde_json::{Map, Value};

use crate::answer::Failure;

/// `{ messages, tools?, addGenerationPrompt, variables }`.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Conversation {
    messages: Value,
    tools: Option<Value>,
    add_generation_prompt: bool,
    variables: Map<String, Value>,
}

/// How a model writes tool calls.
#[napi(object, object_from_js = false)]
pub struct ToolCallFormat {
    /// The text before a call's JSON.
    pub open: String,
    /// The text after it.
    pub close: String,
    /// The keys that lead to the function's name inside the JSON, or
    pub name_path: Option<Vec<String>>,
    /// the text between the name and the JSON.
    pub after_name: Option<String>,
    /// The keys that lead to the arguments.
    pub arguments_path: Vec<String>,
    /// Whether the template takes arguments as text.
    pub arguments_as_text: bool,
    /// Control tokens that are part of the form.
    pub tokens: Vec<u32>,
}

impl ToolCallFormat {
    /// The engine's own, for JavaScript.
    pub fn of(calls: ToolCalls) -> Self {
        let format = calls.format;
        let (name_path, after_name) = match format.name {
            CallName::Inside(path) => (Some(path), None),
            CallName::Before(text) => (None, Some(text)),
        };
        Self {
            open: format.open,
            close: format.close,
            name_path,
            after_name,
            arguments_path: format.arguments,
            arguments_as_text: format.arguments_as_text,
            tokens: calls.tokens,
        }
    }
}

/// Reads the JSON that TypeScript made.
pub fn parse(json: &str) -> Result<ChatInput, Failure> {
    let read: Result<Conversation, _> = serde_json::from_str(json);
    let conversation = read.map_err(|error| Failure::new("INVALID_ARGUMENT", &error))?;
    let mut input = ChatInput::new(conversation.messages);
    input.tools = conversation.tools;
    input.add_generation_prompt = conversation.add_generation_prompt;
    input.extra = conversation.variables;
    Ok(input)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_arrives() {
        let json = r#"{ "messages": [{ "role": "user", "content": "hi" }], "tools": [{}],
            "addGenerationPrompt": false, "variables": { "enable_thinking": true } }"#;
        let input = parse(json).expect("a conversation");
        assert_eq!(input.messages[0]["content"], "hi");
        assert_eq!(
            input
                .tools
                .map(|tools| tools.as_array().map_or(0, Vec::len)),
            Some(1)
        );
        assert!(!input.add_generation_prompt);
        assert_eq!(input.extra["enable_thinking"], true);
    }

    #[test]
    fn what_is_no_conversation_is_refused() {
        let failure = parse("{}").expect_err("no messages");
        assert_eq!(failure.code, "INVALID_ARGUMENT");
    }
}
