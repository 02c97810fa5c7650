//! One slice shared between the threads of a region, in parts that are checked.
//!
//! In a phase of the region, threads either write disjoint parts or all read everything; a barrier parts the phases.
//! That is a contract of the calling pass, and this type checks it at run time instead of trusting it: readers and
//! writers exclude each other, and two live writers may not overlap. A breach is our own fault and panics, which
//! poisons the region.

use std::{
    fmt,
    marker::PhantomData,
    ops::{Deref, Range},
    ptr::NonNull,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicI32, Ordering},
    },
};

use ryz_tmac::{MatMut, MatRef};

/// A rectangle of rows and columns.
#[derive(Clone, PartialEq, Eq)]
struct Rect {
    rows: Range<usize>,
    cols: Range<usize>,
}

impl Rect {
    fn overlaps(&self, other: &Self) -> bool {
        let meet = |a: &Range<usize>, b: &Range<usize>| a.start < b.end && b.start < a.end;
        meet(&self.rows, &other.rows) && meet(&self.cols, &other.cols)
    }
}

/// A slice seen as rows of `cols` elements, of which threads take disjoint rectangles to write, or everything to read.
pub struct PartitionedSlice<'a, T> {
    start: NonNull<T>,
    rows: usize,
    cols: usize,
    /// Live guards: positive = readers, negative = writers.
    guards: AtomicI32,
    /// What live writers hold.
    written: Mutex<Vec<Rect>>,
    data: PhantomData<&'a mut [T]>,
}

// SAFETY: it is a `&mut [T]`.
unsafe impl<T: Send> Send for PartitionedSlice<'_, T> {}
// SAFETY: through `&PartitionedSlice` several threads get `&T` while no one writes, or `&mut T` of disjoint parts; both
// are checked at run time.
unsafe impl<T: Send + Sync> Sync for PartitionedSlice<'_, T> {}

impl<'a, T> PartitionedSlice<'a, T> {
    /// Shares `data` as rows of `cols` elements.
    ///
    /// # Panics
    /// When `data` is no whole number of rows.
    pub fn new(data: &'a mut [T], cols: usize) -> Self {
        assert!(
            cols > 0 && data.len().is_multiple_of(cols),
            "{} elements are no rows of {cols}",
            data.len()
        );
        Self {
            rows: data.len() / cols,
            cols,
            start: NonNull::from(data).cast(),
            guards: AtomicI32::new(0),
            written: Mutex::new(Vec::with_capacity(16)),
            data: PhantomData,
        }
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Elements of a row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Takes whole rows for writing.
    ///
    /// # Panics
    /// When they are out of range, someone reads, or another writer holds one of them.
    pub fn rows_mut(&self, rows: Range<usize>) -> WriteGuard<'_, T> {
        self.rect_mut(rows, 0..self.cols)
    }

    /// Takes some columns of some rows for writing.
    ///
    /// # Panics
    /// As [`PartitionedSlice::rows_mut`].
    pub fn rect_mut(&self, rows: Range<usize>, cols: Range<usize>) -> WriteGuard<'_, T> {
        assert!(
            rows.start <= rows.end && rows.end <= self.rows,
            "rows {rows:?} of {}",
            self.rows
        );
        assert!(
            cols.start <= cols.end && cols.end <= self.cols,
            "columns {cols:?} of {}",
            self.cols
        );
        let before = self.guards.fetch_sub(1, Ordering::Acquire);
        assert!(before <= 0, "a shared slice is written while it is read");
        let rect = Rect { rows, cols };
        {
            let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
            let clash = written.iter().any(|other| other.overlaps(&rect));
            assert!(!clash, "two threads write one part of a shared slice");
            written.push(rect.clone());
        }
        // SAFETY: the rectangle lies in the slice (asserted), so its start does.
        let start = unsafe {
            self.start
                .add(rect.rows.start * self.cols + rect.cols.start)
        };
        // SAFETY: every row of the rectangle lies in the slice, which this value borrows mutably. No one else reaches it
        // while the guard lives: readers are excluded by `guards`, other writers by `written`.
        let view =
            unsafe { MatMut::from_raw_parts(start, rect.rows.len(), rect.cols.len(), self.cols) };
        WriteGuard {
            view,
            rect,
            release: Release {
                guards: &self.guards,
                written: &self.written,
            },
        }
    }

    /// Takes everything for reading.
    ///
    /// # Panics
    /// When someone writes.
    pub fn read(&self) -> ReadGuard<'_, T> {
        let before = self.guards.fetch_add(1, Ordering::Acquire);
        assert!(before >= 0, "a shared slice is read while it is written");
        // SAFETY: the slice is borrowed mutably by this value, and writers are excluded while the guard lives.
        let data =
            unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.rows * self.cols) };
        ReadGuard {
            view: MatRef::from_slice(data, self.cols),
            data,
            guards: &self.guards,
        }
    }
}

impl<T> fmt::Debug for PartitionedSlice<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PartitionedSlice({} × {})", self.rows, self.cols)
    }
}

/// A rectangle that this thread alone writes, until it is dropped.
pub struct WriteGuard<'s, T> {
    view: MatMut<'s, T>,
    rect: Rect,
    release: Release<'s>,
}

struct Release<'s> {
    guards: &'s AtomicI32,
    written: &'s Mutex<Vec<Rect>>,
}

impl<T> WriteGuard<'_, T> {
    /// The rectangle as a matrix.
    pub fn view(&mut self) -> MatMut<'_, T> {
        self.view.reborrow()
    }

    /// One of its rows, counted from the rectangle's first.
    pub fn row_mut(&mut self, row: usize) -> &mut [T] {
        self.view.row_mut(row)
    }
}

impl<T> Drop for WriteGuard<'_, T> {
    fn drop(&mut self) {
        let mut written = self
            .release
            .written
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(mine) = written.iter().position(|rect| *rect == self.rect) {
            written.swap_remove(mine);
        }
        drop(written);
        self.release.guards.fetch_add(1, Ordering::Release);
    }
}

/// Everything, for reading, until it is dropped.
pub struct ReadGuard<'s, T> {
    view: MatRef<'s, T>,
    data: &'s [T],
    guards: &'s AtomicI32,
}

impl<T> ReadGuard<'_, T> {
    /// One row.
    pub fn row(&self, row: usize) -> &[T] {
        self.view.row(row)
    }

    /// The slice as a matrix.
    pub fn view(&self) -> MatRef<'_, T> {
        self.view
    }
}

impl<T> Deref for ReadGuard<'_, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.data
    }
}

impl<T> Drop for ReadGuard<'_, T> {
    fn drop(&mut self) {
        self.guards.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disjoint_rectangles_are_written_together() {
        let mut data = [0; 12];
        let shared = PartitionedSlice::new(&mut data, 4);
        let (mut left, mut right) = (shared.rect_mut(0..3, 0..2), shared.rect_mut(0..3, 2..4));
        left.row_mut(1)[1] = 1;
        right.row_mut(1)[0] = 2;
        drop((left, right));
        assert_eq!(shared.read().row(1), [0, 1, 2, 0]);
    }

    #[test]
    #[should_panic(expected = "two threads write one part")]
    fn overlapping_writers_are_caught() {
        let mut data = [0; 12];
        let shared = PartitionedSlice::new(&mut data, 4);
        let _first = shared.rect_mut(0..2, 0..3);
        let _second = shared.rect_mut(1..3, 2..4);
    }

    #[test]
    #[should_panic(expected = "read while it is written")]
    fn reading_under_a_writer_is_caught() {
        let mut data = [0; 4];
        let shared = PartitionedSlice::new(&mut data, 2);
        let _writer = shared.rows_mut(0..1);
        let _reader = shared.read();
    }

    #[test]
    #[should_panic(expected = "written while it is read")]
    fn writing_under_a_reader_is_caught() {
        let mut data = [0; 4];
        let shared = PartitionedSlice::new(&mut data, 2);
        let _reader = shared.read();
        let _writer = shared.rows_mut(0..1);
    }
}
