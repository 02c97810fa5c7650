//! Owned memory: a block of an arena.

use std::{
    ops::{Deref, DerefMut, Range},
    ptr::NonNull,
    sync::Arc,
};

use bytemuck::Pod;

use crate::{
    BufferKind, LINE,
    heap::{Block, Heap},
    system,
};

/// Bytes of an arena: aligned to a cache line, initially zeroed, and followed by at least one line
/// of readable bytes ([`Buffer::PADDING`]) that no buffer uses. Dropping it frees them.
#[derive(Debug)]
pub struct Buffer {
    start: NonNull<u8>,
    len: usize,
    block: Block,
    heap: Arc<Heap>,
}

// SAFETY: only this value owns the bytes, and shared references give shared access only.
unsafe impl Send for Buffer {}
// SAFETY: as above: `&Buffer` gives `&[u8]`.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// Readable (not writable) bytes past the end: kernels load whole lines.
    pub const PADDING: usize = LINE;

    pub(crate) fn new(heap: Arc<Heap>, block: Block, len: usize) -> Self {
        Self {
            start: block.start(),
            len,
            block,
            heap,
        }
    }

    /// Requested bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether zero bytes were requested.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its kind.
    pub fn kind(&self) -> BufferKind {
        self.block.kind()
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        // SAFETY: `start` points to `len` initialized bytes owned by this value; `&self` excludes
        // writers.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// The bytes, for writing.
    pub fn as_bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_bytes`; `&mut self` excludes all other access.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    /// The bytes in whole lines plus the padding, which reads as zeros.
    pub fn padded_bytes(&self) -> &[u8] {
        // SAFETY: the block has the requested lines and `PADDING` more bytes, all initialized
        // (zeroed); `&self` excludes writers.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.block.padded()) }
    }

    /// Zeroes a range by returning its whole pages to the system where supported; they use no
    /// memory until touched again. Returns the bytes released.
    ///
    /// # Panics
    /// When the range is out of bounds.
    pub fn discard(&mut self, range: Range<usize>) -> usize {
        let bytes = &mut self.as_bytes_mut()[range];
        let (start, len) = (NonNull::from(&mut *bytes).cast(), bytes.len());
        // SAFETY: the bytes lie in an arena mapping with such pages, and only this value accesses
        // them.
        let discarded = unsafe { system::discard(start, len, self.block.page()) };
        // SAFETY: the same bytes as before; released ones are still mapped, as zeros.
        let bytes = unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), len) };
        let (from, gone) = discarded.unwrap_or((0, 0));
        bytes[..from].fill(0);
        bytes[from + gone..].fill(0);
        gone
    }

    /// The bytes as elements, without a trailing partial element.
    pub fn as_slice<T: Pod>(&self) -> &[T] {
        let whole = self.len / element_size::<T>() * size_of::<T>();
        bytemuck::cast_slice(&self.as_bytes()[..whole])
    }

    /// The bytes as elements, for writing.
    pub fn as_mut_slice<T: Pod>(&mut self) -> &mut [T] {
        let whole = self.len / element_size::<T>() * size_of::<T>();
        bytemuck::cast_slice_mut(&mut self.as_bytes_mut()[..whole])
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.heap.free(self.block);
    }
}

/// The size of an element, checked at compile time.
const fn element_size<T>() -> usize {
    const {
        assert!(size_of::<T>() > 0, "an element needs a size");
        assert!(align_of::<T>() <= LINE, "buffers are aligned to lines");
    }
    size_of::<T>()
}

/// A [`Buffer`] of elements.
#[derive(Debug)]
pub struct AlignedVec<T: Pod> {
    buffer: Buffer,
    len: usize,
    elements: std::marker::PhantomData<T>,
}

impl<T: Pod> AlignedVec<T> {
    pub(crate) fn new(buffer: Buffer, len: usize) -> Self {
        element_size::<T>();
        Self {
            buffer,
            len,
            elements: std::marker::PhantomData,
        }
    }

    /// The underlying buffer.
    pub fn buffer(&self) -> &Buffer {
        &self.buffer
    }

    /// Zeroes a range of elements, as [`Buffer::discard`] does; returns the bytes released.
    ///
    /// # Panics
    /// When the range is out of bounds.
    pub fn discard(&mut self, range: Range<usize>) -> usize {
        assert!(range.end <= self.len, "elements {range:?} of {}", self.len);
        let size = size_of::<T>();
        self.buffer.discard(range.start * size..range.end * size)
    }

    /// The elements and the readable zeros after them; see [`Buffer::padded_bytes`].
    pub fn padded(&self) -> &[T] {
        let bytes = self.buffer.padded_bytes();
        bytemuck::cast_slice(&bytes[..bytes.len() / size_of::<T>() * size_of::<T>()])
    }
}

impl<T: Pod> Deref for AlignedVec<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.buffer.as_slice()[..self.len]
    }
}

impl<T: Pod> DerefMut for AlignedVec<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.buffer.as_mut_slice()[..self.len]
    }
}
