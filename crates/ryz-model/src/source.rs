//! Opening a model: its files and validated headers, before any weight is read.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use ryz_format::{
    FolderOverrides, FormatError, Gguf, Metadata, ModelConfig, ModelHeader, Overrides, SplitInfo,
    TensorInfo,
    hf::{MAX_JSON_BYTES, Safetensors, ShardIndex},
    part_paths,
};
use ryz_tmac::{Arena, InputFile, MappedFile, MemoryError};

use crate::ModelError;

/// First read of a header; it is read again, twice as long, while it does not hold the whole header.
const FIRST_READ: usize = 1 << 20;

/// An opened model: a GGUF file, all parts of a split one, or a Hugging Face folder; headers read and checked.
#[derive(Debug)]
pub struct ModelSource {
    path: PathBuf,
    kind: SourceKind,
    files: Vec<InputFile>,
    header: ModelHeader,
    config: ModelConfig,
    /// What is changed in the files of a folder.
    overrides: FolderOverrides,
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
        Self::open_with(path, &Overrides::default())
    }

    /// [`ModelSource::open`] with values in the place of the file's own.
    ///
    /// # Errors
    /// As [`ModelSource::open`], and [`ModelError::Overrides`] for a value that does not fit.
    pub fn open_with(path: &Path, overrides: &Overrides) -> Result<Self, ModelError> {
        if path.is_dir() {
            Self::open_folder(path, overrides)
        } else {
            Self::open_gguf(path, overrides)
        }
    }

    fn open_gguf(path: &Path, overrides: &Overrides) -> Result<Self, ModelError> {
        let (files, parts) = open_parts(path, Gguf::parse, |gguf| &gguf.metadata)?;
        let mut header = ModelHeader::merge(parts).map_err(at(path))?;
        overrides
            .apply(&mut header.metadata)
            .map_err(ModelError::Overrides)?;
        let config = ModelConfig::from_gguf(&header.metadata, &header.tensors).map_err(at(path))?;
        Ok(Self {
            path: path.to_owned(),
            kind: SourceKind::Gguf,
            files,
            header,
            config,
            overrides: FolderOverrides::default(),
        })
    }

    fn open_folder(path: &Path, overrides: &Overrides) -> Result<Self, ModelError> {
        let config_path = path.join("config.json");
        if !config_path.exists() {
            let holds = gguf_files(path);
            return Err(at(path)(FormatError::NoConfig { holds }));
        }
        let config_json = read_small(&config_path)?;
        let overrides = FolderOverrides::of(overrides).map_err(ModelError::Overrides)?;
        let config_json = overrides
            .config(config_json)
            .map_err(ModelError::Overrides)?;
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
            overrides,
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
        let read = match read_small(&self.path.join(name)) {
            Err(ModelError::Memory(MemoryError::FileNotFound { .. })) => None,
            read => Some(read?),
        };
        let changed = self.overrides.neighbour(name, read);
        changed.map_err(ModelError::Overrides)
    }

    /// What is probably wrong with the model although it can be run, each in a sentence.
    pub fn warnings(&self) -> Vec<String> {
        match self.kind {
            SourceKind::Gguf => ModelConfig::gguf_warnings(self.metadata(), self.tensors()),
            SourceKind::HuggingFace => Vec::new(),
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
pub(crate) fn at(path: &Path) -> impl Fn(FormatError) -> ModelError {
    let path = path.to_owned();
    move |source| ModelError::Format {
        path: path.clone(),
        source,
    }
}

/// Reads a whole file that a model's folder has beside its weights.
pub(crate) fn read_small(path: &Path) -> Result<Vec<u8>, ModelError> {
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

/// The names of the GGUF files in a folder, in order.
pub(crate) fn gguf_files(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = names_in(folder)
        .filter(|name| name.to_ascii_lowercase().ends_with(".gguf"))
        .collect();
    names.sort_unstable();
    names
}

fn names_in(folder: &Path) -> impl Iterator<Item = String> + use<> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned())
}

/// Opens a file, and all parts when it is one of a split model.
pub(crate) fn open_parts<H>(
    path: &Path,
    parse: impl Fn(&[u8], u64) -> Result<H, FormatError> + Copy,
    metadata: impl Fn(&H) -> &Metadata,
) -> Result<(Vec<InputFile>, Vec<H>), ModelError> {
    let (file, part) = open_part(path, parse)?;
    let Some(split) = SplitInfo::from_metadata(metadata(&part)).map_err(at(path))? else {
        return Ok((vec![file], vec![part]));
    };
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    let beside = names_in(folder.unwrap_or(Path::new(".")));
    let paths = part_paths(path, &split, beside).map_err(at(path))?;
    let (mut files, mut parts) = (Vec::new(), Vec::new());
    for (index, part) in paths.iter().enumerate() {
        let (file, header) = match open_part(part, parse) {
            Err(ModelError::Memory(MemoryError::FileNotFound { .. })) => {
                let name = |path: &Path| {
                    let name = path.file_name().unwrap_or_default();
                    name.to_string_lossy().into_owned()
                };
                return Err(at(path)(FormatError::MissingPart {
                    part: index + 1,
                    count: paths.len(),
                    name: name(part),
                    first: name(&paths[0]),
                }));
            }
            opened => opened?,
        };
        files.push(file);
        parts.push(header);
    }
    Ok((files, parts))
}

/// Opens one file and parses its header from a prefix as long as needed.
pub(crate) fn open_part<H>(
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
