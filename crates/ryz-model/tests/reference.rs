//! Every reference model against its golden: T1, T3 and the greedy continuations of the reference set's README.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout)] // helpers of tests, too

mod common;

use common::goldens::{check_float, check_int8};
use common::reference_folders;
use ryz_kernels::Level;

#[test]
fn float_activations_match_the_goldens() {
    for folder in reference_folders() {
        let compared = check_float(&folder, Level::detect());
        common::note_ran("reference models", compared, 0);
        assert!(compared >= 9, "only {compared} files were compared");
    }
}

#[test]
fn int8_activations_match_the_goldens_away_from_rounding_boundaries() {
    for folder in reference_folders() {
        let compared = check_int8(&folder, Level::detect(), "a8");
        assert!(compared >= 7, "only {compared} files were compared");
    }
}
