//! What a hostile file costs before it is refused: never more than twice its size and 64 MB.
#![allow(clippy::unwrap_used)] // helpers of tests, too

mod common;

use common::{Rng, fixture};
use peak_alloc::PeakAlloc;
use ryz_format::{Gguf, hf::Safetensors};
use ryz_tokenizer::{ChatInput, ChatTemplate, HfFiles, Tokenizer};
use serde_json::json;

#[global_allocator]
static PEAK: PeakAlloc = PeakAlloc;

const MUTATIONS: usize = 20_000;
const SLACK: usize = 64 << 20;

/// Calls `refused` with files that differ from `intact`, and measures those that it refuses.
fn each_stays_small(what: &str, intact: &[u8], refused: impl Fn(&[u8]) -> bool) {
    let mut rng = Rng(0x5EED_0007);
    let mut measured = 0;
    for round in 0..MUTATIONS {
        let mut bytes = intact.to_vec();
        for _ in 0..1 + rng.below(3) {
            let at = rng.below(bytes.len());
            match round % 3 {
                0 => bytes[at] ^= 1 << rng.below(8),
                // Large counts and lengths: what asks for memory.
                1 => bytes[at..].iter_mut().take(4).for_each(|byte| *byte = 0xFF),
                _ => bytes[at] = b"0123456789[]{},:\"-eE"[rng.below(20)],
            }
        }
        if round % 11 == 0 {
            bytes.truncate(rng.below(bytes.len()));
        }
        PEAK.reset_peak_usage();
        let before = PEAK.current_usage();
        if refused(&bytes) {
            let took = PEAK.peak_usage().saturating_sub(before);
            let allowed = 2 * bytes.len() + SLACK;
            assert!(
                took <= allowed,
                "{what}, round {round}: {took} bytes for a file of {}",
                bytes.len()
            );
            measured += 1;
        }
    }
    assert!(
        measured > MUTATIONS / 20,
        "{what}: only {measured} were refused"
    );
}

/// A safetensors file of two tensors.
fn safetensors() -> Vec<u8> {
    let header = json!({
        "__metadata__": { "format": "pt" },
        "a": { "dtype": "BF16", "shape": [4, 8], "data_offsets": [0, 64] },
        "b": { "dtype": "U8", "shape": [16], "data_offsets": [64, 80] },
    })
    .to_string();
    let len = (header.len() as u64).to_le_bytes();
    [&len[..], header.as_bytes(), &[0; 80]].concat()
}

/// Values that contain themselves are freed all the same.
fn nothing_is_left_of_a_rendering() {
    let ways = [
        "{% set ns = namespace() %}{% set ns.me = ns %}",
        "{% set a = namespace() %}{% set b = namespace(a=a) %}{% set a.b = [b] %}",
        "{% set ns = namespace() %}{% for i in range(20) %}{% set ns.me = {'ns': ns, 'text': 'x' * 1000} %}{% endfor %}",
        "{% set ns = namespace() %}{% set ns.me = ns %}{{ raise_exception('no') }}",
    ];
    let input = ChatInput::new(json!([]));
    for way in ways {
        let template = ChatTemplate::new(way, "", "").unwrap();
        let render = || drop(template.render(&input));
        (0..100).for_each(|_| render());
        let before = PEAK.current_usage();
        (0..1000).for_each(|_| render());
        let left = PEAK.current_usage().saturating_sub(before);
        assert!(left < 50_000, "{way}: {left} bytes after 1000 renderings");
    }
}

/// One test: the allocator counts for the whole process.
#[test]
fn what_is_refused_is_refused_cheaply() {
    let gguf = fixture("spm.gguf");
    each_stays_small("GGUF", &gguf, |bytes| {
        let parsed = Gguf::parse(bytes, bytes.len() as u64);
        parsed.map_or(true, |gguf| Tokenizer::from_gguf(&gguf.metadata).is_err())
    });
    // A header may also claim a file that is far longer than what was read of it.
    each_stays_small("GGUF's beginning", &gguf, |bytes| {
        Gguf::parse(&bytes[..bytes.len() / 2], 1 << 50).is_err()
    });
    let file = safetensors();
    each_stays_small("safetensors", &file, |bytes| {
        Safetensors::parse(bytes, bytes.len() as u64).is_err()
    });
    let tokenizer = fixture("tokenizer-llama-bpe.json");
    each_stays_small("tokenizer.json", &tokenizer, |bytes| {
        let files = HfFiles {
            tokenizer: bytes,
            ..HfFiles::default()
        };
        Tokenizer::from_hf(&files).is_err()
    });
    nothing_is_left_of_a_rendering();
    let template = b"{% for m in messages %}{% for i in range(100) %}{{ m.content * 100 }}{% endfor %}{{ m | tojson }}{% endfor %}";
    let input = ChatInput::new(json!([{ "role": "user", "content": "Hello" }]));
    each_stays_small("template", template, |bytes| {
        let template = ChatTemplate::from_bytes(bytes, "<s>", "</s>");
        template
            .and_then(|template| template.render(&input))
            .is_err()
    });
}
