//! The processor's time-stamp counter.

/// A processor counter that advances evenly. Reading it takes a few nanoseconds, the system's clock
/// about twenty-five.
///
/// Its rate is unknown, and two cores may differ slightly: calibrate it against a clock, and
/// tolerate backward steps. It is the time-stamp counter on x86-64; elsewhere it is the system's
/// clock in nanoseconds.
///
/// ```
/// let before = ryz_numa::ticks();
/// let took = ryz_numa::ticks().saturating_sub(before);
/// # let _ = took;
/// ```
#[inline]
pub fn ticks() -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: every x86-64 processor has the instruction, it touches no memory, and no system
        // that runs Node.js disables it.
        unsafe { core::arch::x86_64::_rdtsc() }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        static FIRST: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
        FIRST
            .get_or_init(std::time::Instant::now)
            .elapsed()
            .as_nanos() as u64
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::ticks;

    #[test]
    fn it_runs_as_time_does() {
        let reading = || (Instant::now(), ticks());
        let start = reading();
        std::thread::sleep(Duration::from_millis(20));
        let middle = reading();
        std::thread::sleep(Duration::from_millis(20));
        let end = reading();
        let rate = |from: (Instant, u64), to: (Instant, u64)| {
            to.1.saturating_sub(from.1) as f64 / (to.0 - from.0).as_nanos() as f64
        };
        let (first, second) = (rate(start, middle), rate(middle, end));
        assert!(
            first > 0.0 && (first / second - 1.0).abs() < 0.1,
            "{first}, {second}"
        );
    }
}
