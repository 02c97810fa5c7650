//! The reference models: headers, configs, tensors, and both writers back to the same bytes.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;

use common::{reference, reference_files};
use ryz_format::{
    Architecture, DType, Gguf, GgufWriter, HiddenAct, ModelConfig, ModelHeader, RopeScaling,
    RopeStyle, TensorInfo, TensorView, encode,
};

fn slice<'a>(file: &'a [u8], tensor: &TensorInfo) -> &'a [u8] {
    &file[tensor.offset as usize..][..tensor.bytes as usize]
}

#[test]
fn every_reference_file_parses_and_fits_its_config() {
    for path in reference_files() {
        let file = fs::read(&path).unwrap();
        let gguf = Gguf::parse(&file, file.len() as u64).unwrap();
        let config = ModelConfig::from_gguf(&gguf.metadata, &gguf.tensors)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(config.vocab_size, 512, "{}", path.display());
        assert_eq!(config.rope.scaling, RopeScaling::None, "{}", path.display());
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let q2: Vec<DType> = gguf
            .tensors
            .iter()
            .map(|t| t.dtype)
            .filter(|t| t.name().starts_with("Q2_0"))
            .collect();
        let expected = if stem.ends_with("g64") {
            DType::Q2_0G64
        } else {
            DType::Q2_0G128
        };
        assert_eq!(!q2.is_empty(), stem.contains("-q2_0"), "{stem}");
        assert!(q2.iter().all(|&dtype| dtype == expected), "{stem}");
        for tensor in &gguf.tensors {
            TensorView::new(
                &tensor.name,
                tensor.dtype,
                tensor.rows,
                tensor.cols,
                slice(&file, tensor),
            )
            .unwrap();
        }
        let header = ModelHeader::merge(vec![gguf]).unwrap();
        for expected in config.expected_tensors() {
            assert!(
                header.tensor(&expected.name).is_some() == expected.required,
                "{stem} {}",
                expected.name
            );
        }
    }
}

#[test]
fn configs_of_four_architectures() {
    let config = |name: &str| {
        let file = fs::read(reference().join(name)).unwrap();
        let gguf = Gguf::parse(&file, file.len() as u64).unwrap();
        ModelConfig::from_gguf(&gguf.metadata, &gguf.tensors).unwrap()
    };
    let b158 = config("b158-v-i2_s.gguf");
    assert_eq!(b158.architecture, Architecture::BitnetB158);
    assert_eq!(
        (
            b158.hidden_size,
            b158.intermediate_size,
            b158.num_hidden_layers
        ),
        (256, 512, 2)
    );
    assert_eq!(
        (
            b158.num_attention_heads,
            b158.num_key_value_heads,
            b158.key_head_dim
        ),
        (8, 2, 32)
    );
    assert_eq!(
        (b158.rms_norm_eps, b158.rope.theta, b158.rope.style),
        (1e-5, 5e5, RopeStyle::Neox)
    );
    assert!(
        b158.sub_norms
            && b158.tie_word_embeddings
            && !b158.qk_norm
            && b158.hidden_act == HiddenAct::Relu2
    );

    let bitnet = config("bitnet-v-tq1_0.gguf");
    assert_eq!(
        (bitnet.architecture, bitnet.hidden_act),
        (Architecture::Bitnet, HiddenAct::Silu)
    );
    assert!(bitnet.sub_norms);

    let llama = config("llama-v-tq2_0.gguf");
    assert_eq!(
        (llama.architecture, llama.rope.style),
        (Architecture::Llama, RopeStyle::Norm)
    );
    assert!(
        !llama.tie_word_embeddings && !llama.sub_norms && !llama.qk_norm && !llama.attention_bias
    );

    let qwen3 = config("bonsai-v-q2_0-g128.gguf");
    assert_eq!(
        (qwen3.architecture, qwen3.rope.style, qwen3.rms_norm_eps),
        (Architecture::Qwen3, RopeStyle::Neox, 1e-6)
    );
    assert!(qwen3.qk_norm && !qwen3.sub_norms);
}

#[test]
fn ternary_tensors_encode_back_to_their_bytes() {
    let mut seen = Vec::new();
    for path in reference_files() {
        let file = fs::read(&path).unwrap();
        for tensor in Gguf::parse(&file, file.len() as u64).unwrap().tensors {
            if !tensor.dtype.is_ternary() {
                continue;
            }
            let bytes = slice(&file, &tensor);
            let view = TensorView::new(&tensor.name, tensor.dtype, tensor.rows, tensor.cols, bytes)
                .unwrap();
            let mut codes = vec![0; tensor.rows * tensor.cols];
            let mut scales = vec![0.0; tensor.rows * view.scales_per_row()];
            let rows = codes
                .chunks_exact_mut(tensor.cols)
                .zip(scales.chunks_exact_mut(view.scales_per_row()));
            rows.enumerate()
                .for_each(|(row, (codes, scales))| view.unpack_row(row, codes, scales));
            if tensor.dtype.has_tensor_scale() {
                scales.truncate(1);
            }
            let mut again = Vec::new();
            encode::encode_ternary(tensor.dtype, &codes, &scales, &mut again);
            assert!(again == bytes, "{} {}", path.display(), tensor.name);
            seen.push(tensor.dtype);
        }
    }
    for dtype in [
        DType::TQ1_0,
        DType::TQ2_0,
        DType::Q2_0G64,
        DType::Q2_0G128,
        DType::I2S,
    ] {
        assert!(seen.contains(&dtype), "no reference tensor is {dtype}");
    }
}

#[test]
fn the_writer_gives_back_whole_files() {
    for path in reference_files() {
        let file = fs::read(&path).unwrap();
        let gguf = Gguf::parse(&file, file.len() as u64).unwrap();
        let mut writer = GgufWriter::new();
        for (key, value) in gguf.metadata.iter() {
            writer.push(key, value.clone()).unwrap();
        }
        for tensor in &gguf.tensors {
            writer
                .declare(&tensor.name, tensor.dtype, &tensor.shape)
                .unwrap();
        }
        let mut body = writer.start(Vec::new()).unwrap();
        for tensor in &gguf.tensors {
            body.tensor(&tensor.name, slice(&file, tensor)).unwrap();
        }
        assert!(body.finish().unwrap() == file, "{}", path.display());
    }
}

#[test]
fn a_growing_prefix_is_enough() {
    let path = reference().join("b158-v-i2_s.gguf");
    let file = fs::read(&path).unwrap();
    let whole = Gguf::parse(&file, file.len() as u64).unwrap();
    let (mut len, mut rounds) = (4, 0);
    let gguf = loop {
        match Gguf::parse(&file[..len], file.len() as u64) {
            Ok(gguf) => break gguf,
            Err(error) => assert!(error.is_incomplete(), "{error}"),
        }
        len *= 2;
        rounds += 1;
    };
    assert_eq!(gguf.tensors, whole.tensors);
    assert_eq!(gguf.metadata, whole.metadata);
    assert!(rounds > 5 && len < file.len());
}
