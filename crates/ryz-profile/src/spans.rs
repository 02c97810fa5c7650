//! Named, nestable timers for a program's own measurements.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A running timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId(pub u64);

/// Maximum running timers: a program that never ends its timers must not grow without limit.
pub(crate) const MAX_RUNNING: usize = 256;
/// Maximum distinct paths.
pub(crate) const MAX_PATHS: usize = 4096;

#[derive(Debug)]
struct OpenSpan {
    id: u64,
    /// The names of its enclosing timers and its own, separated by slashes.
    path: String,
    start: Instant,
}

/// Time by path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct SpanTotal {
    pub count: u64,
    pub total: Duration,
}

#[derive(Debug, Default)]
pub(crate) struct Spans {
    next: u64,
    running: Vec<OpenSpan>,
    pub totals: BTreeMap<String, SpanTotal>,
    /// Ended timers for the trace: path, start, duration.
    pub ended: Vec<(String, Instant, Duration)>,
}

impl Spans {
    /// Starts a timer nested in the last started one that still runs. `None` when too many run.
    pub fn start(&mut self, name: &str) -> Option<SpanId> {
        if self.running.len() >= MAX_RUNNING {
            return None;
        }
        self.next += 1;
        let path = match self.running.last() {
            Some(outer) => format!("{}/{name}", outer.path),
            None => name.to_owned(),
        };
        self.running.push(OpenSpan {
            id: self.next,
            path,
            start: Instant::now(),
        });
        Some(SpanId(self.next))
    }

    /// Ends a timer and returns its duration; `None` when there is no such timer.
    pub fn end(&mut self, id: SpanId, keep: usize) -> Option<Duration> {
        let at = self.running.iter().rposition(|span| span.id == id.0)?;
        let span = self.running.remove(at);
        let duration = span.start.elapsed();
        if self.ended.len() < keep {
            self.ended.push((span.path.clone(), span.start, duration));
        }
        if self.totals.len() < MAX_PATHS || self.totals.contains_key(&span.path) {
            let total = self.totals.entry(span.path).or_default();
            total.count += 1;
            total.total += duration;
        }
        Some(duration)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_nest_and_add_up_by_path() {
        let mut spans = Spans::default();
        for _ in 0..2 {
            let outer = spans.start("request").unwrap();
            let inner = spans.start("parse").unwrap();
            let short = spans.end(inner, 9).unwrap();
            assert!(spans.end(outer, 9).unwrap() >= short);
        }
        let paths: Vec<_> = spans
            .totals
            .iter()
            .map(|(path, t)| (path.as_str(), t.count))
            .collect();
        assert_eq!(paths, [("request", 2), ("request/parse", 2)]);
        assert_eq!(spans.end(SpanId(1), 9), None, "it has ended");
        assert_eq!(spans.ended.len(), 4);
    }

    #[test]
    fn the_outer_one_may_end_first() {
        let mut spans = Spans::default();
        let outer = spans.start("a").unwrap();
        let inner = spans.start("b").unwrap();
        assert!(spans.end(outer, 0).is_some());
        assert!(spans.end(inner, 0).is_some());
        assert!(spans.ended.is_empty());
        assert!(spans.totals.contains_key("a/b"));
    }

    #[test]
    fn forgotten_timers_are_bounded() {
        let mut spans = Spans::default();
        for _ in 0..MAX_RUNNING {
            assert!(spans.start("forgotten").is_some());
        }
        assert_eq!(spans.start("one more"), None);
    }
}
