//! Leaving out rows of the head end to end: the same tokens for every sampler and batch, and all logits for who needs them.

mod common;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use common::*;
use ryz_engine::{
    Constraint, DryParams, Engine, EngineConfig, GenerateRequest, HeadScreening, HeadType,
    Mirostat, Operator, OperatorCall, Prompt, SamplerKind, SamplingParams,
};

/// Models whose heads are floats: F16 with 512 tokens, and the package's own, with 4,096; and one whose head, Q6_K, is its own image.
fn models() -> [PathBuf; 3] {
    let package =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../models/tales-6m/model.gguf");
    [
        reference("b158-v-i2_s.gguf"),
        package,
        reference("qwen3-v-tq1_0-lq.gguf"),
    ]
}

fn with(path: &Path, head_screening: HeadScreening, threads: usize) -> Engine {
    let config = EngineConfig {
        head_screening,
        threads: Some(threads),
        // It would skip bytes, too.
        sparsity: false,
        ..config()
    };
    Engine::load(path, &config, &mut |_| ControlFlow::Continue(())).expect("the model loads")
}

fn sampled(change: impl FnOnce(&mut SamplingParams)) -> SamplingParams {
    let mut sampling = SamplingParams {
        seed: Some(7),
        ignore_eos: true,
        temperature: 1.3,
        ..SamplingParams::default()
    };
    change(&mut sampling);
    sampling
}

/// Samplers, and whether they let rows be left out.
fn samplers() -> Vec<(&'static str, bool, SamplingParams)> {
    let bans = |p: &mut SamplingParams| {
        p.logit_bias = (0..20).map(|id| (id * 3, f32::NEG_INFINITY)).collect();
        p.logit_bias.push((7, -2.5));
    };
    let penalties = |p: &mut SamplingParams| {
        p.repetition_penalty = 1.2;
        p.presence_penalty = 0.4;
        p.frequency_penalty = 0.3;
    };
    let top_p_first = |p: &mut SamplingParams| {
        p.order = vec![
            SamplerKind::TopP,
            SamplerKind::TopK,
            SamplerKind::Temperature,
        ];
    };
    let dry = |p: &mut SamplingParams| {
        p.dry = DryParams {
            multiplier: 0.8,
            ..DryParams::default()
        };
    };
    vec![
        ("greedy", true, SamplingParams::greedy()),
        ("default", true, sampled(|_| {})),
        ("few", true, sampled(|p| p.top_k = 3)),
        ("bans", true, sampled(bans)),
        ("penalties", true, sampled(penalties)),
        (
            "typical, xtc",
            true,
            sampled(|p| (p.typical_p, p.xtc_probability) = (0.6, 0.5)),
        ),
        (
            "min tokens",
            true,
            sampled(|p| (p.ignore_eos, p.min_tokens) = (false, 9)),
        ),
        ("logprobs", false, sampled(|p| p.logprobs = Some(3))),
        ("bias", false, sampled(|p| p.logit_bias = vec![(9, 2.0)])),
        ("no top-k", false, sampled(|p| p.top_k = 0)),
        ("top-p first", false, sampled(top_p_first)),
        (
            "mirostat",
            false,
            sampled(|p| p.mirostat = Mirostat::V2 { tau: 3.0, eta: 0.1 }),
        ),
        ("dry", false, sampled(dry)),
        ("rewards", false, sampled(|p| p.frequency_penalty = -0.2)),
    ]
}

fn request(sampling: &SamplingParams, prompt_lookup: usize) -> GenerateRequest {
    let prompt = Prompt::Tokens((0..50).map(|i| [7, 41, 300, 5, 77][i % 5]).collect());
    GenerateRequest {
        sampling: sampling.clone(),
        prompt_lookup,
        ..greedy(prompt, 40)
    }
}

/// Bytes that a token skipped while `work` was done.
fn skipped(engine: &Engine, work: impl FnOnce()) -> f64 {
    engine.start_profiling(0);
    work();
    engine.stop_profiling();
    engine.profile().bandwidth.skipped_bytes_per_token
}

#[test]
fn every_sampler_chooses_the_same_tokens() {
    for path in models() {
        let whole = with(&path, HeadScreening::Off, 2);
        assert_eq!(whole.model_info().head_screening, None);
        for threads in 1..=3 {
            let few = with(&path, HeadScreening::Always, threads);
            let screening = few.model_info().head_screening.expect("an image");
            println!("{}: {screening:?}", path.display());
            match screening.survivors {
                Some(survivors) => assert!(survivors > 0.0 && survivors < 0.8),
                None => assert_eq!(screening.image_bytes, 512 * size_of::<f32>()),
            }
            for (name, lets_out, sampling) in samplers() {
                for lookup in [0, 6] {
                    let request = || request(&sampling, lookup);
                    let what = format!("{}, {name}, {lookup}", path.display());
                    let (expected, mut got) = (run(&whole, request()), None);
                    let skipped = skipped(&few, || got = Some(run(&few, request())));
                    let got = got.expect("it ran");
                    assert_eq!(got.tokens, expected.tokens, "{what}");
                    assert_eq!(got.deltas, expected.deltas, "{what}");
                    // Few need all logits; of a vocabulary of 512 the most that are left out are half.
                    if path.ends_with("model.gguf") && lookup == 0 {
                        assert_eq!(skipped > 0.0, lets_out, "{what}: {skipped}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_batch_of_all_of_them_chooses_the_same_tokens() {
    for path in models() {
        let config = |head_screening| EngineConfig {
            head_screening,
            max_sequences: 6,
            ..config()
        };
        let load = |screening| {
            Engine::load(
                &path,
                &config(screening),
                &mut |_| ControlFlow::Continue(()),
            )
            .expect("the model loads")
        };
        let (whole, few) = (load(HeadScreening::Off), load(HeadScreening::Always));
        let together = |engine: &Engine, only: bool| -> Vec<Vec<u32>> {
            let samplers = samplers()
                .into_iter()
                .filter(|(_, lets_out, _)| *lets_out || !only);
            let running: Vec<_> = samplers
                .map(|(.., sampling)| start(engine, request(&sampling, 3)))
                .collect();
            running.into_iter().map(|r| r.collect().tokens).collect()
        };
        for only in [true, false] {
            assert_eq!(together(&few, only), together(&whole, only), "{only}");
        }
    }
}

/// Sees logits.
#[derive(Default)]
struct Watch(Mutex<usize>);

impl Operator for Watch {
    fn forward(
        &self,
        _: &OperatorCall,
        values: &mut [f32],
        _: &dyn Fn() -> bool,
    ) -> Result<(), String> {
        assert!(values.iter().all(|value| value.is_finite()));
        *self.0.lock().expect("no panic") += values.len();
        Ok(())
    }
}

#[test]
fn operators_jobs_and_constraints_have_every_logit() {
    let [_, path, _] = models();
    let (whole, few) = (
        with(&path, HeadScreening::Off, 2),
        with(&path, HeadScreening::Always, 2),
    );
    let logits = |engine: &Engine| {
        wait(|reply| engine.logits(vec![7, 41, 300], true, 0, reply)).expect("logits")
    };
    let got = logits(&few);
    assert!(got.data.iter().all(|logit| logit.is_finite()));
    assert_eq!(got, logits(&whole));
    let constrained = |engine: &Engine| {
        let request = GenerateRequest {
            constraint: Some(Constraint::Regex("[A-Z]{12}".to_owned())),
            ..greedy(text("Once upon a time"), 20)
        };
        run(engine, request).text
    };
    let mut answer = None;
    let skipped = skipped(&few, || answer = Some(constrained(&few)));
    assert_eq!(answer, Some(constrained(&whole)));
    assert!(skipped == 0.0, "{skipped}");
    let watch = Arc::new(Watch::default());
    let sampling = SamplingParams::greedy();
    let want = run(&whole, request(&sampling, 0)).tokens;
    few.register_operator("watch", &["logits".to_owned()], watch.clone())
        .expect("registered");
    assert_eq!(run(&few, request(&sampling, 0)).tokens, want);
    let vocab = few.model_info().vocab_size;
    assert_eq!(*watch.0.lock().expect("no panic"), want.len() * vocab);
}

#[test]
fn the_image_is_counted_and_yields_to_the_memory_limit() {
    let [_, path, _] = models();
    let config = |head_screening, memory_limit| EngineConfig {
        head_screening,
        memory_limit,
        ..config()
    };
    let estimate = |config: &EngineConfig| Engine::estimate_memory(&path, config).expect("one");
    let whole = estimate(&config(HeadScreening::Off, None));
    let image = estimate(&config(HeadScreening::Always, None));
    assert!(image.weights > whole.weights + 4096 * 256);
    assert!(image.scratch > whole.scratch);
    let load = |config: &EngineConfig| {
        Engine::load(&path, config, &mut |_| ControlFlow::Continue(())).expect("it loads")
    };
    for limit in [image.peak(), image.peak() - 1] {
        let config = config(HeadScreening::Always, Some(limit));
        let fits = limit == image.peak();
        assert_eq!(estimate(&config), if fits { image } else { whole });
        let engine = load(&config);
        assert_eq!(engine.model_info().head_screening.is_some(), fits);
    }
    // Small heads lie in caches, mapped ones stay where they are, rounded ones are no floats.
    for config in [
        config(HeadScreening::Auto, None),
        EngineConfig {
            map_weights: true,
            ..config(HeadScreening::Always, None)
        },
        EngineConfig {
            head: HeadType::Q8,
            ..config(HeadScreening::Always, None)
        },
    ] {
        assert_eq!(load(&config).model_info().head_screening, None);
    }
}
