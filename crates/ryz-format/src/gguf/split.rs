//! Models in several files: `name-00001-of-00003.gguf`, each a complete GGUF file, with the
//! metadata in the first.

use std::path::{Path, PathBuf};

use super::{Gguf, TensorInfo};
use crate::{FormatError, Metadata};

/// A file's description of the split that it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SplitInfo {
    /// Index of this part, from 0.
    pub number: u32,
    /// Number of parts.
    pub count: u32,
    /// Number of tensors in all parts.
    pub tensors: u32,
}

impl SplitInfo {
    /// Reads `split.no`, `split.count` and `split.tensors.count`; `None` if the file is not split.
    ///
    /// # Errors
    /// Missing or invalid values of these keys.
    pub fn from_metadata(metadata: &Metadata) -> Result<Option<SplitInfo>, FormatError> {
        let count = metadata.find_u32("split.count")?.unwrap_or(0);
        if count <= 1 {
            return Ok(None);
        }
        let number = metadata.get_u32("split.no")?;
        if number >= count {
            return Err(FormatError::KeyValue {
                key: "split.no".to_owned(),
                expected: format!("less than split.count {count}"),
                got: number.to_string(),
            });
        }
        Ok(Some(SplitInfo {
            number,
            count,
            tensors: metadata.get_u32("split.tensors.count")?,
        }))
    }
}

/// The ordered paths of all parts if `path` is named like one of them (`…-00002-of-00003.gguf`);
/// else `None`.
///
/// Does not check whether the files exist.
pub fn split_paths(path: &Path) -> Option<Vec<PathBuf>> {
    let name = path.file_name()?.to_str()?;
    let (stem, extension) = name.split_at_checked(name.len().checked_sub(5)?)?;
    if !extension.eq_ignore_ascii_case(".gguf") {
        return None;
    }
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (base, number) = rest.rsplit_once('-')?;
    let five_digits = |s: &str| {
        if s.len() == 5 {
            s.bytes()
                .all(|b| b.is_ascii_digit())
                .then(|| s.parse().ok())?
        } else {
            None
        }
    };
    let (number, count): (u32, u32) = (five_digits(number)?, five_digits(count)?);
    if number == 0 || number > count {
        return None;
    }
    Some(
        (1..=count)
            .map(|n| path.with_file_name(format!("{base}-{n:05}-of-{count:05}{extension}")))
            .collect(),
    )
}

/// The paths of all parts of a split model, given one of them.
///
/// # Errors
/// [`FormatError::SplitName`] when its name does not identify the others; `beside` are the names of
/// the files in its folder.
pub fn part_paths(
    path: &Path,
    split: &SplitInfo,
    beside: impl IntoIterator<Item = String>,
) -> Result<Vec<PathBuf>, FormatError> {
    let named = split_paths(path);
    // Parts with conflicting numbers are reported when they are merged.
    if let Some(paths) = named {
        return Ok(paths);
    }
    let mut beside: Vec<String> = beside
        .into_iter()
        .filter(|name| {
            split_paths(Path::new(name)).is_some_and(|p| p.len() == split.count as usize)
        })
        .collect();
    beside.sort_unstable();
    let got = path.file_name().unwrap_or_default().to_string_lossy();
    Err(FormatError::SplitName {
        part: split.number + 1,
        count: split.count,
        got: got.into_owned(),
        beside,
    })
}

/// The header of a complete model, regardless of the number of files.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ModelHeader {
    /// The metadata of the first file.
    pub metadata: Metadata,
    /// All tensors in file order; [`TensorInfo::shard`] gives the file.
    pub tensors: Vec<TensorInfo>,
    /// Number of files.
    pub shards: usize,
    /// Indices into `tensors`, sorted by name.
    by_name: Vec<u32>,
}

impl ModelHeader {
    /// Merges the headers of a model's files, in the order of [`split_paths`]; a model in one file
    /// is a list of one.
    ///
    /// # Errors
    /// [`FormatError::BadSplit`] when the parts do not match or one is missing;
    /// [`FormatError::DuplicateTensor`] when two parts contain the same tensor.
    pub fn merge(parts: Vec<Gguf>) -> Result<ModelHeader, FormatError> {
        let shards = parts.len();
        let mut metadata = None;
        let mut tensors = Vec::new();
        let mut total = None;
        for (part, gguf) in parts.into_iter().enumerate() {
            let agree = |what, expected: u64, got: u64| {
                if expected == got {
                    Ok(())
                } else {
                    Err(FormatError::BadSplit {
                        part,
                        what,
                        expected,
                        got,
                    })
                }
            };
            match SplitInfo::from_metadata(&gguf.metadata)? {
                Some(split) => {
                    agree("split.count", shards as u64, split.count.into())?;
                    agree("split.no", part as u64, split.number.into())?;
                    agree(
                        "split.tensors.count",
                        (*total.get_or_insert(split.tensors)).into(),
                        split.tensors.into(),
                    )?;
                }
                None => agree("split.count", shards as u64, 1)?,
            }
            metadata.get_or_insert(gguf.metadata);
            tensors.extend(gguf.tensors.into_iter().map(|tensor| TensorInfo {
                shard: part,
                ..tensor
            }));
        }
        if let Some(total) = total
            && total as usize != tensors.len()
        {
            let (expected, got) = (total.into(), tensors.len() as u64);
            return Err(FormatError::BadSplit {
                part: shards - 1,
                what: "tensors in all parts",
                expected,
                got,
            });
        }
        ModelHeader::new(metadata.unwrap_or_default(), tensors, shards)
    }

    /// Merges parts already known to match.
    ///
    /// # Errors
    /// [`FormatError::DuplicateTensor`].
    pub(crate) fn new(
        metadata: Metadata,
        tensors: Vec<TensorInfo>,
        shards: usize,
    ) -> Result<ModelHeader, FormatError> {
        let mut by_name: Vec<u32> = (0..tensors.len() as u32).collect();
        by_name.sort_unstable_by_key(|&i| &tensors[i as usize].name);
        for pair in by_name.windows(2) {
            let name = &tensors[pair[0] as usize].name;
            if *name == tensors[pair[1] as usize].name {
                return Err(FormatError::DuplicateTensor { name: name.clone() });
            }
        }
        Ok(ModelHeader {
            metadata,
            tensors,
            shards,
            by_name,
        })
    }

    /// The tensor with this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        let search = self
            .by_name
            .binary_search_by(|&i| self.tensors[i as usize].name.as_str().cmp(name));
        search.ok().map(|i| &self.tensors[self.by_name[i] as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_by_another_name_is_told_the_names_beside_it() {
        let split = SplitInfo {
            number: 1,
            count: 3,
            tensors: 9,
        };
        let beside = [
            "x-00001-of-00003.gguf",
            "y-00001-of-00002.gguf",
            "notes.txt",
        ];
        let beside = || beside.iter().map(|name| (*name).to_owned());
        let error = part_paths(Path::new("/m/mine.gguf"), &split, beside()).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("part 2 of 3") && text.contains("NAME-00002-of-00003.gguf"),
            "{text}"
        );
        assert!(
            text.ends_with("parts in it: \"x-00001-of-00003.gguf\""),
            "{text}"
        );
        let path = Path::new("/m/x-00002-of-00003.gguf");
        let parts = part_paths(path, &split, beside()).unwrap();
        assert_eq!(parts[0], Path::new("/m/x-00001-of-00003.gguf"));
    }

    #[test]
    fn split_names() {
        let paths = split_paths(Path::new("/m/x-00002-of-00003.gguf")).unwrap();
        assert_eq!(
            paths,
            [
                "/m/x-00001-of-00003.gguf",
                "/m/x-00002-of-00003.gguf",
                "/m/x-00003-of-00003.gguf"
            ]
            .map(PathBuf::from)
        );
        let upper = split_paths(Path::new("X-00002-of-00002.GGUF")).unwrap();
        assert_eq!(upper[0], Path::new("X-00001-of-00002.GGUF"));
        for whole in [
            "é.gguf",
            "x.gguf",
            "x-00004-of-00003.gguf",
            "x-00000-of-00003.gguf",
            "x-1-of-3.gguf",
            "x-00001-of-+0003.gguf",
        ] {
            assert_eq!(split_paths(Path::new(whole)), None, "{whole}");
        }
    }
}
