//! Parameters of tools in a constrained call: closed unless they say otherwise, and moved into other schemas.

use serde_json::{Map, Value};

/// Keywords with which a schema says itself which other properties there are.
const OPEN: [&str; 8] = [
    "additionalProperties",
    "patternProperties",
    "unevaluatedProperties",
    "allOf",
    "anyOf",
    "oneOf",
    "$ref",
    "x-guidance",
];

/// Parameters that have no properties but those which they name.
pub(super) fn closed(mut parameters: Value) -> Value {
    let mut composed = false;
    visit(&parameters, &mut |fields| {
        composed |= fields.contains_key("allOf");
    });
    // Parts of an `allOf` must not be closed against each other.
    if !composed {
        close(&mut parameters);
    }
    if let Value::Object(fields) = &mut parameters
        && !OPEN.iter().any(|key| fields.contains_key(*key))
    {
        fields.insert("additionalProperties".to_owned(), false.into());
    }
    parameters
}

fn visit(schema: &Value, seen: &mut impl FnMut(&Map<String, Value>)) {
    match schema {
        Value::Object(fields) => {
            seen(fields);
            fields.values().for_each(|value| visit(value, seen));
        }
        Value::Array(items) => items.iter().for_each(|item| visit(item, seen)),
        _ => {}
    }
}

/// Closes every object that names properties; what `const`, `enum` and `default` hold is data.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            let names = fields.get("properties").is_some_and(Value::is_object);
            if names && !OPEN.iter().any(|key| fields.contains_key(*key)) {
                fields.insert("additionalProperties".to_owned(), false.into());
            }
            for (key, value) in fields.iter_mut() {
                match key.as_str() {
                    "const" | "enum" | "default" | "examples" => {}
                    "properties" | "patternProperties" | "$defs" | "definitions" => {
                        for (_, inner) in value.as_object_mut().into_iter().flatten() {
                            close(inner);
                        }
                    }
                    _ => close(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

/// References into a schema that has been put into another, at `root`.
pub(super) fn move_references(schema: &mut Value, root: &str) {
    match schema {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Value::String(text) if key == "$ref" => {
                        // A name (`#city`) is the same wherever its schema stands.
                        if let Some(path) = text.strip_prefix('#')
                            && (path.is_empty() || path.starts_with('/'))
                        {
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
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn objects_that_name_properties_are_closed_unless_they_say_otherwise() {
        let inner =
            json!({ "type": "object", "properties": { "properties": { "type": "string" } } });
        let open = json!({ "properties": { "a": {} }, "additionalProperties": true });
        let schema =
            json!({ "properties": { "inner": inner, "open": open, "any": { "type": "object" } } });
        let closed = closed(schema);
        assert_eq!(closed["additionalProperties"], false);
        let properties = &closed["properties"];
        assert_eq!(properties["inner"]["additionalProperties"], false);
        assert_eq!(properties["open"]["additionalProperties"], true);
        assert_eq!(properties["any"], json!({ "type": "object" }));
        let named = &properties["inner"]["properties"]["properties"];
        assert_eq!(*named, json!({ "type": "string" }));
    }

    #[test]
    fn parts_of_a_whole_are_not_closed_against_each_other() {
        let part = |key: &str| json!({ "properties": { key: {} } });
        let schema = json!({ "allOf": [part("a"), part("b")] });
        assert_eq!(closed(schema.clone()), schema);
    }

    #[test]
    fn a_tool_that_names_no_parameters_takes_none() {
        let schema = closed(json!({ "type": "object" }));
        assert_eq!(schema["additionalProperties"], false);
    }
}
