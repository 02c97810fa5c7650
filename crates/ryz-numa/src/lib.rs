//! CPU topology, pinned rayon pools, SPMD regions, barriers and the checked partitioned slice.
//!
//! An engine [`Lease`]s threads of process-wide pools, one pool per memory node. A step is one
//! [`Lease::run`]: every worker runs the same function, takes its share of the work by its index,
//! and meets the others at [`Worker::barrier`]. Threads share scratch through [`PartitionedSlice`],
//! which hands out parts and checks that they are disjoint.
//!
//! In [`Lease::run_elastic`], a phase is over when its work is done, by any workers that are
//! present; absent workers are not waited for.
//!
//! ```
//! use ryz_numa::{Lease, PartitionedSlice, Pinning};
//!
//! let lease = Lease::new(2, Pinning::Off)?;
//! let mut squares = vec![0u64; 100];
//! let shared = PartitionedSlice::new(&mut squares, 1);
//! lease.run(|worker| {
//!     let rows = worker.split(100, 1);
//!     let mut part = shared.rows_mut(rows.clone());
//!     for (row, i) in rows.enumerate() {
//!         part.row_mut(row)[0] = (i * i) as u64;
//!     }
//! })?;
//! assert_eq!(squares[9], 81);
//! # Ok::<(), ryz_numa::RegionError>(())
//! ```

mod barrier;
mod budget;
mod cgroup;
mod claims;
mod crew;
mod elastic;
mod error;
mod parking;
mod partition;
mod placement;
mod pool;
mod ticks;
mod timeslice;
mod topology;
mod work;
mod worker;

pub use barrier::Poisoned;
pub use budget::{CpuBudget, default_threads};
pub use elastic::{Chunks, ElasticWorker, RegionExit};
pub use error::{RegionError, TopologyError};
pub use partition::{PartitionedSlice, ReadGuard, WriteGuard};
pub use placement::{LeaseOptions, Numa, Pinning, Placement, WorkerPlace};
pub use pool::{Lease, execute_on_node};
pub use ticks::ticks;
pub use topology::{Core, Topology};
pub use work::{Chunk, WorkQueue, split};
pub use worker::Worker;
