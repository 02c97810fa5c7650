//! Atomic file writes, and the remaining address space of the process.
//!
//! All of the engine's crates write files through [`OutputFile`]: conversions, checkpoints,
//! calibrations, saved states and measured choices.

#![forbid(unsafe_code)]

mod limits;
mod output;

pub use limits::address_space_left;
pub use output::{OutputError, OutputFile, OverwritePolicy, write_file};
