//! One thread's stopwatch.

use std::time::{Duration, Instant};

use crate::Phase;

/// Times by phase, in nanoseconds.
pub(crate) type Times = [u64; Phase::COUNT];

/// One timed operation: a phase, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    /// What was done.
    pub phase: Phase,
    /// The layer it was done for.
    pub layer: Option<u32>,
    /// When it began, since the clock was made.
    pub start: Duration,
    /// How long it took.
    pub duration: Duration,
}

/// Books time to phases. Made off; switched on and off by whoever owns the profile.
///
/// ```
/// use ryz_profile::{Phase, PhaseClock};
///
/// let mut clock = PhaseClock::new(2);
/// clock.set_recording(true, 0);
/// clock.begin();
/// // … work …
/// clock.lap(Phase::Embed, None);
/// assert!(clock.is_recording());
/// ```
#[derive(Debug)]
pub struct PhaseClock {
    recording: bool,
    /// Operations kept at most; 0 keeps none.
    capacity: usize,
    epoch: Instant,
    mark: Instant,
    pub(crate) total: Times,
    pub(crate) layers: Box<[Times]>,
    pub(crate) operations: Vec<Operation>,
}

impl PhaseClock {
    /// A clock for a model of so many layers, not recording.
    pub fn new(layers: usize) -> Self {
        let now = Instant::now();
        Self {
            recording: false,
            capacity: 0,
            epoch: now,
            mark: now,
            total: [0; Phase::COUNT],
            layers: vec![[0; Phase::COUNT]; layers].into(),
            operations: Vec::new(),
        }
    }

    /// Starts or stops recording, and keeps up to `operations` single operations for a trace between two looks of a
    /// [`crate::Profile`]; 0, the default, keeps none.
    pub fn set_recording(&mut self, recording: bool, operations: usize) {
        self.recording = recording;
        self.capacity = operations;
        self.operations
            .reserve(operations.saturating_sub(self.operations.len()));
    }

    /// Whether laps are booked.
    pub fn is_recording(&self) -> bool {
        self.recording
    }

    /// Lets time run from now: what was before belongs to nobody.
    pub fn begin(&mut self) {
        if self.recording {
            self.mark = Instant::now();
        }
    }

    /// Books the time since the last lap to `phase`, and to `layer` where there is one.
    #[inline]
    pub fn lap(&mut self, phase: Phase, layer: Option<usize>) {
        if self.recording {
            self.book(phase, layer);
        }
    }

    fn book(&mut self, phase: Phase, layer: Option<usize>) {
        let now = Instant::now();
        let duration = now - self.mark;
        let nanos = duration.as_nanos() as u64;
        self.total[phase.index()] += nanos;
        if let Some(times) = layer.and_then(|layer| self.layers.get_mut(layer)) {
            times[phase.index()] += nanos;
        }
        if self.operations.len() < self.capacity {
            self.operations.push(Operation {
                phase,
                layer: layer.map(|layer| layer as u32),
                start: self.mark - self.epoch,
                duration,
            });
        }
        self.mark = now;
    }

    /// The single operations since it was last cleared, in order.
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// When it was made.
    pub(crate) fn epoch(&self) -> Instant {
        self.epoch
    }

    /// Forgets what was booked; [`crate::Profile::add_step`] does it, too.
    pub fn clear(&mut self) {
        self.total = [0; Phase::COUNT];
        self.layers.fill([0; Phase::COUNT]);
        self.operations.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_moment_between_begin_and_the_last_lap_is_booked_once() {
        let mut clock = PhaseClock::new(1);
        clock.set_recording(true, 10);
        let start = Instant::now();
        clock.begin();
        for phase in [Phase::Embed, Phase::Norm, Phase::Embed] {
            std::thread::sleep(Duration::from_millis(2));
            clock.lap(phase, (phase == Phase::Norm).then_some(0));
        }
        let passed = start.elapsed().as_nanos() as u64;
        let booked: u64 = clock.total.iter().sum();
        assert!(
            booked <= passed && booked >= 6_000_000,
            "{booked} of {passed}"
        );
        assert_eq!(
            clock.layers[0][Phase::Norm.index()],
            clock.total[Phase::Norm.index()]
        );
        assert_eq!(clock.layers[0][Phase::Embed.index()], 0);
        let [a, b, c] = clock.operations[..] else {
            panic!("three operations")
        };
        assert_eq!(a.start + a.duration, b.start);
        assert_eq!(b.start + b.duration, c.start);
        assert_eq!((b.phase, b.layer), (Phase::Norm, Some(0)));
    }

    #[test]
    fn a_clock_that_is_off_books_nothing() {
        let mut clock = PhaseClock::new(1);
        clock.begin();
        clock.lap(Phase::Embed, Some(0));
        assert_eq!(clock.total, [0; Phase::COUNT]);
        clock.set_recording(true, 1);
        clock.begin();
        clock.lap(Phase::Embed, Some(7));
        clock.lap(Phase::Norm, None);
        assert_eq!(clock.operations.len(), 1, "as many as there is room for");
        clock.clear();
        assert!(clock.total.iter().all(|&t| t == 0) && clock.operations.is_empty());
    }
}
