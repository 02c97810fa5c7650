//! Conversations made of texts that occur in no template.

use serde_json::{Map, Value as Json, json};

use super::super::{ChatInput, ChatTemplate};
use crate::TemplateError;

pub(super) const NAMES: [&str; 2] = ["zqtool", "zrtool"];
pub(super) const KEYS: [&str; 2] = ["zqkey", "zrkey"];
pub(super) const VALUES: [&str; 2] = ["zqvalue", "zrvalue"];
pub(super) const NUMBER: &str = "73517";
/// These begin like no name: what two renderings have in common must end before them.
pub(super) const PLAIN: &str = "plainzq";
pub(super) const THOUGHT: &str = "thoughtzq";
/// Nine letters and digits: some templates refuse other call ids.
pub(super) const IDS: [&str; 2] = ["call00000", "call00001"];

/// A call's arguments: the first so many strings.
pub(super) fn arguments(count: usize) -> Json {
    let pairs = KEYS.iter().zip(VALUES).take(count);
    let pairs = pairs.map(|(key, value)| ((*key).to_owned(), Json::from(value)));
    Json::Object(pairs.collect::<Map<_, _>>())
}

/// The second call's arguments.
pub(super) fn second_arguments() -> Json {
    json!({ KEYS[1]: VALUES[1] })
}

/// Renders answers of a model that has tools, or none.
pub(super) struct Probe<'a> {
    template: &'a ChatTemplate,
    tools: bool,
    cancelled: &'a dyn Fn() -> bool,
}

impl<'a> Probe<'a> {
    pub fn new(template: &'a ChatTemplate, tools: bool, cancelled: &'a dyn Fn() -> bool) -> Self {
        Self {
            template,
            tools,
            cancelled,
        }
    }

    /// The template's text.
    pub fn source(&self) -> &'a str {
        self.template.source()
    }

    /// The prompt that the answer follows.
    pub fn prompt(&self) -> Result<String, TemplateError> {
        self.render(&[user()], true)
    }

    /// Whether the template begins the answer's turn when it is asked to.
    pub fn prompts(&self, prompt: &str) -> bool {
        self.render(&[user()], false)
            .is_ok_and(|text| text != prompt)
    }

    /// A conversation that ends with this answer; none where the template refuses it.
    pub fn answer(&self, answer: Json) -> Option<String> {
        self.render(&[user(), answer], false).ok()
    }

    /// A conversation that ends with these calls.
    pub fn calls(&self, calls: &[Json], as_text: bool) -> Option<String> {
        let calls = calls.iter().enumerate().map(|(index, arguments)| {
            let arguments = if as_text {
                Json::from(arguments.to_string())
            } else {
                arguments.clone()
            };
            let function = json!({ "name": NAMES[index % 2], "arguments": arguments });
            json!({ "type": "function", "id": IDS[index % 2], "function": function })
        });
        let calls: Vec<Json> = calls.collect();
        self.answer(json!({ "role": "assistant", "content": "", "tool_calls": calls }))
    }

    fn render(&self, messages: &[Json], prompt: bool) -> Result<String, TemplateError> {
        let mut input = ChatInput::new(Json::from(messages));
        if self.tools {
            let property = json!({ "type": "string", "description": "A text." });
            let parameters = json!({
                "type": "object",
                "properties": { KEYS[0]: property, KEYS[1]: property },
                "required": [KEYS[0]],
            });
            let tools = NAMES.map(|name| {
                let function =
                    json!({ "name": name, "description": "A tool.", "parameters": parameters });
                json!({ "type": "function", "function": function })
            });
            input.tools = Some(Json::from(tools.to_vec()));
        }
        input.add_generation_prompt = prompt;
        self.template.render_within(&input, self.cancelled)
    }
}

fn user() -> Json {
    json!({ "role": "user", "content": "Hello" })
}
