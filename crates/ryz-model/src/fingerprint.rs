//! What tells a model from all others: a hash of all that its function is made of, taken while it is read.

use std::{
    collections::HashMap,
    fmt::Write,
    sync::{Arc, Mutex, OnceLock},
};

use ryz_format::TensorInfo;
use ryz_tmac::MappedFile;
use xxhash_rust::xxh3::Xxh3;

use crate::{ModelError, ModelSource, sync::lock};

/// Bytes that are read at a time of a tensor that was not read as it is in the file.
const PIECE: usize = 1 << 20;

/// Hashes of the tensors that were read, by name.
#[derive(Debug, Default)]
pub(crate) struct TensorHashes(Mutex<HashMap<String, u128>>);

impl TensorHashes {
    /// Takes the hash of a tensor's bytes, from the first to the last.
    pub fn add(&self, tensor: &TensorInfo, hash: &Xxh3) {
        lock(&self.0).insert(tensor.name.clone(), hash.digest128());
    }
}

/// A hash (XXH3) of a model's config, and of the names, types, shapes and bytes of all tensors that it is made of; the same
/// however its files are split.
///
/// Weights that are read in place are hashed when somebody asks first: a load would otherwise read them all.
#[derive(Debug)]
pub struct Fingerprint {
    /// The config, and each tensor with the hash of its bytes or the place where they are mapped.
    config: String,
    tensors: Vec<(String, Bytes)>,
    maps: Vec<Arc<MappedFile>>,
    text: OnceLock<String>,
}

#[derive(Debug)]
enum Bytes {
    Hashed(u128),
    /// Part, offset and length.
    Mapped(usize, usize, usize),
}

impl Fingerprint {
    pub(crate) fn new(
        source: &ModelSource,
        hashes: TensorHashes,
        maps: &[Arc<MappedFile>],
    ) -> Result<Self, ModelError> {
        let hashes = hashes.0.into_inner().unwrap_or_default();
        let config = source.config();
        let mut tensors = Vec::new();
        for expected in config.expected_tensors() {
            let Some(tensor) = source.tensor(&expected.name) else {
                continue;
            };
            let label = format!("{} {} {:?}", tensor.name, tensor.dtype, tensor.shape);
            let bytes = match hashes.get(&tensor.name) {
                Some(&hash) => Bytes::Hashed(hash),
                None if !maps.is_empty() => {
                    // The header was checked against the file's length, which fits memory: it is mapped.
                    Bytes::Mapped(tensor.shard, tensor.offset as usize, tensor.bytes as usize)
                }
                None => Bytes::Hashed(read(source, tensor)?),
            };
            tensors.push((label, bytes));
        }
        tensors.sort_by(|a, b| a.0.cmp(&b.0));
        let mut said = format!("{:?}", config.rope);
        for (key, value) in config.gguf_pairs() {
            // A longer context is no other function.
            if !key.ends_with(".context_length") {
                // Writing to a string does not fail.
                let _ = write!(said, "\n{key} {value}");
            }
        }
        Ok(Self {
            config: said,
            tensors,
            maps: maps.to_vec(),
            text: OnceLock::new(),
        })
    }

    /// The hash in hexadecimal digits.
    pub fn text(&self) -> &str {
        self.text.get_or_init(|| {
            let mut all = Xxh3::new();
            all.update(self.config.as_bytes());
            for (label, bytes) in &self.tensors {
                all.update(label.as_bytes());
                let hash = match *bytes {
                    Bytes::Hashed(hash) => hash,
                    Bytes::Mapped(part, offset, len) => {
                        let mut hash = Xxh3::new();
                        hash.update(&self.maps[part][offset..offset + len]);
                        hash.digest128()
                    }
                };
                all.update(&hash.to_le_bytes());
            }
            format!("{:032x}", all.digest128())
        })
    }
}

/// The hash of a tensor that was not read as it is.
fn read(source: &ModelSource, tensor: &TensorInfo) -> Result<u128, ModelError> {
    let mut hash = Xxh3::new();
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    while at < tensor.bytes {
        let len = (tensor.bytes - at).min(PIECE as u64);
        let piece = &mut piece[..len as usize];
        source.file_of(tensor).read_at(tensor.offset + at, piece)?;
        hash.update(piece);
        at += len;
    }
    Ok(hash.digest128())
}
