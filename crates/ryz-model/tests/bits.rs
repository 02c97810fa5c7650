//! The logits of every model at hand as hashes: a change of the engine that changes one bit fails here.
//!
//! `RYZ_WRITE_BITS=1` writes the table anew, for a change that is meant to change bits.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout)] // helpers of tests, too

mod common;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use common::{Runner, Setup};
use ryz_kernels::Level;
use ryz_model::{Activations, ModelSource};
use xxhash_rust::xxh3::xxh3_128;

/// Tokens of the prompt: one whole tile of a batch and some more.
const TOKENS: u32 = 37;

/// Folders of models, by the names that the table has for them.
fn folders() -> Vec<(&'static str, PathBuf)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let all = [
        ("tales-6m", root.join("models/tales-6m")),
        ("fixtures", root.join("__test__/fixtures/reference")),
        ("reference", root.join("../shared/reference")),
        ("reference2", root.join("../shared/reference2")),
    ];
    let there = |(name, path): &(&str, PathBuf)| {
        if !path.is_dir() {
            eprintln!(
                "SKIPPED: the models of {name}, {} is not there",
                path.display()
            );
        }
        path.is_dir()
    };
    all.into_iter().filter(there).collect()
}

/// The files of a folder that can be run, in order.
fn models(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    let mut paths: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "gguf")
        })
        .filter(|path| ModelSource::open(path).is_ok())
        .collect();
    paths.sort();
    paths
}

/// A hash of the bits of all logits of the prompt.
fn hash(path: &Path, setup: Setup) -> String {
    let mut runner = Runner::load(path, setup);
    let vocab = runner.model.config().vocab_size as u32;
    let prompt: Vec<u32> = (0..TOKENS).map(|index| index * 7 % vocab.min(61)).collect();
    let logits = runner.logits(&prompt);
    let bits = logits
        .iter()
        .flatten()
        .flat_map(|logit| logit.to_le_bytes());
    format!("{:032x}", xxh3_128(&bits.collect::<Vec<u8>>()))
}

#[test]
fn logits_are_those_of_the_table_at_every_level() {
    let table = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/bits.json");
    let known = fs::read(&table).unwrap_or_else(|_| b"{}".to_vec());
    let known: BTreeMap<String, String> = serde_json::from_slice(&known).unwrap();
    let levels = || Level::ALL.into_iter().filter(|level| level.supported());
    let mut found = BTreeMap::new();
    for (name, folder) in folders() {
        for path in models(&folder) {
            let file = path.file_name().unwrap().to_string_lossy();
            for activations in Activations::ALL {
                let base = Setup::exact(activations);
                let hashes: Vec<_> = levels()
                    .map(|level| hash(&path, Setup { level, ..base }))
                    .collect();
                let key = format!("{name}/{file} {activations}");
                assert!(
                    hashes.iter().all(|hash| *hash == hashes[0]),
                    "{key}: levels differ, {:?} give {hashes:?}",
                    levels().map(Level::name).collect::<Vec<_>>()
                );
                found.insert(key, hashes[0].clone());
            }
        }
    }
    println!("{} hashes of logits were compared", found.len());
    if std::env::var_os("RYZ_WRITE_BITS").is_some() {
        let text = serde_json::to_string_pretty(&found).unwrap();
        fs::write(&table, text + "\n").unwrap();
        return;
    }
    for (key, hash) in &found {
        let expected = known.get(key).map(String::as_str);
        assert_eq!(Some(hash.as_str()), expected, "{key}");
    }
    assert!(found.len() >= 20, "only {} models were run", found.len());
}
