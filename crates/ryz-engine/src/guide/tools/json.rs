//! Calls that are JSON, or end with it: the schema of a call like the one that the template writes.

use ryz_tokenizer::{CallForm, JsonName};
use serde_json::{Map, Value, json};

use super::closed::move_references;
use super::{SchemaSettings, Tool, WhiteSpace, schema};
use crate::error::EngineError;

/// Most calls of one answer, where the form is a list.
const MAX_CALLS: usize = 16;

/// Where a call has what.
pub(super) struct Shape<'a> {
    pub name: &'a JsonName,
    pub arguments: &'a [String],
    pub counters: &'a [String],
}

impl Shape<'_> {
    /// The rule of a call, or of a list of calls.
    pub fn body(
        &self,
        example: &Value,
        tools: &[Tool],
        several: bool,
    ) -> Result<String, EngineError> {
        if let Value::Array(calls) = example {
            let one = calls.first().unwrap_or(&Value::Null);
            let many = tools
                .iter()
                .enumerate()
                .map(|(index, tool)| self.call(one, tool, &format!("#/items/anyOf/{index}")));
            let many = many.collect::<Result<Vec<_>, _>>()?;
            let json = json!({
                "type": "array",
                "items": { "anyOf": many },
                "minItems": 1,
                "maxItems": if several { MAX_CALLS } else { 1 },
            });
            let settings = SchemaSettings {
                strict: tools.iter().all(|tool| tool.settings.strict),
                white_space: WhiteSpace::Spaced,
            };
            let json = schema::nested("tools", &json, settings)?;
            return Ok(format!("body: {json}\n"));
        }
        let bodies = tools.iter().map(|tool| {
            let json = schema::nested("tools", &self.call(example, tool, "#")?, tool.settings)?;
            Ok(format!("({json})\n"))
        });
        let bodies: Result<Vec<_>, EngineError> = bodies.collect();
        Ok(format!("body: {}\n", bodies?.join(" | ")))
    }

    fn call(&self, example: &Value, tool: &Tool, root: &str) -> Result<Value, EngineError> {
        match self.name {
            JsonName::Key => {
                let mut parameters = tool.parameters.clone();
                check_key(&tool.name)?;
                move_references(&mut parameters, &format!("{root}/properties/{}", tool.name));
                Ok(object([(tool.name.clone(), parameters)]))
            }
            JsonName::At(name) => {
                let at = JsonCursor {
                    name: Some(name),
                    arguments: Some(self.arguments),
                };
                shaped(example, &at, self.counters, tool, root)
            }
        }
    }
}

/// The schema of arguments that stand behind the name.
pub(super) fn arguments(
    example: &Value,
    path: &[String],
    tool: &Tool,
    root: &str,
) -> Result<Value, EngineError> {
    let at = JsonCursor {
        name: None,
        arguments: Some(path),
    };
    shaped(example, &at, &[], tool, root)
}

/// The keys that still lead to the name and to the arguments.
struct JsonCursor<'a> {
    name: Option<&'a [String]>,
    arguments: Option<&'a [String]>,
}

/// The schema of a call like `example`, which stands at `root` in the whole schema.
fn shaped(
    example: &Value,
    at: &JsonCursor<'_>,
    counters: &[String],
    tool: &Tool,
    root: &str,
) -> Result<Value, EngineError> {
    if at.arguments.is_some_and(<[_]>::is_empty) {
        let mut parameters = tool.parameters.clone();
        move_references(&mut parameters, root);
        return Ok(parameters);
    }
    if at.name.is_some_and(<[_]>::is_empty) {
        return Ok(json!({ "const": tool.name }));
    }
    let Value::Object(fields) = example else {
        return Ok(fixed(example));
    };
    let properties = fields.iter().map(|(key, value)| {
        let inner = |path: Option<&'_ [String]>| match path {
            Some([first, rest @ ..]) if first == key => Some(rest.to_vec()),
            _ => None,
        };
        let (name, arguments) = (inner(at.name), inner(at.arguments));
        let schema = if counters.contains(key) {
            counter(value)
        } else if name.is_none() && arguments.is_none() {
            fixed(value)
        } else {
            check_key(key)?;
            let root = format!("{root}/properties/{key}");
            let at = JsonCursor {
                name: name.as_deref(),
                arguments: arguments.as_deref(),
            };
            shaped(value, &at, &[], tool, &root)?
        };
        Ok((key.clone(), schema))
    });
    Ok(object(properties.collect::<Result<Vec<_>, EngineError>>()?))
}

/// An object of exactly these properties.
fn object(properties: impl IntoIterator<Item = (String, Value)>) -> Value {
    let properties: Map<String, Value> = properties.into_iter().collect();
    let required: Vec<_> = properties.keys().cloned().collect();
    json!({
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

/// References are moved by their paths, in which these signs would have to be escaped.
fn check_key(key: &str) -> Result<(), EngineError> {
    if key.contains(['/', '~', '%']) {
        return Err(EngineError::GrammarFault {
            message: format!("the template writes a call with the key {key:?}"),
        });
    }
    Ok(())
}

/// A value that is in every call; an id is each call's own.
fn fixed(value: &Value) -> Value {
    if value.as_str() == Some(CallForm::EXAMPLE_ID) {
        return json!({ "type": "string", "pattern": "^[a-zA-Z0-9]{9}$" });
    }
    json!({ "const": value })
}

/// A value that counts the calls.
fn counter(value: &Value) -> Value {
    if value.is_string() {
        json!({ "type": "string", "pattern": "^[a-zA-Z_]{0,24}[0-9]{1,3}$" })
    } else {
        json!({ "type": "integer", "minimum": 0, "maximum": 999 })
    }
}
