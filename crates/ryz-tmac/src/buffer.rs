//! Owned memory: a block of an arena's.

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

/// Bytes of an arena: aligned to a line, zeroed at first, followed by at least a line of readable bytes
/// ([`Buffer::PADDING`]) that belong to no one. Dropping it gives them back.
#[derive(Debug)]
pub struct Buffer {
    start: NonNull<u8>,
    len: usize,
    block: Block,
    heap: Arc<Heap>,
}

// SAFETY: the bytes are owned by this value alone, and shared references give shared access only.
unsafe impl Send for Buffer {}
// SAFETY: as above: `&Buffer` gives `&[u8]`.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// Bytes past the end that may be read (not written): kernels load whole lines.
    pub const PADDING: usize = LINE;

    pub(crate) fn new(heap: Arc<Heap>, block: Block, len: usize) -> Self {
        Self {
            start: block.start(),
            len,
            block,
            heap,
        }
    }

    /// Bytes asked for.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no byte was asked for.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What it is for.
    pub fn kind(&self) -> BufferKind {
        self.block.kind()
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        // SAFETY: `start` points to `len` initialised bytes that this value owns; `&self` excludes writers.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// The bytes, for writing.
    pub fn as_bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_bytes`; `&mut self` excludes every other access.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    /// The bytes in whole lines and the padding: what may be read past the end, as zeroes.
    pub fn padded_bytes(&self) -> &[u8] {
        // SAFETY: the block has the lines asked for and `PADDING` bytes more, all initialised (zeroed); `&self` excludes
        // writers.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.block.padded()) }
    }

    /// Makes the bytes of a range zeroes, by giving its whole pages back to the system where that takes them: they cost
    /// no memory until they are touched again. How many bytes it took.
    ///
    /// # Panics
    /// When there is no such range.
    pub fn discard(&mut self, range: Range<usize>) -> usize {
        let bytes = &mut self.as_bytes_mut()[range];
        let (start, len) = (NonNull::from(&mut *bytes).cast(), bytes.len());
        // SAFETY: the bytes lie in a mapping of the arena's with such pages, and this value has them alone.
        let discarded = unsafe { system::discard(start, len, self.block.page()) };
        // SAFETY: the same bytes as before; those that went are mapped, as zeroes.
        let bytes = unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), len) };
        let (from, gone) = discarded.unwrap_or((0, 0));
        bytes[..from].fill(0);
        bytes[from + gone..].fill(0);
        gone
    }

    /// The bytes as elements; a rest shorter than an element is left out.
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

/// The size of an element, checked when the program is built.
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

    /// The buffer behind it.
    pub fn buffer(&self) -> &Buffer {
        &self.buffer
    }

    /// Makes the elements of a range zeroes, as [`Buffer::discard`] does; how many bytes the system took.
    ///
    /// # Panics
    /// When there is no such range.
    pub fn discard(&mut self, range: Range<usize>) -> usize {
        assert!(range.end <= self.len, "elements {range:?} of {}", self.len);
        let size = size_of::<T>();
        self.buffer.discard(range.start * size..range.end * size)
    }

    /// The elements and the zeroes past them that may be read; see [`Buffer::padded_bytes`].
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
