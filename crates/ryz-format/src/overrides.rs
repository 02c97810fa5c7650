//! User-specified values that replace a file's own, applied before the metadata are used.

use serde_json::{Map, Value as Json};

use crate::{Array, FormatError, Metadata, Value};

/// Values by key; [`Overrides::apply`] writes them to a file's metadata.
///
/// ```
/// use ryz_format::{Metadata, Overrides};
///
/// let mut metadata = Metadata::new();
/// metadata.set("llama.rope.freq_base", 1e4f32);
/// let overrides = Overrides::parse(r#"{"llama.rope.freq_base": 500000, "tokenizer.ggml.pre": "llama3"}"#)?;
/// overrides.apply(&mut metadata)?;
/// assert_eq!(metadata.get_f32("llama.rope.freq_base")?, 5e5);
/// assert_eq!(metadata.get_str("tokenizer.ggml.pre")?, "llama3");
/// # Ok::<(), ryz_format::FormatError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overrides {
    values: Map<String, Json>,
    chat_template: Option<String>,
}

/// Keys that describe the file's structure rather than its meaning.
const FIXED: [&str; 4] = [
    "general.architecture",
    "general.alignment",
    "split.",
    "prism.",
];

/// Numbers that are floats unless the file says otherwise.
const FLOATS: [&str; 8] = [
    "attention.layer_norm_rms_epsilon",
    "attention.scale",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.attn_factor",
    "rope.scaling.factor",
    "rope.scaling.yarn_",
    "_scale",
];

impl Overrides {
    /// Parses the members of a JSON object: strings, numbers, booleans, arrays of one of these, or
    /// null to remove a key.
    ///
    /// # Errors
    /// [`FormatError::Json`], [`FormatError::KeyType`] and [`FormatError::KeyValue`].
    pub fn parse(json: &str) -> Result<Overrides, FormatError> {
        let values: Map<String, Json> =
            serde_json::from_str(json).map_err(|source| FormatError::Json {
                what: "overrides",
                source,
            })?;
        let overrides = Overrides {
            values,
            chat_template: None,
        };
        // Reject values that no file can represent immediately.
        for (key, value) in &overrides.values {
            if !value.is_null() {
                value_of(key, value, None)?;
            }
        }
        Ok(overrides)
    }

    /// Replaces all of the file's chat templates, whatever their purpose.
    pub fn set_chat_template(&mut self, template: String) {
        self.chat_template = Some(template);
    }

    /// The template set by [`Overrides::set_chat_template`].
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty() && self.chat_template.is_none()
    }

    /// The keys and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Json)> {
        self.values.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Replaces the file's values, in the file's types.
    ///
    /// # Errors
    /// [`FormatError::KeyType`] for a value whose type differs from the file's;
    /// [`FormatError::KeyValue`] for one that does not fit it; [`FormatError::UnsupportedValue`]
    /// for a key that cannot be changed.
    pub fn apply(&self, metadata: &mut Metadata) -> Result<(), FormatError> {
        for (key, value) in &self.values {
            if let Some(fixed) = FIXED.iter().find(|fixed| key.starts_with(**fixed)) {
                return Err(FormatError::UnsupportedValue {
                    key: format!("{key} as an override"),
                    got: format!("a change of {fixed}"),
                });
            }
            match value {
                Json::Null => metadata.remove(key),
                value => {
                    let value = value_of(key, value, metadata.get(key))?;
                    metadata.set(key, value);
                }
            }
        }
        if let Some(template) = &self.chat_template {
            let others = |key: &&str| key.starts_with("tokenizer.chat_template");
            let others: Vec<String> = (metadata.iter().map(|(key, _)| key))
                .filter(others)
                .map(str::to_owned)
                .collect();
            others.iter().for_each(|key| metadata.remove(key));
            metadata.set("tokenizer.chat_template", template.as_str());
        }
        Ok(())
    }
}

/// A JSON value in the type of the file's value, or in a matching type if there is none.
fn value_of(key: &str, json: &Json, there: Option<&Value>) -> Result<Value, FormatError> {
    let wrong = |expected: &'static str| FormatError::KeyType {
        key: key.to_owned(),
        expected,
        got: match json {
            Json::Null => "null",
            Json::Bool(_) => "bool",
            Json::Number(_) => "number",
            Json::String(_) => "string",
            Json::Array(_) => "array",
            Json::Object(_) => "object",
        },
    };
    let float = || json.as_f64().map(|v| Value::F32(v as f32));
    let integer = || json.as_i64().map(Value::I64);
    Ok(match there {
        Some(Value::String(_)) => Value::String(json.as_str().ok_or(wrong("string"))?.to_owned()),
        Some(Value::Bool(_)) => Value::Bool(json.as_bool().ok_or(wrong("bool"))?),
        Some(Value::F32(_) | Value::F64(_)) => float().ok_or(wrong("number"))?,
        Some(Value::Array(_)) => Value::Array(array_of(key, json)?),
        Some(_) => integer().ok_or(wrong("whole number"))?,
        None => match json {
            Json::Bool(v) => Value::Bool(*v),
            Json::String(v) => Value::String(v.clone()),
            Json::Array(_) => Value::Array(array_of(key, json)?),
            Json::Number(_) if FLOATS.iter().any(|name| key.contains(name)) => {
                float().ok_or(wrong("number"))?
            }
            Json::Number(_) => match integer() {
                Some(value) => value,
                None => float().ok_or(wrong("number"))?,
            },
            _ => return Err(wrong("string, number, bool, array or null")),
        },
    })
}

/// An array of one type; an empty one has strings.
fn array_of(key: &str, json: &Json) -> Result<Array, FormatError> {
    let wrong = || FormatError::KeyType {
        key: key.to_owned(),
        expected: "array of strings, of numbers or of bools",
        got: "something else",
    };
    let items = json.as_array().ok_or_else(wrong)?;
    fn all<'a, T>(items: &'a [Json], of: impl Fn(&'a Json) -> Option<T>) -> Option<Vec<T>> {
        items.iter().map(of).collect()
    }
    if let Some(strings) = all(items, Json::as_str) {
        return Ok(Array::Strings(strings.into_iter().collect()));
    }
    let bools = all(items, Json::as_bool).map(Array::Bool);
    let integers = || all(items, Json::as_i64).map(Array::I64);
    let floats = || all(items, Json::as_f64).map(Array::F64);
    bools.or_else(integers).or_else(floats).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata() -> Metadata {
        let mut metadata = Metadata::new();
        metadata.set("llama.rope.freq_base", 1e4f32);
        metadata.set("llama.context_length", 128u32);
        metadata.set("tokenizer.ggml.pre", "default");
        metadata.set("tokenizer.ggml.add_bos_token", true);
        metadata
    }

    fn applied(json: &str) -> Result<Metadata, String> {
        let mut metadata = metadata();
        let overrides = Overrides::parse(json).map_err(|error| error.to_string())?;
        overrides
            .apply(&mut metadata)
            .map_err(|error| error.to_string())?;
        Ok(metadata)
    }

    #[test]
    fn values_take_the_type_that_the_file_has() {
        let metadata = applied(
            r#"{"llama.rope.freq_base": 500000, "llama.context_length": 64, "tokenizer.ggml.pre": "qwen2",
                "tokenizer.ggml.add_bos_token": null, "tokenizer.ggml.eos_token_id": 7, "llama.rope.scaling.factor": 2,
                "llama.hidden_activation": "relu2"}"#,
        )
        .unwrap();
        assert_eq!(metadata.get_f32("llama.rope.freq_base").unwrap(), 5e5);
        assert_eq!(metadata.get_u32("llama.context_length").unwrap(), 64);
        assert_eq!(metadata.get_str("tokenizer.ggml.pre").unwrap(), "qwen2");
        assert_eq!(metadata.get("tokenizer.ggml.add_bos_token"), None);
        assert_eq!(metadata.get_u32("tokenizer.ggml.eos_token_id").unwrap(), 7);
        assert_eq!(metadata.get_f32("llama.rope.scaling.factor").unwrap(), 2.0);
        assert_eq!(metadata.len(), 6);
        assert!(metadata.iter().all(|(key, _)| metadata.get(key).is_some()));
    }

    #[test]
    fn a_chat_template_takes_the_place_of_all() {
        let mut metadata = metadata();
        metadata.set("tokenizer.chat_template", "a");
        metadata.set("tokenizer.chat_template.tool_use", "b");
        let mut overrides = Overrides::default();
        overrides.set_chat_template("c".to_owned());
        overrides.apply(&mut metadata).unwrap();
        assert_eq!(metadata.get_str("tokenizer.chat_template").unwrap(), "c");
        assert_eq!(metadata.get("tokenizer.chat_template.tool_use"), None);
    }

    #[test]
    fn wrong_types_and_keys_are_named() {
        for (json, wanted) in [
            (
                r#"{"llama.context_length": "64"}"#,
                "expected whole number, got string",
            ),
            (
                r#"{"llama.context_length": 1.5}"#,
                "expected whole number, got number",
            ),
            (
                r#"{"tokenizer.ggml.pre": 1}"#,
                "expected string, got number",
            ),
            (
                r#"{"tokenizer.ggml.add_bos_token": 1}"#,
                "expected bool, got number",
            ),
            (r#"{"llama.x": {"a": 1}}"#, "got object"),
            (r#"{"llama.x": [1, "a"]}"#, "expected array of strings"),
            (
                r#"{"general.architecture": "qwen3"}"#,
                "general.architecture as an override",
            ),
            (
                r#"{"prism.hadamard.version": null}"#,
                "prism.hadamard.version as an override",
            ),
            (r#"["a"]"#, "overrides is malformed"),
        ] {
            let error = applied(json).unwrap_err();
            assert!(error.contains(wanted), "{json}: {error}");
        }
    }
}
