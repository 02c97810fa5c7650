//! The grammar of tool calls: the form that the model's template writes, around arguments that fit a tool's parameters.

mod arguments;
mod before;
mod closed;
mod json;
mod spelling;

use std::fmt::Write as _;

use ryz_tokenizer::{CallBody, CallForm, NameEnd, Tokenizer};
use serde_json::{Value, json};

use super::constraint::{SchemaSettings, ToolChoice, WhiteSpace};
use super::schema;
use crate::answer_form::AnswerForm;
use crate::error::EngineError;
use before::Before;
use spelling::Spelling;

/// Most tools.
const MAX_TOOLS: usize = 128;

/// What an answer is asked for.
pub(super) struct Request<'a> {
    /// The tool definitions, as JSON text.
    pub tools: &'a str,
    /// Whether there must be calls.
    pub choice: &'a ToolChoice,
    /// Whether the prompt ends within a thought.
    pub in_thought: bool,
}

struct Tool {
    /// Its place among the tools.
    index: usize,
    name: String,
    parameters: Value,
    settings: SchemaSettings,
}

/// The grammar of an answer.
pub(super) fn grammar(
    form: &AnswerForm,
    tokenizer: &Tokenizer,
    request: &Request<'_>,
) -> Result<String, EngineError> {
    let calls = form.calls.as_ref().ok_or(EngineError::NoToolCalls)?;
    let tools = parse(request.tools, request.choice)?;
    let spelling = Spelling::new(&form.tokens, tokenizer);
    let first = spelling.parts(calls.first_mark());
    let before = Before {
        spelling: &spelling,
        thought: form.reasoning.as_ref(),
        text: form.text.as_ref(),
        in_thought: request.in_thought,
        first: first.first(),
    };
    let mut text = before.rules(request.choice);
    if *request.choice == ToolChoice::None {
        return Ok(text);
    }
    let form = Form {
        calls,
        spelling: &spelling,
        several: matches!(request.choice, ToolChoice::Auto | ToolChoice::Required) && !calls.single,
    };
    let head = spelling.spell(&first[..first.len().min(1)]);
    let _ = writeln!(text, "calls: {head} tail");
    text += &form.tail(&spelling.spell(first.get(1..).unwrap_or_default()));
    text += &form.body(&tools)?;
    text += "SPACE: /[ ]|\\r?\\n/\n";
    Ok(text)
}

/// The tools that may be called.
fn parse(text: &str, choice: &ToolChoice) -> Result<Vec<Tool>, EngineError> {
    let all = schema::parse("tools", text)?;
    let all = all.as_array().map_or(&[][..], Vec::as_slice);
    schema::limit("tools", "tools", all.len(), MAX_TOOLS)?;
    let mut tools = Vec::new();
    for (index, tool) in all.iter().enumerate() {
        let function = &tool["function"];
        let Some(name) = function["name"].as_str() else {
            return Err(EngineError::InvalidGrammar {
                option: format!("tools[{index}].function.name"),
                message: "expected a string".to_owned(),
            });
        };
        if matches!(choice, ToolChoice::Named(wanted) if wanted != name) {
            continue;
        }
        let option = format!("tools[{index}].function.parameters");
        let parameters = match &function["parameters"] {
            Value::Null => json!({ "type": "object" }),
            other => other.clone(),
        };
        let settings = SchemaSettings {
            strict: function["strict"] != false,
            white_space: WhiteSpace::Spaced,
        };
        let parameters = closed::closed(parameters);
        // Refused here, where the place is that in the tool's own schema.
        schema::grammar(&option, &parameters, settings).map_err(|error| of_tool(error, name))?;
        tools.push(Tool {
            index,
            name: name.to_owned(),
            parameters,
            settings,
        });
    }
    match choice {
        ToolChoice::Named(name) if tools.is_empty() => Err(EngineError::InvalidGrammar {
            option: "toolChoice".to_owned(),
            message: format!("there is no tool {name:?}"),
        }),
        _ if tools.is_empty() => Err(EngineError::InvalidGrammar {
            option: "toolChoice".to_owned(),
            message: "there are no tools".to_owned(),
        }),
        _ => Ok(tools),
    }
}

/// A refusal that names the tool.
fn of_tool(error: EngineError, name: &str) -> EngineError {
    match error {
        EngineError::InvalidGrammar { option, message } => EngineError::InvalidGrammar {
            option,
            message: format!("{message} (in the tool {name:?})"),
        },
        EngineError::GrammarLimit { option, message } => EngineError::GrammarLimit {
            option,
            message: format!("{message} (in the tool {name:?})"),
        },
        other => other,
    }
}

struct Form<'a> {
    calls: &'a CallForm,
    spelling: &'a Spelling<'a>,
    /// Whether there may be more than one call.
    several: bool,
}

impl Form<'_> {
    /// What follows the first part of the first mark; `rest` are its other parts.
    fn tail(&self, rest: &str) -> String {
        let calls = self.calls;
        let open = self.behind(&calls.open);
        let close = self.before(&calls.close);
        let end = self.before(&calls.end);
        let space = if rest.is_empty() && calls.first_mark().is_empty() {
            ""
        } else {
            "SPACE?"
        };
        let first = if calls.begin.is_empty() { "" } else { &open };
        let separator = self.before(&calls.separator);
        let apart = !(calls.separator.is_empty() && calls.open.is_empty());
        let list = matches!(&calls.body, CallBody::Json { example, .. } if example.is_array());
        let more = if self.several && apart && !list {
            format!("({separator} SPACE? {open} body {close})*")
        } else {
            "\"\"".to_owned()
        };
        format!("tail: {rest} {space} {first} body {close} more {end}\nmore: {more}\n")
    }

    /// A mark, and white space behind it.
    fn behind(&self, mark: &str) -> String {
        match mark {
            "" => String::new(),
            mark => format!("{} SPACE?", self.spelling.spelt(mark)),
        }
    }

    /// A mark, and white space before it.
    fn before(&self, mark: &str) -> String {
        match mark {
            "" => String::new(),
            mark => format!("SPACE? {}", self.spelling.spelt(mark)),
        }
    }

    /// A call without its marks, for every tool.
    fn body(&self, tools: &[Tool]) -> Result<String, EngineError> {
        match &self.calls.body {
            CallBody::Json {
                name,
                arguments,
                example,
                counters,
            } => {
                let shape = json::Shape {
                    name,
                    arguments,
                    counters,
                };
                shape.body(example, tools, self.several)
            }
            CallBody::Named {
                name,
                arguments,
                example,
            } => {
                let bodies = tools.iter().map(|tool| {
                    let json = json::arguments(example, arguments, tool, "#")?;
                    let json = schema::nested("tools", &json, tool.settings)?;
                    Ok(format!("({} SPACE? {json})\n", self.name(tool, name)))
                });
                let bodies: Result<Vec<_>, EngineError> = bodies.collect();
                Ok(format!("body: {}\n", bodies?.join(" | ")))
            }
            CallBody::Tagged { name, parameter } => {
                arguments::tagged(self.spelling, tools, parameter, &|tool| {
                    self.name(tool, name)
                })
            }
            CallBody::Literal {
                open,
                assign,
                close,
                quote,
            } => {
                let signs = arguments::Signs {
                    open,
                    assign,
                    close,
                    quote,
                };
                arguments::literal(self.spelling, tools, &signs)
            }
        }
    }

    /// A name, and what stands behind it.
    fn name(&self, tool: &Tool, end: &NameEnd) -> String {
        let mut text = Value::String(tool.name.clone()).to_string();
        if let Some(index) = &end.index {
            let _ = write!(text, " {} /[0-9]{{1,3}}/", self.spelling.spelt(index));
        }
        if !end.after.is_empty() {
            let _ = write!(text, " {}", self.spelling.spelt(&end.after));
        }
        if let Some(after) = &end.after_id {
            let _ = write!(text, " /[a-zA-Z0-9]{{9}}/ {}", self.spelling.spelt(after));
        }
        text
    }
}

#[cfg(test)]
mod tests;
