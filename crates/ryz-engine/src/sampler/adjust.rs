//! The samplers that change logits: bias, penalties and temperature.

use super::candidates::Candidates;
use super::params::SamplingParams;
use crate::math::{ln, pow};

/// The last `window` tokens of a history (`None`: all).
pub(super) fn tail(history: &[u32], window: Option<u32>) -> &[u32] {
    let n = window.map_or(history.len(), |w| (w as usize).min(history.len()));
    &history[history.len() - n..]
}

/// Repetition penalty (Keskar et al., 2019), then frequency and presence penalties, for every token of the window:
/// `logit = (logit > 0 ? logit / repetition : logit * repetition) - count * frequency - presence`.
pub(super) fn penalties(c: &mut Candidates, params: &SamplingParams, history: &[u32]) {
    let off = params.repetition_penalty == 1.0
        && params.presence_penalty == 0.0
        && params.frequency_penalty == 0.0;
    let window = tail(history, params.penalty_window);
    if off || window.is_empty() {
        return;
    }
    let mut tokens = std::mem::take(&mut c.tokens);
    tokens.clear();
    tokens.extend_from_slice(window);
    tokens.sort_unstable();
    let base = c.base;
    for run in tokens.chunk_by(|a, b| a == b) {
        let count = run.len() as f32;
        c.change(run[0], |logit| {
            let logit = repeated(logit, base, params.repetition_penalty);
            logit - count * params.frequency_penalty - params.presence_penalty
        });
    }
    c.tokens = tokens;
}

/// A logit, measured from `base`, after the repetition penalty, which depends on its sign and so on the model's scale.
fn repeated(logit: f32, base: f64, penalty: f32) -> f32 {
    if base == 0.0 {
        return match logit > 0.0 {
            true => logit / penalty,
            false => logit * penalty,
        };
    }
    let whole = f64::from(logit) + base;
    let penalised = match whole > 0.0 {
        true => whole / f64::from(penalty),
        false => whole * f64::from(penalty),
    };
    (penalised - base) as f32
}

/// Divides by the temperature. With a dynamic range the temperature is
/// `low + (high - low) * (entropy / ln(candidates))^exponent`, where low and high are temperature ± range (low at
/// least 0). A temperature of 0 leaves the best alone.
pub(super) fn temperature(c: &mut Candidates, params: &SamplingParams) {
    if c.len() < 2 {
        return;
    }
    let temperature = f64::from(params.temperature);
    let range = f64::from(params.dynamic_temperature_range);
    let t = if range > 0.0 {
        let low = (temperature - range).max(0.0);
        let high = temperature + range;
        let total = c.weigh();
        let normalised = (c.entropy(total) / ln(c.len() as f64)).clamp(0.0, 1.0);
        low + (high - low) * pow(normalised, f64::from(params.dynamic_temperature_exponent))
    } else {
        temperature
    };
    if t == 1.0 {
        return;
    }
    if t <= 0.0 {
        c.sort_front(1);
        c.cut(1);
        return;
    }
    // Measured from the largest, so that a tiny temperature cannot overflow to infinity.
    let max = f64::from(c.max());
    c.change_all(|logit| ((f64::from(logit) - max) / t) as f32);
    c.base = (c.base + max) / t;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(logits: &[f32]) -> Candidates {
        let mut c = Candidates::new(logits.len());
        c.fill(logits, None, 0).unwrap();
        c
    }

    fn logits(c: &Candidates) -> Vec<f32> {
        let mut items = c.items.clone();
        items.sort_unstable_by_key(|x| x.id);
        items.iter().map(|x| x.logit).collect()
    }

    #[test]
    fn penalties_act_on_the_window_only() {
        let params = SamplingParams {
            repetition_penalty: 2.0,
            presence_penalty: 0.5,
            frequency_penalty: 0.25,
            penalty_window: Some(3),
            ..Default::default()
        };
        let mut c = filled(&[4.0, -1.0, 3.0, 0.0]);
        // 2 has left the window; 0 twice: 4/2 - 2*0.25 - 0.5; 1 once: -1*2 - 0.25 - 0.5.
        penalties(&mut c, &params, &[2, 0, 1, 0]);
        assert_eq!(logits(&c), [1.0, -2.75, 3.0, 0.0]);
    }

    #[test]
    fn a_repetition_penalty_behind_temperature_acts_on_the_model_s_scale() {
        let params = SamplingParams {
            temperature: 0.5,
            repetition_penalty: 3.0,
            ..Default::default()
        };
        // 6, 2 and −1 at temperature 0.5 are 12, 4 and −2; the penalty makes 12 → 4, 4 → 4/3, −2 → −6.
        let behind = |history: &[u32]| {
            let mut c = filled(&[6.0, 2.0, -1.0]);
            temperature(&mut c, &params);
            penalties(&mut c, &params, history);
            let base = c.base;
            let whole = logits(&c).into_iter().map(|x| f64::from(x) + base);
            whole.map(|x| (x * 1e5).round() / 1e5).collect::<Vec<_>>()
        };
        assert_eq!(behind(&[]), [12.0, 4.0, -2.0]);
        assert_eq!(behind(&[0]), [4.0, 4.0, -2.0]);
        assert_eq!(behind(&[1]), [12.0, 1.33333, -2.0]);
        assert_eq!(behind(&[2, 2]), [12.0, 4.0, -6.0]);
        // All logits below 0: the penalty lowers the best one too.
        let mut c = filled(&[-1.0, -1.5]);
        temperature(&mut c, &params);
        penalties(&mut c, &params, &[0]);
        assert_eq!(c.best().unwrap().id, 1);
    }

    #[test]
    fn an_unlimited_window_reaches_the_first_token() {
        let params = SamplingParams {
            presence_penalty: 1.0,
            penalty_window: None,
            ..Default::default()
        };
        let mut c = filled(&[0.0, 0.0]);
        let mut history = vec![1];
        history.extend([0; 500]);
        penalties(&mut c, &params, &history);
        assert_eq!(logits(&c), [-1.0, -1.0]);
    }

    #[test]
    fn penalties_find_candidates_after_a_sort_and_skip_missing_ones() {
        let params = SamplingParams {
            presence_penalty: 10.0,
            ..Default::default()
        };
        let mut c = filled(&[1.0, 3.0, 2.0, 0.0]);
        super::super::truncate::top_k(&mut c, 2);
        penalties(&mut c, &params, &[1, 0]);
        assert_eq!(c.best().unwrap().id, 2);
        assert_eq!(logits(&c), [-7.0, 2.0]);
    }

    #[test]
    fn temperature_divides() {
        let mut c = filled(&[0.0, 2.0, 4.0]);
        temperature(
            &mut c,
            &SamplingParams {
                temperature: 2.0,
                ..Default::default()
            },
        );
        assert_eq!(logits(&c), [-2.0, -1.0, 0.0]);
        let mut c = filled(&[0.0, 1.0]);
        temperature(
            &mut c,
            &SamplingParams {
                temperature: 1e-38,
                ..Default::default()
            },
        );
        assert_eq!(c.draw(0.0), 1);
        assert!(c.items.iter().all(|x| x.logit.is_finite()));
    }

    #[test]
    fn dynamic_temperature_follows_the_entropy() {
        let params = SamplingParams {
            temperature: 1.0,
            dynamic_temperature_range: 0.5,
            dynamic_temperature_exponent: 2.0,
            ..Default::default()
        };
        // Probabilities 3/4, 1/4: entropy 0.811278 bits of 1 bit. t = 0.5 + 1 * 0.811278^2 = 1.158172.
        let gap = 3f32.ln();
        let mut c = filled(&[gap, 0.0]);
        temperature(&mut c, &params);
        let got = logits(&c);
        assert!((got[0] - got[1] - gap / 1.158_172).abs() < 1e-5, "{got:?}");
        // All equal: the highest temperature, which changes nothing between equals.
        let mut c = filled(&[1.0; 4]);
        temperature(&mut c, &params);
        assert_eq!(logits(&c), [0.0; 4]);
        // One certain token and a range down to zero: the best alone.
        let mut c = filled(&[0.0, -2000.0]);
        let params = SamplingParams {
            temperature: 0.5,
            dynamic_temperature_range: 0.5,
            ..Default::default()
        };
        temperature(&mut c, &params);
        assert_eq!(c.len(), 1);
    }
}
