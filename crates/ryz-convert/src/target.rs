//! The target file, written atomically.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use ryz_files::{OutputError, OutputFile, OverwritePolicy};

use crate::ConvertError;

/// A file that appears under its name when complete. Dropping it earlier leaves nothing behind.
pub(crate) struct Target {
    path: PathBuf,
    overwrite: bool,
    file: OutputFile,
}

impl Target {
    /// Rejects a target that is one of `sources`, is not a file, or exists and must not be
    /// overwritten; then creates the temporary file.
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
        // Compared with symbolic links resolved, before the existence check: an input is never
        // overwritten, whatever the options.
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
        let file = OutputFile::create(path).map_err(|error| refused(path, error))?;
        Ok(Target {
            path: path.to_owned(),
            overwrite,
            file,
        })
    }

    /// The file to write to.
    pub(crate) fn file(&self) -> &fs::File {
        self.file.file()
    }

    /// The temporary name.
    pub(crate) fn part(&self) -> &Path {
        self.file.temporary_path()
    }

    /// Makes the file durable and renames it to its target. Returns its length.
    pub(crate) fn commit(self) -> Result<u64, ConvertError> {
        let path = self.path;
        let existing = match self.overwrite {
            true => OverwritePolicy::Replace,
            false => OverwritePolicy::Keep,
        };
        self.file.commit(existing).map_err(|error| {
            if error.source.kind() == io::ErrorKind::AlreadyExists {
                return ConvertError::TargetExists { path: path.clone() };
            }
            refused(&path, error)
        })
    }
}

fn refused(path: &Path, error: OutputError) -> ConvertError {
    write_error(path, error.action, error.source)
}

/// Wraps a failed write.
pub(crate) fn write_error(path: &Path, action: &'static str, source: io::Error) -> ConvertError {
    ConvertError::Write {
        path: path.to_owned(),
        action,
        source,
    }
}
