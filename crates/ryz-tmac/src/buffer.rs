//! Owned memory: a region of the system's or the heap's, on the arena's books.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc},
    ops::{Deref, DerefMut},
    ptr::NonNull,
};

use bytemuck::Pod;
use memmap2::MmapMut;

use crate::{BufferKind, HugePages, LINE, arena::Claim};

/// From this size on a region is a mapping of its own, whose pages go back to the system when it is freed.
const MAP_FROM: usize = 128 << 10;

/// Bytes of a transparent huge page.
const HUGE_PAGE: usize = 2 << 20;

/// Zeroed memory, aligned to a line, with one line more than was asked.
#[derive(Debug)]
pub(crate) enum Region {
    Heap { start: NonNull<u8>, layout: Layout },
    Map(MmapMut),
}

// SAFETY: the heap's bytes are owned by this value alone, and any thread may free them.
unsafe impl Send for Region {}
// SAFETY: `&Region` gives no access to the bytes.
unsafe impl Sync for Region {}

impl Region {
    /// `bytes` and a line more; `None` when there is no such memory.
    pub fn zeroed(bytes: usize, huge_pages: HugePages) -> Option<Self> {
        let padded = bytes.checked_add(LINE)?;
        if padded >= MAP_FROM {
            let map = MmapMut::map_anon(padded).ok()?;
            if huge_pages == HugePages::Transparent && padded >= HUGE_PAGE {
                // Advice: a system without huge pages says no, and nothing is lost.
                #[cfg(target_os = "linux")]
                let _ = map.advise(memmap2::Advice::HugePage);
            }
            return Some(Self::Map(map));
        }
        let layout = Layout::from_size_align(padded, LINE).ok()?;
        // SAFETY: the size is at least LINE, so not zero.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        Some(Self::Heap { start, layout })
    }

    fn start(&mut self) -> NonNull<u8> {
        match self {
            Self::Heap { start, .. } => *start,
            Self::Map(map) => NonNull::from(&mut map[..]).cast(),
        }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if let Self::Heap { start, layout } = self {
            // SAFETY: allocated in `zeroed` with this layout and freed once, here.
            unsafe { dealloc(start.as_ptr(), *layout) };
        }
    }
}

/// Bytes of an arena: aligned to a line, zeroed at first, followed by at least a line of readable bytes
/// ([`Buffer::PADDING`]) that belong to no one. Dropping it gives them back.
#[derive(Debug)]
pub struct Buffer {
    start: NonNull<u8>,
    len: usize,
    /// Frees the bytes; before `claim`, so that what the books give away is free.
    _region: Region,
    claim: Claim,
}

// SAFETY: the bytes are owned by this value alone, and shared references give shared access only.
unsafe impl Send for Buffer {}
// SAFETY: as above: `&Buffer` gives `&[u8]`.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// Bytes past the end that may be read (not written): kernels load whole lines.
    pub const PADDING: usize = LINE;

    pub(crate) fn new(mut region: Region, len: usize, claim: Claim) -> Self {
        Self {
            start: region.start(),
            len,
            _region: region,
            claim,
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
        self.claim.kind()
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
        let len = self.claim.bytes() + Self::PADDING;
        // SAFETY: the region has the claimed lines and `PADDING` bytes more, all initialised (zeroed); `&self` excludes
        // writers.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), len) }
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
