//! The parts of a shared slice held by live writers.

use std::{fmt, ops::Range};

/// A rectangle of rows and columns.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Rect {
    pub rows: Range<usize>,
    pub cols: Range<usize>,
}

impl Rect {
    const NONE: Self = Self {
        rows: 0..0,
        cols: 0..0,
    };

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() || self.cols.is_empty()
    }

    fn overlaps(&self, other: &Self) -> bool {
        let meet = |a: &Range<usize>, b: &Range<usize>| a.start < b.end && b.start < a.end;
        meet(&self.rows, &other.rows) && meet(&self.cols, &other.cols)
    }
}

impl fmt::Debug for Rect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rows {:?} columns {:?}", self.rows, self.cols)
    }
}

/// Disjoint rectangles. The first few are stored inline, so that a decode step allocates nothing.
#[derive(Debug)]
pub(crate) struct Claims {
    inline: [Rect; Self::INLINE],
    used: usize,
    spilled: Vec<Rect>,
}

impl Claims {
    /// Number of rectangles stored inline.
    pub const INLINE: usize = 32;

    pub const fn new() -> Self {
        Self {
            inline: [Rect::NONE; Self::INLINE],
            used: 0,
            spilled: Vec::new(),
        }
    }

    /// Adds a rectangle, or returns the one that it overlaps.
    pub fn take(&mut self, rect: &Rect) -> Result<(), Rect> {
        if rect.is_empty() {
            return Ok(());
        }
        let mut held = self.inline[..self.used].iter().chain(&self.spilled);
        if let Some(other) = held.find(|other| other.overlaps(rect)) {
            return Err(other.clone());
        }
        match self.inline.get_mut(self.used) {
            Some(place) => {
                *place = rect.clone();
                self.used += 1;
            }
            None => self.spilled.push(rect.clone()),
        }
        Ok(())
    }

    /// Removes a claimed rectangle.
    pub fn give_back(&mut self, rect: &Rect) {
        if rect.is_empty() {
            return;
        }
        let held = &mut self.inline[..self.used];
        if let Some(place) = held.iter().position(|other| other == rect) {
            held.swap(place, self.used - 1);
            self.used -= 1;
        } else if let Some(place) = self.spilled.iter().position(|other| other == rect) {
            self.spilled.swap_remove(place);
        }
    }
}
