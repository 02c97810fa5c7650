//! Choices in the user's cache folder: a small JSON file for each processor, instruction set, number of threads, wish for a
//! packing and version. What cannot be read, or is not as it was written, is as if it were not there; what cannot be written is
//! measured again the next time.

use std::fs;
use std::path::{Path, PathBuf};

use etcetera::BaseStrategy;
use ryz_files::write_file;
use ryz_tmac::{InputFile, PrefetchManager};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::TunedMatrix;

/// The folder that is used in place of the user's.
const FOLDER_VARIABLE: &str = "RYZANSTEIN_CACHE";
/// No more of a file is looked at.
const MOST_BYTES: u64 = 1 << 20;
/// Kinds of matrices in a file; the oldest go.
const MOST_MATRICES: usize = 256;

/// What choices are true for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Key {
    /// Of this crate.
    pub version: String,
    pub processor: String,
    pub level: String,
    pub threads: usize,
    /// The most that packings were compared with.
    pub tokens: usize,
    /// What was asked for: a packing, or `auto`.
    pub packing: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    key: Key,
    matrices: Vec<TunedMatrix>,
}

/// A folder of such files.
pub(super) struct Store(PathBuf);

impl Store {
    /// In `RYZANSTEIN_CACHE`, else in the user's cache folder; nowhere when there is neither.
    pub fn of_user() -> Option<Self> {
        let given = std::env::var_os(FOLDER_VARIABLE).filter(|folder| !folder.is_empty());
        let folder = match given {
            Some(folder) => PathBuf::from(folder),
            None => etcetera::choose_base_strategy()
                .ok()?
                .cache_dir()
                .join("ryzanstein"),
        };
        Some(Self::in_folder(&folder))
    }

    fn in_folder(folder: &Path) -> Self {
        Self(folder.join("tuning"))
    }

    /// What was chosen, in the order in which it was.
    pub fn read(&self, key: &Key) -> Vec<TunedMatrix> {
        self.try_read(key).unwrap_or_default()
    }

    fn try_read(&self, key: &Key) -> Option<Vec<TunedMatrix>> {
        // A pipe or a device there is not waited for.
        let file = InputFile::open(self.path(key)).ok()?;
        if file.len() > MOST_BYTES {
            return None;
        }
        let mut bytes = vec![0; file.len() as usize];
        file.read_at(0, &mut bytes).ok()?;
        let file: File = serde_json::from_slice(&bytes).ok()?;
        let valid = |matrix: &TunedMatrix| {
            let shares = [matrix.listed_share, matrix.order_share].map(|it| it.unwrap_or(1.0));
            matrix.prefetch <= PrefetchManager::MAX_LINES
                && matrix.packing().is_some()
                && shares.iter().all(|share| (0.0..=1.0).contains(share))
        };
        (file.key == *key && file.matrices.iter().all(valid)).then_some(file.matrices)
    }

    /// Writes what was chosen, in one piece: whoever reads meanwhile finds this or what was there.
    pub fn write(&self, key: &Key, matrices: &[TunedMatrix]) {
        let _kept = self.try_write(key, matrices); // a folder that may not be written costs a measurement, not a load
    }

    fn try_write(&self, key: &Key, matrices: &[TunedMatrix]) -> Option<()> {
        let newest = matrices.len().saturating_sub(MOST_MATRICES);
        let file = File {
            key: key.clone(),
            matrices: matrices[newest..].to_vec(),
        };
        let json = serde_json::to_vec_pretty(&file).ok()?;
        fs::create_dir_all(&self.0).ok()?;
        write_file(&self.path(key), &json).ok().map(drop)
    }

    fn path(&self, key: &Key) -> PathBuf {
        let Key {
            version,
            processor,
            level,
            threads,
            tokens,
            packing,
        } = key;
        let text = format!("{version}\n{processor}\n{level}\n{threads}\n{tokens}\n{packing}");
        let hash = xxh3_64(text.as_bytes());
        self.0.join(format!("{hash:016x}.json"))
    }
}

#[cfg(test)]
mod tests {
    use ryz_kernels::Packing;

    use super::*;

    fn key(threads: usize) -> Key {
        Key {
            version: "1.2.3".to_owned(),
            processor: "a processor".to_owned(),
            level: "scalar".to_owned(),
            threads,
            tokens: 8,
            packing: "auto".to_owned(),
        }
    }

    fn matrix(rows: usize) -> TunedMatrix {
        TunedMatrix {
            kernel: "kernel".to_owned(),
            rows,
            cols: 2560,
            packing: Packing::Base3.name().to_owned(),
            prefetch: 128,
            listed_share: Some(0.75),
            order_share: Some(0.875),
        }
    }

    #[test]
    fn what_was_written_is_read_for_the_same_machine_only() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::in_folder(&folder.path().join("not there yet"));
        assert_eq!(store.read(&key(2)), []);
        store.write(&key(2), &[matrix(1), matrix(2)]);
        assert_eq!(store.read(&key(2)), [matrix(1), matrix(2)]);
        assert_eq!(store.read(&key(3)), []);
        let mut other = key(2);
        other.processor.push('!');
        assert_eq!(store.read(&other), []);
    }

    /// Another machine's file under this one's name, as where folders are shared and hashes meet.
    #[test]
    fn a_file_of_another_machine_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::in_folder(folder.path());
        store.write(&key(2), &[matrix(1)]);
        fs::rename(store.path(&key(2)), store.path(&key(3))).unwrap();
        assert_eq!(store.read(&key(3)), []);
    }

    #[test]
    fn damaged_files_are_as_if_not_there_and_mended() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::in_folder(folder.path());
        let (key, path) = (key(1), store.path(&key(1)));
        store.write(&key, &[matrix(1)]);
        let whole = fs::read_to_string(&path).unwrap();
        let far = whole.replace("128", &(PrefetchManager::MAX_LINES + 1).to_string());
        let negative = whole.replace("128", "-1");
        let other = whole.replace("1.6-bit", "1.58-bit");
        let share = whole.replace("0.75", "1.25");
        let order = whole.replace("0.875", "-0.875");
        let half = &whole[..whole.len() / 2];
        for text in ["", "[]", "{", half, &far, &negative, &other, &share, &order] {
            fs::write(&path, text).unwrap();
            assert_eq!(store.read(&key), [], "{text}");
        }
        fs::write(&path, vec![b' '; 1 + MOST_BYTES as usize]).unwrap();
        assert_eq!(store.read(&key), []);
        store.write(&key, &[matrix(1)]);
        assert_eq!(store.read(&key), [matrix(1)]);
    }

    #[test]
    fn the_newest_kinds_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::in_folder(folder.path());
        let matrices: Vec<_> = (0..MOST_MATRICES + 10).map(matrix).collect();
        store.write(&key(1), &matrices);
        assert_eq!(store.read(&key(1)), matrices[10..]);
    }

    #[test]
    fn a_folder_that_cannot_be_is_no_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let store = Store::in_folder(file.path());
        store.write(&key(1), &[matrix(1)]);
        assert_eq!(store.read(&key(1)), []);
    }
}
