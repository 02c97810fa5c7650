//! What a model file holds, by its header alone.

use std::path::Path;

use napi::bindgen_prelude::Function;
use napi::{Env, Result};
use napi_derive::napi;
use ryz_format::{Array, Metadata, TensorInfo, Value};
use ryz_kernels::TernaryPacker;
use ryz_model::ModelSource;
use serde_json::{Map, Value as Json, json};

use crate::answer::{Answer, AnswerArgs, Failure};
use crate::jobs;

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
    /// Name of the architecture in the file.
    pub architecture: String,
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
    pub kv_bytes_per_token: f64,
    /// The longest context the model was made for.
    pub context_length: f64,
}

/// Reads the header of a model file.
#[napi(catch_unwind)]
pub fn inspect_model(
    env: Env,
    path: String,
    #[napi(ts_arg_type = "(failure: Failure | null, value: Inspection | null) => void")]
    done: Function<'_, AnswerArgs<Inspection>, ()>,
) -> Result<()> {
    let answer = Answer::new(&done)?;
    jobs::spawn(&env, "ryz-inspect", move |_| {
        answer.send_from(|| {
            let source = ModelSource::open(Path::new(&path));
            source
                .map(|source| inspection(&source))
                .map_err(|error| Failure::new(error.code(), &error))
        });
    })?;
    Ok(())
}

fn inspection(source: &ModelSource) -> Inspection {
    let config = source.config();
    let tensors = source.tensors();
    let parameters: f64 = tensors.iter().map(elements).sum();
    let kv_values = config.num_key_value_heads * (config.key_head_dim + config.value_head_dim);
    Inspection {
        architecture: config.architecture.name().to_owned(),
        parameters,
        file_bytes: source.file_bytes() as f64,
        metadata: Json::Object(metadata(source.metadata())).to_string(),
        tensors: tensors.iter().map(tensor).collect(),
        fp32: parameters * 4.0,
        fp16: parameters * 2.0,
        int8: parameters,
        packed: tensors.iter().map(packed_bytes).sum(),
        kv_bytes_per_token: (config.num_hidden_layers * kv_values * 2) as f64,
        context_length: config.max_position_embeddings as f64,
    }
}

fn elements(tensor: &TensorInfo) -> f64 {
    tensor.rows as f64 * tensor.cols as f64
}

fn tensor(tensor: &TensorInfo) -> Tensor {
    Tensor {
        name: tensor.name.clone(),
        dtype: tensor.dtype.name().to_owned(),
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
