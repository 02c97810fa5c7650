//! The output matrix (LM head), which computes logits from hidden states.
//!
//! It is the file's own matrix, the embedding if the file has no other, or a copy in fewer bits
//! ([`requantize`]). If samplers need only the largest logits, a step skips rows that cannot be
//! among them ([`screen`]).

mod logits;
mod requantize;
mod scratch;
mod screen;

use ryz_kernels::Linear;

pub use requantize::HeadType;
pub(crate) use requantize::{OUTPUT, RequantizedHead};
pub(crate) use scratch::{ScreenCounter, ScreenScratch, SharedScreen, screen_bytes};
pub(crate) use screen::{HeadImage, IMAGE, ScreenedTensor};
pub use screen::{HeadScreening, ROWS_PER_SURVIVOR, ScreenedHead};

/// A model's head.
#[derive(Debug)]
pub(crate) struct LmHead {
    /// (vocab, hidden); `None` where the file's embedding, unchanged, is also the head.
    pub own: Option<Linear>,
    /// Used by steps to skip rows.
    pub image: Option<HeadImage>,
}

impl LmHead {
    /// The head's matrix, given the model's embedding.
    pub fn matrix<'a>(&'a self, embedding: &'a Linear) -> &'a Linear {
        self.own.as_ref().unwrap_or(embedding)
    }

    /// Rows that steps can skip; `None` where steps multiply the whole head.
    pub fn screened_rows(&self) -> Option<usize> {
        self.image.as_ref().map(HeadImage::rows)
    }

    /// Bytes of the image.
    pub fn image_bytes(&self) -> usize {
        self.image.as_ref().map_or(0, HeadImage::bytes)
    }
}
