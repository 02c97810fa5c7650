//! Requests scheduled now and waited for later.

mod common;

use common::*;
use ryz_engine::{FinishReason, GenerateRequest};

#[test]
fn tasks_run_together_and_each_gives_its_whole_answer() {
    let engine = load(BITNET, &config());
    let request = |first: u32| greedy(ryz_engine::Prompt::Tokens(vec![first, 7, 9]), 20);
    let alone: Vec<_> = (1..5).map(|first| run(&engine, request(first))).collect();
    let tasks: Vec<_> = (1..5)
        .map(|first| {
            let few = GenerateRequest {
                credits: 1,
                ..request(first)
            };
            engine.schedule_task(few).expect("a valid request")
        })
        .collect();
    for (task, alone) in tasks.into_iter().zip(&alone) {
        let whole = task.wait_for_completion().expect("an answer");
        assert_eq!(
            (&whole.token_ids, &whole.text),
            (&alone.tokens, &alone.text)
        );
        assert_eq!(whole.finish.reason, FinishReason::Length);
        assert_eq!(whole.finish.usage.completion_tokens, 20);
    }
    let whole = engine.execute(request(1)).expect("an answer");
    assert_eq!(whole.token_ids, alone[0].tokens);
}

#[test]
fn a_task_may_be_cancelled_or_dropped_and_errors_come_through() {
    let engine = load(BITNET, &config());
    let long = || greedy(text("Once upon a time"), 400);
    let task = engine.schedule_task(long()).expect("a valid request");
    task.cancel();
    let ended = task.wait_for_completion().expect("what there was");
    assert_eq!(ended.finish.reason, FinishReason::Abort);
    drop(engine.schedule_task(long()).expect("a valid request"));
    settled(&engine);
    let stats = engine.stats();
    assert_eq!((stats.running, stats.kv_blocks_free), (0, stats.kv_blocks));
    let wrong = GenerateRequest {
        max_tokens: Some(0),
        ..long()
    };
    let error = engine.execute(wrong).expect_err("no tokens");
    assert_eq!(error.code(), "INVALID_ARGUMENT");
    let task = engine.schedule_task(long()).expect("a valid request");
    engine.dispose();
    let error = task.wait_for_completion().expect_err("it is gone");
    assert_eq!(error.code(), "DISPOSED");
}
