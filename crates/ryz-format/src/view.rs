//! A tensor's bytes, with a length guaranteed to match its type and shape.

use std::ops::Range;

use crate::{DType, FormatError, decode};

/// A matrix in a file's own blocks, in row-major order; a one-dimensional tensor has one row.
///
/// The constructors check the length, so that later code can slice by `dtype`, `rows` and `cols`.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    name: &'a str,
    dtype: DType,
    rows: usize,
    cols: usize,
    /// The blocks, without a tail.
    bytes: &'a [u8],
    /// The scale of the whole tensor, for the types that have one; else 1.
    scale: f32,
}

impl<'a> TensorView<'a> {
    /// Views the whole tensor: `rows` × `cols` weights and, for `I2_S`, the 32-byte tail with the
    /// scale.
    ///
    /// # Errors
    /// [`FormatError::BadShape`] when `cols` is not a whole number of blocks;
    /// [`FormatError::ByteCount`] when the length of `bytes` does not match the shape;
    /// [`FormatError::BadType`] for [`DType::HfPacked`], whose scale is stored elsewhere.
    pub fn new(
        name: &'a str,
        dtype: DType,
        rows: usize,
        cols: usize,
        bytes: &'a [u8],
    ) -> Result<TensorView<'a>, FormatError> {
        if dtype == DType::HfPacked || dtype.is_prepacked() {
            return Err(FormatError::BadType {
                name: name.to_owned(),
                expected: "a type that holds its own scale",
                got: dtype.name().to_owned(),
            });
        }
        check(name, dtype, rows, cols, bytes.len(), dtype.tail_bytes())?;
        let (blocks, tail) = bytes.split_at(bytes.len() - dtype.tail_bytes());
        let scale = match tail.first_chunk::<4>() {
            Some(scale) => f32::from_le_bytes(*scale),
            None => 1.0,
        };
        Ok(TensorView {
            name,
            dtype,
            rows,
            cols,
            bytes: blocks,
            scale,
        })
    }

    /// Views packed weights with a known scale: some rows of an `I2_S` tensor without its tail, or
    /// a whole [`DType::HfPacked`] tensor. For types with scales in their blocks, `scale` must be
    /// 1.
    ///
    /// Loaders that read a tensor piece by piece use this to view a piece.
    ///
    /// # Errors
    /// [`FormatError::BadShape`] and [`FormatError::ByteCount`] as for [`TensorView::new`].
    pub fn with_scale(
        name: &'a str,
        dtype: DType,
        rows: usize,
        cols: usize,
        bytes: &'a [u8],
        scale: f32,
    ) -> Result<TensorView<'a>, FormatError> {
        if dtype.is_prepacked() {
            return Err(FormatError::BadType {
                name: name.to_owned(),
                expected: "a type with rows of its own",
                got: dtype.name().to_owned(),
            });
        }
        assert!(
            dtype.has_tensor_scale() || scale == 1.0,
            "{dtype} has its scales in the blocks"
        );
        check(name, dtype, rows, cols, bytes.len(), 0)?;
        Ok(TensorView {
            name,
            dtype,
            rows,
            cols,
            bytes,
            scale,
        })
    }

    /// The tensor's name.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// The type of its blocks.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Rows (outputs of a linear layer).
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns (inputs of a linear layer).
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The blocks, without the tail of `I2_S`.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The scale of the whole tensor if the type has one ([`DType::has_tensor_scale`]), else 1.
    pub fn tensor_scale(&self) -> f32 {
        self.scale
    }

    /// Weights that share one scale: a block, or a row if the scale is the tensor's.
    pub fn scale_values(&self) -> usize {
        if self.dtype.has_tensor_scale() {
            self.cols
        } else {
            self.dtype.block_values()
        }
    }

    /// The scale of the whole tensor if its type has one ([`DType::has_tensor_scale`]), else 1.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// Scales per row, as returned by [`TensorView::unpack_row`].
    pub fn scales_per_row(&self) -> usize {
        if self.dtype.has_tensor_scale() {
            1
        } else {
            self.cols / self.dtype.block_values()
        }
    }

    /// The bytes of one row.
    ///
    /// # Panics
    ///
    /// When `row` is out of range, or rows are not contiguous ([`DType::HfPacked`]).
    pub fn row(&self, row: usize) -> &'a [u8] {
        self.row_range(row..row + 1)
    }

    /// A view of some of the rows.
    ///
    /// # Panics
    ///
    /// As [`TensorView::row`].
    pub fn slice_rows(&self, rows: Range<usize>) -> TensorView<'a> {
        TensorView {
            rows: rows.len(),
            bytes: self.row_range(rows),
            ..*self
        }
    }

    /// Decodes one row exactly.
    ///
    /// # Panics
    ///
    /// When `row` is out of range or `out` is not `cols` long.
    pub fn decode_row(&self, row: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.cols, "one output for each column");
        if self.dtype == DType::HfPacked {
            for (out, code) in out.iter_mut().zip(self.hf_codes(row)) {
                *out = (f32::from(code) - 1.0) * self.scale;
            }
            return;
        }
        decode::decode_row(self.dtype, self.row(row), out);
        if self.dtype == DType::I2S {
            out.iter_mut().for_each(|w| *w *= self.scale);
        }
    }

    /// Unpacks one row of a ternary tensor: `cols` codes t + 1, and one scale for each
    /// [`TensorView::scale_values`] of them.
    ///
    /// Code 3 is passed on unchanged: it means +2 where the type allows it; in `I2_S` and HF
    /// packing, the file is invalid.
    ///
    /// # Panics
    /// When the type is not ternary, `row` is out of range, or a slice has the wrong length.
    pub fn unpack_row(&self, row: usize, codes: &mut [u8], scales: &mut [f32]) {
        assert_eq!(codes.len(), self.cols, "one code for each column");
        assert_eq!(
            scales.len(),
            self.scales_per_row(),
            "one scale for each group"
        );
        match self.dtype {
            DType::HfPacked => {
                codes
                    .iter_mut()
                    .zip(self.hf_codes(row))
                    .for_each(|(out, code)| *out = code);
                scales[0] = self.scale;
            }
            DType::I2S => {
                decode::unpack_codes(self.dtype, self.row(row), codes, &mut []);
                scales[0] = self.scale;
            }
            _ => decode::unpack_codes(self.dtype, self.row(row), codes, scales),
        }
    }

    fn row_range(&self, rows: Range<usize>) -> &'a [u8] {
        assert!(
            rows.start <= rows.end && rows.end <= self.rows,
            "rows {rows:?} of {}",
            self.rows
        );
        let row_bytes = self
            .dtype
            .row_bytes(self.cols)
            .expect("rows of this type are contiguous");
        &self.bytes[rows.start * row_bytes..rows.end * row_bytes]
    }

    /// The codes of one row of a Hugging Face tensor: packed row p holds output rows p, p + rows/4,
    /// …, starting at the low bits.
    fn hf_codes(&self, row: usize) -> impl Iterator<Item = u8> + 'a {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        let quarter = self.rows / 4;
        let (packed, shift) = (row % quarter, 2 * (row / quarter));
        self.bytes[packed * self.cols..(packed + 1) * self.cols]
            .iter()
            .map(move |byte| byte >> shift & 3)
    }
}

fn check(
    name: &str,
    dtype: DType,
    rows: usize,
    cols: usize,
    got: usize,
    tail: usize,
) -> Result<(), FormatError> {
    let blocks = dtype
        .tensor_bytes(rows, cols)
        .map(|bytes| bytes - dtype.tail_bytes() as u64);
    let Some(blocks) = blocks else {
        return Err(FormatError::BadShape {
            name: name.to_owned(),
            expected: format!("rows of whole {dtype} blocks of {}", dtype.block_values()),
            got: format!("{rows} × {cols}"),
        });
    };
    let expected = blocks + tail as u64;
    if expected != got as u64 {
        return Err(FormatError::ByteCount {
            name: name.to_owned(),
            expected,
            got: got as u64,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i2_s_pieces_share_the_tail_scale() {
        let mut bytes = vec![0x55; 2 * 64];
        bytes.extend(2.5f32.to_le_bytes());
        bytes.extend([0; 28]);
        let view = TensorView::new("w", DType::I2S, 2, 256, &bytes).unwrap();
        assert_eq!(view.tensor_scale(), 2.5);
        assert_eq!(view.bytes().len(), 128);
        assert_eq!(view.slice_rows(1..2).tensor_scale(), 2.5);
        assert!(matches!(
            TensorView::new("w", DType::I2S, 2, 256, &bytes[..128]),
            Err(FormatError::ByteCount {
                expected: 160,
                got: 128,
                ..
            })
        ));
    }

    #[test]
    fn hf_rows_are_spread_over_the_bits() {
        // rows 8, cols 2: packed rows 0 and 1 hold output rows 0, 2, 4, 6 and 1, 3, 5, 7.
        let bytes = [0b00_01_10_00, 0b10_10_10_10, 0b01_01_01_01, 0b00_00_00_10];
        let view = TensorView::with_scale("w", DType::HfPacked, 8, 2, &bytes, 0.5).unwrap();
        let mut rows = Vec::new();
        for row in 0..8 {
            let (mut codes, mut scale) = ([0; 2], [0.0]);
            view.unpack_row(row, &mut codes, &mut scale);
            assert_eq!(scale, [0.5]);
            rows.push(codes);
        }
        assert_eq!(
            rows,
            [
                [0, 2],
                [1, 2],
                [2, 2],
                [1, 0],
                [1, 2],
                [1, 0],
                [0, 2],
                [1, 0]
            ]
        );
        let mut out = [0.0; 2];
        view.decode_row(0, &mut out);
        assert_eq!(out, [-0.5, 0.5]);
    }

    #[test]
    fn rows_that_are_no_whole_blocks() {
        let error = TensorView::new("w", DType::TQ2_0, 1, 100, &[0; 66]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "tensor \"w\": expected rows of whole TQ2_0 blocks of 256, got 1 × 100"
        );
    }
}
