//! Reports progress to the caller, which may abort.

use std::ops::ControlFlow;

use crate::{ConvertError, ConvertPhase, ConvertProgress};

/// The caller's callback and the totals reported to it.
pub(crate) struct Progress<'a> {
    callback: &'a mut dyn FnMut(ConvertProgress<'_>) -> ControlFlow<()>,
    phase: ConvertPhase,
    done_bytes: u64,
    total_bytes: u64,
}

impl<'a> Progress<'a> {
    pub(crate) fn new(
        callback: &'a mut dyn FnMut(ConvertProgress<'_>) -> ControlFlow<()>,
        total_bytes: u64,
    ) -> Progress<'a> {
        Progress {
            callback,
            phase: ConvertPhase::Scan,
            done_bytes: 0,
            total_bytes,
        }
    }

    /// Ends the first phase and begins the second.
    pub(crate) fn begin_write(&mut self) -> Result<(), ConvertError> {
        self.end()?;
        self.phase = ConvertPhase::Write;
        self.done_bytes = 0;
        Ok(())
    }

    /// Reports the phase as complete, including bytes that needed no reading.
    pub(crate) fn end(&mut self) -> Result<(), ConvertError> {
        self.bytes("", self.total_bytes - self.done_bytes)
    }

    /// Reports rows `rows` of `of` of a tensor with `bytes` bytes.
    pub(crate) fn rows(
        &mut self,
        tensor: &str,
        bytes: u64,
        rows: &std::ops::Range<usize>,
        of: usize,
    ) -> Result<(), ConvertError> {
        // The pieces of a tensor sum to exactly its bytes.
        let until = |row: usize| (u128::from(bytes) * row as u128 / of.max(1) as u128) as u64;
        self.bytes(tensor, until(rows.end) - until(rows.start))
    }

    /// Reports more bytes of a tensor.
    pub(crate) fn bytes(&mut self, tensor: &str, bytes: u64) -> Result<(), ConvertError> {
        self.done_bytes += bytes;
        let progress = ConvertProgress {
            phase: self.phase,
            tensor,
            done_bytes: self.done_bytes,
            total_bytes: self.total_bytes,
        };
        match (self.callback)(progress) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(ConvertError::Aborted),
        }
    }
}
