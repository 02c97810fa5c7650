//! Where a model's files have their chat templates, and which of them comes first.
#![allow(clippy::unwrap_used)] // helpers of tests, too

mod common;

use common::{fixture, metadata};
use ryz_tokenizer::{ChatInput, HfFiles, Tokenizer};
use serde_json::{Value, json};

fn texts(tokenizer: &Tokenizer) -> [String; 2] {
    let template = tokenizer.chat_template().expect("a template");
    [None, Some(json!([{ "name": "f" }]))].map(|tools| {
        let mut input = ChatInput::new(json!([]));
        input.tools = tools;
        template.render(&input).unwrap()
    })
}

/// What the files make without tools and with them.
fn hf(
    config: Value,
    jinja: Option<&str>,
    legacy: Option<Value>,
    tool_use: Option<&str>,
) -> [String; 2] {
    let legacy = legacy.map(|legacy| legacy.to_string());
    let tokenizer = Tokenizer::from_hf(&HfFiles {
        tokenizer: &fixture("tokenizer-qwen2.json"),
        tokenizer_config: Some(config.to_string().as_bytes()),
        generation_config: None,
        chat_template: jinja.map(str::as_bytes),
        legacy_template: legacy.as_deref().map(str::as_bytes),
        tool_use_template: tool_use.map(str::as_bytes),
    });
    texts(&tokenizer.unwrap())
}

#[test]
fn a_folders_files_come_before_its_configuration() {
    let one = json!({ "chat_template": "config" });
    let list = json!({ "chat_template": [
        { "name": "default", "template": "config" },
        { "name": "rag", "template": "no" },
        { "name": "tool_use", "template": "tools" },
    ]});
    let legacy = || Some(json!({ "chat_template": "legacy" }));
    assert_eq!(hf(one.clone(), None, None, None), ["config", "config"]);
    assert_eq!(hf(list.clone(), None, None, None), ["config", "tools"]);
    assert_eq!(hf(one.clone(), None, legacy(), None), ["legacy", "legacy"]);
    assert_eq!(hf(one, Some("jinja"), legacy(), None), ["jinja", "jinja"]);
    let files = hf(list, Some("jinja"), None, Some("more tools"));
    assert_eq!(files, ["jinja", "more tools"]);
    let only = json!({ "chat_template": [{ "name": "tool_use", "template": "tools" }] });
    assert_eq!(hf(only, None, None, None), ["tools", "tools"]);
}

#[test]
fn a_gguf_file_has_a_key_for_each() {
    let mut file = metadata("qwen2.gguf");
    file.set("tokenizer.chat_template", "plain");
    file.set("tokenizer.chat_template.tool_use", "tools");
    let tokenizer = Tokenizer::from_gguf(&file).unwrap();
    assert_eq!(texts(&tokenizer), ["plain", "tools"]);
}

#[test]
fn a_template_that_does_not_parse_is_no_fault_of_the_tokenizer() {
    let mut file = metadata("qwen2.gguf");
    file.set("tokenizer.chat_template", "{% if");
    let tokenizer = Tokenizer::from_gguf(&file).unwrap();
    let template = tokenizer.chat_template().expect("a template");
    let error = template.render(&ChatInput::new(json!([]))).unwrap_err();
    assert_eq!(error.code(), "INVALID_TEMPLATE");
}
