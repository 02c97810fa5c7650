//! How a model writes tool calls, learnt from its own chat template.
//!
//! Every family has a form of its own, and the template is where it is written down: it must write the calls of earlier
//! turns as the model learnt them. So a call with a name and an argument that occur nowhere else is rendered, and what
//! stands around them is the form. No family is known by name here.

use serde_json::{Value as Json, json};

use super::{ChatInput, ChatTemplate};
use crate::TemplateError;

const NAME: &str = "zqtool";
const KEY: &str = "zqkey";
const VALUE: &str = "zqvalue";
const PLAIN: &str = "zqplain";
/// Nine letters and digits: some templates refuse other call ids.
const ID: &str = "call00000";

impl ToolCallFormat {
    /// The id of the call in [`ToolCallFormat::example`]: where it stands, a call of the model has one of its own.
    pub const EXAMPLE_ID: &str = ID;
}

/// The form of a tool call in a model's answer: `open`, JSON, `close`.
///
/// The JSON is a call or a list of calls. White space between the three does not matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolCallFormat {
    /// The text before the JSON, such as `<tool_call>`; empty for a model whose calls begin with the JSON itself.
    pub open: String,
    /// The text after it, such as `</tool_call>`; empty where the answer ends with the JSON.
    pub close: String,
    /// Where the function's name is.
    pub name: CallName,
    /// The keys that lead to the arguments inside the JSON; none where the JSON is the arguments.
    pub arguments: Vec<String>,
    /// Whether the template takes the arguments of earlier calls as text that holds JSON, not as an object.
    pub arguments_as_text: bool,
    /// The JSON as the template wrote it: a call, or a list of one, with a name, arguments and an id that are made up.
    pub example: Json,
}

/// Where a call's function name is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallName {
    /// Inside the JSON, at the end of these keys.
    Inside(Vec<String>),
    /// Between `open` and the JSON, and followed by this text, as in `<function=name>{…}</function>`.
    Before(String),
}

impl ChatTemplate {
    /// The form in which this model writes tool calls; none when the template takes no tools, or writes their calls in
    /// a form that holds no JSON.
    ///
    /// # Errors
    ///
    /// Those of [`ChatTemplate::render`], if it cannot even write a plain answer.
    ///
    /// # Examples
    ///
    /// ```
    /// use ryz_tokenizer::{CallName, ChatTemplate};
    ///
    /// let source = "{{ tools | tojson }}{% for m in messages %}<{{ m.role }}>{{ m.content }}
    ///     {%- for call in m.tool_calls or [] %}<call>{{ call.function | tojson }}</call>{% endfor %}<end>{% endfor %}
    ///     {%- if add_generation_prompt %}<assistant>{% endif %}";
    /// let format = ChatTemplate::new(source, "<s>", "</s>")?.tool_call_format()?.expect("a form");
    /// assert_eq!((format.open.as_str(), format.close.as_str()), ("<call>", "</call>"));
    /// assert_eq!(format.name, CallName::Inside(vec!["name".into()]));
    /// assert_eq!(format.arguments, ["arguments"]);
    /// # Ok::<(), ryz_tokenizer::TemplateError>(())
    /// ```
    pub fn tool_call_format(&self) -> Result<Option<ToolCallFormat>, TemplateError> {
        let user = json!({ "role": "user", "content": "Hello" });
        let plain = json!({ "role": "assistant", "content": PLAIN });
        let plain = self.render(&with_tools(json!([user, plain]), false))?;
        let prompt = self.render(&with_tools(json!([user]), true))?;
        if !prompt.contains(NAME) {
            return Ok(None); // It takes no tools: their definitions went nowhere.
        }
        let end_of_turn = plain.rsplit(PLAIN).next().unwrap_or_default();
        let object = json!({ KEY: VALUE });
        let text = Json::String(object.to_string());
        Ok([(object, false), (text, true)].into_iter().find_map(
            |(arguments, arguments_as_text)| {
                let function = json!({ "name": NAME, "arguments": arguments });
                let call = json!({ "type": "function", "id": ID, "function": function });
                let calling = json!({ "role": "assistant", "content": "", "tool_calls": [call] });
                // A template may refuse earlier calls although it takes tools.
                let called = self
                    .render(&with_tools(json!([user, calling]), false))
                    .ok()?;
                let answer = &called[common_prefix(&called, &prompt)..];
                let format = learn(answer.strip_suffix(end_of_turn).unwrap_or(answer))?;
                Some(ToolCallFormat {
                    arguments_as_text,
                    ..format
                })
            },
        ))
    }
}

fn with_tools(messages: Json, add_generation_prompt: bool) -> ChatInput {
    let parameters = json!({ "type": "object", "properties": { KEY: { "type": "string" } } });
    let function = json!({ "name": NAME, "description": "A tool.", "parameters": parameters });
    let mut input = ChatInput::new(messages);
    input.tools = Some(json!([{ "type": "function", "function": function }]));
    input.add_generation_prompt = add_generation_prompt;
    input
}

/// How many bytes of whole characters two texts begin with in common.
fn common_prefix(a: &str, b: &str) -> usize {
    a.chars()
        .zip(b.chars())
        .take_while(|(a, b)| a == b)
        .map(|(a, _)| a.len_utf8())
        .sum()
}

/// The form of an answer that is one call.
fn learn(answer: &str) -> Option<ToolCallFormat> {
    let (start, end, json) = call_json(answer)?;
    let close = answer[end..].trim().to_owned();
    let call = match &json {
        Json::Array(calls) => calls.first()?,
        call => call,
    };
    let arguments = path_to(call, &|value| {
        value.get(KEY).is_some() || value.as_str().is_some_and(|text| text.contains(VALUE))
    })?;
    let before = &answer[..start];
    if let Some(name) = path_to(call, &|value| value.as_str() == Some(NAME)) {
        return Some(ToolCallFormat {
            open: last_line(before),
            close,
            name: CallName::Inside(name),
            arguments,
            arguments_as_text: false,
            example: json.clone(),
        });
    }
    let (open, after) = before.rsplit_once(NAME)?;
    Some(ToolCallFormat {
        open: last_line(open),
        close,
        name: CallName::Before(after.trim().to_owned()),
        arguments,
        arguments_as_text: false,
        example: json.clone(),
    })
}

/// What introduces a call: the rest, such as an empty thought, stands on lines of its own.
fn last_line(text: &str) -> String {
    let text = text.trim();
    text.rsplit('\n').next().unwrap_or(text).trim().to_owned()
}

/// The first JSON value that holds the argument, and its place.
fn call_json(answer: &str) -> Option<(usize, usize, Json)> {
    let starts = answer.match_indices(['{', '[']).map(|(start, _)| start);
    starts
        .filter_map(|start| {
            let mut values = serde_json::Deserializer::from_str(&answer[start..]).into_iter();
            let json: Json = values.next()?.ok()?;
            let end = start + values.byte_offset();
            answer[start..end]
                .contains(VALUE)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn inside(open: &str, close: &str, name: &str, arguments: &str) -> Option<ToolCallFormat> {
        Some(ToolCallFormat {
            open: open.into(),
            close: close.into(),
            name: CallName::Inside(name.split('.').map(str::to_owned).collect()),
            arguments: arguments.split('.').map(str::to_owned).collect(),
            arguments_as_text: false,
            example: Json::Null,
        })
    }

    /// The form without its example.
    fn form(answer: &str) -> Option<ToolCallFormat> {
        let example = Json::Null;
        learn(answer).map(|format| ToolCallFormat { example, ..format })
    }

    #[test]
    fn forms_of_several_families() {
        let qwen = "<think>\n\n</think>\n\n<tool_call>\n{\"name\": \"zqtool\", \"arguments\": {\"zqkey\": \"zqvalue\"}}\n</tool_call>";
        assert_eq!(
            form(qwen),
            inside("<tool_call>", "</tool_call>", "name", "arguments")
        );
        let mistral = "[TOOL_CALLS] [{\"name\": \"zqtool\", \"arguments\": {\"zqkey\": \"zqvalue\"}, \"id\": \"call00000\"}]";
        assert_eq!(
            form(mistral),
            inside("[TOOL_CALLS]", "", "name", "arguments")
        );
        let llama = "{\"name\": \"zqtool\", \"parameters\": {\"zqkey\": \"zqvalue\"}}";
        assert_eq!(form(llama), inside("", "", "name", "parameters"));
        let nested = "<tool>{\"type\": \"function\", \"function\": {\"name\": \"zqtool\", \"arguments\": \"{\\\"zqkey\\\": \\\"zqvalue\\\"}\"}}";
        assert_eq!(
            form(nested),
            inside("<tool>", "", "function.name", "function.arguments")
        );
        let tagged = "<function=zqtool>{\"zqkey\": \"zqvalue\"}</function>";
        assert_eq!(
            form(tagged),
            Some(ToolCallFormat {
                open: "<function=".into(),
                close: "</function>".into(),
                name: CallName::Before(">".into()),
                arguments: vec![],
                arguments_as_text: false,
                example: Json::Null,
            })
        );
        let example = learn(mistral).map(|format| format.example[0]["id"].clone());
        assert_eq!(example, Some(ToolCallFormat::EXAMPLE_ID.into()));
        assert_eq!(learn("zqtool(zqkey='zqvalue')"), None);
        assert_eq!(learn(""), None);
    }

    #[test]
    fn a_template_that_writes_arguments_as_they_come_takes_them_as_text() {
        let source = "{{ tools | tojson }}{% for m in messages %}<{{ m.role }}>{{ m.content }}
            {%- for call in m.tool_calls or [] %}{{ call.function.name }}:{{ call.function.arguments }}{% endfor %};
            {%- endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
        let template = ChatTemplate::new(source, "", "").unwrap();
        let format = template.tool_call_format().unwrap().expect("a form");
        assert!(format.arguments_as_text);
        assert_eq!(format.name, CallName::Before(":".into()));
        assert_eq!((format.open.as_str(), format.close.as_str()), ("", ""));
    }

    #[test]
    fn a_template_without_tools_has_no_form() {
        let source = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}";
        let template = ChatTemplate::new(source, "", "").unwrap();
        assert_eq!(template.tool_call_format().unwrap(), None);
    }

    #[test]
    fn a_template_that_takes_tools_and_refuses_calls_has_no_form() {
        let source = "{{ tools | tojson }}{% for m in messages %}{% if m.tool_calls %}{{ raise_exception('no') }}{% endif %}{{ m.content }}{% endfor %}";
        let template = ChatTemplate::new(source, "", "").unwrap();
        assert_eq!(template.tool_call_format().unwrap(), None);
    }
}
