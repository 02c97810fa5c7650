//! What sequences forget: answers that go on past the context in the same blocks, and depend on nothing but the policy.

mod common;

use common::*;
use ryz_engine::{
    Engine, EngineConfig, EngineError, EngineStats, Eviction, FinishReason, GenerateRequest,
    KvDType, Prompt,
};

const SLIDING: Eviction = Eviction::SlidingWindow { window: 40 };
const SINKS: Eviction = Eviction::AttentionSinks {
    sinks: 4,
    window: 40,
};

const HEAVY: Eviction = Eviction::HeavyHitters {
    tokens: 96,
    window: 32,
};

fn tokens(count: usize) -> Vec<u32> {
    (0..count as u32).map(|t| t * 7 % 400).collect()
}

fn evicting(eviction: Eviction, prompt: usize, count: u32) -> GenerateRequest {
    let mut request = greedy(Prompt::Tokens(tokens(prompt)), count);
    request.sampling.logprobs = Some(2);
    request.eviction = Some(eviction);
    request
}

/// Tokens and log-probabilities, to the last bit.
fn seen(engine: &Engine, request: GenerateRequest) -> (Vec<u32>, String) {
    let output = run(engine, request);
    assert_eq!(output.reason(), FinishReason::Length);
    let logprobs = output.deltas.iter().flat_map(|delta| &delta.logprobs);
    (
        output.tokens.clone(),
        format!("{:?}", logprobs.collect::<Vec<_>>()),
    )
}

/// What a generation adds to the counters, and the fewest blocks that were free while it ran.
fn counted(engine: &Engine, request: GenerateRequest) -> (EngineStats, usize) {
    settled(engine);
    let before = engine.stats();
    let running = start(engine, request);
    let mut least = before.kv_blocks_free;
    loop {
        let stats = engine.stats();
        least = least.min(stats.kv_blocks_free);
        match running.events.try_recv() {
            Ok(ryz_engine::Event::Finish(_)) => break,
            Ok(ryz_engine::Event::Failed(error)) => panic!("{error}"),
            _ => std::thread::yield_now(),
        }
    }
    drop(running);
    settled(engine);
    let mut after = engine.stats();
    after.evicted_blocks -= before.evicted_blocks;
    (after, least)
}

#[test]
fn a_generation_goes_on_past_the_context_in_the_same_blocks() {
    for kv in [KvDType::Int8, KvDType::Int4] {
        let engine = load(BITNET, &EngineConfig { kv, ..config() });
        let context = engine.model_info().context_length;
        let whole = evicting(Eviction::None, 30, u32::MAX);
        let output = run(&engine, whole);
        assert_eq!(output.tokens.len(), context - 30);
        assert_eq!(output.reason(), FinishReason::Length);
        assert_eq!(engine.stats().evicted_blocks, 0);
        let count = 2 * context as u32 + 100;
        // Blocks of sinks and window, both ends begun, and one to go on in.
        for (eviction, most, kept) in [(SLIDING, 5, 4), (SINKS, 6, 5)] {
            let (stats, least) = counted(&engine, evicting(eviction, 30, count));
            let blocks = (30 + count as usize - 1).div_ceil(16);
            assert!(stats.kv_blocks - least <= most, "{eviction:?}: {least}");
            assert!(
                (blocks - most..=blocks - kept + 1).contains(&(stats.evicted_blocks as usize)),
                "{eviction:?}: {} of {blocks}",
                stats.evicted_blocks
            );
            assert_eq!(
                run(&engine, evicting(eviction, 30, count)).tokens.len(),
                count as usize
            );
        }
    }
}

#[test]
fn heavy_hitters_stay_in_their_blocks_to_the_end_of_the_context() {
    for kv in [KvDType::Int8, KvDType::Int4] {
        let engine = load(BITNET, &EngineConfig { kv, ..config() });
        let context = engine.model_info().context_length;
        run(&engine, evicting(HEAVY, 30, 1));
        for prompt in [30, 300] {
            let (stats, least) = counted(&engine, evicting(HEAVY, prompt, u32::MAX));
            // Six blocks, four until it is decided again, and one to go on in.
            assert!(stats.kv_blocks - least <= 11, "{kv} {prompt}: {least}");
            // The last decision comes 64 positions before the end.
            assert_eq!(stats.evicted_blocks as usize, (context - 64) / 16 - 6);
            assert_eq!(stats.kv_blocks_free, stats.kv_blocks);
            let output = run(&engine, evicting(HEAVY, prompt, u32::MAX));
            assert_eq!(output.tokens.len(), context - prompt);
        }
    }
    for (tokens, window, option) in [(0, 1, "tokens"), (433, 1, "tokens"), (96, 97, "window")] {
        let engine = load(BITNET, &config());
        let heavy = Eviction::HeavyHitters { tokens, window };
        let refused = engine.generate(evicting(heavy, 30, 1), Box::new(|_| {}));
        let message = refused.expect_err("no room").to_string();
        assert!(message.contains(&format!("eviction.{option}")), "{message}");
    }
}

#[test]
fn prompts_longer_than_the_context_are_read_through_the_window() {
    let engine = load(BITNET, &config());
    let context = engine.model_info().context_length;
    let long = |eviction| evicting(eviction, 3 * context, 20);
    for eviction in [SLIDING, SINKS] {
        assert_eq!(run(&engine, long(eviction)).tokens.len(), 20);
    }
    let refused = engine.generate(long(Eviction::None), Box::new(|_| {}));
    assert_eq!(refused.expect_err("too long").code(), "CONTEXT_OVERFLOW");
    // Of text, whose tokens are counted elsewhere.
    let text = "Once upon a time there was a fox. ".repeat(100);
    for (eviction, code) in [(SLIDING, None), (Eviction::None, Some("CONTEXT_OVERFLOW"))] {
        let request = GenerateRequest {
            eviction: Some(eviction),
            ..greedy(Prompt::Text(text.clone()), 3)
        };
        let end = run(&engine, request).end;
        assert_eq!(end.err().map(|error| error.code()), code);
    }
}

#[test]
fn answers_depend_on_nothing_but_the_policy() {
    for kv in [KvDType::F32, KvDType::Int8, KvDType::Int4] {
        for model in [BITNET, BONSAI] {
            let of = |threads, prefill_chunk, prefix_cache| EngineConfig {
                threads: Some(threads),
                prefill_chunk,
                prefix_cache,
                kv,
                ..config()
            };
            let requests = || {
                let all = [SLIDING, SINKS, Eviction::None, HEAVY].into_iter();
                all.flat_map(|eviction| {
                    [20, 47, 64, 200].map(|prompt| evicting(eviction, prompt, 60))
                })
            };
            let plain = load(model, &of(1, 512, false));
            let expected: Vec<_> = requests()
                .map(|request| seen(&plain, request.clone()))
                .collect();
            assert_ne!(expected[3], expected[11], "the window shows");
            assert_ne!(expected[7], expected[11], "the sinks show");
            assert_ne!(expected[3], expected[7], "the sinks show");
            assert_ne!(expected[15], expected[11], "what is forgotten shows");
            assert_eq!(expected[12], expected[8], "80 tokens are kept");
            for (threads, chunk, prefix) in
                [(2, 13, true), (3, 1, false), (4, 512, true), (2, 16, true)]
            {
                let engine = load(model, &of(threads, chunk, prefix));
                for round in 0..2 {
                    // All at once: in batches that change as they end.
                    let running: Vec<_> = requests()
                        .map(|request| start(&engine, request.clone()))
                        .collect();
                    for (index, (running, expected)) in
                        running.into_iter().zip(&expected).enumerate()
                    {
                        let output = running.collect();
                        let logprobs = output.deltas.iter().flat_map(|delta| &delta.logprobs);
                        let logprobs = format!("{:?}", logprobs.collect::<Vec<_>>());
                        assert_eq!(
                            (&output.tokens, &logprobs),
                            (&expected.0, &expected.1),
                            "{model} {kv} {threads} threads, chunks of {chunk}, round {round}, request {index}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_window_that_holds_all_changes_no_bit() {
    let engine = load(BITNET, &config());
    let context = engine.model_info().context_length;
    let expected = seen(&engine, evicting(Eviction::None, 100, 200));
    for eviction in [
        Eviction::SlidingWindow { window: 300 },
        Eviction::SlidingWindow {
            window: context - 31,
        },
        Eviction::AttentionSinks {
            sinks: 4,
            window: 284,
        },
    ] {
        assert_eq!(seen(&engine, evicting(eviction, 100, 200)), expected);
    }
    assert_eq!(engine.stats().evicted_blocks, 0);
}

#[test]
fn what_is_found_in_the_prefix_cache_is_only_what_saw_everything() {
    let engine = load(BITNET, &config());
    let reused = |request: GenerateRequest| {
        let before = engine.stats().prefix_tokens_reused;
        drop(run(&engine, request));
        settled(&engine);
        engine.stats().prefix_tokens_reused - before
    };
    assert_eq!(reused(evicting(Eviction::None, 200, 1)), 0);
    // Blocks whose positions all see from the first one on: up to the 48th, and 16 more with sinks.
    assert_eq!(reused(evicting(SLIDING, 200, 1)), 48);
    assert_eq!(reused(evicting(SINKS, 200, 1)), 64);
    engine.clear_prefix_cache().expect("it lives");
    assert_eq!(reused(evicting(SINKS, 200, 1)), 0);
    // What was left there serves others that far, and no farther.
    assert_eq!(reused(evicting(Eviction::None, 200, 1)), 64);
    assert_eq!(reused(evicting(Eviction::None, 200, 1)), 192);
}

#[test]
fn pre_emption_and_proposals_change_no_token() {
    let one = load(BITNET, &config());
    let context = one.model_info().context_length;
    let requests: Vec<_> = (0..8)
        .map(|index| {
            let eviction = [SLIDING, SINKS, HEAVY, Eviction::None][index % 4];
            GenerateRequest {
                prompt_lookup: [0, 8][index % 2],
                ..evicting(eviction, 60 + 40 * index, 150)
            }
        })
        .collect();
    let alone: Vec<_> = requests
        .iter()
        .map(|request| {
            let plain = GenerateRequest {
                prompt_lookup: 0,
                ..request.clone()
            };
            run(&one, plain).tokens
        })
        .collect();
    for kv in [KvDType::Int8, KvDType::Int4] {
        let alone = match kv {
            KvDType::Int8 => alone.clone(),
            _ => {
                let one = load(BITNET, &EngineConfig { kv, ..config() });
                let plain = requests.iter().map(|request| GenerateRequest {
                    prompt_lookup: 0,
                    ..request.clone()
                });
                plain.map(|request| run(&one, request).tokens).collect()
            }
        };
        let engine = load(
            BITNET,
            &EngineConfig {
                kv_tokens: Some(context),
                kv,
                ..config()
            },
        );
        let running: Vec<_> = requests
            .iter()
            .map(|request| start(&engine, request.clone()))
            .collect();
        for (index, (running, alone)) in running.into_iter().zip(&alone).enumerate() {
            assert_eq!(&running.collect().tokens, alone, "{kv} request {index}");
        }
        settled(&engine);
        let stats = engine.stats();
        assert!(
            stats.preemptions > 0 && stats.accepted_tokens > 0,
            "{stats:?}"
        );
        engine.clear_prefix_cache().expect("it lives");
        settled(&engine);
    }
}

#[test]
fn an_engines_policy_holds_for_all_that_it_computes() {
    let text = tokens(1500);
    let score = |eviction: Eviction, chunk: usize, window: Option<usize>| {
        let config = EngineConfig {
            eviction,
            prefill_chunk: chunk,
            ..config()
        };
        let engine = load(BITNET, &config);
        let score = wait(|reply| engine.score(text.clone(), window, 0, reply)).expect("a score");
        settled(&engine);
        (score.tokens, score.sum_nll.to_bits())
    };
    for eviction in [SLIDING, SINKS] {
        let expected = score(eviction, 512, None);
        assert_eq!(expected.0, 1499);
        assert_eq!(score(eviction, 13, None), expected);
        // Window after window, on the same sequence.
        let parts = score(eviction, 512, Some(400));
        assert_eq!(parts.0, 1500 - 4);
        assert_ne!(parts.1, score(Eviction::None, 512, Some(400)).1);
    }
    let engine = load(
        BITNET,
        &EngineConfig {
            eviction: SINKS,
            ..config()
        },
    );
    let long = tokens(2 * engine.model_info().context_length);
    let logits = wait(|reply| engine.logits(long.clone(), false, 0, reply)).expect("logits");
    assert_eq!(logits.rows, 1);
    let embedding = wait(|reply| engine.embed(long.clone(), true, 0, reply)).expect("a vector");
    assert!(embedding.iter().all(|x| x.is_finite()));
    // A request's own policy comes first.
    let refused = engine.generate(evicting(Eviction::None, long.len(), 1), Box::new(|_| {}));
    assert_eq!(refused.expect_err("too long").code(), "CONTEXT_OVERFLOW");
}

#[test]
fn what_is_saved_is_whole_and_what_is_longer_than_the_context_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("prefix");
    let config = EngineConfig {
        eviction: SINKS,
        ..config()
    };
    let engine = load(BITNET, &config);
    let expected = seen(&engine, evicting(SINKS, 300, 40));
    let saved = engine
        .save_prefix(&tokens(300), b"", &path, &GO_ON)
        .expect("it is saved");
    assert_eq!(saved.tokens, 288);
    let long = tokens(2 * engine.model_info().context_length);
    let refused = engine
        .save_prefix(&long, b"", &path, &GO_ON)
        .expect_err("too long");
    assert_eq!(refused.code(), "CONTEXT_OVERFLOW");
    let other = load(BITNET, &config);
    other.restore_prefix(&path, &GO_ON).expect("it is restored");
    settled(&other);
    let before = other.stats().prefix_tokens_reused;
    assert_eq!(seen(&other, evicting(SINKS, 300, 40)), expected);
    assert_eq!(other.stats().prefix_tokens_reused - before, 64);
    settled(&other);
    drop(run(&other, evicting(Eviction::None, 300, 1)));
    assert_eq!(other.stats().prefix_tokens_reused - before, 64 + 288);
}

#[test]
fn policies_without_room_are_refused_by_name() {
    let with = |eviction| EngineConfig {
        eviction,
        ..config()
    };
    let wrong = Eviction::SlidingWindow { window: 1 << 20 };
    let load = ryz_engine::Engine::load(&reference(BITNET), &with(wrong), &mut |_| {
        std::ops::ControlFlow::Continue(())
    });
    let engine = common::load(BITNET, &config());
    let request = engine.generate(evicting(wrong, 3, 1), Box::new(|_| {}));
    for error in [load.err(), request.err()] {
        let error = error.expect("refused");
        assert!(
            matches!(
                error,
                EngineError::InvalidArgument {
                    option: "eviction.window",
                    ..
                }
            ),
            "{error}"
        );
    }
}
