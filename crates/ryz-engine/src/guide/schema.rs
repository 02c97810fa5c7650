//! Bounds of a JSON schema, before it is compiled, and the place of what the compiler refused.
//!
//! The compiler recurses through subschemas and, the first time that it meets each, through references. So what is bounded is
//! the sum of the heights of all that is referred to: no order of visits goes deeper.

use llguidance::derivre::RegexBuilder;
use llguidance::regex_to_lark;
use serde_json::{Map, Value};

use crate::error::EngineError;

/// Most bytes of a schema, a grammar or a list of tools.
pub(super) const MAX_BYTES: usize = 256 << 10;
/// Most levels of JSON from a schema's root through all that it refers to.
const MAX_LEVELS: usize = 4096;
/// Most values in a schema: objects, lists, strings, numbers.
const MAX_VALUES: usize = 50_000;
/// Most bytes of one pattern.
pub(super) const MAX_PATTERN_BYTES: usize = 16 << 10;
/// White space between JSON's tokens: none, a space, or a line break and an indentation. JSON's own rule has no bound.
const WHITE_SPACE: &str = r"[ ]|\r?\n[ \t]{0,32}";

/// Keywords of the specification that cannot be enforced while text is generated.
const NOT_ENFORCED: [&str; 18] = [
    "not",
    "if",
    "then",
    "else",
    "contains",
    "minContains",
    "maxContains",
    "uniqueItems",
    "propertyNames",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "unevaluatedItems",
    "unevaluatedProperties",
    "contentSchema",
    "$dynamicRef",
    "$dynamicAnchor",
    "$recursiveRef",
];

/// Formats of strings that are enforced.
const FORMATS: [&str; 11] = [
    "date-time",
    "time",
    "date",
    "duration",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "uuid",
    "uri",
    "unknown",
];

/// Reads a schema's text. JSON is read up to 128 levels deep.
pub(super) fn parse(option: &str, text: &str) -> Result<Value, EngineError> {
    limit(option, "bytes", text.len(), MAX_BYTES)?;
    serde_json::from_str(text).map_err(|error| {
        let message = error.to_string();
        if message.starts_with("recursion limit") {
            return EngineError::GrammarLimit {
                option: option.to_owned(),
                message: "is nested more than 127 levels deep".to_owned(),
            };
        }
        EngineError::InvalidGrammar {
            option: option.to_owned(),
            message: format!("is not JSON: {message}"),
        }
    })
}

/// Refuses what is too large or too deep to be compiled.
pub(super) fn check(option: &str, root: &Value) -> Result<(), EngineError> {
    let mut levels = height(root);
    let mut values = 0;
    let mut seen = std::collections::HashSet::new();
    let mut rest = vec![root];
    while let Some(value) = rest.pop() {
        values += 1;
        match value {
            Value::Array(items) => rest.extend(items),
            Value::Object(fields) => rest.extend(fields.values()),
            _ => {}
        }
        let reference = value.get("$ref").and_then(Value::as_str);
        if let Some(reference) = reference
            && seen.insert(reference)
            && let Some(target) = lookup(root, reference)
        {
            levels += height(target);
        }
        if let Some(pattern) = value.get("pattern").and_then(Value::as_str) {
            limit(
                option,
                "bytes of a pattern",
                pattern.len(),
                MAX_PATTERN_BYTES,
            )?;
        }
    }
    limit(option, "values", values, MAX_VALUES)?;
    limit(option, "levels with references", levels, MAX_LEVELS)
}

/// Refuses a number that is too large.
pub(super) fn limit(option: &str, what: &str, got: usize, limit: usize) -> Result<(), EngineError> {
    if got <= limit {
        return Ok(());
    }
    Err(EngineError::GrammarLimit {
        option: option.to_owned(),
        message: format!("expected at most {limit} {what}, got {got}"),
    })
}

/// The schema with our white space, unless it says itself what is between JSON's tokens (`x-guidance`).
pub(super) fn with_white_space(schema: Value) -> Value {
    let mut fields = match schema {
        Value::Object(fields) => fields,
        Value::Bool(true) => Map::new(),
        other => return other,
    };
    let options = fields
        .entry("x-guidance")
        .or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(options) = options
        && !options.contains_key("whitespace_pattern")
        && !options.contains_key("whitespace_flexible")
    {
        options.insert("whitespace_pattern".to_owned(), WHITE_SPACE.into());
    }
    Value::Object(fields)
}

/// Where a schema that was refused is at fault, as a JSON pointer; empty where that is not known.
pub(super) fn place_of_fault(root: &Value) -> String {
    find(root, root, "").unwrap_or_default()
}

/// JSON that was read is at most 128 levels deep.
fn height(value: &Value) -> usize {
    let inner: usize = match value {
        Value::Array(items) => items.iter().map(height).max().unwrap_or(0),
        Value::Object(fields) => fields.values().map(height).max().unwrap_or(0),
        _ => 0,
    };
    inner + 1
}

/// What a reference names. Only references into the schema itself are followed.
fn lookup<'a>(root: &'a Value, reference: &str) -> Option<&'a Value> {
    let path = reference.strip_prefix('#')?;
    let path = path.strip_prefix('/').unwrap_or(path);
    if path.is_empty() {
        return Some(root);
    }
    path.split('/').try_fold(root, |value, segment| {
        let segment = segment.replace("~1", "/").replace("~0", "~");
        match value {
            Value::Array(items) => items.get(segment.parse::<usize>().ok()?),
            other => other.get(&segment),
        }
    })
}

fn find(root: &Value, schema: &Value, path: &str) -> Option<String> {
    let Value::Object(fields) = schema else {
        return (!schema.is_boolean()).then(|| path.to_owned());
    };
    if let Some((key, _)) = fields
        .iter()
        .find(|(key, value)| is_fault(root, key, value))
    {
        return Some(format!("{path}/{key}"));
    }
    for keyword in ["properties", "patternProperties"] {
        for (key, value) in fields
            .get(keyword)
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            let found = find(root, value, &format!("{path}/{keyword}/{}", escape(key)));
            if found.is_some() {
                return found;
            }
        }
    }
    for keyword in ["prefixItems", "items", "allOf", "anyOf", "oneOf"] {
        for (index, value) in fields
            .get(keyword)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .enumerate()
        {
            let found = find(root, value, &format!("{path}/{keyword}/{index}"));
            if found.is_some() {
                return found;
            }
        }
    }
    for keyword in ["items", "additionalItems", "additionalProperties"] {
        if let Some(value) = fields.get(keyword).filter(|value| !value.is_array()) {
            let found = find(root, value, &format!("{path}/{keyword}"));
            if found.is_some() {
                return found;
            }
        }
    }
    // Last: what nothing refers to is not compiled.
    for keyword in ["$defs", "definitions"] {
        for (key, value) in fields
            .get(keyword)
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            let found = find(root, value, &format!("{path}/{keyword}/{}", escape(key)));
            if found.is_some() {
                return found;
            }
        }
    }
    None
}

/// Whether this keyword alone is reason enough to refuse a schema.
fn is_fault(root: &Value, key: &str, value: &Value) -> bool {
    const TYPES: [&str; 7] = [
        "null", "boolean", "integer", "number", "string", "array", "object",
    ];
    let is_type = |name: &Value| name.as_str().is_some_and(|name| TYPES.contains(&name));
    let is_pattern = |pattern: &str| {
        let pattern = regex_to_lark(pattern, "dw");
        RegexBuilder::new().mk_regex(&pattern).is_ok()
    };
    match key {
        "$ref" => value
            .as_str()
            .is_none_or(|reference| lookup(root, reference).is_none()),
        "type" => match value {
            Value::Array(names) => !names.iter().all(is_type),
            name => !is_type(name),
        },
        "properties" | "patternProperties" => {
            let bad = |fields: &Map<String, Value>| {
                key == "patternProperties" && !fields.keys().all(|pattern| is_pattern(pattern))
            };
            value.as_object().is_none_or(bad)
        }
        "required" => value
            .as_array()
            .is_none_or(|names| !names.iter().all(Value::is_string)),
        "allOf" | "anyOf" | "oneOf" | "enum" | "prefixItems" => !value.is_array(),
        "minLength" | "maxLength" | "minItems" | "maxItems" | "minProperties" | "maxProperties" => {
            !value.is_u64()
        }
        "minimum" | "maximum" | "multipleOf" => !value.is_number(),
        "format" => !value.as_str().is_some_and(|name| FORMATS.contains(&name)),
        "pattern" => !value.as_str().is_some_and(is_pattern),
        _ => NOT_ENFORCED.contains(&key),
    }
}

fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_chain_of_references_is_as_deep_as_all_of_it() {
        let chain = |n: usize| {
            let mut defs = Map::new();
            for i in 0..n {
                let next = json!({ "items": { "$ref": format!("#/$defs/d{}", i + 1) } });
                defs.insert(format!("d{i}"), next);
            }
            defs.insert(format!("d{n}"), json!({}));
            json!({ "$ref": "#/$defs/d0", "$defs": defs })
        };
        assert!(check("s", &chain(1000)).is_ok());
        let error = check("s", &chain(2000)).unwrap_err();
        assert_eq!(error.code(), "GRAMMAR_LIMIT");
        assert!(error.to_string().contains("levels"), "{error}");
        // A reference to the root, or back, is counted once.
        assert!(
            check(
                "s",
                &json!({ "items": { "$ref": "#" }, "anyOf": [{ "$ref": "#" }] })
            )
            .is_ok()
        );
    }

    #[test]
    fn deep_and_large_texts_are_limits_and_broken_ones_are_not() {
        let deep = format!("{}true{}", "[".repeat(200), "]".repeat(200));
        assert_eq!(parse("s", &deep).unwrap_err().code(), "GRAMMAR_LIMIT");
        let large = "a".repeat(MAX_BYTES + 1);
        assert_eq!(parse("s", &large).unwrap_err().code(), "GRAMMAR_LIMIT");
        let error = parse("s", "{").unwrap_err();
        assert_eq!(error.code(), "INVALID_ARGUMENT");
        assert!(error.to_string().contains("line 1"), "{error}");
    }

    #[test]
    fn faults_have_a_place() {
        let at = |schema: Value| place_of_fault(&schema);
        assert_eq!(
            at(json!({ "properties": { "a/b": { "items": { "not": {} } } } })),
            "/properties/a~1b/items/not"
        );
        // A property may be called like a keyword.
        assert_eq!(
            at(json!({ "properties": { "not": { "type": "string" } } })),
            ""
        );
        assert_eq!(
            at(json!({ "anyOf": [true, { "type": "text" }] })),
            "/anyOf/1/type"
        );
        assert_eq!(at(json!({ "pattern": "(" })), "/pattern");
        assert_eq!(at(json!({ "format": "iban" })), "/format");
        assert_eq!(at(json!({ "$ref": "#/$defs/none" })), "/$ref");
        assert_eq!(at(json!({ "properties": { "a": 3 } })), "/properties/a");
    }
}
