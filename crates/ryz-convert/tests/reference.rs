//! The reference files from form to form, byte for byte.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
};

use common::{Model, committed, convert, is_projection, reference, whole_set};
use ryz_convert::{ConvertError, ConvertOptions, EmbeddingForm, Method, TernaryForm};
use ryz_format::DType;

/// The form of a file by its projections, or `None` when they are dense.
fn form(model: &Model) -> Option<TernaryForm> {
    let dtype = model.info("blk.0.attn_q.weight").dtype;
    TernaryForm::ALL
        .into_iter()
        .find(|form| form.dtype() == dtype)
}

/// The ternary files.
fn ternary_files() -> Vec<(PathBuf, Model, TernaryForm)> {
    let mut files: Vec<PathBuf> = fs::read_dir(reference())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "gguf"))
        .collect();
    files.sort();
    let found: Vec<_> = files
        .into_iter()
        .filter_map(|path| {
            let model = Model::read(&path);
            form(&model).map(|form| (path, model, form))
        })
        .collect();
    assert!(found.len() >= 7, "{} files", found.len());
    found
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap().to_str().unwrap().to_owned()
}

/// Every file to every form and back. A form that cannot hold the scales says so by name; all others give the same
/// weights, and the way back the very same file.
#[test]
fn round_trips_over_every_form() {
    let folder = tempfile::tempdir().unwrap();
    let (there, back) = (folder.path().join("there"), folder.path().join("back"));
    let (mut trips, mut refusals) = (0, Vec::new());
    for (path, model, own) in ternary_files() {
        for form in TernaryForm::ALL {
            let case = format!("{} to {form}", path.display());
            let mut options = ConvertOptions::new(form);
            options.overwrite = true;
            let report = match convert(&path, &there, &options) {
                Ok(report) => report,
                Err(ConvertError::ScalesDiffer { name, .. }) => {
                    assert!(name == "token_embd.weight" || is_projection(&name));
                    refusals.push(format!("{} {form}", stem(&path)));
                    continue;
                }
                Err(error) => panic!("{case}: {error}"),
            };
            assert!(report.is_lossless(), "{case}");
            assert_eq!(report.bytes, fs::metadata(&there).unwrap().len(), "{case}");
            let converted = Model::read(&there);
            assert_eq!(converted.names(), model.names(), "{case}");
            for (name, tensor) in model.names().iter().zip(&report.tensors) {
                assert_eq!(&tensor.name, name);
                let was = model.info(name).dtype;
                let expected = if was.is_ternary() { form.dtype() } else { was };
                assert_eq!(converted.info(name).dtype, expected, "{case}: {name}");
                assert_eq!(converted.values(name), model.values(name), "{case}: {name}");
                let method = match was.is_ternary() && was != form.dtype() {
                    true => Method::Repacked,
                    false => Method::Copied,
                };
                assert_eq!(tensor.method, method, "{case}: {name}");
            }
            options.form = own;
            convert(&there, &back, &options).unwrap();
            assert!(fs::read(&back).unwrap() == model.file, "{case} and back");
            trips += 1;
        }
    }
    assert!(trips >= 24, "{trips} round trips");
    // One scale for 128 weights fits no form with one for more.
    let mut expected = Vec::new();
    for own in ["g128", "g64"] {
        for form in ["tq1_0", "tq2_0", "i2_s"] {
            expected.push(format!("bonsai-v-q2_0-{own} {form}"));
        }
    }
    assert_eq!(refusals, expected);
}

/// Files of one model in several forms: each is the conversion of each other, whole files included.
#[test]
fn siblings_are_conversions_of_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("target");
    let files = ternary_files();
    let family = |path: &Path| {
        let stem = stem(path);
        let own = stem.ends_with("-lq").then(|| stem.clone());
        own.unwrap_or_else(|| stem.rsplit_once("-v-").unwrap_or((&stem, "")).0.to_owned())
    };
    let mut pairs = 0;
    for (path, ..) in &files {
        for (other, sibling, form) in &files {
            if path == other || family(path) != family(other) {
                continue;
            }
            let mut options = ConvertOptions::new(*form);
            options.overwrite = true;
            convert(path, &target, &options).unwrap();
            let same = fs::read(&target).unwrap() == sibling.file;
            assert!(same, "{} is not {}", path.display(), other.display());
            pairs += 1;
        }
    }
    // bonsai's two; with the whole set also bitnet's four.
    assert_eq!(pairs, if whole_set().is_some() { 14 } else { 2 });
}

/// Dense files go through the quantiser, and its error is what an independent sum says.
#[test]
fn dense_files_are_quantised_with_their_error() {
    let folder = tempfile::tempdir().unwrap();
    let mut seen = 0;
    for name in [
        "llamadense-v-q4_0",
        "qwen3dense-v-q4_k_m",
        "qwen3dense-v-q8_0",
    ] {
        let path = reference().join(name).with_extension("gguf");
        if !path.exists() {
            continue;
        }
        seen += 1;
        let target = folder.path().join(name);
        let report = convert(&path, &target, &ConvertOptions::new(TernaryForm::Q2_0_G64)).unwrap();
        assert!(!report.is_lossless());
        let (model, converted) = (Model::read(&path), Model::read(&target));
        for tensor in &report.tensors {
            let (was, is) = (model.values(&tensor.name), converted.values(&tensor.name));
            if !is_projection(&tensor.name) {
                assert!(tensor.lossless && was == is, "{}", tensor.name);
                continue;
            }
            assert_eq!(tensor.method, Method::Quantized);
            let pairs = || {
                was.iter()
                    .zip(&is)
                    .map(|(&w, &q)| (f64::from(w), f64::from(q)))
            };
            let count = was.len() as f64;
            let mse = pairs().map(|(w, q)| (w - q).powi(2)).sum::<f64>() / count;
            let dot = |f: fn((f64, f64)) -> f64| pairs().map(f).sum::<f64>();
            let cosine = dot(|(w, q)| w * q) / (dot(|(w, _)| w * w) * dot(|(_, q)| q * q)).sqrt();
            let zeros = is.iter().filter(|&&q| q == 0.0).count() as f64 / count;
            let error = tensor.error.unwrap();
            assert!((error.mse / mse - 1.0).abs() < 1e-9, "{error:?} {mse}");
            assert!((error.cosine - cosine).abs() < 1e-9, "{error:?} {cosine}");
            assert_eq!(tensor.zero_fraction, Some(zeros));
            // A Gaussian has 31 % of its weights below half its mean magnitude, and the cosine 0.89.
            assert!((0.27..0.36).contains(&zeros), "{zeros}");
            assert!((0.86..0.92).contains(&cosine), "{cosine}");
        }
    }
    assert!(seen >= 2);
}

/// The packed folder is the I2_S file: every tensor, and the tokenizer's keys.
#[test]
fn a_packed_folder_becomes_its_i2_s_file() {
    let set = committed();
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("target");
    let expected = Model::read(&set.join("b158-v-i2_s.gguf"));
    let mut options = ConvertOptions::new(TernaryForm::I2_S);
    options.embeddings = EmbeddingForm::F16;
    options.name = Some("b158-v".to_owned());
    let report = convert(&set.join("b158-v-hf-packed"), &target, &options).unwrap();
    assert!(report.is_lossless());
    assert_eq!((report.dropped.len(), report.tokenizer_notes.len()), (0, 0));
    let converted = Model::read(&target);
    assert_eq!(converted.names(), expected.names());
    for name in expected.names() {
        assert!(converted.bytes(&name) == expected.bytes(&name), "{name}");
    }
    for (key, value) in expected.gguf.metadata.iter() {
        // Hugging Face names no padding token here, and `<|eot_id|>` is known by its name.
        if key.ends_with("padding_token_id") || key.ends_with("eot_token_id") {
            continue;
        }
        assert_eq!(converted.gguf.metadata.get(key), Some(value), "{key}");
    }
    // BF16 stays unless asked.
    options = ConvertOptions::new(TernaryForm::TQ1_0);
    options.overwrite = true;
    let report = convert(&set.join("b158-v-hf-packed"), &target, &options).unwrap();
    assert!(report.is_lossless());
    let converted = Model::read(&target);
    assert_eq!(converted.info("token_embd.weight").dtype, DType::BF16);
    for name in expected.names() {
        assert_eq!(converted.values(&name), expected.values(&name), "{name}");
    }
    assert_eq!(converted.info("blk.1.ffn_up.weight").dtype, DType::TQ1_0);
}

/// Master weights become the ternary weights of their file.
#[test]
fn master_weights_become_their_tq2_0_file() {
    let Some(set) = whole_set() else { return };
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("target");
    let expected = Model::read(&set.join("b158-v1-tq2_0.gguf"));
    let options = ConvertOptions::new(TernaryForm::TQ2_0);
    let report = convert(&set.join("b158-v1-hf-bf16"), &target, &options).unwrap();
    let converted = Model::read(&target);
    assert_eq!(converted.names(), expected.names());
    for tensor in &report.tensors {
        let name = &tensor.name;
        if *name == "token_embd.weight" {
            assert_eq!(converted.values(name), expected.values(name));
            continue;
        }
        assert!(converted.bytes(name) == expected.bytes(name), "{name}");
        if is_projection(name) {
            assert_eq!(tensor.method, Method::Quantized);
            assert!(tensor.lossless, "the rule is what masters mean");
            assert!(tensor.error.unwrap().cosine > 0.8, "{tensor:?}");
            assert!((0.3..0.5).contains(&tensor.zero_fraction.unwrap()));
        }
    }
}
