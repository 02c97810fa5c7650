//! A conversation: from the JSON that TypeScript makes to what the chat template takes.

use napi::bindgen_prelude::{Either, Uint8Array, Uint32Array};
use napi_derive::napi;
use ryz_engine::ChatInput;
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

/// A conversation's tokens.
#[napi(object, object_from_js = false)]
pub struct ChatTokens {
    /// The tokens of the prompt.
    pub tokens: Uint32Array,
    /// Whether they end within a thought that the template has opened.
    pub in_thought: bool,
}

/// JSON that came as text, or piece by piece as UTF-8.
pub fn bytes(json: Either<String, Uint8Array>) -> Vec<u8> {
    match json {
        Either::A(text) => text.into_bytes(),
        Either::B(bytes) => bytes.to_vec(),
    }
}

/// Reads the JSON that TypeScript made.
pub fn parse(json: &[u8]) -> Result<ChatInput, Failure> {
    let read: Result<Conversation, _> = serde_json::from_slice(json);
    let conversation = read.map_err(|error| Failure::new("INVALID_ARGUMENT", &error))?;
    let mut input = ChatInput::new(conversation.messages);
    input.tools = conversation.tools;
    input.add_generation_prompt = conversation.add_generation_prompt;
    input.extra = conversation.variables;
    input.share_reasoning();
    Ok(input)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_arrives() {
        let json = r#"{ "messages": [{ "role": "user", "content": "hi" }], "tools": [{}],
            "addGenerationPrompt": false, "variables": { "enable_thinking": true } }"#;
        let input = parse(json.as_bytes()).expect("a conversation");
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
        let failure = parse(b"{}").expect_err("no messages");
        assert_eq!(failure.code, "INVALID_ARGUMENT");
    }
}
