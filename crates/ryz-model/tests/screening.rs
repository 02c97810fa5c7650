//! Leaving out rows of the head: what is left is the whole head's logits to the last bit, and all that are needed are there.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout)] // helpers of tests, too

mod common;

use std::path::{Path, PathBuf};

use common::{Runner, Setup};
use ryz_kernels::Level;
use ryz_model::{Activations, HeadScreening, HeadType, LogitDemand, Outputs};

/// Models whose heads are floats: tied and F16, tied and F16 with few tokens, untied and BF16; and one of Q6_K, which is its own image.
fn models() -> [PathBuf; 4] {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../__test__/fixtures");
    [
        "reference/b158-v-i2_s",
        "variants/head-dim-b158",
        "variants/defaults",
        "reference/qwen3-v-tq1_0-lq",
    ]
    .map(|name| fixtures.join(format!("{name}.gguf")))
}

fn setup(screening: HeadScreening) -> Setup {
    Setup {
        head_screening: screening,
        ..Setup::exact(Activations::Int8)
    }
}

/// Checks that all logits are those of `whole` or −∞, and the `needed` largest are there. How many there are.
fn check(few: &[f32], whole: &[f32], needed: usize, what: &str) -> usize {
    let mut ids: Vec<usize> = (0..whole.len()).collect();
    ids.sort_by(|&a, &b| whole[b].partial_cmp(&whole[a]).unwrap().then(a.cmp(&b)));
    for &id in &ids[..needed] {
        assert_eq!(few[id].to_bits(), whole[id].to_bits(), "{what}: {id}");
    }
    let there = few.iter().zip(whole).filter(|(few, whole)| {
        assert!(
            few.to_bits() == whole.to_bits() || **few == f32::NEG_INFINITY,
            "{what}"
        );
        **few != f32::NEG_INFINITY
    });
    there.count()
}

/// Tokens from all over a vocabulary.
fn tokens(count: usize, vocab: usize) -> Vec<u32> {
    (0..count)
        .map(|index| (index * 37 % vocab) as u32)
        .collect()
}

#[test]
fn the_largest_logits_are_the_whole_heads() {
    for path in models() {
        let mut whole = Runner::load(&path, setup(HeadScreening::Off));
        assert_eq!(whole.model.image_bytes(), 0);
        let vocab = whole.model.config().vocab_size;
        let tokens = tokens(40, vocab);
        let expected = whole.logits(&tokens);
        assert_eq!(whole.screened().steps, 0);
        for (level, threads, machine) in [
            (Level::detect(), 1, None),
            (Level::detect(), 2, None),
            (Level::Scalar, 3, None),
            (Level::detect(), 3, Some("numa:2 core:2 pu:1")),
        ] {
            let setup = Setup {
                level,
                threads,
                machine,
                ..setup(HeadScreening::Always)
            };
            let mut runner = Runner::load(&path, setup);
            let image = runner.model.image_bytes();
            assert_eq!(
                runner.model.packed_bytes(),
                whole.model.packed_bytes() + image
            );
            for needed in [1, 2, 5, 41] {
                let what = format!("{}, {level}, {threads}, {needed}", path.display());
                let (mut there, mut outputs) = (0, 0);
                for (start, part) in (0..).step_by(5).zip(tokens.chunks(5)) {
                    let sequences = [(part, start, LogitDemand::Largest(needed))];
                    let logits = runner.batch(&sequences, Outputs::All);
                    for (row, few) in logits.iter().enumerate() {
                        there += check(few, &expected[start + row], needed, &what);
                        outputs += 1;
                    }
                }
                let screened = runner.screened();
                let counts = (screened.steps, screened.outputs, screened.rows);
                assert_eq!(counts, (8, outputs, there as u64), "{what}");
                let least = 8 * image as u64;
                assert!(screened.read_bytes > least, "{what}: {screened:?}");
                println!("{what}: {} of {vocab}", there as u64 / outputs);
            }
        }
    }
}

#[test]
fn whoever_needs_all_logits_gets_them() {
    let all = LogitDemand::All;
    for path in models() {
        let mut whole = Runner::load(&path, setup(HeadScreening::Off));
        let mut runner = Runner::load(&path, setup(HeadScreening::Always));
        let tokens = tokens(17, whole.model.config().vocab_size);
        let many = if runner.model.head_is_image() { 17 } else { 9 };
        let few = LogitDemand::Largest(3);
        let mut same = |sequences: &[(&[u32], usize, LogitDemand)], outputs| {
            let expected = whole.batch(sequences, outputs);
            assert_eq!(
                runner.batch(sequences, outputs),
                expected,
                "{}",
                path.display()
            );
            let screened = runner.screened();
            assert_eq!(screened.steps, 0, "{}", path.display());
        };
        same(&[(&tokens[..4], 0, all)], Outputs::All);
        // One of several.
        same(
            &[(&tokens[..2], 0, few), (&tokens[2..5], 0, all)],
            Outputs::Last,
        );
        // More outputs than are screened, and more logits than would be left out.
        same(&[(&tokens[..many], 0, few)], Outputs::All);
        same(
            &[(&tokens[..4], 0, LogitDemand::Largest(257))],
            Outputs::Last,
        );
        same(&[(&tokens[..4], 0, few)], Outputs::None);
        // All of whom need few: each as many as it needs.
        let sequences = [
            (&tokens[..2], 0, few),
            (&tokens[2..5], 0, LogitDemand::Largest(20)),
        ];
        let expected = whole.batch(&sequences, Outputs::Last);
        let logits = runner.batch(&sequences, Outputs::Last);
        check(&logits[0], &expected[0], 3, "the first");
        check(&logits[1], &expected[1], 20, "the second");
        assert_eq!(runner.screened().outputs, 2);
        runner.model.drop_image();
        assert_eq!(runner.batch(&sequences, Outputs::Last), expected);
    }
}

#[test]
fn only_heads_of_floats_and_k_types_have_images() {
    let [tied, ..] = models();
    for head in [HeadType::Q8, HeadType::Q4] {
        let setup = Setup {
            head,
            ..setup(HeadScreening::Always)
        };
        assert_eq!(Runner::load(&tied, setup).model.image_bytes(), 0, "{head}");
    }
    // Small ones lie in caches.
    let runner = Runner::load(&tied, setup(HeadScreening::Auto));
    assert_eq!(runner.model.image_bytes(), 0);
    let blocks = tied.with_file_name("b158-v1-tq2_0.gguf");
    let runner = Runner::load(&blocks, setup(HeadScreening::Always));
    assert_eq!(runner.model.image_bytes(), 0);
}
