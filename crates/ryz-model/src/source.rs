//! Opening a model: its files and validated headers, before any weight is read.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use ryz_format::{
    FormatError, Gguf, Metadata, ModelConfig, ModelHeader, SplitInfo, TensorInfo,
    hf::{MAX_JSON_BYTES, Safetensors, ShardIndex},
    split_paths,
};
use ryz_tmac::{Arena, InputFile, MappedFile, MemoryError};
use xxhash_rust::xxh3::Xxh3;

use crate::ModelError;

/// First read of a header; it is read again, twice as long, while it does not hold the whole header.
const FIRST_READ: usize = 1 << 20;

/// Bytes of a tensor's beginning and of its end that its model's fingerprint takes in.
const SAMPLE_BYTES: usize = 4096;

/// An opened model: a GGUF file, all parts of a split one, or a Hugging Face folder; headers read and checked.
#[derive(Debug)]
pub struct ModelSource {
    path: PathBuf,
    kind: SourceKind,
    files: Vec<InputFile>,
    header: ModelHeader,
    config: ModelConfig,
}

/// Where a model's description comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SourceKind {
    /// The metadata of GGUF files.
    Gguf,
    /// `config.json` and its neighbours ([`ModelSource::read_neighbour`]).
    HuggingFace,
}

impl ModelSource {
    /// Opens the GGUF file at `path` (all parts when it is one of a split model), or the Hugging Face folder.
    ///
    /// # Errors
    /// [`ModelError::Memory`] when a file cannot be opened or read, [`ModelError::Format`] when a header is malformed
    /// or describes a model that is not supported.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        if path.is_dir() {
            Self::open_folder(path)
        } else {
            Self::open_gguf(path)
        }
    }

    fn open_gguf(path: &Path) -> Result<Self, ModelError> {
        let (file, part) = open_part(path, Gguf::parse)?;
        let (mut files, mut parts) = (vec![file], vec![part]);
        if SplitInfo::from_metadata(&parts[0].metadata)
            .map_err(at(path))?
            .is_some()
            && let Some(paths) = split_paths(path)
        {
            files.clear();
            parts.clear();
            for path in &paths {
                let (file, part) = open_part(path, Gguf::parse)?;
                files.push(file);
                parts.push(part);
            }
        }
        let header = ModelHeader::merge(parts).map_err(at(path))?;
        let config = ModelConfig::from_gguf(&header.metadata, &header.tensors).map_err(at(path))?;
        Ok(Self {
            path: path.to_owned(),
            kind: SourceKind::Gguf,
            files,
            header,
            config,
        })
    }

    fn open_folder(path: &Path) -> Result<Self, ModelError> {
        let config_path = path.join("config.json");
        let config_json = read_small(&config_path)?;
        let index_path = path.join("model.safetensors.index.json");
        // An index says what the folder holds, also beside a model.safetensors, which may be one of its shards.
        let index = if index_path.exists() {
            Some(ShardIndex::parse(&read_small(&index_path)?).map_err(at(&index_path))?)
        } else {
            None
        };
        let names = index
            .as_ref()
            .map_or(vec!["model.safetensors".to_owned()], |index| {
                index.files.clone()
            });
        let (mut files, mut parts) = (Vec::new(), Vec::new());
        for name in names {
            let (file, part) = open_part(&path.join(name), Safetensors::parse)?;
            files.push(file);
            parts.push(part);
        }
        let header = ModelHeader::from_safetensors(&parts, index.as_ref()).map_err(at(path))?;
        let config =
            ModelConfig::from_hf(&config_json, &header.tensors).map_err(at(&config_path))?;
        Ok(Self {
            path: path.to_owned(),
            kind: SourceKind::HuggingFace,
            files,
            header,
            config,
        })
    }

    /// Where its description comes from.
    pub fn kind(&self) -> SourceKind {
        self.kind
    }

    /// Reads a small file beside `config.json` (of at most [`MAX_JSON_BYTES`]): `tokenizer.json`,
    /// `tokenizer_config.json`, `chat_template.jinja`, `generation_config.json`. `None` when there is none, or when the
    /// model is no folder.
    ///
    /// # Errors
    /// [`ModelError::Memory`] and, when it is too long, [`ModelError::Format`].
    pub fn read_neighbour(&self, name: &str) -> Result<Option<Vec<u8>>, ModelError> {
        if self.kind != SourceKind::HuggingFace {
            return Ok(None);
        }
        match read_small(&self.path.join(name)) {
            Err(ModelError::Memory(MemoryError::FileNotFound { .. })) => Ok(None),
            read => read.map(Some),
        }
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

    /// What tells this model from others: a hash (XXH3) of the names, types and shapes of its tensors, and of the first and
    /// last 4 KiB of each. It reads little of the files, and is the same however they are split.
    ///
    /// # Errors
    /// [`ModelError::Memory`].
    pub fn fingerprint(&self) -> Result<String, ModelError> {
        let mut tensors: Vec<&TensorInfo> = self.header.tensors.iter().collect();
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        let mut hash = Xxh3::new();
        let mut sample = vec![0; SAMPLE_BYTES];
        for tensor in tensors {
            hash.update(tensor.name.as_bytes());
            hash.update(tensor.dtype.name().as_bytes());
            for size in &tensor.shape {
                hash.update(&size.to_le_bytes());
            }
            let sample = &mut sample
                [..SAMPLE_BYTES.min(usize::try_from(tensor.bytes).unwrap_or(SAMPLE_BYTES))];
            for offset in [0, tensor.bytes - sample.len() as u64] {
                self.file_of(tensor)
                    .read_at(tensor.offset + offset, sample)?;
                hash.update(sample);
            }
        }
        Ok(format!("{:032x}", hash.digest128()))
    }

    /// Maps every part.
    pub(crate) fn map_files(&self, arena: &Arena) -> Result<Vec<Arc<MappedFile>>, ModelError> {
        let maps = self.files.iter().map(|file| arena.map_file(file));
        Ok(maps.collect::<Result<_, _>>()?)
    }

    /// The part that holds a tensor.
    pub(crate) fn file_of(&self, tensor: &TensorInfo) -> &InputFile {
        &self.files[tensor.shard]
    }
}

/// A fault of the file at `path`.
fn at(path: &Path) -> impl Fn(FormatError) -> ModelError {
    let path = path.to_owned();
    move |source| ModelError::Format {
        path: path.clone(),
        source,
    }
}

/// Reads a whole file that a model's folder has beside its weights.
fn read_small(path: &Path) -> Result<Vec<u8>, ModelError> {
    let file = InputFile::open(path)?;
    if file.len() > MAX_JSON_BYTES {
        let what = "bytes of a JSON file".to_owned();
        return Err(at(path)(FormatError::LimitExceeded {
            what,
            limit: MAX_JSON_BYTES,
            got: file.len(),
        }));
    }
    let mut bytes = vec![0; file.len() as usize];
    file.read_at(0, &mut bytes)?;
    Ok(bytes)
}

/// Opens one file and parses its header from a prefix as long as needed.
fn open_part<H>(
    path: &Path,
    parse: impl Fn(&[u8], u64) -> Result<H, FormatError>,
) -> Result<(InputFile, H), ModelError> {
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
        match parse(&prefix, file.len()) {
            Ok(header) => return Ok((file, header)),
            Err(error) if error.is_incomplete() && (prefix.len() as u64) < file.len() => {
                wanted = wanted.saturating_mul(2);
            }
            Err(error) => return Err(at(path)(error)),
        }
    }
}
