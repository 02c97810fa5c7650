//! Calls whose arguments are written one by one: between marks, or as in a programming language.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use ryz_tokenizer::Parameter;
use serde_json::{Map, Value};

use super::spelling::{Part, Spelling, literal as quoted};
use super::{SchemaSettings, Tool, schema};
use crate::error::EngineError;
use crate::guide::schema::pointer;

/// Most alternatives of a schema, and references, that are looked at for a value's type.
const MAX_DEPTH: usize = 8;

/// One parameter of a tool.
struct Argument<'a> {
    /// Its place in the request.
    option: String,
    key: &'a str,
    schema: Value,
    required: bool,
    types: BTreeSet<String>,
    settings: SchemaSettings,
}

/// The signs of arguments as a programming language writes them.
pub(super) struct Signs<'a> {
    pub open: &'a str,
    pub assign: &'a str,
    pub close: &'a str,
    pub quote: &'a str,
}

/// The rules of calls whose arguments stand between marks.
pub(super) fn tagged(
    spelling: &Spelling<'_>,
    tools: &[Tool],
    parameter: &Parameter,
    name: &dyn Fn(&Tool) -> String,
) -> Result<String, EngineError> {
    let mut values = Values::new(spelling);
    let mut bodies = Vec::new();
    for tool in tools {
        let mut body = name(tool);
        for argument in arguments(tool)? {
            let is_text = argument.types.contains("string") || argument.types.is_empty();
            let (after, value) = if is_text {
                let value = values.text(&argument, &parameter.close)?;
                (&parameter.after_key, value)
            } else {
                let value = Values::json(&argument.schema, argument.settings)?;
                let close = spelling.spelt(&parameter.close);
                (&parameter.after_key_other, format!("{value} {close}"))
            };
            let one = format!(
                "SPACE? {} {} {} {value}",
                spelling.spelt(&parameter.open),
                quoted(argument.key),
                spelling.spelt(after),
            );
            let again = if argument.required { "" } else { "?" };
            let _ = write!(body, " ({one}){again}");
        }
        bodies.push(format!("({body})\n"));
    }
    Ok(format!("body: {}\n{}", bodies.join(" | "), values.rules))
}

/// The rules of calls whose arguments are written as in a programming language.
pub(super) fn literal(
    spelling: &Spelling<'_>,
    tools: &[Tool],
    signs: &Signs<'_>,
) -> Result<String, EngineError> {
    let mut values = Values::new(spelling);
    let mut bodies = Vec::new();
    for tool in tools {
        let index = tool.index;
        let all = arguments(tool)?;
        // A comma stands before every argument but the first that is written.
        for (at, argument) in all.iter().enumerate() {
            let value = values.literal(argument, signs.quote)?;
            let one = format!("{} {} {value}", quoted(argument.key), quoted(signs.assign));
            let next = at + 1;
            let (first, more) = if argument.required {
                (String::new(), String::new())
            } else {
                (format!(" | f{index}_{next}"), format!(" | m{index}_{next}"))
            };
            let _ = writeln!(
                values.rules,
                "f{index}_{at}: {one} m{index}_{next}{first}\nm{index}_{at}: \",\" SPACE? {one} m{index}_{next}{more}"
            );
        }
        let last = all.len();
        let _ = writeln!(values.rules, "f{index}_{last}: \"\"\nm{index}_{last}: \"\"");
        bodies.push(format!(
            "({} {} f{index}_0 {})\n",
            quoted(&tool.name),
            quoted(signs.open),
            quoted(signs.close)
        ));
    }
    Ok(format!("body: {}\n{}", bodies.join(" | "), values.rules))
}

/// A tool's parameters, in their order.
fn arguments(tool: &Tool) -> Result<Vec<Argument<'_>>, EngineError> {
    let root = &tool.parameters;
    let object = resolved(root, root);
    let named = object.get("properties").and_then(Value::as_object);
    let composed = ["allOf", "anyOf", "oneOf"];
    if named.is_none() && composed.iter().any(|key| object.get(*key).is_some()) {
        return Err(EngineError::InvalidGrammar {
            option: format!("tools[{}].function.parameters", tool.index),
            message: "expected an object with properties: this model writes them one by one"
                .to_owned(),
        });
    }
    let required: Vec<&str> = object
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let arguments = named.into_iter().flatten().map(|(key, schema)| {
        let mut types = BTreeSet::new();
        gather(schema, root, &mut types, 0);
        let place = pointer::escape(key);
        Argument {
            option: format!(
                "tools[{}].function.parameters/properties/{place}",
                tool.index
            ),
            key,
            schema: with_definitions(schema, root),
            required: required.contains(&key.as_str()),
            types,
            settings: tool.settings,
        }
    });
    Ok(arguments.collect())
}

/// A schema with the definitions that it may refer to.
fn with_definitions(schema: &Value, root: &Value) -> Value {
    let mut schema = match schema {
        Value::Object(fields) => fields.clone(),
        Value::Bool(false) => return false.into(),
        _ => Map::new(),
    };
    for key in ["$defs", "definitions"] {
        if let Some(definitions) = root.get(key) {
            schema.entry(key).or_insert_with(|| definitions.clone());
        }
    }
    Value::Object(schema)
}

fn resolved<'a>(schema: &'a Value, root: &'a Value) -> &'a Value {
    let reference = schema.get("$ref").and_then(Value::as_str);
    let target = reference.and_then(|reference| root.pointer(reference.strip_prefix('#')?));
    target.unwrap_or(schema)
}

/// The types that a value may have; none where its schema says nothing.
fn gather(schema: &Value, root: &Value, types: &mut BTreeSet<String>, depth: usize) {
    if depth > MAX_DEPTH {
        return;
    }
    let schema = resolved(schema, root);
    match schema.get("type") {
        Some(Value::String(name)) => {
            types.insert(name.clone());
        }
        Some(Value::Array(names)) => {
            types.extend(names.iter().filter_map(Value::as_str).map(str::to_owned));
        }
        _ => {
            let values = schema.get("enum").and_then(Value::as_array);
            let values = values.into_iter().flatten().chain(schema.get("const"));
            types.extend(values.map(|value| type_of(value).to_owned()));
        }
    }
    for key in ["anyOf", "oneOf", "allOf"] {
        for inner in schema
            .get(key)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            gather(inner, root, types, depth + 1);
        }
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Values, and the rules that they need.
struct Values<'a> {
    spelling: &'a Spelling<'a>,
    rules: String,
    count: usize,
}

impl<'a> Values<'a> {
    fn new(spelling: &'a Spelling<'a>) -> Self {
        Self {
            spelling,
            rules: String::new(),
            count: 0,
        }
    }

    fn json(schema: &Value, settings: SchemaSettings) -> Result<String, EngineError> {
        schema::nested("tools", schema, settings)
    }

    /// A text argument, up to the mark that closes it.
    fn text(&mut self, argument: &Argument<'_>, close: &str) -> Result<String, EngineError> {
        if let Some(words) = words(&argument.schema) {
            let words = words.iter().map(|word| quoted(word));
            let words: Vec<_> = words.collect();
            return Ok(format!(
                "({}) {}",
                words.join(" | "),
                self.spelling.spelt(close)
            ));
        }
        let bound = schema::text(&argument.option, &argument.schema, argument.settings)?;
        Ok(match bound {
            None => self.any_text(close),
            Some(terms) => self.bound_text(&terms, close),
        })
    }

    /// Any text up to a mark.
    fn any_text(&mut self, close: &str) -> String {
        self.count += 1;
        let parts = self.spelling.parts(close);
        match parts.split_first() {
            Some((Part::Text(first), rest)) => {
                let name = format!("text{}", self.count);
                let _ = writeln!(self.rules, "{name}[suffix={}]: /(.|\\n)*/", quoted(first));
                format!("{name} {}", self.spelling.spell(rest))
            }
            _ => {
                let name = format!("TEXT{}", self.count);
                let _ = writeln!(self.rules, "{name}: /(.|\\n)+/");
                format!("{name}? {}", self.spelling.spell(&parts))
            }
        }
    }

    /// A text of some kind up to a mark, which it does not hold.
    fn bound_text(&mut self, terms: &schema::TerminalBody, close: &str) -> String {
        self.count += 1;
        let (upper, lower) = (format!("TEXT{}", self.count), format!("text{}", self.count));
        let parts = self.spelling.parts(close);
        match parts.split_first() {
            Some((Part::Text(first), rest)) => {
                let mark = regex_syntax::escape(first).replace('/', "\\/");
                let _ = writeln!(
                    self.rules,
                    "{upper}: ({}) & ~/(.|\\n)*{}(.|\\n)*/\n{lower}[suffix={}]: {upper}",
                    terms.text,
                    mark.replace('\n', "\\n"),
                    quoted(first)
                );
                format!("{lower} {}", self.spelling.spell(rest))
            }
            _ => {
                let _ = writeln!(self.rules, "{upper}: ({}) & /(.|\\n)+/", terms.text);
                let again = if terms.may_be_empty { "?" } else { "" };
                format!("{upper}{again} {}", self.spelling.spell(&parts))
            }
        }
    }

    /// A value of a programming language. Inside of lists and objects it is JSON.
    fn literal(&mut self, argument: &Argument<'_>, quote: &str) -> Result<String, EngineError> {
        if quote.chars().nth(1).is_some() {
            return self.plainly_quoted(argument, quote);
        }
        let mut kinds = Vec::new();
        let types = &argument.types;
        if types.contains("boolean") {
            kinds.push("\"True\" | \"False\"".to_owned());
        }
        if types.contains("null") {
            kinds.push("\"None\"".to_owned());
        }
        let words = |name: &&String| *name != "boolean" && *name != "null";
        if types.is_empty() || types.iter().any(|name| words(&name)) {
            kinds.push(Self::json(&argument.schema, argument.settings)?);
        }
        Ok(format!("({})", kinds.join(" | ")))
    }

    /// A value whose strings stand between marks and know no escapes.
    fn plainly_quoted(
        &mut self,
        argument: &Argument<'_>,
        quote: &str,
    ) -> Result<String, EngineError> {
        let types = &argument.types;
        let only = |name: &str| types.len() == 1 && types.contains(name);
        if only("string") {
            let text = self.text(argument, quote)?;
            return Ok(format!("{} {text}", self.spelling.spelt(quote)));
        }
        if only("number") || only("integer") || only("boolean") {
            return Self::json(&argument.schema, argument.settings);
        }
        if !self.rules.contains("\nany_value: ") {
            let text = self.any_text(quote);
            let quote = self.spelling.spelt(quote);
            let _ = write!(
                self.rules,
                "\nany_value: {quote} {text} | /-?[0-9]+(\\.[0-9]+)?/ | \"true\" | \"false\" | \"null\" \
                 | \"[\" (any_value (\",\" any_value)*)? \"]\" \
                 | \"{{\" (any_pair (\",\" any_pair)*)? \"}}\"\n\
                 any_pair: /[A-Za-z_][A-Za-z0-9_]*/ \":\" any_value\n"
            );
        }
        Ok("any_value".to_owned())
    }
}

/// The only texts that a schema allows, if it names them.
fn words(schema: &Value) -> Option<Vec<String>> {
    let values = match (schema.get("enum"), schema.get("const")) {
        (Some(Value::Array(values)), _) => values.clone(),
        (_, Some(value)) => vec![value.clone()],
        _ => return None,
    };
    let texts = values.iter().map(|value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    });
    Some(texts.collect())
}
