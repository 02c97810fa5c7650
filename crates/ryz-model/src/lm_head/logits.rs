//! Logits of a step's outputs, computed with the whole head or with only the rows that can matter.

use std::ops::Range;

use ryz_kernels::{ActivationView, PreparedInput, ROW_TILE};
use ryz_numa::{Chunks, RegionExit};
use ryz_profile::Phase;
use ryz_tmac::{MatMut, MatRef};

use super::{HeadImage, LmHead, SharedScreen};
use crate::{
    LogitDemand,
    forward::{Pass, lines},
};

impl LmHead {
    /// logits = lm_head · hidden, one worker's share.
    pub fn logits(&self, pass: &Pass<'_>) -> Result<(), RegionExit> {
        let screen = pass.state.screen.as_ref();
        match (&self.image, screen.filter(|screen| screen.bounds_rows())) {
            (Some(image), Some(screen)) => pass.screen_logits(image, screen),
            _ => pass.project_logits(),
        }
    }
}

impl Pass<'_> {
    /// hidden = norm(residual + projected), for the rows that produce logits.
    pub(crate) fn normalize_outputs(&self, outputs: Range<usize>) {
        let kernels = self.model.kernels;
        let mut hidden = self.state.hidden.rows_mut(outputs.clone());
        let (residual, projected) = (self.state.residual.read(), self.state.projected.read());
        for (index, &row) in self.plan.outputs[outputs.clone()].iter().enumerate() {
            let out = hidden.row_mut(index);
            out.copy_from_slice(residual.row(row));
            kernels.add(projected.row(row), out);
            kernels.rms_norm_in_place(
                out,
                &self.model.weights.output_norm,
                self.model.config.rms_norm_eps,
            );
        }
        if let (Some(image), Some(screen)) = (&self.model.weights.lm_head.image, &self.state.screen)
        {
            let (head, mut norms) = (
                self.model.weights.head(),
                screen.norms.rows_mut(outputs.clone()),
            );
            for index in 0..outputs.len() {
                norms.row_mut(index)[0] = image.norm(head, hidden.row_mut(index));
            }
        }
    }

    /// logits = Whead·hidden for rows that can matter; −∞ for all others.
    fn screen_logits(
        &self,
        image: &HeadImage,
        screen: &SharedScreen<'_>,
    ) -> Result<(), RegionExit> {
        let (head, outputs) = (self.model.weights.head(), self.plan.outputs.len());
        let mut prepared = PreparedInput::default();
        self.rows(&[image.matrix(head)], ROW_TILE, |rows| {
            let (hidden, norms) = (self.state.hidden.read(), screen.norms.read());
            let mut logits = self.state.logits.rect_mut(0..outputs, rows.clone());
            let input = ActivationView::F32(hidden.view());
            let mut scratch = self.scratch();
            let scratch = lines(&mut scratch);
            image.multiply(
                head,
                rows.clone(),
                input,
                scratch,
                &mut prepared,
                logits.view(),
            );
            let groups = rows.start / image.group()..rows.end.div_ceil(image.group());
            let mut lower = screen.lower.rect_mut(0..outputs, groups.clone());
            let mut upper = screen.upper.rect_mut(0..outputs, groups);
            for output in 0..outputs {
                image.bounds(
                    rows.start,
                    norms.row(output)[0],
                    logits.row_mut(output),
                    lower.row_mut(output),
                    upper.row_mut(output),
                );
            }
        })?;
        self.lap(Phase::Head, None);
        self.barrier(None)?;
        self.worker.share(outputs, Chunks::of(1), |some| {
            let mut thresholds = screen.thresholds.rows_mut(some.clone());
            let mut lower = screen.lower.rows_mut(some.clone());
            let upper = screen.upper.read();
            for (index, output) in some.enumerate() {
                if output == 0 {
                    screen.counter.add_step(outputs, image.read_bytes(head));
                }
                let LogitDemand::Largest(needed) = self.plan.needed[output] else {
                    unreachable!("steps are screened that need all logits of no output");
                };
                thresholds.row_mut(index)[0] =
                    image.threshold(lower.row_mut(index), upper.row(output), needed);
            }
        })?;
        self.lap(Phase::Head, None);
        self.barrier(None)?;
        if screen.thresholds.read().contains(&f32::NEG_INFINITY) {
            return self.rows(&[head], ROW_TILE, |rows| self.rescore(image, screen, rows));
        }
        let chunks = Chunks {
            // Each chunk prepares its own form of each output's hidden states.
            least: 16 << 10,
            ..Chunks::of(ROW_TILE)
        };
        self.worker.share(head.rows(), chunks, |rows| {
            self.rescore(image, screen, rows);
        })
    }

    /// Replaces the image's logits with the head's, in the rows that matter or in all rows.
    fn rescore(&self, image: &HeadImage, screen: &SharedScreen<'_>, rows: Range<usize>) {
        let (head, group) = (self.model.weights.head(), image.group());
        let (hidden, norms) = (self.state.hidden.read(), screen.norms.read());
        let (upper, thresholds) = (screen.upper.read(), screen.thresholds.read());
        let outputs = self.plan.outputs.len();
        let mut logits = self.state.logits.rect_mut(0..outputs, rows.clone());
        let mut scratch = self.scratch();
        let scratch = lines(&mut scratch);
        let (mut multiplied, mut most) = (0, 0);
        for output in 0..outputs {
            let mut prepared = PreparedInput::default();
            let hidden = MatRef::from_slice(hidden.row(output), hidden.view().cols());
            let input = || ActivationView::F32(hidden);
            let (norm, threshold) = (norms.row(output)[0], thresholds.row(output)[0]);
            let logits = logits.row_mut(output);
            let before = multiplied;
            if threshold == f32::NEG_INFINITY {
                let out = MatMut::from_slice(logits, rows.len());
                head.matmul_prepared(rows.clone(), input(), scratch, &mut prepared, out);
                multiplied += rows.len();
            } else {
                let groups = (rows.start / group..).zip(logits.chunks_mut(group));
                for (index, logits) in groups {
                    if upper.row(output)[index] < threshold {
                        logits.fill(f32::NEG_INFINITY);
                        continue;
                    }
                    for (row, logit) in (index * group..).zip(logits) {
                        if image.upper(row, norm, *logit) < threshold {
                            *logit = f32::NEG_INFINITY;
                            continue;
                        }
                        let out = MatMut::from_slice(std::slice::from_mut(logit), 1);
                        head.matmul_prepared(row..row + 1, input(), scratch, &mut prepared, out);
                        multiplied += 1;
                    }
                }
            }
            most = most.max(multiplied - before);
        }
        if multiplied > 0 {
            // Rows read by several outputs are cached, or nearly so, from the second output on.
            let row_bytes = head.packed_bytes() / head.rows();
            screen.counter.add_rows(multiplied, most * row_bytes);
        }
    }

    /// logits = Whead·hidden.
    fn project_logits(&self) -> Result<(), RegionExit> {
        let (head, outputs) = (self.model.weights.head(), self.plan.outputs.len());
        if outputs == 0 {
            return Ok(());
        }
        let mut prepared = PreparedInput::default();
        self.rows(&[head], ROW_TILE, |rows| {
            let hidden = self.state.hidden.read();
            let mut scratch = self.scratch();
            let scratch = lines(&mut scratch);
            let mut logits = self.state.logits.rect_mut(0..outputs, rows.clone());
            let hidden = ActivationView::F32(hidden.view());
            head.matmul_prepared(rows, hidden, scratch, &mut prepared, logits.view());
        })
    }
}
