//! The same logits, bit for bit, whatever computes them: every level, thread count, prefill chunk and cache block order.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout)] // helpers of tests, too

mod common;

use common::{Golden, Runner, Setup, ids, reference_folders};
use ryz_kernels::Level;
use ryz_kvcache::KvDType;
use ryz_model::Activations;

/// The levels of this machine; those that it lacks are named, so that a pass is not taken for theirs.
fn supported() -> impl Iterator<Item = Level> {
    Level::ALL.into_iter().filter(|level| {
        if !level.supported() {
            println!("SKIPPED: level {level} is not on this machine");
        }
        level.supported()
    })
}

/// Machines of several memory nodes, whose weights are placed and whose threads are pools of their own.
const MACHINES: [(&str, usize); 2] = [("numa:2 core:2 pu:1", 3), ("numa:4 core:1 pu:1", 4)];

#[test]
fn logits_do_not_depend_on_level_threads_nodes_or_chunks() {
    let folder = &reference_folders()[0];
    let mut compared = 0;
    for (_, golden) in Golden::all(folder) {
        let prompt = ids(&golden.0["prompts"][1]["ids"]);
        for file in golden.files(folder) {
            for activations in Activations::ALL {
                for kv in KvDType::ALL {
                    let base = Setup {
                        activations,
                        kv,
                        level: Level::Scalar,
                        threads: 1,
                        chunk: 64,
                        machine: None,
                    };
                    let expected = Runner::load(&file, base).logits(&prompt);
                    let others = supported()
                        .map(|level| Setup { level, ..base })
                        .chain([2, 3, 4].map(|threads| Setup {
                            threads,
                            level: Level::detect(),
                            ..base
                        }))
                        .chain([1, 13].map(|chunk| Setup {
                            chunk,
                            level: Level::detect(),
                            threads: 2,
                            ..base
                        }))
                        .chain(MACHINES.map(|(machine, threads)| Setup {
                            machine: Some(machine),
                            threads,
                            level: Level::detect(),
                            ..base
                        }));
                    for setup in others {
                        let got = Runner::load(&file, setup).logits(&prompt);
                        for (position, (got, expected)) in got.iter().zip(&expected).enumerate() {
                            let same = got
                                .iter()
                                .zip(expected)
                                .all(|(a, b)| a.to_bits() == b.to_bits());
                            assert!(
                                same,
                                "{} {activations} {kv} {} threads {} chunk {} on {:?}: position {position} differs",
                                file.display(),
                                setup.level,
                                setup.threads,
                                setup.chunk,
                                setup.machine
                            );
                        }
                        compared += 1;
                    }
                }
            }
        }
    }
    assert!(compared > 500, "only {compared} runs were compared");
    println!(
        "levels compared: {:?}",
        supported().map(Level::name).collect::<Vec<_>>()
    );
}
