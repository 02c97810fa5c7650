//! Files: opened once, read at offsets, mapped only on request.

#[cfg(target_os = "linux")]
use std::num::NonZeroU64;
use std::{
    fs::{self, File, Metadata, OpenOptions},
    io,
    ops::{Deref, Range},
    path::{Path, PathBuf},
};

use memmap2::Mmap;

use crate::{Arena, Buffer, BufferKind, MemoryError};

/// An opened regular file. Its length is read once; if the file shrinks while being read, reads
/// fail.
#[derive(Debug)]
pub struct InputFile {
    path: PathBuf,
    file: File,
    len: u64,
}

impl InputFile {
    /// Opens a file for reading.
    ///
    /// # Errors
    /// [`MemoryError::FileNotFound`], [`MemoryError::NotARegularFile`] for directories, devices and
    /// pipes, and [`MemoryError::Io`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, MemoryError> {
        let path = path.as_ref().to_owned();
        let opened = fs::metadata(&path).and_then(|metadata| {
            // Check before opening: opening a pipe would block until its other end opens, and
            // opening a device may have side effects.
            if !metadata.is_file() {
                return Ok(Err(metadata));
            }
            let file = open_without_waiting(&path)?;
            // Check again after opening: the path may have changed in between.
            let metadata = file.metadata()?;
            Ok(if metadata.is_file() {
                Ok((file, metadata.len()))
            } else {
                Err(metadata)
            })
        });
        match opened {
            Ok(Ok((file, len))) => Ok(Self { path, file, len }),
            Ok(Err(metadata)) => Err(MemoryError::NotARegularFile {
                path,
                found: what_is_there(&metadata),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(MemoryError::FileNotFound { path })
            }
            Err(source) => Err(MemoryError::Io {
                path,
                action: "open",
                source,
            }),
        }
    }

    /// The path that it was opened from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its length in bytes when it was opened.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it was empty when it was opened.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Fills `bytes` starting at `offset`; callable from several threads.
    ///
    /// # Errors
    /// [`MemoryError::ShortRead`] when the file ends early; [`MemoryError::Io`] otherwise.
    pub fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<(), MemoryError> {
        self.check_range(offset, bytes.len())?;
        let mut filled = 0;
        while filled < bytes.len() {
            match read_some(&self.file, &mut bytes[filled..], offset + filled as u64) {
                Ok(0) => return Err(self.short_read(offset, bytes.len(), filled)),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(self.refused("read", source)),
            }
        }
        Ok(())
    }

    /// Reads a range into a buffer of the arena. A range past the end of the file is rejected
    /// before any allocation, whatever length a malformed header claims.
    ///
    /// # Errors
    /// As [`InputFile::read_at`] and [`Arena::allocate`].
    pub fn read_range(
        &self,
        offset: u64,
        len: usize,
        arena: &Arena,
        kind: BufferKind,
    ) -> Result<Buffer, MemoryError> {
        self.check_range(offset, len)?;
        let mut buffer = arena.allocate(len, kind)?;
        self.read_at(offset, buffer.as_bytes_mut())?;
        Ok(buffer)
    }

    /// Advises the system that a range was used and its cached pages can be evicted, so that files
    /// much larger than memory do not push out everything else. Later reads go to disk again. Has
    /// no effect outside Linux, or if the system ignores the advice.
    pub fn advise_done(&self, range: Range<u64>) {
        #[cfg(target_os = "linux")]
        if let Some(len) = range.end.checked_sub(range.start).and_then(NonZeroU64::new) {
            let _ = rustix::fs::fadvise(
                &self.file,
                range.start,
                Some(len),
                rustix::fs::Advice::DontNeed,
            );
        }
        #[cfg(not(target_os = "linux"))]
        let _ = range;
    }

    /// Maps the whole file. Truncating the file while it is mapped kills the process.
    ///
    /// # Errors
    /// [`MemoryError::Io`] when the system refuses.
    pub fn map(&self) -> Result<MappedFile, MemoryError> {
        // SAFETY: the map is only read; truncation of the file meanwhile is the documented risk.
        let map = unsafe { Mmap::map(&self.file) };
        map.map(|map| MappedFile {
            map,
            path: self.path.clone(),
        })
        .map_err(|source| self.refused("map", source))
    }

    /// Rejects ranges past the file's length when it was opened.
    fn check_range(&self, offset: u64, len: usize) -> Result<(), MemoryError> {
        let there = self.len.saturating_sub(offset);
        match usize::try_from(there) {
            Ok(there) if there < len => Err(self.short_read(offset, len, there)),
            _ => Ok(()),
        }
    }

    fn short_read(&self, offset: u64, expected: usize, got: usize) -> MemoryError {
        MemoryError::ShortRead {
            path: self.path.clone(),
            offset,
            expected,
            got,
        }
    }

    fn refused(&self, action: &'static str, source: io::Error) -> MemoryError {
        MemoryError::Io {
            path: self.path.clone(),
            action,
            source,
        }
    }
}

fn open_without_waiting(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        // No effect on a regular file; a pipe opens at once and is then rejected.
        options.custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as _);
    }
    options.open(path)
}

#[cfg(unix)]
fn what_is_there(metadata: &Metadata) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    let kind = metadata.file_type();
    if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

#[cfg(not(unix))]
fn what_is_there(metadata: &Metadata) -> &'static str {
    if metadata.is_dir() {
        "a directory"
    } else {
        "a device or pipe"
    }
}

#[cfg(unix)]
fn read_some(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, bytes, offset)
}

#[cfg(windows)]
fn read_some(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, bytes, offset)
}

/// A file's bytes, mapped.
#[derive(Debug)]
pub struct MappedFile {
    map: Mmap,
    path: PathBuf,
}

impl MappedFile {
    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}
