//! Files written atomically.
//!
//! A file is written under a temporary name in its own folder and renamed when complete. The
//! temporary name cannot be guessed. A symbolic link at the target is replaced, never followed. The
//! mode is `rw-rw-rw-` minus the umask. A writer locks its temporary file; unlocked ones left by
//! killed processes are removed by the next process that writes to the folder.

use std::{
    ffi::OsStr,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
};

use tempfile::NamedTempFile;

const PREFIX: &str = ".ryzanstein-";
const SUFFIX: &str = ".part";
/// With 62 possibilities each: too many to guess.
const RANDOM_CHARACTERS: usize = 22;
/// Maximum attempts in a row that find the name taken or the file removed before it was locked.
const ATTEMPTS: usize = 8;

/// A failed write.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action}")]
pub struct OutputError {
    /// The attempted action.
    pub action: &'static str,
    /// The system's error.
    pub source: io::Error,
}

fn failed(action: &'static str) -> impl Fn(io::Error) -> OutputError {
    move |source| OutputError { action, source }
}

/// The treatment of an existing file with the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverwritePolicy {
    /// Replace it.
    Replace,
    /// Keep it; writing fails with [`io::ErrorKind::AlreadyExists`].
    Keep,
}

/// A file that appears under its name when complete. Dropping it earlier leaves nothing behind.
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
    /// Creates the temporary file in the folder of `path`, and removes abandoned ones.
    ///
    /// # Errors
    /// When the system refuses: the folder does not exist or is not writable, or the disk is full.
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

    /// The file to write to.
    pub fn file(&self) -> &File {
        self.file.as_file()
    }

    /// The temporary name.
    pub fn temporary_path(&self) -> &Path {
        self.file.path()
    }

    /// Makes the file durable and renames it to its target. Returns its length.
    ///
    /// # Errors
    /// When the system refuses; the source's kind is [`io::ErrorKind::AlreadyExists`] for a file
    /// that must be kept. Only if syncing the folder fails does the file exist despite the error.
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

/// Writes a whole file, replacing an existing one. Returns its length.
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
    // Not the target's name, which may already have the maximum length.
    builder.prefix(PREFIX).suffix(SUFFIX);
    builder.rand_bytes(RANDOM_CHARACTERS);
    // Like any new file: subject to the umask.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder)
}

/// Locks a new file; false if another process just removed it as abandoned.
fn is_ours(file: &NamedTempFile) -> bool {
    match file.as_file().try_lock() {
        Err(TryLockError::WouldBlock) => false,
        Ok(()) => is_still_there(file.as_file(), file.path()),
        // Where files cannot be locked, no process detects abandoned ones either.
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

/// Removes temporary files that no process has locked. Skips those that cannot be inspected or
/// removed.
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
        // It may have become a pipe or a link since the check.
        let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOFOLLOW;
        options.custom_flags(flags.bits() as _);
    }
    let Ok(file) = options.open(path) else { return };
    if file.try_lock().is_ok() {
        // The lock is held until the file is removed, so a writer that just created it notices the
        // loss.
        let _ = fs::remove_file(path);
    }
}

/// Makes a rename durable; only Unix can open folders as files.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}
