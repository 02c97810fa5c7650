//! Forms of which a template has only the marks: it takes tools, and writes no calls of earlier turns.

use serde_json::json;

use super::probe::{KEYS, NAMES, VALUES};
use super::{CallBody, CallForm, JsonName, NameEnd};

/// Longest mark.
const LONGEST: usize = 48;

/// Everything in a text that looks like a mark, such as `<tool_call>`, `<|tool_call|>` or `[THINK]`, in its order.
pub(super) fn marks_of(text: &str) -> Vec<String> {
    let mut marks = Vec::new();
    let mut at = 0;
    while let Some(found) = text[at..].find(['<', '[']) {
        let start = at + found;
        at = start + 1;
        let close = if text[start..].starts_with('<') {
            '>'
        } else {
            ']'
        };
        let inside = &text[start + 1..];
        let length = inside
            .char_indices()
            .take(LONGEST)
            .find(|(_, char)| !(char.is_alphanumeric() || "_|:/.-▁｜".contains(*char)))
            .filter(|&(length, char)| char == close && length > 0)
            .map(|(length, _)| length);
        let Some(length) = length else { continue };
        let mark = &text[start..start + length + 2];
        // In square brackets, only capitals: `[0]` and `[INST]` are told apart so.
        let capital = |char: char| char.is_ascii_uppercase() || char == '_' || char == '/';
        if close == '>' || mark[1..mark.len() - 1].chars().all(capital) {
            marks.push(mark.to_owned());
            at = start + mark.len();
        }
    }
    marks
}

/// The mark that closes what this one opens.
pub(super) fn closing(open: &str) -> Option<String> {
    for (begin, end) in [
        ("start", "end"),
        ("START", "END"),
        ("begin", "end"),
        ("prefix", "suffix"),
    ] {
        if open.contains(begin) {
            return Some(open.replace(begin, end));
        }
    }
    let first = open
        .chars()
        .next()
        .filter(|_| !open[1..].starts_with(['/', '|']))?;
    Some(format!("{first}/{}", &open[1..]))
}

/// A form that fits the marks which a template mentions.
pub(super) fn guess(source: &str) -> Option<CallForm> {
    let marks = marks_of(source);
    let is_call = |mark: &&String| {
        let name = mark.to_lowercase();
        let called = name.contains("tool_call") || name.contains("function_call");
        called && !name.starts_with("</") && !name.contains("end") && !name.contains("suffix")
    };
    let named = |word: &str| marks.iter().find(|mark| mark.contains(word)).cloned();
    if let (Some(begin), Some(open), Some(after)) = (
        named("tool_calls_section_begin"),
        named("tool_call_begin"),
        named("tool_call_argument_begin"),
    ) {
        let body = CallBody::Named {
            name: NameEnd {
                after,
                after_id: None,
                index: Some(":".to_owned()),
            },
            arguments: Vec::new(),
            example: json!({ KEYS[0]: VALUES[0] }),
        };
        let close = closing(&open).unwrap_or_default();
        let mut form = form(format!("{open}functions."), close, "", body);
        form.end = closing(&begin).unwrap_or_default();
        form.begin = begin;
        return Some(form);
    }
    if let Some(open) = marks.iter().find(is_call) {
        let close = closing(open).filter(|close| marks.contains(close));
        let example = json!([{ "name": NAMES[0], "arguments": { KEYS[0]: VALUES[0] } }]);
        let body = CallBody::Json {
            name: JsonName::At(vec!["name".to_owned()]),
            arguments: vec!["arguments".to_owned()],
            example,
            counters: Vec::new(),
        };
        return Some(form(open.clone(), close.unwrap_or_default(), "", body));
    }
    // Calls have marks like those of their results.
    let result = marks
        .iter()
        .find(|mark| mark.contains("tool_response_start"))?;
    let open = result.replace("tool_response_start", "tool_call_start");
    let close = result.replace("tool_response_start", "tool_call_end");
    let body = CallBody::Literal {
        open: "(".to_owned(),
        assign: "=".to_owned(),
        close: ")".to_owned(),
        quote: "\"".to_owned(),
    };
    let mut form = form(String::new(), String::new(), ",", body);
    form.begin = format!("{open}[");
    form.end = format!("]{close}");
    Some(form)
}

fn form(open: String, close: String, separator: &str, body: CallBody) -> CallForm {
    CallForm {
        begin: String::new(),
        end: String::new(),
        open,
        close,
        separator: separator.to_owned(),
        body,
        arguments_as_text: false,
        single: false,
        written: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_told_from_other_brackets() {
        let text = "a[0] < b {{ x['<think>'] }}[THINK]</think><|tool_call|> <a href=1>[/INST]";
        let expected = ["<think>", "[THINK]", "</think>", "<|tool_call|>", "[/INST]"];
        assert_eq!(marks_of(text), expected);
        assert_eq!(closing("<think>").as_deref(), Some("</think>"));
        assert_eq!(closing("[THINK]").as_deref(), Some("[/THINK]"));
        let action = closing("<|START_ACTION|>");
        assert_eq!(action.as_deref(), Some("<|END_ACTION|>"));
        assert_eq!(closing("<|tool_call|>"), None);
    }
}
