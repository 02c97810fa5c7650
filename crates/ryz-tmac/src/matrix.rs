//! Strided row-major views of matrices.

use std::{fmt, marker::PhantomData, ops::Range, ptr::NonNull};

/// A read-only matrix: `rows` rows of `cols` elements, `stride` apart.
pub struct MatRef<'a, T> {
    data: &'a [T],
    rows: usize,
    cols: usize,
    stride: usize,
}

impl<T> Clone for MatRef<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for MatRef<'_, T> {}

impl<'a, T> MatRef<'a, T> {
    /// Views a slice as contiguous rows of `cols` elements.
    ///
    /// # Panics
    /// When the slice is not a whole number of rows.
    pub fn from_slice(data: &'a [T], cols: usize) -> Self {
        let rows = rows_of(data.len(), cols);
        Self {
            data,
            rows,
            cols,
            stride: cols,
        }
    }

    /// Views a slice as `rows` rows of `cols` elements, `stride` apart: padded rows, or some
    /// columns of a wider matrix.
    ///
    /// # Panics
    /// When rows overlap or the last one ends past the slice.
    pub fn strided(data: &'a [T], rows: usize, cols: usize, stride: usize) -> Self {
        check_strided(data.len(), rows, cols, stride);
        Self {
            data,
            rows,
            cols,
            stride,
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Elements per row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Elements from one row to the next.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// One row.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn row(&self, row: usize) -> &'a [T] {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        &self.data[row * self.stride..][..self.cols]
    }
}

impl<T> fmt::Debug for MatRef<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "MatRef({} × {}, stride {})",
            self.rows, self.cols, self.stride
        )
    }
}

/// A writable matrix: `rows` rows of `cols` elements, `stride` apart. It never touches the elements
/// between rows, so that two of these may be neighbouring columns of one matrix.
pub struct MatMut<'a, T> {
    start: NonNull<T>,
    rows: usize,
    cols: usize,
    stride: usize,
    data: PhantomData<&'a mut [T]>,
}

// SAFETY: it is a set of `&mut [T]` rows.
unsafe impl<T: Send> Send for MatMut<'_, T> {}
// SAFETY: `&MatMut` gives `&[T]` only.
unsafe impl<T: Sync> Sync for MatMut<'_, T> {}

impl<'a, T> MatMut<'a, T> {
    /// Views a slice as contiguous rows of `cols` elements.
    ///
    /// # Panics
    /// When the slice is not a whole number of rows.
    pub fn from_slice(data: &'a mut [T], cols: usize) -> Self {
        let rows = rows_of(data.len(), cols);
        Self {
            start: NonNull::from(data).cast(),
            rows,
            cols,
            stride: cols,
            data: PhantomData,
        }
    }

    /// Views a slice as `rows` rows of `cols` elements, `stride` apart; see [`MatRef::strided`].
    ///
    /// # Panics
    /// When rows overlap or the last one ends past the slice.
    pub fn strided(data: &'a mut [T], rows: usize, cols: usize, stride: usize) -> Self {
        check_strided(data.len(), rows, cols, stride);
        Self {
            start: NonNull::from(data).cast(),
            rows,
            cols,
            stride,
            data: PhantomData,
        }
    }

    /// Views memory as a matrix.
    ///
    /// # Safety
    /// - For every row below `rows`, the `cols` elements at `start + row · stride` are valid,
    ///   initialized and aligned.
    /// - For `'a`, they are accessed only through this value; `stride >= cols` unless `rows` is at
    ///   most 1.
    pub unsafe fn from_raw_parts(
        start: NonNull<T>,
        rows: usize,
        cols: usize,
        stride: usize,
    ) -> Self {
        debug_assert!(stride >= cols || rows <= 1);
        Self {
            start,
            rows,
            cols,
            stride,
            data: PhantomData,
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Elements per row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Elements from one row to the next.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// One row.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn row(&self, row: usize) -> &[T] {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        // SAFETY: the row is one of those guaranteed to the constructor (asserted).
        let start = unsafe { self.start.add(row * self.stride) };
        // SAFETY: its `cols` elements are valid, and `&self` excludes writers.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), self.cols) }
    }

    /// One row, for writing.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn row_mut(&mut self, row: usize) -> &mut [T] {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        // SAFETY: the row is one of those guaranteed to the constructor (asserted).
        let start = unsafe { self.start.add(row * self.stride) };
        // SAFETY: its `cols` elements are valid, and `&mut self` excludes all other access.
        unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), self.cols) }
    }

    /// Splits into the first `rows` rows and the rest.
    ///
    /// # Panics
    /// When there are fewer rows.
    pub fn split_rows(self, rows: usize) -> (Self, Self) {
        assert!(rows <= self.rows, "{rows} rows of {}", self.rows);
        let part = |start, rows| Self {
            start,
            rows,
            cols: self.cols,
            stride: self.stride,
            data: PhantomData,
        };
        let second = if rows == self.rows {
            // No rows, so the pointer is unused.
            NonNull::dangling()
        } else {
            // SAFETY: row `rows` is one of those guaranteed to the constructor.
            unsafe { self.start.add(rows * self.stride) }
        };
        (part(self.start, rows), part(second, self.rows - rows))
    }

    /// Some columns of every row, reborrowed.
    ///
    /// # Panics
    /// When there are fewer columns.
    pub fn columns(&mut self, columns: Range<usize>) -> MatMut<'_, T> {
        assert!(
            columns.start <= columns.end && columns.end <= self.cols,
            "columns {columns:?} of {}",
            self.cols
        );
        let start = if self.rows == 0 {
            self.start
        } else {
            // SAFETY: the offset is within the first row (asserted), or one past its end.
            unsafe { self.start.add(columns.start) }
        };
        MatMut {
            start,
            rows: self.rows,
            cols: columns.len(),
            stride: self.stride,
            data: PhantomData,
        }
    }

    /// The same view, reborrowed.
    pub fn reborrow(&mut self) -> MatMut<'_, T> {
        MatMut {
            start: self.start,
            rows: self.rows,
            cols: self.cols,
            stride: self.stride,
            data: PhantomData,
        }
    }
}

impl<T> fmt::Debug for MatMut<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "MatMut({} × {}, stride {})",
            self.rows, self.cols, self.stride
        )
    }
}

fn rows_of(len: usize, cols: usize) -> usize {
    assert!(
        cols > 0 && len.is_multiple_of(cols),
        "{len} elements are no rows of {cols}"
    );
    len / cols
}

fn check_strided(len: usize, rows: usize, cols: usize, stride: usize) {
    assert!(
        stride >= cols || rows <= 1,
        "rows of {cols} elements overlap {stride} apart"
    );
    let end = match rows.checked_sub(1) {
        Some(last) => last
            .checked_mul(stride)
            .and_then(|start| start.checked_add(cols)),
        None => Some(0),
    };
    assert!(
        end.is_some_and(|end| end <= len),
        "{len} elements are no {rows} rows of {cols}, {stride} apart"
    );
}
