//! Elements that are only read: in a buffer, or in place in a mapped file.

use std::{marker::PhantomData, ops::Deref, ops::Range, sync::Arc};

use bytemuck::Pod;

use crate::{AlignedVec, Buffer, MappedFile};

/// Elements of a mapped file, which stays mapped as long as they are there.
#[derive(Debug)]
pub struct MappedSlice<T: Pod> {
    file: Arc<MappedFile>,
    bytes: Range<usize>,
    elements: PhantomData<T>,
}

impl<T: Pod> MappedSlice<T> {
    /// `len` elements from byte `offset` of the file on; `None` when the file does not have them, or they do not lie there
    /// as `T` must.
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

/// Elements that are only read, wherever they are.
#[derive(Debug)]
pub enum ReadOnlySlice<T: Pod> {
    /// In memory of an arena's.
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
