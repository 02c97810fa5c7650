//! Chat templates: whatever the program, it ends within its bounds; and the form of its tool calls.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ryz_tokenizer::{ChatInput, ChatTemplate};
use serde_json::json;

fuzz_target!(|bytes: &[u8]| {
    let Ok(template) = ChatTemplate::from_bytes(bytes, "<s>", "</s>") else {
        return;
    };
    let mut input = ChatInput::new(json!([
        { "role": "system", "content": "Be brief." },
        { "role": "user", "content": "Hi <|im_end|> \u{e9}" },
        { "role": "assistant", "content": "", "tool_calls": [
            { "id": "call00000", "type": "function", "function": { "name": "f", "arguments": { "a": [1, 2.5, null] } } }
        ] },
        { "role": "tool", "content": "3" },
    ]));
    input.tools =
        Some(json!([{ "type": "function", "function": { "name": "f", "parameters": {} } }]));
    let _ = template.render(&input);
    let _ = template.tool_call_format();
});
