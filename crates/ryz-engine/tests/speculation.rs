//! Prompt lookup: the answer of plain decoding, in fewer steps where the text repeats itself.

mod common;

use common::*;
use ryz_engine::{
    Constraint, Engine, EngineConfig, EngineStats, Event, FinishReason, GenerateRequest, KvDType,
    Mirostat, Prompt, SamplingParams,
};

/// Phrases that come again and again, as in a text that is quoted.
fn repetitive(count: usize) -> Prompt {
    Prompt::Tokens((0..count as u32).map(|t| t % 12 * 7 + 3).collect())
}

/// Everything that a consumer sees but how tokens were grouped, to the last bit.
fn seen(engine: &Engine, request: GenerateRequest) -> (Vec<u32>, String, String, FinishReason) {
    let output = run(engine, request);
    let logprobs = output.deltas.iter().flat_map(|delta| &delta.logprobs);
    let logprobs = format!("{:?}", logprobs.collect::<Vec<_>>());
    let reason = output.finish().reason;
    (output.tokens, output.text, logprobs, reason)
}

fn counted(engine: &Engine, work: impl FnOnce()) -> EngineStats {
    settled(engine);
    let before = engine.stats();
    work();
    settled(engine);
    let after = engine.stats();
    EngineStats {
        steps: after.steps - before.steps,
        proposed_tokens: after.proposed_tokens - before.proposed_tokens,
        accepted_tokens: after.accepted_tokens - before.accepted_tokens,
        generated_tokens: after.generated_tokens - before.generated_tokens,
        ..after
    }
}

/// The tokens of a generation whose consumer grants as many as it has taken.
fn read_slowly(running: &Running) -> Vec<u32> {
    let mut tokens = Vec::new();
    loop {
        match running.next().expect("an event within a minute") {
            Event::Delta(delta) => {
                running.handle.grant(delta.token_ids.len() as u32);
                tokens.extend(delta.token_ids);
            }
            Event::Finish(_) => return tokens,
            other => panic!("{other:?}"),
        }
    }
}

fn samplers() -> Vec<(&'static str, SamplingParams)> {
    let greedy = || SamplingParams {
        ignore_eos: true,
        logprobs: Some(3),
        ..SamplingParams::greedy()
    };
    // Cold enough to repeat itself, warm enough to break off.
    let drawn = || SamplingParams {
        seed: Some(5),
        logprobs: Some(3),
        ignore_eos: true,
        temperature: 0.4,
        ..SamplingParams::default()
    };
    vec![
        ("greedy", greedy()),
        ("drawn", drawn()),
        (
            "penalties",
            SamplingParams {
                repetition_penalty: 1.2,
                frequency_penalty: 0.3,
                ..drawn()
            },
        ),
        (
            "mirostat",
            SamplingParams {
                mirostat: Mirostat::V2 { tau: 3.0, eta: 0.2 },
                ..drawn()
            },
        ),
    ]
}

#[test]
fn the_answer_is_that_of_plain_decoding_for_every_sampler_and_cache() {
    let mut accepted = 0;
    let mut rejected = 0;
    for kv in [KvDType::F32, KvDType::F16, KvDType::Int8, KvDType::Int4] {
        for model in [BITNET, BONSAI] {
            let engine = load(model, &EngineConfig { kv, ..config() });
            for (name, sampling) in samplers() {
                let request = |prompt_lookup| GenerateRequest {
                    sampling: sampling.clone(),
                    prompt_lookup,
                    ..greedy(repetitive(50), 120)
                };
                let plain = seen(&engine, request(0));
                for most in [1, 8, 64] {
                    let stats = counted(&engine, || {
                        assert_eq!(
                            seen(&engine, request(most)),
                            plain,
                            "{model} {kv:?} {name} {most}"
                        );
                    });
                    accepted += stats.accepted_tokens;
                    rejected += stats.proposed_tokens - stats.accepted_tokens;
                }
            }
        }
    }
    // Or nothing was shown.
    assert!(accepted > 100 && rejected > 100, "{accepted} {rejected}");
}

#[test]
fn a_text_that_repeats_itself_takes_fewer_steps() {
    let engine = load(BITNET, &config());
    // Greedy decoding of so small a model runs into a loop.
    let request = |prompt_lookup| GenerateRequest {
        prompt_lookup,
        ..greedy(repetitive(48), 200)
    };
    let plain = counted(&engine, || drop(run(&engine, request(0))));
    let ahead = counted(&engine, || drop(run(&engine, request(8))));
    assert_eq!((plain.proposed_tokens, plain.generated_tokens), (0, 200));
    assert_eq!(ahead.generated_tokens, 200);
    assert_eq!(ahead.steps, plain.steps - ahead.accepted_tokens);
    assert!(ahead.accepted_tokens >= 50, "{ahead:?}");
}

#[test]
fn limits_stops_and_the_context_end_it_where_they_end_plain_decoding() {
    let engine = load(BITNET, &config());
    let context = engine.model_info().context_length;
    let plain = seen(&engine, greedy(repetitive(48), 60));
    for max_tokens in [1, 2, 7, 33] {
        let request = GenerateRequest {
            prompt_lookup: 64,
            ..greedy(repetitive(48), max_tokens)
        };
        let (tokens, .., reason) = seen(&engine, request);
        assert_eq!(tokens, plain.0[..max_tokens as usize]);
        assert_eq!(reason, FinishReason::Length);
    }
    for stop_at in [5, 20, 41] {
        let with = |prompt_lookup| GenerateRequest {
            stop_tokens: vec![plain.0[stop_at]],
            prompt_lookup,
            ..greedy(repetitive(48), 60)
        };
        assert_eq!(seen(&engine, with(8)), seen(&engine, with(0)), "{stop_at}");
    }
    let to_the_end = |prompt_lookup| GenerateRequest {
        max_tokens: None,
        prompt_lookup,
        ..greedy(repetitive(context - 40), 1)
    };
    let (tokens, .., reason) = seen(&engine, to_the_end(64));
    assert_eq!((tokens.len(), reason), (40, FinishReason::Length));
    assert_eq!(tokens, seen(&engine, to_the_end(0)).0);
}

#[test]
fn constrained_answers_are_the_same() {
    let engine = load(BITNET, &config());
    let request = |prompt_lookup| GenerateRequest {
        constraint: Some(Constraint::Regex("(ab|cd){12,40}e".to_owned())),
        prompt_lookup,
        ..greedy(text("ab"), 90)
    };
    let plain = seen(&engine, request(0));
    assert_eq!(seen(&engine, request(8)), plain);
}

#[test]
fn batches_small_pools_and_slow_readers_change_nothing() {
    let one = load(BITNET, &config());
    let context = one.model_info().context_length;
    let requests: Vec<_> = (0..6)
        .map(|index| GenerateRequest {
            prompt_lookup: [0, 8, 3][index % 3],
            credits: [1_000_000, 2][index % 2],
            ..greedy(repetitive(20 + 17 * index), 60)
        })
        .collect();
    let alone: Vec<_> = requests
        .iter()
        .map(|request| {
            let plain = GenerateRequest {
                prompt_lookup: 0,
                credits: 1_000_000,
                ..request.clone()
            };
            run(&one, plain).tokens
        })
        .collect();
    for prefix_cache in [true, false] {
        let engine = load(
            BITNET,
            &EngineConfig {
                kv_tokens: Some(context),
                prefix_cache,
                ..config()
            },
        );
        let running: Vec<_> = requests
            .iter()
            .map(|request| start(&engine, request.clone()))
            .collect();
        for (running, alone) in running.into_iter().zip(&alone) {
            assert_eq!(&read_slowly(&running), alone);
        }
        settled(&engine);
        engine.clear_prefix_cache().expect("it is there");
        settled(&engine);
        let stats = engine.stats();
        assert_eq!(stats.kv_blocks_free, stats.kv_blocks);
    }
}

#[test]
fn too_many_proposals_are_refused_by_name() {
    let engine = load(BITNET, &config());
    let request = GenerateRequest {
        prompt_lookup: 65,
        ..greedy(text("a"), 1)
    };
    let refused = engine.generate(request, Box::new(|_| {})).err();
    let message = refused.expect("refused").to_string();
    assert!(message.contains("promptLookup"), "{message}");
}

#[test]
fn blocks_that_were_filled_ahead_serve_later_requests_like_others() {
    for kv in [KvDType::Int8, KvDType::Int4] {
        let config = EngineConfig { kv, ..config() };
        let engine = load(BITNET, &config);
        let plain = load(
            BITNET,
            &EngineConfig {
                prefix_cache: false,
                ..config
            },
        );
        let ahead = GenerateRequest {
            prompt_lookup: 15,
            ..greedy(repetitive(40), 100)
        };
        let stats = counted(&engine, || drop(run(&engine, ahead.clone())));
        assert!(stats.accepted_tokens > 30, "{kv}: {stats:?}");
        let Prompt::Tokens(mut tokens) = repetitive(40) else {
            panic!("a prompt of tokens")
        };
        tokens.extend(run(&plain, greedy(repetitive(40), 100)).tokens);
        let reused = engine.stats().prefix_tokens_reused;
        let again = GenerateRequest {
            sampling: SamplingParams {
                logprobs: Some(3),
                ..SamplingParams::greedy()
            },
            ..greedy(Prompt::Tokens(tokens), 12)
        };
        let found = seen(&engine, again.clone());
        assert_eq!(engine.stats().prefix_tokens_reused - reused, 128, "{kv}");
        assert_eq!(found, seen(&plain, again), "{kv}");
        settled(&engine);
    }
}
