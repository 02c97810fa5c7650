//! Where a lease's threads run, and where its weights should reside.

use std::{cmp::Reverse, collections::HashMap};

use crate::{Core, CpuBudget, RegionError, Topology, TopologyError};

/// How threads are bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Pinning {
    /// Each to its own processing unit (the default).
    #[default]
    Cores,
    /// Each to all processing units of its memory node, for machines that other programs also use.
    Nodes,
    /// Not at all: the system places threads, and memory is not bound either.
    Off,
}

/// Placement of weights on NUMA machines. With one memory node, all choices are equivalent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Numa {
    /// Place rows of weights on the node whose threads read them (the default).
    #[default]
    Auto,
    /// Interleave pages of weights over all nodes.
    Interleave,
    /// Do not place weights.
    Off,
}

/// A worker's place.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerPlace {
    /// Operating-system indices of the processing units on which it can run.
    pub units: Vec<usize>,
    /// Operating-system index of the nearest memory node.
    pub node: usize,
}

/// Where a lease's threads run.
#[derive(Debug)]
#[non_exhaustive]
pub enum Placement {
    /// Each is bound to processing units, where the system permits it. An unbound thread is slower
    /// but correct.
    Bound {
        /// One entry per worker. Workers of a node are consecutive, in ascending order of nodes.
        spots: Vec<WorkerPlace>,
    },
    /// The only worker is the thread that runs the region.
    Caller,
    /// The system places them, as requested.
    Off,
    /// The system places them because there are more threads than processing units.
    Oversubscribed {
        /// Processing units available to this process.
        units: usize,
    },
    /// The system places them because the topology could not be read.
    NoTopology {
        /// The reason.
        reason: TopologyError,
    },
}

/// Options of a lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LeaseOptions {
    /// Number of threads; default one per core (per fast core, if cores differ) within the CPU
    /// quota.
    pub threads: Option<usize>,
    /// Thread binding; default processing units.
    pub pinning: Pinning,
    /// Placement of weights; default near the threads that read them.
    pub numa: Numa,
    /// Operating-system index of the only memory node to use; default all nodes.
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

/// The default number of threads, on the whole machine or on one node.
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

/// Of these cores, the ones that share a step: the fast ones, if any.
pub(crate) fn shared_out<'c>(cores: impl Iterator<Item = &'c Core>) -> usize {
    let (fast, slow): (Vec<_>, Vec<_>) = cores.partition(|core| core.is_fast);
    if fast.is_empty() {
        slow.len()
    } else {
        fast.len()
    }
}

/// Rejects a node that the machine does not have.
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

/// A processing unit of a core.
struct Slot {
    /// Index of the core.
    core: usize,
    node: usize,
    /// Which of the core's units it is, and whether the core is slow. Fast cores come before slow
    /// ones, and both before second units, which share their core's execution resources.
    tier: (usize, bool),
    /// Its rank among equivalent slots.
    rank: usize,
}

/// The places of `threads` workers; fewer if there are not enough units.
///
/// They use the fewest nodes with enough fast cores, because a barrier within a node is cheaper and
/// its memory is local. They are distributed evenly over those nodes, and on each node over its L3
/// caches, because each cache has its own bandwidth.
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
            // First, the rank within its cache.
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
    // Then the rank within its node, alternating between caches.
    slots.sort_by_key(|slot| (slot.node, slot.tier, slot.rank, slot.core));
    for here in slots.chunk_by_mut(|a, b| (a.node, a.tier) == (b.node, b.tier)) {
        for (rank, slot) in here.iter_mut().enumerate() {
            slot.rank = rank;
        }
    }
    // Finally, alternate between nodes.
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

/// The fewest nodes with enough fast cores for `threads`, else all.
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
