//! A decode step allocates nothing: everything was taken when the state was made.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout)] // helpers of tests, too

mod common;

use common::{Golden, Runner, Setup, reference_folders};
use peak_alloc::PeakAlloc;
use ryz_model::{Activations, HeadScreening, LogitDemand};

#[global_allocator]
static PEAK: PeakAlloc = PeakAlloc;

/// What rayon and its queues take to call the threads of a pool, at most.
const RAYON: usize = 16 << 10;

/// Bytes that the steps from position 20 on had at once, beyond those before.
fn bytes_of_steps(runner: &mut Runner, needed: LogitDemand) -> usize {
    for start in 0..20 {
        runner.decode_for(5, start, needed);
    }
    PEAK.reset_peak_usage();
    let before = PEAK.current_usage();
    for start in 20..40 {
        runner.decode_for(7, start, needed);
    }
    PEAK.peak_usage() - before
}

#[test]
fn a_decode_step_allocates_nothing() {
    let folder = &reference_folders()[0];
    let mut measured = 0;
    for (_, golden) in Golden::all(folder) {
        for file in golden.files(folder) {
            for activations in Activations::ALL {
                for (threads, most, needed) in [
                    (1, 0, LogitDemand::All),
                    (2, RAYON, LogitDemand::All),
                    (1, 0, LogitDemand::Largest(41)),
                    (2, RAYON, LogitDemand::Largest(41)),
                ] {
                    let setup = Setup {
                        threads,
                        head_screening: HeadScreening::Always,
                        ..Setup::exact(activations)
                    };
                    let bytes = bytes_of_steps(&mut Runner::load(&file, setup), needed);
                    let name = file.display();
                    assert!(
                        bytes <= most,
                        "{name}, {activations}, {threads} threads: {bytes} bytes"
                    );
                    measured += 1;
                }
            }
        }
    }
    assert!(measured > 10, "only {measured} were measured");
}
