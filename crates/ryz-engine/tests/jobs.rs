//! Logits, embeddings and scores, which must agree with each other.

mod common;

use std::sync::mpsc::channel;

use common::*;
use ryz_engine::{EngineConfig, Event, GenerateRequest, Prompt, math};

fn tokens() -> Vec<u32> {
    (0..90).map(|i| i * 17 % 500).collect()
}

#[test]
fn all_logits_end_with_the_last_and_do_not_depend_on_chunks() {
    for model in [BITNET, BONSAI] {
        let engine = load(model, &config());
        let all = wait(|r| engine.logits(tokens(), true, 0, r)).unwrap();
        let last = wait(|r| engine.logits(tokens(), false, 0, r)).unwrap();
        assert_eq!(
            (all.rows, last.rows, all.columns),
            (90, 1, engine.model_info().vocab_size)
        );
        assert_eq!(all.data.len(), 90 * all.columns);
        assert_eq!(all.data[89 * all.columns..], last.data);
        let half = wait(|r| engine.logits(tokens()[..45].to_vec(), false, 0, r)).unwrap();
        assert_eq!(all.data[44 * all.columns..45 * all.columns], half.data);
        for prefill_chunk in [1, 13] {
            let engine = load(
                model,
                &EngineConfig {
                    prefill_chunk,
                    ..config()
                },
            );
            let chunked = wait(|r| engine.logits(tokens(), true, 0, r)).unwrap();
            assert_eq!(chunked, all);
        }
        settled(&engine);
    }
}

#[test]
fn a_score_is_what_the_logits_say() {
    let engine = load(BITNET, &config());
    let tokens = tokens();
    let mut want = 0.0;
    let mut count = 0;
    for window in tokens.chunks(40) {
        let logits = wait(|r| engine.logits(window.to_vec(), true, 0, r)).unwrap();
        for (i, &next) in window[1..].iter().enumerate() {
            let row = &logits.data[i * logits.columns..(i + 1) * logits.columns];
            want += math::log_sum_exp(row) - f64::from(row[next as usize]);
            count += 1;
        }
    }
    let score = wait(|r| engine.score(tokens.clone(), Some(40), 0, r)).unwrap();
    assert_eq!(score.tokens, count);
    assert!((score.sum_nll - want).abs() < 1e-9 * want);
    assert!((score.perplexity() - (want / count as f64).exp()).abs() < 1e-6 * score.perplexity());
    // One window when none is given.
    let whole = wait(|r| engine.score(tokens, None, 0, r)).unwrap();
    assert_eq!(whole.tokens, 89);
    settled(&engine);
}

#[test]
fn embeddings_are_those_of_the_last_token() {
    let engine = load(BITNET, &config());
    let raw = wait(|r| engine.embed(tokens(), false, 0, r)).unwrap();
    let unit = wait(|r| engine.embed(tokens(), true, 0, r)).unwrap();
    assert_eq!(raw.len(), engine.model_info().hidden_size);
    let length = raw
        .iter()
        .map(|&x| f64::from(x) * f64::from(x))
        .sum::<f64>()
        .sqrt();
    for (r, u) in raw.iter().zip(&unit) {
        assert!((f64::from(*r) / length - f64::from(*u)).abs() < 1e-7);
    }
    let other = wait(|r| engine.embed(vec![1, 2, 3], false, 0, r)).unwrap();
    assert_ne!(raw, other);
}

#[test]
fn wrong_jobs_are_refused_by_name() {
    let engine = load(
        BITNET,
        &EngineConfig {
            context_length: Some(64),
            ..config()
        },
    );
    let vocab = engine.model_info().vocab_size as u32;
    let code = |tokens: Vec<u32>| {
        let logits = wait(|r| engine.logits(tokens.clone(), false, 0, r)).unwrap_err();
        let embed = wait(|r| engine.embed(tokens, true, 0, r)).unwrap_err();
        assert_eq!(logits.code(), embed.code());
        logits.code()
    };
    assert_eq!(code(vec![]), "INVALID_ARGUMENT");
    assert_eq!(code(vec![vocab]), "INVALID_ARGUMENT");
    assert_eq!(code(vec![0; 65]), "CONTEXT_OVERFLOW");
    let score =
        |tokens: Vec<u32>, window| wait(|r| engine.score(tokens, window, 0, r)).map(|s| s.tokens);
    assert_eq!(
        score(vec![0; 65], None).unwrap_err().code(),
        "CONTEXT_OVERFLOW"
    );
    assert_eq!(score(vec![0; 65], Some(64)).unwrap(), 63);
    assert_eq!(
        score(vec![0; 10], Some(65)).unwrap_err().code(),
        "INVALID_ARGUMENT"
    );
    assert_eq!(
        score(vec![0; 10], Some(1)).unwrap_err().code(),
        "INVALID_ARGUMENT"
    );
    assert_eq!(score(vec![0], None).unwrap_err().code(), "INVALID_ARGUMENT");
    assert_eq!(engine.stats().waiting, 0);
}

/// One slot, held by a generation with more priority than any of them, until they all wait.
#[test]
fn jobs_with_more_priority_go_first_and_all_wait_for_those_with_more_still() {
    let engine = load(
        BITNET,
        &EngineConfig {
            max_sequences: 1,
            ..config()
        },
    );
    let long = GenerateRequest {
        priority: 9,
        ..greedy(Prompt::Tokens(tokens()), 100_000)
    };
    let first = start(&engine, long);
    let Some(Event::Delta(_)) = first.next() else {
        panic!("no delta")
    };
    let (sender, ended) = channel();
    let told = |name: &'static str| {
        let sender = sender.clone();
        move |worked: bool| sender.send((name, worked)).unwrap()
    };
    let (logits, embed, score) = (told("logits"), told("embed"), told("score"));
    let _jobs = [
        engine.logits(tokens(), false, -1, Box::new(move |r| logits(r.is_ok()))),
        engine.embed(tokens(), true, 7, Box::new(move |r| embed(r.is_ok()))),
        engine.score(tokens(), None, 3, Box::new(move |r| score(r.is_ok()))),
    ];
    assert_eq!(
        engine.stats().waiting,
        3,
        "the generation came to its end too soon"
    );
    first.handle.cancel();
    let order: Vec<_> = ended.iter().take(3).collect();
    assert_eq!(order, [("embed", true), ("score", true), ("logits", true)]);
    // And one that comes later makes a generation with less wait.
    let slow = start(&engine, greedy(Prompt::Tokens(tokens()), 100_000));
    let Some(Event::Delta(_)) = slow.next() else {
        panic!("no delta")
    };
    wait(|r| engine.score(tokens(), None, 1, r)).unwrap();
    assert_eq!(engine.stats().preemptions, 1);
    slow.handle.cancel();
    settled(&engine);
}
