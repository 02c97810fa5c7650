//! The model to convert: its files, headers read and checked.

use std::path::{Path, PathBuf};

use ryz_format::{
    FormatError, Gguf, ModelConfig, ModelHeader, SplitInfo, TensorInfo,
    hf::{MAX_JSON_BYTES, Safetensors, ShardIndex},
    part_paths,
};
use ryz_tmac::{InputFile, MemoryError};

use crate::ConvertError;

/// First read of a header; it is read again, twice as long, while it does not hold the whole header.
const FIRST_READ: usize = 1 << 20;

/// A GGUF file, all parts of a split one, or a Hugging Face folder.
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    pub(crate) is_folder: bool,
    pub(crate) header: ModelHeader,
    pub(crate) config: ModelConfig,
    files: Vec<InputFile>,
}

fn names_in(folder: &Path) -> impl Iterator<Item = String> + use<> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned())
}

impl Source {
    pub(crate) fn open(path: &Path) -> Result<Source, ConvertError> {
        if path.is_dir() {
            Source::open_folder(path)
        } else {
            Source::open_gguf(path)
        }
    }

    fn open_gguf(path: &Path) -> Result<Source, ConvertError> {
        let (file, part) = open_part(path, Gguf::parse)?;
        let split = SplitInfo::from_metadata(&part.metadata).map_err(at(path))?;
        let (files, parts) = match split {
            None => (vec![file], vec![part]),
            Some(split) => {
                let folder = path.parent().filter(|folder| *folder != Path::new(""));
                let beside = names_in(folder.unwrap_or(Path::new(".")));
                let paths = part_paths(path, &split, beside).map_err(at(path))?;
                let opened: Result<Vec<_>, _> = paths
                    .iter()
                    .map(|path| open_part(path, Gguf::parse))
                    .collect();
                opened?.into_iter().unzip()
            }
        };
        let header = ModelHeader::merge(parts).map_err(at(path))?;
        let config = ModelConfig::from_gguf(&header.metadata, &header.tensors).map_err(at(path))?;
        Ok(Source {
            path: path.to_owned(),
            is_folder: false,
            header,
            config,
            files,
        })
    }

    fn open_folder(path: &Path) -> Result<Source, ConvertError> {
        let config_path = path.join("config.json");
        if !config_path.exists() {
            let mut holds: Vec<String> = names_in(path)
                .filter(|name| name.to_ascii_lowercase().ends_with(".gguf"))
                .collect();
            holds.sort_unstable();
            return Err(at(path)(FormatError::NoConfig { holds }));
        }
        let config_json = read_small(&config_path, MAX_JSON_BYTES)?;
        let index_path = path.join("model.safetensors.index.json");
        let index = match path.join("model.safetensors").exists() || !index_path.exists() {
            true => None,
            false => {
                let bytes = read_small(&index_path, MAX_JSON_BYTES)?;
                Some(ShardIndex::parse(&bytes).map_err(at(&index_path))?)
            }
        };
        let names = match &index {
            Some(index) => index.files.clone(),
            None => vec!["model.safetensors".to_owned()],
        };
        let opened: Result<Vec<_>, _> = names
            .iter()
            .map(|name| open_part(&path.join(name), Safetensors::parse))
            .collect();
        let (files, parts): (Vec<_>, Vec<_>) = opened?.into_iter().unzip();
        let header = ModelHeader::from_safetensors(&parts, index.as_ref()).map_err(at(path))?;
        let config =
            ModelConfig::from_hf(&config_json, &header.tensors).map_err(at(&config_path))?;
        Ok(Source {
            path: path.to_owned(),
            is_folder: true,
            header,
            config,
            files,
        })
    }

    /// Refuses prepacked weights: a file of them is made of one that is there still, and has no rows to read.
    pub(crate) fn refuse_prepacked(&self) -> Result<(), ConvertError> {
        let mut tensors = self.header.tensors.iter();
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

    /// The files that must not be overwritten.
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        let mut paths: Vec<PathBuf> = self.files.iter().map(|file| file.path().into()).collect();
        if self.is_folder {
            const NEIGHBOURS: [&str; 8] = [
                "config.json",
                "model.safetensors.index.json",
                "tokenizer.json",
                "tokenizer_config.json",
                "generation_config.json",
                "chat_template.jinja",
                "chat_template.json",
                "additional_chat_templates/tool_use.jinja",
            ];
            paths.extend(NEIGHBOURS.map(|name| self.path.join(name)));
        }
        paths
    }

    /// Reads a file beside `config.json`; `None` when there is none.
    pub(crate) fn read_neighbour(
        &self,
        name: &str,
        limit: u64,
    ) -> Result<Option<Vec<u8>>, ConvertError> {
        match read_small(&self.path.join(name), limit) {
            Err(ConvertError::Read(MemoryError::FileNotFound { .. })) => Ok(None),
            read => read.map(Some),
        }
    }

    /// Reads some of a tensor's bytes.
    pub(crate) fn read(
        &self,
        tensor: &TensorInfo,
        offset: u64,
        bytes: &mut [u8],
    ) -> Result<(), ConvertError> {
        self.files[tensor.shard].read_at(tensor.offset + offset, bytes)?;
        Ok(())
    }

    /// A fault of the file that holds a tensor.
    pub(crate) fn fault(&self, tensor: &TensorInfo, source: FormatError) -> ConvertError {
        ConvertError::Format {
            path: self.files[tensor.shard].path().to_owned(),
            source,
        }
    }
}

/// A fault of the file at `path`.
pub(crate) fn at(path: &Path) -> impl Fn(FormatError) -> ConvertError {
    let path = path.to_owned();
    move |source| ConvertError::Format {
        path: path.clone(),
        source,
    }
}

/// Reads a whole file of at most `limit` bytes.
fn read_small(path: &Path, limit: u64) -> Result<Vec<u8>, ConvertError> {
    let file = InputFile::open(path)?;
    if file.len() > limit {
        return Err(at(path)(FormatError::LimitExceeded {
            what: "bytes of the file".to_owned(),
            limit,
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
) -> Result<(InputFile, H), ConvertError> {
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
