//! Where the threads of a pool run.

use crate::{CpuBudget, Topology, TopologyError};

/// Whether threads are bound to processing units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Pinning {
    /// One thread on each core, then on its siblings (the default).
    #[default]
    Cores,
    /// The system places threads.
    Off,
}

/// Where the threads of a lease run.
#[derive(Debug)]
#[non_exhaustive]
pub enum Placement {
    /// Each is bound to one processing unit (where the system permits it: one that floats is slower, not wrong).
    Bound {
        /// Operating-system indices of the units, by worker.
        units: Vec<usize>,
    },
    /// The only worker is the thread that runs the region.
    Caller,
    /// The system places them, as was asked.
    Off,
    /// The system places them: there are more than processing units.
    Oversubscribed {
        /// Processing units that this process may use.
        units: usize,
    },
    /// The system places them: the machine's topology could not be read.
    NoTopology {
        /// Why.
        reason: TopologyError,
    },
}

/// Decides where `threads` threads run.
pub(crate) fn place(
    threads: usize,
    pinning: Pinning,
    topology: Option<&Topology>,
    budget: CpuBudget,
) -> Placement {
    let units = budget.units;
    match (pinning, topology, budget.fallback) {
        (Pinning::Off, ..) => Placement::Off,
        (Pinning::Cores, _, Some(reason)) => Placement::NoTopology { reason },
        (Pinning::Cores, Some(topology), None) if threads <= units => Placement::Bound {
            units: topology.units().take(threads).collect(),
        },
        (Pinning::Cores, ..) => Placement::Oversubscribed { units },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(threads: usize, pinning: Pinning, description: &str) -> Placement {
        let machine = Topology::synthetic(description).unwrap();
        let budget = CpuBudget::of(&machine, None);
        place(threads, pinning, Some(&machine), budget)
    }

    #[test]
    fn threads_take_cores_then_siblings() {
        let machine = "numa:2 core:2 pu:2";
        for (threads, expected) in [
            (2, vec![0, 2]),
            (4, vec![0, 2, 4, 6]),
            (5, vec![0, 2, 4, 6, 1]),
        ] {
            let Placement::Bound { units } = placed(threads, Pinning::Cores, machine) else {
                panic!("{threads} threads are not bound");
            };
            assert_eq!(units, expected);
        }
    }

    #[test]
    fn more_threads_than_units_float() {
        assert!(matches!(
            placed(9, Pinning::Cores, "numa:2 core:2 pu:2"),
            Placement::Oversubscribed { units: 8 }
        ));
        assert!(matches!(
            placed(2, Pinning::Cores, "core:1 pu:1"),
            Placement::Oversubscribed { units: 1 }
        ));
    }

    #[test]
    fn pinning_off_is_obeyed() {
        assert!(matches!(
            placed(2, Pinning::Off, "core:4 pu:1"),
            Placement::Off
        ));
    }

    #[test]
    fn an_unreadable_machine_gives_its_reason() {
        let broken = TopologyError::Panicked {
            message: "on purpose".to_owned(),
        };
        let budget = CpuBudget::without_topology(broken, 8, None);
        let placement = place(2, Pinning::Cores, None, budget);
        let Placement::NoTopology { reason } = placement else {
            panic!("{placement:?}");
        };
        assert_eq!(reason.code(), "INTERNAL");
        assert!(reason.to_string().contains("on purpose"));
    }
}
