//! The marks around thoughts, and those around text.

use serde_json::{Value as Json, json};

use super::Marks;
use super::align::whole_prefix;
use super::probe::{PLAIN, Probe, THOUGHT, arguments};
use super::unwritten::{closing, marks_of};

/// What the marks of thoughts are called where a template only mentions them.
const WORDS: [&str; 3] = ["think", "thought", "reason"];

/// The marks around a thought, and those around text.
pub(super) fn learn(probe: &Probe<'_>) -> (Option<Marks>, Option<Marks>) {
    let plain = probe.answer(json!({ "role": "assistant", "content": PLAIN }));
    let (Ok(prompt), Some(plain)) = (probe.prompt(), plain) else {
        return (mentioned(probe.source()), None);
    };
    let lead = |thoughts: Option<&Marks>| {
        let start = whole_prefix(&plain, &prompt).len();
        let end = plain[start..].find(PLAIN)? + start;
        Some(behind_thought(&plain[start..end], thoughts).trim())
    };
    // What stands before text that no thought precedes; it stands behind a thought, too.
    let before_text = lead(None).unwrap_or_default();
    let thoughts =
        thinking(probe, &prompt, &plain, before_text).or_else(|| mentioned(probe.source()));
    let lead = lead(thoughts.as_ref()).unwrap_or_default();
    let begins = marks_of(lead)
        .first()
        .is_some_and(|first| lead.starts_with(first));
    // What the prompt has, too, is its own: the speaker's name, for example.
    let text = begins && !prompt.contains(lead) && probe.prompts(&prompt);
    let tail = plain.rsplit(PLAIN).next().unwrap_or_default();
    let text = text.then(|| Marks {
        open: lead.to_owned(),
        close: marks_of(tail).into_iter().next().unwrap_or_default(),
    });
    (thoughts, text)
}

/// The text behind the (perhaps empty) thought that a template writes before an answer.
pub(super) fn behind_thought<'a>(text: &'a str, thoughts: Option<&Marks>) -> &'a str {
    let close = thoughts.map_or("", |marks| marks.close.as_str());
    match text.find(close) {
        Some(at) if !close.is_empty() => &text[at + close.len()..],
        _ => text,
    }
}

/// From answers with a thought, in each of the ways in which messages carry one.
fn thinking(probe: &Probe<'_>, prompt: &str, plain: &str, before_text: &str) -> Option<Marks> {
    let fields = || {
        json!({
            "role": "assistant", "content": PLAIN,
            "reasoning_content": THOUGHT, "reasoning": THOUGHT, "thinking": THOUGHT,
        })
    };
    let typed = json!({ "role": "assistant", "content": [
        { "type": "thinking", "thinking": THOUGHT }, { "type": "text", "text": PLAIN },
    ] });
    let blocks = json!({ "role": "assistant", "content": { "blocks": [
        { "type": "thoughts", "text": THOUGHT }, { "type": "response", "text": PLAIN },
    ] } });
    [fields(), typed, blocks]
        .into_iter()
        .find_map(|answer| around(&probe.answer(answer)?, prompt, plain, before_text))
        .or_else(|| before_call(&probe.answer(calling(fields()))?, prompt, plain))
}

/// The answer with a call in place of text.
fn calling(mut answer: Json) -> Json {
    let function = json!({ "name": "zqtool", "arguments": arguments(1) });
    answer["content"] = "".into();
    answer["tool_calls"] = json!([{ "type": "function", "id": "call00000", "function": function }]);
    answer
}

/// The marks in a rendering that has a thought before its text.
fn around(text: &str, prompt: &str, plain: &str, before_text: &str) -> Option<Marks> {
    let at = text.find(THOUGHT)?;
    let behind = &text[at + THOUGHT.len()..];
    let end = behind.find(PLAIN)?;
    let between = behind[..end].trim();
    let close = match between.strip_suffix(before_text).map(str::trim) {
        Some(close) if !close.is_empty() => close,
        _ => between,
    };
    marks(opening(text, at, prompt, plain)?, close)
}

/// The marks around a thought before a call: some templates keep no other thoughts.
fn before_call(text: &str, prompt: &str, plain: &str) -> Option<Marks> {
    let at = text.find(THOUGHT)?;
    let close = marks_of(&text[at..]).into_iter().next()?;
    marks(opening(text, at, prompt, plain)?, &close)
}

/// What opens the thought at this place: all that the answer begins with, or the last mark of the
/// prompt.
fn opening(text: &str, at: usize, prompt: &str, plain: &str) -> Option<String> {
    let start = [prompt, plain].map(|other| whole_prefix(text, other).len());
    match text[start[0].min(start[1]).min(at)..at].trim() {
        "" => marks_of(&text[..at]).pop(),
        open => Some(open.to_owned()),
    }
}

/// A message that is printed as data is no thought between marks.
fn marks(open: String, close: &str) -> Option<Marks> {
    let is_mark = |text: &str| !text.is_empty() && !text.contains(['"', '\'', '{', '}']);
    (is_mark(&open) && is_mark(close)).then(|| Marks {
        open,
        close: close.to_owned(),
    })
}

/// The marks that a template mentions: it cuts thoughts out of earlier answers, for example.
fn mentioned(source: &str) -> Option<Marks> {
    let marks = marks_of(source);
    marks.iter().find_map(|open| {
        let close = closing(open)?;
        let name = open.to_lowercase();
        let named = WORDS.iter().any(|word| name.contains(word));
        (named && marks.contains(&close)).then(|| Marks {
            open: open.clone(),
            close,
        })
    })
}
