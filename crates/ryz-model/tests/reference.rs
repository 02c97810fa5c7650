//! Every reference model against its golden: T1, T3 and the greedy continuations of the reference set's README.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout)] // helpers of tests, too

mod common;

use common::{Golden, Runner, Setup, floats, ids, max_difference, mean_nll, reference_folders};
use ryz_model::Activations;

/// T1: float activations, float32 cache, any packing.
const T1_LOGITS: f64 = 2e-3;
const T1_NLL: f64 = 1e-4;
/// T3: int8 activations per row, where the goldens are far from a rounding boundary.
const T3_LOGITS: f64 = 5e-3;
const T3_MARGIN: f64 = 5e-5;

#[test]
fn float_activations_match_the_goldens() {
    let mut compared = 0;
    for folder in reference_folders() {
        for (name, golden) in Golden::all(&folder) {
            for file in golden.files(&folder) {
                let mut runner = Runner::load(&file, Setup::exact(Activations::F32));
                let mut worst: f64 = 0.0;
                for prompt in golden.0["prompts"].as_array().unwrap() {
                    let logits = runner.logits(&ids(&prompt["ids"]));
                    let expected = &prompt["float"];
                    worst = worst.max(max_difference(
                        logits.last().unwrap(),
                        &floats(&expected["last_logits"]),
                    ));
                    for (row, top5) in logits.iter().zip(expected["top5"].as_array().unwrap()) {
                        for pair in top5.as_array().unwrap() {
                            let id = pair[0].as_u64().unwrap() as usize;
                            worst =
                                worst.max((f64::from(row[id]) - pair[1].as_f64().unwrap()).abs());
                        }
                    }
                }
                let scored = ids(&golden.0["nll"]["ids"]);
                let nll = mean_nll(&runner.logits(&scored), &scored);
                let nll_difference = (nll - golden.0["nll"]["float"].as_f64().unwrap()).abs();
                println!(
                    "T1 {name} {}: max {worst:.1e}, nll {nll_difference:.1e}",
                    file.display()
                );
                assert!(worst <= T1_LOGITS, "{}: {worst}", file.display());
                assert!(nll_difference <= T1_NLL, "{}: {nll}", file.display());

                let greedy = &golden.0["greedy"];
                let expected = ids(&greedy["float"]["ids"]);
                let margins = floats(&greedy["float"]["margins"]);
                let sure = margins
                    .iter()
                    .position(|&margin| margin < 0.01)
                    .unwrap_or(margins.len());
                let got = runner.greedy(&ids(&greedy["prompt_ids"]), sure);
                assert_eq!(got, expected[..sure], "{}", file.display());
                compared += 1;
            }
        }
    }
    assert!(compared >= 9, "only {compared} files were compared");
}

#[test]
fn int8_activations_match_the_goldens_away_from_rounding_boundaries() {
    let mut compared = 0;
    for folder in reference_folders() {
        for (name, golden) in Golden::all(&folder) {
            let Some(stable) = golden.0["a8_stable_prompts"].as_array() else {
                continue;
            };
            for file in golden.files(&folder) {
                let mut runner = Runner::load(&file, Setup::exact(Activations::Int8));
                let mut worst: f64 = 0.0;
                for prompt in stable {
                    let logits = runner.logits(&ids(&prompt["ids"]));
                    worst = worst.max(max_difference(
                        logits.last().unwrap(),
                        &floats(&prompt["a8_last_logits"]),
                    ));
                }
                for prompt in golden.0["prompts"].as_array().unwrap() {
                    let logits = runner.logits(&ids(&prompt["ids"]));
                    let a8 = &prompt["a8"];
                    let margins = floats(&a8["round_margin"]);
                    for ((row, top5), margin) in logits
                        .iter()
                        .zip(a8["top5"].as_array().unwrap())
                        .zip(&margins)
                    {
                        if *margin < T3_MARGIN {
                            continue;
                        }
                        for pair in top5.as_array().unwrap() {
                            let id = pair[0].as_u64().unwrap() as usize;
                            worst =
                                worst.max((f64::from(row[id]) - pair[1].as_f64().unwrap()).abs());
                        }
                    }
                    if *margins.last().unwrap() >= T3_MARGIN {
                        let expected = floats(&a8["last_logits"]);
                        worst = worst.max(max_difference(logits.last().unwrap(), &expected));
                    }
                }
                println!("T3 {name} {}: max {worst:.1e}", file.display());
                assert!(worst <= T3_LOGITS, "{}: {worst}", file.display());
                let greedy = &golden.0["greedy"];
                if greedy["a8_reproducible"].as_bool() == Some(true) {
                    let expected = ids(&greedy["a8"]["ids"]);
                    let got = runner.greedy(&ids(&greedy["prompt_ids"]), expected.len());
                    assert_eq!(got, expected, "{}", file.display());
                }
                compared += 1;
            }
        }
    }
    assert!(compared >= 7, "only {compared} files were compared");
}
