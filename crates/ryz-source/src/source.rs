//! Opens a model: its files and validated headers, before any weight is read.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use ryz_format::{Gguf, Metadata, ModelConfig, ModelHeader, Overrides, TensorInfo};
use ryz_tmac::{Arena, InputFile, MappedFile};

use crate::{Folder, SourceError, error::at, folder::Weights, parts::open_parts};

/// An opened model: a GGUF file, all parts of a split one, or a Hugging Face folder, with validated
/// headers.
#[derive(Debug)]
pub struct ModelSource {
    path: PathBuf,
    kind: SourceKind,
    files: Vec<InputFile>,
    header: ModelHeader,
    config: ModelConfig,
    /// Set for a Hugging Face model.
    folder: Option<Folder>,
}

/// The origin of a model's description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SourceKind {
    /// The metadata of GGUF files.
    Gguf,
    /// `config.json` and its accompanying files ([`ModelSource::folder`]).
    HuggingFace,
}

impl ModelSource {
    /// Opens the GGUF file at `path` (all parts of a split model), or the Hugging Face folder.
    ///
    /// # Errors
    /// [`SourceError::Read`] when a file cannot be opened or read; [`SourceError::Format`] when a
    /// header is malformed or describes an unsupported model.
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        Self::open_with(path, &Overrides::default())
    }

    /// [`ModelSource::open`] with overrides.
    ///
    /// # Errors
    /// As [`ModelSource::open`], and [`SourceError::Overrides`] for a value that does not fit.
    pub fn open_with(path: &Path, overrides: &Overrides) -> Result<Self, SourceError> {
        if path.is_dir() {
            Self::open_folder(path, overrides)
        } else {
            Self::open_gguf(path, overrides)
        }
    }

    fn open_gguf(path: &Path, overrides: &Overrides) -> Result<Self, SourceError> {
        let (files, parts) = open_parts(path, Gguf::parse, |gguf| &gguf.metadata)?;
        let mut header = ModelHeader::merge(parts).map_err(at(path))?;
        overrides
            .apply(&mut header.metadata)
            .map_err(SourceError::Overrides)?;
        let config = ModelConfig::from_gguf(&header.metadata, &header.tensors).map_err(at(path))?;
        Ok(Self {
            path: path.to_owned(),
            kind: SourceKind::Gguf,
            files,
            header,
            config,
            folder: None,
        })
    }

    fn open_folder(path: &Path, overrides: &Overrides) -> Result<Self, SourceError> {
        let folder = Folder::new(path, overrides)?;
        let (config_path, _, config_json) = folder.config()?;
        let Weights {
            files,
            parts,
            index,
        } = folder.weights()?;
        let header = ModelHeader::from_safetensors(&parts, index.as_ref()).map_err(at(path))?;
        let config =
            ModelConfig::from_hf(&config_json, &header.tensors).map_err(at(&config_path))?;
        Ok(Self {
            path: path.to_owned(),
            kind: SourceKind::HuggingFace,
            files,
            header,
            config,
            folder: Some(folder),
        })
    }

    /// The origin of its description.
    pub fn kind(&self) -> SourceKind {
        self.kind
    }

    /// The folder of a Hugging Face model.
    pub fn folder(&self) -> Option<&Folder> {
        self.folder.as_ref()
    }

    /// Probable faults of the model, which can run despite them, one sentence each.
    pub fn warnings(&self) -> Vec<String> {
        match self.kind {
            SourceKind::Gguf => ModelConfig::gguf_warnings(self.metadata(), self.tensors()),
            SourceKind::HuggingFace => Vec::new(),
        }
    }

    /// The path that it was opened from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Metadata of the model.
    pub fn metadata(&self) -> &Metadata {
        &self.header.metadata
    }

    /// The model's configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The tensor with this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.header.tensor(name)
    }

    /// All tensors of all parts.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.header.tensors
    }

    /// The paths of all parts.
    pub fn part_paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(InputFile::path)
    }

    /// Total bytes of all parts.
    pub fn file_bytes(&self) -> u64 {
        self.files.iter().map(InputFile::len).sum()
    }

    /// Maps every part.
    ///
    /// # Errors
    /// [`SourceError::Read`].
    pub fn map_files(&self, arena: &Arena) -> Result<Vec<Arc<MappedFile>>, SourceError> {
        let maps = self.files.iter().map(|file| arena.map_file(file));
        Ok(maps.collect::<Result<_, _>>()?)
    }

    /// The part that holds a tensor.
    pub fn file_of(&self, tensor: &TensorInfo) -> &InputFile {
        &self.files[tensor.shard]
    }
}
