//! Hugging Face folders: which files they are read from, and how large these may be.
#![allow(clippy::unwrap_used)] // helpers of tests, too

use std::{fs, path::Path};

use ryz_source::{Folder, ModelDescription, ModelFileKind, Overrides, SourceError};
use safetensors::tensor::{Dtype, TensorView, serialize};
use tempfile::TempDir;

fn write_tensor(path: &Path, name: &str) {
    let data = [0; 16];
    let view = TensorView::new(Dtype::F32, vec![2, 2], &data).unwrap();
    fs::write(path, serialize([(name, view)], None).unwrap()).unwrap();
}

/// An index beside `model.safetensors`, which is an older copy.
fn folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("config.json"), r#"{"architectures": ["OtherModel"]}"#).unwrap();
    write_tensor(&path("model.safetensors"), "old");
    write_tensor(&path("model-00001-of-00001.safetensors"), "new");
    let index = r#"{"weight_map": {"new": "model-00001-of-00001.safetensors"}}"#;
    fs::write(path("model.safetensors.index.json"), index).unwrap();
    folder
}

#[test]
fn an_index_says_which_files_hold_the_weights() {
    let folder = folder();
    let described = ModelDescription::open(folder.path(), &Overrides::default()).unwrap();
    assert_eq!(described.kind, ModelFileKind::Folder);
    assert_eq!(described.architecture.as_deref(), Some("OtherModel"));
    let names: Vec<_> = described.tensors.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["new"]);
    let SourceError::Format { path, .. } = described.source.unwrap_err() else {
        panic!("an architecture that is not supported is a fault of the file");
    };
    assert_eq!(path, folder.path().join("config.json"));
}

#[test]
fn a_tokenizer_may_be_larger_than_other_json_files() {
    let folder = folder();
    let file = fs::File::create(folder.path().join("tokenizer.json")).unwrap();
    file.set_len(40 << 20).unwrap();
    let source = Folder::new(folder.path(), &Overrides::default()).unwrap();
    let read = source.read("tokenizer.json").unwrap();
    assert_eq!(read.map(|bytes| bytes.len()), Some(40 << 20));
    assert_eq!(source.read("generation_config.json").unwrap(), None);
    file.set_len(257 << 20).unwrap();
    let error = source.read("tokenizer.json").unwrap_err();
    assert_eq!(error.code(), "INVALID_FILE");
}
