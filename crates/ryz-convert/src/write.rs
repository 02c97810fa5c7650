//! Second pass: writes every tensor of the plan to the target, piece by piece.

use std::io::Write;

use half::f16;
use ryz_format::{
    DType, ErrorSums, FormatError, GgufBody, QuantizeError, Quantized, ScaleGroup, SharedQuantizer,
    TensorInfo, decode, encode,
};

use crate::{
    ConvertError, Method, TensorReport,
    plan::{Codes, Output, Scale, TensorScale, Ternary, Work},
    prepack::Prepacker,
    progress::Progress,
    rows::{self, Rows, source_row},
    source::Source,
    ternary,
};

/// Writes tensors.
pub(crate) struct Writer<'s, 'b, 'c, W: Write> {
    pub(crate) source: &'s Source,
    pub(crate) body: &'b mut GgufBody<W>,
    pub(crate) progress: &'b mut Progress<'c>,
    /// The quantizer for [`Codes::Quantizer`].
    pub(crate) quantizer: Option<&'s SharedQuantizer>,
    /// Converts a write error to a [`ConvertError`].
    pub(crate) failed: &'s dyn Fn(FormatError) -> ConvertError,
}

/// Counts taken while a tensor is written.
#[derive(Default)]
struct Counts {
    zeros: Option<f64>,
    error: Option<ErrorSums>,
    lossless: bool,
}

impl<W: Write> Writer<'_, '_, '_, W> {
    /// Writes a tensor.
    pub(crate) fn tensor(&mut self, output: &Output<'_>) -> Result<TensorReport, ConvertError> {
        let counts = match &output.work {
            Work::Values(values) => self.values(output, values)?,
            Work::Copy => self.copy(output)?,
            Work::Floats => self.floats(output)?,
            Work::Ternary(ternary) => self.ternary(output, ternary)?,
        };
        Ok(TensorReport {
            name: output.name.clone(),
            source: output.source.map(|tensor| tensor.dtype),
            target: output.target_dtype(),
            rows: output.shape[1..].iter().product::<u64>() as usize,
            cols: output.shape[0] as usize,
            method: output.method,
            lossless: counts.lossless,
            zero_fraction: counts.zeros,
            error: counts.error.map(ErrorSums::finish),
        })
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), ConvertError> {
        self.body.append(bytes).map_err(self.failed)
    }

    fn values(&mut self, output: &Output<'_>, values: &[f32]) -> Result<Counts, ConvertError> {
        let mut bytes = Vec::new();
        encode::encode_floats(DType::F32, values, &mut bytes);
        self.append(&bytes)?;
        if let Some(tensor) = output.source {
            self.progress.bytes(&output.name, tensor.bytes)?;
        }
        Ok(Counts {
            lossless: true,
            ..Counts::default()
        })
    }

    fn copy(&mut self, output: &Output<'_>) -> Result<Counts, ConvertError> {
        let tensor = from(output);
        let counts = Counts {
            lossless: true,
            ..Counts::default()
        };
        let Some(head) = output.head else {
            rows::copy(self.source, tensor, &mut |bytes| {
                self.body.append(bytes).map_err(self.failed)?;
                self.progress.bytes(&tensor.name, bytes.len() as u64)
            })?;
            return Ok(counts);
        };
        let mut rows = Rows::new(self.source, tensor, 1.0);
        for chunk in rows.chunks(head) {
            rows.read(chunk.clone())?;
            for row in chunk.clone() {
                self.append(rows.bytes(source_row(row, Some(head))))?;
            }
            self.progress
                .rows(&tensor.name, tensor.bytes, &chunk, tensor.rows)?;
        }
        Ok(counts)
    }

    fn floats(&mut self, output: &Output<'_>) -> Result<Counts, ConvertError> {
        let tensor = from(output);
        let mut rows = Rows::new(self.source, tensor, 1.0);
        let mut sums = ErrorSums::default();
        let mut values = vec![0.0; tensor.cols];
        let mut written = vec![0.0; tensor.cols];
        let mut lossless = true;
        let mut bytes = Vec::new();
        let row_head = output.head.filter(|_| tensor.rows > 1);
        for chunk in rows.chunks(row_head.unwrap_or(1)) {
            rows.read(chunk.clone())?;
            for row in chunk.clone() {
                rows.decode(source_row(row, row_head), &mut values);
                if output.head.is_some() && tensor.rows == 1 {
                    values = (0..values.len())
                        .map(|element| values[source_row(element, output.head)])
                        .collect();
                }
                bytes.clear();
                encode::encode_floats(output.dtype, &values, &mut bytes);
                decode::decode_row(output.dtype, &bytes, &mut written);
                for (&w, &written) in values.iter().zip(&written) {
                    if !written.is_finite() {
                        return Err(ConvertError::NotFinite {
                            name: tensor.name.clone(),
                            dtype: output.dtype,
                            row,
                            got: w,
                        });
                    }
                    lossless &= w == written;
                    sums.add(w.into(), written.into());
                }
                self.append(&bytes)?;
            }
            self.progress
                .rows(&tensor.name, tensor.bytes, &chunk, tensor.rows)?;
        }
        Ok(Counts {
            zeros: None,
            error: (!lossless).then_some(sums),
            lossless,
        })
    }

    fn ternary(&mut self, output: &Output<'_>, ternary: &Ternary) -> Result<Counts, ConvertError> {
        let tensor = from(output);
        let mut whole = match ternary.scale {
            Scale::Tensor(scale) => Some(scale),
            Scale::Blocks => None,
        };
        let mut rows = Rows::new(self.source, tensor, 1.0);
        let cols = tensor.cols;
        let quantized = match (ternary.codes, self.quantizer) {
            (Codes::Quantizer, Some(quantizer)) => Some(quantize(quantizer, &mut rows)?),
            _ => None,
        };
        if let Some((quantized, group)) = &quantized
            && output.dtype == DType::I2S
        {
            whole = Some(only_scale(tensor, quantized, *group)?);
        }
        let mut row_maker = RowMaker::new(ternary.codes, whole, output.dtype, &rows);
        row_maker.quantized = quantized;
        // Master weights are rounded by their own rule; the error is reported anyway.
        let mut sums =
            (!ternary.lossless || output.method == Method::Quantized).then(ErrorSums::default);
        let mut zeros = 0u64;
        let mut bytes = Vec::new();
        let mut prepacker = (output.target_dtype().is_prepacked())
            .then(|| Prepacker::new(cols, row_maker.block, output.dtype == DType::I2S));
        for chunk in rows.chunks(output.head.unwrap_or(1)) {
            rows.read(chunk.clone())?;
            bytes.clear();
            for row in chunk.clone() {
                row_maker.make(&rows, source_row(row, output.head))?;
                zeros += row_maker.zeros();
                if let Some(got) = row_maker.too_large() {
                    return Err(ConvertError::NotFinite {
                        name: tensor.name.clone(),
                        dtype: output.dtype,
                        row,
                        got,
                    });
                }
                if let Some(sums) = &mut sums {
                    row_maker.compare(sums);
                }
                let (codes, scales) = (&row_maker.codes, &row_maker.scales);
                if let Some(prepacker) = &mut prepacker {
                    prepacker.row(codes, scales, &mut bytes);
                    continue;
                }
                ternary::encode(output.dtype, codes, scales, row_maker.block, &mut bytes);
            }
            self.append(&bytes)?;
            self.progress
                .rows(&tensor.name, tensor.bytes, &chunk, tensor.rows)?;
        }
        if let Some(prepacker) = prepacker {
            bytes.clear();
            prepacker.finish(&mut bytes);
            self.append(&bytes)?;
        }
        if output.dtype == DType::I2S {
            let mut tail = vec![0; output.target_dtype().tail_bytes()];
            let scale = whole.map_or(1.0, |scale| scale.written);
            tail[..4].copy_from_slice(&scale.to_le_bytes());
            self.append(&tail)?;
        }
        Ok(Counts {
            zeros: Some(zeros as f64 / (tensor.rows as f64 * cols as f64)),
            error: sums,
            lossless: ternary.lossless,
        })
    }
}

/// Computes one row's codes and scales.
struct RowMaker {
    from: Codes,
    dtype: DType,
    whole: Option<TensorScale>,
    /// Weights that share a scale, in the target and in the source.
    block: usize,
    group: usize,
    codes: Vec<u8>,
    /// One per block.
    scales: Vec<f32>,
    /// One per group of the source, if it is ternary.
    source_scales: Vec<f32>,
    /// The source's numbers, if it is not ternary.
    values: Vec<f32>,
    /// The quantizer's result for the tensor.
    quantized: Option<(Quantized, ScaleGroup)>,
}

impl RowMaker {
    fn new(from: Codes, whole: Option<TensorScale>, dtype: DType, rows: &Rows<'_>) -> RowMaker {
        let cols = rows.tensor.cols;
        let block = ternary::block_of(dtype, cols);
        let is_packed = matches!(from, Codes::Packed);
        let group = if is_packed { rows.group() } else { cols };
        RowMaker {
            from,
            dtype,
            whole,
            block,
            group,
            codes: vec![0; cols],
            scales: vec![whole.map_or(0.0, |scale| scale.written); cols / block],
            source_scales: vec![0.0; cols / group],
            values: vec![0.0; if is_packed { 0 } else { cols }],
            quantized: None,
        }
    }

    fn make(&mut self, rows: &Rows<'_>, row: usize) -> Result<(), ConvertError> {
        match self.from {
            Codes::Packed => {
                rows.unpack(row, &mut self.codes, &mut self.source_scales);
                let (codes, scales) = (&mut self.codes, &self.source_scales);
                let same = match self.whole {
                    // In groups whose scale is 0, the codes become 0; the common scale is already
                    // known.
                    Some(_) => ternary::common_scale(codes, scales, self.group).map(drop),
                    None => {
                        ternary::regroup(codes, scales, self.group, self.block, &mut self.scales)
                    }
                };
                debug_assert!(same.is_ok(), "the scan found the scales equal");
                return Ok(());
            }
            _ => rows.decode(row, &mut self.values),
        }
        if let Some((quantized, group)) = &self.quantized {
            let (cols, block) = (self.codes.len(), self.block);
            let codes = &quantized.codes[row * cols..][..cols];
            for (code, &quantized) in self.codes.iter_mut().zip(codes) {
                *code = (quantized + 1) as u8;
            }
            if self.whole.is_some() {
                return Ok(());
            }
            let scales = quantized.row_scales(*group, row, cols);
            let group = cols / scales.len();
            let out = &mut self.scales;
            return ternary::regroup(&mut self.codes, scales, group, block, out).map_err(
                |differ| ConvertError::ScalesDiffer {
                    name: rows.tensor.name.clone(),
                    row,
                    form: self.dtype,
                    per: "block",
                    first: differ.first,
                    other: differ.other,
                },
            );
        }
        let blocks = self
            .values
            .chunks(self.block)
            .zip(self.codes.chunks_mut(self.block));
        for ((values, codes), scale) in blocks.zip(&mut self.scales) {
            match self.from {
                Codes::Packed | Codes::Quantizer => unreachable!("returned above"),
                Codes::Signs => {
                    for (code, &value) in codes.iter_mut().zip(values) {
                        *code = 1 + u8::from(value > 0.0) - u8::from(value < 0.0);
                    }
                    if self.whole.is_none() {
                        *scale = values.iter().fold(0.0, |max, value| max.max(value.abs()));
                    }
                }
                Codes::Absmean(absmean) => {
                    for (code, &value) in codes.iter_mut().zip(values) {
                        *code = absmean.code(value);
                    }
                }
                Codes::AbsmeanBlocks => *scale = encode::quantize_absmean(values, codes),
            }
        }
        Ok(())
    }

    /// A block's scale that fp16 cannot hold; tensor scales were checked before.
    fn too_large(&self) -> Option<f32> {
        let blocks = self.whole.is_none().then_some(&self.scales);
        let mut scales = blocks.into_iter().flatten().copied();
        scales.find(|&scale| f16::from_f32(scale).is_infinite())
    }

    fn zeros(&self) -> u64 {
        self.codes.iter().filter(|&&code| code == 1).count() as u64
    }

    /// Adds the error between the row's weights in the source and in the target.
    fn compare(&self, sums: &mut ErrorSums) {
        for (i, &code) in self.codes.iter().enumerate() {
            let t = f64::from(code) - 1.0;
            let (written, meant) = match self.whole {
                Some(scale) => (t * scale.target(), t * scale.exact),
                // Blocks hold fp16.
                None => {
                    let scale = f16::from_f32(self.scales[i / self.block]).to_f64();
                    (t * scale, t * scale)
                }
            };
            let w = self.values.get(i).map_or(meant, |&value| value.into());
            sums.add(w, written);
        }
    }
}

/// Passes the whole tensor to the quantizer.
fn quantize(
    quantizer: &SharedQuantizer,
    rows: &mut Rows<'_>,
) -> Result<(Quantized, ScaleGroup), ConvertError> {
    let (name, cols) = (rows.tensor.name.clone(), rows.tensor.cols);
    let mut weights = vec![0.0; rows.tensor.rows * cols];
    for chunk in rows.chunks(1) {
        rows.read(chunk.clone())?;
        for row in chunk {
            rows.decode(row, &mut weights[row * cols..][..cols]);
        }
    }
    Ok(quantizer.quantize(&name, &weights, rows.tensor.rows, cols)?)
}

/// The scale of a tensor whose type allows only one.
fn only_scale(
    tensor: &TensorInfo,
    quantized: &Quantized,
    group: ScaleGroup,
) -> Result<TensorScale, ConvertError> {
    if group != ScaleGroup::Tensor {
        return Err(ConvertError::Quantizer(QuantizeError {
            quantizer: "given".to_owned(),
            tensor: tensor.name.clone(),
            message: "i2_s holds one scale a tensor, got more".to_owned(),
        }));
    }
    let scale = quantized.scales[0];
    Ok(TensorScale {
        exact: scale.into(),
        written: scale,
        separate: None,
    })
}

fn from<'a>(output: &Output<'a>) -> &'a TensorInfo {
    output.source.expect("made of a tensor of the source")
}
