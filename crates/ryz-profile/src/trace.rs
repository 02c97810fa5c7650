//! Chrome's trace event format, the JSON object form with complete events (`"ph": "X"`).
//!
//! Source: "Trace Event Format", the Chromium project.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::clock::Operation;

pub(crate) fn chrome(
    operations: &[Operation],
    timers: &[(String, Instant, Duration)],
    epoch: Instant,
) -> String {
    let micros = |duration: Duration| duration.as_nanos() as f64 / 1e3;
    let name = |thread: u32, name: &str| json!({"name": "thread_name", "ph": "M", "pid": 1, "tid": thread, "args": {"name": name}});
    let mut events = vec![name(1, "engine"), name(2, "timers")];
    events.extend(operations.iter().map(|operation| {
        let layer = operation.layer.map_or(Value::Null, Value::from);
        json!({
            "name": operation.phase.name(),
            "cat": if operation.layer.is_some() { "layer" } else { "step" },
            "ph": "X",
            "ts": micros(operation.start),
            "dur": micros(operation.duration),
            "pid": 1,
            "tid": 1,
            "args": {"layer": layer},
        })
    }));
    events.extend(timers.iter().map(|(path, start, duration)| {
        json!({
            "name": path.rsplit('/').next(),
            "cat": "timer",
            "ph": "X",
            "ts": micros(start.saturating_duration_since(epoch)),
            "dur": micros(*duration),
            "pid": 1,
            "tid": 2,
            "args": {"path": path},
        })
    }));
    json!({"traceEvents": events, "displayTimeUnit": "ns"}).to_string()
}

#[cfg(test)]
mod tests {
    use crate::clock::tests::nanoseconds;
    use crate::{Phase, PhaseClock, Profile, Step};

    #[test]
    fn a_trace_holds_every_operation_in_its_time() {
        let mut profile = Profile::new(1, 3);
        let mut clock = PhaseClock::new(1, nanoseconds);
        clock.set_recording(true, profile.room());
        let timer = profile.start_timer("outer").unwrap();
        clock.begin();
        for layer in [None, Some(0), Some(0), None] {
            clock.lap(Phase::Norm, layer);
        }
        clock.end();
        profile.add_step(Step::default(), &mut clock);
        profile.end_timer(timer);
        assert_eq!(profile.room(), 0);
        let trace: serde_json::Value = serde_json::from_str(&profile.trace()).unwrap();
        let events = trace["traceEvents"].as_array().unwrap();
        let of = |tid: u64| {
            events
                .iter()
                .filter(move |e| e["ph"] == "X" && e["tid"] == tid)
        };
        assert_eq!(of(1).count(), 3, "no more than there is room for");
        assert!(of(1).all(|e| e["name"] == "norm" && e["dur"].as_f64().unwrap() >= 0.0));
        assert_eq!(of(1).filter(|e| e["args"]["layer"] == 0).count(), 2);
        assert_eq!(of(2).next().unwrap()["name"], "outer");
    }
}
