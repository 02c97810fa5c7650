//! The target's tensors and how each is made. All weights that become ternary are read once here,
//! so that nothing is written for a model that cannot be converted.

use std::collections::HashMap;

use half::f16;
use ryz_format::{
    Architecture, DType, FormatError, RopeScaling, TensorInfo, TensorRole, WeightScales,
    encode::Absmean,
};

use crate::{
    ConvertError, ConvertOptions, FloatWeights, InexactScales, Method,
    progress::Progress,
    rope,
    rows::{self, Rows},
    scan::{self, ExactScale},
    source::Source,
    ternary,
};

/// A tensor of the target.
pub(crate) struct Output<'a> {
    pub(crate) name: String,
    /// The source of its values; `None` for [`Work::Values`].
    pub(crate) source: Option<&'a TensorInfo>,
    /// The type; for prepacked weights, the type that provides codes and scales.
    pub(crate) dtype: DType,
    pub(crate) prepack: bool,
    pub(crate) shape: Vec<u64>,
    pub(crate) method: Method,
    pub(crate) work: Work,
    /// Rows per head, if halves become interleaved pairs ([`rows::source_row`]).
    pub(crate) head: Option<usize>,
}

impl Output<'_> {
    /// The type in the file.
    pub(crate) fn target_dtype(&self) -> DType {
        let prepacked = self.dtype.prepacked().filter(|_| self.prepack);
        prepacked.unwrap_or(self.dtype)
    }
}

/// How a tensor of the target is made.
pub(crate) enum Work {
    /// Copies the source's bytes.
    Copy,
    /// Converts the source's numbers to another type.
    Floats,
    /// Ternary weights.
    Ternary(Ternary),
    /// Writes these numbers.
    Values(Vec<f32>),
}

/// The origin of codes and scales.
pub(crate) struct Ternary {
    pub(crate) codes: Codes,
    pub(crate) scale: Scale,
    /// Whether the target's weights equal the source's exactly.
    pub(crate) lossless: bool,
}

/// The origin of codes.
#[derive(Clone, Copy)]
pub(crate) enum Codes {
    /// The source's codes.
    Packed,
    /// The signs of the source's numbers.
    Signs,
    /// The absmean rule over the whole tensor.
    Absmean(Absmean),
    /// The absmean rule over each block.
    AbsmeanBlocks,
    /// The quantizer of the options, which also provides the scales.
    Quantizer,
}

/// The origin of scales.
#[derive(Clone, Copy)]
pub(crate) enum Scale {
    /// One per block: the source's, or computed from its numbers.
    Blocks,
    /// One per tensor.
    Tensor(TensorScale),
}

/// The scale of a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct TensorScale {
    /// The exact value of code 2.
    pub(crate) exact: f64,
    /// The value stored in blocks.
    pub(crate) written: f32,
    /// The value stored in the tensor beside the weights.
    pub(crate) separate: Option<f32>,
}

impl TensorScale {
    /// The value of code 2 in the target.
    pub(crate) fn target(self) -> f64 {
        f64::from(self.written) * self.separate.map_or(1.0, f64::from)
    }
}

/// The target's tensors in order, and the source's omitted tensors.
pub(crate) struct Plan<'a> {
    pub(crate) outputs: Vec<Output<'a>>,
    pub(crate) dropped: Vec<String>,
}

/// Creates the plan.
pub(crate) fn plan<'a>(
    source: &'a Source,
    options: &'a ConvertOptions,
    progress: &mut Progress<'_>,
) -> Result<Plan<'a>, ConvertError> {
    let mut planner = Planner {
        source,
        options,
        scales: scales(source)?,
        outputs: Vec::new(),
    };
    let expected = source.config().expected_tensors();
    let roles: HashMap<&str, TensorRole> = expected
        .iter()
        .map(|tensor| (tensor.name.as_str(), tensor.role))
        .collect();
    let mut dropped = Vec::new();
    for tensor in in_order(source) {
        match roles.get(tensor.name.as_str()) {
            None => dropped.push(tensor.name.clone()),
            // They are converted with their weights.
            Some(_) if is_scale(&tensor.name) => {}
            Some(role) => planner.tensor(tensor, *role, progress)?,
        }
    }
    if let RopeScaling::Llama3 { .. } = source.config().rope.scaling {
        let factors = rope::llama3_factors(&source.config().rope, source.config().rope_dim);
        planner.values("rope_freqs.weight", factors, Method::Derived);
    }
    Ok(Plan {
        outputs: planner.outputs,
        dropped,
    })
}

struct Planner<'a> {
    source: &'a Source,
    options: &'a ConvertOptions,
    /// Scales that the source stores in separate tensors, by the weights' name, as factors of the
    /// output.
    scales: HashMap<String, SourceScale>,
    outputs: Vec<Output<'a>>,
}

/// A scale in a separate tensor.
#[derive(Clone, Copy)]
pub(crate) struct SourceScale {
    pub(crate) factor: f64,
    dtype: DType,
}

impl<'a> Planner<'a> {
    fn tensor(
        &mut self,
        tensor: &'a TensorInfo,
        role: TensorRole,
        progress: &mut Progress<'_>,
    ) -> Result<(), ConvertError> {
        let head = self.head(&tensor.name);
        let is_ternary =
            tensor.dtype.is_ternary() || self.options.embeddings == crate::EmbeddingForm::Ternary;
        match role {
            TensorRole::Vector => self.floats(tensor, DType::F32, head),
            TensorRole::Embedding if !is_ternary => {
                let dtype = self.options.embeddings.dtype();
                self.floats(tensor, dtype.unwrap_or(tensor.dtype), head);
            }
            _ => return self.linear(tensor, role, head, progress),
        }
        progress.bytes(&tensor.name, tensor.bytes)
    }

    /// Converts numbers to a type, which may be their own.
    fn floats(&mut self, tensor: &'a TensorInfo, dtype: DType, head: Option<usize>) {
        let same = tensor.dtype == dtype;
        let (method, work) = match same {
            // Vectors have no rows to reorder.
            true if head.is_none() || tensor.rows > 1 => (Method::Copied, Work::Copy),
            _ => (Method::Converted, Work::Floats),
        };
        self.push(tensor, dtype, method, work, head);
    }

    /// Converts a tensor to ternary, including its separate scale.
    fn linear(
        &mut self,
        tensor: &'a TensorInfo,
        role: TensorRole,
        head: Option<usize>,
        progress: &mut Progress<'_>,
    ) -> Result<(), ConvertError> {
        let dtype = self.options.form.dtype_for(tensor.cols);
        let beside = self.scales.remove(&tensor.name);
        let planned = if tensor.dtype.is_ternary() {
            self.packed(tensor, dtype, beside, progress)?
        } else {
            self.floats_to_ternary(tensor, role, dtype, progress)?
        };
        let mut separate = None;
        match planned {
            None if tensor.dtype == DType::HfPacked => unreachable!("no file to write has it"),
            None => self.floats(tensor, tensor.dtype, head),
            Some((method, work)) => {
                if let Work::Ternary(Ternary {
                    scale: Scale::Tensor(scale),
                    ..
                }) = &work
                {
                    separate = scale.separate;
                }
                self.push(tensor, dtype, method, work, head);
            }
        }
        // The scale of packed weights is merged into them; any other stays in its own tensor.
        let kept = beside.filter(|_| tensor.dtype != DType::HfPacked);
        let product = match (kept, separate) {
            (None, None) => return Ok(()),
            (None, Some(scale)) => f64::from(scale),
            (Some(kept), None) => kept.factor,
            (Some(kept), Some(scale)) => kept.factor * f64::from(scale),
        };
        let method = match (kept, separate) {
            (Some(kept), None) if kept.dtype == DType::F32 => Method::Copied,
            (Some(_), None) => Method::Converted,
            _ => Method::Derived,
        };
        self.values(&scale_name(&tensor.name), vec![product as f32], method);
        Ok(())
    }

    /// Converts ternary weights of the source; `None` if they are copied.
    fn packed(
        &self,
        tensor: &TensorInfo,
        dtype: DType,
        beside: Option<SourceScale>,
        progress: &mut Progress<'_>,
    ) -> Result<Option<(Method, Work)>, ConvertError> {
        let scale = match tensor.dtype {
            DType::I2S => Some(f64::from(rows::tail_scale(self.source, tensor)?)),
            // The header check guarantees its scale.
            DType::HfPacked => Some(beside.map_or(1.0, |beside| beside.factor)),
            _ => None,
        };
        let rows = Rows::new(self.source, tensor, scale.unwrap_or(1.0) as f32);
        let common = scan::ternary(rows, dtype, progress)?;
        if tensor.dtype == dtype && !self.options.prepack {
            return Ok(None);
        }
        let scale = match scale.or(common.map(f64::from)) {
            None => Scale::Blocks,
            Some(exact) => Scale::Tensor(self.hold(tensor, exact, dtype)?),
        };
        let lossless = match scale {
            Scale::Blocks => true,
            Scale::Tensor(scale) => scale.target() == scale.exact,
        };
        let work = Work::Ternary(Ternary {
            codes: Codes::Packed,
            scale,
            lossless,
        });
        Ok(Some((Method::Repacked, work)))
    }

    /// Converts numbers of another type; `None` if they are copied.
    fn floats_to_ternary(
        &self,
        tensor: &TensorInfo,
        role: TensorRole,
        dtype: DType,
        progress: &mut Progress<'_>,
    ) -> Result<Option<(Method, Work)>, ConvertError> {
        // A layer that the model excludes from quantization.
        if self.source.config().keeps_floats(&tensor.name) {
            progress.bytes(&tensor.name, tensor.bytes)?;
            return Ok(None);
        }
        let rows = Rows::new(self.source, tensor, 1.0);
        let found = scan::floats(rows, dtype, progress)?;
        // The rule defines the values of master weights, even if all have the same magnitude.
        let is_master = self.source.config().quantize_weights && role == TensorRole::Linear;
        let tensor_scale = |codes, method, exact: f32, lossless: bool| {
            let scale = self.hold(tensor, exact.into(), dtype)?;
            let lossless = lossless && scale.target() == scale.exact;
            let work = Work::Ternary(Ternary {
                codes,
                scale: Scale::Tensor(scale),
                lossless,
            });
            Ok(Some((method, work)))
        };
        let blocks = |codes, method, lossless| {
            let scale = Scale::Blocks;
            let work = Work::Ternary(Ternary {
                codes,
                scale,
                lossless,
            });
            Ok(Some((method, work)))
        };
        if is_master {
            let codes = Codes::Absmean(found.absmean);
            let scale = found.absmean.scale_in(tensor.dtype);
            return tensor_scale(codes, Method::Quantized, scale, true);
        }
        match (found.ternary, self.options.float_weights) {
            // A ternary `Q8_0` tensor already has the target's form.
            (Some(_), _) if dtype == tensor.dtype => Ok(None),
            (Some(ExactScale::Tensor(scale)), _) => {
                tensor_scale(Codes::Signs, Method::Recognized, scale, true)
            }
            (Some(ExactScale::Blocks), _) => blocks(Codes::Signs, Method::Recognized, true),
            (None, _) if self.options.quantizer.is_some() => {
                blocks(Codes::Quantizer, Method::Quantized, false)
            }
            (None, FloatWeights::Keep) => Ok(None),
            (None, FloatWeights::Refuse) => Err(ConvertError::NotTernary {
                name: tensor.name.clone(),
                dtype: tensor.dtype,
            }),
            (None, FloatWeights::AbsmeanBlock) if dtype != DType::F32 => {
                blocks(Codes::AbsmeanBlocks, Method::Quantized, false)
            }
            (None, _) => {
                let codes = Codes::Absmean(found.absmean);
                tensor_scale(codes, Method::Quantized, found.absmean.scale, false)
            }
        }
    }

    /// How a type stores a tensor's scale.
    fn hold(
        &self,
        tensor: &TensorInfo,
        exact: f64,
        dtype: DType,
    ) -> Result<TensorScale, ConvertError> {
        let held = hold(exact, dtype, self.options.inexact_scales);
        if held.target().is_finite() {
            return Ok(held);
        }
        Err(ConvertError::NotFinite {
            name: tensor.name.clone(),
            dtype,
            row: 0,
            got: exact as f32,
        })
    }

    fn push(
        &mut self,
        tensor: &'a TensorInfo,
        dtype: DType,
        method: Method,
        work: Work,
        head: Option<usize>,
    ) {
        self.outputs.push(Output {
            prepack: self.options.prepack,
            name: tensor.name.clone(),
            source: Some(tensor),
            dtype,
            shape: tensor.shape.clone(),
            method,
            work,
            head,
        });
    }

    fn values(&mut self, name: &str, values: Vec<f32>, method: Method) {
        self.outputs.push(Output {
            prepack: false,
            name: name.to_owned(),
            source: self.source.model().tensor(name),
            dtype: DType::F32,
            shape: vec![values.len() as u64],
            method,
            work: Work::Values(values),
            head: None,
        });
    }

    /// The head size if halves become interleaved pairs: for q and k of a llama from Hugging Face.
    fn head(&self, name: &str) -> Option<usize> {
        let config = self.source.config();
        let turned = [
            ".attn_q.weight",
            ".attn_k.weight",
            ".attn_q.bias",
            ".attn_k.bias",
        ];
        let permuted = self.source.folder().is_some()
            && config.architecture == Architecture::Llama
            && turned.iter().any(|end| name.ends_with(end));
        permuted.then_some(config.key_head_dim)
    }
}

/// How a type stores a scale. The target's may be infinite.
fn hold(exact: f64, dtype: DType, inexact: InexactScales) -> TensorScale {
    let plain = |written| TensorScale {
        exact,
        written,
        separate: None,
    };
    if matches!(dtype, DType::I2S | DType::F32) || ternary::fits_f16(exact) {
        return plain(exact as f32);
    }
    match inexact {
        InexactScales::Separate => TensorScale {
            separate: Some(exact as f32),
            ..plain(1.0)
        },
        InexactScales::Round => plain(f16::from_f64(exact).to_f32()),
    }
}

/// The source's tensors in the target's order: a GGUF's own order; for a folder, the usual order of
/// converters.
fn in_order(source: &Source) -> Vec<&TensorInfo> {
    let mut tensors: Vec<&TensorInfo> = source.model().tensors().iter().collect();
    if source.folder().is_some() {
        tensors.sort_by_key(|tensor| place(&tensor.name));
    }
    tensors
}

/// Embedding, layers (norms before projections), final norm, head.
fn place(name: &str) -> (u8, u64, usize) {
    const IN_LAYER: [&str; 13] = [
        "attn_norm",
        "attn_sub_norm",
        "attn_q_norm",
        "attn_k_norm",
        "ffn_norm",
        "ffn_sub_norm",
        "attn_q",
        "attn_k",
        "attn_v",
        "attn_output",
        "ffn_gate",
        "ffn_up",
        "ffn_down",
    ];
    let part = name.strip_prefix("blk.").and_then(|rest| {
        let (layer, rest) = rest.split_once('.')?;
        Some((layer.parse().ok()?, rest.split('.').next()?))
    });
    match (name, part) {
        ("token_embd.weight", _) => (0, 0, 0),
        (_, Some((layer, module))) => {
            let module = IN_LAYER.iter().position(|known| *known == module);
            (1, layer, module.unwrap_or(IN_LAYER.len()))
        }
        ("output_norm.weight", _) => (2, 0, 0),
        _ => (3, 0, 0),
    }
}

fn is_scale(name: &str) -> bool {
    name.starts_with("blk.") && name.ends_with(".scale")
}

fn scale_name(weight: &str) -> String {
    weight.strip_suffix(".weight").unwrap_or(weight).to_owned() + ".scale"
}

/// Reads the scales in separate tensors.
pub(crate) fn scales(source: &Source) -> Result<HashMap<String, SourceScale>, ConvertError> {
    let mut scales = HashMap::new();
    for tensor in source.model().tensors() {
        if source.config().weight_scales == WeightScales::None || !is_scale(&tensor.name) {
            continue;
        }
        let value = rows::vector(source, tensor)?[0];
        let factor = match source.config().weight_scales {
            WeightScales::Divide => 1.0 / f64::from(value),
            _ => f64::from(value),
        };
        if !factor.is_finite() {
            return Err(ConvertError::NotFinite {
                name: tensor.name.clone(),
                dtype: DType::F32,
                row: 0,
                got: value,
            });
        }
        let weight = tensor.name.replace(".scale", ".weight");
        if source.model().tensor(&weight).is_none() {
            let error = FormatError::MissingTensor { name: weight };
            return Err(source.fault(tensor, error));
        }
        scales.insert(
            weight,
            SourceScale {
                factor,
                dtype: tensor.dtype,
            },
        );
    }
    Ok(scales)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_that_fp16_cannot_hold() {
        let fits = hold(1.21875, DType::TQ2_0, InexactScales::Round);
        assert_eq!((fits.written, fits.separate), (1.21875, None));
        let exact = f64::from(0.1f32);
        let beside = hold(exact, DType::TQ1_0, InexactScales::Separate);
        assert_eq!((beside.written, beside.separate), (1.0, Some(0.1)));
        assert_eq!(beside.target(), exact);
        let rounded = hold(exact, DType::Q2_0G64, InexactScales::Round);
        assert_eq!(rounded.separate, None);
        assert!((rounded.target() / exact - 1.0).abs() < 5e-4);
        // A single fp32 scale per tensor is exact.
        assert_eq!(hold(exact, DType::I2S, InexactScales::Round).written, 0.1);
        assert!(
            hold(1e30, DType::TQ2_0, InexactScales::Round)
                .target()
                .is_infinite()
        );
    }

    #[test]
    fn order_of_a_folder() {
        let mut names = [
            "output.weight",
            "blk.10.attn_norm.weight",
            "output_norm.weight",
            "blk.2.ffn_down.weight",
            "blk.2.attn_q.weight",
            "token_embd.weight",
        ];
        names.sort_by_key(|name| place(name));
        assert_eq!(
            names,
            [
                "token_embd.weight",
                "blk.2.attn_q.weight",
                "blk.2.ffn_down.weight",
                "blk.10.attn_norm.weight",
                "output_norm.weight",
                "output.weight"
            ]
        );
    }
}
