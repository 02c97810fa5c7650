//! Files that are written whole or not at all, and what the process may still take of its address space.
//!
//! [`OutputFile`] is the one way in which the engine's crates write files: conversions, checkpoints, calibrations, saved states and
//! measured choices.

#![forbid(unsafe_code)]

mod limits;
mod output;

pub use limits::address_space_left;
pub use output::{OutputError, OutputFile, OverwritePolicy, write_file};
