//! Tensor types of other projects, and files that are cut short or something else.
#![allow(clippy::unwrap_used)]

mod common;

use common::{parse, shared, tiny_model};
use ryz_format::{DType, Description, FormatError, Gguf, hf::Safetensors};

/// A file of one tensor after another, each of a type id, a shape and a number of bytes.
fn file(tensors: &[(u32, [u64; 2], usize)], cut: usize) -> Vec<u8> {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3u32.to_le_bytes());
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend(0u64.to_le_bytes());
    let mut offset = 0u64;
    for (i, (id, shape, size)) in tensors.iter().enumerate() {
        let name = format!("t{i}");
        bytes.extend((name.len() as u64).to_le_bytes());
        bytes.extend(name.as_bytes());
        bytes.extend(2u32.to_le_bytes());
        bytes.extend(shape.iter().flat_map(|dim| dim.to_le_bytes()));
        bytes.extend(id.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        offset += size.next_multiple_of(32) as u64;
    }
    let data = bytes.len().next_multiple_of(32) + offset as usize;
    bytes.resize(data - cut, 0);
    bytes
}

#[test]
fn types_of_prism_run() {
    for (id, dtype, size) in [
        (41, DType::Q1_0, 18),
        (142, DType::PQ2_0, 34),
        (143, DType::PTQ1_0, 28),
    ] {
        let gguf = parse(&file(&[(id, [256, 3], 2 * 3 * size)], 0)).unwrap();
        let tensor = &gguf.tensors[0];
        assert_eq!((tensor.dtype, tensor.bytes), (dtype, 6 * size as u64));
    }
}

#[test]
fn a_type_that_does_not_run_is_named_with_those_that_do() {
    let error = parse(&file(&[(16, [256, 1], 66)], 0)).unwrap_err();
    assert_eq!(error.code(), "UNSUPPORTED");
    let text = error.to_string();
    assert!(
        text.starts_with("tensor \"t0\": type IQ2_XXS (id 16) does not run here"),
        "{text}"
    );
    assert!(
        text.contains("Q4_K") && text.contains("PTQ1_0") && text.len() < 300,
        "{text}"
    );
    for (id, name) in [
        (4, "Q4_2"),
        (39, "MXFP4"),
        (135, "IQ2_BN"),
        (36_000, "id 36000"),
    ] {
        let text = parse(&file(&[(id, [256, 1], 64)], 0))
            .unwrap_err()
            .to_string();
        assert!(text.contains(name), "{text}");
    }
}

#[test]
fn sherry_is_told_from_q2_0_by_its_size() {
    let of = |block: usize| [(42, [512, 8], 16 * block), (42, [256, 8], 8 * block)];
    let error = parse(&file(&of(42), 0)).unwrap_err();
    assert_eq!(error.code(), "UNSUPPORTED");
    assert!(error.to_string().contains("STQ1_0"), "{error}");
    assert_eq!(
        parse(&file(&of(72), 0)).unwrap().tensors[1].dtype,
        DType::Q2_0G64
    );
    assert_eq!(
        parse(&file(&of(68), 0)).unwrap().tensors[1].dtype,
        DType::Q2_0G128
    );
}

#[test]
fn a_file_cut_short_says_how_much_is_missing() {
    // In the data of the last tensor, of each layout of Q2_0; in those of the last but one; of one alone.
    let two = |block: usize| {
        [
            (42, [512, 512], 1024 * block),
            (42, [512, 512], 1024 * block),
        ]
    };
    let one = [(42, [512, 512], 1024 * 68)];
    let floats = [(0, [1 << 10, 500], 500 << 12)];
    for (bytes, wanted) in [
        (file(&two(72), 40_000), "(107.6 of 147.6 kB)"),
        (file(&two(68), 40_000), "(99.4 of 139.4 kB)"),
        (file(&two(68), 100_000), "(39.4 of 139.4 kB)"),
        (file(&one, 40_000), "(29.7 of 69.7 kB)"),
        (file(&floats, 1 << 20), "(1.0 of 2.0 MB)"),
    ] {
        let error = parse(&bytes).unwrap_err();
        assert_eq!(error.code(), "INVALID_FILE");
        let text = error.to_string();
        let wanted = format!("the file is incomplete {wanted}: download it again");
        assert!(text.ends_with(&wanted), "{text}");
    }
    let whole = tiny_model("llama", |_, _| {});
    let text = parse(&whole[..100]).unwrap_err().to_string();
    assert!(text.contains("download it again"), "{text}");
}

#[test]
fn what_is_no_model_is_told_what_it_is() {
    for (bytes, wanted) in [
        (&b"<!DOCTYPE html><html lang=\"en\">"[..], "a web page"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "git lfs pull",
        ),
        (
            b"\x28\0\0\0\0\0\0\0{\"__metadata__\":{}}",
            "pass the folder",
        ),
    ] {
        let error = parse(bytes).unwrap_err();
        assert!(matches!(error, FormatError::Mistaken { .. }));
        assert!(error.to_string().contains(wanted), "{error}");
    }
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n";
    let error = Safetensors::parse(pointer, pointer.len() as u64).unwrap_err();
    assert!(error.to_string().contains("git lfs pull"), "{error}");
}

#[test]
fn files_of_prism_parse() {
    let Some(folder) = shared("reference2") else {
        return;
    };
    for (name, dtype) in [
        ("bon2-v-pq2_0.gguf", DType::PQ2_0),
        ("bon2-v-ptq1_0.gguf", DType::PTQ1_0),
        ("bin-v-q1_0.gguf", DType::Q1_0),
        ("bon2-v-q2_0-g64.gguf", DType::Q2_0G64),
        ("bon2-v-q2_0-g128.gguf", DType::Q2_0G128),
    ] {
        let bytes = std::fs::read(folder.join(name)).unwrap();
        let gguf = Gguf::parse(&bytes, bytes.len() as u64).unwrap();
        let embedding = gguf.tensors.iter().find(|t| t.name == "token_embd.weight");
        assert_eq!(embedding.unwrap().dtype, dtype, "{name}");
    }
}

#[test]
fn tensors_of_any_type_are_described() {
    let bytes = file(
        &[(16, [256, 2], 132), (137, [256, 1], 76), (0, [8, 1], 32)],
        0,
    );
    let described = Description::parse(&bytes, bytes.len() as u64).unwrap();
    let tensors: Vec<_> = described
        .tensors
        .iter()
        .map(|tensor| (tensor.dtype.as_str(), tensor.bytes))
        .collect();
    // The blocks of IQ2_K are not known: its bytes reach to the next tensor.
    let expected = [
        ("IQ2_XXS (id 16)", 132),
        ("IQ2_K (id 137)", 96),
        ("F32", 32),
    ];
    assert_eq!(tensors, expected);
    assert!(matches!(
        described.fault,
        Some(FormatError::UnsupportedType { .. })
    ));
    let bytes = file(&[(142, [256, 2], 136)], 0);
    let described = Description::parse(&bytes, bytes.len() as u64).unwrap();
    assert!(described.fault.is_none());
    assert_eq!(described.tensors[0].dtype, "PQ2_0");
}
