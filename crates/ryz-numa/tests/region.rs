//! Regions: workers meet, leave early, panic, and are more than the cores.

// `allow-unwrap-in-tests` does not reach the helpers of a test.
#![allow(clippy::unwrap_used)]
// One group of workers is one range.
#![allow(clippy::single_range_in_vec_init)]

use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
};

use ryz_numa::{
    CpuBudget, Lease, LeaseOptions, Numa, Pinning, Placement, RegionError, Topology, WorkQueue,
    execute_on_node,
};

/// More threads than any machine's cores are among these, so that parking is exercised.
const THREADS: [usize; 6] = [1, 2, 3, 4, 7, 64];

fn leases() -> impl Iterator<Item = Lease> {
    THREADS
        .into_iter()
        .map(|threads| Lease::new(threads, Pinning::Cores).unwrap())
}

/// Every worker runs, once.
fn assert_usable(lease: &Lease) {
    let ran = Mutex::new(Vec::new());
    lease
        .run(|worker| {
            worker.barrier().unwrap();
            ran.lock().unwrap().push((worker.index(), worker.count()));
        })
        .unwrap();
    let mut ran = ran.into_inner().unwrap();
    ran.sort_unstable();
    let expected: Vec<_> = (0..lease.threads())
        .map(|index| (index, lease.threads()))
        .collect();
    assert_eq!(ran, expected);
}

#[test]
fn every_worker_sees_what_the_others_wrote_before_the_barrier() {
    for lease in leases() {
        let cells: Vec<_> = (0..lease.threads()).map(|_| AtomicUsize::new(0)).collect();
        lease
            .run(|worker| {
                for round in 1..=50 {
                    cells[worker.index()].store(round, Relaxed);
                    worker.barrier().unwrap();
                    assert!(cells.iter().all(|cell| cell.load(Relaxed) == round));
                    worker.barrier().unwrap();
                }
            })
            .unwrap();
    }
}

#[test]
fn one_slow_worker_makes_the_others_park_and_wakes_them() {
    let lease = Lease::new(2, Pinning::Off).unwrap();
    let slow = AtomicUsize::new(0);
    lease
        .run(|worker| {
            for round in 0..20 {
                if worker.index() == round % 2 {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                    slow.fetch_add(1, Relaxed);
                }
                worker.barrier().unwrap();
                assert_eq!(slow.load(Relaxed), round + 1);
                worker.barrier().unwrap();
            }
        })
        .unwrap();
}

#[test]
fn a_panic_frees_the_others_and_leaves_the_pool_usable() {
    for lease in leases() {
        let last = lease.threads() - 1;
        let left_early = AtomicUsize::new(0);
        for barriers in [0, 1, 5] {
            left_early.store(0, Relaxed);
            let error = lease
                .run(|worker| {
                    for _ in 0..barriers {
                        worker.barrier().unwrap();
                    }
                    assert!(worker.index() != last, "on purpose");
                    while worker.barrier().is_ok() {}
                    left_early.fetch_add(1, Relaxed);
                })
                .unwrap_err();
            assert!(
                matches!(error, RegionError::WorkerPanicked { worker, ref message }
                    if worker == last && message == "on purpose"),
                "{error}"
            );
            assert_eq!(error.code(), "INTERNAL");
            assert_eq!(left_early.load(Relaxed), last);
        }
        assert_usable(&lease);
    }
}

#[test]
fn all_may_panic_at_once() {
    for lease in leases() {
        let error = lease
            .run(|worker| panic!("worker {}", worker.index()))
            .unwrap_err();
        let RegionError::WorkerPanicked { worker, message } = error else {
            panic!("{error}");
        };
        assert_eq!(message, format!("worker {worker}"));
        assert_usable(&lease);
    }
}

#[test]
fn a_payload_that_is_no_text_is_a_panic_all_the_same() {
    for lease in leases() {
        let error = lease.run(|_| std::panic::panic_any(7)).unwrap_err();
        assert!(
            matches!(error, RegionError::WorkerPanicked { ref message, .. } if message.is_empty())
        );
    }
}

#[test]
fn whoever_stops_the_region_lets_all_go_without_a_fault() {
    for lease in leases() {
        let cancel = AtomicBool::new(false);
        let poisoned = AtomicUsize::new(0);
        lease
            .run(|worker| {
                for round in 0.. {
                    if worker.index() == 0 && round == 10 {
                        cancel.store(true, Relaxed);
                    }
                    // The others see it now, a round later, or at the barrier.
                    if cancel.load(Relaxed) {
                        return worker.stop();
                    }
                    if worker.barrier().is_err() {
                        poisoned.fetch_add(1, Relaxed);
                        return;
                    }
                }
            })
            .unwrap();
        assert!(poisoned.into_inner() < lease.threads());
        assert_usable(&lease);
    }
}

#[test]
fn a_worker_that_leaves_does_not_hang_those_who_wait() {
    for lease in leases().filter(|lease| lease.threads() > 1) {
        for barriers in [0, 1, 4] {
            let error = lease
                .run(|worker| {
                    for _ in 0..barriers {
                        worker.barrier().unwrap();
                    }
                    if worker.index() != 0 {
                        assert!(worker.barrier().is_err());
                        assert!(worker.barrier().is_err(), "a region that ended stays ended");
                    }
                })
                .unwrap_err();
            assert!(matches!(error, RegionError::UnevenBarriers), "{error}");
        }
        assert_usable(&lease);
    }
}

/// The last barrier is left at different times: who is slow there must not be told that the fast one deserted.
#[test]
fn leaving_after_the_last_barrier_is_no_desertion() {
    for lease in leases() {
        for _ in 0..if lease.threads() > 8 { 20 } else { 500 } {
            lease
                .run(|worker| {
                    worker.barrier().unwrap();
                    worker.barrier().unwrap();
                })
                .unwrap();
        }
    }
}

#[test]
fn regions_of_several_owners_do_not_interleave() {
    let inside = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let lease = Lease::new(3, Pinning::Off).unwrap();
                for _ in 0..50 {
                    lease
                        .run(|worker| {
                            if worker.index() == 0 {
                                assert_eq!(
                                    inside.fetch_add(1, Relaxed),
                                    0,
                                    "two regions on one pool"
                                );
                            }
                            (0..5).for_each(|_| worker.barrier().unwrap());
                            if worker.index() == 0 {
                                inside.fetch_sub(1, Relaxed);
                            }
                        })
                        .unwrap();
                }
            });
        }
    });
}

#[test]
fn pools_of_different_sizes_run_side_by_side() {
    std::thread::scope(|scope| {
        for threads in [1, 2, 3, 5] {
            scope.spawn(move || {
                let lease = Lease::new(threads, Pinning::Cores).unwrap();
                for _ in 0..30 {
                    lease
                        .run(|worker| (0..5).for_each(|_| worker.barrier().unwrap()))
                        .unwrap();
                }
            });
        }
    });
}

#[test]
fn a_region_within_a_region_is_refused_and_does_not_wait_for_itself() {
    let (outer, other) = (
        Lease::new(2, Pinning::Off).unwrap(),
        Lease::new(3, Pinning::Off).unwrap(),
    );
    let alone = Lease::new(1, Pinning::Off).unwrap();
    outer
        .run(|worker| {
            for inner in [&outer, &other] {
                assert!(matches!(inner.run(|_| ()), Err(RegionError::Nested)));
            }
            alone.run(|_| ()).unwrap();
            worker.barrier().unwrap();
        })
        .unwrap();
}

#[test]
fn sizes_that_come_and_go_do_not_pile_up_threads() {
    let kept = Lease::new(6, Pinning::Off).unwrap();
    for threads in 8..40 {
        assert_usable(&Lease::new(threads, Pinning::Off).unwrap());
    }
    assert_usable(&kept);
    #[cfg(target_os = "linux")]
    {
        // Threads of ended pools leave by themselves, a little later; Σ 8..40 = 752 would stay otherwise.
        let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
        for _ in 0..1000 {
            if threads() < 350 {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("{} threads are left", threads());
    }
}

#[test]
fn impossible_thread_counts_are_typed_errors() {
    for threads in [0, 1025, usize::MAX] {
        let error = Lease::new(threads, Pinning::Cores).unwrap_err();
        assert_eq!(error.code(), "INVALID_ARGUMENT");
        assert_eq!(
            error.to_string(),
            format!("threads: expected 1 to 1024, got {threads}")
        );
    }
}

#[test]
fn placement_says_where_and_why() {
    let placement = |threads, pinning| Lease::new(threads, pinning).unwrap().placement().word();
    assert_eq!(placement(1, Pinning::Cores), "caller");
    assert_eq!(placement(2, Pinning::Off), "off");
    let units = CpuBudget::detect().units;
    assert_eq!(placement(units + 1, Pinning::Cores), "oversubscribed");
}

/// What is matched on, as a word.
trait Word {
    fn word(&self) -> &'static str;
}

impl Word for Placement {
    fn word(&self) -> &'static str {
        match self {
            Self::Bound { .. } => "bound",
            Self::Caller => "caller",
            Self::Off => "off",
            Self::Oversubscribed { .. } => "oversubscribed",
            _ => "other",
        }
    }
}

/// On this machine, not on a made-up one: the system is asked where each worker may run.
#[cfg(target_os = "linux")]
#[test]
fn bound_workers_are_where_the_placement_says() {
    let units = CpuBudget::detect().units;
    if units < 2 {
        eprintln!("SKIPPED: one processing unit, so there is nothing to bind");
        return;
    }
    let lease = Lease::new(2, Pinning::Cores).unwrap();
    let Placement::Bound { spots } = lease.placement() else {
        panic!("{:?}", lease.placement());
    };
    assert_ne!(spots[0].units, spots[1].units);
    lease
        .run(|worker| assert_eq!(own_units(), spots[worker.index()].units))
        .unwrap();
}

/// The processing units on which the calling thread may run, as the system lists them: `0-2,5`.
#[cfg(target_os = "linux")]
fn own_units() -> Vec<usize> {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let allowed = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let ranges = allowed.unwrap().trim().split(',').map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        first.parse::<usize>().unwrap()..=last.parse().unwrap()
    });
    ranges.flatten().collect()
}

#[cfg(target_os = "linux")]
#[test]
fn a_task_runs_on_the_node_that_was_asked_for() {
    let machine = Topology::detect().unwrap();
    for &node in machine.nodes() {
        let (units, name) = execute_on_node(node, || {
            (
                own_units(),
                std::thread::current().name().map(str::to_owned),
            )
        })
        .unwrap();
        assert_eq!(units, machine.units_of(node));
        assert!(name.unwrap().starts_with("ryzanstein-"));
    }
}

#[test]
fn tasks_fail_by_type() {
    let machine = Topology::detect().unwrap();
    let node = machine.nodes()[0];
    let error = execute_on_node(usize::MAX, || ()).unwrap_err();
    assert_eq!(error.code(), "INVALID_ARGUMENT");
    assert_eq!(
        error.to_string(),
        format!(
            "node: expected one of {:?}, got {}",
            machine.nodes(),
            usize::MAX
        )
    );
    let error = execute_on_node(node, || -> usize { panic!("on purpose") }).unwrap_err();
    assert!(
        matches!(error, RegionError::WorkerPanicked { ref message, .. } if message == "on purpose")
    );
    assert!(matches!(
        execute_on_node(node, || execute_on_node(node, || ())),
        Ok(Err(RegionError::Nested))
    ));
    assert_eq!(execute_on_node(node, || 7).unwrap(), 7);
}

/// Leases on machines of several nodes, whose threads this machine runs as it likes.
fn made_up(machine: &str, threads: usize, options: LeaseOptions) -> Lease {
    let machine = Topology::synthetic(machine).unwrap();
    let threads = Some(threads);
    Lease::on(machine, LeaseOptions { threads, ..options }).unwrap()
}

#[test]
fn a_region_covers_the_pools_of_all_nodes() {
    for (machine, threads, groups) in [
        ("numa:2 core:2 pu:1", 4, vec![0..2, 2..4]),
        ("numa:4 core:2 pu:1", 7, vec![0..2, 2..4, 4..6, 6..7]),
        ("numa:2 core:4 pu:1", 3, vec![0..3]),
        ("numa:1 core:4 pu:1", 4, vec![0..4]),
    ] {
        let lease = made_up(machine, threads, LeaseOptions::default());
        assert_eq!(lease.groups(), groups);
        let nodes: Vec<_> = (0..groups.len()).collect();
        let bound: &[usize] = if nodes.len() > 1 { &nodes } else { &[] };
        assert_eq!(lease.memory_nodes(), bound);
        for _ in 0..20 {
            assert_usable(&lease);
        }
        let cells: Vec<_> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
        lease
            .run(|worker| {
                for round in 1..=20 {
                    cells[worker.index()].store(round, Relaxed);
                    worker.barrier().unwrap();
                    assert!(cells.iter().all(|cell| cell.load(Relaxed) == round));
                    worker.barrier().unwrap();
                }
            })
            .unwrap();
        let error = lease.run(|worker| {
            assert!(worker.index() != 0, "on purpose");
            while worker.barrier().is_ok() {}
        });
        assert!(matches!(
            error,
            Err(RegionError::WorkerPanicked { worker: 0, .. })
        ));
        assert_usable(&lease);
    }
}

#[test]
fn the_rows_of_a_group_are_those_its_workers_compute() {
    let lease = made_up("numa:4 core:2 pu:1", 7, LeaseOptions::default());
    for rows in [0, 1, 15, 16, 100, 2560] {
        let mut next = 0;
        for group in lease.groups() {
            let own = lease.rows_of(&group, rows, 16);
            assert_eq!(own.start, next);
            next = own.end;
            let shares = group.map(|worker| ryz_numa::split(rows, 16, worker, 7));
            assert_eq!(shares.map(|share| share.len()).sum::<usize>(), own.len());
        }
        assert_eq!(next, rows);
    }
}

#[test]
fn options_choose_what_is_done_about_nodes() {
    let numa = |numa| LeaseOptions {
        numa,
        ..LeaseOptions::default()
    };
    let machine = "numa:2 core:2 pu:1";
    let by_turns = made_up(machine, 4, numa(Numa::Interleave));
    assert_eq!(
        (by_turns.groups(), by_turns.memory_nodes()),
        (vec![0..4], &[0, 1][..])
    );
    let off = made_up(machine, 4, numa(Numa::Off));
    assert_eq!((off.groups(), off.memory_nodes()), (vec![0..4], &[][..]));
    let floating = LeaseOptions {
        pinning: Pinning::Off,
        ..LeaseOptions::default()
    };
    assert!(made_up(machine, 4, floating).memory_nodes().is_empty());
    let node = Some(1);
    let options = LeaseOptions {
        node,
        ..LeaseOptions::default()
    };
    let one = made_up(machine, 1, options);
    let Placement::Bound { spots } = one.placement() else {
        panic!("{:?}", one.placement());
    };
    assert_eq!((spots.len(), spots[0].node), (1, 1));
    for lease in [by_turns, off, one] {
        assert_usable(&lease);
        // A machine that is not this one gets no memory.
        assert_eq!(lease.place_rows(&vec![0; 1 << 20], 1 << 10, 16), 0);
    }
}

#[test]
fn threads_by_default_are_the_fast_cores_within_the_quota() {
    let lease = Lease::with(LeaseOptions::default()).unwrap();
    assert_eq!(lease.threads(), ryz_numa::default_threads());
    assert_usable(&lease);
}

#[test]
fn a_queue_gives_every_item_to_one_worker() {
    for lease in leases() {
        let queue = WorkQueue::new();
        let items: Vec<_> = (0..1001).map(|_| AtomicUsize::new(0)).collect();
        lease
            .run(|worker| {
                for _ in 0..3 {
                    while let Some(chunk) = queue.next(items.len(), 7) {
                        for item in chunk.range() {
                            items[item].fetch_add(1, Relaxed);
                        }
                    }
                    worker.barrier().unwrap();
                    if worker.index() == 0 {
                        queue.reset();
                    }
                    worker.barrier().unwrap();
                }
            })
            .unwrap();
        assert!(items.iter().all(|item| item.load(Relaxed) == 3));
    }
}
