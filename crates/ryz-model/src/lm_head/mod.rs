//! The output matrix (LM head): what makes logits of hidden states.
//!
//! It is the file's own, the embedding where the file has no other, or a copy in fewer bits
//! ([`requantize`]). Steps whose samplers look at the largest logits only leave out rows of it that
//! cannot be among them ([`screen`]).

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

/// The head of a model.
#[derive(Debug)]
pub(crate) struct LmHead {
    /// (vocab, hidden); `None` where the embedding, as the file has it, is the head too.
    pub own: Option<Linear>,
    /// By which steps leave out rows.
    pub image: Option<HeadImage>,
}

impl LmHead {
    /// The matrix, of a model with this embedding.
    pub fn matrix<'a>(&'a self, embedding: &'a Linear) -> &'a Linear {
        self.own.as_ref().unwrap_or(embedding)
    }

    /// Rows that steps can leave out; none where they multiply the whole head.
    pub fn screened_rows(&self) -> Option<usize> {
        self.image.as_ref().map(HeadImage::rows)
    }

    /// Bytes of the image.
    pub fn image_bytes(&self) -> usize {
        self.image.as_ref().map_or(0, HeadImage::bytes)
    }
}
