//! Comparing whole sets of models with their goldens.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::path::Path;

use ryz_kernels::Level;
use ryz_model::Activations;

use super::{Golden, Runner, Setup, floats, ids, max_difference, mean_nll};

/// T1: float activations, float32 cache, any packing.
const T1_LOGITS: f64 = 2e-3;
const T1_NLL: f64 = 1e-4;
/// T3: int8 activations per row, where the goldens are far from a rounding boundary.
const T3_LOGITS: f64 = 5e-3;
const T3_MARGIN: f64 = 5e-5;

/// Checks T1 and the greedy continuations of every golden in the folder; says how many files it compared.
pub fn check_float(folder: &Path, level: Level) -> usize {
    let mut compared = 0;
    {
        for (name, golden) in Golden::all(folder) {
            for file in golden.files(folder) {
                let mut runner = Runner::load(
                    &file,
                    Setup {
                        level,
                        ..Setup::exact(Activations::F32)
                    },
                );
                let mut worst: f64 = 0.0;
                for prompt in golden.0["prompts"].as_array().unwrap() {
                    let logits = runner.logits(&ids(&prompt["ids"]));
                    let expected = &prompt["float"];
                    let last = logits.last().unwrap();
                    // Of a large vocabulary only some are kept.
                    let at = &golden.0["last_logits_at_ids"];
                    worst = worst.max(match at.is_null() {
                        true => max_difference(last, &floats(&expected["last_logits"])),
                        false => {
                            let some: Vec<f32> =
                                ids(at).iter().map(|&id| last[id as usize]).collect();
                            max_difference(&some, &floats(&expected["last_logits_at"]))
                        }
                    });
                    let top5 = expected["top5"].as_array().unwrap();
                    // Of a long prompt they are those of its last positions.
                    let behind = &logits[logits.len() - top5.len()..];
                    for (row, top5) in behind.iter().zip(top5) {
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
    compared
}

/// Checks T3 of every golden in the folder that has this mode, `a8` (per token) or `a8g` (per group); says how many files
/// it compared.
pub fn check_int8(folder: &Path, level: Level, mode: &str) -> usize {
    let activations = if mode == "a8" {
        Activations::Int8
    } else {
        Activations::Int8Group
    };
    let mut compared = 0;
    {
        for (name, golden) in Golden::all(folder) {
            if golden.0["prompts"][0][mode].is_null() {
                continue;
            }
            let stable = golden.0["a8_stable_prompts"].as_array();
            let stable = stable
                .filter(|_| mode == "a8")
                .map_or(&[][..], Vec::as_slice);
            for file in golden.files(folder) {
                let mut runner = Runner::load(
                    &file,
                    Setup {
                        level,
                        ..Setup::exact(activations)
                    },
                );
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
                    let a8 = &prompt[mode];
                    let margins = floats(&a8["round_margin"]);
                    let top5 = a8["top5"].as_array().unwrap();
                    let first = logits.len() - top5.len();
                    for ((row, top5), margin) in
                        logits[first..].iter().zip(top5).zip(&margins[first..])
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
                println!("T3 {mode} {name} {}: max {worst:.1e}", file.display());
                assert!(worst <= T3_LOGITS, "{}: {worst}", file.display());
                let greedy = &golden.0["greedy"];
                if mode == "a8" && greedy["a8_reproducible"].as_bool() == Some(true) {
                    let expected = ids(&greedy["a8"]["ids"]);
                    let got = runner.greedy(&ids(&greedy["prompt_ids"]), expected.len());
                    assert_eq!(got, expected, "{}", file.display());
                }
                compared += 1;
            }
        }
    }
    compared
}
