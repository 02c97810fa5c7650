//! Optional requantization of the output matrix to fewer bits.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

use ryz_format::{DType, ModelConfig, TensorInfo, decode, encode};
use ryz_kernels::{DenseWeight, Linear};
use ryz_numa::Lease;
use ryz_tmac::BufferKind;

use crate::{ModelError, load::Loader, place::Reservation, sync::lock, tensor::stage_rows};

/// The output matrix, where it is separate from the embedding.
pub(crate) const OUTPUT: &str = "output.weight";

/// The type of the output matrix (the head) in products.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HeadType {
    /// The file's own type; logits are unchanged.
    #[default]
    File,
    /// Q8_0, converted on load.
    Q8,
    /// Q4_K, converted on load; Q4_0 where rows are not whole blocks of 256.
    Q4,
}

impl HeadType {
    /// All choices.
    pub const ALL: [Self; 3] = [Self::File, Self::Q8, Self::Q4];

    /// The name used in options.
    pub fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Q8 => "q8",
            Self::Q4 => "q4",
        }
    }

    /// The type to requantize a head of type `file` to. `None` keeps it: no conversion was
    /// requested, or the file's type has no more bits.
    fn requantized(self, file: DType, cols: usize) -> Option<DType> {
        let wanted = match self {
            Self::File => return None,
            Self::Q8 => DType::Q8_0,
            Self::Q4 if cols.is_multiple_of(DType::Q4K.block_values()) => DType::Q4K,
            Self::Q4 => DType::Q4_0,
        };
        (wanted.row_bytes(cols)? < file.row_bytes(cols)?).then_some(wanted)
    }
}

impl fmt::Display for HeadType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A head converted from the file's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequantizedHead<'a> {
    /// The file's tensor.
    pub tensor: &'a TensorInfo,
    pub dtype: DType,
    /// Whether the file's matrix is also kept, as the embedding.
    pub tied: bool,
}

impl<'a> RequantizedHead<'a> {
    /// The conversion that `head` applies to the model's head, if any.
    pub fn of(
        head: HeadType,
        config: &ModelConfig,
        tensor: impl FnOnce(&str) -> Option<&'a TensorInfo>,
    ) -> Option<Self> {
        let tied = config.tie_word_embeddings;
        let tensor = tensor(if tied { "token_embd.weight" } else { OUTPUT })?;
        let dtype = head.requantized(tensor.dtype, tensor.cols)?;
        Some(Self {
            tensor,
            dtype,
            tied,
        })
    }

    /// Whether the conversion replaces the file's tensor `name`, which is then not loaded itself.
    pub fn replaces(&self, name: &str) -> bool {
        !self.tied && self.tensor.name == name
    }

    /// Bytes of the converted head.
    pub fn bytes(&self) -> usize {
        let row = self.dtype.row_bytes(self.tensor.cols);
        row.unwrap_or(0).saturating_mul(self.tensor.rows)
    }

    /// Staging bytes per thread.
    pub fn staged(&self) -> usize {
        let row = self.tensor.dtype.row_bytes(self.tensor.cols).unwrap_or(0);
        stage_rows(self.tensor.rows, row) * row
    }
}

impl Loader<'_> {
    /// Converts the file's head piece by piece on the threads of `lease`.
    pub fn requantize(
        &self,
        head: RequantizedHead<'_>,
        lease: &Lease,
    ) -> Result<Linear, ModelError> {
        let RequantizedHead { tensor, dtype, .. } = head;
        let arena = self.arena.labelled(OUTPUT);
        let file = self.source.file_of(tensor);
        let (rows, cols) = (tensor.rows, tensor.cols);
        let (row_bytes, made_bytes) = (tensor.bytes as usize / rows, head.bytes() / rows);
        let mut blocks = match self.reserved.take(OUTPUT) {
            Some(Reservation::Dense(blocks)) => blocks,
            _ => arena.allocate(head.bytes(), BufferKind::Weights)?,
        };
        let piece_rows = head.staged() / row_bytes;
        let pieces = blocks.as_bytes_mut().chunks_mut(piece_rows * made_bytes);
        let pieces = Mutex::new(pieces.enumerate());
        let failed = Mutex::new(None);
        let make = || -> Result<(), ModelError> {
            let mut staged = arena.allocate(head.staged(), BufferKind::Staging)?;
            let (mut weights, mut encoded) = (vec![0.0; cols], Vec::with_capacity(made_bytes));
            loop {
                let next = lock(&pieces).next();
                let Some((index, made)) = next.filter(|_| lock(&failed).is_none()) else {
                    return Ok(());
                };
                let staged = &mut staged.as_bytes_mut()[..made.len() / made_bytes * row_bytes];
                let start = index * piece_rows * row_bytes;
                file.read_at(tensor.offset + start as u64, staged)?;
                let rows = made.chunks_exact_mut(made_bytes);
                for (made, row) in rows.zip(staged.chunks_exact(row_bytes)) {
                    decode::decode_row(tensor.dtype, row, &mut weights);
                    encoded.clear();
                    encode::encode_floats(dtype, &weights, &mut encoded);
                    made.copy_from_slice(&encoded);
                }
            }
        };
        lease.run(|_| {
            if let Err(error) = make() {
                lock(&failed).get_or_insert(error);
            }
        })?;
        let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = failed {
            return Err(error);
        }
        let weight = DenseWeight::new(OUTPUT, dtype, rows, cols, blocks, self.kernels);
        weight
            .map(Linear::Dense)
            .map_err(|source| ModelError::Tensor {
                path: file.path().to_owned(),
                source,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_never_made_larger() {
        let made = |head: HeadType, file, cols| head.requantized(file, cols);
        for file in DType::ALL {
            assert_eq!(made(HeadType::File, file, 512), None);
        }
        assert_eq!(made(HeadType::Q8, DType::F16, 512), Some(DType::Q8_0));
        assert_eq!(made(HeadType::Q8, DType::Q8_0, 512), None);
        assert_eq!(made(HeadType::Q8, DType::Q6K, 512), None);
        assert_eq!(made(HeadType::Q4, DType::Q6K, 512), Some(DType::Q4K));
        assert_eq!(made(HeadType::Q4, DType::BF16, 576), Some(DType::Q4_0));
        assert_eq!(made(HeadType::Q4, DType::Q4K, 512), None);
        assert_eq!(made(HeadType::Q4, DType::Q2_0G128, 512), None);
        // No block size fits, so it is kept.
        assert_eq!(made(HeadType::Q4, DType::F32, 40), None);
    }
}
