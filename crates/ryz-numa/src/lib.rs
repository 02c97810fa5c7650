//! CPU topology, pinned rayon pools, SPMD regions, barriers and the checked partitioned slice.
