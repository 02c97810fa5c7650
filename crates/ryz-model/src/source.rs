//! Opening a model: its files and validated headers, before any weight is read.

use std::path::{Path, PathBuf};

use ryz_format::{Gguf, Metadata, ModelConfig, ModelHeader, SplitInfo, TensorInfo, split_paths};
use ryz_tmac::InputFile;

use crate::ModelError;

/// First read of a header; it is read again, twice as long, while it does not hold the whole header.
const FIRST_READ: usize = 1 << 20;

/// An opened model: one file, or all parts of a split one, with headers read and checked.
#[derive(Debug)]
pub struct ModelSource {
    path: PathBuf,
    files: Vec<InputFile>,
    header: ModelHeader,
    config: ModelConfig,
}

impl ModelSource {
    /// Opens the GGUF file at `path`, and all parts when it is one of a split model.
    ///
    /// # Errors
    /// [`ModelError::Memory`] when a file cannot be opened or read, [`ModelError::Format`] when a header is malformed
    /// or describes a model that is not supported.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| ModelError::Format { path, source }
        };
        let (file, part) = open_part(path)?;
        let (mut files, mut parts) = (vec![file], vec![part]);
        if SplitInfo::from_metadata(&parts[0].metadata)
            .map_err(at(path))?
            .is_some()
            && let Some(paths) = split_paths(path)
        {
            files.clear();
            parts.clear();
            for path in &paths {
                let (file, part) = open_part(path)?;
                files.push(file);
                parts.push(part);
            }
        }
        let header = ModelHeader::merge(parts).map_err(at(path))?;
        let config = ModelConfig::from_gguf(&header.metadata, &header.tensors).map_err(at(path))?;
        Ok(Self {
            path: path.to_owned(),
            files,
            header,
            config,
        })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Metadata of the model.
    pub fn metadata(&self) -> &Metadata {
        &self.header.metadata
    }

    /// What the model is.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.header.tensor(name)
    }

    /// All tensors of all parts.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.header.tensors
    }

    /// Bytes of all parts.
    pub fn file_bytes(&self) -> u64 {
        self.files.iter().map(InputFile::len).sum()
    }

    /// The part that holds a tensor.
    pub(crate) fn file_of(&self, tensor: &TensorInfo) -> &InputFile {
        &self.files[tensor.shard]
    }
}

/// Opens one file and parses its header from a prefix as long as needed.
fn open_part(path: &Path) -> Result<(InputFile, Gguf), ModelError> {
    let file = InputFile::open(path)?;
    let mut prefix = Vec::new();
    let mut wanted = FIRST_READ;
    loop {
        let have = prefix.len();
        let len = usize::try_from(file.len())
            .unwrap_or(usize::MAX)
            .min(wanted);
        prefix.resize(len, 0);
        file.read_at(have as u64, &mut prefix[have..])?;
        match Gguf::parse(&prefix, file.len()) {
            Ok(gguf) => return Ok((file, gguf)),
            Err(error) if error.is_incomplete() && (prefix.len() as u64) < file.len() => {
                wanted = wanted.saturating_mul(2);
            }
            Err(source) => {
                return Err(ModelError::Format {
                    path: path.to_owned(),
                    source,
                });
            }
        }
    }
}
