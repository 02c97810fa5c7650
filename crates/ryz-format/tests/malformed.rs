//! Malformed containers made by hand, each test named after its malformation.
#![allow(clippy::unwrap_used)]

mod common;

use common::{parse, tiny_model, write};
use ryz_format::{Array, DType, FormatError, Gguf, GgufWriter, Metadata, ModelHeader, Value};

/// A header of counts and raw bytes after them.
fn raw(tensors: u64, pairs: u64, rest: &[u8]) -> Vec<u8> {
    let mut file = b"GGUF\x03\0\0\0".to_vec();
    file.extend(tensors.to_le_bytes());
    file.extend(pairs.to_le_bytes());
    file.extend(rest);
    file
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

fn tensor(name: &str, dims: &[u64], type_id: u32, offset: u64) -> Vec<u8> {
    let mut info = string(name);
    info.extend((dims.len() as u32).to_le_bytes());
    dims.iter().for_each(|dim| info.extend(dim.to_le_bytes()));
    info.extend(type_id.to_le_bytes());
    info.extend(offset.to_le_bytes());
    info
}

/// A file of these tensor infos and `data` zero bytes after the padding.
fn with_tensors(infos: &[Vec<u8>], data: usize) -> Vec<u8> {
    let mut file = raw(infos.len() as u64, 0, &infos.concat());
    file.resize(file.len().next_multiple_of(32) + data, 0);
    file
}

fn message(file: &[u8]) -> String {
    parse(file).unwrap_err().to_string()
}

#[test]
fn empty_file() {
    assert_eq!(
        message(b""),
        "file ends inside the magic: expected 4 bytes at offset 0, got 0: the file is incomplete, download it again"
    );
}

#[test]
fn big_endian_file() {
    let error = parse(b"GGUF\0\0\0\x03").unwrap_err();
    assert_eq!(error.code(), "UNSUPPORTED");
    assert_eq!(
        error.to_string(),
        "GGUF version: expected 2 or 3 (little endian), got 0x3000000"
    );
}

#[test]
fn count_that_the_file_has_no_room_for() {
    assert_eq!(
        message(&raw(3, 0, &[0; 10])),
        "file ends inside the 3 tensors: expected 75 bytes at offset 16, got 18: the file is incomplete, download it again"
    );
}

#[test]
fn duplicate_key() {
    let pair = [string("a.b"), vec![0, 0, 0, 0, 7]].concat();
    assert_eq!(
        message(&raw(0, 2, &[pair.clone(), pair].concat())),
        "key \"a.b\" occurs twice"
    );
}

#[test]
fn empty_key() {
    let pair = [string(""), vec![0, 0, 0, 0, 7, 0, 0, 0, 0, 0]].concat();
    assert_eq!(
        message(&raw(0, 1, &pair)),
        "a metadata key at offset 24 is not at least one byte long"
    );
}

#[test]
fn value_cut_short() {
    let pair = [string("long.key"), vec![10, 0, 0, 0, 7]].concat();
    assert_eq!(
        message(&raw(0, 1, &pair)),
        "file ends inside key \"long.key\": expected 8 bytes at offset 44, got 1: the file is incomplete, download it again"
    );
}

#[test]
fn terminal_escapes_in_a_name_are_shown_escaped() {
    let file = with_tensors(&[tensor("\x1b[2J", &[8], 99, 0)], 32);
    let text = message(&file);
    assert!(
        text.starts_with("tensor \"\\u{1b}[2J\": type Q8_2_X4 (id 99) does not run here"),
        "{text}"
    );
}

#[test]
fn duplicate_tensor() {
    let file = with_tensors(&[tensor("a", &[8], 0, 0), tensor("a", &[8], 0, 32)], 64);
    assert_eq!(message(&file), "tensor \"a\" occurs twice");
}

#[test]
fn name_of_65_bytes() {
    let file = with_tensors(&[tensor(&"a".repeat(65), &[8], 0, 0)], 32);
    assert_eq!(message(&file), "a tensor name: expected at most 64, got 65");
}

#[test]
fn zero_dimension() {
    let file = with_tensors(&[tensor("a", &[8, 0], 0, 0)], 32);
    assert_eq!(
        message(&file),
        "tensor \"a\": expected dimensions 1 to 2^63 - 1, got 0"
    );
}

#[test]
fn tensor_inside_another() {
    let infos = [
        tensor("a", &[64], 0, 0),
        tensor("b", &[8], 0, 64),
        tensor("c", &[8], 0, 256),
    ];
    assert_eq!(
        message(&with_tensors(&infos, 512)),
        "tensor \"b\" overlaps tensor \"a\""
    );
}

#[test]
fn two_tensors_at_one_offset() {
    let infos = [tensor("a", &[8], 0, 0), tensor("b", &[8], 0, 0)];
    assert_eq!(
        message(&with_tensors(&infos, 512)),
        "tensor \"b\" overlaps tensor \"a\""
    );
}

#[test]
fn i2_s_without_its_tail() {
    let infos = [tensor("a", &[128, 4], 36, 0), tensor("b", &[8], 0, 128)];
    assert_eq!(
        message(&with_tensors(&infos, 512)),
        "tensor \"b\" overlaps tensor \"a\""
    );
}

#[test]
fn infinite_prefix_requests_stop_at_the_end_of_the_file() {
    let whole = tiny_model("llama", |_, _| {});
    for len in 0..whole.len() {
        // The file is longer than the prefix: more is asked for, and never more than there is.
        match Gguf::parse(&whole[..len], whole.len() as u64) {
            Err(FormatError::Incomplete { needed, got }) => {
                assert!(
                    needed > got && got == len as u64 && needed <= whole.len() as u64,
                    "{needed} {got}"
                );
            }
            Err(error) => panic!("prefix {len}: {error}"),
            Ok(gguf) => assert!(gguf.data_start <= len as u64 + 31),
        }
        // The file is cut there: that is a fault, not an incomplete prefix.
        let error = parse(&whole[..len]).err();
        let padding_only = whole.len() - len < 32;
        assert!(
            error.map_or(padding_only, |error| !error.is_incomplete()),
            "cut at {len}"
        );
    }
}

mod q2_0 {
    use super::*;

    /// Two tensors of 256 × 2: 144 bytes in groups of 64 (160 padded), 136 in groups of 128 (160 padded).
    fn file(cols: u64, second: u64, data: usize) -> Vec<u8> {
        with_tensors(
            &[
                tensor("a", &[cols, 2], 42, 0),
                tensor("b", &[cols, 2], 42, second),
            ],
            data,
        )
    }

    #[test]
    fn groups_told_apart_by_size() {
        // 512 × 2: 288 in groups of 64, 272 → 288 in groups of 128: only the end of the file tells.
        let dtype = |file: &[u8]| parse(file).unwrap().tensors[0].dtype;
        assert_eq!(dtype(&file(1024, 576, 1152)), DType::Q2_0G64);
        assert_eq!(dtype(&file(1024, 544, 1088)), DType::Q2_0G128);
        // Bytes after the last tensor do not matter while an earlier one decides.
        assert_eq!(dtype(&file(1024, 576, 4096)), DType::Q2_0G64);
        assert_eq!(dtype(&file(1024, 544, 4096)), DType::Q2_0G128);
        // Rows that are no multiple of 128 are in groups of 64.
        assert_eq!(dtype(&file(64, 64, 128)), DType::Q2_0G64);
    }

    #[test]
    fn offsets_that_fit_both() {
        let error = parse(&file(256, 160, 320)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "tensor \"b\": Q2_0 needs 160 bytes in groups of 64 or 160 in groups of 128, got 160 bytes, which fit both"
        );
    }

    #[test]
    fn offsets_that_fit_neither() {
        let error = parse(&file(1024, 608, 4096)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "tensor \"a\": Q2_0 needs 576 bytes in groups of 64 or 544 in groups of 128, got 608 bytes, which fit neither"
        );
    }

    #[test]
    fn tensors_that_disagree() {
        let infos = [
            tensor("a", &[1024, 2], 42, 0),
            tensor("b", &[1024, 2], 42, 576),
            tensor("c", &[8], 0, 576 + 544),
        ];
        let error = parse(&with_tensors(&infos, 4096)).unwrap_err();
        assert!(
            matches!(&error, FormatError::Q2Layout { name, verdict: "fit neither", .. } if name == "b"),
            "{error}"
        );
    }

    #[test]
    fn last_padding_missing() {
        let gguf = parse(&with_tensors(&[tensor("a", &[128, 1], 42, 0)], 34)).unwrap();
        assert_eq!(
            (gguf.tensors[0].dtype, gguf.tensors[0].bytes),
            (DType::Q2_0G128, 34)
        );
        let gguf = parse(&with_tensors(&[tensor("a", &[128, 1], 42, 0)], 36)).unwrap();
        assert_eq!(
            (gguf.tensors[0].dtype, gguf.tensors[0].bytes),
            (DType::Q2_0G64, 36)
        );
    }
}

mod splits {
    use super::*;

    fn part(number: u16, count: u16, tensors: i32, names: &[&str]) -> Gguf {
        let mut pairs = Metadata::new();
        pairs.set("split.no", number);
        pairs.set("split.count", count);
        pairs.set("split.tensors.count", tensors);
        let tensors: Vec<_> = names
            .iter()
            .map(|name| (name.to_string(), DType::F32, vec![8]))
            .collect();
        parse(&write(&pairs, &tensors)).unwrap()
    }

    fn merge(parts: Vec<Gguf>) -> String {
        ModelHeader::merge(parts).unwrap_err().to_string()
    }

    #[test]
    fn parts_in_order() {
        let header =
            ModelHeader::merge(vec![part(0, 2, 3, &["b", "a"]), part(1, 2, 3, &["c"])]).unwrap();
        assert_eq!(header.shards, 2);
        assert_eq!(header.tensor("c").unwrap().shard, 1);
        assert_eq!(header.tensor("a").unwrap().shard, 0);
        assert_eq!(header.tensor("d"), None);
    }

    #[test]
    fn part_missing() {
        assert_eq!(
            merge(vec![part(0, 2, 3, &["a"])]),
            "split model, part 0: expected split.count 1, got 2"
        );
    }

    #[test]
    fn parts_swapped() {
        let parts = vec![part(1, 2, 2, &["a"]), part(0, 2, 2, &["b"])];
        assert_eq!(
            merge(parts),
            "split model, part 0: expected split.no 0, got 1"
        );
    }

    #[test]
    fn tensor_count_disagrees() {
        let parts = vec![part(0, 2, 3, &["a"]), part(1, 2, 3, &["b"])];
        assert_eq!(
            merge(parts),
            "split model, part 1: expected tensors in all parts 3, got 2"
        );
    }

    #[test]
    fn tensor_in_two_parts() {
        assert_eq!(
            merge(vec![part(0, 2, 2, &["a"]), part(1, 2, 2, &["a"])]),
            "tensor \"a\" occurs twice"
        );
    }

    #[test]
    fn part_of_another_model() {
        let parts = vec![
            part(0, 2, 2, &["a"]),
            parse(&write(&Metadata::new(), &[])).unwrap(),
        ];
        assert_eq!(
            merge(parts),
            "split model, part 1: expected split.count 2, got 1"
        );
    }
}

mod writer {
    use super::*;

    #[test]
    fn impossible_declarations() {
        let mut writer = GgufWriter::new();
        writer.declare("a", DType::F32, &[4]).unwrap();
        assert!(matches!(
            writer.declare("a", DType::F32, &[4]),
            Err(FormatError::DuplicateTensor { .. })
        ));
        assert!(matches!(
            writer.declare("b", DType::TQ2_0, &[100]),
            Err(FormatError::BadShape { .. })
        ));
        assert!(matches!(
            writer.declare("b", DType::F32, &[1 << 40, 1 << 40]),
            Err(FormatError::BadShape { .. })
        ));
        assert!(matches!(
            writer.declare("b", DType::HfPacked, &[4]),
            Err(FormatError::UnsupportedType { .. })
        ));
        assert!(matches!(
            writer.push("k", 1u8.into()).unwrap().push("k", 2u8.into()),
            Err(FormatError::DuplicateKey { .. })
        ));
    }

    #[test]
    fn data_of_another_length_or_none() {
        let mut writer = GgufWriter::new();
        writer.declare("a", DType::F32, &[4]).unwrap();
        let mut body = writer.start(Vec::new()).unwrap();
        assert!(matches!(
            body.tensor("a", &[0; 15]),
            Err(FormatError::ByteCount {
                expected: 16,
                got: 15,
                ..
            })
        ));
        body.append(&[0; 10]).unwrap();
        assert!(matches!(
            body.append(&[0; 7]),
            Err(FormatError::ByteCount {
                expected: 16,
                got: 17,
                ..
            })
        ));
        assert!(matches!(
            body.finish(),
            Err(FormatError::MissingTensor { .. })
        ));
    }

    #[test]
    fn alignment_that_the_parser_would_refuse() {
        let mut writer = GgufWriter::new();
        writer.push("general.alignment", Value::U32(24)).unwrap();
        assert!(matches!(
            writer.start(Vec::new()),
            Err(FormatError::KeyValue { .. })
        ));
    }

    #[test]
    fn every_value_type_comes_back() {
        let mut pairs = Metadata::new();
        pairs.set("general.alignment", 64u32);
        pairs.set("u8", 1u8);
        pairs.set("i8", -1i8);
        pairs.set("u16", 2u16);
        pairs.set("i16", -2i16);
        pairs.set("i32", -3i32);
        pairs.set("u64", u64::MAX);
        pairs.set("i64", i64::MIN);
        pairs.set("f32", 0.5f32);
        pairs.set("f64", 0.25f64);
        pairs.set("bool", true);
        pairs.set("string", "ä");
        for (i, array) in [
            Array::U8(vec![1]),
            Array::I8(vec![-1]),
            Array::U16(vec![2]),
            Array::I16(vec![-2]),
            Array::U32(vec![3]),
            Array::I32(vec![-3, 4]),
            Array::U64(vec![5]),
            Array::I64(vec![-5]),
            Array::F32(vec![0.5]),
            Array::F64(vec![0.25]),
            Array::Bool(vec![true, false]),
            Array::Strings(["x", "", "yz"].into_iter().collect()),
        ]
        .into_iter()
        .enumerate()
        {
            pairs.set(&format!("array.{i}"), array);
        }
        let file = write(&pairs, &[("t".to_owned(), DType::F32, vec![3])]);
        let gguf = parse(&file).unwrap();
        assert_eq!(gguf.metadata, pairs);
        assert_eq!(
            (gguf.alignment, gguf.tensors[0].offset % 64, file.len() % 64),
            (64, 0, 0)
        );
    }
}
