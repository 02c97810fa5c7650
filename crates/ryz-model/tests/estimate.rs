//! What is told from a header is what a load takes.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout)] // helpers of tests, too

use std::ops::ControlFlow;

use ryz_kernels::Kernels;
use ryz_model::{
    Activations, HeadScreening, HeadType, LoadOptions, MemoryEstimate, Model, ModelSource, RunState,
};
use ryz_numa::{Lease, Pinning};
use ryz_tmac::{Arena, ArenaConfig, BufferKind};

mod common;

use common::reference_folders;

#[test]
fn the_estimate_holds_for_every_reference_model() {
    let mut compared = 0;
    for folder in reference_folders() {
        let entries = std::fs::read_dir(&folder).unwrap();
        for path in entries.map(|entry| entry.unwrap().path()) {
            let is_model = path
                .extension()
                .is_some_and(|extension| extension == "gguf")
                || path.join("config.json").exists();
            if !is_model {
                continue;
            }
            let source = ModelSource::open(&path).unwrap();
            let heads = [HeadType::Q8, HeadType::Q4].map(|head| (Activations::Int8, head));
            let own = Activations::ALL.map(|activations| (activations, HeadType::File));
            for (activations, head) in own.into_iter().chain(heads) {
                let head_screening = HeadScreening::Always;
                let (threads, tokens, outputs) = (2, 37, 5);
                let arena = Arena::new(ArenaConfig::default());
                let lease = Lease::new(threads, Pinning::Off).unwrap();
                let options = LoadOptions {
                    kernels: Kernels::default(),
                    activations: Some(activations),
                    head,
                    head_screening,
                    ..LoadOptions::default()
                };
                let mut go_on = |_| ControlFlow::Continue(());
                let model = Model::load(&source, &options, &arena, &lease, &mut go_on).unwrap();
                let loaded = arena.stats();
                let _state = RunState::new(&model, &arena, tokens, outputs).unwrap();
                let need = MemoryEstimate::of(&source, &options, threads, tokens, outputs);
                let name = format!("{} {activations}, head {head}", path.display());
                assert_eq!(
                    need.scratch,
                    arena.stats().of(BufferKind::Scratch),
                    "scratch of {name}"
                );
                let weights = loaded.of(BufferKind::Weights);
                // Equal group scales became one: at most two bytes for each 64 weights less.
                let slack = need.weights / 8;
                assert!(
                    weights <= need.weights && need.weights - weights <= slack,
                    "{name}: {weights} bytes of weights, {} estimated",
                    need.weights
                );
                assert!(
                    loaded.high_water <= need.weights + need.staging,
                    "{name}: {} bytes at once, {} + {} estimated",
                    loaded.high_water,
                    need.weights,
                    need.staging
                );
                compared += 1;
            }
        }
    }
    assert!(compared >= 9, "only {compared} were compared");
}
