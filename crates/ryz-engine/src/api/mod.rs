//! What callers see of an engine: every method of [`Engine`], by subject.

mod calibrate;
mod engine;
mod estimate;
mod info;
mod load;
mod memory;
mod operators;
mod profiler;
mod ranker;
mod saved;
mod task;

pub use calibrate::{CalibrateOptions, CalibrateProgress, CalibrationReport, RankCost};
pub use engine::Engine;
pub use estimate::EngineMemory;
pub use info::{DraftInfo, ModelInfo};
pub use saved::{RestoredPrefix, SavedPrefix};
pub use task::{Completion, Task};
