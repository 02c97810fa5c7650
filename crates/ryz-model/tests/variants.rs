//! What the architectures allow and the reference set has in no model: rotations, head sizes, block types, scales, ragged
//! rows, versions and splits, against goldens of an independent implementation (`dev/reference`).
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout)] // helpers of tests, too

mod common;

use std::path::PathBuf;

use common::goldens::{check_float, check_int8};
use ryz_kernels::Level;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../__test__/fixtures/variants")
}

/// The plain level and the best.
fn levels() -> [Level; 2] {
    [Level::Scalar, Level::detect()]
}

#[test]
fn float_activations_match_the_goldens() {
    for level in levels() {
        assert_eq!(check_float(&folder(), level), 26);
    }
}

#[test]
fn activations_per_token_match_the_goldens() {
    for level in levels() {
        assert_eq!(check_int8(&folder(), level, "a8"), 26);
    }
}

#[test]
fn activations_per_group_match_the_goldens() {
    for level in levels() {
        assert_eq!(check_int8(&folder(), level, "a8g"), 6);
    }
}
