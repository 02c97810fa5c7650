//! The model to convert.

use std::path::{Path, PathBuf};

use ryz_format::{FormatError, ModelConfig, Overrides, TensorInfo};
use ryz_source::{Folder, ModelSource};

use crate::ConvertError;

/// A model whose rows can be read.
pub(crate) struct Source(ModelSource);

impl Source {
    pub(crate) fn open(path: &Path) -> Result<Source, ConvertError> {
        Ok(Source(ModelSource::open_with(path, &Overrides::default())?))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn config(&self) -> &ModelConfig {
        self.0.config()
    }

    pub(crate) fn folder(&self) -> Option<&Folder> {
        self.0.folder()
    }

    pub(crate) fn model(&self) -> &ModelSource {
        &self.0
    }

    /// Rejects prepacked weights, which have no rows to read.
    pub(crate) fn refuse_prepacked(&self) -> Result<(), ConvertError> {
        let mut tensors = self.0.tensors().iter();
        match tensors.find(|tensor| tensor.dtype.is_prepacked()) {
            None => Ok(()),
            Some(tensor) => {
                let error = FormatError::UnsupportedType {
                    name: tensor.name.clone(),
                    expected: "a type that a prepacked file was made of".to_owned(),
                    got: tensor.dtype.name().to_owned(),
                };
                Err(self.fault(tensor, error))
            }
        }
    }

    /// Files that must not be overwritten.
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        let mut paths: Vec<PathBuf> = self.0.part_paths().map(Path::to_owned).collect();
        if self.folder().is_some() {
            paths.extend(Folder::NEIGHBOURS.map(|name| self.path().join(name)));
        }
        paths
    }

    /// Reads some of a tensor's bytes.
    pub(crate) fn read(
        &self,
        tensor: &TensorInfo,
        offset: u64,
        bytes: &mut [u8],
    ) -> Result<(), ConvertError> {
        self.0
            .file_of(tensor)
            .read_at(tensor.offset + offset, bytes)?;
        Ok(())
    }

    /// Wraps a fault of the file that holds a tensor.
    pub(crate) fn fault(&self, tensor: &TensorInfo, source: FormatError) -> ConvertError {
        ConvertError::Format {
            path: self.0.file_of(tensor).path().to_owned(),
            source,
        }
    }
}

/// Wraps a fault of the file at `path`.
pub(crate) fn at(path: &Path) -> impl Fn(FormatError) -> ConvertError {
    let path = path.to_owned();
    move |source| ConvertError::Format {
        path: path.clone(),
        source,
    }
}
