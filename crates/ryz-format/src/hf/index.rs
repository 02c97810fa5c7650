//! `model.safetensors.index.json`, which maps tensors to shards.

use std::collections::{BTreeMap, BTreeSet};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};

use super::json;
use crate::FormatError;

/// The index of a sharded model.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShardIndex {
    /// The distinct file names of the shards, sorted; each is a plain name in the index's own
    /// folder.
    pub files: Vec<String>,
    /// The shard of each tensor, as an index into `files`, by Hugging Face name.
    pub(super) tensors: BTreeMap<String, usize>,
}

impl ShardIndex {
    /// Parses the index.
    ///
    /// # Errors
    /// [`FormatError::Json`] when it is malformed or names a tensor twice;
    /// [`FormatError::KeyValue`] for a shard that is not a plain file name ending in
    /// `.safetensors`, so that an index cannot refer to files outside its folder.
    pub fn parse(bytes: &[u8]) -> Result<ShardIndex, FormatError> {
        #[derive(Deserialize)]
        struct Document {
            weight_map: WeightMap,
        }
        let document: Document = json::parse("model.safetensors.index.json", bytes)?;
        let map = document.weight_map.0;
        for (tensor, file) in &map {
            if !is_plain(file) {
                return Err(FormatError::KeyValue {
                    key: format!("weight_map.{tensor}"),
                    expected: "the name of a .safetensors file in the same folder".to_owned(),
                    got: file.clone(),
                });
            }
        }
        let files: BTreeSet<&String> = map.values().collect();
        let files: Vec<String> = files.into_iter().cloned().collect();
        let place = |file: String| {
            files
                .binary_search(&file)
                .expect("every file is in the list")
        };
        let tensors = map
            .into_iter()
            .map(|(tensor, file)| (tensor, place(file)))
            .collect();
        Ok(ShardIndex { files, tensors })
    }
}

/// Whether a name denotes a file in the same folder on every system.
fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    name.len() <= 255
        && name.chars().all(plain)
        && !name.starts_with('.')
        && name
            .strip_suffix(".safetensors")
            .is_some_and(|stem| !stem.is_empty())
}

/// The map, which rejects duplicate tensors.
struct WeightMap(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<WeightMap, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = WeightMap;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a map of tensor names to file names")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<WeightMap, A::Error> {
                let mut map = BTreeMap::new();
                while let Some((tensor, file)) = entries.next_entry::<String, String>()? {
                    if map.insert(tensor, file).is_some() {
                        return Err(serde::de::Error::custom("a tensor is named twice"));
                    }
                }
                Ok(WeightMap(map))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(file: &str) -> Result<ShardIndex, FormatError> {
        ShardIndex::parse(
            format!(r#"{{"metadata":{{}},"weight_map":{{"a":"m-1.safetensors","b":{file}}}}}"#)
                .as_bytes(),
        )
    }

    #[test]
    fn files_are_listed_once() {
        let index = parse(r#""m-0.safetensors""#).unwrap();
        assert_eq!(index.files, ["m-0.safetensors", "m-1.safetensors"]);
        assert_eq!((index.tensors["a"], index.tensors["b"]), (1, 0));
        assert_eq!(parse(r#""m-1.safetensors""#).unwrap().files.len(), 1);
    }

    #[test]
    fn names_that_leave_the_folder() {
        for file in [
            r#""/etc/passwd""#,
            r#""../m.safetensors""#,
            r#""..\\m.safetensors""#,
            r#""C:m.safetensors""#,
            r#""sub/m.safetensors""#,
            r#"".safetensors""#,
            r#""m.safetensors\u0000""#,
            r#""http://host/m.safetensors""#,
            r#""""#,
            r#"".""#,
        ] {
            assert!(
                matches!(parse(file), Err(FormatError::KeyValue { .. })),
                "{file}"
            );
        }
        for file in ["1", "null", "[]", r#""m.safetensors","b":"m.safetensors""#] {
            assert!(
                matches!(parse(file), Err(FormatError::Json { .. })),
                "{file}"
            );
        }
    }
}
