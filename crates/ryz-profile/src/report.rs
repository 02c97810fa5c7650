//! A snapshot as a table.

use std::fmt::Write;

use crate::Snapshot;

pub(crate) fn table(snapshot: &Snapshot) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut out, snapshot);
    out
}

fn write(out: &mut String, snapshot: &Snapshot) -> std::fmt::Result {
    let tokens = snapshot.tokens;
    writeln!(
        out,
        "{} prompt tokens, {} decoded",
        tokens.prompt, tokens.decoded
    )?;
    for (name, latency) in [("prefill", &snapshot.prefill), ("decode", &snapshot.decode)] {
        if let Some(l) = latency {
            writeln!(
                out,
                "{name:<8} {:>7} steps  mean {:.3} ms  p50 {:.3}  p95 {:.3}  p99 {:.3}  max {:.3}",
                l.steps, l.mean_ms, l.p50_ms, l.p95_ms, l.p99_ms, l.max_ms
            )?;
        }
    }
    let bytes = snapshot.bandwidth;
    writeln!(
        out,
        "read a token: {:.1} MB of weights, {:.2} MB of keys and values; skipped {:.1} MB; decode reads {:.2} GB/s",
        bytes.weight_bytes_per_token / 1e6,
        bytes.kv_bytes_per_token / 1e6,
        bytes.skipped_bytes_per_token / 1e6,
        bytes.decode_gb_per_second
    )?;
    if snapshot.memory_high_water_bytes > 0 {
        let mib = snapshot.memory_high_water_bytes as f64 / (1 << 20) as f64;
        writeln!(out, "memory at its most: {mib:.1} MiB")?;
    }
    let cache = &snapshot.cache;
    match (cache.references_per_token, cache.misses_per_token) {
        (Some(references), Some(misses)) => writeln!(
            out,
            "last-level cache a token: {references:.0} accesses, {misses:.0} of them to memory"
        )?,
        _ => writeln!(
            out,
            "last-level cache: not counted: {}",
            cache.refused.as_deref().unwrap_or_default()
        )?,
    }
    writeln!(
        out,
        "\n{:<14}{:>12}{:>14}{:>9}",
        "phase", "total ms", "µs a token", "share"
    )?;
    for phase in snapshot.phases.iter().filter(|p| p.total_ms > 0.0) {
        writeln!(
            out,
            "{:<14}{:>12.3}{:>14.2}{:>8.1}%",
            phase.phase,
            phase.total_ms,
            phase.per_token_us,
            phase.share * 100.0
        )?;
    }
    if snapshot.layers.iter().any(|l| !l.phases.is_empty()) {
        writeln!(
            out,
            "\n{:<7}{:>12}{:>10}{:>14}  slowest",
            "layer", "total ms", "zeros", "int8 zeros"
        )?;
    }
    for layer in snapshot.layers.iter().filter(|l| !l.phases.is_empty()) {
        let percent = |f: Option<f64>| f.map_or("-".into(), |f| format!("{:.1}%", f * 100.0));
        let total: f64 = layer.phases.iter().map(|p| p.total_ms).sum();
        let slowest = layer
            .phases
            .iter()
            .max_by(|a, b| a.total_ms.total_cmp(&b.total_ms));
        writeln!(
            out,
            "{:<7}{total:>12.3}{:>10}{:>14}  {}",
            layer.layer,
            percent(layer.zero_fraction),
            percent(layer.quantized_zero_fraction),
            slowest.map_or("", |p| p.phase.as_str())
        )?;
    }
    if !snapshot.timers.is_empty() {
        writeln!(out, "\n{:<32}{:>8}{:>12}", "timer", "count", "total ms")?;
    }
    for timer in &snapshot.timers {
        writeln!(
            out,
            "{:<32}{:>8}{:>12.3}",
            timer.path, timer.count, timer.total_ms
        )?;
    }
    Ok(())
}
