//! Overrides by GGUF's keys for a folder, whose files use other names.

use serde_json::{Map, Value};

use crate::{FormatError, Overrides};

/// The changes to `config.json` and its accompanying files.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FolderOverrides {
    config: Map<String, Value>,
    generation: Map<String, Value>,
    chat_template: Option<String>,
}

/// GGUF's keys, without their architecture, and the corresponding fields of `config.json`.
const FIELDS: [(&str, &str); 9] = [
    ("attention.head_count", "num_attention_heads"),
    ("attention.head_count_kv", "num_key_value_heads"),
    ("attention.key_length", "head_dim"),
    ("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
    ("attention.sliding_window", "sliding_window"),
    ("context_length", "max_position_embeddings"),
    ("hidden_activation", "hidden_act"),
    ("rope.freq_base", "rope_theta"),
    ("vocab_size", "vocab_size"),
];

impl FolderOverrides {
    /// Translates the overrides for a folder. Accepts keys of any architecture, and the fields of
    /// `config.json` themselves.
    ///
    /// # Errors
    /// [`FormatError::UnsupportedValue`] for a key without a field.
    pub fn of(overrides: &Overrides) -> Result<FolderOverrides, FormatError> {
        let mut folder = FolderOverrides {
            chat_template: overrides.chat_template().map(str::to_owned),
            ..FolderOverrides::default()
        };
        for (key, value) in overrides.iter() {
            let name = key.split_once('.').map_or(key, |(_, name)| name);
            let field = FIELDS
                .iter()
                .find(|(gguf, field)| *gguf == name || *field == key);
            match (key, field) {
                ("tokenizer.chat_template", _) => {
                    folder.chat_template = value.as_str().map(str::to_owned);
                }
                ("tokenizer.ggml.eos_token_id", _) => {
                    folder
                        .generation
                        .insert("eos_token_id".to_owned(), value.clone());
                }
                (_, Some((_, field))) => {
                    folder.config.insert((*field).to_owned(), value.clone());
                }
                (key, None) if key.starts_with("tokenizer.chat_template.") => {}
                (key, None) => {
                    return Err(FormatError::UnsupportedValue {
                        key: format!("{key} as an override of a folder"),
                        got: "a key that its files have no field for".to_owned(),
                    });
                }
            }
        }
        Ok(folder)
    }

    /// `config.json` with the changes applied.
    ///
    /// # Errors
    /// [`FormatError::Json`].
    pub fn config(&self, bytes: Vec<u8>) -> Result<Vec<u8>, FormatError> {
        let mut changes = self.config.clone();
        // Since transformers 5, the nested value is the one that counts.
        let theta = changes.get("rope_theta").cloned();
        if let Some(theta) = theta {
            let fields: Map<String, Value> = super::json::parse("config.json", &bytes)?;
            for field in ["rope_parameters", "rope_scaling"] {
                if let Some(Value::Object(rope)) = fields.get(field) {
                    let mut rope = rope.clone();
                    rope.insert("rope_theta".to_owned(), theta.clone());
                    changes.insert(field.to_owned(), Value::Object(rope));
                }
            }
        }
        changed("config.json", Some(bytes), &changes).map(Option::unwrap_or_default)
    }

    /// An accompanying file with the changes applied; `None` if it does not exist.
    ///
    /// # Errors
    /// [`FormatError::Json`].
    pub fn neighbour(
        &self,
        name: &str,
        bytes: Option<Vec<u8>>,
    ) -> Result<Option<Vec<u8>>, FormatError> {
        match (name, &self.chat_template) {
            ("chat_template.jinja", Some(template)) => Ok(Some(template.clone().into_bytes())),
            ("tokenizer_config.json", Some(_)) if bytes.is_some() => {
                let without = Map::from_iter([("chat_template".to_owned(), Value::Null)]);
                changed("tokenizer_config.json", bytes, &without)
            }
            (name, Some(_)) if name.starts_with("additional_chat_templates") => Ok(None),
            ("generation_config.json", _) => {
                changed("generation_config.json", bytes, &self.generation)
            }
            _ => Ok(bytes),
        }
    }
}

/// A JSON object with some members replaced; null removes one.
fn changed(
    what: &'static str,
    bytes: Option<Vec<u8>>,
    changes: &Map<String, Value>,
) -> Result<Option<Vec<u8>>, FormatError> {
    if changes.is_empty() {
        return Ok(bytes);
    }
    let mut fields: Map<String, Value> = match &bytes {
        Some(bytes) => super::json::parse(what, bytes)?,
        None => Map::new(),
    };
    for (field, value) in changes {
        match value {
            Value::Null => drop(fields.remove(field)),
            value => drop(fields.insert(field.clone(), value.clone())),
        }
    }
    Ok(Some(Value::Object(fields).to_string().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(json: &str) -> Result<FolderOverrides, FormatError> {
        FolderOverrides::of(&Overrides::parse(json).unwrap())
    }

    #[test]
    fn keys_of_gguf_become_fields_of_the_files() {
        let folder = folder(
            r#"{"llama.rope.freq_base": 5, "llama.hidden_activation": "relu2", "tokenizer.ggml.eos_token_id": 7,
                "tokenizer.chat_template": "{{ x }}", "max_position_embeddings": null}"#,
        )
        .unwrap();
        let config = r#"{"hidden_act": "silu", "max_position_embeddings": 9, "rope_parameters": {"rope_theta": 1, "rope_type": "default"}}"#;
        let config = folder.config(config.as_bytes().to_vec()).unwrap();
        let config: Value = serde_json::from_slice(&config).unwrap();
        let expected = serde_json::json!({"hidden_act": "relu2", "rope_theta": 5,
            "rope_parameters": {"rope_theta": 5, "rope_type": "default"}});
        assert_eq!(config, expected);
        let generation = folder.neighbour("generation_config.json", None).unwrap();
        assert_eq!(generation.unwrap(), br#"{"eos_token_id":7}"#);
        let template = folder.neighbour("chat_template.jinja", None).unwrap();
        assert_eq!(template.unwrap(), b"{{ x }}");
        assert_eq!(folder.neighbour("tokenizer.json", None).unwrap(), None);
    }

    #[test]
    fn keys_without_a_field_are_refused_by_name() {
        let error = folder(r#"{"tokenizer.ggml.pre": "qwen2"}"#).unwrap_err();
        assert!(error.to_string().contains("tokenizer.ggml.pre"), "{error}");
    }
}
