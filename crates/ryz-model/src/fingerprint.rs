//! A model's fingerprint: a hash of everything that determines its results, computed while the
//! model is read.

use std::{
    collections::HashMap,
    fmt::Write,
    sync::{Arc, Mutex, OnceLock},
};

use ryz_format::TensorInfo;
use ryz_tmac::MappedFile;
use xxhash_rust::xxh3::Xxh3;

use crate::{ModelError, ModelSource, sync::lock};

/// Bytes read at a time from a tensor that loading did not hash.
const PIECE: usize = 1 << 20;

/// Hashes of the tensors read so far, by name.
#[derive(Debug, Default)]
pub(crate) struct TensorHashes(Mutex<HashMap<String, u128>>);

impl TensorHashes {
    /// Hashes a tensor's bytes in file order.
    pub fn add(&self, tensor: &TensorInfo, hash: &Xxh3) {
        lock(&self.0).insert(tensor.name.clone(), hash.digest128());
    }
}

/// A hash (XXH3) of a model's config and of the names, types, shapes and bytes of all its tensors.
/// It does not depend on how the files are split.
///
/// Weights mapped in place are hashed on first use, because hashing them on load would read them
/// all.
#[derive(Debug)]
pub struct Fingerprint {
    /// The config, and each tensor with either the hash or the mapped location of its bytes.
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
                    // The header was checked against the file's length, which fits the address
                    // space because the file is mapped.
                    Bytes::Mapped(tensor.shard, tensor.offset as usize, tensor.bytes as usize)
                }
                None => Bytes::Hashed(read(source, tensor)?),
            };
            tensors.push((label, bytes));
        }
        tensors.sort_by(|a, b| a.0.cmp(&b.0));
        let mut said = format!("{:?}", config.rope);
        for (key, value) in config.gguf_pairs() {
            // A longer context does not change the results.
            if !key.ends_with(".context_length") {
                // Writing to a string cannot fail.
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

    /// The hash as hexadecimal digits.
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

/// Hashes a tensor that loading did not hash.
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
