//! Read-only elements: in a buffer, or mapped from a file.

use std::{marker::PhantomData, ops::Deref, ops::Range, sync::Arc};

use bytemuck::Pod;

use crate::{AlignedVec, Buffer, MappedFile};

/// Elements of a mapped file, which stays mapped as long as they exist.
#[derive(Debug)]
pub struct MappedSlice<T: Pod> {
    file: Arc<MappedFile>,
    bytes: Range<usize>,
    elements: PhantomData<T>,
}

impl<T: Pod> MappedSlice<T> {
    /// `len` elements starting at byte `offset` of the file; `None` if the file is too short, or if
    /// they are not aligned for `T`.
    pub fn new(file: &Arc<MappedFile>, offset: u64, len: usize) -> Option<Self> {
        let start = usize::try_from(offset).ok()?;
        let bytes = start..start.checked_add(len.checked_mul(size_of::<T>())?)?;
        bytemuck::try_cast_slice::<u8, T>(file.get(bytes.clone())?).ok()?;
        Some(Self {
            file: Arc::clone(file),
            bytes,
            elements: PhantomData,
        })
    }
}

impl<T: Pod> Deref for MappedSlice<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        bytemuck::cast_slice(&self.file[self.bytes.clone()])
    }
}

/// Read-only elements, wherever they are stored.
#[derive(Debug)]
pub enum ReadOnlySlice<T: Pod> {
    /// In an arena's memory.
    Owned(AlignedVec<T>),
    /// In a mapped file.
    Mapped(MappedSlice<T>),
}

impl<T: Pod> Deref for ReadOnlySlice<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Self::Owned(elements) => elements,
            Self::Mapped(elements) => elements,
        }
    }
}

impl<T: Pod> From<AlignedVec<T>> for ReadOnlySlice<T> {
    fn from(elements: AlignedVec<T>) -> Self {
        Self::Owned(elements)
    }
}

impl From<Buffer> for ReadOnlySlice<u8> {
    fn from(buffer: Buffer) -> Self {
        let len = buffer.len();
        Self::Owned(AlignedVec::new(buffer, len))
    }
}

impl<T: Pod> From<MappedSlice<T>> for ReadOnlySlice<T> {
    fn from(elements: MappedSlice<T>) -> Self {
        Self::Mapped(elements)
    }
}
