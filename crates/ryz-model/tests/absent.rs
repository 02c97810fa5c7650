//! A thread that does not come: the others do its work, and the logits are the same to the last bit.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout)] // helpers of tests, too

mod common;

use std::sync::Barrier;

use common::{Golden, Runner, Setup, ids, reference_folders};
use ryz_model::Activations;
use ryz_numa::{Lease, LeaseOptions, Pinning, Topology, execute_on_node};

#[test]
fn logits_do_not_depend_on_who_comes() {
    let node = Topology::detect().unwrap().nodes()[0];
    // The lease that `execute_on_node` takes a thread of.
    let lease = Lease::with(LeaseOptions {
        pinning: Pinning::Nodes,
        node: Some(node),
        ..LeaseOptions::default()
    })
    .unwrap();
    if lease.threads() < 2 {
        eprintln!("SKIPPED: one thread, which cannot be both absent and there");
        return;
    }
    let folder = &reference_folders()[0];
    let mut compared = 0;
    for (_, golden) in Golden::all(folder) {
        let prompt = ids(&golden.0["prompts"][1]["ids"]);
        for file in golden.files(folder) {
            let setup = Setup::exact(Activations::Int8);
            let alone = Setup {
                threads: 1,
                ..setup
            };
            let expected = Runner::load(&file, alone).logits(&prompt);
            let mut runner = Runner::load_on(&file, setup, lease.clone());
            let (taken, over) = (Barrier::new(2), Barrier::new(2));
            let got = std::thread::scope(|scope| {
                scope.spawn(|| {
                    execute_on_node(node, || {
                        taken.wait();
                        over.wait();
                    })
                    .unwrap();
                });
                taken.wait();
                let got = runner.logits(&prompt);
                over.wait();
                got
            });
            let bits = |rows: &[Vec<f32>]| -> Vec<u32> {
                rows.iter().flatten().map(|value| value.to_bits()).collect()
            };
            assert!(bits(&got) == bits(&expected), "{}", file.display());
            compared += 1;
        }
    }
    assert!(compared > 3, "only {compared} models were compared");
}
