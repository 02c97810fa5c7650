//! Places matrices on the memory nodes of the threads that read them.
//!
//! On a machine with several memory nodes, all matrices are allocated before any is read, and each
//! worker's rows are bound to its node. Where the system refuses to bind (as in many containers), a
//! thread of that node touches the pages first. The thread that reads the file then writes to
//! memory already placed. With one node, none of this happens.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use ryz_kernels::{ROW_TILE, TernaryPacker};
use ryz_numa::{Lease, PartitionedSlice, RegionError};
use ryz_tmac::Buffer;

/// The smallest page size.
const PAGE: usize = 4096;

/// Memory of a matrix that is not yet read.
#[derive(Debug)]
pub(crate) enum Reservation {
    Ternary(TernaryPacker),
    Dense(Buffer),
}

/// Reserved memory, by tensor name.
#[derive(Debug, Default)]
pub(crate) struct Reservations(Mutex<HashMap<String, Reservation>>);

impl Reservations {
    /// Takes the memory reserved under that name, if any.
    pub fn take(&self, name: &str) -> Option<Reservation> {
        let mut reserved = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        reserved.remove(name)
    }

    /// Places memory for the workers of `lease`; the `rows` of each matrix are split among them by
    /// [`ROW_TILE`].
    ///
    /// # Errors
    /// As [`Lease::run`].
    pub fn place(
        lease: &Lease,
        mut reserved: Vec<(String, usize, Reservation)>,
    ) -> Result<Self, RegionError> {
        let groups = lease.groups().len();
        // Bytes, the number of equal stretches, and the granule by which stretches are split.
        let mut parts: Vec<(&mut [u8], usize, usize)> = Vec::new();
        for (_, rows, reserved) in &mut reserved {
            match reserved {
                // A stretch is a tile of rows.
                Reservation::Ternary(packer) => {
                    let (lines, scales) = packer.prepacked_mut();
                    let tiles = rows.div_ceil(ROW_TILE);
                    parts.extend([lines, scales].map(|bytes| (bytes, tiles, 1)));
                }
                Reservation::Dense(blocks) => parts.push((blocks.as_bytes_mut(), *rows, ROW_TILE)),
            }
        }
        let mut refused = Vec::new();
        for (bytes, stretches, granule) in parts {
            if bytes.is_empty() || lease.place_rows(bytes, stretches, granule) == groups {
                continue;
            }
            let stretch = bytes.len() / stretches;
            refused.push((PartitionedSlice::new(bytes, stretch), granule));
        }
        // Touching cannot interleave pages.
        if groups > 1 && !refused.is_empty() {
            touch(lease, &refused)?;
        }
        drop(refused);
        let named = reserved
            .into_iter()
            .map(|(name, _, reserved)| (name, reserved));
        Ok(Self(Mutex::new(named.collect())))
    }
}

/// Touches every page from a thread of the node whose workers read its rows.
fn touch(lease: &Lease, matrices: &[(PartitionedSlice<'_, u8>, usize)]) -> Result<(), RegionError> {
    lease.run(|worker| {
        for (matrix, granule) in matrices {
            let own = worker.split(matrix.rows(), *granule);
            let mut bytes = matrix.rows_mut(own.clone());
            for row in 0..own.len() {
                let row = bytes.row_mut(row);
                for byte in row.iter_mut().step_by(PAGE) {
                    *byte = 0;
                }
                if let Some(last) = row.last_mut() {
                    *last = 0;
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use ryz_format::DType;
    use ryz_kernels::Kernels;
    use ryz_numa::{LeaseOptions, Topology};
    use ryz_tmac::{Arena, ArenaConfig, BufferKind};

    use super::*;

    /// Ragged and tall matrices. A simulated machine refuses to bind, so every page is touched.
    #[test]
    fn what_was_reserved_is_there_and_untouched_in_value() {
        let arena = Arena::new(ArenaConfig::default());
        for (machine, threads) in [("numa:2 core:2 pu:1", 3), ("numa:4 core:1 pu:1", 4)] {
            let options = LeaseOptions {
                threads: Some(threads),
                ..LeaseOptions::default()
            };
            let lease = Lease::on(Topology::synthetic(machine).unwrap(), options).unwrap();
            assert_eq!(lease.memory_nodes().len(), lease.groups().len());
            let mut reserved = Vec::new();
            for rows in [1, 16, 17, 1000] {
                let (dtype, cols) = (DType::TQ2_0, 512);
                let kernels = Kernels::default();
                let packer = TernaryPacker::new("w", dtype, rows, cols, kernels, &arena).unwrap();
                reserved.push((format!("t{rows}"), rows, Reservation::Ternary(packer)));
                let blocks = arena
                    .allocate(rows * cols * 4, BufferKind::Weights)
                    .unwrap();
                reserved.push((format!("d{rows}"), rows, Reservation::Dense(blocks)));
            }
            let reservations = Reservations::place(&lease, reserved).unwrap();
            for rows in [1, 16, 17, 1000] {
                let Some(Reservation::Ternary(mut packer)) = reservations.take(&format!("t{rows}"))
                else {
                    panic!("t{rows} is not there");
                };
                let (lines, scales) = packer.prepacked_mut();
                assert!(lines.iter().chain(&*scales).all(|&byte| byte == 0));
                let Some(Reservation::Dense(blocks)) = reservations.take(&format!("d{rows}"))
                else {
                    panic!("d{rows} is not there");
                };
                assert!(blocks.as_bytes().iter().all(|&byte| byte == 0));
            }
            assert!(reservations.take("t1").is_none());
        }
    }
}
