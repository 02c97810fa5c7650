//! The grammar of tool calls: the form that the model's template writes, around arguments that fit a tool's parameters.

use std::fmt::Write as _;

use ryz_tokenizer::{CallName, Tokenizer, ToolCallFormat};
use serde_json::{Map, Value, json};

use super::constraint::ToolChoice;
use super::schema;
use crate::chat::ToolCalls;
use crate::error::EngineError;

/// Most tools.
const MAX_TOOLS: usize = 128;
/// Most calls of one answer, where the form is a list.
const MAX_CALLS: usize = 16;

struct Tool {
    name: String,
    parameters: Value,
}

/// The grammar of an answer.
pub(super) fn grammar(
    calls: &ToolCalls,
    tokenizer: &Tokenizer,
    tools: &str,
    choice: &ToolChoice,
) -> Result<String, EngineError> {
    let tools = parse(tools, choice)?;
    let form = Form { calls, tokenizer };
    let mut text = match choice {
        ToolChoice::None => return Ok(format!("start: plain\n{}", form.plain())),
        ToolChoice::Auto => format!("start: plain | answer\n{}", form.plain()),
        ToolChoice::Required | ToolChoice::Named(_) => "start: call more\n".to_owned(),
    };
    let format = &calls.format;
    let several = matches!(choice, ToolChoice::Auto | ToolChoice::Required);
    // Without a mark that ends a call, or with a list, nothing can follow.
    let alone = !several || format.close.is_empty() || format.example.is_array();
    text += if alone {
        "more: \"\"\n"
    } else {
        "more: (SPACE? call)*\n"
    };
    if *choice == ToolChoice::Auto {
        text += &form.answer();
    }
    let _ = writeln!(text, "call: {} body", form.open("SPACE?"));
    let bodies = form.bodies(&tools, several)?;
    let _ = writeln!(text, "body: {}", bodies.join(" | "));
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
        schema::check(&option, &parameters)?;
        tools.push(Tool {
            name: name.to_owned(),
            parameters,
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

struct Form<'a> {
    calls: &'a ToolCalls,
    tokenizer: &'a Tokenizer,
}

/// A part of a form's text.
enum Part {
    Text(String),
    Token(u32),
}

impl Form<'_> {
    fn format(&self) -> &ToolCallFormat {
        &self.calls.format
    }

    /// What begins a call, with what may stand behind it.
    fn open(&self, behind: &str) -> String {
        match self.format().open.as_str() {
            "" => String::new(),
            open => format!("{} {behind}", self.spelt(open)),
        }
    }

    /// A text as a grammar has it: literals, and the special tokens in it.
    fn spelt(&self, text: &str) -> String {
        let parts = self.parts(text).into_iter().map(|part| match part {
            Part::Text(text) => Value::String(text).to_string(),
            Part::Token(id) => format!("<[{id}]>"),
        });
        parts.collect::<Vec<_>>().join(" ")
    }

    fn parts(&self, text: &str) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let tokens = self.calls.tokens.iter().filter_map(|&id| {
                let piece = self.tokenizer.piece(id);
                Some((
                    rest.find(piece.as_str())?,
                    std::cmp::Reverse(piece.len()),
                    id,
                ))
            });
            match tokens.min() {
                Some((at, length, id)) => {
                    if at > 0 {
                        parts.push(Part::Text(rest[..at].to_owned()));
                    }
                    parts.push(Part::Token(id));
                    rest = &rest[at + length.0..];
                }
                None => {
                    parts.push(Part::Text(rest.to_owned()));
                    break;
                }
            }
        }
        parts
    }

    /// Text in which no call begins.
    fn plain(&self) -> String {
        match self.parts(&self.format().open).first() {
            // A call is an answer that begins with JSON.
            None => "plain: PLAIN?\nPLAIN: /\\s*[^\\s{\\[](.|\\n)*/\n".to_owned(),
            Some(Part::Token(_)) => "plain: PLAIN?\nPLAIN: /(.|\\n)+/\n".to_owned(),
            Some(Part::Text(open)) => {
                let open = Value::String(open.clone());
                format!("plain: PLAIN?\nPLAIN: /(.|\\n)+/ & ~(/(.|\\n)*/ {open} /(.|\\n)*/)\n")
            }
        }
    }

    /// An answer with calls: text first, perhaps.
    fn answer(&self) -> String {
        let parts = self.parts(&self.format().open);
        match parts.first() {
            None => "answer: SPACE? call more\n".to_owned(),
            Some(Part::Token(_)) => "answer: PLAIN? call more\n".to_owned(),
            Some(Part::Text(open)) => {
                let rest: String = parts[1..]
                    .iter()
                    .map(|part| match part {
                        Part::Text(text) => format!("{} ", Value::String(text.clone())),
                        Part::Token(id) => format!("<[{id}]> "),
                    })
                    .collect();
                let open = Value::String(open.clone());
                format!(
                    "answer: before {rest}SPACE? body more\nbefore[suffix={open}]: /(.|\\n)*/\n"
                )
            }
        }
    }

    /// What stands behind `open`, for every tool.
    fn bodies(&self, tools: &[Tool], several: bool) -> Result<Vec<String>, EngineError> {
        let format = self.format();
        let close = match format.close.as_str() {
            "" => String::new(),
            close => format!(" SPACE? {}", self.spelt(close)),
        };
        match &format.name {
            CallName::Before(after) => tools
                .iter()
                .map(|tool| {
                    let name = Value::String(tool.name.clone());
                    let after = match after.as_str() {
                        "" => String::new(),
                        after => format!(" {}", self.spelt(after)),
                    };
                    let arguments = Some(format.arguments.as_slice());
                    let json = Self::shaped(&format.example, None, arguments, tool, "#")?;
                    let json = schema::with_white_space(json);
                    Ok(format!("({name}{after} SPACE? %json {json}{close})\n"))
                })
                .collect(),
            CallName::Inside(name) => {
                if let Value::Array(calls) = &format.example {
                    let one = calls.first().unwrap_or(&Value::Null);
                    let many = tools.iter().enumerate().map(|(index, tool)| {
                        let root = format!("#/items/anyOf/{index}");
                        let arguments = Some(format.arguments.as_slice());
                        Self::shaped(one, Some(name), arguments, tool, &root)
                    });
                    let many = many.collect::<Result<Vec<_>, _>>()?;
                    let json = schema::with_white_space(json!({
                        "type": "array",
                        "items": { "anyOf": many },
                        "minItems": 1,
                        "maxItems": if several { MAX_CALLS } else { 1 },
                    }));
                    return Ok(vec![format!("(%json {json}{close})\n")]);
                }
                tools
                    .iter()
                    .map(|tool| {
                        let arguments = Some(format.arguments.as_slice());
                        let json = Self::shaped(&format.example, Some(name), arguments, tool, "#")?;
                        let json = schema::with_white_space(json);
                        Ok(format!("(%json {json}{close})\n"))
                    })
                    .collect()
            }
        }
    }

    /// The schema of a call like `example`, which stands at `root` in the whole schema.
    fn shaped(
        example: &Value,
        name: Option<&[String]>,
        arguments: Option<&[String]>,
        tool: &Tool,
        root: &str,
    ) -> Result<Value, EngineError> {
        if arguments.is_some_and(<[_]>::is_empty) {
            let mut parameters = tool.parameters.clone();
            move_references(&mut parameters, root);
            return Ok(parameters);
        }
        if name.is_some_and(<[_]>::is_empty) {
            return Ok(json!({ "const": tool.name }));
        }
        let Value::Object(fields) = example else {
            return Ok(fixed(example));
        };
        let mut properties = Map::new();
        for (key, value) in fields {
            let inner = |path: Option<&'_ [String]>| match path {
                Some([first, rest @ ..]) if first == key => Some(rest.to_vec()),
                _ => None,
            };
            let (name, arguments) = (inner(name), inner(arguments));
            if arguments.is_some() && key.contains(['/', '~']) {
                return Err(EngineError::GrammarFault {
                    message: format!("the template writes a call with the key {key:?}"),
                });
            }
            let schema = if name.is_none() && arguments.is_none() {
                fixed(value)
            } else {
                let root = format!("{root}/properties/{key}");
                Self::shaped(value, name.as_deref(), arguments.as_deref(), tool, &root)?
            };
            properties.insert(key.clone(), schema);
        }
        let required: Vec<_> = properties.keys().cloned().collect();
        Ok(json!({
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": false,
        }))
    }
}

/// A value that is in every call; an id is each call's own.
fn fixed(value: &Value) -> Value {
    if value.as_str() == Some(ToolCallFormat::EXAMPLE_ID) {
        return json!({ "type": "string", "pattern": "^[a-zA-Z0-9]{9}$" });
    }
    json!({ "const": value })
}

/// References into a schema that has been put into another, at `root`.
fn move_references(schema: &mut Value, root: &str) {
    match schema {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Value::String(text) if key == "$ref" => {
                        if let Some(path) = text.strip_prefix('#') {
                            let path = if path == "/" { "" } else { path };
                            *text = format!("{root}{path}");
                        }
                    }
                    value => move_references(value, root),
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                move_references(item, root);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
