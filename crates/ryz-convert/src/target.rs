//! The target file: complete or not there.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use tempfile::NamedTempFile;

use crate::ConvertError;

/// A file that is written under another name in its own folder and takes its name when it is complete. Dropped before
/// that, it leaves nothing.
pub(crate) struct Target {
    path: PathBuf,
    folder: PathBuf,
    overwrite: bool,
    file: NamedTempFile,
}

impl Target {
    /// Refuses a target that is one of `sources`, is no file, or is there already and not to be overwritten; then makes
    /// the temporary file.
    pub(crate) fn create<'a>(
        path: &Path,
        overwrite: bool,
        sources: impl Iterator<Item = &'a Path>,
    ) -> Result<Target, ConvertError> {
        let bad = |found| ConvertError::BadTarget {
            path: path.to_owned(),
            found,
        };
        if path.file_name().is_none() {
            return Err(bad("no file name"));
        }
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
            _ => PathBuf::from("."),
        };
        if !folder.is_dir() {
            return Err(bad("no such folder"));
        }
        // Compared with symbolic links resolved, before existence: an input is never overwritten, whatever was asked.
        if let Ok(target) = fs::canonicalize(path) {
            let same = |source: &Path| fs::canonicalize(source).is_ok_and(|other| other == target);
            for source in sources {
                if same(source) {
                    return Err(ConvertError::TargetIsSource {
                        path: path.to_owned(),
                    });
                }
            }
        }
        match fs::symlink_metadata(path) {
            Ok(there) if there.is_dir() => return Err(bad("a folder")),
            Ok(_) if !overwrite => {
                return Err(ConvertError::TargetExists {
                    path: path.to_owned(),
                });
            }
            _ => {}
        }
        let mut builder = tempfile::Builder::new();
        // Not the target's name, which may be as long as a name can be.
        builder.prefix(".ryzanstein-").suffix(".part");
        // As any new file: what the umask leaves of it.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let file = builder
            .tempfile_in(&folder)
            .map_err(|source| write_error(path, "create a file in its folder", source))?;
        Ok(Target {
            path: path.to_owned(),
            folder,
            overwrite,
            file,
        })
    }

    /// Where to write.
    pub(crate) fn file(&self) -> &fs::File {
        self.file.as_file()
    }

    /// The name that it has until it is complete.
    pub(crate) fn part(&self) -> &Path {
        self.file.path()
    }

    /// Makes the file durable and gives it its name. Returns its length.
    pub(crate) fn commit(self) -> Result<u64, ConvertError> {
        let path = self.path;
        let failed = |action| {
            let path = &path;
            move |source| write_error(path, action, source)
        };
        self.file
            .as_file()
            .sync_all()
            .map_err(failed("write to the disk"))?;
        let bytes = self
            .file
            .as_file()
            .metadata()
            .map_err(failed("measure"))?
            .len();
        let renamed = if self.overwrite {
            self.file.persist(&path)
        } else {
            self.file.persist_noclobber(&path)
        };
        match renamed {
            Ok(_) => {}
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(ConvertError::TargetExists { path });
            }
            Err(error) => return Err(failed("rename")(error.error)),
        }
        sync_folder(&self.folder).map_err(failed("write its folder to the disk"))?;
        Ok(bytes)
    }
}

/// Makes a rename durable; only Unix has files for folders.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) {
        fs::File::open(folder)?.sync_all()?;
    }
    Ok(())
}

/// The system refused to write.
pub(crate) fn write_error(path: &Path, action: &'static str, source: io::Error) -> ConvertError {
    ConvertError::Write {
        path: path.to_owned(),
        action,
        source,
    }
}
