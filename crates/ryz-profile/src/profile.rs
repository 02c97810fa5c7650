//! The accumulated clocks of many steps.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::clock::{Operation, PhaseClock, Times};
use crate::phase::Phase;
use crate::snapshot::{
    Bandwidth, CacheProfile, LatencySummary, LayerProfile, PhaseTime, Snapshot, SpanTime,
    TokenCounts,
};
use crate::spans::{SpanId, SpanTotal, Spans};

/// The engine's data of one step.
#[derive(Debug, Clone, Copy, Default)]
pub struct Step {
    /// From the first command read to the last delta delivered.
    pub wall: Duration,
    /// Prompt tokens computed.
    pub prompt_tokens: usize,
    /// Sequences that decoded one token.
    pub decoded_tokens: usize,
    /// Bytes of weights read by the step.
    pub weight_bytes: u64,
    /// Bytes of cached keys and values read by the step.
    pub kv_bytes: u64,
    /// Additional bytes that the dense path would have read.
    pub skipped_bytes: u64,
}

impl Step {
    fn is_decode(&self) -> bool {
        self.prompt_tokens == 0 && self.decoded_tokens > 0
    }
}

/// Activity of a layer's feed-forward network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LayerActivity {
    /// Output values of gate and up.
    pub values: u64,
    /// Number of these that are 0.
    pub zeros: u64,
    /// Number of their int8 forms that are 0.
    pub quantized_zeros: u64,
    /// Bytes of weights skipped because of them.
    pub skipped_bytes: u64,
}

impl LayerActivity {
    fn add(&mut self, other: Self) {
        self.values += other.values;
        self.zeros += other.zeros;
        self.quantized_zeros += other.quantized_zeros;
        self.skipped_bytes += other.skipped_bytes;
    }
}

/// Maximum recorded latency: one minute. Longer ones count as one minute.
const LONGEST_NS: u64 = 60_000_000_000;

/// Why there are no cache counts before the engine provides any.
const NOT_COUNTED: &str = "no step was recorded";

/// Everything recorded since creation or [`Profile::reset`].
#[derive(Debug)]
pub struct Profile {
    /// Maximum operations kept for a trace.
    capacity: usize,
    epoch: Instant,
    /// Times of prefill steps and of work outside the steps.
    total: Times,
    layers: Vec<Times>,
    /// Times of the decode steps whose phases were recorded; the other decode steps are scaled from
    /// them.
    decode_total: Times,
    decode_layers: Vec<Times>,
    decode_looked: Duration,
    activity: Vec<LayerActivity>,
    decode: Option<Histogram<u64>>,
    prefill: Option<Histogram<u64>>,
    wall: Duration,
    decode_wall: Duration,
    decode_bytes: u64,
    sums: Step,
    operations: Vec<Operation>,
    spans: Spans,
}

impl Profile {
    /// An empty profile for a model of `layers` layers that keeps up to `operations` single
    /// operations.
    pub fn new(layers: usize, operations: usize) -> Self {
        Self {
            capacity: operations,
            epoch: Instant::now(),
            total: [0; Phase::COUNT],
            layers: vec![[0; Phase::COUNT]; layers],
            decode_total: [0; Phase::COUNT],
            decode_layers: vec![[0; Phase::COUNT]; layers],
            decode_looked: Duration::ZERO,
            activity: vec![LayerActivity::default(); layers],
            decode: None,
            prefill: None,
            wall: Duration::ZERO,
            decode_wall: Duration::ZERO,
            decode_bytes: 0,
            sums: Step::default(),
            operations: Vec::new(),
            spans: Spans::default(),
        }
    }

    /// Clears everything except running timers.
    pub fn reset(&mut self) {
        let spans = std::mem::take(&mut self.spans);
        *self = Self::new(self.layers.len(), self.capacity);
        self.spans = spans;
        self.spans.totals.clear();
        self.spans.ended.clear();
    }

    /// Remaining capacity for operations, which a clock needs to keep at most.
    pub fn room(&self) -> usize {
        self.capacity - self.operations.len()
    }

    /// Adds a step that has [ended](PhaseClock::end) and clears its clock.
    pub fn add_step(&mut self, step: Step, clock: &mut PhaseClock) {
        let ended = &clock.ended;
        let (total, layers) = match step.is_decode() {
            true => {
                self.decode_looked += step.wall;
                (&mut self.decode_total, &mut self.decode_layers)
            }
            false => (&mut self.total, &mut self.layers),
        };
        add(total, &ended.total);
        for (sum, times) in layers.iter_mut().zip(&ended.layers) {
            add(sum, times);
        }
        let room = self.room();
        let since = clock.epoch().saturating_duration_since(self.epoch);
        let operations = ended
            .operations
            .iter()
            .take(room)
            .map(|operation| Operation {
                start: operation.start + since,
                ..*operation
            });
        self.operations.extend(operations);
        clock.clear();
        self.add_time_of(step);
    }

    /// Whether the phases of a decode step were recorded, which [`Profile::add_time_of`] needs as a
    /// reference.
    pub fn has_decode(&self) -> bool {
        !self.decode_looked.is_zero()
    }

    /// Adds a decode step whose phases were not recorded: they are estimated in proportion to the
    /// other decode steps.
    pub fn add_time_of(&mut self, step: Step) {
        self.wall += step.wall;
        let nanos = (step.wall.as_nanos() as u64).clamp(1, LONGEST_NS);
        let histogram = if step.is_decode() {
            self.decode_wall += step.wall;
            self.decode_bytes += step.weight_bytes + step.kv_bytes;
            &mut self.decode
        } else {
            &mut self.prefill
        };
        histogram
            .get_or_insert_with(latencies)
            .saturating_record(nanos);
        let sums = &mut self.sums;
        sums.prompt_tokens += step.prompt_tokens;
        sums.decoded_tokens += step.decoded_tokens;
        sums.weight_bytes += step.weight_bytes;
        sums.kv_bytes += step.kv_bytes;
        sums.skipped_bytes += step.skipped_bytes;
    }

    /// Adds time spent outside the steps, such as tokenization on a separate thread.
    pub fn add_beside(&mut self, phase: Phase, duration: Duration) {
        self.total[phase.index()] += duration.as_nanos() as u64;
        self.wall += duration;
    }

    /// Adds a step's counts of a layer's activity.
    pub fn add_activity(&mut self, layer: usize, activity: LayerActivity) {
        if let Some(sum) = self.activity.get_mut(layer) {
            sum.add(activity);
        }
    }

    /// Starts a user-defined timer, nested in the last one that still runs. `None` when 256 are
    /// running.
    pub fn start_timer(&mut self, name: &str) -> Option<SpanId> {
        self.spans.start(name)
    }

    /// Ends a timer and returns its duration; `None` when there is no such timer.
    pub fn end_timer(&mut self, id: SpanId) -> Option<Duration> {
        self.spans.end(id, self.capacity)
    }

    /// The totals so far.
    pub fn snapshot(&self) -> Snapshot {
        let wall = self.wall.as_nanos() as u64;
        let scale = match self.has_decode() {
            true => self.decode_wall.div_duration_f64(self.decode_looked),
            false => 1.0,
        };
        let with_decode = |times: &Times, decode: &Times| {
            let mut sum = decode.map(|nanos| (nanos as f64 * scale) as u64);
            add(&mut sum, times);
            sum
        };
        let total = with_decode(&self.total, &self.decode_total);
        let attributed: u64 = total.iter().sum();
        let tokens = self.sums.prompt_tokens + self.sums.decoded_tokens;
        let time = |name: &'static str, nanos: u64| PhaseTime {
            phase: name.into(),
            total_ms: nanos as f64 / 1e6,
            per_token_us: ratio(nanos as f64 / 1e3, tokens as f64),
            share: ratio(nanos as f64, wall as f64),
        };
        let mut phases: Vec<PhaseTime> = Phase::ALL
            .iter()
            .map(|phase| time(phase.name(), total[phase.index()]))
            .collect();
        phases.push(time("unattributed", wall.saturating_sub(attributed)));
        let layers = self.layers.iter().zip(&self.decode_layers);
        let layers = layers.map(|(times, decode)| with_decode(times, decode));
        let layers = layers.zip(&self.activity).enumerate();
        let counts = TokenCounts {
            prompt: self.sums.prompt_tokens as u64,
            decoded: self.sums.decoded_tokens as u64,
        };
        Snapshot {
            phases,
            layers: layers
                .map(|(layer, (times, activity))| LayerProfile {
                    layer,
                    phases: Phase::ALL
                        .iter()
                        .filter(|phase| times[phase.index()] > 0)
                        .map(|phase| time(phase.name(), times[phase.index()]))
                        .collect(),
                    zero_fraction: fraction(activity.zeros, activity.values),
                    quantized_zero_fraction: fraction(activity.quantized_zeros, activity.values),
                })
                .collect(),
            decode: self.decode.as_ref().map(summary),
            prefill: self.prefill.as_ref().map(summary),
            tokens: counts,
            cache: CacheProfile::new(Err(NOT_COUNTED.to_owned()), counts),
            bandwidth: Bandwidth {
                weight_bytes_per_token: ratio(self.sums.weight_bytes as f64, tokens as f64),
                kv_bytes_per_token: ratio(self.sums.kv_bytes as f64, tokens as f64),
                skipped_bytes_per_token: ratio(self.sums.skipped_bytes as f64, tokens as f64),
                decode_gb_per_second: ratio(
                    self.decode_bytes as f64,
                    self.decode_wall.as_nanos() as f64,
                ),
            },
            timers: self
                .spans
                .totals
                .iter()
                .map(|(path, total)| span(path, *total))
                .collect(),
            memory_high_water_bytes: 0,
        }
    }

    /// The recorded operations as a Chrome trace (JSON; open it in `chrome://tracing` or Perfetto).
    pub fn trace(&self) -> String {
        crate::trace::chrome(&self.operations, &self.spans.ended, self.epoch)
    }
}

fn latencies() -> Histogram<u64> {
    // Three significant digits up to a minute; the histogram accepts these constant bounds.
    match Histogram::new_with_bounds(1, LONGEST_NS, 3) {
        Ok(histogram) => histogram,
        Err(error) => unreachable!("constant bounds: {error}"),
    }
}

fn summary(histogram: &Histogram<u64>) -> LatencySummary {
    let at = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1e6;
    LatencySummary {
        steps: histogram.len(),
        mean_ms: histogram.mean() / 1e6,
        p50_ms: at(0.50),
        p95_ms: at(0.95),
        p99_ms: at(0.99),
        max_ms: histogram.max() as f64 / 1e6,
    }
}

fn span(path: &str, total: SpanTotal) -> SpanTime {
    SpanTime {
        path: path.to_owned(),
        count: total.count,
        total_ms: total.total.as_secs_f64() * 1e3,
    }
}

fn add(sum: &mut Times, times: &Times) {
    for (sum, time) in sum.iter_mut().zip(times) {
        *sum += time;
    }
}

fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

fn fraction(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::tests::nanoseconds;

    fn step(prompt_tokens: usize, decoded_tokens: usize, millis: u64) -> Step {
        Step {
            wall: Duration::from_millis(millis),
            prompt_tokens,
            decoded_tokens,
            weight_bytes: 1_000_000,
            kv_bytes: 500_000,
            skipped_bytes: 250_000,
        }
    }

    #[test]
    fn steps_add_up_to_shares_latencies_and_bytes() {
        let mut profile = Profile::new(2, 0);
        let mut clock = PhaseClock::new(2, nanoseconds);
        clock.ended.total[Phase::Qkv.index()] = 30_000_000;
        clock.ended.layers[1][Phase::Qkv.index()] = 30_000_000;
        profile.add_step(step(10, 0, 40), &mut clock);
        assert_eq!(
            clock.ended.total,
            [0; Phase::COUNT],
            "the clock is ready for the next step"
        );
        for millis in 1..=10 {
            profile.add_step(step(0, 1, millis), &mut clock);
        }
        let got = profile.snapshot();
        assert_eq!((got.tokens.prompt, got.tokens.decoded), (10, 10));
        let decode = got.decode.unwrap();
        assert_eq!(decode.steps, 10);
        assert!((decode.p50_ms - 5.0).abs() < 0.01 && (decode.p99_ms - 10.0).abs() < 0.02);
        assert_eq!(got.prefill.unwrap().steps, 1);
        // 30 of 95 ms are known.
        let share = |name: &str| got.phases.iter().find(|p| p.phase == name).unwrap().share;
        assert!((share("qkv") - 30.0 / 95.0).abs() < 1e-9);
        assert!((share("unattributed") - 65.0 / 95.0).abs() < 1e-9);
        assert!((got.phases.iter().map(|p| p.share).sum::<f64>() - 1.0).abs() < 1e-9);
        assert_eq!(got.layers[0].phases.len(), 0);
        assert_eq!(got.layers[1].phases[0].phase, "qkv");
        // 1.5 MB in each of ten steps of 55 ms together.
        assert!((got.bandwidth.decode_gb_per_second - 15e6 / 55e6).abs() < 1e-9);
        assert!((got.bandwidth.skipped_bytes_per_token - 137_500.0).abs() < 1e-6);
    }

    #[test]
    fn activity_is_a_fraction_of_what_was_seen() {
        let mut profile = Profile::new(2, 0);
        let activity = LayerActivity {
            values: 100,
            zeros: 60,
            quantized_zeros: 75,
            skipped_bytes: 0,
        };
        profile.add_activity(1, activity);
        profile.add_activity(1, activity);
        profile.add_activity(7, activity);
        let layers = profile.snapshot().layers;
        assert_eq!(layers[0].zero_fraction, None);
        assert_eq!(layers[1].zero_fraction, Some(0.6));
        assert_eq!(layers[1].quantized_zero_fraction, Some(0.75));
    }

    #[test]
    fn a_reset_keeps_only_what_runs() {
        let mut profile = Profile::new(1, 4);
        let running = profile.start_timer("outer").unwrap();
        let ended = profile.start_timer("inner").unwrap();
        profile.end_timer(ended).unwrap();
        profile.add_step(step(1, 0, 5), &mut PhaseClock::new(1, nanoseconds));
        profile.reset();
        let empty = profile.snapshot();
        assert_eq!((empty.tokens.prompt, empty.timers.len()), (0, 0));
        assert!(profile.end_timer(running).is_some());
        assert_eq!(profile.snapshot().timers.len(), 1);
    }

    #[test]
    fn steps_that_were_not_looked_at_count_as_the_others() {
        let mut profile = Profile::new(1, 0);
        let mut clock = PhaseClock::new(1, nanoseconds);
        clock.ended.total[Phase::Qkv.index()] = 3_000_000;
        clock.ended.layers[0][Phase::Qkv.index()] = 3_000_000;
        profile.add_step(step(0, 1, 4), &mut clock);
        for _ in 0..3 {
            profile.add_time_of(step(0, 1, 4));
        }
        profile.add_beside(Phase::Tokenize, Duration::from_millis(4));
        let got = profile.snapshot();
        let of = |name: &str| got.phases.iter().find(|p| p.phase == name).unwrap();
        assert_eq!((of("qkv").total_ms, of("tokenize").total_ms), (12.0, 4.0));
        assert!((of("unattributed").share - 4.0 / 20.0).abs() < 1e-9);
        assert_eq!(got.layers[0].phases[0].total_ms, 12.0);
        assert_eq!((got.tokens.decoded, got.decode.unwrap().steps), (4, 4));
        // A prefill step with recorded phases is counted once.
        clock.ended.total[Phase::Head.index()] = 40_000_000;
        profile.add_step(step(10, 0, 50), &mut clock);
        let got = profile.snapshot();
        let of = |name: &str| got.phases.iter().find(|p| p.phase == name).unwrap();
        assert_eq!((of("qkv").total_ms, of("head").total_ms), (12.0, 40.0));
    }

    #[test]
    fn time_beside_the_steps_has_its_share() {
        let mut profile = Profile::new(0, 0);
        profile.add_beside(Phase::Tokenize, Duration::from_millis(3));
        let got = profile.snapshot();
        assert_eq!(got.phases[0].phase, "tokenize");
        assert!((got.phases[0].share - 1.0).abs() < 1e-9);
    }
}
