//! The load-time check, on every level that this machine has.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout)] // helpers of tests, too

use ryz_kernels::{Kernels, Level, self_test};

#[test]
fn every_level_passes() {
    for level in Level::ALL {
        match Kernels::new(level) {
            Ok(kernels) => {
                assert_eq!(kernels.level(), level, "no other level may stand in");
                assert!(
                    kernels
                        .names()
                        .iter()
                        .all(|name| name.ends_with(level.name()))
                );
                self_test(kernels).unwrap();
            }
            Err(error) => eprintln!("SKIPPED: {error}"),
        }
    }
}
