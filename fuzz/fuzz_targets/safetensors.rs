//! A Hugging Face folder in one input: `config.json`, a zero byte, a safetensors file; and the same bytes as an index.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ryz_format::{
    ModelConfig, ModelHeader,
    hf::{Safetensors, ShardIndex},
};

fuzz_target!(|bytes: &[u8]| {
    let _ = ShardIndex::parse(bytes);
    let _ = Safetensors::parse(bytes, u64::MAX);
    let cut = bytes
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(bytes.len());
    let (config, rest) = bytes.split_at(cut);
    let weights = rest.get(1..).unwrap_or_default();
    let _ = ModelConfig::from_hf_fields(config, &[]);
    let Ok(parsed) = Safetensors::parse(weights, weights.len() as u64) else {
        return;
    };
    if let Ok(header) = ModelHeader::from_safetensors(&[parsed], None) {
        for tensor in &header.tensors {
            assert!(tensor.offset + tensor.bytes <= weights.len() as u64);
        }
        let _ = ModelConfig::from_hf(config, &header.tensors);
    }
});
