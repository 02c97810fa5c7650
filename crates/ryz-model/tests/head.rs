//! Heads of fewer bits than the file's: near to its logits, the same for everybody, and nothing else of the model changes.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout)] // helpers of tests, too

mod common;

use common::{Golden, Runner, Setup, ids, mean_nll, reference_folders};
use ryz_kernels::Level;
use ryz_model::{Activations, HeadType};

#[test]
fn a_rounded_head_costs_little_and_is_the_same_for_everybody() {
    let folder = &reference_folders()[0];
    let mut rounded = 0;
    for (_, golden) in Golden::all(folder) {
        let tokens = ids(&golden.0["nll"]["ids"]);
        for file in golden.files(folder) {
            let base = Setup::exact(Activations::F32);
            let mut of_file = Runner::load(&file, base);
            assert_eq!(of_file.model.head(), HeadType::File);
            let expected = of_file.logits(&tokens);
            for (head, most) in [(HeadType::Q8, 0.01), (HeadType::Q4, 0.1)] {
                let setup = Setup { head, ..base };
                let mut runner = Runner::load(&file, setup);
                let logits = runner.logits(&tokens);
                let what = format!("{}, head {head}", file.display());
                if runner.model.head() == HeadType::File {
                    assert_eq!(logits, expected, "{what}");
                    continue;
                }
                rounded += 1;
                assert_ne!(logits, expected, "{what}");
                let cost = mean_nll(&logits, &tokens) / mean_nll(&expected, &tokens) - 1.0;
                println!("{what}: {:+.3} %", 100.0 * cost);
                assert!(cost.abs() < most, "{what}: {cost}");
                let tied = runner.model.config().tie_word_embeddings;
                let (bytes, before) = (runner.model.packed_bytes(), of_file.model.packed_bytes());
                assert_eq!(bytes > before, tied, "{what}: {bytes} bytes for {before}");
                assert!(
                    runner.model.weight_bytes_per_token() < of_file.model.weight_bytes_per_token(),
                    "{what}"
                );
                for (level, threads, machine) in [
                    (Level::Scalar, 1, None),
                    (Level::detect(), 3, Some("numa:2 core:2 pu:1")),
                ] {
                    let setup = Setup {
                        level,
                        threads,
                        machine,
                        ..setup
                    };
                    assert_eq!(Runner::load(&file, setup).logits(&tokens), logits, "{what}");
                }
            }
        }
    }
    assert!(rounded >= 4, "only {rounded} heads were rounded");
}
