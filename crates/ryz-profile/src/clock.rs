//! One thread's stopwatch.

use std::time::{Duration, Instant};

use crate::Phase;

/// Times by phase, in nanoseconds.
pub(crate) type Times = [u64; Phase::COUNT];

/// A layer's times, on separate cache lines.
#[derive(Debug, Default, Clone)]
#[repr(align(128))]
pub(crate) struct LayerTimes(pub Times);

/// One timed execution of a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    /// The phase.
    pub phase: Phase,
    /// The layer, if any.
    pub layer: Option<u32>,
    /// Start time since the clock's creation.
    pub start: Duration,
    /// Duration.
    pub duration: Duration,
}

/// An [`Operation`] in ticks.
#[derive(Debug, Clone, Copy)]
struct Lap {
    phase: Phase,
    layer: Option<u32>,
    start: u64,
    ticks: u64,
}

/// Records time by phase. Created off; the profile's owner switches it on and off.
///
/// It counts ticks of a given counter, and calibrates them against the system's clock at the end of
/// each step. A lap therefore only reads the counter, which must advance evenly for the length of a
/// step.
///
/// It is aligned to separate cache lines (pairs, because processors fetch them in pairs): it is
/// written about twenty times per layer, and other threads would stall reading data on the same
/// line.
///
/// ```
/// use ryz_profile::{Phase, PhaseClock};
///
/// fn ticks() -> u64 {
///     # use std::{sync::OnceLock, time::Instant};
///     # static FIRST: OnceLock<Instant> = OnceLock::new();
///     # let nanoseconds = FIRST.get_or_init(Instant::now).elapsed().as_nanos() as u64;
///     // … a counter that runs evenly …
///     # nanoseconds
/// }
/// let mut clock = PhaseClock::new(2, ticks);
/// clock.set_recording(true, 1);
/// clock.begin();
/// // … work …
/// clock.lap(Phase::Embed, None);
/// clock.end();
/// assert_eq!(clock.operations()[0].phase, Phase::Embed);
/// ```
#[derive(Debug)]
#[repr(align(128))]
pub struct PhaseClock {
    recording: bool,
    /// Maximum operations kept; 0 keeps none.
    capacity: usize,
    counter: fn() -> u64,
    epoch: Instant,
    /// Start of the step, by the system's clock and by the counter.
    began: (Instant, u64),
    mark: u64,
    /// Times of the current step, in ticks.
    total: Times,
    layers: Box<[LayerTimes]>,
    laps: Vec<Lap>,
    /// Times of finished steps, in nanoseconds.
    pub(crate) ended: CompletedSteps,
}

/// Times recorded in finished steps.
#[derive(Debug)]
pub(crate) struct CompletedSteps {
    pub total: Times,
    pub layers: Box<[Times]>,
    pub operations: Vec<Operation>,
}

impl PhaseClock {
    /// A clock for a model of `layers` layers, not recording. `counter` returns a number that grows
    /// evenly with time.
    pub fn new(layers: usize, counter: fn() -> u64) -> Self {
        let now = Instant::now();
        Self {
            recording: false,
            capacity: 0,
            counter,
            epoch: now,
            began: (now, 0),
            mark: 0,
            total: [0; Phase::COUNT],
            layers: vec![LayerTimes::default(); layers].into(),
            laps: Vec::new(),
            ended: CompletedSteps {
                total: [0; Phase::COUNT],
                layers: vec![[0; Phase::COUNT]; layers].into(),
                operations: Vec::new(),
            },
        }
    }

    /// Starts or stops recording. Keeps up to `operations` single operations for a trace between
    /// two reads by a [`crate::Profile`]; 0 (the default) keeps none.
    pub fn set_recording(&mut self, recording: bool, operations: usize) {
        self.recording = recording;
        self.capacity = operations;
        let kept = &mut self.ended.operations;
        self.laps
            .reserve(operations.saturating_sub(self.laps.len()));
        kept.reserve(operations.saturating_sub(kept.len()));
    }

    /// Whether laps are recorded.
    pub fn is_recording(&self) -> bool {
        self.recording
    }

    /// Begins a step; time before it is not recorded.
    pub fn begin(&mut self) {
        if self.recording {
            self.mark = (self.counter)();
            self.began = (Instant::now(), self.mark);
        }
    }

    /// Attributes the time since the last lap to `phase`, and to `layer` if given.
    #[inline]
    pub fn lap(&mut self, phase: Phase, layer: Option<usize>) {
        if self.recording {
            self.book(phase, layer);
        }
    }

    fn book(&mut self, phase: Phase, layer: Option<usize>) {
        let now = (self.counter)();
        // A thread that moved to another core may read a smaller value.
        let ticks = now.saturating_sub(self.mark);
        self.total[phase.index()] += ticks;
        if let Some(times) = layer.and_then(|layer| self.layers.get_mut(layer)) {
            times.0[phase.index()] += ticks;
        }
        if self.laps.len() + self.ended.operations.len() < self.capacity {
            self.laps.push(Lap {
                phase,
                layer: layer.map(|layer| layer as u32),
                start: self.mark,
                ticks,
            });
        }
        self.mark = now;
    }

    /// Ends a step and converts its times to the system's time.
    pub fn end(&mut self) {
        let (began, first) = self.began;
        let passed = (self.counter)().saturating_sub(first);
        let tick = began.elapsed().as_nanos() as f64 / passed.max(1) as f64;
        let nanos = |ticks: u64| (ticks as f64 * tick) as u64;
        convert(&mut self.total, &mut self.ended.total, nanos);
        for (from, to) in self.layers.iter_mut().zip(&mut self.ended.layers) {
            convert(&mut from.0, to, nanos);
        }
        let before = began - self.epoch;
        let operations = self.laps.drain(..).map(|lap| Operation {
            phase: lap.phase,
            layer: lap.layer,
            start: before + Duration::from_nanos(nanos(lap.start.saturating_sub(first))),
            duration: Duration::from_nanos(nanos(lap.ticks)),
        });
        self.ended.operations.extend(operations);
    }

    /// The single operations of finished steps since the last clear, in order.
    pub fn operations(&self) -> &[Operation] {
        &self.ended.operations
    }

    /// Its creation time.
    pub(crate) fn epoch(&self) -> Instant {
        self.epoch
    }

    /// Clears the recorded times; [`crate::Profile::add_step`] also does.
    pub fn clear(&mut self) {
        self.total = [0; Phase::COUNT];
        self.layers.fill(LayerTimes::default());
        self.laps.clear();
        self.ended.total = [0; Phase::COUNT];
        self.ended.layers.fill([0; Phase::COUNT]);
        self.ended.operations.clear();
    }
}

/// Converts ticks to nanoseconds and moves them.
fn convert(from: &mut Times, to: &mut Times, nanos: impl Fn(u64) -> u64) {
    for (ticks, sum) in from.iter_mut().zip(to) {
        *sum += nanos(std::mem::take(ticks));
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;
    use std::sync::OnceLock;

    use super::*;

    /// The system's clock as a counter.
    pub(crate) fn nanoseconds() -> u64 {
        static FIRST: OnceLock<Instant> = OnceLock::new();
        FIRST.get_or_init(Instant::now).elapsed().as_nanos() as u64
    }

    /// A counter with another unit.
    fn ticks() -> u64 {
        nanoseconds() * 7 + 1_000_000
    }

    #[test]
    fn every_moment_between_begin_and_the_last_lap_is_booked_once() {
        let mut clock = PhaseClock::new(1, ticks);
        clock.set_recording(true, 10);
        let start = Instant::now();
        clock.begin();
        for phase in [Phase::Embed, Phase::Norm, Phase::Embed] {
            std::thread::sleep(Duration::from_millis(2));
            clock.lap(phase, (phase == Phase::Norm).then_some(0));
        }
        assert!(clock.operations().is_empty(), "the step has not ended");
        clock.end();
        let passed = start.elapsed().as_nanos() as u64;
        let ended = &clock.ended;
        let booked: u64 = ended.total.iter().sum();
        // Reads of the two clocks are at most a few microseconds apart.
        assert!(
            booked <= passed + 100_000 && booked >= 5_900_000,
            "{booked} of {passed}"
        );
        let norm = Phase::Norm.index();
        assert_eq!(ended.layers[0][norm], ended.total[norm]);
        assert_eq!(ended.layers[0][Phase::Embed.index()], 0);
        let [a, b, c] = clock.operations()[..] else {
            panic!("three operations")
        };
        for (one, next) in [(a, b), (b, c)] {
            let gap = next.start.abs_diff(one.start + one.duration);
            assert!(gap <= Duration::from_nanos(2), "{gap:?}");
        }
        assert_eq!((b.phase, b.layer), (Phase::Norm, Some(0)));
    }

    #[test]
    fn a_counter_that_steps_back_takes_no_time() {
        thread_local!(static COUNTER: Cell<u64> = const { Cell::new(1000) });
        let set = |value| COUNTER.with(|counter| counter.set(value));
        let mut clock = PhaseClock::new(0, || COUNTER.with(Cell::get));
        clock.set_recording(true, 8);
        clock.begin();
        for value in [2000, 500, 2500] {
            set(value);
            clock.lap(Phase::Embed, None);
        }
        assert_eq!(clock.total[Phase::Embed.index()], 1000 + 2000);
        set(0);
        clock.end();
        assert_eq!(clock.operations().len(), 3);
    }

    #[test]
    fn a_clock_that_is_off_books_nothing() {
        let mut clock = PhaseClock::new(1, ticks);
        clock.begin();
        clock.lap(Phase::Embed, Some(0));
        assert_eq!(clock.total, [0; Phase::COUNT]);
        clock.set_recording(true, 1);
        clock.begin();
        clock.lap(Phase::Embed, Some(7));
        clock.lap(Phase::Norm, None);
        clock.end();
        assert_eq!(clock.operations().len(), 1, "as many as there is room for");
        clock.clear();
        assert!(clock.ended.total.iter().all(|&t| t == 0) && clock.operations().is_empty());
    }
}
