//! Skipping head rows that cannot matter to a sampler that needs only the largest logits.
//!
//! A head has an *image*, which is cheaper to multiply, and for each row a bound on the difference
//! between the image's logit and the head's own. For 16- and 32-bit heads, the image is a copy in
//! Q8_0, at most half as large. For Q4_K and Q6_K, it is the head itself, multiplied with one-byte
//! activations instead of three-byte ones ([`DenseWeight::matmul_coarse`], which has its own
//! bound). A step multiplies the image, computes a lower bound of the k-th largest logit, and
//! multiplies those rows of the head itself whose logit may reach that bound. These logits equal
//! the whole head's bit for bit; all others are −∞.
//!
//! # The bound of a copy
//!
//! For a row w of the head, its image v and hidden states x of n columns, let y(w) be the result of
//! the dense kernel for Σ w·x. Weights are decoded exactly (in Q8_0, as the product of 8 and 11
//! bits). Element c is added to lane c mod 16 by a fused multiply-add, then a tree of four levels
//! adds the lanes, so a product passes through at most m = ⌈n/16⌉ + 4 roundings. So (Higham,
//! Accuracy and Stability of Numerical Algorithms, 3.1), with u = 2⁻²⁴ and γ = m·u / (1 − m·u), and
//! without overflow,
//!
//! ```text
//! |y(w) − w·x| ≤ γ·Σ|w||x| + t ≤ γ·‖w‖·‖x‖ + t
//! |y(w) − y(v)| ≤ |(w − v)·x| + γ·(‖w‖ + ‖v‖)·‖x‖ + 2t ≤ e·‖x‖ + 2t
//! e = ‖w − v‖ + γ·(‖w‖ + ‖v‖)
//! ```
//!
//! by the Cauchy–Schwarz inequality, where ‖v‖ is at most ‖w‖ + ‖w − v‖, and t is the loss from
//! products below the smallest normal number: at most (n + 16)·2⁻¹⁵⁰. [`FLOOR`] is more than that.
//! Nothing overflows if ‖w‖·‖x‖ and ‖v‖·‖x‖ are below [`MOST`]. A step that exceeds it, or that has
//! a non-finite value, multiplies the whole head ([`HeadImage::norm`]). Norms are summed in f64,
//! whose roundings are below 2⁻³⁰ for any supported width, and rounded up by [`UP`].
//!
//! # The threshold
//!
//! Rows form groups; for each group, the largest lower bound and the largest upper bound are kept.
//! At least k rows reach the k-th largest of the groups' lower bounds, so the k-th largest logit
//! reaches it too. Every row among the k largest, ties included, therefore has an upper bound at
//! least that large. Bounds compared in f32 are rounded away from the logit.

use std::{
    ops::Range,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use half::f16;
use ryz_format::{DType, ModelConfig, TensorInfo};
use ryz_kernels::{
    ActivationView, COARSE_FLOOR, DenseWeight, Kernels, Line, Linear, PreparedInput,
};
use ryz_numa::Lease;
use ryz_tmac::{AlignedVec, Arena, Buffer, BufferKind, LINE, MatMut};

use super::{OUTPUT, RequantizedHead};
use crate::{ModelError, sync::lock};

/// The name of the image's memory in listings.
pub(crate) const IMAGE: &str = "image of the head";

/// Smaller heads, in bytes, are multiplied whole: they fit in caches.
const LEAST_BYTES: u64 = 8 << 20;
/// Rows per group in a head with many rows.
const GROUP: usize = 16;
/// The minimum rows for that; smaller heads have groups of one row.
const MANY_ROWS: usize = 1024 * GROUP;
/// At most one row in this many may survive, both in a step and in the mean measured on load;
/// beyond that, the whole head is multiplied.
pub const ROWS_PER_SURVIVOR: usize = 50;
/// Minimum outputs before a head that is its own image is judged.
const JUDGED_FROM: u64 = 16;
/// Maximum screened outputs per step.
pub(crate) const MOST_OUTPUTS: usize = 16;
/// Maximum screened outputs with a copy: beyond it, products are compute-bound, and a copy saves no
/// arithmetic.
const MOST_OF_COPY: usize = 8;
/// Maximum logits that an output may need.
pub(crate) const MOST_NEEDED: usize = 256;

/// Added to bounds of logit differences: covers products below the smallest normal number, for
/// either image.
const FLOOR: f32 = COARSE_FLOOR;
/// Factor applied to norms: covers all roundings in computing a bound.
const UP: f64 = 1.0 + 1.0 / (1 << 20) as f64;
/// Maximum logit magnitude of a screened row: far below the limit of f32.
const MOST: f64 = (1u128 << 120) as f64;

/// Whether to skip rows of the head that cannot matter to a sampler. The sampled tokens do not
/// change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HeadScreening {
    /// Never.
    #[default]
    Off,
    /// If the head is large; the caller may measure whether it pays off and drop the image.
    Auto,
    /// Wherever an image is possible, regardless of the head's size and the survivors; for tests.
    Always,
}

/// Counts of screened steps ([`crate::RunState::take_screened`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScreenedHead {
    /// Steps that multiplied the image.
    pub steps: u64,
    /// Their outputs.
    pub outputs: u64,
    /// Rows of the head that were multiplied, summed over outputs.
    pub rows: u64,
    /// Bytes read of the image and the head.
    pub read_bytes: u64,
}

/// A head that needs an image.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ScreenedTensor<'a>(&'a TensorInfo);

impl<'a> ScreenedTensor<'a> {
    /// The model's head, if it should and can be screened; a requantized head is judged by its new
    /// type.
    pub fn of(
        screening: HeadScreening,
        made: Option<&RequantizedHead<'_>>,
        config: &ModelConfig,
        tensor: impl FnOnce(&str) -> Option<&'a TensorInfo>,
    ) -> Option<Self> {
        let name = match config.tie_word_embeddings {
            true => "token_embd.weight",
            false => OUTPUT,
        };
        let tensor = tensor(name)?;
        let large = match screening {
            HeadScreening::Off => return None,
            HeadScreening::Auto => tensor.bytes >= LEAST_BYTES,
            HeadScreening::Always => true,
        };
        let copied = matches!(tensor.dtype, DType::F32 | DType::F16 | DType::BF16)
            && tensor.cols.is_multiple_of(DType::Q8_0.block_values());
        let can_be = copied || DenseWeight::has_coarse(tensor.dtype);
        (made.is_none() && large && can_be && tensor.rows > 0).then_some(Self(tensor))
    }

    /// Rows of the head.
    pub fn rows(&self) -> usize {
        self.0.rows
    }

    /// Bytes of the blocks of a copy; 0 where the head is its own image.
    pub fn blocks(&self) -> usize {
        if DenseWeight::has_coarse(self.0.dtype) {
            return 0;
        }
        let row = DType::Q8_0.row_bytes(self.0.cols).unwrap_or(0);
        row.saturating_mul(self.0.rows)
    }

    /// Bytes of the image.
    pub fn bytes(&self) -> usize {
        let bounds = self.0.rows.saturating_mul(size_of::<f32>());
        let lines = |bytes: usize| bytes.div_ceil(LINE).saturating_mul(LINE);
        lines(self.blocks()).saturating_add(lines(bounds))
    }
}

/// Rows per group, in a head with `rows` rows.
fn group(rows: usize) -> usize {
    match rows >= MANY_ROWS {
        true => GROUP,
        false => 1,
    }
}

/// Number of groups in a head with `rows` rows.
pub(crate) fn groups(rows: usize) -> usize {
    rows.div_ceil(group(rows))
}

/// An image of the head, and bounds on the difference of its logits.
#[derive(Debug)]
pub(crate) struct HeadImage {
    /// The head in Q8_0; `None` where the head is its own image, multiplied coarsely.
    copy: Option<Linear>,
    /// (row): e of the module's documentation, or the factor of [`DenseWeight::coarse_row_errors`].
    errors: AlignedVec<f32>,
    /// The largest row norm of the head or the image.
    largest: f64,
    group: usize,
    /// Maximum groups with survivors; beyond it, the whole head is multiplied.
    most_groups: usize,
}

/// The copy, if any, the errors, and the largest norm.
type Made = (Option<Linear>, AlignedVec<f32>, f64);

impl HeadImage {
    /// Creates the image on the threads of `lease`; `None` if the head has a non-finite value, or
    /// one that Q8_0 cannot hold.
    pub fn new(
        head: &Linear,
        screening: HeadScreening,
        kernels: Kernels,
        arena: &Arena,
        reserved: Option<Buffer>,
        lease: &Lease,
    ) -> Result<Option<Self>, ModelError> {
        let arena = arena.labelled(IMAGE);
        let made = match head {
            Linear::Dense(dense) if DenseWeight::has_coarse(dense.dtype()) => {
                Self::coarse(dense, &arena, lease)?
            }
            _ => Self::copy(head, kernels, &arena, reserved, lease)?,
        };
        let rows = head.rows();
        Ok(made.map(|(copy, errors, largest)| Self {
            copy,
            errors,
            largest,
            group: group(rows),
            most_groups: match screening {
                HeadScreening::Always => rows,
                _ => rows / ROWS_PER_SURVIVOR,
            },
        }))
    }

    /// For a head that is its own image.
    fn coarse(
        head: &DenseWeight,
        arena: &Arena,
        lease: &Lease,
    ) -> Result<Option<Made>, ModelError> {
        let mut errors = arena.allocate_slice::<f32>(head.rows(), BufferKind::Weights)?;
        let pieces = Mutex::new(errors.chunks_mut(GROUP * GROUP).enumerate());
        lease.run(|_| {
            loop {
                let next = lock(&pieces).next();
                let Some((index, errors)) = next else { break };
                head.coarse_row_errors(index * GROUP * GROUP, errors);
            }
        })?;
        let finite = errors.iter().all(|error| error.is_finite());
        let largest = errors.iter().copied().fold(0.0, f32::max);
        Ok(finite.then_some((None, errors, f64::from(largest))))
    }

    /// For a head whose image is a copy.
    fn copy(
        head: &Linear,
        kernels: Kernels,
        arena: &Arena,
        reserved: Option<Buffer>,
        lease: &Lease,
    ) -> Result<Option<Made>, ModelError> {
        let (rows, cols) = (head.rows(), head.cols());
        let row_bytes = DType::Q8_0.row_bytes(cols).unwrap_or(0);
        let mut blocks = match reserved {
            Some(blocks) => blocks,
            None => arena.allocate(row_bytes.saturating_mul(rows), BufferKind::Weights)?,
        };
        let mut errors = arena.allocate_slice::<f32>(rows, BufferKind::Weights)?;
        let pieces = blocks.as_bytes_mut().chunks_mut(GROUP * row_bytes);
        let pieces = pieces.zip(errors.chunks_mut(GROUP)).enumerate();
        let (pieces, largest) = (Mutex::new(pieces), Mutex::new(0.0f64));
        let finite = AtomicBool::new(true);
        lease.run(|_| {
            let mut maker = RowMaker::new(cols);
            loop {
                let next = lock(&pieces).next();
                let Some((index, (blocks, errors))) =
                    next.filter(|_| finite.load(Ordering::Relaxed))
                else {
                    break;
                };
                let made = blocks.chunks_exact_mut(row_bytes).zip(errors);
                for (row, (block, error)) in (index * GROUP..).zip(made) {
                    head.embedding_row(row, &mut maker.weights);
                    *error = maker.make(block);
                }
            }
            if !maker.largest.is_finite() {
                finite.store(false, Ordering::Relaxed);
            }
            let mut largest = lock(&largest);
            *largest = largest.max(maker.largest);
        })?;
        if !finite.into_inner() {
            return Ok(None);
        }
        let weight = DenseWeight::new(IMAGE, DType::Q8_0, rows, cols, blocks, kernels)?;
        let largest = *lock(&largest);
        Ok(Some((Some(Linear::Dense(weight)), errors, largest)))
    }

    /// Bytes that the image adds to the head.
    pub fn bytes(&self) -> usize {
        let copy = self.copy.as_ref().map_or(0, Linear::packed_bytes);
        copy + self.errors.len() * size_of::<f32>()
    }

    /// Bytes that a step reads of the image, or of the head used as its image.
    pub fn read_bytes(&self, head: &Linear) -> usize {
        self.matrix(head).packed_bytes() + self.errors.len() * size_of::<f32>()
    }

    /// The matrix that a step multiplies in place of `head`.
    pub fn matrix<'a>(&'a self, head: &'a Linear) -> &'a Linear {
        self.copy.as_ref().unwrap_or(head)
    }

    /// The image's logits for some rows of `head`, as [`Linear::matmul_prepared`].
    pub fn multiply(
        &self,
        head: &Linear,
        rows: Range<usize>,
        hidden: ActivationView<'_>,
        scratch: &mut [Line],
        prepared: &mut PreparedInput,
        logits: MatMut<'_, f32>,
    ) {
        match (&self.copy, head) {
            (None, Linear::Dense(head)) => {
                head.matmul_coarse(rows, hidden, scratch, prepared, logits);
            }
            _ => (self.matrix(head)).matmul_prepared(rows, hidden, scratch, prepared, logits),
        }
    }

    /// Whether the image is the head itself, so that dropping it frees little memory.
    pub fn is_head(&self) -> bool {
        self.copy.is_none()
    }

    /// Whether few enough rows were multiplied for the outputs that a [run state](crate::RunState)
    /// has seen. A copy was judged when the model was loaded.
    pub fn still_pays(&self, [outputs, rows]: [u64; 2]) -> bool {
        let all = self.rows();
        let measured = self.is_head() && self.most_groups < all && outputs >= JUDGED_FROM;
        !measured
            || rows.saturating_mul(ROWS_PER_SURVIVOR as u64) < outputs.saturating_mul(all as u64)
    }

    /// Maximum outputs of a step for which screening pays off.
    pub fn most_outputs(&self) -> usize {
        match self.is_head() {
            true => MOST_OUTPUTS,
            false => MOST_OF_COPY,
        }
    }

    /// Rows of the head.
    pub fn rows(&self) -> usize {
        self.errors.len()
    }

    /// Groups of rows.
    pub fn groups(&self) -> usize {
        self.errors.len().div_ceil(self.group)
    }

    /// Rows per group.
    pub fn group(&self) -> usize {
        self.group
    }

    /// The factor of a row's bound: ‖x‖ rounded up, or the error of one-byte activations; infinity
    /// if the whole head must be multiplied.
    pub fn norm(&self, head: &Linear, x: &[f32]) -> f32 {
        let (error, norm) = match (&self.copy, head) {
            (None, Linear::Dense(head)) => head.coarse_error(x),
            _ => {
                let norm = sum_of_squares(x).sqrt() * UP;
                (norm, norm)
            }
        };
        // Comparisons with NaN are false.
        match norm * self.largest <= MOST && norm <= MOST && error <= MOST {
            true => (error as f32).next_up(),
            false => f32::INFINITY,
        }
    }

    /// Maximum difference between the head's logit and the image's.
    #[inline(always)]
    fn width(&self, row: usize, norm: f32) -> f32 {
        self.errors[row] * norm + FLOOR
    }

    /// Upper bound of the head's logit.
    #[inline]
    pub fn upper(&self, row: usize, norm: f32, logit: f32) -> f32 {
        (logit + self.width(row, norm)).next_up()
    }

    /// The largest bounds of each group of rows starting at `first`, given the image's `logits` of
    /// those rows.
    pub fn bounds(
        &self,
        first: usize,
        norm: f32,
        logits: &[f32],
        lower: &mut [f32],
        upper: &mut [f32],
    ) {
        let errors = &self.errors[first..][..logits.len()];
        group_bounds(self.group, errors, norm, logits, lower, upper);
    }

    /// The threshold that a row's upper bound must reach to be among the `needed` largest; −∞ if
    /// too many groups have such rows. Reorders `lower`.
    pub fn threshold(&self, lower: &mut [f32], upper: &[f32], needed: usize) -> f32 {
        if needed == 0 || needed > lower.len() {
            return f32::NEG_INFINITY;
        }
        let falling = |a: &f32, b: &f32| b.total_cmp(a);
        let (_, &mut least, _) = lower.select_nth_unstable_by(needed - 1, falling);
        let reach = upper.iter().filter(|&&upper| upper >= least).count();
        match reach <= self.most_groups {
            true => least,
            false => f32::NEG_INFINITY,
        }
    }
}

/// The largest bounds of each `group` rows.
fn group_bounds(
    group: usize,
    errors: &[f32],
    norm: f32,
    logits: &[f32],
    lower: &mut [f32],
    upper: &mut [f32],
) {
    let groups = logits.chunks(group).zip(errors.chunks(group));
    for ((logits, errors), (lower, upper)) in groups.zip(lower.iter_mut().zip(upper)) {
        // Four independent accumulators of each.
        let (mut low, mut high) = ([f32::NEG_INFINITY; 4], [f32::NEG_INFINITY; 4]);
        for (logits, errors) in logits.chunks(4).zip(errors.chunks(4)) {
            for ((logit, error), (low, high)) in
                (logits.iter().zip(errors)).zip(low.iter_mut().zip(&mut high))
            {
                let width = error * norm + FLOOR;
                let (least, most) = (logit - width, logit + width);
                *low = if least > *low { least } else { *low };
                *high = if most > *high { most } else { *high };
            }
        }
        *lower = largest(low).next_down();
        *upper = largest(high).next_up();
    }
}

fn largest(values: [f32; 4]) -> f32 {
    values.into_iter().fold(f32::NEG_INFINITY, f32::max)
}

/// Σ x² in f64, eight at a time.
fn sum_of_squares(values: &[f32]) -> f64 {
    let mut sums = [0.0f64; 8];
    for values in values.chunks(8) {
        for (sum, &value) in sums.iter_mut().zip(values) {
            *sum += f64::from(value) * f64::from(value);
        }
    }
    sums.iter().sum()
}

/// Creates rows of an image one after another.
struct RowMaker {
    /// The head's row.
    weights: Vec<f32>,
    /// γ
    rounding: f64,
    /// The largest row norm so far; infinite after a NaN.
    largest: f64,
}

impl RowMaker {
    fn new(cols: usize) -> Self {
        let steps = (cols.div_ceil(16) + 4) as f64 / f64::from(1u32 << 24);
        Self {
            weights: vec![0.0; cols],
            rounding: steps / (1.0 - steps),
            largest: 0.0,
        }
    }

    /// Writes the image of `weights` to `blocks` and returns e.
    fn make(&mut self, blocks: &mut [u8]) -> f32 {
        let (weights, _) = self.weights.as_chunks::<BLOCK>();
        let (blocks, _) = blocks.as_chunks_mut::<BLOCK_BYTES>();
        let (mut own, mut errors) = ([0.0; LANES], [0.0; LANES]);
        for (weights, block) in weights.iter().zip(blocks) {
            make_block(weights, block, &mut own, &mut errors);
        }
        let [norm, error] = [own, errors].map(|sums| sums.iter().sum::<f64>().sqrt());
        // ‖v‖ is at most ‖w‖ + ‖w − v‖.
        let norms = 2.0 * norm + error;
        // NaN fails this comparison.
        let most = if norms < MOST { norms } else { f64::INFINITY };
        self.largest = self.largest.max(most);
        (((error + self.rounding * norms) * UP) as f32).next_up()
    }
}

/// Weights per Q8_0 block, and its bytes: an fp16 scale, then the codes.
const BLOCK: usize = 32;
const BLOCK_BYTES: usize = 34;
const LANES: usize = 8;

/// Writes the Q8_0 block nearest to the weights, rounding half to even, and adds the squares of
/// weights and errors to the sums. The errors are f32 differences, each within a relative 2⁻²⁴.
fn make_block(
    weights: &[f32; BLOCK],
    block: &mut [u8; BLOCK_BYTES],
    own: &mut [f64; LANES],
    errors: &mut [f64; LANES],
) {
    /// Added to a number below 2²², it leaves the nearest integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let mut maxima = [0.0f32; LANES];
    let (eights, _) = weights.as_chunks::<LANES>();
    for weights in eights {
        for (max, weight) in maxima.iter_mut().zip(weights) {
            let size = weight.abs();
            *max = if size > *max { size } else { *max };
        }
    }
    let scale = maxima.into_iter().fold(0.0, f32::max) / 127.0;
    // For no scale, or one so small that all codes are 0.
    let inverse = Some(1.0 / scale).filter(|inverse| inverse.is_finite());
    let inverse = inverse.unwrap_or(0.0);
    let (head, codes) = block.split_at_mut(2);
    let scale = f16::from_f32(scale);
    head.copy_from_slice(&scale.to_le_bytes());
    let (scale, (codes, _)) = (scale.to_f32(), codes.as_chunks_mut::<LANES>());
    for (weights, codes) in eights.iter().zip(codes) {
        let sums = own.iter_mut().zip(errors.iter_mut());
        for ((&weight, code), (own, errors)) in weights.iter().zip(codes).zip(sums) {
            let rounded = weight * inverse + ROUND;
            *code = rounded.to_bits() as u8;
            let error = weight - (rounded - ROUND) * scale;
            *own += f64::from(weight) * f64::from(weight);
            *errors += f64::from(error) * f64::from(error);
        }
    }
}

#[cfg(test)]
mod tests;
