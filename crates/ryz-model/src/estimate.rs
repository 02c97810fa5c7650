//! Estimates a model's memory from its header alone.

use std::cmp::Reverse;

use ryz_format::{DType, ModelConfig, TensorInfo, TensorRole};
use ryz_kernels::{DenseWeight, SparseTernary, TernaryPacker};
use ryz_tmac::LINE;

use crate::{
    Activations, LoadOptions, ModelError, ModelSource,
    compression::{ValueProjection, check_rank},
    lm_head::RequantizedHead,
    lm_head::ScreenedTensor,
    load::is_master,
    rope::RopeAngles,
    run_state::scratch_bytes,
    sparsity::Sparsity,
    tensor::stage_rows,
};

/// Bytes that [`crate::Model::load`] and [`crate::RunState::new`] allocate from their arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryEstimate {
    /// The packed weights. Exact, except that equal group scales are merged into one, and that a
    /// head image may turn out impossible or be dropped ([`crate::Model::drop_image`]).
    pub weights: usize,
    /// The scratch buffers of a step.
    pub scratch: usize,
    /// Peak staging memory for reading files during the load; freed afterwards.
    pub staging: usize,
}

impl MemoryEstimate {
    /// Extra bytes needed to store values in `rank` dimensions.
    ///
    /// # Errors
    /// [`ModelError::ValueRank`].
    pub fn value_projections(config: &ModelConfig, rank: usize) -> Result<usize, ModelError> {
        check_rank(config.value_head_dim, rank)?;
        Ok(ValueProjection::bytes_for(config, rank))
    }

    /// The estimate for loading with `options` on `threads` threads, and for steps of up to
    /// `max_tokens` tokens and `max_outputs` rows of logits.
    pub fn of(
        source: &ModelSource,
        options: &LoadOptions,
        threads: usize,
        max_tokens: usize,
        max_outputs: usize,
    ) -> Self {
        let config = source.config();
        let activations = options.activations;
        let activations = activations.unwrap_or(Activations::default_for(config));
        let angles = RopeAngles::new(&config.rope, config.rope_dim, None);
        let sparsity = Sparsity::new(options.sparsity, config, activations, threads);
        let tensor = |name: &str| source.tensor(name);
        let head = RequantizedHead::of(options.head, config, tensor);
        let screened = ScreenedTensor::of(options.head_screening, head.as_ref(), config, tensor);
        let mut scratch_lines = 0;
        let (mut weights, mut staging, mut forms) = (0usize, Vec::new(), Vec::new());
        for expected in config.expected_tensors() {
            let Some(tensor) = source.tensor(&expected.name) else {
                continue;
            };
            if head.is_some_and(|head| head.replaces(&tensor.name)) {
                continue;
            }
            let master = is_master(config, &expected.name, expected.role);
            let (kept, mut staged) = match expected.role {
                TensorRole::Vector => (
                    tensor.cols * size_of::<f32>(),
                    usize::try_from(tensor.bytes).unwrap_or(usize::MAX),
                ),
                _ => matrix(tensor, master),
            };
            let dtype = match master {
                true => DType::HfPacked,
                false => tensor.dtype,
            };
            let (rows, cols) = (tensor.rows, tensor.cols);
            if expected.role != TensorRole::Vector {
                scratch_lines = scratch_lines.max(DenseWeight::scratch_lines_of(dtype, cols));
            }
            if let Some(order) = sparsity.order(&tensor.name, dtype, rows, cols) {
                staged = staged.max(SparseTernary::staging_bytes(order, rows, cols));
                scratch_lines = scratch_lines.max(Sparsity::scratch_lines(order, rows, cols));
            }
            weights = weights.saturating_add(kept.next_multiple_of(LINE));
            staging.push(Reverse(staged.div_ceil(LINE).saturating_mul(LINE)));
            if expected.role == TensorRole::Linear
                && !config.keeps_floats(&expected.name)
                && let Some(form) = activations.form(dtype, cols)
                && !forms.contains(&form)
            {
                forms.push(form);
            }
        }
        staging.sort_unstable();
        let staging = staging.iter().take(threads);
        let mut staging = staging.fold(0usize, |sum, bytes| sum.saturating_add(bytes.0));
        if let Some(head) = head {
            // Created after all other matrices.
            weights = weights.saturating_add(head.bytes().next_multiple_of(LINE));
            let lines = DenseWeight::scratch_lines_of(head.dtype, head.tensor.cols);
            scratch_lines = scratch_lines.max(lines);
            staging = staging.max(head.staged().next_multiple_of(LINE) * threads);
        }
        if let Some(screened) = screened {
            weights = weights.saturating_add(screened.bytes());
        }
        Self {
            weights,
            scratch: scratch_bytes(
                config,
                angles.table_len(),
                &forms,
                options.kernels.batch(),
                max_tokens,
                max_outputs,
                screened.map(|head| head.rows()),
            )
            .saturating_add(scratch_lines.saturating_mul(LINE).saturating_mul(threads)),
            staging,
        }
    }
}

/// Bytes that a matrix keeps, and the bytes it is staged through.
fn matrix(tensor: &TensorInfo, master: bool) -> (usize, usize) {
    let (dtype, rows, cols) = (tensor.dtype, tensor.rows, tensor.cols);
    let bytes = usize::try_from(tensor.bytes).unwrap_or(usize::MAX);
    let values = rows.saturating_mul(cols);
    if master {
        // The file's floats, f32, codes, and codes in Hugging Face's packing.
        let staged = bytes.saturating_add(values.saturating_mul(size_of::<f32>() + 1));
        let staged = staged.saturating_add(values / 4 + 4 * LINE);
        return (TernaryPacker::memory(DType::HfPacked, rows, cols), staged);
    }
    if !dtype.is_ternary() {
        return (bytes, 0);
    }
    let kept = TernaryPacker::memory(dtype, rows, cols);
    // Row scales are created while the group scales that they replace are still allocated.
    let scales = match dtype.has_tensor_scale() {
        true => 0,
        false => rows.next_multiple_of(LINE) * size_of::<f32>(),
    };
    let staged = match dtype.row_bytes(cols) {
        _ if dtype.is_prepacked() => 0,
        Some(row_bytes) if dtype != DType::HfPacked => stage_rows(rows, row_bytes) * row_bytes,
        _ => bytes,
    };
    (kept, staged.next_multiple_of(LINE).saturating_add(scales))
}
