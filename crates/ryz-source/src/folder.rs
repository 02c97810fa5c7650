//! A Hugging Face folder.

use std::path::{Path, PathBuf};

use ryz_format::{
    FolderOverrides, FormatError, Overrides,
    hf::{Safetensors, ShardIndex},
};
use ryz_tmac::{InputFile, MemoryError};

use crate::{
    SourceError,
    error::at,
    parts::{names_in, open_part},
};

/// Maximum size of a file other than the weights: a `tokenizer.json` of 256,000 tokens takes 34 MB.
const MAX_BYTES: u64 = 256 << 20;
const CONFIG: &str = "config.json";
const INDEX: &str = "model.safetensors.index.json";

/// A folder with overrides for its files.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    overrides: FolderOverrides,
}

impl Folder {
    /// The files that may accompany a folder's weights.
    pub const NEIGHBOURS: [&str; 8] = [
        CONFIG,
        INDEX,
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
        "chat_template.jinja",
        "chat_template.json",
        "additional_chat_templates/tool_use.jinja",
    ];

    /// The folder at `path`, with overrides.
    ///
    /// # Errors
    /// [`SourceError::Overrides`].
    pub fn new(path: &Path, overrides: &Overrides) -> Result<Self, SourceError> {
        Ok(Self {
            path: path.to_owned(),
            overrides: FolderOverrides::of(overrides).map_err(SourceError::Overrides)?,
        })
    }

    /// The path of the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads a file of the folder (at most 256 MiB) and applies the overrides; `None` if it does
    /// not exist.
    ///
    /// # Errors
    /// [`SourceError::Read`]; [`SourceError::Format`] when it is too large;
    /// [`SourceError::Overrides`].
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, SourceError> {
        let read = match read_whole(&self.path.join(name)) {
            Err(SourceError::Read(MemoryError::FileNotFound { .. })) => None,
            read => Some(read?),
        };
        let changed = self.overrides.neighbour(name, read);
        changed.map_err(SourceError::Overrides)
    }

    /// `config.json` as in the file, and with the overrides applied.
    pub(crate) fn config(&self) -> Result<(PathBuf, Vec<u8>, Vec<u8>), SourceError> {
        let path = self.path.join(CONFIG);
        if !path.exists() {
            let holds = gguf_files(&self.path);
            return Err(at(&self.path)(FormatError::NoConfig { holds }));
        }
        let own = read_whole(&path)?;
        let changed = self.overrides.config(own.clone());
        Ok((path, own, changed.map_err(SourceError::Overrides)?))
    }

    /// The weight files with their headers, and the index that names them. If there is an index, it
    /// takes precedence over `model.safetensors`, which may be one of its shards.
    pub(crate) fn weights(&self) -> Result<Weights, SourceError> {
        let path = self.path.join(INDEX);
        let index = match path.exists() {
            true => Some(ShardIndex::parse(&read_whole(&path)?).map_err(at(&path))?),
            false => None,
        };
        let names = match &index {
            Some(index) => index.files.clone(),
            None => vec!["model.safetensors".to_owned()],
        };
        let (mut files, mut parts) = (Vec::new(), Vec::new());
        for name in names {
            let (file, part) = open_part(&self.path.join(name), Safetensors::parse)?;
            files.push(file);
            parts.push(part);
        }
        Ok(Weights {
            files,
            parts,
            index,
        })
    }
}

/// The opened weights of a folder.
pub(crate) struct Weights {
    pub files: Vec<InputFile>,
    pub parts: Vec<Safetensors>,
    pub index: Option<ShardIndex>,
}

/// Reads a whole file.
fn read_whole(path: &Path) -> Result<Vec<u8>, SourceError> {
    let file = InputFile::open(path)?;
    if file.len() > MAX_BYTES {
        return Err(at(path)(FormatError::LimitExceeded {
            what: "bytes of the file".to_owned(),
            limit: MAX_BYTES,
            got: file.len(),
        }));
    }
    let mut bytes = vec![0; file.len() as usize];
    file.read_at(0, &mut bytes)?;
    Ok(bytes)
}

/// The sorted names of the GGUF files in a folder.
fn gguf_files(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = names_in(folder)
        .filter(|name| name.to_ascii_lowercase().ends_with(".gguf"))
        .collect();
    names.sort_unstable();
    names
}
