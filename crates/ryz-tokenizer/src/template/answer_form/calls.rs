//! Calls that the template writes: as JSON, or as a name and JSON.

use serde_json::Value as Json;

use super::align::{Frame, common_prefix, whole_prefix, whole_suffix};
use super::probe::{IDS, KEYS, NAMES, PLAIN, Probe, VALUES, arguments, second_arguments};
use super::thoughts::behind_thought;
use super::{CallBody, CallForm, JsonName, Marks, NameEnd, tagged, unwritten};
use crate::TemplateError;

/// The form of calls; none where the template takes no tools, or says nothing of their calls.
pub(super) fn learn(
    probe: &Probe<'_>,
    thoughts: Option<&Marks>,
) -> Result<Option<CallForm>, TemplateError> {
    let prompt = probe.prompt()?;
    if !prompt.contains(NAMES[0]) {
        return Ok(None); // It takes no tools: their definitions went nowhere.
    }
    let plain = probe.answer(serde_json::json!({ "role": "assistant", "content": PLAIN }));
    let plain = plain.unwrap_or_default();
    let answers = Answers {
        probe,
        prompt: &prompt,
        plain: &plain,
        end_of_turn: plain.rsplit(PLAIN).next().unwrap_or_default(),
        thoughts,
    };
    let form = as_json(&answers, false)
        .or_else(|| tagged::learn(&answers))
        .or_else(|| as_json(&answers, true))
        .or_else(|| unwritten::guess(probe.source()));
    Ok(form)
}

/// Renderings of calls.
pub(super) struct Answers<'a> {
    probe: &'a Probe<'a>,
    prompt: &'a str,
    plain: &'a str,
    end_of_turn: &'a str,
    thoughts: Option<&'a Marks>,
}

impl Answers<'_> {
    /// What the model writes for these calls: without the prompt, a thought, and the turn's end.
    pub fn of(&self, calls: &[Json], as_text: bool) -> Option<String> {
        let text = self.probe.calls(calls, as_text)?;
        let start = [self.prompt, self.plain].map(|other| whole_prefix(&text, other).len());
        let answer = &text[start[0].max(start[1])..];
        let end = whole_suffix(answer, self.end_of_turn);
        let answer = &answer[..answer.len() - end.len()];
        let first = answer.find(NAMES[0])?;
        let start = first - behind_thought(&answer[..first], self.thoughts).len();
        Some(answer[start..].to_owned())
    }

    /// The answer of two calls; none where a message holds only one.
    pub fn of_two(&self, as_text: bool) -> Option<String> {
        let two = self.of(&[arguments(1), second_arguments()], as_text)?;
        two.contains(NAMES[1]).then_some(two)
    }
}

fn as_json(answers: &Answers<'_>, as_text: bool) -> Option<CallForm> {
    let one = answers.of(&[arguments(1)], as_text)?;
    let form = json_form(&one, answers.of_two(as_text).as_deref())?;
    Some(CallForm {
        arguments_as_text: as_text,
        ..form
    })
}

/// The form of an answer that is one call, and of one that is two.
fn json_form(one: &str, two: Option<&str>) -> Option<CallForm> {
    let (start, end, json) = json_with(one, 0, VALUES[0])?;
    let call = match &json {
        Json::Array(calls) => calls.first()?,
        call => call,
    };
    let arguments = path_to(call, &|value| {
        value.get(KEYS[0]).is_some() || value.as_str().is_some_and(|text| text.contains(VALUES[0]))
    })?;
    let tail = &one[end..];
    let before = &one[..start];
    let is_key = call.get(NAMES[0]).is_some();
    let name = match path_to(call, &|value| value.as_str() == Some(NAMES[0])) {
        Some(path) => Some(JsonName::At(path)),
        None => is_key.then_some(JsonName::Key),
    };
    if let Some(name) = name {
        let arguments = if is_key { Vec::new() } else { arguments };
        let second = two.and_then(|two| {
            let (_, end, first) = json_with(two, 0, VALUES[0])?;
            if let Json::Array(calls) = first {
                return Some((None, calls.into_iter().nth(1)?));
            }
            let (next, _, second) = json_with(two, end, VALUES[1])?;
            Some((Some(two[end..next].to_owned()), second))
        });
        let (middle, other) = second.clone().unzip();
        return Some(CallForm {
            single: second.is_none(),
            ..form(
                Frame::new(before, middle.flatten().as_deref(), tail),
                CallBody::Json {
                    counters: counters(call, other.as_ref(), &name, &arguments),
                    name,
                    arguments,
                    example: json.clone(),
                },
            )
        });
    }
    let (head, after) = before.rsplit_once(NAMES[0])?;
    let second = two.and_then(|two| {
        let (_, end, _) = json_with(two, 0, VALUES[0])?;
        let (next, _, _) = json_with(two, end, VALUES[1])?;
        let (middle, after) = two[end..next].rsplit_once(NAMES[1])?;
        Some((middle.to_owned(), after.to_owned()))
    });
    let (middle, other) = second.clone().unzip();
    Some(CallForm {
        single: second.is_none(),
        ..form(
            Frame::new(head, middle.as_deref(), tail),
            CallBody::Named {
                name: name_end(after, other.as_deref()),
                arguments,
                example: json.clone(),
            },
        )
    })
}

/// A form that the template writes.
pub(super) fn form(frame: Frame, body: CallBody) -> CallForm {
    CallForm {
        begin: frame.begin,
        end: frame.end,
        open: frame.open,
        close: frame.close,
        separator: frame.separator,
        body,
        arguments_as_text: false,
        single: false,
        written: true,
    }
}

/// What stands behind the names of the first and of the second call.
pub(super) fn name_end(first: &str, second: Option<&str>) -> NameEnd {
    let text = |text: &str| text.trim().to_owned();
    if let Some((after, after_id)) = first.split_once(IDS[0]) {
        return NameEnd {
            after: text(after),
            after_id: Some(text(after_id)),
            index: None,
        };
    }
    let at = common_prefix(first, second.unwrap_or(first));
    let is_digit = |text: &str| text[at..].starts_with(|char: char| char.is_ascii_digit());
    if second.is_some_and(|second| is_digit(first) && is_digit(second)) {
        return NameEnd {
            after: text(&first[at + 1..]),
            after_id: None,
            index: Some(text(&first[..at])),
        };
    }
    NameEnd {
        after: text(first),
        ..NameEnd::default()
    }
}

/// The keys whose values differ between two calls although they are neither name nor arguments.
fn counters(one: &Json, two: Option<&Json>, name: &JsonName, arguments: &[String]) -> Vec<String> {
    let (Some(one), Some(two), JsonName::At(name)) = (one.as_object(), two, name) else {
        return Vec::new();
    };
    let known = |key: &String| name.first() == Some(key) || arguments.first() == Some(key);
    let counts = one.iter().filter(|(key, value)| {
        let id = value.as_str() == Some(IDS[0]);
        !known(key) && !id && two.get(key.as_str()) != Some(value)
    });
    counts.map(|(key, _)| key.clone()).collect()
}

/// The first JSON value behind `from` that holds the text, and its place.
fn json_with(answer: &str, from: usize, text: &str) -> Option<(usize, usize, Json)> {
    let starts = answer[from..].match_indices(['{', '[']);
    starts
        .map(|(start, _)| from + start)
        .filter_map(|start| {
            let mut values = serde_json::Deserializer::from_str(&answer[start..]).into_iter();
            let json: Json = values.next()?.ok()?;
            let end = start + values.byte_offset();
            answer[start..end]
                .contains(text)
                .then_some((start, end, json))
        })
        .next()
}

/// The keys that lead to the outermost value of that kind.
fn path_to(json: &Json, wanted: &impl Fn(&Json) -> bool) -> Option<Vec<String>> {
    if wanted(json) {
        return Some(Vec::new());
    }
    json.as_object()?.iter().find_map(|(key, value)| {
        let mut path = path_to(value, wanted)?;
        path.insert(0, key.clone());
        Some(path)
    })
}
