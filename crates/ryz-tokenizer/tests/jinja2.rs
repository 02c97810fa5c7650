//! Expressions and blocks of Jinja2, against what Jinja2 makes of them: `dev/reference/jinja2_goldens.py` wrote the results.
#![allow(clippy::unwrap_used)] // helpers of tests, too

use std::time::{Duration, UNIX_EPOCH};

use ryz_tokenizer::{ChatInput, ChatTemplate};
use serde_json::Value;

#[test]
fn expressions_give_what_jinja2_gives() {
    let golden: Value = serde_json::from_str(include_str!("fixtures/jinja2.json")).unwrap();
    let variables = golden["variables"].as_object().unwrap();
    let (mut ran, mut faults) = (0, Vec::new());
    for case in golden["cases"].as_array().unwrap() {
        let source = case["source"].as_str().unwrap();
        let mut input = ChatInput::new(variables["messages"].clone());
        input.extra = variables.clone();
        // 2026-01-07 09:05:03
        input.now = Some(UNIX_EPOCH + Duration::from_secs(1_767_776_703));
        let got = ChatTemplate::new(source, "<s>", "</s>").and_then(|t| t.render(&input));
        let equal = match (&got, case["text"].as_str()) {
            (Ok(got), Some(text)) => got == text,
            (Err(_), None) => true,
            _ => false,
        };
        ran += 1;
        if equal == case["differs"].is_string() {
            faults.push(format!("{case}\n  got {got:?}"));
        }
    }
    assert!(ran > 1000, "{ran} ran");
    assert!(
        faults.is_empty(),
        "{} of {ran}:\n{}",
        faults.len(),
        faults.join("\n")
    );
}
