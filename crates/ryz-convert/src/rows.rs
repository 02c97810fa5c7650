//! Reads rows of a tensor in pieces, so that memory does not grow with the model.

use std::ops::Range;

use ryz_format::{DType, TensorInfo, TensorView, decode};

use crate::{ConvertError, source::Source};

/// Maximum weights in memory at a time, or the rows of one head if they are more.
const CHUNK_VALUES: usize = 1 << 20;

/// Bytes copied at a time.
const COPY_BYTES: u64 = 4 << 20;

/// One tensor's rows, in the source's order.
pub(crate) struct Rows<'a> {
    source: &'a Source,
    pub(crate) tensor: &'a TensorInfo,
    /// The scale of the whole tensor, for types that have one; else 1.
    scale: f32,
    /// The rows held in `bytes`.
    rows: Range<usize>,
    bytes: Vec<u8>,
}

impl<'a> Rows<'a> {
    /// `scale` is the whole tensor's if the type has one, else 1.
    pub(crate) fn new(source: &'a Source, tensor: &'a TensorInfo, scale: f32) -> Rows<'a> {
        Rows {
            source,
            tensor,
            scale,
            rows: 0..0,
            bytes: Vec::new(),
        }
    }

    /// All rows in pieces of bounded size, each a multiple of `granule` rows except the last.
    pub(crate) fn chunks(&self, granule: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let rows = self.tensor.rows;
        let step = (CHUNK_VALUES / self.tensor.cols.max(1) / granule).max(1) * granule;
        (0..rows)
            .step_by(step)
            .map(move |first| first..rows.min(first + step))
    }

    /// Reads rows for the functions below.
    pub(crate) fn read(&mut self, rows: Range<usize>) -> Result<(), ConvertError> {
        let row_bytes = self.row_bytes();
        self.bytes.resize(rows.len() * row_bytes, 0);
        self.rows = rows.clone();
        if self.tensor.dtype != DType::HfPacked {
            let offset = (rows.start * row_bytes) as u64;
            return self.source.read(self.tensor, offset, &mut self.bytes);
        }
        // Packed row p holds rows p, p + rows/4, …: a piece needs up to four runs of packed rows,
        // each read for its own bits.
        let quarter = self.tensor.rows / 4;
        let mut row = rows.start;
        while row < rows.end {
            let end = rows.end.min((row / quarter + 1) * quarter);
            let bytes =
                &mut self.bytes[(row - rows.start) * row_bytes..(end - rows.start) * row_bytes];
            let offset = (row % quarter * row_bytes) as u64;
            self.source.read(self.tensor, offset, bytes)?;
            row = end;
        }
        Ok(())
    }

    /// The bytes of a loaded row; for packed rows, those of all four rows that share them.
    pub(crate) fn bytes(&self, row: usize) -> &[u8] {
        let row_bytes = self.row_bytes();
        &self.bytes[(row - self.rows.start) * row_bytes..][..row_bytes]
    }

    /// Decodes a loaded row.
    pub(crate) fn decode(&self, row: usize, out: &mut [f32]) {
        if self.tensor.dtype == DType::HfPacked {
            for (out, byte) in out.iter_mut().zip(self.bytes(row)) {
                *out = (f32::from(byte >> self.shift(row) & 3) - 1.0) * self.scale;
            }
            return;
        }
        decode::decode_row(self.tensor.dtype, self.bytes(row), out);
        if self.tensor.dtype == DType::I2S {
            out.iter_mut().for_each(|w| *w *= self.scale);
        }
    }

    /// Unpacks a loaded row of a ternary tensor: codes t + 1, and a scale for each [`Rows::group`].
    pub(crate) fn unpack(&self, row: usize, codes: &mut [u8], scales: &mut [f32]) {
        match self.tensor.dtype {
            DType::HfPacked => {
                for (code, byte) in codes.iter_mut().zip(self.bytes(row)) {
                    *code = byte >> self.shift(row) & 3;
                }
                scales[0] = self.scale;
            }
            DType::I2S => {
                decode::unpack_codes(DType::I2S, self.bytes(row), codes, &mut []);
                scales[0] = self.scale;
            }
            dtype => decode::unpack_codes(dtype, self.bytes(row), codes, scales),
        }
    }

    /// Weights of a ternary tensor that share a scale: a block, or a row if the scale is the
    /// tensor's.
    pub(crate) fn group(&self) -> usize {
        match self.tensor.dtype.has_tensor_scale() {
            true => self.tensor.cols,
            false => self.tensor.dtype.block_values(),
        }
    }

    fn shift(&self, row: usize) -> usize {
        2 * (row / (self.tensor.rows / 4))
    }

    fn row_bytes(&self) -> usize {
        match self.tensor.dtype {
            DType::HfPacked => self.tensor.cols,
            dtype => dtype
                .row_bytes(self.tensor.cols)
                .expect("headers have whole blocks"),
        }
    }
}

/// Passes on a tensor's bytes piece by piece, including the tail.
pub(crate) fn copy(
    source: &Source,
    tensor: &TensorInfo,
    each: &mut dyn FnMut(&[u8]) -> Result<(), ConvertError>,
) -> Result<(), ConvertError> {
    let mut bytes = Vec::new();
    let mut offset = 0;
    while offset < tensor.bytes {
        let len = COPY_BYTES.min(tensor.bytes - offset);
        bytes.resize(len as usize, 0);
        source.read(tensor, offset, &mut bytes)?;
        each(&bytes)?;
        offset += len;
    }
    Ok(())
}

/// Reads a whole vector.
pub(crate) fn vector(source: &Source, tensor: &TensorInfo) -> Result<Vec<f32>, ConvertError> {
    let bytes = usize::try_from(tensor.bytes).unwrap_or(usize::MAX);
    let mut bytes = vec![0; bytes];
    source.read(tensor, 0, &mut bytes)?;
    let view = TensorView::new(&tensor.name, tensor.dtype, 1, tensor.cols, &bytes)
        .map_err(|error| source.fault(tensor, error))?;
    let mut values = vec![0.0; tensor.cols];
    view.decode_row(0, &mut values);
    Ok(values)
}

/// The scale in the tail of an `I2_S` tensor.
pub(crate) fn tail_scale(source: &Source, tensor: &TensorInfo) -> Result<f32, ConvertError> {
    let mut scale = [0; 4];
    let tail = tensor.bytes - DType::I2S.tail_bytes() as u64;
    source.read(tensor, tail, &mut scale)?;
    Ok(f32::from_le_bytes(scale))
}

/// The source's row for a row of the target, if rows of q and k change from halves to interleaved
/// pairs: GGUF's llama files rotate elements 2i and 2i + 1 of a head together, Hugging Face's i and
/// i + head/2. Without a head, the same row.
pub(crate) fn source_row(row: usize, head: Option<usize>) -> usize {
    match head {
        None => row,
        Some(head) => {
            let element = row % head;
            row - element + element % 2 * (head / 2) + element / 2
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_become_pairs() {
        let order: Vec<usize> = (0..12).map(|row| source_row(row, Some(6))).collect();
        assert_eq!(order, [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]);
        assert_eq!(source_row(7, None), 7);
    }
}
