//! Profiles where a token's time goes.
//!
//! A [`PhaseClock`] is one thread's stopwatch: every [`PhaseClock::lap`] attributes the time since
//! the last one to a phase, so that unrecorded time shows as unattributed rather than vanishing.
//! The forward pass uses the clock on its first worker, the engine thread continues with it, and a
//! [`Profile`] collects it after each step. A [`Snapshot`] is the typed result: print it
//! ([`Snapshot::report`]), draw it ([`Snapshot::chart`]), or read the single operations as a Chrome
//! trace ([`Profile::trace`]).
//!
//! A lap costs one branch while the clock is off, and one read of the processor's counter, a few
//! nanoseconds, while it is on.
#![forbid(unsafe_code)]

mod chart;
mod clock;
mod counters;
mod phase;
mod profile;
mod report;
mod snapshot;
mod spans;
mod trace;

pub use clock::{Operation, PhaseClock};
pub use counters::{CacheCounts, ThreadCounters, refusal};
pub use phase::Phase;
pub use profile::{LayerActivity, Profile, Step};
pub use snapshot::{
    Bandwidth, CacheProfile, LatencySummary, LayerProfile, PhaseTime, Snapshot, SpanTime,
    TokenCounts,
};
pub use spans::SpanId;
