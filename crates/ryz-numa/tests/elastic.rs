//! Elastic regions: whoever is there does all of the work, once.

// `allow-unwrap-in-tests` does not reach the helpers of a test.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::sync::{
    Barrier, Mutex,
    atomic::{
        AtomicBool, AtomicUsize,
        Ordering::{Relaxed, SeqCst},
    },
};

use ryz_numa::{
    Chunks, Lease, LeaseOptions, PartitionedSlice, Pinning, RegionError, Topology, execute_on_node,
};

/// One worker, several, more than there are cores, and several pools.
fn leases() -> impl Iterator<Item = Lease> {
    let made_up = |machine: &str, threads| {
        let options = LeaseOptions {
            threads: Some(threads),
            ..LeaseOptions::default()
        };
        Lease::on(Topology::synthetic(machine).unwrap(), options).unwrap()
    };
    [1, 2, 3, 7, 64]
        .map(|threads| Lease::new(threads, Pinning::Cores).unwrap())
        .into_iter()
        .chain([
            made_up("numa:2 core:2 pu:1", 4),
            made_up("numa:4 core:2 pu:1", 7),
        ])
}

/// Each item is done once in each phase, and a phase sees what those before it wrote.
fn assert_usable(lease: &Lease) {
    let mut items = vec![0usize; 1003];
    let shared = PartitionedSlice::new(&mut items, 1);
    let total = AtomicUsize::new(0);
    let granules = [1, 16, 256, 5000].map(Chunks::of);
    let bounded = [(7, 50, 100), (1, 1, 3), (16, 3000, usize::MAX), (32, 1, 8)];
    let bounded = bounded.map(|(granule, least, most)| Chunks {
        granule,
        least,
        most,
    });
    lease
        .run_elastic(|worker| {
            for (phase, chunks) in granules.into_iter().chain(bounded).enumerate() {
                let ended = worker
                    .share(1003, chunks, |rows| {
                        assert!(rows.start.is_multiple_of(chunks.granule) && rows.end <= 1003);
                        let mut part = shared.rows_mut(rows.clone());
                        for row in 0..rows.len() {
                            part.row_mut(row)[0] += 1;
                        }
                    })
                    .and_then(|()| worker.barrier())
                    .and_then(|()| {
                        worker.share(1, Chunks::of(1), |_| {
                            assert!(shared.read().iter().all(|&count| count == phase + 1));
                            total.fetch_add(1, Relaxed);
                        })
                    })
                    .and_then(|()| worker.share(0, Chunks::of(1), |_| unreachable!("no items")))
                    .and_then(|()| worker.barrier());
                if ended.is_err() {
                    return;
                }
            }
        })
        .unwrap();
    assert_eq!(total.into_inner(), 8);
    assert!(items.iter().all(|&count| count == 8));
}

#[test]
fn every_item_is_done_once_in_each_phase() {
    for lease in leases() {
        for _ in 0..20 {
            assert_usable(&lease);
        }
    }
}

#[test]
fn one_worker_leads() {
    for lease in leases() {
        let leaders = Mutex::new(Vec::new());
        lease
            .run_elastic(|worker| {
                if worker.leads() {
                    leaders.lock().unwrap().push(worker.index());
                }
            })
            .unwrap();
        let leaders = leaders.into_inner().unwrap();
        assert!(!leaders.is_empty() && leaders.iter().all(|&leader| leader == leaders[0]));
    }
}

/// The lease that [`execute_on_node`] takes a thread of.
fn lease_of_a_node() -> (usize, Option<Lease>) {
    let node = Topology::detect().unwrap().nodes()[0];
    let lease = Lease::with(LeaseOptions {
        pinning: Pinning::Nodes,
        node: Some(node),
        ..LeaseOptions::default()
    })
    .unwrap();
    if lease.threads() < 2 {
        eprintln!("SKIPPED: one thread, which cannot be both absent and there");
        return (node, None);
    }
    (node, Some(lease))
}

#[test]
fn a_worker_that_does_not_come_is_not_waited_for() {
    let (node, Some(lease)) = lease_of_a_node() else {
        return;
    };
    let (taken, over) = (Barrier::new(2), Barrier::new(2));
    let came = Mutex::new(vec![0; lease.threads()]);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            execute_on_node(node, || {
                taken.wait();
                over.wait();
            })
            .unwrap();
        });
        taken.wait();
        for _ in 0..10 {
            assert_usable(&lease);
            lease
                .run_elastic(|worker| came.lock().unwrap()[worker.index()] += 1)
                .unwrap();
        }
        over.wait();
    });
    // The thread finds closed regions now, and enters none of them.
    assert_usable(&lease);
    let came = came.into_inner().unwrap();
    assert!(came.contains(&0), "{came:?}");
    assert!(came.iter().sum::<usize>() >= 10, "{came:?}");
}

#[test]
fn a_panic_in_a_stolen_chunk_frees_the_others_and_leaves_the_pool_usable() {
    for lease in leases().filter(|lease| lease.threads() > 1) {
        let panics = AtomicBool::new(false);
        let error = lease
            .run_elastic(|worker| {
                let own = worker.split(1000, 1);
                let _ = worker
                    .share(1000, Chunks::of(1), |rows| {
                        if !own.contains(&rows.start) {
                            panics.store(true, SeqCst);
                            panic!("on purpose");
                        }
                        // Whoever it is, the first worker's share is not done before another one helps.
                        while worker.index() == 0 && !panics.load(SeqCst) {
                            std::thread::yield_now();
                        }
                    })
                    .and_then(|()| worker.barrier());
            })
            .unwrap_err();
        assert!(
            matches!(error, RegionError::WorkerPanicked { ref message, .. } if message == "on purpose"),
            "{error}"
        );
        assert_usable(&lease);
    }
}

#[test]
fn a_panic_outside_of_chunks_is_told_too() {
    for lease in leases() {
        let error = lease
            .run_elastic(|worker| {
                if worker.leads() {
                    panic!("on purpose");
                }
                let _ = worker.barrier();
            })
            .unwrap_err();
        assert!(
            matches!(error, RegionError::WorkerPanicked { .. }),
            "{error}"
        );
        assert_usable(&lease);
    }
}

#[test]
fn whoever_stops_the_region_lets_all_go_without_a_fault() {
    for lease in leases() {
        let (done, after) = (AtomicUsize::new(0), AtomicUsize::new(0));
        lease
            .run_elastic(|worker| {
                let ended = worker
                    .share(10_000, Chunks::of(1), |_| {
                        if done.fetch_add(1, Relaxed) == 0 {
                            worker.stop();
                        }
                    })
                    .and_then(|()| worker.barrier())
                    .and_then(|()| worker.share(1, Chunks::of(1), |_| ()));
                if ended.is_ok() {
                    after.fetch_add(1, Relaxed);
                }
            })
            .unwrap();
        assert_eq!(after.into_inner(), 0);
        assert_usable(&lease);
    }
}

#[test]
fn phases_do_not_nest_and_regions_neither() {
    let lease = Lease::new(2, Pinning::Off).unwrap();
    let nested = lease.run_elastic(|worker| {
        let _ = worker.share(8, Chunks::of(1), |_| {
            assert!(matches!(
                lease.run_elastic(|_| ()),
                Err(RegionError::Nested)
            ));
            let _ = worker.share(8, Chunks::of(1), |_| ());
        });
    });
    assert!(matches!(nested, Err(RegionError::WorkerPanicked { .. })));
    assert_usable(&lease);
}

#[test]
fn regions_of_several_owners_do_not_interleave() {
    let inside = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for owner in 0..4 {
            let inside = &inside;
            scope.spawn(move || {
                let lease = Lease::new(3, Pinning::Off).unwrap();
                for _ in 0..50 {
                    let region = || {
                        let others = inside.swap(owner + 1, SeqCst);
                        assert!([0, owner + 1].contains(&others), "two regions on one pool");
                    };
                    // The two kinds share the pool, too.
                    lease
                        .run_elastic(|worker| {
                            let _ = worker.share(30, Chunks::of(1), |_| region());
                            let last = worker.barrier().and_then(|()| {
                                worker.share(1, Chunks::of(1), |_| inside.store(0, SeqCst))
                            });
                            let _ = last.and_then(|()| worker.barrier());
                        })
                        .unwrap();
                    lease
                        .run(|worker| {
                            region();
                            worker.barrier().unwrap();
                            if worker.index() == 0 {
                                inside.store(0, SeqCst);
                            }
                        })
                        .unwrap();
                }
            });
        }
    });
}
