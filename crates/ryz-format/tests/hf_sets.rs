//! Hugging Face folders of the full sets: the reference models' and the malformed ones.
#![allow(clippy::unwrap_used)]

mod common;

use std::{fs, path::Path};

use common::shared;
use ryz_format::{
    DType, FormatError, Gguf, ModelConfig, ModelHeader, TensorInfo, TensorView, WeightScales,
    encode,
    hf::{Safetensors, ShardIndex},
};
use serde_json::Value;

fn parse(file: &[u8]) -> Result<Safetensors, FormatError> {
    Safetensors::parse(file, file.len() as u64)
}

fn header(parts: &[Vec<u8>], index: Option<&ShardIndex>) -> Result<ModelHeader, FormatError> {
    let parts: Vec<_> = parts
        .iter()
        .map(|part| parse(part))
        .collect::<Result<_, _>>()?;
    ModelHeader::from_safetensors(&parts, index)
}

/// A folder of the reference set, and the file of its tensors.
fn reference_folder(name: &str) -> Option<(ModelConfig, ModelHeader, Vec<u8>)> {
    let folder = shared("reference")?.join(name);
    let file = fs::read(folder.join("model.safetensors")).unwrap();
    let header = header(std::slice::from_ref(&file), None).unwrap();
    let config = ModelConfig::from_hf(
        &fs::read(folder.join("config.json")).unwrap(),
        &header.tensors,
    )
    .unwrap();
    Some((config, header, file))
}

fn decode(file: &[u8], tensor: &TensorInfo, scale: f32) -> Vec<f32> {
    let bytes = &file[tensor.offset as usize..][..tensor.bytes as usize];
    let view = match tensor.dtype {
        DType::HfPacked => TensorView::with_scale(
            &tensor.name,
            tensor.dtype,
            tensor.rows,
            tensor.cols,
            bytes,
            scale,
        ),
        _ => TensorView::new(&tensor.name, tensor.dtype, tensor.rows, tensor.cols, bytes),
    };
    let mut out = vec![0.0; tensor.rows * tensor.cols];
    for (row, out) in out.chunks_exact_mut(tensor.cols).enumerate() {
        view.as_ref().unwrap().decode_row(row, out);
    }
    out
}

#[test]
fn a_packed_folder_has_the_weights_of_its_gguf() {
    let Some((config, header, file)) = reference_folder("b158-v-hf-packed") else {
        return;
    };
    let gguf_file = fs::read(shared("reference").unwrap().join("b158-v-i2_s.gguf")).unwrap();
    let gguf = Gguf::parse(&gguf_file, gguf_file.len() as u64).unwrap();
    let mut expected = ModelConfig::from_gguf(&gguf.metadata, &gguf.tensors).unwrap();
    expected.weight_scales = WeightScales::Multiply;
    assert_eq!(config, expected);
    for tensor in &gguf.tensors {
        let other = header.tensor(&tensor.name).unwrap();
        let scale = header.tensor(&tensor.name.replace(".weight", ".scale"));
        let scale = scale.map_or(1.0, |scale| decode(&file, scale, 1.0)[0]);
        assert_eq!(
            decode(&gguf_file, tensor, 1.0),
            decode(&file, other, scale),
            "{}",
            tensor.name
        );
    }
}

#[test]
fn master_weights_become_the_ternary_weights_of_their_gguf() {
    let Some((config, header, file)) = reference_folder("b158-v1-hf-bf16") else {
        return;
    };
    assert!(config.quantize_weights);
    let gguf_file = fs::read(shared("reference").unwrap().join("b158-v1-tq2_0.gguf")).unwrap();
    let gguf = Gguf::parse(&gguf_file, gguf_file.len() as u64).unwrap();
    for tensor in gguf
        .tensors
        .iter()
        .filter(|tensor| tensor.dtype == DType::TQ2_0)
    {
        let master = decode(&file, header.tensor(&tensor.name).unwrap(), 1.0);
        let mut codes = vec![0; master.len()];
        let scale = encode::quantize_absmean(&master, &mut codes);
        let weights: Vec<f32> = codes
            .iter()
            .map(|&code| (f32::from(code) - 1.0) * scale)
            .collect();
        assert_eq!(weights, decode(&gguf_file, tensor, 1.0), "{}", tensor.name);
    }
}

/// What this crate says about a folder of the malformed set: the case's file in the place of the sound one.
fn folder_case(badfiles: &Path, case: &Value) -> Result<(), FormatError> {
    let file = badfiles.join(case["file"].as_str().unwrap());
    let bytes = fs::read(&file).unwrap();
    let Some(overlay) = case["overlay"].as_object() else {
        return match case["stage"].as_str().unwrap() {
            "container" => parse(&bytes).map(drop),
            "config" => ModelConfig::from_hf_fields(&bytes, &[]).map(drop),
            other => panic!("stage {other}"),
        };
    };
    let dir = badfiles.join(overlay["dir"].as_str().unwrap());
    let read = |name: &str| {
        if overlay["as"] == name {
            Some(bytes.clone())
        } else {
            fs::read(dir.join(name)).ok()
        }
    };
    let index = read("model.safetensors.index.json")
        .map(|bytes| ShardIndex::parse(&bytes))
        .transpose()?;
    let files = index
        .as_ref()
        .map_or(vec!["model.safetensors".to_owned()], |index| {
            index.files.clone()
        });
    let parts: Vec<Vec<u8>> = files.iter().map(|file| read(file).unwrap()).collect();
    let header = header(&parts, index.as_ref())?;
    ModelConfig::from_hf(&read("config.json").unwrap(), &header.tensors).map(drop)
}

#[test]
fn safetensors_and_folder_cases() {
    let Some(badfiles) = shared("badfiles") else {
        return;
    };
    let manifest: Value =
        serde_json::from_slice(&fs::read(badfiles.join("manifest.json")).unwrap()).unwrap();
    let (mut cases, mut wrong) = (0, Vec::new());
    for case in manifest["cases"].as_array().unwrap() {
        let name = case["file"].as_str().unwrap();
        let mine = [
            "safetensors/",
            "hf_config/",
            "hf_index/",
            "ok/hf_small/config",
        ];
        let control = name.starts_with("ok/") && name.ends_with(".safetensors");
        if !control && !mine.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        cases += 1;
        let result = folder_case(&badfiles, case);
        let as_expected = match case["expected"].as_str().unwrap() {
            "ok" => result.is_ok(),
            "error" => result.is_err(),
            _ => true,
        };
        if !as_expected {
            wrong.push(format!(
                "{name} ({}): {}, got {result:?}",
                case["fault"], case["expected"]
            ));
        }
        if let Err(error) = &result {
            assert!(error.to_string().len() < 500, "{name}: {error}");
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {cases} cases:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(cases > 90, "{cases} cases");
}
