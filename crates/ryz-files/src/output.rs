//! Files that are written: whole under their name, or not there.
//!
//! A file is written under another name in its own folder and renamed when it is complete. That name cannot be guessed, a
//! symbolic link at the target is replaced and never followed, and the mode is what the umask leaves of `rw-rw-rw-`. What a
//! killed process has left is removed by the next one that writes to the folder: a writer locks its temporary file, so that one
//! without a lock belongs to nobody.

use std::{
    ffi::OsStr,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
};

use tempfile::NamedTempFile;

const PREFIX: &str = ".ryzanstein-";
const SUFFIX: &str = ".part";
/// Of 62 each: more than can be tried.
const RANDOM_CHARACTERS: usize = 22;
/// Names taken, or files removed before they could be locked, in a row.
const ATTEMPTS: usize = 8;

/// The system refused to write.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action}")]
pub struct OutputError {
    /// What was tried.
    pub action: &'static str,
    /// What the system said.
    pub source: io::Error,
}

fn failed(action: &'static str) -> impl Fn(io::Error) -> OutputError {
    move |source| OutputError { action, source }
}

/// What happens to a file that has the name already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverwritePolicy {
    /// It is replaced.
    Replace,
    /// It stays, and writing fails with [`io::ErrorKind::AlreadyExists`].
    Keep,
}

/// A file that takes its name when it is complete. Dropped before that, it leaves nothing.
///
/// ```
/// use std::io::Write;
/// use ryz_files::{OverwritePolicy, OutputFile};
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("numbers.txt");
/// let mut output = OutputFile::create(&path)?;
/// output.write_all(b"1 2 3")?;
/// assert!(!path.exists());
/// output.commit(OverwritePolicy::Keep)?;
/// assert_eq!(std::fs::read(&path)?, b"1 2 3");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct OutputFile {
    path: PathBuf,
    folder: PathBuf,
    file: NamedTempFile,
}

impl OutputFile {
    /// Makes the temporary file in the folder of `path`, and removes those that nobody writes any more.
    ///
    /// # Errors
    /// When the system refuses: there is no such folder, it may not be written to, the disk is full.
    pub fn create(path: &Path) -> Result<Self, OutputError> {
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
            _ => PathBuf::from("."),
        };
        remove_abandoned(&folder);
        for _ in 0..ATTEMPTS {
            let file = temporary(&folder).map_err(failed("create a file in its folder"))?;
            if is_ours(&file) {
                return Ok(Self {
                    path: path.to_owned(),
                    folder,
                    file,
                });
            }
        }
        let removed = io::Error::other("another process removes new files there");
        Err(failed("create a file in its folder")(removed))
    }

    /// Where to write.
    pub fn file(&self) -> &File {
        self.file.as_file()
    }

    /// The name that it has until it is complete.
    pub fn temporary_path(&self) -> &Path {
        self.file.path()
    }

    /// Makes the file durable and gives it its name. Returns its length.
    ///
    /// # Errors
    /// When the system refuses; the source is of the kind [`io::ErrorKind::AlreadyExists`] for a file that is to be kept. Only
    /// after a failure to write the folder to the disk the file is there.
    pub fn commit(self, existing: OverwritePolicy) -> Result<u64, OutputError> {
        let Self { path, folder, file } = self;
        let written = file.as_file();
        written.sync_all().map_err(failed("write to the disk"))?;
        let bytes = written.metadata().map_err(failed("measure"))?.len();
        match existing {
            OverwritePolicy::Replace => file.persist(&path),
            OverwritePolicy::Keep => file.persist_noclobber(&path),
        }
        .map_err(|refused| failed("rename")(refused.error))?;
        sync_folder(&folder).map_err(failed("write its folder to the disk"))?;
        Ok(bytes)
    }
}

impl Write for OutputFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Writes a whole file in place of one that may be there. Returns its length.
///
/// # Errors
/// As [`OutputFile`].
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<u64, OutputError> {
    let mut file = OutputFile::create(path)?;
    file.write_all(bytes).map_err(failed("write"))?;
    file.commit(OverwritePolicy::Replace)
}

fn temporary(folder: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    // Not the target's name, which may be as long as a name can be.
    builder.prefix(PREFIX).suffix(SUFFIX);
    builder.rand_bytes(RANDOM_CHARACTERS);
    // As any new file: what the umask leaves of it.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder)
}

/// Locks a new file; false when another process took it for an abandoned one in the moment before that.
fn is_ours(file: &NamedTempFile) -> bool {
    match file.as_file().try_lock() {
        Err(TryLockError::WouldBlock) => false,
        Ok(()) => is_still_there(file.as_file(), file.path()),
        // Where files cannot be locked, nobody finds abandoned ones either.
        Err(TryLockError::Error(_)) => true,
    }
}

#[cfg(unix)]
fn is_still_there(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let same = || {
        let (ours, there) = (file.metadata()?, fs::symlink_metadata(path)?);
        Ok::<_, io::Error>((ours.dev(), ours.ino()) == (there.dev(), there.ino()))
    };
    same().unwrap_or(false)
}

#[cfg(not(unix))]
fn is_still_there(_: &File, path: &Path) -> bool {
    path.exists()
}

/// Removes temporary files that no process has locked. What cannot be looked at or removed stays.
fn remove_abandoned(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if is_file && is_temporary(&entry.file_name()) {
            remove_unlocked(&entry.path());
        }
    }
}

fn is_temporary(name: &OsStr) -> bool {
    let inner = name
        .to_str()
        .and_then(|name| name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX));
    inner.is_some_and(|inner| !inner.is_empty() && inner.bytes().all(|b| b.is_ascii_alphanumeric()))
}

fn remove_unlocked(path: &Path) {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        // It may have become a pipe or a link since it was looked at.
        let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOFOLLOW;
        options.custom_flags(flags.bits() as _);
    }
    let Ok(file) = options.open(path) else { return };
    if file.try_lock().is_ok() {
        // The lock is held until it is gone: a writer that just made it sees that it is not its own.
        let _ = fs::remove_file(path);
    }
}

/// Makes a rename durable; only Unix has files for folders.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}
