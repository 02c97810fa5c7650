//! Buffers and counters of steps that skip rows of the head.

use std::sync::atomic::{AtomicU64, Ordering};

use ryz_numa::PartitionedSlice;

use super::screen::{HeadImage, MOST_NEEDED, MOST_OUTPUTS, ScreenedHead, groups};
use crate::{ModelError, batch::Plan, run_state::Matrix};

/// [`ScreenedHead`] counters shared by the workers.
#[derive(Debug, Default)]
pub(crate) struct ScreenCounter {
    steps: AtomicU64,
    outputs: AtomicU64,
    rows: AtomicU64,
    read_bytes: AtomicU64,
    /// Outputs, and the rows computed for them, already taken.
    taken: [u64; 2],
}

impl ScreenCounter {
    /// Counts a step that multiplied an image of `image_bytes` bytes.
    pub fn add_step(&self, outputs: usize, image_bytes: usize) {
        self.steps.fetch_add(1, Ordering::Relaxed);
        self.outputs.fetch_add(outputs as u64, Ordering::Relaxed);
        self.read_bytes
            .fetch_add(image_bytes as u64, Ordering::Relaxed);
    }

    /// Counts rows of the head that were multiplied, and the bytes read for them.
    pub fn add_rows(&self, rows: usize, read_bytes: usize) {
        self.rows.fetch_add(rows as u64, Ordering::Relaxed);
        self.read_bytes
            .fetch_add(read_bytes as u64, Ordering::Relaxed);
    }

    /// Total outputs so far, and the rows of the head that were multiplied for them.
    pub fn all(&mut self) -> [u64; 2] {
        let [outputs, rows] = self.taken;
        [
            outputs + *self.outputs.get_mut(),
            rows + *self.rows.get_mut(),
        ]
    }

    pub fn take(&mut self) -> ScreenedHead {
        self.taken = self.all();
        ScreenedHead {
            steps: std::mem::take(self.steps.get_mut()),
            outputs: std::mem::take(self.outputs.get_mut()),
            rows: std::mem::take(self.rows.get_mut()),
            read_bytes: std::mem::take(self.read_bytes.get_mut()),
        }
    }
}

/// Scratch for screening the head, for up to [`MOST_OUTPUTS`] outputs.
#[derive(Debug)]
pub(crate) struct ScreenScratch {
    /// (output, group): the largest lower bound among the group's rows
    lower: Matrix,
    /// (output, group): the largest upper bound
    upper: Matrix,
    /// (output, 1): norms of the hidden states
    norms: Matrix,
    /// (output, 1): the threshold that upper bounds of candidate rows reach
    thresholds: Matrix,
}

/// Bytes of [`ScreenScratch`] for a head with `rows` rows; `matrix` returns the bytes of a matrix.
pub(crate) fn screen_bytes(
    rows: usize,
    max_outputs: usize,
    matrix: impl Fn(usize, usize) -> usize,
) -> usize {
    let outputs = max_outputs.min(MOST_OUTPUTS);
    let bytes = screen_columns(rows).map(|cols| matrix(outputs, cols));
    bytes.into_iter().fold(0, usize::saturating_add)
}

impl ScreenScratch {
    /// Allocates scratch for a head with `rows` rows; `matrix` allocates one matrix by name, rows
    /// and columns.
    pub fn new(
        rows: usize,
        max_outputs: usize,
        matrix: impl Fn(&str, usize, usize) -> Result<Matrix, ModelError>,
    ) -> Result<Self, ModelError> {
        let outputs = max_outputs.min(MOST_OUTPUTS);
        let [lower, upper, norms, thresholds] = screen_columns(rows);
        Ok(Self {
            lower: matrix("lower bounds", outputs, lower)?,
            upper: matrix("upper bounds", outputs, upper)?,
            norms: matrix("norms", outputs, norms)?,
            thresholds: matrix("thresholds", outputs, thresholds)?,
        })
    }

    /// Shares the scratch for one step; `None` if the step cannot skip rows with this image.
    pub fn share<'a>(
        &'a mut self,
        image: &HeadImage,
        plan: &Plan,
        counter: &'a ScreenCounter,
    ) -> Option<SharedScreen<'a>> {
        let outputs = plan.outputs.len();
        if !(1..=self.norms.rows().min(image.most_outputs())).contains(&outputs) {
            return None;
        }
        // With fewer groups, a large fraction would survive.
        let most = MOST_NEEDED.min(image.groups() / 2);
        let fits = self.lower.cols() == image.groups();
        (fits && plan.needs_at_most(most)).then(|| SharedScreen {
            lower: self.lower.share(outputs),
            upper: self.upper.share(outputs),
            norms: self.norms.share(outputs),
            thresholds: self.thresholds.share(outputs),
            counter,
        })
    }
}

/// Columns of the matrices of [`ScreenScratch`] for a head with `rows` rows.
fn screen_columns(rows: usize) -> [usize; 4] {
    [groups(rows), groups(rows), 1, 1]
}

/// A step's shared screening scratch; see [`ScreenScratch`] for the shapes.
pub(crate) struct SharedScreen<'a> {
    pub lower: PartitionedSlice<'a, f32>,
    pub upper: PartitionedSlice<'a, f32>,
    pub norms: PartitionedSlice<'a, f32>,
    pub thresholds: PartitionedSlice<'a, f32>,
    pub counter: &'a ScreenCounter,
}

impl SharedScreen<'_> {
    /// Whether the hidden states of all outputs have norms that can bound rows.
    pub fn bounds_rows(&self) -> bool {
        self.norms.read().iter().all(|norm| norm.is_finite())
    }
}
