//! Files: opened once, read at offsets, mapped only when asked.

use std::{
    fs::{self, File},
    io,
    ops::Deref,
    path::{Path, PathBuf},
};

use memmap2::Mmap;

use crate::{Arena, Buffer, BufferKind, MemoryError};

/// An opened regular file. Its length is taken once; a file that gets shorter while it is read gives an error.
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
    /// [`MemoryError::FileNotFound`], [`MemoryError::NotARegularFile`] for directories, devices and pipes, and
    /// [`MemoryError::Io`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, MemoryError> {
        let path = path.as_ref().to_owned();
        // Asked before opening: opening a pipe would wait for its other end.
        let metadata = match fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) => return Err(cannot_open(path, error)),
        };
        if !metadata.is_file() {
            let found = if metadata.is_dir() {
                "a directory"
            } else {
                "a device or pipe"
            };
            return Err(MemoryError::NotARegularFile { path, found });
        }
        match File::open(&path) {
            Ok(file) => Ok(Self {
                path,
                file,
                len: metadata.len(),
            }),
            Err(error) => Err(cannot_open(path, error)),
        }
    }

    /// The path it was opened by.
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

    /// Fills `bytes` from `offset` on; may be called from several threads.
    ///
    /// # Errors
    /// [`MemoryError::ShortRead`] when the file ends before, [`MemoryError::Io`] otherwise.
    pub fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<(), MemoryError> {
        let mut filled = 0;
        while filled < bytes.len() {
            match read_some(&self.file, &mut bytes[filled..], offset + filled as u64) {
                Ok(0) => {
                    let (expected, got) = (bytes.len(), filled);
                    return Err(MemoryError::ShortRead {
                        path: self.path.clone(),
                        offset,
                        expected,
                        got,
                    });
                }
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(MemoryError::Io {
                        path: self.path.clone(),
                        action: "read",
                        source,
                    });
                }
            }
        }
        Ok(())
    }

    /// Reads a range into a buffer of the arena.
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
        let mut buffer = arena.allocate(len, kind)?;
        self.read_at(offset, buffer.as_bytes_mut())?;
        Ok(buffer)
    }

    /// Maps the whole file. Whoever asks for this takes the risk that a file cut short later kills the process.
    ///
    /// # Errors
    /// [`MemoryError::Io`] when the system refuses.
    pub fn map(&self) -> Result<MappedFile, MemoryError> {
        // SAFETY: the map is only read; that no one cuts the file meanwhile is the documented risk of this option.
        let map = unsafe { Mmap::map(&self.file) };
        map.map(MappedFile).map_err(|source| MemoryError::Io {
            path: self.path.clone(),
            action: "map",
            source,
        })
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

fn cannot_open(path: PathBuf, error: io::Error) -> MemoryError {
    match error.kind() {
        io::ErrorKind::NotFound => MemoryError::FileNotFound { path },
        _ => MemoryError::Io {
            path,
            action: "open",
            source: error,
        },
    }
}

/// A file's bytes, mapped.
#[derive(Debug)]
pub struct MappedFile(Mmap);

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}
