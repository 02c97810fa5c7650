//! The position of every tensor in the flat parameter vector.
//!
//! q, k, v and gate, up are adjacent, so that each group is one matrix in the forward pass.

use crate::config::ModelShape;
use std::ops::Range;

/// How a tensor is quantized, decayed and exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Embedding,
    Norm,
    Linear,
}

/// One tensor, by its name in a GGUF file.
#[derive(Debug, Clone)]
pub(crate) struct Tensor {
    pub name: String,
    pub range: Range<usize>,
    pub rows: usize,
    pub cols: usize,
    pub kind: Kind,
}

/// Ranges of one layer.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    pub attn_norm: Range<usize>,
    /// (d + 2·kv, d)
    pub qkv: Range<usize>,
    pub attn_sub_norm: Range<usize>,
    /// (d, d)
    pub output: Range<usize>,
    pub ffn_norm: Range<usize>,
    /// (2f, d)
    pub gate_up: Range<usize>,
    pub ffn_sub_norm: Range<usize>,
    /// (d, f)
    pub down: Range<usize>,
}

/// All ranges.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub embedding: Range<usize>,
    pub layers: Vec<Layer>,
    pub output_norm: Range<usize>,
    /// In the order of the vector, without gaps.
    pub tensors: Vec<Tensor>,
    pub total: usize,
}

impl Layout {
    pub fn new(shape: &ModelShape) -> Self {
        let (d, f, kv) = (shape.hidden_size, shape.intermediate_size, shape.kv_dim());
        let mut tensors = Vec::new();
        let mut at = 0;
        let mut add = |name: String, rows: usize, cols: usize, kind: Kind| -> Range<usize> {
            let range = at..at + rows * cols;
            at = range.end;
            tensors.push(Tensor {
                name,
                range: range.clone(),
                rows,
                cols,
                kind,
            });
            range
        };
        let embedding = add(
            "token_embd.weight".into(),
            shape.vocab_size,
            d,
            Kind::Embedding,
        );
        let layers = (0..shape.num_hidden_layers)
            .map(|i| {
                let mut block = |name: &str, rows, cols, kind| {
                    add(format!("blk.{i}.{name}.weight"), rows, cols, kind)
                };
                let attn_norm = block("attn_norm", 1, d, Kind::Norm);
                let q = block("attn_q", d, d, Kind::Linear);
                block("attn_k", kv, d, Kind::Linear);
                let v = block("attn_v", kv, d, Kind::Linear);
                let attn_sub_norm = block("attn_sub_norm", 1, d, Kind::Norm);
                let output = block("attn_output", d, d, Kind::Linear);
                let ffn_norm = block("ffn_norm", 1, d, Kind::Norm);
                let gate = block("ffn_gate", f, d, Kind::Linear);
                let up = block("ffn_up", f, d, Kind::Linear);
                let ffn_sub_norm = block("ffn_sub_norm", 1, f, Kind::Norm);
                let down = block("ffn_down", d, f, Kind::Linear);
                Layer {
                    attn_norm,
                    qkv: q.start..v.end,
                    attn_sub_norm,
                    output,
                    ffn_norm,
                    gate_up: gate.start..up.end,
                    ffn_sub_norm,
                    down,
                }
            })
            .collect();
        let output_norm = add("output_norm.weight".into(), 1, d, Kind::Norm);
        Self {
            embedding,
            layers,
            output_norm,
            tensors,
            total: at,
        }
    }
}
