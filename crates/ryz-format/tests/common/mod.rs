//! Where test data are: some of it in the repository, all of it beside a full checkout.
#![allow(dead_code, reason = "each test file uses a part")]

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

/// A folder of the full data set (`../shared/NAME` from the repository's root). Where it is missing this says so past
/// the test harness's capture, so that a skipped set is seen.
pub fn shared(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../../shared")
        .join(name);
    if path.is_dir() {
        return Some(path);
    }
    let mut stderr = std::io::stderr();
    writeln!(
        stderr,
        "\nSKIPPED: the full {name} set is not at {}",
        path.display()
    )
    .unwrap();
    None
}

/// The reference folder: the full one where it is, else the part of it in the repository.
pub fn reference() -> PathBuf {
    let part = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../__test__/fixtures/reference");
    shared("reference").unwrap_or(part)
}

/// The GGUF files of the reference folder.
pub fn reference_files() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(reference())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "gguf")
        })
        .collect();
    files.sort();
    assert!(files.len() >= 5, "{files:?}");
    files
}

/// Bytes from hexadecimal digits.
pub fn from_hex(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks_exact(2);
    digits
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// The crate's generator for reproducible tests: SplitMix64.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}
