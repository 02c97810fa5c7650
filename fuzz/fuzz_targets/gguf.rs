//! A GGUF file: header, configuration, and the blocks of every tensor that it claims to hold.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ryz_format::{Gguf, ModelConfig, TensorView, decode};

/// Rows longer than this are decoded elsewhere: the fuzzer should look for new paths, not fill memory.
const MAX_COLS: usize = 1 << 16;

fuzz_target!(|bytes: &[u8]| {
    // As the beginning of a longer file, too.
    let _ = Gguf::parse(bytes, u64::MAX);
    let Ok(gguf) = Gguf::parse(bytes, bytes.len() as u64) else {
        return;
    };
    for tensor in &gguf.tensors {
        let start = usize::try_from(tensor.offset).expect("checked against the file's length");
        let data = &bytes[start..][..tensor.bytes as usize];
        let view = TensorView::new(&tensor.name, tensor.dtype, tensor.rows, tensor.cols, data);
        let view = view.expect("the header was accepted");
        if tensor.rows > 0
            && tensor.cols <= MAX_COLS
            && tensor.dtype.row_bytes(tensor.cols).is_some()
        {
            let mut values = vec![0.0; tensor.cols];
            decode::decode_row(tensor.dtype, view.row(tensor.rows - 1), &mut values);
        }
    }
    let _ = ModelConfig::from_gguf(&gguf.metadata, &gguf.tensors);
});
