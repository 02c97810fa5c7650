//! A slice shared by the threads of a region, with checked access.
//!
//! In a phase of the region, threads either write disjoint parts or all read everything; a barrier
//! separates the phases. This type checks that contract at run time: readers and writers exclude
//! each other, and two live writers may not overlap. A violation is a bug in the engine and panics,
//! which poisons the region. Live guards remain valid, and a refused one leaves no trace.

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

use crate::claims::{Claims, Rect};

/// A slice viewed as rows of `cols` elements. Threads take disjoint rectangles for writing, or
/// everything for reading.
///
/// Creating one allocates nothing, and neither does taking a guard while at most 32 writers are
/// live.
pub struct PartitionedSlice<'a, T> {
    name: &'static str,
    start: NonNull<T>,
    rows: usize,
    cols: usize,
    /// Live guards: positive = readers, negative = writers.
    guards: AtomicI32,
    /// Parts held by live writers.
    written: Mutex<Claims>,
    data: PhantomData<&'a mut [T]>,
}

// SAFETY: it represents a `&mut [T]`.
unsafe impl<T: Send> Send for PartitionedSlice<'_, T> {}
// SAFETY: through `&PartitionedSlice`, threads get `&T` while there is no writer, or `&mut T` of
// disjoint parts; both are checked at run time.
unsafe impl<T: Send + Sync> Sync for PartitionedSlice<'_, T> {}

impl<'a, T> PartitionedSlice<'a, T> {
    /// Shares `data` as rows of `cols` elements.
    ///
    /// # Panics
    /// When `data` is not a whole number of rows.
    pub fn new(data: &'a mut [T], cols: usize) -> Self {
        Self::named("a shared slice", data, cols)
    }

    /// [`PartitionedSlice::new`] with a name that appears in panics.
    ///
    /// # Panics
    /// When `data` is not a whole number of rows.
    pub fn named(name: &'static str, data: &'a mut [T], cols: usize) -> Self {
        assert!(
            cols > 0 && data.len().is_multiple_of(cols),
            "{name}: {} elements are no rows of {cols}",
            data.len()
        );
        Self {
            name,
            rows: data.len() / cols,
            cols,
            start: NonNull::from(data).cast(),
            guards: AtomicI32::new(0),
            written: Mutex::new(Claims::new()),
            data: PhantomData,
        }
    }

    /// The name in panics.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Elements per row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Takes whole rows for writing.
    ///
    /// # Panics
    /// When they are out of range, a reader is live, or another writer holds one of them.
    #[track_caller]
    pub fn rows_mut(&self, rows: Range<usize>) -> WriteGuard<'_, T> {
        self.rect_mut(rows, 0..self.cols)
    }

    /// Takes some columns of some rows for writing. An empty rectangle never conflicts.
    ///
    /// # Panics
    /// As [`PartitionedSlice::rows_mut`].
    #[track_caller]
    pub fn rect_mut(&self, rows: Range<usize>, cols: Range<usize>) -> WriteGuard<'_, T> {
        let name = self.name;
        assert!(
            rows.start <= rows.end && rows.end <= self.rows,
            "{name}: rows {rows:?} of {}",
            self.rows
        );
        assert!(
            cols.start <= cols.end && cols.end <= self.cols,
            "{name}: columns {cols:?} of {}",
            self.cols
        );
        let rect = Rect { rows, cols };
        let entered = self.enter(|live| (live <= 0).then(|| live - 1));
        assert!(entered, "{name} is written while it is read");
        if let Err(other) = self.claims(|claims| claims.take(&rect)) {
            self.guards.fetch_add(1, Ordering::Release);
            panic!("two threads write one part of {name}: {rect:?} and {other:?}");
        }
        let (start, stride) = if rect.is_empty() {
            // An empty rectangle may start past the slice, so use a dangling pointer with stride 0.
            (NonNull::dangling(), 0)
        } else {
            let first = rect.rows.start * self.cols + rect.cols.start;
            // SAFETY: the rectangle is not empty and lies in the slice (asserted), so its first
            // element lies in it too.
            (unsafe { self.start.add(first) }, self.cols)
        };
        // SAFETY: every row of the rectangle lies in the slice, which this value borrows mutably,
        // or is empty and aligned. No other access exists while the guard lives: `guards` excludes
        // readers, and `written` excludes other writers. Rows do not overlap: their stride is the
        // slice's, or they are empty, or there are none.
        let view =
            unsafe { MatMut::from_raw_parts(start, rect.rows.len(), rect.cols.len(), stride) };
        WriteGuard {
            view,
            release: Release {
                guards: &self.guards,
                written: &self.written,
                rect,
            },
        }
    }

    /// Takes everything for reading.
    ///
    /// # Panics
    /// When a writer is live.
    #[track_caller]
    pub fn read(&self) -> ReadGuard<'_, T> {
        let entered = self.enter(|live| (live >= 0).then(|| live + 1));
        assert!(entered, "{} is read while it is written", self.name);
        ReadGuard { shared: self }
    }

    /// Registers a guard unless `next` refuses. A single atomic step, and refusal changes nothing:
    /// if the guard were counted first and checked later, a refused guard would admit the next one
    /// of its kind.
    fn enter(&self, next: impl FnMut(i32) -> Option<i32>) -> bool {
        self.guards
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, next)
            .is_ok()
    }

    fn claims<R>(&self, look: impl FnOnce(&mut Claims) -> R) -> R {
        look(&mut self.written.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<T> fmt::Debug for PartitionedSlice<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "PartitionedSlice({}, {} × {})",
            self.name, self.rows, self.cols
        )
    }
}

/// A rectangle for exclusive writing, until it is dropped.
#[derive(Debug)]
pub struct WriteGuard<'s, T> {
    view: MatMut<'s, T>,
    /// Releases the rectangle after the view is dropped.
    release: Release<'s>,
}

#[derive(Debug)]
struct Release<'s> {
    guards: &'s AtomicI32,
    written: &'s Mutex<Claims>,
    rect: Rect,
}

impl<T> WriteGuard<'_, T> {
    /// The rectangle's rows in the slice.
    pub fn rows(&self) -> Range<usize> {
        self.release.rect.rows.clone()
    }

    /// The rectangle's columns in the slice.
    pub fn cols(&self) -> Range<usize> {
        self.release.rect.cols.clone()
    }

    /// The rectangle as a matrix.
    pub fn view(&mut self) -> MatMut<'_, T> {
        self.view.reborrow()
    }

    /// One of its rows, counted from the rectangle's first row.
    #[track_caller]
    pub fn row_mut(&mut self, row: usize) -> &mut [T] {
        self.view.row_mut(row)
    }
}

impl Drop for Release<'_> {
    fn drop(&mut self) {
        self.written
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .give_back(&self.rect);
        self.guards.fetch_add(1, Ordering::Release);
    }
}

/// Everything, for reading, until it is dropped.
pub struct ReadGuard<'s, T> {
    /// Holds no reference to the elements, because it would outlive the release within `drop`.
    shared: &'s PartitionedSlice<'s, T>,
}

impl<T> ReadGuard<'_, T> {
    /// One row.
    #[track_caller]
    pub fn row(&self, row: usize) -> &[T] {
        self.view().row(row)
    }

    /// The slice as a matrix.
    pub fn view(&self) -> MatRef<'_, T> {
        MatRef::strided(self, self.shared.rows, self.shared.cols, self.shared.cols)
    }
}

impl<T> Deref for ReadGuard<'_, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        let PartitionedSlice {
            start, rows, cols, ..
        } = self.shared;
        // SAFETY: this is the borrowed slice, and it has no writer while this guard lives
        // (`guards`).
        unsafe { std::slice::from_raw_parts(start.as_ptr(), rows * cols) }
    }
}

impl<T> fmt::Debug for ReadGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReadGuard({:?})", self.shared)
    }
}

impl<T> Drop for ReadGuard<'_, T> {
    fn drop(&mut self) {
        self.shared.guards.fetch_sub(1, Ordering::Release);
    }
}
