//! Hardware counters per thread, where the system permits reading them (Linux's `perf_event_open`).

use std::io;

use serde::Serialize;

/// Accesses to the last-level cache by some threads in user space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CacheCounts {
    /// Reads and writes that reached the last-level cache.
    pub references: u64,
    /// Accesses that missed it and went to memory.
    pub misses: u64,
}

impl CacheCounts {
    /// Adds another thread's counts.
    pub fn add(&mut self, other: Self) {
        self.references += other.references;
        self.misses += other.misses;
    }
}

/// Why nothing is counted, in human-readable form.
pub fn refusal(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "this machine offers no cache counters".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "the system does not permit it (/proc/sys/kernel/perf_event_paranoid)".to_owned()
        }
        io::ErrorKind::Unsupported => "this system has no perf_event_open".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(target_os = "linux")]
mod system {
    use std::io;

    use perf_event::{
        Builder, Counter,
        events::{Event, Hardware},
    };

    use super::CacheCounts;

    /// Counts one thread's cache accesses since its creation.
    #[derive(Debug)]
    pub struct ThreadCounters {
        references: Counter,
        misses: Counter,
    }

    impl ThreadCounters {
        /// Begins to count the calling thread's accesses.
        ///
        /// # Errors
        /// The system's error; [`super::refusal`] explains it.
        pub fn open() -> io::Result<Self> {
            Ok(Self {
                references: open(Hardware::CACHE_REFERENCES)?,
                misses: open(Hardware::CACHE_MISSES)?,
            })
        }

        /// The counts so far; callable from any thread.
        ///
        /// # Errors
        /// The system's error.
        pub fn read(&mut self) -> io::Result<CacheCounts> {
            Ok(CacheCounts {
                references: read(&mut self.references)?,
                misses: read(&mut self.misses)?,
            })
        }
    }

    pub(super) fn open(event: impl Event) -> io::Result<Counter> {
        let mut counter = Builder::new(event).build()?;
        counter.enable()?;
        Ok(counter)
    }

    /// A count, scaled to the whole time if counters were multiplexed.
    pub(super) fn read(counter: &mut Counter) -> io::Result<u64> {
        let data = counter.read_full()?;
        let (Some(enabled), Some(running)) = (data.time_enabled(), data.time_running()) else {
            return Ok(data.count());
        };
        match running.is_zero() {
            true => Ok(0),
            false => Ok((data.count() as f64 * enabled.div_duration_f64(running)) as u64),
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::io;

    use super::CacheCounts;

    /// Counts one thread's cache accesses; unavailable on this system.
    #[derive(Debug)]
    pub struct ThreadCounters(std::convert::Infallible);

    impl ThreadCounters {
        /// Begins to count the calling thread's accesses.
        ///
        /// # Errors
        /// Always [`io::ErrorKind::Unsupported`].
        pub fn open() -> io::Result<Self> {
            Err(io::ErrorKind::Unsupported.into())
        }

        /// The counts so far.
        ///
        /// # Errors
        /// Never called: no value of this type exists.
        pub fn read(&mut self) -> io::Result<CacheCounts> {
            match self.0 {}
        }
    }
}

pub use system::ThreadCounters;

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::Write;

    use perf_event::events::Software;

    use super::*;

    /// Software events use the same interface as hardware events and are permitted in more places.
    #[test]
    fn counts_are_the_threads_own_and_grow() {
        let mut counter = match system::open(Software::PAGE_FAULTS) {
            Ok(counter) => counter,
            Err(error) => {
                let why = refusal(&error);
                let _ = writeln!(std::io::stderr(), "SKIPPED: counting page faults: {why}");
                return;
            }
        };
        let touch = || {
            let mut pages = vec![0u8; 256 << 12];
            pages.iter_mut().step_by(1 << 12).for_each(|page| *page = 1);
            std::hint::black_box(pages).len()
        };
        let before = system::read(&mut counter).unwrap();
        touch();
        let after = system::read(&mut counter).unwrap();
        assert!(after >= before + 200, "{before}, then {after}");
        // Another thread's accesses are not counted, and another thread may read the counts.
        let elsewhere = std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                touch();
                system::read(&mut counter).unwrap()
            });
            reader.join().unwrap()
        });
        assert!(elsewhere < after + 200, "{after}, then {elsewhere}");
    }

    /// On this machine, they are either counted or the reason is given.
    #[test]
    fn cache_counters_count_or_say_why_not() {
        match ThreadCounters::open() {
            Err(error) => assert!(!refusal(&error).is_empty()),
            Ok(mut counters) => {
                let lines = vec![1u8; 64 << 20];
                let sum: u64 = lines.iter().step_by(64).map(|&byte| u64::from(byte)).sum();
                assert_eq!(sum, 1 << 20);
                let counts = counters.read().unwrap();
                assert!(counts.references > 0, "{counts:?}");
            }
        }
    }

    #[test]
    fn refusals_are_told_apart() {
        let of = |code| refusal(&io::Error::from_raw_os_error(code));
        let told = [of(1), of(2), of(13), of(95)];
        assert_eq!(told[0], told[2]); // EPERM, EACCES
        assert!(told[0].contains("perf_event_paranoid"));
        assert!(told[1].contains("no cache counters"));
        assert!(!told[3].is_empty());
    }
}
