//! Finite-difference checks of every operator's backward pass.

/// Repeatable pseudo-random values in −1…1.
pub(crate) fn noise(seed: u64, n: usize) -> Vec<f32> {
    let mut rng = crate::rng::SplitMix64::stream(seed, 0, 0);
    (0..n).map(|_| rng.uniform() as f32 * 2.0 - 1.0).collect()
}

/// Compares `gradient` of `Σ dy·f(x)` with central differences along ten random directions and at
/// single elements.
///
/// The step is 1e-2 for unit-sized inputs, where f32 rounding (about 1e-5 of the sums here) and the
/// cubic term of the difference are both below 1 % of a typical directional derivative.
pub(crate) fn check(
    name: &str,
    x: &[f32],
    gradient: &[f32],
    dy: &[f32],
    f: impl Fn(&[f32]) -> Vec<f32>,
) {
    let value = |x: &[f32]| -> f64 {
        f(x).iter()
            .zip(dy)
            .map(|(y, d)| f64::from(*y) * f64::from(*d))
            .sum()
    };
    for trial in 0..10 {
        let direction = noise(100 + trial, x.len());
        let step = 4e-3;
        let shifted = |sign: f32| -> Vec<f32> {
            x.iter()
                .zip(&direction)
                .map(|(x, d)| x + sign * step * d)
                .collect()
        };
        let numeric = (value(&shifted(1.0)) - value(&shifted(-1.0))) / (2.0 * f64::from(step));
        let analytic: f64 = gradient
            .iter()
            .zip(&direction)
            .map(|(g, d)| f64::from(*g) * f64::from(*d))
            .sum();
        let size = gradient
            .iter()
            .map(|g| f64::from(*g).powi(2))
            .sum::<f64>()
            .sqrt();
        assert!(
            (numeric - analytic).abs() < 5e-3 * size + 1e-4,
            "{name}: numeric {numeric}, analytic {analytic}, |gradient| {size}"
        );
    }
}
