//! Structured output end to end: what is chosen fits its constraint, whatever the sampler and the batch; what is hostile is
//! refused, and costs nobody else anything.

mod common;

use std::ops::ControlFlow;
use std::path::PathBuf;

use common::*;
use ryz_engine::{
    Constraint, Engine, EngineConfig, EngineError, FinishReason, GenerateRequest, Mirostat,
    SamplingParams,
};
use serde_json::{Value, json};

const PROMPT: &str = "Once upon a time there was a little";

fn tales() -> Engine {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../models/tales-6m/model.gguf");
    Engine::load(&path, &config(), &mut |_| ControlFlow::Continue(())).expect("the model loads")
}

fn person() -> Constraint {
    let schema = json!({
        "type": "object",
        "properties": {
            "name": { "type": "string", "maxLength": 12 },
            "age": { "type": "integer", "minimum": 0, "maximum": 120 },
            "animal": { "enum": ["cat", "dog", "bird"] },
            "friends": { "type": "array", "items": { "type": "boolean" }, "maxItems": 3 },
        },
        "required": ["name", "age", "animal", "friends"],
        "additionalProperties": false,
    });
    Constraint::json_schema(schema.to_string())
}

fn assert_person(text: &str) {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
    let fields = value.as_object().expect("an object");
    assert_eq!(fields.len(), 4, "{text}");
    assert!(
        value["name"].as_str().expect("a name").chars().count() <= 12,
        "{text}"
    );
    assert!(
        (0..=120).contains(&value["age"].as_i64().expect("an age")),
        "{text}"
    );
    assert!(["cat", "dog", "bird"].contains(&value["animal"].as_str().expect("an animal")));
    let friends = value["friends"].as_array().expect("friends");
    assert!(
        friends.len() <= 3 && friends.iter().all(Value::is_boolean),
        "{text}"
    );
}

fn request(constraint: Constraint, sampling: SamplingParams) -> GenerateRequest {
    GenerateRequest {
        constraint: Some(constraint),
        sampling,
        ..greedy(text(PROMPT), 200)
    }
}

fn wild(seed: u64) -> SamplingParams {
    SamplingParams {
        temperature: 3.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        seed: Some(seed),
        ..SamplingParams::default()
    }
}

fn samplers() -> Vec<SamplingParams> {
    vec![
        SamplingParams::greedy(),
        SamplingParams {
            seed: Some(1),
            ..SamplingParams::default()
        },
        wild(2),
        SamplingParams {
            top_n_sigma: 1.0,
            typical_p: 0.5,
            ..wild(3)
        },
        SamplingParams {
            xtc_probability: 1.0,
            xtc_threshold: 0.1,
            ..wild(4)
        },
        SamplingParams {
            mirostat: Mirostat::V1 { tau: 5.0, eta: 0.1 },
            ..wild(5)
        },
        SamplingParams {
            mirostat: Mirostat::V2 { tau: 5.0, eta: 0.1 },
            ..wild(6)
        },
        SamplingParams {
            repetition_penalty: 1.5,
            presence_penalty: 1.0,
            ..wild(7)
        },
        SamplingParams {
            logprobs: Some(3),
            ..wild(8)
        },
        SamplingParams {
            logprobs: Some(0),
            ..wild(9)
        },
        SamplingParams {
            ignore_eos: true,
            min_tokens: 100,
            ..wild(10)
        },
    ]
}

fn failed(engine: &Engine, constraint: Constraint) -> EngineError {
    let out = run(engine, request(constraint, wild(1)));
    assert!(out.tokens.is_empty(), "nothing was generated");
    out.end.expect_err("the constraint is refused")
}

#[test]
fn every_sampler_keeps_to_the_schema() {
    for engine in [tales(), load(BITNET, &config())] {
        for (index, sampling) in samplers().into_iter().enumerate() {
            let out = run(&engine, request(person(), sampling));
            assert_eq!(
                out.reason(),
                FinishReason::Stop,
                "sampler {index}: {}",
                out.text
            );
            assert_person(&out.text);
            assert_eq!(out.text, engine.tokenizer().decode(&out.tokens, true));
        }
        settled(&engine);
    }
}

#[test]
fn expressions_and_grammars_are_matched_whole() {
    let engine = tales();
    for seed in 0..10 {
        let date = Constraint::Regex("^[12][0-9]{3}-(0[1-9]|1[0-2])-[0-3][0-9]$".into());
        let out = run(&engine, request(date, wild(seed)));
        let parts: Vec<_> = out.text.split('-').map(str::len).collect();
        assert_eq!((parts, out.reason()), (vec![4, 2, 2], FinishReason::Stop));

        let sums = Constraint::Grammar(
            "start: term (\"+\" term){2,4}\nterm: /[1-9]/ | \"(\" start \")\"".into(),
        );
        let out = run(&engine, request(sums, wild(seed)));
        let opened = out.text.matches('(').count();
        assert!(
            out.text.contains('+') && !out.text.contains(' '),
            "{}",
            out.text
        );
        if out.reason() == FinishReason::Stop {
            assert_eq!(opened, out.text.matches(')').count(), "{}", out.text);
        }
    }
}

#[test]
fn text_of_any_language_comes_out_of_bytes() {
    // The tokens of these characters are single bytes: each must wait for the next.
    let engine = load(BITNET, &config());
    let out = run(
        &engine,
        request(Constraint::Regex("(世界|日本|é🎉){3}".into()), wild(1)),
    );
    assert_eq!(out.reason(), FinishReason::Stop);
    assert!(
        out.text.chars().all(|c| "世界日本é🎉".contains(c)),
        "{}",
        out.text
    );
}

#[test]
fn an_object_of_any_kind_is_json() {
    let engine = tales();
    for seed in 0..5 {
        let sampling = SamplingParams {
            seed: Some(seed),
            ..SamplingParams::default()
        };
        let out = run(
            &engine,
            GenerateRequest {
                max_tokens: None,
                ..request(Constraint::Json, sampling)
            },
        );
        assert!(out.text.starts_with('{'), "{}", out.text);
        if out.reason() == FinishReason::Stop {
            let value: Value = serde_json::from_str(&out.text).expect("JSON");
            assert!(value.is_object());
        }
    }
}

#[test]
fn a_request_has_the_same_tokens_alone_and_in_any_batch() {
    let engine = tales();
    let requests = || {
        let mut all: Vec<_> = (0..4).map(|seed| request(person(), wild(seed))).collect();
        all.push(request(Constraint::Regex("[a-z]{5,30}".into()), wild(9)));
        all.push(greedy(text(PROMPT), 30));
        all
    };
    let alone: Vec<_> = requests()
        .into_iter()
        .map(|r| run(&engine, r).tokens)
        .collect();
    for threads in [1, 2] {
        let config = EngineConfig {
            threads: Some(threads),
            ..config()
        };
        let path =
            PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../models/tales-6m/model.gguf");
        let engine = Engine::load(&path, &config, &mut |_| ControlFlow::Continue(())).unwrap();
        let running: Vec<_> = requests().into_iter().map(|r| start(&engine, r)).collect();
        let together: Vec<_> = running.into_iter().map(|r| r.collect().tokens).collect();
        assert_eq!(together, alone);
    }
}

#[test]
fn preemption_changes_no_token() {
    let requests = || {
        (0..12).map(|seed| GenerateRequest {
            max_tokens: Some(70),
            ..request(person(), wild(seed))
        })
    };
    let roomy = load(BITNET, &config());
    let want: Vec<_> = requests().map(|r| run(&roomy, r).tokens).collect();
    let tight = EngineConfig {
        context_length: Some(112),
        kv_tokens: Some(112),
        ..config()
    };
    let engine = load(BITNET, &tight);
    let running: Vec<_> = requests().map(|r| start(&engine, r)).collect();
    let got: Vec<_> = running.into_iter().map(|r| r.collect().tokens).collect();
    assert_eq!(got, want);
    assert!(
        engine.stats().preemptions > 0,
        "the pool was not tight enough to test anything"
    );
    settled(&engine);
}

#[test]
fn what_a_stop_string_or_a_limit_cuts_short_does_not_say_that_it_is_whole() {
    let engine = tales();
    // Only the stop may end it.
    let sampling = SamplingParams {
        ignore_eos: true,
        ..wild(1)
    };
    let stopped = |pattern: &str, stop: &str| {
        let cut = GenerateRequest {
            stop: vec![stop.into()],
            ..request(Constraint::Regex(pattern.into()), sampling.clone())
        };
        let out = run(&engine, cut);
        (out.reason(), out.text)
    };
    let (reason, text) = stopped("[a-z]{3}#[a-z]{40}", "#");
    assert_eq!((reason, text.len()), (FinishReason::StopSequence, 3));
    // What is left of this one is an answer, also where it ends within a token.
    let (reason, text) = stopped("[a-z]{3}|[a-z]{3}#[a-z]{40}", "#");
    assert_eq!((reason, text.len()), (FinishReason::Stop, 3));
    let (reason, text) = stopped("(The cat) sat", "at sa");
    assert_eq!(
        (reason, text.as_str()),
        (FinishReason::StopSequence, "The c")
    );
    let (reason, text) = stopped("The c|(The cat) sat", "at sa");
    assert_eq!((reason, text.as_str()), (FinishReason::Stop, "The c"));

    let cut = GenerateRequest {
        max_tokens: Some(3),
        ..request(Constraint::Regex("[a-z]{43}".into()), wild(1))
    };
    let out = run(&engine, cut);
    assert_eq!((out.reason(), out.tokens.len()), (FinishReason::Length, 3));
}

#[test]
fn what_a_stop_token_cuts_short_does_not_say_that_it_is_whole() {
    let engine = tales();
    let token = |text: &str| {
        let ids = 0..engine.tokenizer().vocab_size();
        let mut ids = ids.filter(|&id| engine.tokenizer().token_bytes(id) == text.as_bytes());
        ids.next().expect("a letter is a token")
    };
    let stopped = |pattern: &str| {
        let cut = GenerateRequest {
            stop_tokens: vec![token("q")],
            ..request(Constraint::Regex(pattern.into()), wild(1))
        };
        let out = run(&engine, cut);
        (out.text.clone(), out.reason())
    };
    assert_eq!(stopped("zq"), ("z".to_owned(), FinishReason::StopSequence));
    assert_eq!(
        stopped("zq?q"),
        ("z".to_owned(), FinishReason::StopSequence)
    );
    assert_eq!(stopped("z(qqq)?"), ("z".to_owned(), FinishReason::Stop));
}

#[test]
fn what_can_go_on_ends_by_the_models_own_end_token() {
    let engine = tales();
    // Nothing is left to say after the last letter: no end token is waited for.
    let out = run(
        &engine,
        request(
            Constraint::Regex("yes".into()),
            SamplingParams {
                ignore_eos: true,
                ..wild(1)
            },
        ),
    );
    assert_eq!(
        (out.text.as_str(), out.reason()),
        ("yes", FinishReason::Stop)
    );
    // A model that wants to end at once may do so where the text may end, and not before.
    let end = engine.tokenizer().eos().expect("an end token");
    let eager = |ignore_eos| SamplingParams {
        logit_bias: vec![(end, 1000.0)],
        ignore_eos,
        ..wild(1)
    };
    let letters = || Constraint::Regex("([a-z][1-9]){5,}".into());
    let out = run(&engine, request(letters(), eager(false)));
    assert_eq!((out.text.len(), out.reason()), (10, FinishReason::Stop));
    assert!(!out.tokens.contains(&end));
    let out = run(&engine, request(letters(), eager(true)));
    assert_eq!(out.reason(), FinishReason::Length);
}

#[test]
fn log_probabilities_are_those_of_the_model() {
    let engine = tales();
    let sampling = SamplingParams {
        logprobs: Some(2),
        ..SamplingParams::greedy()
    };
    let out = run(
        &engine,
        request(Constraint::Regex("zzz|qqq".into()), sampling),
    );
    let chosen: Vec<_> = out.deltas.iter().flat_map(|d| &d.logprobs).collect();
    assert_eq!(chosen.len(), out.tokens.len());
    // The model itself would have said something else.
    assert!(chosen[0].logprob < chosen[0].top[0].1);
}

#[test]
fn faults_name_their_place() {
    let engine = tales();
    let schema = |value: Value| Constraint::json_schema(value.to_string());
    let cases = [
        (
            schema(json!({ "properties": { "a": { "uniqueItems": true } } })),
            "format.schema/properties/a/uniqueItems",
        ),
        (
            schema(json!({ "$ref": "#/$defs/none" })),
            "format.schema/$ref",
        ),
        (
            schema(json!({ "type": "string", "pattern": "(" })),
            "format.schema/pattern",
        ),
        (schema(json!(3)), "format.schema"),
        (schema(json!(false)), "format.schema"),
        (
            schema(json!({ "type": "object", "minProperties": 3, "maxProperties": 1 })),
            "format.schema",
        ),
        (
            schema(
                json!({ "oneOf": [{ "type": "string" }, { "type": "string", "maxLength": 3 }] }),
            ),
            "format.schema",
        ),
        (Constraint::json_schema("{"), "format.schema"),
        (Constraint::Regex("(".into()), "format.pattern"),
        (Constraint::Regex("(?=a)".into()), "format.pattern"),
        (Constraint::Grammar("start: other".into()), "format.grammar"),
        (Constraint::Grammar("start: \"a".into()), "format.grammar"),
        (Constraint::Grammar(String::new()), "format.grammar"),
    ];
    for (constraint, place) in cases {
        let error = failed(&engine, constraint.clone());
        assert_eq!(error.code(), "INVALID_ARGUMENT", "{constraint:?}: {error}");
        assert!(
            error.to_string().starts_with(place),
            "{constraint:?}: {error}"
        );
        assert!(!error.to_string().contains("backtrace"), "{error}");
    }
    assert_person(&run(&engine, request(person(), wild(1))).text);
}

fn nested(depth: usize) -> Value {
    (0..depth).fold(
        json!({ "type": "string" }),
        |inner, _| json!({ "type": "object", "properties": { "a": inner }, "required": ["a"] }),
    )
}

fn chain(length: usize) -> Value {
    let mut defs = serde_json::Map::new();
    for i in 0..length {
        let next = json!({ "type": "array", "items": { "$ref": format!("#/$defs/d{}", i + 1) }, "maxItems": 1 });
        defs.insert(format!("d{i}"), next);
    }
    defs.insert(format!("d{length}"), json!({ "type": "null" }));
    json!({ "$ref": "#/$defs/d0", "$defs": defs })
}

#[test]
fn what_is_hostile_is_refused_or_bounded_and_the_engine_lives() {
    let engine = tales();
    let schema = |value: Value| Constraint::json_schema(value.to_string());
    let words = |n: usize| (0..n).map(|i| format!("word{i}")).collect::<Vec<_>>();
    let rules = |n: usize| {
        let mut text = "start: r0\n".to_owned();
        (0..n).for_each(|i| text += &format!("r{i}: r{}\n", i + 1));
        text + &format!("r{n}: \"a\"")
    };
    let terminals = |n: usize| {
        let mut text = "start: T0\n".to_owned();
        (0..n).for_each(|i| text += &format!("T{i}: T{}\n", i + 1));
        text + &format!("T{n}: \"a\"")
    };
    let hostile = [
        Constraint::json_schema(format!(
            "{}true{}",
            "{\"not\":".repeat(100_000),
            "}".repeat(100_000)
        )),
        schema(nested(40)),
        schema(nested(100)),
        schema(chain(400)),
        schema(chain(900)),
        schema(chain(5000)),
        schema(json!({ "$ref": "#" })),
        schema(json!({ "anyOf": [{ "$ref": "#" }, { "$ref": "#" }] })),
        schema(json!({ "allOf": [{ "$ref": "#" }, { "$ref": "#" }] })),
        schema(
            json!({ "items": { "$ref": "#" }, "allOf": [{ "$ref": "#/$defs/a" }, { "$ref": "#/$defs/b" }],
            "$defs": { "a": { "allOf": [{ "$ref": "#/$defs/b" }] }, "b": { "allOf": [{ "$ref": "#/$defs/a" }] } } }),
        ),
        schema(json!({ "enum": words(10_000) })),
        schema(json!({ "enum": words(100_000) })),
        schema(json!({ "type": "string", "minLength": 1_000_000_000 })),
        schema(json!({ "type": "string", "pattern": "^(a{1000}){1000}$" })),
        schema(json!({ "type": "string", "pattern": "^(.*a){50}$", "minLength": 100 })),
        schema(json!({ "type": "string", "pattern": "(?:a|b)*a(?:a|b){40}$" })),
        schema(
            json!({ "type": "array", "items": { "type": "array", "minItems": 100_000_000 }, "minItems": 100_000_000 }),
        ),
        schema(json!({ "type": "number", "multipleOf": 1e-300, "minimum": -1e300 })),
        schema(
            json!({ "type": "integer", "minimum": -9_007_199_254_740_991i64, "multipleOf": 7_919 }),
        ),
        schema(json!({ "type": "object", "minProperties": 1_000_000 })),
        schema(
            json!({ "properties": words(5000).into_iter().map(|w| (w, json!(true))).collect::<serde_json::Map<_, _>>() }),
        ),
        schema(
            json!({ "patternProperties": words(300).into_iter().map(|w| (format!("{w}.*x"), json!(true))).collect::<serde_json::Map<_, _>>() }),
        ),
        Constraint::Regex("((((a{1,999}){1,999}){1,999}){1,999}){1,999}".into()),
        Constraint::Regex("a{4000000000}".into()),
        Constraint::Regex("(".repeat(10_000)),
        Constraint::Regex(format!("{}a{}", "(".repeat(200), ")".repeat(200))),
        Constraint::Regex("(x+x+)+y".into()),
        Constraint::Regex("\\p{L}{0,5000}\\p{Lu}{5000}".into()),
        Constraint::Regex("[".into()),
        Constraint::Regex("é".repeat(60)),
        Constraint::Grammar("(".repeat(200_000)),
        Constraint::Grammar(format!("start: {}\"a\"", "~".repeat(400))),
        Constraint::Grammar(format!(
            "start: {}\"a\"{}",
            "(".repeat(3000),
            ")".repeat(3000)
        )),
        Constraint::Grammar(rules(1900)),
        Constraint::Grammar(terminals(1900)),
        Constraint::Grammar(rules(30_000)),
        Constraint::Grammar("start: start start | \"a\" | \"\"".into()),
        Constraint::Grammar("start: \"a\"{1000000000}".into()),
        Constraint::Grammar("start: (\"a\"{1000}){1000}".into()),
        Constraint::Grammar("start: <[4000000000]>".into()),
        Constraint::Grammar("start: <|no_such_token|>".into()),
        Constraint::Grammar("%ignore /a*/\nstart: \"a\"*".into()),
        Constraint::Grammar(
            "%llguidance { \"allow_invalid_utf8\": true }\nstart: /(?s-u:.)/{3}".into(),
        ),
    ];
    for (index, constraint) in hostile.into_iter().enumerate() {
        let bounded = GenerateRequest {
            max_tokens: Some(12),
            ..request(constraint.clone(), wild(1))
        };
        let began = std::time::Instant::now();
        let out = run(&engine, bounded);
        let took = began.elapsed();
        if let Err(error) = &out.end {
            let code = error.code();
            assert!(
                code == "INVALID_ARGUMENT" || code == "GRAMMAR_LIMIT",
                "{index}: {code} {error}"
            );
            assert!(
                error.to_string().len() < 2000,
                "{index}: {} bytes",
                error.to_string().len()
            );
        }
        eprintln!(
            "{index}: {took:?} {:?} {:?}",
            out.end.map(|f| f.reason).map_err(|e| e.to_string()),
            out.text
        );
    }
    assert_person(&run(&engine, request(person(), wild(1))).text);
    settled(&engine);
}

#[test]
fn a_constraint_that_fails_midway_fails_alone() {
    let engine = tales();
    // It begins cheaply, and has too many readings after its first letter.
    let readings: Vec<_> = (0..2500).map(|i| format!("\"b\" \"w{i}\"")).collect();
    let growing = Constraint::Grammar(format!("start: \"a\" x\nx: {}", readings.join(" | ")));
    let neighbour = start(&engine, request(person(), wild(3)));
    let plain = start(&engine, greedy(text(PROMPT), 60));
    let out = run(&engine, request(growing, wild(1)));
    assert!(!out.tokens.is_empty(), "it fails before its first token");
    let error = out.end.expect_err("it is too complex");
    assert_eq!(error.code(), "GRAMMAR_LIMIT", "{error}");
    assert_person(&neighbour.collect().text);
    assert_eq!(plain.collect().tokens.len(), 60);
    settled(&engine);
}

#[test]
fn without_constraints_no_thread_starts_and_nothing_is_counted() {
    let engine = tales();
    run(&engine, greedy(text(PROMPT), 10));
    assert_eq!(engine.stats().masks, 0);
    let out = run(&engine, request(person(), wild(1)));
    let stats = engine.stats();
    assert_eq!(stats.masks, out.tokens.len() as u64);
    assert!(stats.mask_nanos > 0);
}

#[test]
fn an_engine_that_is_disposed_ends_its_constrained_requests() {
    let engine = tales();
    let endless = Constraint::Regex("[a-z]+".into());
    let running: Vec<_> = (0..3)
        .map(|seed| {
            start(
                &engine,
                request(
                    endless.clone(),
                    SamplingParams {
                        ignore_eos: true,
                        ..wild(seed)
                    },
                ),
            )
        })
        .collect();
    let _first = running[0].next();
    engine.dispose();
    for request in running {
        let out = request.collect();
        assert!(
            matches!(out.end, Err(EngineError::Disposed)) || out.reason() == FinishReason::Length
        );
    }
}

#[test]
fn a_late_mask_delays_its_own_request_only_and_changes_nothing() {
    let engine = tales();
    // Every mask looks at many names.
    let names: serde_json::Map<_, _> = (0..700)
        .map(|n| {
            (
                format!("name{n}"),
                json!({ "type": "integer", "minimum": 0, "maximum": 9 }),
            )
        })
        .collect();
    let slow = || {
        let schema =
            json!({ "type": "object", "properties": names, "additionalProperties": false });
        GenerateRequest {
            max_tokens: Some(30),
            ..request(Constraint::json_schema(schema.to_string()), wild(5))
        }
    };
    let plain = |seed| GenerateRequest {
        sampling: SamplingParams {
            ignore_eos: true,
            ..wild(seed)
        },
        ..greedy(text(PROMPT), 120)
    };
    let alone = (run(&engine, slow()).tokens, run(&engine, plain(2)).tokens);
    let (first, second) = (start(&engine, slow()), start(&engine, plain(2)));
    assert_eq!((first.collect().tokens, second.collect().tokens), alone);
    settled(&engine);
}

#[test]
fn an_engine_ends_while_a_form_is_compiled() {
    let engine = tales();
    let patterns: Vec<_> = (0..6)
        .map(|n| json!({ "pattern": format!("a{n}.*b.*c") }))
        .collect();
    let heavy = Constraint::json_schema(json!({ "type": "string", "allOf": patterns }).to_string());
    let waiting = start(&engine, request(heavy, wild(1)));
    let began = std::time::Instant::now();
    engine.dispose();
    assert!(
        began.elapsed() < std::time::Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
    assert!(waiting.collect().end.is_err());
}
