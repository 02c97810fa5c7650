//! Published models' chat templates, against what Jinja2 makes of them with transformers' settings.
//!
//! The templates are their authors' and not in the repository: they come from a folder beside the checkout, or from
//! `scripts/fetch-llama-cpp.mjs`.
#![allow(clippy::unwrap_used)] // helpers of tests, too

mod common;
mod sha256;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ryz_tokenizer::{ChatInput, ChatTemplate, TemplateError};
use serde_json::{Value, json};

/// 2026-01-07 09:05:03.
fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_767_776_703)
}

fn read(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path:?}: {error}"))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The templates of a folder by name.
fn templates(folder: &Path) -> BTreeMap<String, String> {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    files
        .filter_map(|file| {
            let path = file.path();
            let name = path.file_name()?.to_str()?.strip_suffix(".jinja")?;
            Some((name.to_owned(), fs::read_to_string(&path).unwrap()))
        })
        .collect()
}

fn render(source: &str, conversation: &Value) -> Result<String, TemplateError> {
    let options = &conversation["opts"];
    let mut input = ChatInput::new(conversation["messages"].clone());
    input.tools = options.get("tools").cloned();
    input.add_generation_prompt = options["addGenerationPrompt"].as_bool().unwrap_or(true);
    let pad = json!({ "pad_token": "<|endoftext|>" });
    for variables in [Some(&pad), options.get("templateVariables")]
        .into_iter()
        .flatten()
    {
        input.extra.extend(variables.as_object().unwrap().clone());
    }
    input.now = Some(now());
    ChatTemplate::new(source, "<|endoftext|>", "<|im_end|>")?.render(&input)
}

/// The newest folder that `scripts/fetch-llama-cpp.mjs` fetched.
fn fetched() -> Option<PathBuf> {
    let versions = fs::read_dir(root().join(".cache/llama-cpp"))
        .ok()?
        .flatten();
    let folders = versions.map(|version| version.path().join("templates"));
    folders.filter(|folder| folder.is_dir()).max()
}

/// What Jinja2 fails at because Python does: nothing is said about what the text should be.
fn is_pythons_own(error: &str) -> bool {
    error.starts_with("RecursionError") || error.contains("'NoneType'")
}

/// The cases of exceptions.json for a template, by its name or its sha256.
fn exceptions(template: &str) -> Value {
    read(Path::new("tests/exceptions.json"))[template].clone()
}

fn describe(error: &TemplateError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

#[test]
fn real_templates_render_as_jinja2_renders_them() {
    let folder = root().join("../shared/templates");
    let templates = templates(&folder);
    if !folder.exists() {
        eprintln!("SKIPPED: 0 real templates ran, because ../shared/templates is absent");
        return;
    }
    assert!(!templates.is_empty(), "no template in {folder:?}");
    let conversations = read(&folder.join("conversations.json"));
    let conversations = conversations.as_object().unwrap();
    let mut used = 0;
    let mut ran = 0;
    let mut faults = Vec::new();
    for (name, source) in &templates {
        let expected = read(&folder.join(format!("{name}.expected.json")));
        let exceptions = exceptions(name);
        for (title, conversation) in conversations {
            ran += 1;
            let got = render(source, conversation);
            let (text, error) = (&expected[title]["text"], &expected[title]["error"]);
            let equal = match (&got, text.as_str(), error.as_str()) {
                (Ok(got), Some(text), _) => got == text,
                (Ok(_), None, Some(error)) => is_pythons_own(error),
                (Err(_), None, Some(_)) => true,
                _ => false,
            };
            let excepted = exceptions.get(title).is_some();
            used += usize::from(excepted);
            if equal == excepted {
                let got = got.map_err(|error| describe(&error));
                let note = if equal {
                    "equal, but in exceptions.json"
                } else {
                    "differs"
                };
                faults.push(format!(
                    "{name}, {title}: {note}\n  got  {got:?}\n  want {}",
                    expected[title]
                ));
            }
        }
    }
    let count = templates.len();
    eprintln!("{ran} renderings of {count} real templates ran, {used} excepted");
    common::note_ran("renderings of templates", ran, 0);
    assert!(
        faults.is_empty(),
        "{} faults:\n{}",
        faults.len(),
        faults.join("\n")
    );
}

/// For a clone without that folder: of Jinja2's renderings only the hashes are in the repository.
#[test]
fn fetched_templates_render_to_the_hashes_of_jinja2s_renderings() {
    let Some(folder) = fetched() else {
        eprintln!("SKIPPED: 0 fetched templates ran; scripts/fetch-llama-cpp.mjs fetches them");
        return;
    };
    let golden: Value =
        serde_json::from_str(include_str!("fixtures/template_hashes.json")).unwrap();
    let conversations: Value =
        serde_json::from_str(include_str!("fixtures/conversations.json")).unwrap();
    let (mut ran, mut faults) = (0, Vec::new());
    for (name, source) in templates(&folder) {
        let hash = sha256::hex(source.as_bytes());
        let expected = golden["templates"][&hash].as_object();
        let expected = expected.unwrap_or_else(|| panic!("{name}: no hashes of {hash}"));
        let exceptions = exceptions(&hash);
        for (title, conversation) in conversations.as_object().unwrap() {
            let Some(expected) = expected.get(title).and_then(Value::as_str) else {
                continue; // Python's own limits say nothing.
            };
            ran += 1;
            let all = golden["tools"].as_array().unwrap();
            let mut input = ChatInput::new(conversation["messages"].clone());
            input.tools = match conversation["tools"].as_str() {
                Some("both") => Some(json!(all)),
                Some(_) => Some(json!(all[..1])),
                None => None,
            };
            input.add_generation_prompt = conversation["addGenerationPrompt"]
                .as_bool()
                .unwrap_or(true);
            let variables = conversation["variables"].as_object();
            input.extra.extend(variables.cloned().unwrap_or_default());
            input.now = Some(now());
            let got = ChatTemplate::new(&source, "<s>", "</s>").and_then(|t| t.render(&input));
            let got_hash = match &got {
                Ok(text) => sha256::hex(text.as_bytes()),
                Err(TemplateError::Raised { .. }) => "refused".to_owned(),
                Err(_) => "error".to_owned(),
            };
            // Where Jinja2 fails, a text is possible.
            let equal = got_hash == expected || expected == "error";
            if equal == exceptions.get(title).is_some() {
                let got = got.map_err(|error| describe(&error));
                faults.push(format!(
                    "{name} ({hash}), {title}: want {expected}, got {got:?}"
                ));
            }
        }
    }
    eprintln!("{ran} renderings of fetched templates ran");
    assert!(ran > 0, "no template in {folder:?}");
    assert!(
        faults.is_empty(),
        "{} faults:\n{}",
        faults.len(),
        faults.join("\n")
    );
}
