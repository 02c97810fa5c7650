//! Where the time of a token goes.
//!
//! A [`PhaseClock`] is one thread's stopwatch: every [`PhaseClock::lap`] books the time since the last one to a phase,
//! so that what is not booked shows as unattributed rather than vanishing. The forward pass runs one on its first
//! worker, the engine thread goes on with the same one, and after each step a [`Profile`] takes it in. A
//! [`Snapshot`] of that is the typed result: print it ([`Snapshot::report`]), draw it ([`Snapshot::chart`]), or read
//! the single operations as a Chrome trace ([`Profile::trace`]).
//!
//! A clock that is off costs a branch a lap; one that is on a reading of the processor's counter, some nanoseconds.
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
