//! What a model file holds, by its header alone.

use std::path::Path;

use napi::bindgen_prelude::Function;
use napi::{Env, Result};
use napi_derive::napi;
use ryz_engine::text_warnings;
use ryz_format::{Array, Metadata, TensorDescription, TensorInfo, Value};
use ryz_kernels::TernaryPacker;
use ryz_source::{ModelDescription, ModelFileKind};
use serde_json::{Map, Value as Json, json};

use crate::answer::{Answer, AnswerArgs, Failure, failure};
use crate::jobs;
use crate::load::{Config, engine_config};

/// A tensor of a file.
#[napi(object)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Its type in the file.
    #[napi(js_name = "type")]
    pub dtype: String,
    /// Rows, then columns.
    pub shape: Vec<f64>,
    /// Bytes in the file.
    pub bytes: f64,
}

/// What a file holds, and what it will take.
#[napi(object)]
pub struct Inspection {
    /// "gguf", "folder" or "safetensors".
    pub format: String,
    /// Name of the architecture in the file.
    pub architecture: Option<String>,
    /// Whether it can be run.
    pub runs: bool,
    /// Why it cannot.
    pub reason: Option<String>,
    /// What is probably wrong with it although it runs.
    pub warnings: Vec<String>,
    /// Elements of all tensors.
    pub parameters: f64,
    /// Bytes of all parts.
    pub file_bytes: f64,
    /// Key and value, as JSON; long arrays are cut.
    pub metadata: String,
    /// In the file's order.
    pub tensors: Vec<Tensor>,
    /// Bytes of all parameters at 4 bytes.
    pub fp32: f64,
    /// At 2 bytes.
    pub fp16: f64,
    /// At 1 byte.
    pub int8: f64,
    /// As this engine keeps them.
    pub packed: f64,
    /// Bytes of key-value cache a token, at 2 bytes a number.
    pub kv_bytes_per_token: Option<f64>,
    /// The longest context the model was made for.
    pub context_length: Option<f64>,
}

/// Describes a model file by its header.
#[napi(catch_unwind)]
pub fn inspect_model(
    env: Env,
    path: String,
    config: Config,
    #[napi(ts_arg_type = "(failure: Failure | null, value: Inspection | null) => void")]
    done: Function<'_, AnswerArgs<Inspection>, ()>,
) -> Result<()> {
    let answer = Answer::new(&done)?;
    jobs::spawn(&env, "ryz-inspect", move |_| {
        answer.send_from(|| {
            let overrides = engine_config(config)?.all_overrides();
            let overrides = overrides.map_err(|error| failure(&error))?;
            let described = ModelDescription::open(Path::new(&path), &overrides);
            described
                .map(|described| inspection(&described))
                .map_err(|error| Failure::new(error.code(), &error))
        });
    })?;
    Ok(())
}

fn inspection(described: &ModelDescription) -> Inspection {
    let tensors = &described.tensors;
    let parameters: f64 = match &described.source {
        // Of packed tensors only the source knows the elements.
        Ok(source) => source.tensors().iter().map(elements).sum(),
        Err(_) => tensors.iter().map(|tensor| product(&tensor.shape)).sum(),
    };
    let packed = match &described.source {
        Ok(source) => source.tensors().iter().map(packed_bytes).sum(),
        Err(_) => tensors.iter().map(|tensor| tensor.bytes as f64).sum(),
    };
    let config = described.config();
    let (reason, mut warnings) = match text_of(described) {
        Ok(warnings) => (None, warnings),
        Err(reason) => (Some(reason), Vec::new()),
    };
    warnings.splice(0..0, described.warnings());
    let metadata = match &described.config_json {
        Some(json) => serde_json::from_slice(json).unwrap_or(Json::Null),
        None => Json::Object(metadata(&described.metadata)),
    };
    Inspection {
        format: match described.kind {
            ModelFileKind::Gguf => "gguf",
            ModelFileKind::Folder => "folder",
            ModelFileKind::Safetensors => "safetensors",
        }
        .to_owned(),
        architecture: described.architecture.clone(),
        runs: reason.is_none(),
        reason,
        warnings,
        parameters,
        file_bytes: described.file_bytes as f64,
        metadata: metadata.to_string(),
        tensors: tensors.iter().map(tensor).collect(),
        fp32: parameters * 4.0,
        fp16: parameters * 2.0,
        int8: parameters,
        packed,
        kv_bytes_per_token: config.map(|config| {
            let heads = config.num_key_value_heads;
            let values = heads * (config.key_head_dim + config.value_head_dim);
            (config.num_hidden_layers * values * 2) as f64
        }),
        context_length: config.map(|config| config.max_position_embeddings as f64),
    }
}

/// What is probably wrong with the text of a model that can be run; or why it cannot, in a sentence.
fn text_of(described: &ModelDescription) -> std::result::Result<Vec<String>, String> {
    if described.kind == ModelFileKind::Safetensors {
        return Err(
            "a file of tensors alone: pass the folder that holds it with its config.json"
                .to_owned(),
        );
    }
    match &described.source {
        Ok(source) => text_warnings(source).map_err(|error| chain(&error)),
        Err(_) if described.tensors.is_empty() => {
            Err("it holds no tensors, only a vocabulary or metadata".to_owned())
        }
        Err(error) => Err(match std::error::Error::source(error) {
            // The path goes without saying.
            Some(source) => chain(source),
            None => chain(error),
        }),
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

fn elements(tensor: &TensorInfo) -> f64 {
    tensor.rows as f64 * tensor.cols as f64
}

fn product(shape: &[u64]) -> f64 {
    shape.iter().map(|&size| size as f64).product()
}

fn tensor(tensor: &TensorDescription) -> Tensor {
    Tensor {
        name: tensor.name.clone(),
        dtype: tensor.dtype.clone(),
        shape: tensor.shape.iter().rev().map(|&size| size as f64).collect(),
        bytes: tensor.bytes as f64,
    }
}

/// What a matrix takes in memory: packed when it is ternary, else in the file's own blocks.
fn packed_bytes(tensor: &TensorInfo) -> f64 {
    match tensor.dtype.is_ternary() {
        true => TernaryPacker::memory(tensor.dtype, tensor.rows, tensor.cols) as f64,
        false => tensor.bytes as f64,
    }
}

/// Arrays are cut to so many items.
const SHOWN: usize = 8;

fn metadata(metadata: &Metadata) -> Map<String, Json> {
    metadata
        .iter()
        .map(|(key, value)| (key.to_owned(), value_json(value)))
        .collect()
}

fn value_json(value: &Value) -> Json {
    match value {
        Value::U8(v) => json!(v),
        Value::I8(v) => json!(v),
        Value::U16(v) => json!(v),
        Value::I16(v) => json!(v),
        Value::U32(v) => json!(v),
        Value::I32(v) => json!(v),
        Value::U64(v) => json!(v),
        Value::I64(v) => json!(v),
        Value::F32(v) => json!(v),
        Value::F64(v) => json!(v),
        Value::Bool(v) => json!(v),
        Value::String(v) => json!(v),
        Value::Array(array) => array_json(array),
        _ => Json::Null,
    }
}

fn array_json(array: &Array) -> Json {
    fn first<T: serde::Serialize + Copy>(items: &[T]) -> Json {
        json!(items.iter().take(SHOWN).copied().collect::<Vec<T>>())
    }
    let items = match array {
        Array::U8(v) => first(v),
        Array::I8(v) => first(v),
        Array::U16(v) => first(v),
        Array::I16(v) => first(v),
        Array::U32(v) => first(v),
        Array::I32(v) => first(v),
        Array::U64(v) => first(v),
        Array::I64(v) => first(v),
        Array::F32(v) => first(v),
        Array::F64(v) => first(v),
        Array::Bool(v) => first(v),
        Array::Strings(v) => json!(v.iter().take(SHOWN).collect::<Vec<_>>()),
        _ => Json::Null,
    };
    if array.len() <= SHOWN {
        items
    } else {
        json!({ "length": array.len(), "first": items })
    }
}
