//! Many requests at once, cancels, pre-emption, the end of an engine.

mod common;

use std::ops::ControlFlow;
use std::sync::mpsc::channel;
use std::time::Duration;

use common::*;
use ryz_engine::{
    Engine, EngineConfig, EngineError, Event, FinishReason, GenerateRequest, KvDType, Prompt,
    SamplingParams,
};

fn prompt(i: u32) -> Prompt {
    Prompt::Tokens(
        (0..5 + i * 11 % 60)
            .map(|t| (t * 7 + i * 13) % 400)
            .collect(),
    )
}

fn requests() -> Vec<GenerateRequest> {
    let seeded = |i: u32| SamplingParams {
        seed: Some(u64::from(i)),
        temperature: 1.0,
        ignore_eos: true,
        repetition_penalty: 1.2,
        ..SamplingParams::default()
    };
    (0..12)
        .map(|i| {
            let mut request = greedy(prompt(i), 5 + i * 7 % 40);
            if i % 2 == 1 {
                request.sampling = seeded(i);
            }
            request
        })
        .collect()
}

fn alone(model: &str, config: &EngineConfig) -> Vec<Vec<u32>> {
    let engine = load(model, config);
    requests()
        .into_iter()
        .map(|r| run(&engine, r).tokens)
        .collect()
}

#[test]
fn a_request_gives_the_same_tokens_alone_and_in_any_batch() {
    let caches = [(BITNET, KvDType::default()), (BONSAI, KvDType::default())];
    for (model, kv) in caches.into_iter().chain([(BITNET, KvDType::Int4)]) {
        let base = EngineConfig { kv, ..config() };
        let want = alone(model, &base);
        for (max_sequences, prefill_chunk) in [(8, 512), (3, 13), (12, 1)] {
            let config = EngineConfig {
                max_sequences,
                prefill_chunk,
                ..base.clone()
            };
            let engine = load(model, &config);
            let running: Vec<Running> = requests().into_iter().map(|r| start(&engine, r)).collect();
            let got: Vec<Vec<u32>> = running.into_iter().map(|r| r.collect().tokens).collect();
            assert_eq!(
                got, want,
                "{model}, {kv}, {max_sequences} at once, chunks of {prefill_chunk}"
            );
            settled(&engine);
        }
    }
}

#[test]
fn preemption_changes_no_token() {
    for kv in KvDType::ALL {
        let base = EngineConfig { kv, ..config() };
        let want = alone(BITNET, &base);
        let tight = EngineConfig {
            context_length: Some(112),
            kv_tokens: Some(112),
            ..base
        };
        let engine = load(BITNET, &tight);
        let running: Vec<Running> = requests().into_iter().map(|r| start(&engine, r)).collect();
        let got: Vec<Vec<u32>> = running.into_iter().map(|r| r.collect().tokens).collect();
        assert_eq!(got, want, "{kv}");
        assert!(
            engine.stats().preemptions > 0,
            "the pool was not tight enough to test anything"
        );
        settled(&engine);
    }
}

#[test]
fn jobs_run_beside_generations_and_survive_preemption() {
    let tokens: Vec<u32> = (0..100).map(|i| i * 3 % 400).collect();
    let quiet = load(BITNET, &config());
    let want = wait(|r| quiet.score(tokens.clone(), Some(50), 0, r)).unwrap();
    let tight = EngineConfig {
        context_length: Some(112),
        kv_tokens: Some(160),
        ..config()
    };
    let engine = load(BITNET, &tight);
    let running: Vec<Running> = requests().into_iter().map(|r| start(&engine, r)).collect();
    let got = wait(|r| engine.score(tokens.clone(), Some(50), 0, r)).unwrap();
    assert_eq!(
        (got.tokens, got.sum_nll.to_bits()),
        (want.tokens, want.sum_nll.to_bits())
    );
    running.into_iter().for_each(|r| drop(r.collect()));
    settled(&engine);
}

#[test]
fn a_cancel_frees_everything_at_any_moment() {
    let engine = load(
        BITNET,
        &EngineConfig {
            prefill_chunk: 16,
            ..config()
        },
    );
    for delay in 0..20 {
        let long: Vec<u32> = (0..120).collect();
        let running = start(&engine, greedy(Prompt::Tokens(long), 100_000));
        std::thread::sleep(Duration::from_micros(delay * 300));
        running.handle.cancel();
        running.handle.cancel();
        let out = running.collect();
        assert_eq!(out.reason(), FinishReason::Abort);
        settled(&engine);
    }
    // And the engine is as good as new.
    assert_eq!(run(&engine, greedy(prompt(1), 5)).tokens.len(), 5);
}

#[test]
fn dropping_the_handle_cancels() {
    let engine = load(BITNET, &config());
    let running = start(&engine, greedy(prompt(3), 100_000));
    let Some(Event::Delta(_)) = running.next() else {
        panic!("no delta")
    };
    drop(running.handle);
    settled(&engine);
}

#[test]
fn cancelling_one_leaves_the_others_alone() {
    let want = alone(BITNET, &config());
    let engine = load(BITNET, &config());
    let mut running: Vec<Option<Running>> = requests()
        .into_iter()
        .map(|r| Some(start(&engine, r)))
        .collect();
    let doomed = running[0].take().unwrap();
    doomed.handle.cancel();
    drop(doomed);
    for (i, r) in running.into_iter().enumerate() {
        if let Some(r) = r {
            assert_eq!(r.collect().tokens, want[i]);
        }
    }
    settled(&engine);
}

#[test]
fn a_full_queue_refuses_by_code() {
    let engine = load(
        BITNET,
        &EngineConfig {
            max_sequences: 1,
            max_queue: 2,
            ..config()
        },
    );
    // Nobody reads: it holds the only slot.
    let first = start(
        &engine,
        GenerateRequest {
            credits: 1,
            ..greedy(prompt(0), 50)
        },
    );
    let Some(Event::Delta(_)) = first.next() else {
        panic!("no delta")
    };
    // Those without credits wait for ever.
    let unread = || GenerateRequest {
        credits: 0,
        ..greedy(prompt(1), 5)
    };
    let (a, b) = (start(&engine, unread()), start(&engine, unread()));
    let refused = engine.generate(unread(), Box::new(|_| {})).unwrap_err();
    assert!(matches!(refused, EngineError::QueueFull { limit: 2 }));
    assert_eq!(refused.code(), "QUEUE_FULL");
    a.handle.cancel();
    assert_eq!(a.collect().reason(), FinishReason::Abort);
    let c = start(&engine, unread()); // there is room again
    drop((b.handle, c.handle, first.handle));
    settled(&engine);
}

#[test]
fn an_unread_stream_does_not_hold_up_the_others() {
    let engine = load(
        BITNET,
        &EngineConfig {
            max_sequences: 1,
            ..config()
        },
    );
    let unread = start(
        &engine,
        GenerateRequest {
            credits: 1,
            ..greedy(prompt(0), 20)
        },
    );
    let Some(Event::Delta(first)) = unread.next() else {
        panic!("no delta")
    };
    let out = run(&engine, greedy(prompt(1), 5));
    assert_eq!(out.tokens.len(), 5);
    // It goes on where it was when it is read again.
    unread.handle.grant(1000);
    let rest = unread.collect();
    let all: Vec<u32> = first.token_ids.into_iter().chain(rest.tokens).collect();
    assert_eq!(all, run(&engine, greedy(prompt(0), 20)).tokens);
}

#[test]
fn dispose_ends_everything_and_may_be_called_twice() {
    let engine = load(BITNET, &config());
    let running: Vec<Running> = (0..12)
        .map(|i| start(&engine, greedy(prompt(i), 100_000)))
        .collect();
    let texts: Vec<Running> = (0..4)
        .map(|_| start(&engine, greedy(text("some words"), 100_000)))
        .collect();
    let (sender, result) = channel();
    let job = engine
        .logits(
            vec![1; 100],
            true,
            0,
            Box::new(move |r| drop(sender.send(r))),
        )
        .unwrap();
    engine.dispose();
    engine.dispose();
    assert!(engine.is_disposed());
    for r in running.into_iter().chain(texts) {
        let out = r.collect();
        assert!(
            matches!(out.end, Err(EngineError::Disposed)),
            "{:?}",
            out.end
        );
    }
    // The job may have come to its end before.
    assert!(matches!(
        result.recv().unwrap(),
        Ok(_) | Err(EngineError::Disposed)
    ));
    drop(job);
    let refused = engine
        .generate(greedy(prompt(1), 1), Box::new(|_| {}))
        .unwrap_err();
    assert_eq!(refused.code(), "DISPOSED");
}

#[test]
fn the_last_clone_ends_the_engine() {
    let engine = load(BITNET, &config());
    let running = start(&engine, greedy(prompt(1), 100_000));
    drop(engine.clone());
    let Some(Event::Delta(_)) = running.next() else {
        panic!("no delta")
    };
    drop(engine);
    assert!(matches!(running.collect().end, Err(EngineError::Disposed)));
}

#[test]
fn a_panic_on_the_engine_thread_is_told_to_everyone() {
    let engine = load(BITNET, &config());
    let other = start(&engine, greedy(prompt(1), 100_000));
    let bomb = |event: Event| {
        if let Event::Delta(_) = event {
            panic!("a consumer went wrong");
        }
    };
    let bomb = engine
        .generate(greedy(prompt(2), 5), Box::new(bomb))
        .unwrap();
    let out = other.collect();
    let error = out.end.unwrap_err();
    assert_eq!(error.code(), "INTERNAL");
    assert!(
        error.to_string().contains("a consumer went wrong"),
        "{error}"
    );
    let refused = engine
        .generate(greedy(prompt(1), 1), Box::new(|_| {}))
        .unwrap_err();
    assert_eq!(refused.code(), "INTERNAL");
    drop(bomb);
    engine.dispose();
}

#[test]
fn a_load_can_be_stopped() {
    let stopped = Engine::load(&reference(BITNET), &config(), &mut |_| {
        ControlFlow::Break(())
    })
    .unwrap_err();
    assert_eq!(stopped.code(), "ABORTED");
}

#[test]
fn a_load_names_what_is_wrong() {
    let load = |name: &str, config: EngineConfig| {
        Engine::load(
            &reference(name),
            &config,
            &mut |_| ControlFlow::Continue(()),
        )
        .unwrap_err()
    };
    assert_eq!(load("not-there.gguf", config()).code(), "FILE_NOT_FOUND");
    let wide = EngineConfig {
        context_length: Some(1 << 30),
        ..config()
    };
    let error = load(BITNET, wide);
    assert_eq!(error.code(), "INVALID_ARGUMENT");
    assert!(error.to_string().contains("contextLength"));
    let narrow = EngineConfig {
        memory_limit: Some(1000),
        ..config()
    };
    assert_eq!(load(BITNET, narrow).code(), "MEMORY_LIMIT");
}
