//! The scheduler on its own: no model, every sequence "computes" by being advanced.

use super::*;
use crate::eviction::blocks_for;
use proptest::prelude::*;

const LIMITS: Limits = Limits {
    max_sequences: 4,
    prefill_chunk: 32,
    score_chunk: 8,
    patience: Duration::from_millis(100),
};

struct Bench {
    scheduler: Scheduler,
    pool: BlockPool,
    step: Vec<ScheduledTokens>,
    now: Instant,
}

impl Bench {
    fn new(limits: Limits, blocks: usize) -> Self {
        Self {
            scheduler: Scheduler::new(limits),
            pool: BlockPool::new(blocks),
            step: vec![],
            now: Instant::now(),
        }
    }

    /// A sequence that begins like no other.
    fn add(&mut self, id: SequenceId, prompt: usize) {
        self.add_like(id, 1_000 + id as u32, prompt);
    }

    /// A sequence that begins like the others of its kind.
    fn add_like(&mut self, id: SequenceId, kind: u32, prompt: usize) {
        self.scheduler
            .add(Sequence::new(id, vec![kind; prompt], LogitPositions::Last));
    }

    fn pause(&mut self, id: SequenceId, since: Option<Instant>) {
        let sequence = self.scheduler.iter_mut().find(|s| s.id == id);
        sequence.unwrap().paused_since = since;
    }

    /// Schedules and advances; returns (id, tokens) and generates a token where the last logits were asked for.
    fn step(&mut self) -> Vec<(SequenceId, usize)> {
        self.scheduler
            .schedule(&mut self.pool, self.now, &mut self.step);
        for &ScheduledTokens {
            id,
            tokens,
            outputs,
        } in &self.step
        {
            let sequence = self
                .scheduler
                .get_mut(id)
                .expect("a scheduled sequence runs");
            assert!(sequence.paused_since.is_none());
            assert!(tokens <= sequence.pending());
            assert!(blocks_for(sequence.cached + tokens) <= sequence.block_table.len());
            sequence.cached += tokens;
            sequence.share(&mut self.pool);
            if outputs == Outputs::Last {
                assert_eq!(sequence.pending(), 0);
                sequence.tokens.push(1);
            }
        }
        self.step.iter().map(|s| (s.id, s.tokens)).collect()
    }
}

#[test]
fn a_prompt_is_cut_into_chunks_and_only_the_last_wants_logits() {
    let mut b = Bench::new(LIMITS, 100);
    b.add(1, 70);
    b.step();
    assert_eq!(
        b.step,
        [ScheduledTokens {
            id: 1,
            tokens: 32,
            outputs: Outputs::None
        }]
    );
    assert_eq!(b.step(), [(1, 32)]);
    b.step();
    assert_eq!(
        b.step,
        [ScheduledTokens {
            id: 1,
            tokens: 6,
            outputs: Outputs::Last
        }]
    );
    assert_eq!(b.step(), [(1, 1)]);
}

#[test]
fn decoding_goes_on_beside_a_long_prompt() {
    let mut b = Bench::new(LIMITS, 100);
    b.add(1, 5);
    b.step();
    b.add(2, 1000);
    for _ in 0..10 {
        assert_eq!(b.step(), [(1, 1), (2, 32)]);
    }
}

#[test]
fn prompts_take_turns() {
    let mut b = Bench::new(LIMITS, 200);
    b.add(1, 1000);
    b.add(2, 1000);
    b.add(3, 10);
    let mut first_of_3 = None;
    for i in 0..4 {
        let got = b.step();
        assert_eq!(
            got.iter().map(|s| s.1).sum::<usize>(),
            if got.iter().any(|s| s.0 == 3 && s.1 == 1) {
                33
            } else {
                32
            }
        );
        if first_of_3.is_none() && got.iter().any(|s| s.0 == 3) {
            first_of_3 = Some(i);
        }
    }
    assert!(
        first_of_3.unwrap() < 3,
        "a short prompt behind two long ones gets its turn"
    );
    let cached = |id| b.scheduler.get(id).unwrap().cached;
    assert!(cached(1) > 0 && cached(2) > 0);
}

#[test]
fn no_more_sequences_run_than_allowed_and_the_rest_come_in_order() {
    let mut b = Bench::new(LIMITS, 100);
    for id in 1..=6 {
        b.add(id, 3);
    }
    assert_eq!(b.step().len(), 4);
    assert_eq!((b.scheduler.running(), b.scheduler.waiting()), (4, 2));
    b.scheduler.remove(2, &mut b.pool).unwrap();
    let ids: Vec<_> = b.step().iter().map(|s| s.0).collect();
    assert!(ids.contains(&5) && !ids.contains(&6), "{ids:?}");
}

#[test]
fn a_sequence_without_credits_is_not_scheduled() {
    let mut b = Bench::new(LIMITS, 100);
    b.add(1, 3);
    b.add(2, 3);
    b.step();
    b.pause(1, Some(b.now));
    assert_eq!(b.step(), [(2, 1)]);
    b.pause(1, None);
    assert_eq!(b.step(), [(1, 1), (2, 1)]);
    // One that was paused before it was admitted lets others pass.
    let mut b = Bench::new(
        Limits {
            max_sequences: 1,
            ..LIMITS
        },
        100,
    );
    b.add(1, 3);
    b.add(2, 3);
    b.pause(1, Some(b.now));
    assert_eq!(b.step(), [(2, 3)]);
}

#[test]
fn without_blocks_a_request_waits() {
    let mut b = Bench::new(LIMITS, 3);
    b.add(1, 30); // two blocks
    b.add(2, 30); // two more are not there
    b.add(3, 3); // one would be, but 2 came first
    assert_eq!(b.step(), [(1, 30)]);
    assert_eq!(b.scheduler.waiting(), 2);
    b.scheduler.remove(1, &mut b.pool);
    assert_eq!(b.step(), [(2, 30), (3, 2)]);
}

#[test]
fn the_youngest_makes_room_and_is_computed_again() {
    let mut b = Bench::new(LIMITS, 2);
    b.add(1, 15);
    b.add(2, 15);
    assert_eq!(b.step(), [(1, 15), (2, 15)]);
    assert_eq!(b.step(), [(1, 1), (2, 1)]); // 16 each: both blocks are full
    assert_eq!(b.step(), [(1, 1)]); // 1 takes the block of 2
    assert_eq!(b.scheduler.preemptions(), 1);
    assert_eq!(b.scheduler.waiting(), 1);
    b.scheduler.remove(1, &mut b.pool);
    // 2 comes back with all of its 17 tokens, the two generated ones included.
    assert_eq!(b.step(), [(2, 17)]);
    assert_eq!(b.scheduler.get(2).unwrap().generated(), 3);
}

#[test]
fn the_greatest_priority_goes_first_and_the_least_makes_room() {
    let limits = Limits {
        max_sequences: 2,
        ..LIMITS
    };
    let mut b = Bench::new(limits, 8);
    let add = |b: &mut Bench, id, priority| {
        let sequence = Sequence::new(id, vec![1_000 + id as u32; 8], LogitPositions::Last);
        b.scheduler.add(sequence.prioritized(priority));
    };
    (1..=3).for_each(|id| add(&mut b, id, 0));
    add(&mut b, 4, 5);
    assert_eq!(b.step(), [(4, 8), (1, 8)], "before those who came earlier");
    add(&mut b, 5, 7);
    assert_eq!(b.step(), [(4, 1), (5, 8)], "instead of the first");
    assert_eq!(b.scheduler.preemptions(), 1);
    add(&mut b, 6, 5);
    assert_eq!(b.step(), [(4, 1), (5, 1)], "not instead of its equals");
    // The highest first among prompts, and then the others in turn: 1 before 2 and 3, since it had begun.
    for (gone, next) in [(5, 6), (4, 1), (6, 2), (1, 3)] {
        b.scheduler.remove(gone, &mut b.pool);
        let step = b.step();
        assert!(
            step.iter().any(|&(id, tokens)| id == next && tokens > 1),
            "{step:?}"
        );
    }
}

#[test]
fn the_least_priority_makes_room_for_blocks_too() {
    let mut b = Bench::new(LIMITS, 4);
    for (id, priority) in [(1, 0), (2, 3), (3, 1)] {
        let sequence = Sequence::new(id, vec![1_000 + id as u32; 16], LogitPositions::Last);
        b.scheduler.add(sequence.prioritized(priority));
    }
    assert_eq!(b.step(), [(2, 16), (3, 16)]);
    assert_eq!(b.step(), [(2, 1), (3, 1)], "each has its second block");
    assert_eq!(b.scheduler.waiting(), 1);
    (0..15).for_each(|_| drop(b.step()));
    // Both are at 33 tokens: 3 makes room for 2.
    assert_eq!(b.step(), [(2, 1)]);
    assert_eq!(b.scheduler.preemptions(), 2);
}

#[test]
fn who_comes_back_finds_what_was_not_wanted_meanwhile() {
    let mut b = Bench::new(LIMITS, 4);
    b.add(1, 31);
    b.add(2, 31);
    b.step(); // 31 and 1
    b.step(); // 1 decodes, 2 has its other 30
    assert_eq!(b.step(), [(1, 1)]); // 1 takes the last block of 2
    assert_eq!(b.scheduler.preemptions(), 1);
    assert_eq!(b.pool.kept(), 1);
    b.scheduler.remove(1, &mut b.pool);
    // The first 16 of its 32 tokens are there.
    assert_eq!(b.step(), [(2, 16)]);
    assert_eq!(b.scheduler.prefix_tokens().1, 16);
}

#[test]
fn a_request_that_finds_all_but_a_token_is_computed_in_the_step_that_admits_it() {
    let mut b = Bench::new(LIMITS, 4);
    b.add_like(1, 7, 33);
    b.step();
    b.step();
    b.add_like(2, 7, 33);
    assert_eq!(b.step(), [(1, 1), (2, 1)]);
    assert_eq!(b.scheduler.prefix_tokens(), (66, 32));
    // They come back, as if they had been pre-empted.
    for id in [1, 2] {
        let mut sequence = b.scheduler.remove(id, &mut b.pool).unwrap();
        sequence.tokens.truncate(33);
        sequence.prompt_len = 30;
        b.scheduler.add(sequence);
    }
    let mut step = b.step();
    step.sort_unstable();
    assert_eq!(step, [(1, 1), (2, 1)]);
    assert_eq!(b.pool.available(), 0);
}

#[test]
fn kept_blocks_go_before_anyone_makes_room() {
    let mut b = Bench::new(LIMITS, 4);
    b.add(1, 32);
    b.step();
    b.scheduler.remove(1, &mut b.pool);
    assert_eq!((b.pool.kept(), b.pool.free()), (2, 2));
    b.add(2, 20);
    b.add(3, 20);
    for _ in 0..3 {
        b.step();
    }
    assert_eq!((b.pool.kept(), b.scheduler.preemptions()), (0, 0));
    assert_eq!(b.scheduler.running(), 2);
}

#[test]
fn a_request_is_admitted_when_what_it_finds_leaves_room_for_the_rest() {
    let mut b = Bench::new(LIMITS, 4);
    b.add_like(1, 7, 60);
    b.step();
    b.step();
    assert_eq!(b.pool.available(), 0);
    // Three of its four blocks are those of 1; the other is not there.
    b.add_like(2, 7, 50);
    assert_eq!(b.step(), [(1, 1)]);
    assert_eq!(b.scheduler.waiting(), 1);
    let mut b = Bench::new(LIMITS, 5);
    b.add_like(1, 7, 60);
    b.step();
    b.step();
    b.add_like(2, 7, 50);
    assert_eq!(b.step(), [(1, 1), (2, 2)]);
    // Those that it finds and nobody uses are not there for the rest of it.
    let mut b = Bench::new(LIMITS, 4);
    b.add_like(1, 7, 48);
    b.step();
    b.step();
    b.scheduler.remove(1, &mut b.pool);
    assert_eq!((b.pool.kept(), b.pool.free()), (3, 1));
    b.add_like(2, 7, 80);
    assert_eq!(b.step(), []);
    assert_eq!(b.pool.kept(), 3);
}

#[test]
fn a_paused_sequence_makes_room_before_a_younger_one() {
    let mut b = Bench::new(LIMITS, 3);
    b.add(1, 15);
    b.add(2, 15);
    b.add(3, 2);
    b.step();
    b.step();
    b.pause(1, Some(b.now));
    assert_eq!(b.step(), [(2, 1), (3, 1)]); // 2 takes the block of 1
    assert!(b.scheduler.get(1).is_none());
}

#[test]
fn who_waits_for_a_paused_one_gets_its_place_after_a_while() {
    let mut b = Bench::new(
        Limits {
            max_sequences: 1,
            ..LIMITS
        },
        100,
    );
    b.add(1, 3);
    b.step();
    b.pause(1, Some(b.now));
    b.add(2, 3);
    assert_eq!(b.step(), []);
    assert!(b.scheduler.waits_for_paused());
    b.now += LIMITS.patience;
    assert_eq!(b.step(), [(2, 3)]);
    // 1 comes back when it is read again and 2 is gone.
    b.pause(1, None);
    b.scheduler.remove(2, &mut b.pool);
    assert_eq!(b.step(), [(1, 4)]);
}

#[test]
fn scoring_is_bounded_by_its_own_chunk() {
    let mut b = Bench::new(LIMITS, 100);
    b.scheduler
        .add(Sequence::new(1, vec![7; 20], LogitPositions::All));
    b.add(2, 5);
    b.step();
    assert!(b.step.contains(&ScheduledTokens {
        id: 1,
        tokens: 8,
        outputs: Outputs::All
    }));
    assert!(b.step.contains(&ScheduledTokens {
        id: 2,
        tokens: 5,
        outputs: Outputs::Last
    }));
}

#[test]
fn removing_frees_every_block_wherever_the_sequence_is() {
    let mut b = Bench::new(LIMITS, 4);
    b.add(1, 40);
    b.add(2, 40);
    b.step();
    assert!(b.scheduler.remove(2, &mut b.pool).is_some());
    assert!(b.scheduler.remove(1, &mut b.pool).is_some());
    assert!(b.scheduler.remove(1, &mut b.pool).is_none());
    assert_eq!(b.pool.available(), 4);
}

proptest! {
    /// Random requests, pauses and cancels in a small pool: nothing is lost, everything ends, no block leaks.
    #[test]
    fn every_request_ends_and_no_block_leaks(
        requests in prop::collection::vec((1usize..60, 1usize..40, 0u32..3), 1..20),
        events in prop::collection::vec((0usize..20, 0u8..8), 0..60),
        blocks in 7usize..16, // 100 tokens always fit
    ) {
        let mut b = Bench::new(LIMITS, blocks);
        let mut left: std::collections::HashMap<SequenceId, usize> = requests.iter().enumerate().map(|(i, r)| (i as u64, r.1)).collect();
        for (i, r) in requests.iter().enumerate() {
            let sequence = Sequence::new(i as u64, vec![r.2; r.0], LogitPositions::Last);
            b.scheduler.add(sequence.prioritized(i as i32 % 3));
        }
        let mut events = events.into_iter();
        let mut steps = 0;
        while !left.is_empty() {
            b.now += Duration::from_millis(1);
            match events.next() {
                Some((id, 0)) => {
                    let id = id as u64;
                    prop_assert_eq!(b.scheduler.remove(id, &mut b.pool).is_some(), left.remove(&id).is_some());
                }
                Some((id, 1 | 2)) if left.contains_key(&(id as u64)) => b.pause(id as u64, Some(b.now)),
                Some(_) => {}
                None => b.scheduler.iter_mut().for_each(|s| s.paused_since = None),
            }
            b.step();
            let mut seen = std::collections::HashSet::new();
            for s in &b.step {
                prop_assert!(seen.insert(s.id), "a sequence twice in a step");
            }
            let tokens: usize = b.step.iter().map(|s| s.tokens).sum();
            prop_assert!(tokens <= LIMITS.prefill_chunk + LIMITS.max_sequences);
            let done: Vec<SequenceId> = b.step.iter().filter(|s| b.scheduler.get(s.id).unwrap().generated() >= left[&s.id]).map(|s| s.id).collect();
            for id in done {
                let sequence = b.scheduler.remove(id, &mut b.pool).unwrap();
                prop_assert_eq!(sequence.prompt_len, requests[id as usize].0);
                left.remove(&id);
            }
            steps += 1;
            prop_assert!(steps < 20_000, "no progress");
        }
        prop_assert_eq!(b.pool.available(), blocks);
        b.pool.drop_kept();
        prop_assert_eq!(b.pool.free(), blocks);
        let (asked, reused) = b.scheduler.prefix_tokens();
        prop_assert!(reused <= asked);
        prop_assert_eq!(b.scheduler.running() + b.scheduler.waiting(), 0);
    }
}

#[test]
fn proposals_leave_prompts_half_of_a_step() {
    let mut b = Bench::new(LIMITS, 100);
    b.add(1, 10);
    assert_eq!(b.step(), [(1, 10)]);
    b.add(2, 200);
    let decoding = b.scheduler.get_mut(1).unwrap();
    decoding.ahead = vec![1; 60];
    b.scheduler.schedule(&mut b.pool, b.now, &mut b.step);
    let scheduled: Vec<_> = b.step.iter().map(|s| (s.id, s.tokens)).collect();
    // Logits for 8 rows are the scarcer: 4 for proposals. Of the chunk of 32 tokens the prompt has the rest.
    assert_eq!(scheduled, [(1, 1 + 4), (2, 32 - 4)]);
}
