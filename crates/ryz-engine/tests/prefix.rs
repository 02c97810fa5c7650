//! The prefix cache: what is found is not computed again, and says the same.

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::*;
use ryz_engine::{
    Engine, EngineConfig, EngineStats, Event, KvDType, Operator, OperatorCall, Prompt,
};

/// As many tokens as the reference model's context takes, nearly.
const LONG: usize = 400;

fn tokens(count: usize) -> Vec<u32> {
    (0..count as u32).map(|t| t * 7 % 400).collect()
}

/// What a question's logits are, to the last bit, and what it computed.
fn logits(engine: &Engine, tokens: &[u32]) -> (Vec<u32>, u64) {
    let before = engine.stats().prompt_tokens;
    let logits = wait(|r| engine.logits(tokens.to_vec(), false, 0, r)).expect("logits");
    settled(engine);
    let bits = logits.data.iter().map(|logit| logit.to_bits());
    (bits.collect(), engine.stats().prompt_tokens - before)
}

/// A greedy answer with the log-probabilities of its tokens, to the last bit.
fn answer(engine: &Engine, tokens: &[u32], count: u32) -> (Vec<u32>, String) {
    let mut request = greedy(Prompt::Tokens(tokens.to_vec()), count);
    request.sampling.logprobs = Some(3);
    let output = run(engine, request);
    let logprobs: Vec<_> = output.deltas.iter().map(|delta| &delta.logprobs).collect();
    (output.tokens, format!("{logprobs:?}"))
}

fn kept(engine: &Engine) -> usize {
    settled(engine);
    engine.stats().kv_blocks_kept
}

fn until(engine: &Engine, done: impl Fn(EngineStats) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done(engine.stats()) {
        assert!(Instant::now() < deadline, "{:?}", engine.stats());
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn without() -> EngineConfig {
    EngineConfig {
        prefix_cache: false,
        ..config()
    }
}

#[test]
fn a_second_request_computes_only_what_is_new() {
    let engine = load(BITNET, &config());
    let (_, computed) = logits(&engine, &tokens(LONG));
    assert_eq!(computed, LONG as u64);
    // 25 whole blocks, of which the last would leave nothing to compute.
    assert_eq!(kept(&engine), 25);
    assert_eq!(logits(&engine, &tokens(LONG)).1, 16);
    let mut other = tokens(LONG);
    other[350] += 1;
    // Equal up to its 22nd block.
    assert_eq!(logits(&engine, &other).1, LONG as u64 - 21 * 16);
    assert_eq!(kept(&engine), 25 + 4);
    let stats = engine.stats();
    assert_eq!(stats.prefix_tokens, 3 * LONG as u64);
    assert_eq!(stats.prefix_tokens_reused, (24 + 21) * 16);
    // What was generated is found too.
    let (generated, _) = answer(&engine, &tokens(LONG), 40);
    let longer: Vec<u32> = tokens(LONG).into_iter().chain(generated).collect();
    assert_eq!(logits(&engine, &longer).1, (LONG as u64 + 40) % 16);
    engine.clear_prefix_cache().expect("the engine lives");
    until(&engine, |stats| stats.kv_blocks_kept == 0);
    assert_eq!(logits(&engine, &tokens(LONG)).1, LONG as u64);
}

#[test]
fn a_hit_says_what_a_miss_says_to_the_last_bit_in_every_type() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let compressed = calibrated(folder.path(), "the old fox saw a tree and the sun ");
    for (model, base) in [(BITNET, config()), (BONSAI, config()), (BITNET, compressed)] {
        for kv in KvDType::ALL {
            for prefill_chunk in [512, 13] {
                let of = |prefix_cache| EngineConfig {
                    kv,
                    prefill_chunk,
                    prefix_cache,
                    ..base.clone()
                };
                let (cold, warm) = (load(model, &of(false)), load(model, &of(true)));
                // The beginning of all others, which end within a block, at its end, and after it.
                logits(&warm, &tokens(100));
                for count in [90, 96, 97, 101, 150] {
                    let case = format!("{model}, {kv}, {count} tokens, chunks of {prefill_chunk}");
                    let (want, all) = logits(&cold, &tokens(count));
                    let (got, some) = logits(&warm, &tokens(count));
                    assert!(got == want, "{case}");
                    assert_eq!(all, count as u64, "{case}");
                    assert!(some <= 64, "{case}: {some} were computed");
                    let want = answer(&cold, &tokens(count), 40);
                    assert_eq!(answer(&warm, &tokens(count), 40), want, "{case}");
                    // And once more, behind what was generated.
                    assert_eq!(answer(&warm, &tokens(count), 40), want, "{case}");
                }
            }
        }
    }
}

#[test]
fn live_requests_share_blocks_and_what_they_compute_meanwhile() {
    let mut config = config();
    config.prefill_chunk = 32;
    let want = answer(&load(BITNET, &without()), &tokens(200), 30);
    let engine = load(BITNET, &config);
    let begin = |count: u32| {
        let mut request = greedy(Prompt::Tokens(tokens(200)), count);
        request.sampling.logprobs = Some(3);
        request.credits = 1;
        start(&engine, request)
    };
    // Together from the first step on: none has anything to find when it is admitted.
    let running: Vec<Running> = (0..4).map(|_| begin(30)).collect();
    let first: Vec<Event> = running.iter().map(|r| r.next().expect("a word")).collect();
    let stats = engine.stats();
    assert!(stats.prompt_tokens < 2 * 200, "{stats:?}");
    // 12 whole blocks for all, and for each the one it is in.
    until(&engine, |stats| {
        stats.kv_blocks - stats.kv_blocks_free == 12 + 4
    });
    for (running, first) in running.into_iter().zip(first) {
        let Event::Delta(delta) = first else {
            panic!("{first:?}")
        };
        running.handle.grant(1_000);
        let mut output = running.collect();
        output.deltas.insert(0, delta);
        let tokens = output.deltas.iter().flat_map(|d| d.token_ids.clone());
        let logprobs: Vec<_> = output.deltas.iter().map(|d| &d.logprobs).collect();
        assert_eq!((tokens.collect(), format!("{logprobs:?}")), want);
    }
    settled(&engine);
}

#[test]
fn who_wants_all_positions_computes_all() {
    let engine = load(BITNET, &config());
    answer(&engine, &tokens(100), 4);
    let quiet = load(BITNET, &without());
    let before = engine.stats();
    let got = wait(|r| engine.logits(tokens(100), true, 0, r)).expect("logits");
    let want = wait(|r| quiet.logits(tokens(100), true, 0, r)).expect("logits");
    assert!(got == want);
    let got = wait(|r| engine.score(tokens(100), Some(48), 0, r)).expect("a score");
    let want = wait(|r| quiet.score(tokens(100), Some(48), 0, r)).expect("a score");
    assert_eq!(
        (got.tokens, got.sum_nll.to_bits()),
        (want.tokens, want.sum_nll.to_bits())
    );
    let got = wait(|r| engine.embed(tokens(100), true, 0, r)).expect("a vector");
    let want = wait(|r| quiet.embed(tokens(100), true, 0, r)).expect("a vector");
    assert!(got == want);
    settled(&engine);
    let after = engine.stats();
    // Only the embedding began on blocks that were there: 96 of its tokens.
    assert_eq!(after.prompt_tokens - before.prompt_tokens, 100 + 100 + 4);
    assert_eq!(after.kv_blocks_kept, before.kv_blocks_kept.max(6));
}

/// Doubles the hidden state.
struct Doubles;

impl Operator for Doubles {
    fn forward(
        &self,
        _: &OperatorCall,
        values: &mut [f32],
        _: &dyn Fn() -> bool,
    ) -> Result<(), String> {
        values.iter_mut().for_each(|value| *value *= 2.0);
        Ok(())
    }
}

#[test]
fn what_operators_changed_is_found_by_nobody_and_what_they_did_not_see_neither() {
    let places = ["layers.0.ffn.output".to_owned()];
    let quiet = load(BITNET, &without());
    let plain = logits(&quiet, &tokens(100)).0;
    quiet
        .register_operator("doubles", &places, Arc::new(Doubles))
        .expect("a good operator");
    let doubled = logits(&quiet, &tokens(100)).0;
    assert!(plain != doubled);

    let engine = load(BITNET, &config());
    assert!(logits(&engine, &tokens(100)).0 == plain);
    assert_eq!(kept(&engine), 6);
    // This one lives on while operators come and go.
    let mut request = greedy(Prompt::Tokens(tokens(200)), 100);
    request.credits = 1;
    let witness = start(&engine, request);
    assert!(matches!(witness.next(), Some(Event::Delta(_))));
    engine
        .register_operator("doubles", &places, Arc::new(Doubles))
        .expect("a good operator");
    for _ in 0..2 {
        assert!(logits_beside(&engine, &tokens(100)) == (doubled.clone(), 100));
    }
    assert_eq!(engine.stats().kv_blocks_kept, 0);
    // Some of its tokens are computed with the operator.
    witness.handle.grant(40);
    for _ in 0..20 {
        assert!(matches!(witness.next(), Some(Event::Delta(_))));
    }
    assert!(engine.unregister_operator("doubles"));
    assert!(logits_beside(&engine, &tokens(100)) == (plain.clone(), 100));
    witness.handle.grant(1_000);
    let rest = witness.collect();
    assert_eq!(rest.finish().usage.completion_tokens, 100);
    // Nothing of the witness stays.
    assert_eq!(kept(&engine), 6);
    assert!(
        logits(&engine, &tokens(200)) == (logits(&load(BITNET, &without()), &tokens(200)).0, 104)
    );
}

/// As [`logits`], while others run.
fn logits_beside(engine: &Engine, tokens: &[u32]) -> (Vec<u32>, u64) {
    let before = engine.stats().prompt_tokens;
    let logits = wait(|r| engine.logits(tokens.to_vec(), false, 0, r)).expect("logits");
    until(engine, |stats| stats.running == 1);
    let bits = logits.data.iter().map(|logit| logit.to_bits());
    (bits.collect(), engine.stats().prompt_tokens - before)
}

#[test]
fn kept_blocks_are_given_up_before_anyone_has_to_make_room() {
    let tight = EngineConfig {
        context_length: Some(128),
        kv_tokens: Some(128),
        ..config()
    };
    let quiet = load(BITNET, &without());
    let engine = load(BITNET, &tight);
    for round in 0..6 {
        let prompt: Vec<u32> = tokens(100).iter().map(|t| (t + round * 31) % 400).collect();
        let want = answer(&quiet, &prompt, 20);
        assert_eq!(answer(&engine, &prompt, 20), want);
        // All but the block that it ended in.
        assert_eq!(kept(&engine), 7);
    }
    assert_eq!(engine.stats().preemptions, 0);
}

#[test]
fn blocks_that_moved_are_found_where_they_are() {
    for kv in KvDType::ALL {
        let engine = load(BITNET, &EngineConfig { kv, ..config() });
        let want = answer(&engine, &tokens(100), 30);
        // Behind these: the next one's blocks.
        let mut other = greedy(Prompt::Tokens((0..90).map(|t| t * 11 % 400).collect()), 30);
        other.credits = 1;
        let other = start(&engine, other);
        assert!(matches!(other.next(), Some(Event::Delta(_))));
        let longer: Vec<u32> = tokens(100).into_iter().chain(want.0.clone()).collect();
        answer(&engine, &longer, 30);
        other.handle.cancel();
        let moves = {
            let (sender, received) = std::sync::mpsc::channel();
            let reply = Box::new(move |answer| drop(sender.send(answer)));
            drop(other);
            settled(&engine);
            engine.compact_memory(reply).expect("the engine lives");
            let wait = Duration::from_secs(60);
            received
                .recv_timeout(wait)
                .expect("an answer")
                .expect("moves")
                .moves
        };
        assert!(!moves.is_empty(), "{kv}: nothing moved");
        let before = engine.stats().prompt_tokens;
        assert_eq!(answer(&engine, &tokens(100), 30), want, "{kv}");
        assert_eq!(engine.stats().prompt_tokens - before, 4, "{kv}");
    }
}

#[test]
fn without_the_cache_everything_is_computed() {
    let engine = load(BITNET, &without());
    for _ in 0..2 {
        assert_eq!(logits(&engine, &tokens(100)).1, 100);
    }
    let stats = engine.stats();
    assert_eq!((stats.kv_blocks_kept, stats.prefix_tokens_reused), (0, 0));
}
