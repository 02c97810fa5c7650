//! Generations end to end on the tiny reference models: streaming, credits, stops, limits, options.

mod common;

use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use common::*;
use ryz_engine::{
    Engine, EngineConfig, EngineError, Event, FinishReason, GenerateRequest, Prompt, SamplingParams,
};

const PROMPT: &str = "Once upon a time there was a little";

#[test]
fn the_first_delta_comes_before_the_second_token_is_computed() {
    let engine = load(BITNET, &config());
    let steps_at_delta = Arc::new(Mutex::new(vec![]));
    let (seen, there) = (
        Arc::clone(&steps_at_delta),
        Arc::new(OnceLock::<Engine>::new()),
    );
    there.set(engine.clone()).unwrap();
    let (sender, events) = std::sync::mpsc::channel();
    let sink = move |event: Event| {
        if let Event::Delta(delta) = &event {
            // Called by the engine thread itself: what it has computed by now is what it will say.
            let stats = there.get().unwrap().stats();
            seen.lock()
                .unwrap()
                .push((delta.token_ids.len() as u64, stats.generated_tokens));
        }
        drop(sender.send(event));
    };
    let handle = engine
        .generate(greedy(text(PROMPT), 6), Box::new(sink))
        .unwrap();
    let out = Running { handle, events }.collect();
    assert_eq!(out.tokens.len(), 6);
    let mut delivered = 0;
    for &(tokens, computed) in steps_at_delta.lock().unwrap().iter() {
        delivered += tokens;
        assert_eq!(
            delivered, computed,
            "a delta was kept while the next token was computed"
        );
    }
}

#[test]
fn without_credits_nothing_is_computed() {
    let engine = load(BITNET, &config());
    let request = GenerateRequest {
        credits: 2,
        ..greedy(text(PROMPT), 50)
    };
    let running = start(&engine, request);
    let mut tokens = 0;
    while tokens < 2 {
        match running.next() {
            Some(Event::Delta(delta)) => tokens += delta.token_ids.len(),
            other => panic!("{other:?}"),
        }
    }
    // Text that is held back may take it a little past its credits, but then it stands still.
    std::thread::sleep(Duration::from_millis(100));
    let before = engine.stats().generated_tokens;
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(engine.stats().generated_tokens, before);
    assert!(before < 10, "{before}");
    assert!(running.events.try_recv().is_err());
    running.handle.grant(1000);
    let rest = running.collect();
    assert_eq!(tokens + rest.tokens.len(), 50);
    assert_eq!(rest.reason(), FinishReason::Length);
}

#[test]
fn usage_and_timings_fit_the_events() {
    let engine = load(BITNET, &config());
    let out = run(&engine, greedy(Prompt::Tokens(vec![1, 2, 3, 4, 5]), 20));
    let finish = out.finish();
    assert_eq!(
        (finish.usage.prompt_tokens, finish.usage.completion_tokens),
        (5, 20)
    );
    assert_eq!(out.tokens.len(), 20);
    let t = finish.timings;
    assert!(t.prefill > Duration::ZERO && t.decode > Duration::ZERO);
    assert!(t.time_to_first_token >= t.prefill);
    assert!((t.tokens_per_second - 19.0 / t.decode.as_secs_f64()).abs() < 1e-6);
}

#[test]
fn text_is_what_the_tokens_decode_to() {
    let engine = load(BITNET, &config());
    for seed in 0..8 {
        let request = GenerateRequest {
            sampling: SamplingParams {
                temperature: 3.0,
                top_k: 0,
                top_p: 1.0,
                min_p: 0.0,
                ignore_eos: true,
                seed: Some(seed),
                ..SamplingParams::default()
            },
            ..greedy(text(PROMPT), 60)
        };
        let out = run(&engine, request);
        // Random tokens of a byte-level vocabulary: characters are cut and completed all the time.
        assert_eq!(out.text, engine.tokenizer().decode(&out.tokens, true));
        assert_eq!(out.tokens.len(), 60);
    }
}

#[test]
fn a_stop_string_ends_the_text_before_it_wherever_tokens_cut_it() {
    let engine = load(BITNET, &config());
    let free = run(&engine, greedy(text(PROMPT), 40));
    let chars: Vec<(usize, char)> = free.text.char_indices().collect();
    let mut tried = 0;
    for (i, len) in [(3, 2), (5, 7), (10, 12), (20, 3)] {
        let (Some(&(start, _)), Some(&(end, _))) = (chars.get(i), chars.get(i + len)) else {
            continue;
        };
        let stop = free.text[start..end].to_owned();
        let first = free.text.find(&stop).unwrap();
        let request = GenerateRequest {
            stop: vec!["never this".into(), stop.clone()],
            ..greedy(text(PROMPT), 40)
        };
        let out = run(&engine, request);
        assert_eq!(out.text, free.text[..first], "stop {stop:?}");
        assert_eq!(out.reason(), FinishReason::Stop);
        assert!(free.tokens.starts_with(&out.tokens));
        tried += 1;
    }
    assert!(tried >= 3);
    // One that does not come changes nothing.
    let request = GenerateRequest {
        stop: vec!["\u{1f600}never".into()],
        ..greedy(text(PROMPT), 40)
    };
    let out = run(&engine, request);
    assert_eq!((out.text, out.tokens), (free.text, free.tokens));
    settled(&engine);
}

#[test]
fn a_stop_token_ends_and_is_not_delivered() {
    let engine = load(BITNET, &config());
    let free = run(&engine, greedy(text(PROMPT), 20));
    let stop = free.tokens[7];
    let first = free.tokens.iter().position(|&t| t == stop).unwrap();
    let request = || GenerateRequest {
        stop_tokens: vec![stop],
        ..greedy(text(PROMPT), 20)
    };
    let out = run(&engine, request());
    assert_eq!(out.tokens, free.tokens[..first]);
    assert_eq!(out.reason(), FinishReason::Stop);
    assert_eq!(out.finish().usage.completion_tokens, first);
    // min_tokens holds it back: another token is chosen instead.
    let mut patient = request();
    patient.sampling.min_tokens = first as u32 + 1;
    let out = run(&engine, patient);
    assert!(out.tokens.len() > first && out.tokens[first] != stop);
}

#[test]
fn the_same_seed_gives_the_same_text_and_is_reported() {
    let engine = load(BITNET, &config());
    let request = |seed| GenerateRequest {
        max_tokens: Some(30),
        sampling: SamplingParams {
            seed,
            temperature: 1.5,
            ignore_eos: true,
            ..SamplingParams::default()
        },
        credits: 1000,
        ..GenerateRequest::new(text(PROMPT))
    };
    let a = run(&engine, request(Some(7)));
    let b = run(&engine, request(Some(7)));
    assert_eq!((&a.text, &a.tokens), (&b.text, &b.tokens));
    assert_eq!(a.finish().seed, 7);
    let c = run(&engine, request(Some(8)));
    assert_ne!(a.tokens, c.tokens);
    let unseeded = run(&engine, request(None));
    let again = run(&engine, request(Some(unseeded.finish().seed)));
    assert_eq!(unseeded.tokens, again.tokens);
}

#[test]
fn logprobs_come_one_a_token_and_sum_to_the_score() {
    let engine = load(BITNET, &config());
    let prompt = vec![3, 1, 4, 1, 5];
    let mut request = greedy(Prompt::Tokens(prompt.clone()), 8);
    request.sampling.logprobs = Some(3);
    request.sampling.ignore_eos = false;
    let out = run(&engine, request);
    let logprobs: Vec<_> = out.deltas.iter().flat_map(|d| d.logprobs.clone()).collect();
    assert_eq!(logprobs.len(), out.tokens.len());
    for (l, &token) in logprobs.iter().zip(&out.tokens) {
        assert_eq!((l.token, l.top.len()), (token, 3));
        assert_eq!(
            l.top[0],
            (token, l.logprob),
            "greedy takes the most probable"
        );
        assert!(l.top[0].1 >= l.top[1].1 && l.top[1].1 >= l.top[2].1);
    }
    let all: Vec<u32> = prompt.iter().chain(&out.tokens).copied().collect();
    let score = |tokens: &[u32]| {
        wait(|r| engine.score(tokens.to_vec(), None, 0, r))
            .unwrap()
            .sum_nll
    };
    let want = score(&all) - score(&prompt);
    let got: f64 = logprobs.iter().map(|l| -f64::from(l.logprob)).sum();
    assert!((got - want).abs() < 1e-4, "{got} {want}");
}

#[test]
fn the_context_ends_a_generation_and_refuses_a_longer_prompt() {
    let small = EngineConfig {
        context_length: Some(32),
        ..config()
    };
    let engine = load(BITNET, &small);
    let out = run(&engine, greedy(Prompt::Tokens(vec![9; 20]), 1000));
    assert_eq!((out.tokens.len(), out.reason()), (12, FinishReason::Length));
    let out = run(&engine, greedy(Prompt::Tokens(vec![9; 31]), 1000));
    assert_eq!((out.tokens.len(), out.reason()), (1, FinishReason::Length));
    let refused = engine
        .generate(greedy(Prompt::Tokens(vec![9; 32]), 1), Box::new(|_| {}))
        .unwrap_err();
    assert!(matches!(
        refused,
        EngineError::ContextOverflow {
            limit: 31,
            context_length: 32,
            got: 32
        }
    ));
    assert_eq!(refused.code(), "CONTEXT_OVERFLOW");
    // Text is only known to be too long when it has been tokenised.
    let out = run(&engine, greedy(text(&"many words ".repeat(50)), 1));
    assert_eq!(out.end.unwrap_err().code(), "CONTEXT_OVERFLOW");
    settled(&engine);
}

#[test]
fn options_are_refused_by_name() {
    let engine = load(BITNET, &config());
    let vocab = engine.model_info().vocab_size as u32;
    let blamed = |change: &dyn Fn(&mut GenerateRequest)| {
        let mut request = greedy(text(PROMPT), 4);
        change(&mut request);
        match engine.generate(request, Box::new(|_| {})) {
            Err(EngineError::InvalidArgument { option, .. }) => option,
            other => panic!("expected a refusal, got {other:?}"),
        }
    };
    assert_eq!(blamed(&|r| r.max_tokens = Some(0)), "maxTokens");
    assert_eq!(blamed(&|r| r.stop = vec![String::new()]), "stop");
    assert_eq!(blamed(&|r| r.stop = vec!["x".into(); 65]), "stop");
    assert_eq!(blamed(&|r| r.stop = vec!["x".repeat(5000)]), "stop");
    assert_eq!(blamed(&|r| r.stop_tokens = vec![vocab]), "stopTokens");
    assert_eq!(blamed(&|r| r.prompt = Prompt::Tokens(vec![])), "prompt");
    assert_eq!(
        blamed(&|r| r.prompt = Prompt::Tokens(vec![vocab])),
        "prompt"
    );
    assert_eq!(blamed(&|r| r.sampling.top_p = 2.0), "topP");
    assert_eq!(
        blamed(&|r| r.sampling.logit_bias = vec![(vocab, 0.0)]),
        "logitBias"
    );
    assert_eq!(
        engine.stats().waiting,
        0,
        "a refused request holds no place in the queue"
    );
}

#[test]
fn a_ban_on_everything_fails_that_request_only() {
    let engine = load(BITNET, &config());
    let vocab = engine.model_info().vocab_size as u32;
    let mut banned = greedy(text(PROMPT), 4);
    banned.sampling.logit_bias = (0..vocab).map(|id| (id, f32::NEG_INFINITY)).collect();
    let other = start(&engine, greedy(text(PROMPT), 30));
    let out = run(&engine, banned);
    assert!(matches!(out.end, Err(EngineError::NoCandidates { .. })));
    assert_eq!(other.collect().tokens.len(), 30);
    settled(&engine);
}

#[test]
fn a_hugging_face_folder_gives_what_its_gguf_gives() {
    let folder = load("b158-v-hf-packed", &config());
    let file = load("b158-v-i2_s.gguf", &config());
    for words in ["The fox looked up at the grapes", "naïve café — 12345 😀"] {
        let options = ryz_engine::EncodeOptions {
            add_special: true,
            parse_special: false,
        };
        let ids = |engine: &ryz_engine::Engine| engine.tokenizer().encode(words, options).unwrap();
        assert_eq!(ids(&folder), ids(&file));
        let (a, b) = (
            run(&folder, greedy(text(words), 16)),
            run(&file, greedy(text(words), 16)),
        );
        assert_eq!((a.tokens, a.text), (b.tokens, b.text));
    }
}

#[test]
fn a_folder_without_a_tokenizer_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(reference("b158-v-hf-packed")).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != "tokenizer.json" {
            std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
    }
    let error = ryz_engine::Engine::load(folder.path(), &config(), &mut |_| {
        std::ops::ControlFlow::Continue(())
    })
    .unwrap_err();
    assert_eq!(error.code(), "FILE_NOT_FOUND");
    assert!(error.to_string().contains("tokenizer.json"), "{error}");
}
