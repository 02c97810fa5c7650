//! Reads one tensor from a file's blocks into the arena, packed for the kernels, or maps it in
//! place.

use std::sync::atomic::{AtomicBool, Ordering};

use ryz_format::{
    BuiltIn, DType, ErrorSums, QuantizeError, Quantized, ScaleGroup, SharedQuantizer, TensorInfo,
    TensorView, decode,
    encode::{self, AbsmeanSum},
};
use ryz_kernels::{DenseWeight, Linear, PackedTernary, ROW_TILE, TernaryPacker};
use ryz_tmac::{AlignedVec, Arena, BufferKind, InputFile, MappedSlice, ReadOnlySlice};
use xxhash_rust::xxh3::Xxh3;

use crate::{
    ModelError,
    load::{Loader, Matrix, QuantizedTensor},
    place::Reservation,
};

/// Bytes of a tensor staged at a time before packing.
const STAGE_BYTES: usize = 4 << 20;

/// Rows staged at a time: whole tiles, at most all of the tensor's rows.
pub(crate) fn stage_rows(rows: usize, row_bytes: usize) -> usize {
    ((STAGE_BYTES / row_bytes.max(1) / ROW_TILE).max(1) * ROW_TILE).min(rows)
}

/// Reads one tensor; its memory is labelled with its name.
pub(crate) struct TensorLoader<'a> {
    pub loader: &'a Loader<'a>,
    pub tensor: &'a TensorInfo,
    pub arena: Arena,
}

impl TensorLoader<'_> {
    /// The memory for packing a ternary matrix of `dtype`.
    pub fn packer(&self, dtype: DType) -> Result<TernaryPacker, ModelError> {
        let (loader, tensor) = (self.loader, self.tensor);
        if let Some(Reservation::Ternary(packer)) = loader.reserved.take(&tensor.name) {
            return Ok(packer);
        }
        let (name, rows, cols) = (&tensor.name, tensor.rows, tensor.cols);
        let packer = TernaryPacker::new(name, dtype, rows, cols, loader.kernels, &self.arena);
        packer.map_err(|source| ModelError::Tensor {
            path: self.file().path().to_owned(),
            source,
        })
    }

    fn file(&self) -> &InputFile {
        self.loader.source.file_of(self.tensor)
    }

    /// Packs a complete matrix.
    fn pack_whole(&self, view: &TensorView<'_>) -> Result<PackedTernary, ModelError> {
        let at = |source| ModelError::Tensor {
            path: self.file().path().to_owned(),
            source,
        };
        let mut packer = self.packer(view.dtype())?;
        for mut chunk in packer.chunks(view.rows().next_multiple_of(ROW_TILE)) {
            chunk.pack(view).map_err(at)?;
        }
        packer.finish(&self.arena).map_err(at)
    }

    /// Reads a matrix in the file's type.
    pub fn matrix(&self, stop: &AtomicBool) -> Result<Matrix, ModelError> {
        Ok(Matrix {
            linear: self.linear(stop)?,
            dtype: self.tensor.dtype,
            quantized: None,
        })
    }

    fn linear(&self, stop: &AtomicBool) -> Result<Linear, ModelError> {
        let (tensor, file) = (self.tensor, self.file());
        let path = || file.path().to_owned();
        let at = |source| ModelError::Tensor {
            path: path(),
            source,
        };
        let malformed = |source| ModelError::Format {
            path: path(),
            source,
        };
        let bytes = usize::try_from(tensor.bytes).unwrap_or(usize::MAX);
        if !tensor.dtype.is_ternary() {
            let blocks: ReadOnlySlice<u8> = match self.loader.reserved.take(&tensor.name) {
                Some(Reservation::Dense(mut blocks)) => {
                    file.read_at(tensor.offset, blocks.as_bytes_mut())?;
                    blocks.into()
                }
                _ => match self.mapped(tensor.offset, bytes) {
                    Some(blocks) => blocks.into(),
                    None => file
                        .read_range(tensor.offset, bytes, &self.arena, BufferKind::Weights)?
                        .into(),
                },
            };
            if let ReadOnlySlice::Owned(blocks) = &blocks {
                self.hashed([blocks]);
            }
            let (rows, cols) = (tensor.rows, tensor.cols);
            let kernels = self.loader.kernels;
            let weight = DenseWeight::new(&tensor.name, tensor.dtype, rows, cols, blocks, kernels);
            let weight = weight.map_err(at)?;
            return Ok(Linear::Dense(weight));
        }
        if tensor.dtype.is_prepacked() {
            return self.prepacked();
        }
        let row_bytes = tensor.dtype.row_bytes(tensor.cols);
        let Some(row_bytes) = row_bytes.filter(|_| tensor.dtype != DType::HfPacked) else {
            // Hugging Face packs four distant rows into one byte, so packing needs the whole
            // tensor.
            let staged = file.read_range(tensor.offset, bytes, &self.arena, BufferKind::Staging)?;
            self.hashed([staged.as_bytes()]);
            let scaled = TensorView::with_scale(
                &tensor.name,
                tensor.dtype,
                tensor.rows,
                tensor.cols,
                staged.as_bytes(),
                1.0,
            );
            let view = scaled.map_err(malformed)?;
            return Ok(Linear::Ternary(self.pack_whole(&view)?));
        };
        let mut tail = vec![0; tensor.dtype.tail_bytes()];
        let tail_at = tensor.bytes - tail.len() as u64;
        file.read_at(tensor.offset + tail_at, &mut tail)?;
        let scale = tail
            .first_chunk()
            .map_or(1.0, |scale| f32::from_le_bytes(*scale));
        let mut hash = Xxh3::new();
        let mut packer = self.packer(tensor.dtype)?;
        let rows = stage_rows(usize::MAX, row_bytes);
        let staged_rows = stage_rows(tensor.rows, row_bytes);
        let mut staged = self
            .arena
            .allocate(staged_rows * row_bytes, BufferKind::Staging)?;
        for mut chunk in packer.chunks(rows) {
            if stop.load(Ordering::Relaxed) {
                return Err(ModelError::Aborted);
            }
            let range = chunk.rows();
            let bytes = &mut staged.as_bytes_mut()[..range.len() * row_bytes];
            file.read_at(tensor.offset + (range.start * row_bytes) as u64, bytes)?;
            hash.update(bytes);
            let view = TensorView::with_scale(
                &tensor.name,
                tensor.dtype,
                range.len(),
                tensor.cols,
                bytes,
                scale,
            );
            chunk.pack(&view.map_err(malformed)?).map_err(at)?;
        }
        hash.update(&tail);
        self.loader.hashes.add(tensor, &hash);
        Ok(Linear::Ternary(packer.finish(&self.arena).map_err(at)?))
    }

    /// Records the hash of the tensor's bytes, given as consecutive pieces.
    fn hashed<const N: usize>(&self, pieces: [&[u8]; N]) {
        let mut hash = Xxh3::new();
        pieces.iter().for_each(|piece| hash.update(piece));
        self.loader.hashes.add(self.tensor, &hash);
    }

    /// Elements of the mapped file, if it is mapped and they are aligned.
    fn mapped<T: bytemuck::Pod>(&self, offset: u64, len: usize) -> Option<MappedSlice<T>> {
        let file = self.loader.maps.get(self.tensor.shard)?;
        MappedSlice::new(file, offset, len)
    }

    /// Reads or maps a matrix whose file layout equals its memory layout.
    fn prepacked(&self) -> Result<Linear, ModelError> {
        let (tensor, file) = (self.tensor, self.file());
        let at = |source| ModelError::Tensor {
            path: file.path().to_owned(),
            source,
        };
        let dtype = tensor.dtype;
        let shape = (tensor.rows, tensor.cols);
        let count = TernaryPacker::line_count(shape.0, shape.1);
        let mut packer = match self.mapped(tensor.offset, count) {
            Some(lines) => {
                let (kernels, arena) = (self.loader.kernels, &self.arena);
                TernaryPacker::of_lines(&tensor.name, dtype, shape, lines, kernels, arena)
                    .map_err(at)?
            }
            None => self.packer(dtype)?,
        };
        let after = tensor.offset + packer.line_bytes() as u64;
        let (lines, scales) = packer.prepacked_mut();
        if !lines.is_empty() {
            file.read_at(tensor.offset, lines)?;
        }
        let mut tail = vec![0; dtype.tail_bytes()];
        match dtype.has_tensor_scale() {
            true => file.read_at(after, &mut tail)?,
            false => file.read_at(after, scales)?,
        }
        if !lines.is_empty() {
            self.hashed([lines, scales, &tail]);
        }
        let scale = tail
            .first_chunk()
            .map_or(0.0, |scale| f32::from_le_bytes(*scale));
        let packed = packer.finish_prepacked(scale, &self.arena).map_err(at)?;
        Ok(Linear::Ternary(packed))
    }

    /// Reads float weights and makes them ternary: with the given quantizer or, for master weights
    /// without one, as BitNet's training does on every step.
    pub fn quantized(&self) -> Result<Matrix, ModelError> {
        let (tensor, file) = (self.tensor, self.file());
        let (rows, cols) = (tensor.rows, tensor.cols);
        let bytes = usize::try_from(tensor.bytes).unwrap_or(usize::MAX);
        let staged = file.read_range(tensor.offset, bytes, &self.arena, BufferKind::Staging)?;
        let mut weights = self
            .arena
            .allocate_slice::<f32>(rows * cols, BufferKind::Staging)?;
        self.hashed([staged.as_bytes()]);
        decode::decode_row(tensor.dtype, staged.as_bytes(), &mut weights);
        drop(staged);
        let absmean = || SharedQuantizer::new(BuiltIn::Absmean);
        let quantizer = self.loader.quantizer.cloned().unwrap_or_else(absmean);
        let (mut quantized, group) = quantizer.quantize(&tensor.name, &weights, rows, cols)?;
        if self.loader.quantizer.is_none() {
            // Master weights use BitNet's rule.
            let mut sum = AbsmeanSum::default();
            sum.add(&weights);
            quantized.scales[0] = sum.finish().scale_in(tensor.dtype);
        }
        let failed = |message| QuantizeError {
            quantizer: quantizer.name().to_owned(),
            tensor: tensor.name.clone(),
            message,
        };
        let (dtype, bytes) = encoded(&quantized, group, rows, cols).map_err(failed)?;
        let scale = match group {
            ScaleGroup::Tensor => quantized.scales[0],
            _ => 1.0,
        };
        let view = TensorView::with_scale(&tensor.name, dtype, rows, cols, &bytes, scale);
        let view = view.map_err(|source| ModelError::Format {
            path: file.path().to_owned(),
            source,
        })?;
        let packed = self.pack_whole(&view)?;
        let mut row_as_read = vec![0.0; cols];
        let mut sums = ErrorSums::default();
        let mut zeros = 0;
        for (row, weights) in weights.chunks_exact(cols).enumerate() {
            packed.decode_row(row, &mut row_as_read);
            for (&weight, &read) in weights.iter().zip(&row_as_read) {
                sums.add(weight.into(), read.into());
                zeros += usize::from(read == 0.0);
            }
        }
        let report = QuantizedTensor {
            name: tensor.name.clone(),
            error: sums.finish(),
            zero_fraction: zeros as f64 / (rows * cols) as f64,
        };
        Ok(Matrix {
            linear: Linear::Ternary(packed),
            dtype,
            quantized: Some(report),
        })
    }
}

impl Loader<'_> {
    /// Reads a vector of floats; `None` if the model has no tensor of that name.
    pub fn vector(&self, name: &str) -> Result<Option<AlignedVec<f32>>, ModelError> {
        let Some(tensor) = self.source.tensor(name) else {
            return Ok(None);
        };
        let bytes = usize::try_from(tensor.bytes).unwrap_or(usize::MAX);
        let arena = self.arena.labelled(name);
        let staged = self.source.file_of(tensor).read_range(
            tensor.offset,
            bytes,
            &arena,
            BufferKind::Staging,
        )?;
        let mut hash = Xxh3::new();
        hash.update(staged.as_bytes());
        self.hashes.add(tensor, &hash);
        let mut values = arena.allocate_slice::<f32>(tensor.cols, BufferKind::Weights)?;
        decode::decode_row(tensor.dtype, staged.as_bytes(), &mut values);
        Ok(Some(values))
    }
}

/// Encodes codes and scales as blocks of a type that holds them. A single scale per tensor stays
/// exact; several are rounded to fp16.
fn encoded(
    quantized: &Quantized,
    group: ScaleGroup,
    rows: usize,
    cols: usize,
) -> Result<(DType, Vec<u8>), String> {
    let code = |code: &i8| (code + 1) as u8;
    if group == ScaleGroup::Tensor {
        // Hugging Face's packing keeps the scale in f32 and accepts any number of columns.
        if !rows.is_multiple_of(4) {
            return Err(format!(
                "one scale a tensor needs rows in fours, there are {rows}"
            ));
        }
        let quarter = rows / 4 * cols;
        let mut packed = vec![0; quarter];
        for (place, codes) in quantized.codes.chunks_exact(quarter).enumerate() {
            for (out, c) in packed.iter_mut().zip(codes) {
                *out |= code(c) << (2 * place);
            }
        }
        return Ok((DType::HfPacked, packed));
    }
    let fits = |dtype: &DType| {
        let block = dtype.block_values();
        cols.is_multiple_of(block) && !matches!(group, ScaleGroup::Columns(size) if size != block)
    };
    let types = [DType::TQ2_0, DType::Q2_0G128, DType::Q2_0G64];
    let dtype = types
        .into_iter()
        .find(fits)
        .ok_or_else(|| format!("scales of rows need columns in groups of 64, there are {cols}"))?;
    if let Some(scale) = quantized.scales.iter().find(|scale| scale.abs() > 65_504.0) {
        return Err(format!("expected scales that fp16 can hold, got {scale}"));
    }
    let mut bytes = Vec::new();
    let blocks = cols / dtype.block_values();
    for (row, codes) in quantized.codes.chunks_exact(cols).enumerate() {
        let codes: Vec<u8> = codes.iter().map(code).collect();
        let scales = quantized.row_scales(group, row, cols);
        let scales: Vec<f32> = match scales {
            [scale] => vec![*scale; blocks],
            scales => scales.to_vec(),
        };
        encode::encode_ternary(dtype, &codes, &scales, &mut bytes);
    }
    Ok((dtype, bytes))
}
