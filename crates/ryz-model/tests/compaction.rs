//! Blocks of the cache that move under a live sequence change no bit of its logits.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout)] // helpers of tests, too

mod common;

use common::{Runner, Setup, reference_folders};
use ryz_kvcache::KvDType;
use ryz_model::Activations;

#[test]
fn a_move_in_the_middle_of_a_sequence_changes_no_bit() {
    let file = reference_folders()[0].join("b158-v1-tq2_0.gguf");
    let tokens: Vec<u32> = (0..150).map(|t| (t * 37 + 11) % 400).collect();
    // In the middle of a block.
    let (before, after) = tokens.split_at(90);
    for kv in KvDType::ALL {
        let setup = Setup {
            kv,
            ..Setup::exact(Activations::Int8)
        };
        let expected = Runner::load(&file, setup).logits(&tokens);
        let mut runner = Runner::load(&file, setup);
        runner.leave_a_hole(13);
        let mut logits = runner.logits(before);
        let places = runner.compact(before.len());
        assert_eq!(places.len(), 6);
        for (was, is) in &places {
            assert!(is < was, "{kv}: {was:#x} stayed at {is:#x}");
        }
        runner.grow(tokens.len());
        logits.extend(runner.extend(after, before.len()));
        let bits = |rows: &[Vec<f32>]| -> Vec<u32> {
            rows.iter().flatten().map(|x| x.to_bits()).collect()
        };
        assert!(bits(&logits) == bits(&expected), "{kv}: logits changed");
    }
}
