//! The contents of any model file, and why the engine cannot run it if it cannot.

use std::path::Path;

use ryz_format::{
    Description, Metadata, ModelConfig, Overrides, TensorDescription, hf::Safetensors,
};
use ryz_tmac::InputFile;

use crate::{
    Folder, ModelSource, SourceError,
    error::at,
    parts::{open_part, open_parts},
};

/// The contents of a file or folder of any architecture.
#[derive(Debug)]
pub struct ModelDescription {
    /// The file format.
    pub kind: ModelFileKind,
    /// The architecture's name in the file.
    pub architecture: Option<String>,
    /// Total bytes of all parts.
    pub file_bytes: u64,
    /// The metadata of a GGUF file; for a folder, see `config_json`.
    pub metadata: Metadata,
    /// `config.json` of a folder.
    pub config_json: Option<Vec<u8>>,
    /// All tensors of all parts, with the contiguous dimension first.
    pub tensors: Vec<TensorDescription>,
    /// The runnable model, or why it cannot run.
    pub source: Result<ModelSource, SourceError>,
}

/// A file format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelFileKind {
    /// One file or the parts of a split one.
    Gguf,
    /// A folder with `config.json`.
    Folder,
    /// A tensor file without a model description.
    Safetensors,
}

impl ModelDescription {
    /// Describes the file or folder at `path`.
    ///
    /// # Errors
    /// [`SourceError::Read`] when a file cannot be opened or read; [`SourceError::Format`] when it
    /// is malformed; [`SourceError::Overrides`].
    pub fn open(path: &Path, overrides: &Overrides) -> Result<Self, SourceError> {
        let is_safetensors = path
            .extension()
            .is_some_and(|extension| extension.eq_ignore_ascii_case("safetensors"));
        if path.is_dir() {
            Self::folder(path, overrides)
        } else if is_safetensors {
            let (file, part) = open_part(path, Safetensors::parse)?;
            Ok(Self {
                kind: ModelFileKind::Safetensors,
                architecture: None,
                file_bytes: file.len(),
                metadata: Metadata::new(),
                config_json: None,
                tensors: entries(&part),
                source: ModelSource::open_with(path, overrides),
            })
        } else {
            Self::gguf(path, overrides)
        }
    }

    fn gguf(path: &Path, overrides: &Overrides) -> Result<Self, SourceError> {
        let (files, parts) = open_parts(path, Description::parse, |part| &part.metadata)?;
        let (mut metadata, mut tensors, mut fault) = (None, Vec::new(), None);
        for part in parts {
            metadata.get_or_insert(part.metadata);
            tensors.extend(part.tensors);
            fault = fault.or(part.fault);
        }
        let mut metadata = metadata.unwrap_or_default();
        overrides
            .apply(&mut metadata)
            .map_err(SourceError::Overrides)?;
        let source = match fault {
            Some(fault) => Err(at(path)(fault)),
            None => ModelSource::open_with(path, overrides),
        };
        Ok(Self {
            kind: ModelFileKind::Gguf,
            architecture: (metadata.get_str("general.architecture").ok()).map(str::to_owned),
            file_bytes: files.iter().map(|file| file.len()).sum(),
            metadata,
            config_json: None,
            tensors,
            source,
        })
    }

    fn folder(path: &Path, overrides: &Overrides) -> Result<Self, SourceError> {
        let folder = Folder::new(path, overrides)?;
        let (_, config_json, _) = folder.config()?;
        let weights = folder.weights()?;
        let file_bytes = weights.files.iter().map(InputFile::len).sum();
        let mut tensors: Vec<_> = weights.parts.iter().flat_map(entries).collect();
        let source = ModelSource::open_with(path, overrides);
        // The engine's names, if it can run the model.
        if let Ok(source) = &source {
            tensors = (source.tensors().iter())
                .map(|tensor| TensorDescription {
                    name: tensor.name.clone(),
                    dtype: tensor.dtype.name().to_owned(),
                    shape: tensor.shape.clone(),
                    bytes: tensor.bytes,
                })
                .collect();
        }
        let fields: serde_json::Value =
            serde_json::from_slice(&config_json).unwrap_or(serde_json::Value::Null);
        let name = fields["architectures"][0].as_str();
        Ok(Self {
            kind: ModelFileKind::Folder,
            architecture: name.or(fields["model_type"].as_str()).map(str::to_owned),
            file_bytes,
            metadata: Metadata::new(),
            config_json: Some(config_json),
            tensors,
            source,
        })
    }

    /// Probable faults of a model that can run, one sentence each.
    pub fn warnings(&self) -> Vec<String> {
        match &self.source {
            Ok(source) => source.warnings(),
            Err(_) => Vec::new(),
        }
    }

    /// The model's configuration, if it can run.
    pub fn config(&self) -> Option<&ModelConfig> {
        self.source.as_ref().ok().map(ModelSource::config)
    }
}

fn entries(part: &Safetensors) -> Vec<TensorDescription> {
    let entries = part.entries();
    entries
        .map(|(name, dtype, shape, bytes)| TensorDescription {
            name: name.to_owned(),
            dtype,
            shape: shape.iter().rev().map(|&size| size as u64).collect(),
            bytes,
        })
        .collect()
}
