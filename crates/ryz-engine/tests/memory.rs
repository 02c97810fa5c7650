//! The layout of an engine's memory, and blocks of its cache that move under live requests.
#![allow(clippy::unwrap_used)] // helpers of tests, too

mod common;

use std::time::{Duration, Instant};

use common::*;
use ryz_engine::{
    Compaction, Engine, EngineConfig, Event, GenerateRequest, KvDType, MemoryLayout, Prompt,
    SamplingParams,
};

const CREDITS: u32 = 5;

fn long() -> GenerateRequest {
    greedy(Prompt::Tokens((0..200).map(|t| t * 7 % 400).collect()), 8)
}

/// What lives on while the long one ends.
fn lasting() -> GenerateRequest {
    let mut request = greedy(Prompt::Tokens((0..60).map(|t| t * 13 % 400).collect()), 60);
    request.sampling.logprobs = Some(3);
    request
}

/// Without the prefix cache, which leaves no holes until it has taken all blocks.
fn with(compact_above: f64, kv: KvDType) -> EngineConfig {
    EngineConfig {
        prefix_cache: false,
        compact_above,
        kv,
        ..config()
    }
}

/// The lasting request, stopped in the middle, behind the hole that the long one leaves.
fn behind_a_hole(engine: &Engine) -> (Running, Vec<Event>) {
    let first = start(engine, long());
    let started = first.next();
    assert!(matches!(started, Some(Event::Delta(_))), "{started:?}");
    let mut request = lasting();
    request.credits = CREDITS;
    let second = start(engine, request);
    let events = (0..CREDITS).map(|_| second.next().unwrap()).collect();
    first.collect();
    // Its blocks are free a moment after its last word.
    until(|| engine.stats().running == 1);
    (second, events)
}

fn until(done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "not within a minute");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What a request said, to the last bit.
fn said(events: Vec<Event>, rest: Output) -> (Vec<u32>, String) {
    let mut deltas = Vec::new();
    for event in events {
        match event {
            Event::Delta(delta) => deltas.push(delta),
            other => panic!("{other:?}"),
        }
    }
    deltas.extend(rest.deltas);
    let tokens = deltas.iter().flat_map(|d| d.token_ids.iter().copied());
    let logprobs: Vec<_> = deltas.iter().map(|d| &d.logprobs).collect();
    (tokens.collect(), format!("{logprobs:?}"))
}

fn compact(engine: &Engine) -> Compaction {
    let (sender, received) = std::sync::mpsc::channel();
    let reply = Box::new(move |answer| drop(sender.send(answer)));
    engine.compact_memory(reply).unwrap();
    received
        .recv_timeout(Duration::from_secs(60))
        .unwrap()
        .unwrap()
}

fn cache_of(layout: &MemoryLayout) -> &ryz_tmac::PagedLayout {
    &layout.paged[0]
}

#[test]
fn a_forced_move_in_the_middle_of_a_generation_changes_nothing_that_it_says() {
    for kv in KvDType::ALL {
        let engine = load(BITNET, &with(1.0, kv));
        let expected = said(Vec::new(), run(&engine, lasting()));
        settled(&engine);
        let (request, events) = behind_a_hole(&engine);
        let layout = engine.memory_layout();
        let before = cache_of(&layout);
        assert!(before.fragmentation > 0.5, "{before}");
        let end = before.address + before.capacity * before.page_bytes;

        let compaction = compact(&engine);
        assert_eq!(compaction.fragmentation, before.fragmentation);
        assert_eq!(compaction.moves.len(), before.live);
        for &(was, is) in &compaction.moves {
            assert!(before.address <= is && is < was && was < end);
            let lay_in =
                |hole: &ryz_tmac::Hole| (hole.address..hole.address + hole.bytes).contains(&is);
            assert!(before.holes.iter().any(lay_in), "{is:#x} was in use");
        }
        let layout = engine.memory_layout();
        let after = cache_of(&layout);
        assert_eq!((after.live, after.fragmentation), (before.live, 0.0));
        assert_eq!(after.moved, before.live as u64);
        // One hole: all that lies behind the live ones.
        let tail = before.address + before.live * before.page_bytes;
        assert_eq!(after.holes.len(), 1);
        assert_eq!(
            (after.holes[0].address, after.holes[0].bytes),
            (tail, end - tail)
        );
        if cfg!(target_os = "linux") {
            assert!(compaction.released_bytes > 0);
        }

        request.handle.grant(1000);
        assert_eq!(said(events, request.collect()), expected, "{kv}");
        settled(&engine);
        assert_eq!(run(&engine, lasting()).tokens, expected.0);
    }
}

#[test]
fn past_the_threshold_holes_are_closed_without_being_asked() {
    let engine = load(BITNET, &with(0.3, KvDType::F16));
    let expected = said(Vec::new(), run(&engine, lasting()));
    settled(&engine);
    // One sequence after another leaves no holes between live blocks.
    assert_eq!(engine.stats().compactions, 0);
    let (request, events) = behind_a_hole(&engine);
    until(|| engine.stats().compactions > 0);
    let layout = engine.memory_layout();
    assert_eq!(cache_of(&layout).fragmentation, 0.0);
    assert!(engine.stats().kv_blocks_moved > 0);
    request.handle.grant(1000);
    assert_eq!(said(events, request.collect()), expected);
}

#[test]
fn an_idle_cache_gives_its_memory_back_when_asked() {
    let engine = load(BITNET, &with(1.0, KvDType::F32));
    let expected = run(&engine, long()).tokens;
    settled(&engine);
    let compaction = compact(&engine);
    assert_eq!((compaction.moves.len(), compaction.fragmentation), (0, 0.0));
    let layout = engine.memory_layout();
    let used = 13 * cache_of(&layout).page_bytes;
    if cfg!(target_os = "linux") {
        assert!((used - 8192..=used).contains(&compaction.released_bytes));
    }
    assert_eq!(compact(&engine).released_bytes, 0);
    assert_eq!(run(&engine, long()).tokens, expected);
    engine.dispose();
    let disposed = engine.compact_memory(Box::new(|_| {}));
    assert_eq!(disposed.unwrap_err().code(), "DISPOSED");
}

#[test]
fn the_layout_lists_what_was_loaded() {
    let engine = load(BITNET, &config());
    let layout = engine.memory_layout();
    assert_eq!(layout.stats, engine.memory_stats());
    let owners: Vec<_> = layout
        .regions
        .iter()
        .flat_map(|region| &region.blocks)
        .map(|block| block.owner.as_str())
        .collect();
    for owner in [
        "token_embd.weight",
        "blk.0.ffn_down.weight",
        "output_norm.weight",
        "logits",
        "keys and values",
    ] {
        assert!(owners.contains(&owner), "{owner} in {owners:?}");
    }
    // Nothing is there that nobody owns up to.
    assert!(owners.iter().all(|owner| !owner.is_empty()), "{layout}");
    let cache = cache_of(&layout);
    assert_eq!((cache.live, cache.fragmentation), (0, 0.0));
    let of_cache = |region: &&ryz_tmac::RegionLayout| region.address == cache.address;
    assert!(layout.regions.iter().any(|region| of_cache(&region)));
    let json: serde_json::Value = serde_json::from_str(&layout.to_json()).unwrap();
    assert_eq!(json["paged"][0]["capacity"], cache.capacity);
}

#[test]
fn every_large_buffer_is_taken_while_the_engine_is_loaded() {
    let engine = load(BITNET, &config());
    let before = engine.memory_stats();
    let mut sampled = greedy(text("The fox saw"), 30);
    sampled.sampling = SamplingParams::default();
    let running = [
        start(&engine, greedy(Prompt::Tokens((0..300).collect()), 40)),
        start(
            &engine,
            GenerateRequest {
                prompt_lookup: 8,
                ..greedy(text("a b a b a b"), 40)
            },
        ),
        start(&engine, sampled),
    ];
    wait(|r| engine.score((0..90).collect(), Some(40), 0, r)).unwrap();
    running.into_iter().for_each(|r| drop(r.collect()));
    settled(&engine);
    let after = engine.memory_stats();
    assert_eq!(after.allocations, before.allocations);
    assert_eq!((after.in_use, after.mapped), (before.in_use, before.mapped));
}
