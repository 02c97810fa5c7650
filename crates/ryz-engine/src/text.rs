//! The text side of a model: its tokenizer, without its weights.

use std::ffi::OsStr;
use std::path::Path;

use ryz_model::ModelSource;
use ryz_source::{Folder, Overrides, gguf_metadata};
use ryz_tokenizer::{HfFiles, Tokenizer};

use crate::error::EngineError;

/// What is probably wrong with the text side of a model: its vocabulary, and how that splits text.
///
/// # Errors
/// Those of [`Engine::load`](crate::Engine::load) about it.
pub fn text_warnings(source: &ModelSource) -> Result<Vec<String>, EngineError> {
    Ok(warnings_of(&tokenizer(source)?).collect())
}

pub(crate) fn warnings_of(tokenizer: &Tokenizer) -> impl Iterator<Item = String> {
    tokenizer.warnings().iter().map(ToString::to_string)
}

/// The tokenizer of a GGUF file's metadata, or of the files beside a Hugging Face model.
pub(crate) fn tokenizer(source: &ModelSource) -> Result<Tokenizer, EngineError> {
    match source.folder() {
        Some(folder) => folder_tokenizer(folder, TOKENIZER_JSON),
        None => Ok(Tokenizer::from_gguf(source.metadata())?),
    }
}

/// The tokenizer of a GGUF file of any architecture, which may hold nothing else, of a
/// `tokenizer.json`, or of the folder that holds one.
///
/// # Errors
/// Those of [`Engine::load`](crate::Engine::load) about it.
pub fn open_tokenizer(path: &Path, overrides: &Overrides) -> Result<Tokenizer, EngineError> {
    if path.is_dir() {
        return folder_tokenizer(&Folder::new(path, overrides)?, TOKENIZER_JSON);
    }
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    if name.ends_with(".json") {
        let folder = path.parent().unwrap_or(Path::new(""));
        return folder_tokenizer(&Folder::new(folder, overrides)?, name);
    }
    let metadata = gguf_metadata(path, overrides)?;
    Ok(Tokenizer::from_gguf(&metadata)?)
}

const TOKENIZER_JSON: &str = "tokenizer.json";

/// The tokenizer of a Hugging Face folder, in the file `name`.
fn folder_tokenizer(folder: &Folder, name: &str) -> Result<Tokenizer, EngineError> {
    let read = |name| folder.read(name);
    let tokenizer = read(name)?.ok_or_else(|| EngineError::MissingFile {
        folder: folder.path().to_owned(),
        name: name.to_owned(),
    })?;
    let tokenizer_config = read("tokenizer_config.json")?;
    let generation_config = read("generation_config.json")?;
    let chat_template = read("chat_template.jinja")?;
    let legacy_template = read("chat_template.json")?;
    let tool_use_template = read(HfFiles::TOOL_USE)?;
    Ok(Tokenizer::from_hf(&HfFiles {
        tokenizer: &tokenizer,
        tokenizer_config: tokenizer_config.as_deref(),
        generation_config: generation_config.as_deref(),
        chat_template: chat_template.as_deref(),
        legacy_template: legacy_template.as_deref(),
        tool_use_template: tool_use_template.as_deref(),
    })?)
}
