//! Prepacked files load as they are and compute, bit for bit, what the form they were made of computes.
#![allow(clippy::unwrap_used)]

mod common;

use std::{fs, ops::ControlFlow, path::Path};

use common::{Model, committed, convert, is_projection, logits};
use ryz_convert::{ConvertError, ConvertOptions, TernaryForm};
use ryz_format::{DType, Value};
use ryz_kernels::{Kernels, Level};
use ryz_model::{Activations, LoadOptions, ModelError, ModelSource};
use ryz_numa::{Lease, Pinning};
use ryz_tmac::{Arena, ArenaConfig};

const FILES: [&str; 7] = [
    "b158-v-hf-packed",
    "b158-v1-tq2_0.gguf",
    "bitnet-v-tq1_0.gguf",
    "bonsai-v-q2_0-g64.gguf",
    "bonsai-v-q2_0-g128.gguf",
    "llama-v-tq2_0.gguf",
    "qwen3-v-tq1_0-lq.gguf",
];

fn options(form: TernaryForm, prepack: bool) -> ConvertOptions {
    let mut options = ConvertOptions::new(form);
    (options.prepack, options.overwrite) = (prepack, true);
    options
}

#[test]
fn the_same_logits_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let (plain, packed) = (folder.path().join("plain"), folder.path().join("packed"));
    let tokens: Vec<u32> = (0..20).map(|i| i * 13 % 250).collect();
    let mut seen = 0;
    for name in FILES {
        let source = committed().join(name);
        for form in TernaryForm::ALL {
            let report = match convert(&source, &packed, &options(form, true)) {
                Ok(report) => report,
                Err(ConvertError::ScalesDiffer { .. }) => continue,
                Err(error) => panic!("{name} {form}: {error}"),
            };
            assert!(report.is_lossless(), "{name} {form}");
            let expected = form.dtype().prepacked().unwrap();
            for tensor in report.tensors.iter().filter(|t| is_projection(&t.name)) {
                assert_eq!(tensor.target, expected, "{name} {form} {}", tensor.name);
            }
            convert(&source, &plain, &options(form, false)).unwrap();
            for activations in [Activations::Int8, Activations::Int8Group, Activations::F32] {
                let got = logits(&packed, activations, &tokens);
                assert!(
                    got == logits(&plain, activations, &tokens),
                    "{name} {form} {activations}"
                );
            }
            seen += 1;
        }
    }
    assert!(seen >= 29, "{seen}");
}

#[test]
fn a_prepacked_file_says_so_and_is_not_converted_again() {
    let folder = tempfile::tempdir().unwrap();
    let (packed, target) = (folder.path().join("packed"), folder.path().join("target"));
    let source = committed().join("b158-v1-tq2_0.gguf");
    convert(&source, &packed, &options(TernaryForm::TQ2_0, true)).unwrap();
    let pairs = Model::read(&packed).gguf.metadata;
    let version = pairs.get("ryzanstein.prepacked.version");
    assert_eq!(version, Some(&Value::U32(1)));
    let error = convert(&packed, &target, &options(TernaryForm::TQ2_0, false)).unwrap_err();
    assert_eq!(error.code(), "UNSUPPORTED");
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("RYZ_T2_G256"), "{cause}");
    assert!(!target.exists());
}

fn load(path: &Path) -> Result<(), ModelError> {
    let arena = Arena::new(ArenaConfig::default());
    let lease = Lease::new(1, Pinning::Off).unwrap();
    let source = ModelSource::open(path)?;
    let options = LoadOptions {
        kernels: Kernels::new(Level::Scalar).unwrap(),
        activations: None,
        ..LoadOptions::default()
    };
    let mut go_on = |_| ControlFlow::Continue(());
    ryz_model::Model::load(&source, &options, &arena, &lease, &mut go_on).map(drop)
}

/// Scales that are no numbers, or that are 0 for weights that are not: faults of the file, by the tensor's name.
#[test]
fn scales_that_are_faults() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("packed");
    let name = "blk.0.ffn_up.weight";
    for (source, form) in [
        ("b158-v1-tq2_0.gguf", TernaryForm::Q2_0_G64),
        ("b158-v-i2_s.gguf", TernaryForm::I2_S),
    ] {
        convert(&committed().join(source), &path, &options(form, true)).unwrap();
        load(&path).unwrap();
        let model = Model::read(&path);
        let info = model.info(name);
        let (lines, _) = info.dtype.prepacked_bytes(info.rows, info.cols).unwrap();
        let at = info.offset as usize + lines;
        let faults: &[&[u8]] = match form {
            TernaryForm::I2_S => &[&[0, 0, 0xc0, 0x7f], &[0, 0, 0x80, 0xff]],
            // Infinity, NaN, -0, +0.
            _ => &[&[0, 0x7c], &[1, 0x7e], &[0, 0x80], &[0, 0]],
        };
        for fault in faults {
            let mut file = model.file.clone();
            file[at..at + fault.len()].copy_from_slice(fault);
            fs::write(&path, file).unwrap();
            let error = load(&path).unwrap_err();
            assert_eq!(error.code(), "INVALID_FILE", "{fault:?}: {error}");
            let cause = std::error::Error::source(&error).unwrap().to_string();
            assert!(cause.contains(name), "{cause}");
        }
    }
}

/// Any other byte may be any number: no panic, whatever is flipped.
#[test]
fn flipped_bits_are_an_error_or_another_model() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("packed");
    let source = committed().join("bonsai-v-q2_0-g128.gguf");
    convert(&source, &path, &options(TernaryForm::Q2_0_G128, true)).unwrap();
    let file = fs::read(&path).unwrap();
    let mut rng = common::Rng(6);
    for _ in 0..60 {
        let mut mutated = file.clone();
        for _ in 0..3 {
            let at = rng.next() as usize % file.len();
            mutated[at] ^= 1 << (rng.next() % 8);
        }
        mutated.truncate(file.len() - (rng.next() as usize % 2) * (rng.next() as usize % 5000));
        fs::write(&path, mutated).unwrap();
        if let Err(error) = load(&path) {
            assert_ne!(error.code(), "INTERNAL", "{error}");
        }
    }
}

#[test]
fn names_and_numbers_of_the_types() {
    let ids: Vec<u32> = DType::PREPACKED
        .iter()
        .map(|d| d.gguf_id().unwrap())
        .collect();
    assert_eq!(ids, [0x525A_0000, 0x525A_0001, 0x525A_0002, 0x525A_0003]);
}
