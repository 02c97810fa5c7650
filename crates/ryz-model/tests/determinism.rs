//! The same logits, bit for bit, whatever computes them: every level, thread count, prefill chunk and cache block order.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout)] // helpers of tests, too

mod common;

use std::{
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use common::{Golden, Runner, Setup, ids, reference_folders};
use ryz_kernels::{BatchLayout, KernelOptions, Level};
use ryz_kvcache::KvDType;
use ryz_model::Activations;
use ryz_numa::{Lease, Pinning};
use ryz_tmac::PrefetchManager;

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
                        options: KernelOptions::default(),
                        threads: 1,
                        chunk: 64,
                        machine: None,
                        sparsity: true,
                        ..Setup::exact(activations)
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

#[test]
fn logits_depend_on_neither_the_layout_of_batches_nor_prefetching() {
    let folder = &reference_folders()[0];
    let mut compared = 0;
    for (_, golden) in Golden::all(folder) {
        for file in golden.files(folder) {
            let base = Setup::exact(Activations::Int8);
            let row = |chunk| Setup { chunk, ..base };
            // Two whole tiles and some more; in one step, and in steps that are no whole tiles.
            let prompt: Vec<u32> = (0..77).map(|index| index * 7 % 61).collect();
            let expected = Runner::load(&file, row(64)).logits(&prompt);
            for activations in [Activations::Int8, Activations::Int8Group] {
                let setup = Setup {
                    activations,
                    ..row(77)
                };
                let expected = match activations {
                    Activations::Int8 => expected.clone(),
                    _ => Runner::load(&file, setup).logits(&prompt),
                };
                for level in supported() {
                    for (batch, lines) in [
                        (BatchLayout::Tiles, 64),
                        (BatchLayout::Tiles, 0),
                        (BatchLayout::Rows, 0),
                        (BatchLayout::Rows, 7),
                    ] {
                        let options = KernelOptions {
                            batch: Some(batch),
                            prefetch: PrefetchManager::new(lines),
                        };
                        for chunk in [77, 40] {
                            let setup = Setup {
                                level,
                                options,
                                chunk,
                                ..setup
                            };
                            let got = Runner::load(&file, setup).logits(&prompt);
                            let bits = |rows: &[Vec<f32>]| -> Vec<u32> {
                                rows.iter().flatten().map(|logit| logit.to_bits()).collect()
                            };
                            assert!(
                                bits(&got) == bits(&expected),
                                "{} {activations} {level} {batch} {lines} lines, chunk {chunk}",
                                file.display()
                            );
                            compared += 1;
                        }
                    }
                }
            }
        }
    }
    assert!(compared > 100, "only {compared} runs were compared");
}

/// While all threads are held by another engine's region, which waits for this step, a step that reads little is computed nonetheless, with the bits
/// of those that are shared.
#[test]
fn small_steps_wait_for_no_thread() {
    let path = reference_folders()[0].join("b158-v1-tq2_0.gguf");
    let tokens = [5, 9, 2, 7];
    let shared = Runner::load(&path, Setup::exact(Activations::Int8)).logits(&tokens);
    let lease = || Lease::new(2, Pinning::Off).unwrap();
    let setup = Setup {
        parallel_from: usize::MAX,
        ..Setup::exact(Activations::Int8)
    };
    let mut runner = Runner::load_on(&path, setup, lease());
    let other = lease();
    let (held, done) = (Barrier::new(3), AtomicBool::new(false));
    let alone = thread::scope(|scope| {
        let region = scope.spawn(|| {
            other.run(|_| {
                held.wait();
                let begun = Instant::now();
                while !done.load(SeqCst) && begun.elapsed() < Duration::from_secs(20) {
                    thread::yield_now();
                }
                assert!(done.load(SeqCst), "the step waited for the threads");
            })
        });
        held.wait();
        let alone = runner.logits(&tokens);
        done.store(true, SeqCst);
        region.join().unwrap().unwrap();
        alone
    });
    assert_eq!(alone, shared);
}
