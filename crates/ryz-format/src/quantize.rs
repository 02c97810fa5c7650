//! Quantizers: from float weights to −1, 0, +1 and scales.
//!
//! [`Quantizer`] is an extension point: the output of every quantizer is checked
//! ([`Quantized::check`]), and its error measured, by the same code.

use std::{fmt, sync::Arc};

use crate::encode::quantize_absmean;

/// Makes float weights ternary.
pub trait Quantizer: Send + Sync {
    /// The name used in reports and errors.
    fn name(&self) -> &str;

    /// Quantizes a tensor of `rows` rows of `cols` weights, in row-major order. `tensor` is its
    /// name, for messages.
    ///
    /// # Errors
    /// A message that says what is not possible.
    fn quantize(
        &self,
        tensor: &str,
        weights: &[f32],
        rows: usize,
        cols: usize,
    ) -> Result<Quantized, String>;
}

/// A shared quantizer; equal only to its clones.
#[derive(Clone)]
pub struct SharedQuantizer(Arc<dyn Quantizer>);

impl SharedQuantizer {
    /// Shares a quantizer.
    pub fn new(quantizer: impl Quantizer + 'static) -> SharedQuantizer {
        SharedQuantizer(Arc::new(quantizer))
    }

    /// The name used in reports and errors.
    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// The quantizer's output, checked.
    ///
    /// # Errors
    /// The quantizer's message, or the fault of its output.
    pub fn quantize(
        &self,
        tensor: &str,
        weights: &[f32],
        rows: usize,
        cols: usize,
    ) -> Result<(Quantized, ScaleGroup), QuantizeError> {
        let failed = |message| QuantizeError {
            quantizer: self.0.name().to_owned(),
            tensor: tensor.to_owned(),
            message,
        };
        let quantized = self
            .0
            .quantize(tensor, weights, rows, cols)
            .map_err(failed)?;
        let group = quantized.check(rows, cols).map_err(failed)?;
        Ok((quantized, group))
    }
}

impl fmt::Debug for SharedQuantizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedQuantizer({:?})", self.0.name())
    }
}

impl PartialEq for SharedQuantizer {
    fn eq(&self, other: &SharedQuantizer) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for SharedQuantizer {}

/// Why a tensor could not be quantized.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("quantizer {quantizer}, tensor {tensor}: {message}")]
pub struct QuantizeError {
    /// The quantizer's name.
    pub quantizer: String,
    /// The tensor's name.
    pub tensor: String,
    /// Its message, or the fault of its output.
    pub message: String,
}

impl QuantizeError {
    /// The stable error code passed to TypeScript.
    pub fn code(&self) -> &'static str {
        "QUANTIZER_FAILED"
    }
}

/// A quantizer's output.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantized {
    /// −1, 0 or +1 for each weight, in row-major order.
    pub codes: Vec<i8>,
    /// One scale for the tensor, one per row, or one for each 64, 128 or 256 columns of each row,
    /// in row-major order.
    pub scales: Vec<f32>,
}

/// The weights that share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScaleGroup {
    /// The whole tensor.
    Tensor,
    /// One row.
    Row,
    /// This many columns of a row.
    Columns(usize),
}

impl Quantized {
    /// Checks codes and scales against the tensor's shape, and returns which weights share a scale.
    ///
    /// # Errors
    /// A message that describes the fault.
    pub fn check(&self, rows: usize, cols: usize) -> Result<ScaleGroup, String> {
        let values = rows * cols;
        if self.codes.len() != values {
            let got = self.codes.len();
            return Err(format!("expected {values} codes, got {got}"));
        }
        if let Some(at) = self.codes.iter().position(|code| !(-1..=1).contains(code)) {
            return Err(format!(
                "expected codes -1, 0 and +1, got {} at row {}, column {}",
                self.codes[at],
                at / cols,
                at % cols
            ));
        }
        if let Some(at) = self.scales.iter().position(|scale| !scale.is_finite()) {
            return Err(format!(
                "expected finite scales, got {} at {at}",
                self.scales[at]
            ));
        }
        let groups = [64, 128, 256].into_iter();
        let fits =
            |group: &usize| cols.is_multiple_of(*group) && self.scales.len() == values / group;
        match self.scales.len() {
            1 => Ok(ScaleGroup::Tensor),
            n if n == rows => Ok(ScaleGroup::Row),
            n => groups
                .clone()
                .find(fits)
                .map(ScaleGroup::Columns)
                .ok_or_else(|| {
                    format!("expected 1 scale, {rows}, or one for each 64, 128 or 256 columns of each row, got {n}")
                }),
        }
    }

    /// The scales of a row: one for each `cols / len` columns of it.
    pub fn row_scales(&self, group: ScaleGroup, row: usize, cols: usize) -> &[f32] {
        match group {
            ScaleGroup::Tensor => &self.scales,
            ScaleGroup::Row => &self.scales[row..=row],
            ScaleGroup::Columns(group) => &self.scales[row * (cols / group)..][..cols / group],
        }
    }
}

/// The engine's built-in quantizers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BuiltIn {
    /// BitNet b1.58's rule, one scale per tensor.
    Absmean,
    /// The same, one scale per row.
    AbsmeanChannel,
    /// The same, one scale per 64 columns.
    AbsmeanGroup64,
    /// The same, one scale per 128 columns.
    AbsmeanGroup128,
    /// Signs, with the tensor's largest magnitude as the scale.
    SignAbsmax,
}

impl BuiltIn {
    /// All built-in quantizers.
    pub const ALL: [BuiltIn; 5] = [
        BuiltIn::Absmean,
        BuiltIn::AbsmeanChannel,
        BuiltIn::AbsmeanGroup64,
        BuiltIn::AbsmeanGroup128,
        BuiltIn::SignAbsmax,
    ];
}

impl Quantizer for BuiltIn {
    fn name(&self) -> &str {
        match self {
            BuiltIn::Absmean => "absmean",
            BuiltIn::AbsmeanChannel => "absmean-channel",
            BuiltIn::AbsmeanGroup64 => "absmean-group-64",
            BuiltIn::AbsmeanGroup128 => "absmean-group-128",
            BuiltIn::SignAbsmax => "sign-absmax",
        }
    }

    fn quantize(
        &self,
        _tensor: &str,
        weights: &[f32],
        rows: usize,
        cols: usize,
    ) -> Result<Quantized, String> {
        if let Some(at) = weights.iter().position(|weight| !weight.is_finite()) {
            return Err(format!(
                "weight {} at {at} is no finite number",
                weights[at]
            ));
        }
        let group = match self {
            BuiltIn::Absmean | BuiltIn::SignAbsmax => rows * cols,
            BuiltIn::AbsmeanChannel => cols,
            BuiltIn::AbsmeanGroup64 => 64,
            BuiltIn::AbsmeanGroup128 => 128,
        };
        if group < cols && !cols.is_multiple_of(group) {
            return Err(format!("rows of {cols} are no whole groups of {group}"));
        }
        if *self == BuiltIn::SignAbsmax {
            let sign = |w: &f32| i8::from(*w > 0.0) - i8::from(*w < 0.0);
            return Ok(Quantized {
                codes: weights.iter().map(sign).collect(),
                scales: vec![weights.iter().fold(0.0, |most, w| w.abs().max(most))],
            });
        }
        let mut codes = vec![0u8; weights.len()];
        let groups = weights.chunks(group).zip(codes.chunks_mut(group));
        let scales = groups.map(|(weights, codes)| quantize_absmean(weights, codes));
        Ok(Quantized {
            scales: scales.collect(),
            codes: codes.into_iter().map(|code| code as i8 - 1).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEIGHTS: [f32; 8] = [0.5, -0.5, 0.0, 1.0, -2.0, 0.1, 0.0, 0.1];

    #[test]
    fn built_ins_by_hand() {
        let quantize = |built_in: BuiltIn| {
            let shared = SharedQuantizer::new(built_in);
            shared.quantize("w", &WEIGHTS, 2, 4).unwrap()
        };
        // mean|w| = 4.2 / 8 = 0.525; the scale is rounded to bf16.
        let (absmean, group) = quantize(BuiltIn::Absmean);
        assert_eq!(absmean.codes, [1, -1, 0, 1, -1, 0, 0, 0]);
        assert!((absmean.scales[0] - 0.525).abs() < 0.002);
        assert_eq!(group, ScaleGroup::Tensor);
        let (channel, group) = quantize(BuiltIn::AbsmeanChannel);
        assert_eq!(channel.codes, [1, -1, 0, 1, -1, 0, 0, 0]);
        assert!(
            (channel.scales[0] - 0.5).abs() < 0.002 && (channel.scales[1] - 0.55).abs() < 0.002
        );
        assert_eq!(group, ScaleGroup::Row);
        let (sign, _) = quantize(BuiltIn::SignAbsmax);
        assert_eq!(sign.codes, [1, -1, 0, 1, -1, 1, 0, 1]);
        assert_eq!(sign.scales, [2.0]);
    }

    #[test]
    fn wrong_outputs_are_told_by_what_is_wrong() {
        let check = |codes: Vec<i8>, scales: Vec<f32>| Quantized { codes, scales }.check(2, 64);
        let good = || vec![1i8; 128];
        assert_eq!(check(good(), vec![1.0]), Ok(ScaleGroup::Tensor));
        assert_eq!(check(good(), vec![1.0; 2]), Ok(ScaleGroup::Row));
        assert!(
            check(vec![0; 5], vec![1.0])
                .unwrap_err()
                .contains("128 codes")
        );
        let mut bad = good();
        bad[70] = 2;
        assert!(
            check(bad, vec![1.0])
                .unwrap_err()
                .contains("row 1, column 6")
        );
        assert!(
            check(good(), vec![f32::NAN])
                .unwrap_err()
                .contains("finite")
        );
        assert!(check(good(), vec![1.0; 3]).unwrap_err().contains("got 3"));
        let wide = Quantized {
            codes: vec![0; 512],
            scales: vec![1.0; 4],
        };
        assert_eq!(wide.check(2, 256), Ok(ScaleGroup::Columns(128)));
        assert_eq!(wide.row_scales(ScaleGroup::Columns(128), 1, 256).len(), 2);
    }
}
