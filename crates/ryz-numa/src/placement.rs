//! Where the threads of a lease run, and where its weights should lie.

use std::{cmp::Reverse, collections::HashMap};

use crate::{Core, CpuBudget, RegionError, Topology, TopologyError};

/// What threads are bound to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Pinning {
    /// Each to a processing unit of its own (the default).
    #[default]
    Cores,
    /// Each to all processing units of its memory node: for machines that other programs use too.
    Nodes,
    /// Nothing: the system places threads, and memory is not bound either.
    Off,
}

/// What is done about memory that is nearer to some processors than to others. On a machine with one memory node, each
/// choice is the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Numa {
    /// Rows of weights lie on the node whose threads read them (the default).
    #[default]
    Auto,
    /// Pages of weights lie on all nodes by turns.
    Interleave,
    /// Nothing.
    Off,
}

/// A worker's place.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerPlace {
    /// Operating-system indices of the processing units on which it may run.
    pub units: Vec<usize>,
    /// Operating-system index of the nearest memory node.
    pub node: usize,
}

/// Where the threads of a lease run.
#[derive(Debug)]
#[non_exhaustive]
pub enum Placement {
    /// Each is bound to processing units (where the system permits it: one that floats is slower, not wrong).
    Bound {
        /// By worker. Workers of a node follow one another, in ascending order of nodes.
        spots: Vec<WorkerPlace>,
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

/// What a lease is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LeaseOptions {
    /// Threads; by default one for each core (each fast one, where cores differ) within the CPU quota.
    pub threads: Option<usize>,
    /// What they are bound to; by default processing units.
    pub pinning: Pinning,
    /// What is done about memory nodes; by default weights lie near the threads that read them.
    pub numa: Numa,
    /// The only memory node whose cores are used, by its operating-system index; by default all are.
    pub node: Option<usize>,
}

/// Decides where `threads` threads run.
pub(crate) fn place(
    threads: usize,
    options: &LeaseOptions,
    topology: Option<&Topology>,
    budget: CpuBudget,
) -> Placement {
    match (options.pinning, topology, budget.fallback) {
        (Pinning::Off, ..) if options.node.is_none() => Placement::Off,
        (.., Some(reason)) => Placement::NoTopology { reason },
        (pinning, Some(topology), None) => {
            let spots = choose(topology, threads, pinning, options.node);
            if spots.len() < threads {
                return Placement::Oversubscribed { units: spots.len() };
            }
            Placement::Bound { spots }
        }
        (_, None, None) => Placement::Oversubscribed {
            units: budget.units,
        },
    }
}

/// The threads to use when nobody says, on all of the machine or on one node of it.
pub(crate) fn default_threads(
    topology: Option<&Topology>,
    budget: &CpuBudget,
    node: Option<usize>,
) -> usize {
    match (topology, node) {
        (Some(topology), Some(node)) => {
            let here = topology.cores().iter().filter(|core| core.node == node);
            budget.within_quota(shared_out(here))
        }
        _ => budget.default_threads(),
    }
}

/// The cores among these that a step is shared out to: the fast ones, if there are any.
pub(crate) fn shared_out<'c>(cores: impl Iterator<Item = &'c Core>) -> usize {
    let (fast, slow): (Vec<_>, Vec<_>) = cores.partition(|core| core.is_fast);
    if fast.is_empty() {
        slow.len()
    } else {
        fast.len()
    }
}

/// Refuses a node that is not one of the machine's.
pub(crate) fn check_node(
    topology: Option<&Topology>,
    node: Option<usize>,
) -> Result<(), RegionError> {
    let nodes = topology.map_or(&[0][..], Topology::nodes);
    match node {
        Some(got) if !nodes.contains(&got) => Err(RegionError::UnknownNode {
            nodes: nodes.to_vec(),
            got,
        }),
        _ => Ok(()),
    }
}

/// Some unit of some core.
struct Slot {
    /// Index of the core.
    core: usize,
    node: usize,
    /// Which of the core's units, and whether the core is slow: fast cores come before slow ones, and both before second
    /// units, which share what the first compute with.
    tier: (usize, bool),
    /// Its place among slots like it.
    rank: usize,
}

/// The places of `threads` workers, fewer when there are no more units.
///
/// They are on the fewest nodes whose fast cores are enough, because a barrier within a node is cheaper and its memory all
/// near; shared out equally to those nodes, and on each to its third-level caches, because each has a bandwidth of its own.
fn choose(
    topology: &Topology,
    threads: usize,
    pinning: Pinning,
    only: Option<usize>,
) -> Vec<WorkerPlace> {
    let cores = topology.cores();
    let nodes = choose_nodes(topology, threads, only);
    let mut slots = Vec::new();
    let mut like_it = HashMap::new();
    for (index, core) in cores.iter().enumerate() {
        if !nodes.contains(&core.node) {
            continue;
        }
        for turn in 0..core.units.len() {
            let tier = (turn, !core.is_fast);
            // First its place among those of its cache.
            let rank = like_it.entry((core.node, core.l3, tier)).or_insert(0);
            slots.push(Slot {
                core: index,
                node: core.node,
                tier,
                rank: *rank,
            });
            *rank += 1;
        }
    }
    // Then its place among those of its node, where the caches take turns.
    slots.sort_by_key(|slot| (slot.node, slot.tier, slot.rank, slot.core));
    for here in slots.chunk_by_mut(|a, b| (a.node, a.tier) == (b.node, b.tier)) {
        for (rank, slot) in here.iter_mut().enumerate() {
            slot.rank = rank;
        }
    }
    // At last the nodes take turns.
    slots.sort_by_key(|slot| (slot.tier, slot.rank, slot.node));
    slots.truncate(threads);
    slots.sort_by_key(|slot| (slot.node, slot.core, slot.tier));
    let spots = slots.iter().map(|slot| WorkerPlace {
        units: match pinning {
            Pinning::Cores => vec![cores[slot.core].units[slot.tier.0]],
            Pinning::Nodes | Pinning::Off => topology.units_of(slot.node),
        },
        node: slot.node,
    });
    spots.collect()
}

/// The fewest nodes whose fast cores are enough for `threads`, else all.
fn choose_nodes(topology: &Topology, threads: usize, only: Option<usize>) -> Vec<usize> {
    if let Some(node) = only {
        return vec![node];
    }
    let fast_on = |node: &usize| {
        let cores = topology.cores().iter();
        cores
            .filter(|core| core.node == *node && core.is_fast)
            .count()
    };
    let mut nodes = topology.nodes().to_vec();
    nodes.sort_by_key(|node| Reverse(fast_on(node)));
    let mut enough = 0;
    let count = nodes.iter().position(|node| {
        enough += fast_on(node);
        enough >= threads
    });
    nodes.truncate(count.map_or(nodes.len(), |last| last + 1));
    nodes.sort_unstable();
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::tests::{
        four_nodes, hybrid, restricted, restricted_eight_nodes, two_kinds_of_memory, two_nodes_smt,
    };

    fn placed_on(machine: &Topology, threads: usize, options: LeaseOptions) -> Placement {
        place(
            threads,
            &options,
            Some(machine),
            CpuBudget::of(machine, None),
        )
    }

    fn spots(machine: &Topology, threads: usize, options: LeaseOptions) -> Vec<WorkerPlace> {
        match placed_on(machine, threads, options) {
            Placement::Bound { spots } => spots,
            other => panic!("{threads} threads are not bound: {other:?}"),
        }
    }

    fn units(machine: &Topology, threads: usize) -> Vec<usize> {
        let spots = spots(machine, threads, LeaseOptions::default());
        spots.into_iter().flat_map(|spot| spot.units).collect()
    }

    /// Threads on each node, in the order of workers.
    fn by_node(machine: &Topology, threads: usize) -> Vec<(usize, usize)> {
        let spots = spots(machine, threads, LeaseOptions::default());
        let nodes = spots.chunk_by(|a, b| a.node == b.node);
        nodes.map(|spots| (spots[0].node, spots.len())).collect()
    }

    #[test]
    fn threads_take_cores_then_siblings() {
        let machine = Topology::synthetic("numa:2 core:2 pu:2").unwrap();
        assert_eq!(units(&machine, 2), [0, 2]);
        assert_eq!(units(&machine, 4), [0, 2, 4, 6]);
        assert_eq!(units(&machine, 5), [0, 1, 2, 4, 6]);
        assert_eq!(units(&machine, 8), [0, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn workers_of_a_node_follow_one_another_in_equal_numbers() {
        let machine = two_nodes_smt();
        assert_eq!(by_node(&machine, 8), [(0, 8)]);
        assert_eq!(by_node(&machine, 9), [(0, 5), (1, 4)]);
        assert_eq!(by_node(&machine, 16), [(0, 8), (1, 8)]);
        assert_eq!(by_node(&machine, 32), [(0, 16), (1, 16)]);
        let all: std::collections::HashSet<_> = units(&machine, 32).into_iter().collect();
        assert_eq!(all.len(), 32);
    }

    #[test]
    fn four_nodes_are_filled_as_they_are_needed() {
        let machine = four_nodes();
        assert_eq!(by_node(&machine, 7), [(0, 7)]);
        assert_eq!(by_node(&machine, 8), [(0, 4), (1, 4)]);
        assert_eq!(by_node(&machine, 21), [(0, 7), (1, 7), (2, 7)]);
        assert_eq!(by_node(&machine, 28), [(0, 7), (1, 7), (2, 7), (3, 7)]);
        let machine = Topology::synthetic("numa:4 core:4 pu:2").unwrap();
        assert_eq!(by_node(&machine, 10), [(0, 4), (1, 3), (2, 3)]);
    }

    #[test]
    fn caches_are_shared_out_equally() {
        let machine = Topology::synthetic("numa:1 l3:4 core:4 pu:1").unwrap();
        assert_eq!(units(&machine, 4), [0, 4, 8, 12]);
        assert_eq!(units(&machine, 6), [0, 1, 4, 5, 8, 12]);
    }

    #[test]
    fn slow_cores_come_after_fast_ones_and_before_siblings() {
        for core_types in [["little", "big"], ["IntelAtom", "IntelCore"]] {
            let machine = hybrid(core_types);
            let budget = CpuBudget::of(&machine, None);
            assert_eq!(default_threads(Some(&machine), &budget, None), 4);
            assert_eq!(units(&machine, 4), [0, 2, 4, 6]);
            assert_eq!(units(&machine, 6), [0, 2, 4, 6, 8, 10]);
            assert_eq!(units(&machine, 9), [0, 1, 2, 4, 6, 8, 10, 12, 14]);
        }
    }

    #[test]
    fn a_cpuset_is_obeyed() {
        let machine = restricted("numa:2 core:2 pu:2", &[1, 2, 6]);
        assert_eq!(units(&machine, 3), [1, 2, 6]);
        let machine = restricted_eight_nodes();
        assert_eq!(by_node(&machine, 10), [(1, 8), (2, 1), (3, 1)]);
    }

    #[test]
    fn plain_memory_is_near_every_thread() {
        let machine = two_kinds_of_memory();
        let cores = machine.cores().len();
        assert_eq!(by_node(&machine, cores).len(), 4);
    }

    #[test]
    fn one_node_may_be_asked_for() {
        let machine = two_nodes_smt();
        let options = LeaseOptions {
            node: Some(1),
            ..LeaseOptions::default()
        };
        let budget = CpuBudget::of(&machine, None);
        assert_eq!(default_threads(Some(&machine), &budget, Some(1)), 8);
        let spots = spots(&machine, 8, options);
        assert!(spots.iter().all(|spot| spot.node == 1));
        assert!(matches!(
            placed_on(&machine, 17, options),
            Placement::Oversubscribed { units: 16 }
        ));
        assert!(check_node(Some(&machine), Some(1)).is_ok());
        let error = check_node(Some(&machine), Some(2)).unwrap_err();
        assert_eq!(error.to_string(), "node: expected one of [0, 1], got 2");
        assert_eq!(error.code(), "INVALID_ARGUMENT");
    }

    #[test]
    fn threads_of_a_node_may_share_its_units() {
        let machine = Topology::synthetic("numa:2 core:2 pu:1").unwrap();
        let options = LeaseOptions {
            pinning: Pinning::Nodes,
            ..LeaseOptions::default()
        };
        let units: Vec<_> = spots(&machine, 3, options)
            .into_iter()
            .map(|spot| spot.units)
            .collect();
        assert_eq!(units, [[0, 1], [0, 1], [2, 3]]);
    }

    #[test]
    fn more_threads_than_units_float() {
        let options = LeaseOptions::default();
        for (machine, threads, units) in [("numa:2 core:2 pu:2", 9, 8), ("core:1 pu:1", 2, 1)] {
            let machine = Topology::synthetic(machine).unwrap();
            let Placement::Oversubscribed { units: got } = placed_on(&machine, threads, options)
            else {
                panic!("{threads} threads are bound");
            };
            assert_eq!(got, units);
        }
    }

    #[test]
    fn pinning_off_is_obeyed() {
        let machine = Topology::synthetic("core:4 pu:1").unwrap();
        let options = LeaseOptions {
            pinning: Pinning::Off,
            ..LeaseOptions::default()
        };
        assert!(matches!(placed_on(&machine, 2, options), Placement::Off));
    }

    #[test]
    fn an_unreadable_machine_gives_its_reason() {
        let broken = TopologyError::Panicked {
            message: "on purpose".to_owned(),
        };
        let budget = CpuBudget::without_topology(broken, 8, None);
        let placement = place(2, &LeaseOptions::default(), None, budget);
        let Placement::NoTopology { reason } = placement else {
            panic!("{placement:?}");
        };
        assert_eq!(reason.code(), "INTERNAL");
        assert!(reason.to_string().contains("on purpose"));
    }
}
