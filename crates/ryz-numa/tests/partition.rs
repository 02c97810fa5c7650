//! The checked slice: what it grants, what it refuses, and what a refusal leaves behind.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicUsize, Ordering},
};

use proptest::prelude::*;
use ryz_numa::{Lease, PartitionedSlice, Pinning, WriteGuard};

/// The message that a refusal panics with.
fn refusal<R>(breach: impl FnOnce() -> R) -> String {
    let Err(payload) = catch_unwind(AssertUnwindSafe(breach)) else {
        panic!("a breach was granted");
    };
    let message = payload.downcast_ref::<String>();
    message.expect("a formatted message").clone()
}

#[test]
fn disjoint_rectangles_are_written_together() {
    let mut data = [0; 12];
    let shared = PartitionedSlice::new(&mut data, 4);
    let (mut left, mut right) = (shared.rect_mut(0..3, 0..2), shared.rect_mut(0..3, 2..4));
    left.row_mut(1)[1] = 1;
    right.row_mut(1)[0] = 2;
    assert_eq!((right.rows(), right.cols()), (0..3, 2..4));
    drop((left, right));
    assert_eq!(shared.read().row(1), [0, 1, 2, 0]);
    assert_eq!(shared.read()[5..7], [1, 2]);
}

#[test]
fn breaches_are_told_by_name() {
    let mut data = [0; 12];
    let shared = PartitionedSlice::named("gate", &mut data, 4);
    let writer = shared.rect_mut(0..2, 0..3);
    let clash = refusal(|| shared.rect_mut(1..3, 2..4));
    assert_eq!(
        clash,
        "two threads write one part of gate: rows 1..3 columns 2..4 and rows 0..2 columns 0..3"
    );
    assert_eq!(
        refusal(|| shared.read()),
        "gate is read while it is written"
    );
    drop(writer);
    let _reader = shared.read();
    assert_eq!(
        refusal(|| shared.rows_mut(0..1)),
        "gate is written while it is read"
    );
    assert!(refusal(|| shared.rows_mut(2..4)).starts_with("gate: rows 2..4 of 3"));
    assert!(refusal(|| shared.rect_mut(0..1, 3..5)).starts_with("gate: columns 3..5 of 4"));
}

#[test]
fn a_refused_writer_does_not_let_the_next_one_in() {
    let mut data = [0; 4];
    let shared = PartitionedSlice::new(&mut data, 2);
    let reader = shared.read();
    for _ in 0..3 {
        refusal(|| shared.rows_mut(0..1));
    }
    drop(reader);
    shared.rows_mut(0..2).row_mut(1)[1] = 1;
    assert_eq!(shared.read()[3], 1);
}

#[test]
fn a_refused_reader_does_not_let_the_next_one_in() {
    let mut data = [0; 4];
    let shared = PartitionedSlice::new(&mut data, 2);
    let writer = shared.rows_mut(0..1);
    for _ in 0..3 {
        refusal(|| shared.read());
        refusal(|| shared.rows_mut(0..1));
    }
    drop(writer);
    assert_eq!(shared.read()[0], 0);
    drop(shared.rows_mut(0..2));
}

#[test]
fn empty_rectangles_clash_with_no_one_and_keep_their_rows() {
    let mut data = [0; 12];
    let shared = PartitionedSlice::new(&mut data, 4);
    let _all = shared.rows_mut(0..3);
    // In the middle of what is held, and where the slice has already ended.
    for (rows, cols) in [
        (1..1, 0..4),
        (0..3, 2..2),
        (3..3, 2..4),
        (0..3, 4..4),
        (3..3, 4..4),
    ] {
        let mut none = shared.rect_mut(rows.clone(), cols.clone());
        assert_eq!(
            (none.view().rows(), none.view().cols()),
            (rows.len(), cols.len())
        );
        for row in 0..rows.len() {
            assert!(none.row_mut(row).is_empty());
        }
    }
}

#[test]
fn more_writers_than_are_held_in_place() {
    let mut data = vec![0; 100];
    let shared = PartitionedSlice::new(&mut data, 1);
    let mut guards: Vec<_> = (0..100).map(|row| shared.rows_mut(row..row + 1)).collect();
    assert!(refusal(|| shared.rows_mut(99..100)).contains("rows 99..100"));
    // In an order that empties places and spilled ones in turn.
    for row in (0..100).step_by(7) {
        guards.swap_remove(row % guards.len());
    }
    drop(guards);
    drop(shared.rows_mut(0..100));
    assert_eq!(shared.read().len(), 100);
}

#[test]
#[should_panic(expected = "no rows of 5")]
fn a_slice_of_no_whole_rows_is_refused() {
    PartitionedSlice::new(&mut [0; 12], 5);
}

#[test]
fn threads_that_fight_for_a_slice_never_hold_the_same_part() {
    const ROWS: usize = 8;
    let lease = Lease::new(4, Pinning::Off).unwrap();
    let mut data = vec![0usize; ROWS * 4];
    let shared = PartitionedSlice::named("fought for", &mut data, 4);
    let (granted, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let result = lease.run(|worker| {
        for round in 0..500 {
            let (row, len) = ((worker.index() * 3 + round) % (ROWS - 2), 1 + round % 3);
            let attempt = catch_unwind(AssertUnwindSafe(|| {
                if (round + worker.index()) % 5 == 0 {
                    let read = shared.read();
                    let before: usize = read.iter().sum();
                    std::hint::spin_loop();
                    assert_eq!(read.iter().sum::<usize>(), before, "torn");
                } else {
                    let mut guard = shared.rows_mut(row..row + len);
                    for row in 0..len {
                        guard.row_mut(row).fill(worker.index());
                        std::hint::spin_loop();
                        assert!(
                            guard.row_mut(row).iter().all(|&v| v == worker.index()),
                            "torn"
                        );
                    }
                }
            }));
            match attempt {
                Ok(()) => granted.fetch_add(1, Ordering::Relaxed),
                Err(payload) => {
                    let message = payload.downcast_ref::<String>().map_or("", |text| text);
                    assert!(message.contains("fought for"), "{message}");
                    refused.fetch_add(1, Ordering::Relaxed)
                }
            };
        }
    });
    std::panic::set_hook(hook);
    result.unwrap();
    assert_eq!(granted.into_inner() + refused.into_inner(), 2000);
    // Whatever happened, everything was given back.
    drop(shared.rows_mut(0..ROWS));
    drop(shared.read());
}

#[derive(Clone, Debug)]
enum Step {
    Write {
        rows: (usize, usize),
        cols: (usize, usize),
    },
    Read,
    Drop(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let range = |n: usize| (0..=n, 0..=n).prop_map(|(a, b)| (a.min(b), a.max(b)));
    prop_oneof![
        4 => (range(5), range(4)).prop_map(|(rows, cols)| Step::Write { rows, cols }),
        1 => Just(Step::Read),
        4 => any::<usize>().prop_map(Step::Drop),
    ]
}

enum Held<'s> {
    Write(WriteGuard<'s, u8>, Vec<(usize, usize)>),
    Read { _guard: ryz_numa::ReadGuard<'s, u8> },
}

proptest! {
    /// Random takes and drops agree with a model that lists every element held.
    #[test]
    fn grants_and_refusals_agree_with_a_model(steps in prop::collection::vec(step(), 1..40)) {
        let mut data = [0u8; 20];
        let mut expected = [0u8; 20];
        {
            let shared = PartitionedSlice::new(&mut data, 4);
            let mut held: Vec<Held<'_>> = Vec::new();
            for (number, step) in steps.into_iter().enumerate() {
                let readers = held.iter().any(|held| matches!(held, Held::Read { .. }));
                match step {
                    Step::Drop(pick) => if !held.is_empty() {
                        drop(held.swap_remove(pick % held.len()));
                    },
                    Step::Read => {
                        let allowed = held.iter().all(|held| matches!(held, Held::Read { .. }));
                        let taken = catch_unwind(AssertUnwindSafe(|| shared.read()));
                        prop_assert_eq!(taken.is_ok(), allowed);
                        if let Ok(guard) = taken {
                            prop_assert_eq!(&guard[..], &expected[..]);
                            held.push(Held::Read { _guard: guard });
                        }
                    }
                    Step::Write { rows, cols } => {
                        let cells: Vec<_> = (rows.0..rows.1)
                            .flat_map(|row| (cols.0..cols.1).map(move |col| (row, col)))
                            .collect();
                        let free = held.iter().all(|held| match held {
                            Held::Write(_, theirs) => !theirs.iter().any(|cell| cells.contains(cell)),
                            Held::Read { .. } => true,
                        });
                        let taken = catch_unwind(AssertUnwindSafe(|| shared.rect_mut(rows.0..rows.1, cols.0..cols.1)));
                        prop_assert_eq!(taken.is_ok(), free && !readers);
                        if let Ok(mut guard) = taken {
                            for row in 0..rows.1 - rows.0 {
                                guard.row_mut(row).fill(number as u8);
                            }
                            for &(row, col) in &cells {
                                expected[row * 4 + col] = number as u8;
                            }
                            held.push(Held::Write(guard, cells));
                        }
                    }
                }
            }
            for guard in &mut held {
                if let Held::Write(guard, cells) = guard {
                    prop_assert_eq!(guard.view().rows() * guard.view().cols(), cells.len());
                }
            }
        }
        prop_assert_eq!(data, expected);
    }
}
