//! Weights in 1.6 bits give the logits that they give in 2, whenever they are packed.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout)] // helpers of tests, too

mod common;

use std::path::{Path, PathBuf};

use common::{Runner, Setup};
use ryz_kernels::{Level, Packing};
use ryz_kvcache::KvDType;
use ryz_model::Activations;
use ryz_tmac::{Arena, ArenaConfig};

/// Per tensor, per row and per group of 64, 128 and 256: all have 512 columns in `ffn_down`, a block and three units more.
const MODELS: [&str; 6] = [
    "b158-v-i2_s.gguf",
    "b158-v1-tq2_0.gguf",
    "llama-v-tq2_0.gguf",
    "qwen3-v-tq1_0-lq.gguf",
    "bonsai-v-q2_0-g64.gguf",
    "bonsai-v-q2_0-g128.gguf",
];

fn reference(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../__test__/fixtures");
    root.join("reference").join(name)
}

fn bits(rows: &[Vec<f32>]) -> Vec<u32> {
    rows.iter().flatten().map(|logit| logit.to_bits()).collect()
}

fn setup(activations: Activations) -> Setup {
    Setup {
        kv: KvDType::Int8,
        sparsity: false,
        ..Setup::exact(activations)
    }
}

#[test]
fn logits_are_those_of_two_bits() {
    let prompt: Vec<u32> = (0..21).map(|index| 5 + index * 11 % 200).collect();
    for name in MODELS {
        for activations in [Activations::Int8, Activations::Int8Group, Activations::F32] {
            let base = Setup {
                level: Level::Scalar,
                threads: 1,
                ..setup(activations)
            };
            let expected = bits(&Runner::load(&reference(name), base).logits(&prompt));
            for level in Level::ALL.into_iter().filter(|level| level.supported()) {
                for (threads, chunk) in [(1, 1), (2, 4), (3, 21)] {
                    let setup = Setup {
                        level,
                        threads,
                        chunk,
                        packing: Packing::Base3,
                        ..base
                    };
                    let mut packed = Runner::load(&reference(name), setup);
                    let packings = packed.model.packings();
                    assert_eq!(packings, [Packing::Base3, Packing::TwoBits], "{name}");
                    let got = bits(&packed.logits(&prompt));
                    assert!(
                        got == expected,
                        "{name}, {activations:?}, {level}, {threads} threads, chunk {chunk}"
                    );
                }
            }
        }
    }
}

/// Packing a loaded model, some matrices at a time and back, reads less and gives the same logits at every step.
#[test]
fn a_loaded_model_can_be_packed_and_unpacked() {
    let prompt = [7, 8, 9];
    let path = reference("bonsai-v-q2_0-g128.gguf");
    let mut runner = Runner::load(&path, setup(Activations::Int8Group));
    let expected = bits(&runner.logits(&prompt));
    let (all, per_token) = (
        runner.model.packed_bytes(),
        runner.model.weight_bytes_per_token(),
    );
    let arena = Arena::new(ArenaConfig::default());
    let timers = runner.model.product_timers(&arena, 0, 1, 1).unwrap();
    let packable: Vec<_> = timers
        .iter()
        .map(|timer| (timer.kind().clone(), timer.matrices()))
        .filter(|(kind, _)| kind.base3_kernel.is_some())
        .collect();
    assert!(packable.iter().all(|(kind, _)| kind.cols >= 320));
    let [(kind, matrices)] = &packable[..] else {
        panic!("only ffn_down is wide enough, got {packable:?}")
    };
    let lease = runner.lease.clone();
    let mut before = all;
    for some in [0..1, 0..*matrices] {
        (runner.model)
            .repack(&lease, kind, some.clone(), Packing::Base3)
            .unwrap();
        let bytes = runner.model.packed_bytes();
        assert!(bytes < before || some.len() < 2, "{some:?}: {bytes}");
        before = bytes;
        assert_eq!(bits(&runner.logits(&prompt)), expected, "{some:?}");
    }
    assert_eq!(runner.model.two_bit_bytes_per_token(), per_token);
    // A block of 20 lines is 16.
    let saved = matrices * (kind.rows / 16) * 4 * 64;
    assert_eq!(runner.model.packed_bytes(), all - saved);
    assert_eq!(runner.model.weight_bytes_per_token(), per_token - saved);
    let names = runner.model.kernel_names();
    assert!(names.contains(&kind.base3_kernel.unwrap()), "{names:?}");
    // The kind is still found, to go back.
    (runner.model)
        .repack(&lease, kind, 0..usize::MAX, Packing::TwoBits)
        .unwrap();
    assert_eq!(runner.model.packed_bytes(), all);
    assert_eq!(bits(&runner.logits(&prompt)), expected);
    assert_eq!(runner.model.packings(), [Packing::TwoBits]);
}

/// Where nothing is as wide as a block, nothing changes.
#[test]
fn narrow_matrices_stay_in_two_bits() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../__test__/fixtures");
    let setup = Setup {
        packing: Packing::Base3,
        ..setup(Activations::Int8)
    };
    let model = Runner::load(&fixtures.join("variants/tq1_0.gguf"), setup).model;
    assert_eq!(model.packings(), [Packing::TwoBits]);
}
