//! The chain as a whole: distributions against hand-computed ones, the draw by a chi-square test.

use std::sync::Arc;

use super::*;

fn vocab(size: usize) -> Vocab {
    Vocab {
        size,
        end_tokens: vec![0],
        piece: Arc::new(|id| vec![b'a' + (id % 26) as u8]),
    }
}

/// Everything off but the plain draw at temperature 1.
fn plain() -> SamplingParams {
    SamplingParams {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        seed: Some(42),
        ..Default::default()
    }
}

fn logits_of(p: &[f64]) -> Vec<f32> {
    p.iter().map(|p| p.ln() as f32).collect()
}

/// Counts of `draws` first tokens.
fn counts(params: SamplingParams, logits: &[f32], draws: u32) -> Vec<u32> {
    let mut sampler = Sampler::new(params, &vocab(logits.len()), &[]).unwrap();
    let mut scratch = Candidates::new(logits.len());
    let mut counts = vec![0; logits.len()];
    for _ in 0..draws {
        let token = sampler
            .sample(&mut scratch, logits, &[], None)
            .unwrap()
            .token;
        counts[token as usize] += 1;
    }
    counts
}

/// Pearson's statistic; tokens of probability 0 must not occur.
fn chi_square(counts: &[u32], p: &[f64]) -> f64 {
    let draws: u32 = counts.iter().sum();
    let mut sum = 0.0;
    for (&n, &p) in counts.iter().zip(p) {
        if p == 0.0 {
            assert_eq!(n, 0);
            continue;
        }
        let expected = p * f64::from(draws);
        sum += (f64::from(n) - expected).powi(2) / expected;
    }
    sum
}

// Critical values of chi-square at 0.001 by degrees of freedom 1 to 7. The seed is fixed, so a pass stays a pass.
const CRITICAL: [f64; 8] = [0.0, 10.83, 13.82, 16.27, 18.47, 20.52, 22.46, 24.32];

#[test]
fn the_plain_draw_follows_the_softmax() {
    let p = [0.4, 0.25, 0.15, 0.1, 0.05, 0.03, 0.015, 0.005];
    let got = counts(plain(), &logits_of(&p), 100_000);
    let chi = chi_square(&got, &p);
    assert!(chi < CRITICAL[7], "{chi}: {got:?}");
}

#[test]
fn the_chi_square_test_can_fail() {
    let p = [0.4, 0.25, 0.15, 0.1, 0.05, 0.03, 0.015, 0.005];
    let off = [0.39, 0.26, 0.15, 0.1, 0.05, 0.03, 0.015, 0.005];
    let got = counts(plain(), &logits_of(&off), 100_000);
    assert!(chi_square(&got, &p) > CRITICAL[7]);
}

#[test]
fn each_sampler_yields_its_distribution_in_the_draw() {
    let p = [0.1, 0.4, 0.05, 0.25, 0.2];
    let normal = |kept: &[f64]| {
        let sum: f64 = kept.iter().sum();
        kept.iter().map(|k| k / sum).collect::<Vec<_>>()
    };
    let set = |change: &dyn Fn(&mut SamplingParams)| {
        let mut params = plain();
        change(&mut params);
        params
    };
    let squared: Vec<f64> = p.iter().map(|p| p * p).collect();
    let rows: Vec<(&str, SamplingParams, Vec<f64>)> = vec![
        (
            "top-k",
            set(&|s| s.top_k = 2),
            normal(&[0.0, 0.4, 0.0, 0.25, 0.0]),
        ),
        (
            "top-p",
            set(&|s| s.top_p = 0.7),
            normal(&[0.0, 0.4, 0.0, 0.25, 0.2]),
        ),
        (
            "min-p",
            set(&|s| s.min_p = 0.3),
            normal(&[0.0, 0.4, 0.0, 0.25, 0.2]),
        ),
        (
            "temperature",
            set(&|s| s.temperature = 0.5),
            normal(&squared),
        ),
        // Half of the time 1 and 3 are excluded and 0, 2, 4 share what is left; else all five.
        (
            "xtc",
            set(&|s| (s.xtc_probability, s.xtc_threshold) = (0.5, 0.15)),
            vec![
                0.5 * (0.1 + 0.1 / 0.35),
                0.5 * 0.4,
                0.5 * (0.05 + 0.05 / 0.35),
                0.5 * 0.25,
                0.5 * (0.2 + 0.2 / 0.35),
            ],
        ),
        // Token 1 loses ln 4: 0.4 becomes 0.1.
        (
            "logit bias",
            set(&|s| s.logit_bias = vec![(1, -(4f32.ln()))]),
            normal(&[0.1, 0.1, 0.05, 0.25, 0.2]),
        ),
        (
            "ban",
            set(&|s| s.logit_bias = vec![(1, f32::NEG_INFINITY)]),
            normal(&[0.1, 0.0, 0.05, 0.25, 0.2]),
        ),
        (
            "ignore eos",
            set(&|s| s.ignore_eos = true),
            normal(&[0.0, 0.4, 0.05, 0.25, 0.2]),
        ),
    ];
    for (name, params, want) in rows {
        let got = counts(params, &logits_of(&p), 40_000);
        let degrees = want.iter().filter(|&&w| w > 0.0).count() - 1;
        let chi = chi_square(&got, &want);
        assert!(
            chi < CRITICAL[degrees],
            "{name}: {chi}, {got:?}, expected {want:?}"
        );
    }
}

#[test]
fn order_is_an_option() {
    // At temperature 10, min-p 0.5 keeps all when it comes last, and only the best when it comes first.
    let p = [0.7, 0.2, 0.1];
    let hot = SamplingParams {
        temperature: 10.0,
        min_p: 0.5,
        ..plain()
    };
    let last = SamplingParams {
        order: vec![SamplerKind::Temperature, SamplerKind::MinP],
        ..hot.clone()
    };
    let off = SamplingParams {
        order: vec![SamplerKind::Temperature],
        ..hot.clone()
    };
    let kept = |params| {
        counts(params, &logits_of(&p), 2000)
            .iter()
            .filter(|&&n| n > 0)
            .count()
    };
    assert_eq!(kept(hot), 1);
    assert_eq!(kept(last), 3);
    assert_eq!(kept(off), 3);
}

#[test]
fn a_repetition_penalty_acts_in_every_place_of_the_order() {
    // The best of five in 635 of 1,000 draws: wherever the penalty stands, it is drawn much less.
    let logits = [2.0, 1.0, 0.5, 0.0, -1.0];
    let drawn = |penalty: f32, order: &[SamplerKind]| {
        let params = SamplingParams {
            temperature: 0.9,
            repetition_penalty: penalty,
            order: order.to_vec(),
            ..plain()
        };
        let mut sampler = Sampler::new(params, &vocab(5), &[]).unwrap();
        let mut scratch = Candidates::new(5);
        let mut best = 0;
        for _ in 0..1000 {
            let sampled = sampler.sample(&mut scratch, &logits, &[0], None).unwrap();
            best += u32::from(sampled.token == 0);
        }
        best
    };
    use SamplerKind::{MinP, Penalties, Temperature, TopK};
    let free = drawn(1.0, &[Penalties, Temperature]);
    for order in [
        &[Penalties, Temperature][..],
        &[Temperature, Penalties],
        &[TopK, Temperature, MinP, Penalties],
    ] {
        let penalised = drawn(3.0, order);
        assert!(penalised + 200 < free, "{order:?}: {penalised} of {free}");
    }
    // The penalty divides what temperature has divided already: both orders are the same distribution.
    let chi = |a: u32, b: u32| (f64::from(a) - f64::from(b)).powi(2) / f64::from(a + b);
    let (before, behind) = (
        drawn(3.0, &[Penalties, Temperature]),
        drawn(3.0, &[Temperature, Penalties]),
    );
    assert!(chi(before, behind) < CRITICAL[1], "{before}, {behind}");
}

#[test]
fn many_biases_and_bans_are_those_of_one_at_a_time() {
    let logits: Vec<f32> = (0..200u32).map(|i| (i * 37 % 101) as f32 / 10.0).collect();
    // In no order, some of them twice; every third is a ban.
    let biases: Vec<(u32, f32)> = (0..150u32)
        .map(|i| (i * 53 % 120, i))
        .map(|(id, i)| match i % 3 {
            0 => (id, f32::NEG_INFINITY),
            _ => (id, i as f32 / 7.0 - 9.0),
        })
        .collect();
    let params = SamplingParams {
        logit_bias: biases.clone(),
        min_tokens: 9,
        ..plain()
    };
    let mut sampler = Sampler::new(params, &vocab(200), &[150, 151]).unwrap();
    let mut scratch = Candidates::new(200);
    sampler.sample(&mut scratch, &logits, &[], None).unwrap();
    let banned = |id: u32| [0, 150, 151].contains(&id) || biases.contains(&(id, f32::NEG_INFINITY));
    let expected: Vec<(u32, f32)> = (0..200u32)
        .filter(|&id| !banned(id))
        .map(|id| {
            let of = biases.iter().filter(|bias| bias.0 == id);
            (id, of.fold(logits[id as usize], |sum, bias| sum + bias.1))
        })
        .collect();
    let left = scratch.items.iter().map(|c| (c.id, c.logit));
    assert_eq!(left.collect::<Vec<_>>(), expected);
}

#[test]
fn greedy_takes_the_lowest_id_among_equal_maxima() {
    let mut sampler = Sampler::new(SamplingParams::greedy(), &vocab(5), &[]).unwrap();
    let mut scratch = Candidates::new(5);
    let logits = [1.0, 3.0, f32::NEG_INFINITY, 3.0, 3.0];
    assert_eq!(
        sampler
            .sample(&mut scratch, &logits, &[], None)
            .unwrap()
            .token,
        1
    );
    // -0.0 and 0.0 are equal.
    assert_eq!(
        sampler
            .sample(&mut scratch, &[-1.0, -0.0, 0.0, -2.0, -3.0], &[], None)
            .unwrap()
            .token,
        1
    );
}

#[test]
fn greedy_heeds_penalties_and_bias_but_not_xtc() {
    let params = SamplingParams {
        presence_penalty: 2.0,
        xtc_probability: 1.0,
        logit_bias: vec![(2, 1.5)],
        ..SamplingParams::greedy()
    };
    let mut sampler = Sampler::new(params, &vocab(3), &[]).unwrap();
    let mut scratch = Candidates::new(3);
    // 1: 3 - 2 = 1; 2: 0 + 1.5.
    assert_eq!(
        sampler
            .sample(&mut scratch, &[0.0, 3.0, 0.0], &[1], None)
            .unwrap()
            .token,
        2
    );
    assert_eq!(
        sampler
            .sample(&mut scratch, &[0.0, 3.0, 0.0], &[0], None)
            .unwrap()
            .token,
        1
    );
}

#[test]
fn min_tokens_holds_end_and_stop_tokens_back() {
    let params = SamplingParams {
        min_tokens: 2,
        ..SamplingParams::greedy()
    };
    let mut sampler = Sampler::new(params, &vocab(4), &[1]).unwrap();
    let mut scratch = Candidates::new(4);
    let logits = [3.0, 2.0, 1.0, 0.0];
    let mut next = || {
        sampler
            .sample(&mut scratch, &logits, &[], None)
            .unwrap()
            .token
    };
    assert_eq!([next(), next(), next()], [2, 2, 0]);
}

#[test]
fn nan_logits_and_total_bans_are_typed_errors() {
    let mut sampler = Sampler::new(SamplingParams::greedy(), &vocab(2), &[]).unwrap();
    let mut scratch = Candidates::new(2);
    let error = sampler
        .sample(&mut scratch, &[0.0, f32::NAN], &[1, 1], None)
        .unwrap_err();
    assert!(
        matches!(
            error,
            EngineError::NonFinite {
                index: 1,
                position: 2,
                ..
            }
        ),
        "{error}"
    );
    let params = SamplingParams {
        ignore_eos: true,
        logit_bias: vec![(1, f32::NEG_INFINITY)],
        ..plain()
    };
    let mut sampler = Sampler::new(params, &vocab(2), &[]).unwrap();
    let error = sampler
        .sample(&mut scratch, &[0.0, 0.0], &[], None)
        .unwrap_err();
    assert!(matches!(error, EngineError::NoCandidates { .. }), "{error}");
    assert_eq!(error.code(), "INVALID_ARGUMENT");
}

#[test]
fn logprobs_are_the_models_own() {
    let p = [0.1, 0.6, 0.3];
    let params = SamplingParams {
        logprobs: Some(2),
        logit_bias: vec![(1, f32::NEG_INFINITY), (0, f32::NEG_INFINITY)],
        ..plain()
    };
    let mut sampler = Sampler::new(params, &vocab(3), &[]).unwrap();
    let mut scratch = Candidates::new(3);
    let got = sampler
        .sample(&mut scratch, &logits_of(&p), &[], None)
        .unwrap();
    let logprobs = got.logprobs.unwrap();
    assert_eq!((got.token, logprobs.token), (2, 2));
    assert!((logprobs.logprob - 0.3f32.ln()).abs() < 1e-6);
    let ids: Vec<u32> = logprobs.top.iter().map(|t| t.0).collect();
    assert_eq!(ids, [1, 2]);
    assert!((logprobs.top[0].1 - 0.6f32.ln()).abs() < 1e-6);
}

#[test]
fn asking_for_logprobs_does_not_change_the_tokens() {
    let logits: Vec<f32> = (0..300u32)
        .map(|i| ((i * 7919 % 101) as f32) / 20.0)
        .collect();
    let run = |logprobs| {
        let params = SamplingParams {
            logprobs,
            ..plain()
        };
        let mut sampler = Sampler::new(params, &vocab(300), &[]).unwrap();
        let mut scratch = Candidates::new(300);
        (0..200)
            .map(|_| {
                sampler
                    .sample(&mut scratch, &logits, &[], None)
                    .unwrap()
                    .token
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(run(None), run(Some(5)));
    assert_eq!(run(None), run(Some(0)));
}

#[test]
fn the_same_seed_gives_these_very_tokens_everywhere() {
    // Pinned, and equal to what a separate Python program with its own generator and libm computes: a change here
    // changes every user's seeded text.
    let logits: Vec<f32> = (0..1000u32)
        .map(|i| ((i * 7919 % 1009) as f32) / 100.0)
        .collect();
    let params = SamplingParams {
        seed: Some(1234),
        repetition_penalty: 1.1,
        xtc_probability: 0.3,
        xtc_threshold: 0.05,
        ..Default::default()
    };
    let mut sampler = Sampler::new(params, &vocab(1000), &[]).unwrap();
    let mut scratch = Candidates::new(1000);
    let mut history = vec![];
    for _ in 0..12 {
        let token = sampler
            .sample(&mut scratch, &logits, &history, None)
            .unwrap()
            .token;
        history.push(token);
    }
    assert_eq!(history, PINNED);
}

const PINNED: [u32; 12] = [620, 765, 864, 53, 33, 343, 277, 587, 752, 475, 86, 521];

#[test]
fn a_missing_seed_is_chosen_and_reported() {
    let params = || SamplingParams {
        seed: None,
        ..plain()
    };
    let a = Sampler::new(params(), &vocab(2), &[]).unwrap();
    let b = Sampler::new(params(), &vocab(2), &[]).unwrap();
    assert_ne!(a.seed(), b.seed());
}
