//! Writes the trained model as GGUF: ternary linear layers, F16 embeddings, F32 norms, the
//! tokenizer.

use crate::checkpoint::write_atomically;
use crate::config::HiddenAct;
use crate::error::TrainError;
use crate::layout::{Kind, Tensor};
use crate::trainer::Trainer;
use ryz_format::{DType, GgufWriter, Value, encode};
use std::path::Path;

/// llama.cpp's `general.file_type` for mostly TQ2_0.
const FILE_TYPE_TQ2_0: u32 = 37;

/// The same for all F32.
const FILE_TYPE_F32: u32 = 0;

impl Trainer {
    /// Writes the model to `path`.
    ///
    /// Linear layers become TQ2_0 if a row is whole blocks of 256 (otherwise Q8_0 with codes −1, 0,
    /// +1). Both hold the training-time weights exactly, because training already rounded the scale
    /// to fp16.
    pub fn export(&mut self, path: &Path) -> Result<(), TrainError> {
        write_atomically(path, &self.export_bytes()?)
    }

    /// The bytes of the exported file.
    pub fn export_bytes(&mut self) -> Result<Vec<u8>, TrainError> {
        self.refresh();
        let mut writer = GgufWriter::new();
        for (key, value) in self.metadata() {
            writer.push(&key, value)?;
        }
        for tensor in &self.network.layout.tensors {
            let mut shape = vec![tensor.cols as u64];
            if tensor.kind != Kind::Norm {
                shape.push(tensor.rows as u64);
            }
            writer.declare(&tensor.name, self.dtype(tensor), &shape)?;
        }
        let mut body = writer.start(Vec::new())?;
        for tensor in &self.network.layout.tensors {
            let values = &self.effective[tensor.range.clone()];
            let mut bytes = Vec::new();
            match self.dtype(tensor) {
                DType::TQ2_0 => encode_linear(values, &mut bytes),
                DType::Q8_0 => encode_small(values, &mut bytes),
                dtype => encode::encode_floats(dtype, values, &mut bytes),
            }
            body.tensor(&tensor.name, &bytes)?;
        }
        Ok(body.finish()?)
    }

    fn dtype(&self, tensor: &Tensor) -> DType {
        match tensor.kind {
            Kind::Norm => DType::F32,
            Kind::Embedding => DType::F16,
            Kind::Linear if !self.config.quantise_weights => DType::F32,
            Kind::Linear if tensor.cols.is_multiple_of(256) => DType::TQ2_0,
            Kind::Linear if tensor.cols.is_multiple_of(32) => DType::Q8_0,
            Kind::Linear => DType::F32,
        }
    }

    fn metadata(&self) -> Vec<(String, Value)> {
        let shape = &self.config.model;
        let architecture = match shape.hidden_act {
            HiddenAct::Relu2 => "bitnet-b1.58",
            HiddenAct::Silu => "bitnet",
        };
        let own = |key: &str, value: Value| (format!("{architecture}.{key}"), value);
        let general = |key: &str, value: Value| (key.to_owned(), value);
        let count = |n: usize| Value::U32(n as u32);
        let text = |s: &str| Value::from(s);
        let file_type = if self.config.quantise_weights {
            FILE_TYPE_TQ2_0
        } else {
            FILE_TYPE_F32
        };
        let model = vec![
            general("general.architecture", text(architecture)),
            general("general.name", text(&self.config.name)),
            general("general.file_type", Value::U32(file_type)),
            general("general.quantization_version", Value::U32(2)),
            own("context_length", count(shape.max_position_embeddings)),
            own("embedding_length", count(shape.hidden_size)),
            own("block_count", count(shape.num_hidden_layers)),
            own("feed_forward_length", count(shape.intermediate_size)),
            own("attention.head_count", count(shape.num_attention_heads)),
            own("attention.head_count_kv", count(shape.num_key_value_heads)),
            own(
                "attention.layer_norm_rms_epsilon",
                Value::F32(shape.rms_norm_eps),
            ),
            own("rope.freq_base", Value::F32(shape.rope_theta)),
            own("rope.dimension_count", count(shape.head_dim())),
            own("vocab_size", count(shape.vocab_size)),
        ];
        let pairs = self.tokenizer.pairs().iter();
        let tokenizer = pairs.map(|(key, value)| (key.to_owned(), value.clone()));
        model.into_iter().chain(tokenizer).collect()
    }
}

/// TQ2_0 blocks of dequantized ternary weights; the scale of a block is its largest magnitude.
fn encode_linear(values: &[f32], out: &mut Vec<u8>) {
    let scales: Vec<f32> = values.chunks(256).map(largest).collect();
    // A block of zeros uses the other blocks' scale, so that the tensor has only one.
    let common = scales.iter().copied().fold(0.0, f32::max);
    let codes: Vec<u8> = values
        .iter()
        .map(|v| if *v > 0.0 { 2 } else { u8::from(*v == 0.0) })
        .collect();
    let scales: Vec<f32> = scales
        .iter()
        .map(|s| if *s == 0.0 { common } else { *s })
        .collect();
    encode::encode_ternary(DType::TQ2_0, &codes, &scales, out);
}

/// Q8_0 blocks with codes −1, 0, +1 and d equal to the scale.
fn encode_small(values: &[f32], out: &mut Vec<u8>) {
    for block in values.chunks(32) {
        let scale = largest(block);
        out.extend(half::f16::from_f32(scale).to_le_bytes());
        out.extend(block.iter().map(|v| {
            if *v > 0.0 {
                1u8
            } else if *v < 0.0 {
                0xff
            } else {
                0
            }
        }));
    }
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |most, v| most.max(v.abs()))
}
