//! Tokenizers: `tokenizer.json`, or a GGUF file's metadata; what is accepted must encode and decode.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ryz_format::Gguf;
use ryz_tokenizer::{EncodeOptions, HfFiles, Tokenizer};

const TEXT: &str = "The fox  isn't <|eot_id|> \u{e9}\u{1f98a}\n\n42";

fuzz_target!(|bytes: &[u8]| {
    let tokenizer = if bytes.starts_with(b"GGUF") {
        match Gguf::parse(bytes, bytes.len() as u64) {
            Ok(gguf) => Tokenizer::from_gguf(&gguf.metadata),
            Err(_) => return,
        }
    } else {
        Tokenizer::from_hf(&HfFiles {
            tokenizer: bytes,
            ..HfFiles::default()
        })
    };
    let Ok(tokenizer) = tokenizer else { return };
    for parse_special in [false, true] {
        let options = EncodeOptions {
            add_special: true,
            parse_special,
        };
        if let Ok(ids) = tokenizer.encode(TEXT, options) {
            assert!(ids.iter().all(|&id| id < tokenizer.vocab_size()));
            let _ = tokenizer.decode(&ids, parse_special);
            let mut stream = tokenizer.decode_stream(parse_special);
            for &id in &ids {
                let _ = stream.push(id);
            }
            let _ = stream.finish();
        }
    }
});
