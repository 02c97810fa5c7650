//! Values stored in fewer dimensions: `c = B·(v − μ)` on write, `a = μ + Bᵀ·Σ p·c` once per
//! attention output, where the rows of B are orthonormal. Attention weights sum to one, so the mean
//! adds no cost per position.

use ryz_format::ModelConfig;
use ryz_kernels::Kernels;
use ryz_tmac::{AlignedVec, Arena, BufferKind};

use crate::{ModelError, calibration::Calibration};

/// Maximum channels of a compressible value; bounds the buffers on the threads' stacks.
pub const MAX_VALUE_DIM: usize = 256;

/// The projections of all layers and heads to one rank.
#[derive(Debug)]
pub(crate) struct ValueProjection {
    kv_heads: usize,
    dim: usize,
    rank: usize,
    /// (layer, head, rank, dim): B
    rows: AlignedVec<f32>,
    /// (layer, head, dim, rank): Bᵀ
    columns: AlignedVec<f32>,
    /// (layer, head, dim): μ
    mean: AlignedVec<f32>,
    /// (layer, head, rank): −B·μ
    offset: AlignedVec<f32>,
}

impl ValueProjection {
    /// The first `rank` components of a calibration of the model.
    pub fn new(
        calibration: &Calibration,
        rank: usize,
        kernels: Kernels,
        arena: &Arena,
    ) -> Result<Self, ModelError> {
        let (dim, heads) = (calibration.dim, calibration.layers * calibration.kv_heads);
        check_rank(dim, rank)?;
        let take = |len: usize| {
            arena
                .labelled("value projections")
                .allocate_slice::<f32>(len, BufferKind::Weights)
        };
        let mut this = Self {
            kv_heads: calibration.kv_heads,
            dim,
            rank,
            rows: take(heads * rank * dim)?,
            columns: take(heads * rank * dim)?,
            mean: take(heads * dim)?,
            offset: take(heads * rank)?,
        };
        this.mean.copy_from_slice(&calibration.mean);
        let size = rank * dim;
        for head in 0..heads {
            let rows = &calibration.basis[head * dim * dim..][..size];
            this.rows[head * size..][..size].copy_from_slice(rows);
            let columns = &mut this.columns[head * size..][..size];
            for (channel, column) in columns.chunks_exact_mut(rank).enumerate() {
                for (component, value) in column.iter_mut().enumerate() {
                    *value = rows[component * dim + channel];
                }
            }
            let mean = &calibration.mean[head * dim..][..dim];
            let offsets = &mut this.offset[head * rank..][..rank];
            for (offset, row) in offsets.iter_mut().zip(rows.chunks_exact(dim)) {
                *offset = -kernels.dot_f32(row, mean);
            }
        }
        Ok(this)
    }

    /// Bytes of all projections of a model.
    pub fn bytes_for(config: &ModelConfig, rank: usize) -> usize {
        let heads = config.num_hidden_layers * config.num_key_value_heads;
        let dim = config.value_head_dim;
        heads * (2 * rank * dim + dim + rank) * size_of::<f32>()
    }

    /// Stored dimensions.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Bytes of the projections; every token reads them.
    pub fn bytes(&self) -> usize {
        let floats = self.rows.len() + self.columns.len() + self.mean.len() + self.offset.len();
        floats * size_of::<f32>()
    }

    /// Compresses the values of all heads from `dim` to `rank` channels each, packed at the front
    /// of the row.
    pub fn compress(&self, kernels: Kernels, layer: usize, row: &mut [f32]) {
        let mut compressed = [0.0; MAX_VALUE_DIM];
        let compressed = &mut compressed[..self.rank];
        for kv_head in 0..self.kv_heads {
            let head = layer * self.kv_heads + kv_head;
            compressed.copy_from_slice(&self.offset[head * self.rank..][..self.rank]);
            let size = self.dim * self.rank;
            let value = &row[kv_head * self.dim..][..self.dim];
            let columns = &self.columns[head * size..][..size];
            kernels.mul_add_rows(value, columns, self.rank, compressed);
            row[kv_head * self.rank..][..self.rank].copy_from_slice(compressed);
        }
    }

    /// Expands the attention outputs of query heads that share one key-value head to all channels.
    pub fn expand(
        &self,
        kernels: Kernels,
        layer: usize,
        kv_head: usize,
        compressed: &[f32],
        out: &mut [f32],
    ) {
        let head = layer * self.kv_heads + kv_head;
        let mean = &self.mean[head * self.dim..][..self.dim];
        for out in out.chunks_exact_mut(self.dim) {
            out.copy_from_slice(mean);
        }
        let size = self.dim * self.rank;
        let rows = &self.rows[head * size..][..size];
        kernels.mul_add_rows(compressed, rows, self.dim, out);
    }
}

/// Checks that values of `dim` channels can be stored in `rank` dimensions.
pub(crate) fn check_rank(dim: usize, rank: usize) -> Result<(), ModelError> {
    if dim > MAX_VALUE_DIM {
        return Err(ModelError::ValueRank {
            expected: format!(
                "a model whose values have at most {MAX_VALUE_DIM} channels, not {dim}"
            ),
            got: rank,
        });
    }
    if !(1..=dim).contains(&rank) {
        return Err(ModelError::ValueRank {
            expected: format!("1 to {dim}"),
            got: rank,
        });
    }
    Ok(())
}
