//! Where ids go while a text is encoded, and when that ends early.

use crate::TokenizerError;

/// When encoding stops before the text ends.
#[derive(Clone, Copy)]
pub struct Bounds<'a> {
    /// The most ids; the first beyond them ends the work with [`TokenizerError::TooManyTokens`].
    pub most: usize,
    /// Asked every few microseconds to milliseconds; true ends the work with
    /// [`TokenizerError::Cancelled`].
    pub cancelled: &'a dyn Fn() -> bool,
}

impl Bounds<'static> {
    /// No bounds.
    pub const NONE: Bounds<'static> = Bounds {
        most: usize::MAX,
        cancelled: &|| false,
    };
}

/// What a text became.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// Its token ids.
    pub ids: Vec<u32>,
    /// Characters that the vocabulary cannot say. Each became the unknown token, or was left out
    /// where there is none.
    pub unknown: usize,
}

/// Bytes that are worked on between two questions whether to go on.
const SLICE: usize = 1 << 14;

/// Takes ids, within bounds.
pub(crate) struct Output<'a> {
    pub(crate) encoded: Encoded,
    bounds: Bounds<'a>,
    unknown: UnknownToken,
    /// The id before was the unknown token.
    after_unknown: bool,
    /// Bytes since the last question.
    worked: usize,
}

/// What stands for text that the vocabulary cannot say.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct UnknownToken {
    /// The token, if there is one.
    pub(crate) id: Option<u32>,
    /// Several in a row are one.
    pub(crate) fused: bool,
}

impl<'a> Output<'a> {
    pub(crate) fn new(capacity: usize, bounds: Bounds<'a>, unknown: UnknownToken) -> Output<'a> {
        Output {
            encoded: Encoded {
                ids: Vec::with_capacity(capacity.min(bounds.most).min(1 << 20)),
                unknown: 0,
            },
            bounds,
            unknown,
            after_unknown: false,
            worked: 0,
        }
    }

    /// Takes an id.
    pub(crate) fn push(&mut self, id: u32) -> Result<(), TokenizerError> {
        if self.encoded.ids.len() >= self.bounds.most {
            return Err(TokenizerError::TooManyTokens {
                limit: self.bounds.most,
            });
        }
        self.encoded.ids.push(id);
        self.after_unknown = false;
        Ok(())
    }

    /// Takes a character that has no token.
    pub(crate) fn push_unknown(&mut self) -> Result<(), TokenizerError> {
        self.encoded.unknown += 1;
        let Some(id) = self.unknown.id else {
            return Ok(());
        };
        if !(self.unknown.fused && self.after_unknown) {
            self.push(id)?;
        }
        self.after_unknown = true;
        Ok(())
    }

    /// Takes ids once more that were given before.
    pub(crate) fn repeat(&mut self, from: usize, to: usize) -> Result<(), TokenizerError> {
        if self.encoded.ids.len() + (to - from) > self.bounds.most {
            return Err(TokenizerError::TooManyTokens {
                limit: self.bounds.most,
            });
        }
        self.encoded.ids.extend_from_within(from..to);
        self.after_unknown = false;
        Ok(())
    }

    /// Whether text that the vocabulary cannot say becomes a token.
    pub(crate) fn has_unknown(&self) -> bool {
        self.unknown.id.is_some()
    }

    /// Work on so many bytes is done: asks now and then whether to go on.
    pub(crate) fn worked(&mut self, bytes: usize) -> Result<(), TokenizerError> {
        self.worked += bytes + 16;
        if self.worked < SLICE {
            return Ok(());
        }
        self.worked = 0;
        if (self.bounds.cancelled)() {
            return Err(TokenizerError::Cancelled);
        }
        Ok(())
    }
}
