//! A snapshot as a chart: one bar of phases, and one below it for each layer. No script, font or
//! link.

use std::fmt::Write;

use crate::{Phase, Snapshot};

const WIDTH: f64 = 860.0;
const LEFT: f64 = 96.0;
const BAR: f64 = 640.0;
const ROW: f64 = 18.0;

/// Colours by phase, unattributed last: neighbours differ in lightness as well as hue.
const COLOURS: [&str; Phase::COUNT + 1] = [
    "#4e79a7", "#a0cbe8", "#f28e2b", "#ffbe7d", "#59a14f", "#8cd17d", "#b6992d", "#f1ce63",
    "#499894", "#86bcb6", "#e15759", "#ff9d9a", "#79706e", "#bab0ac", "#d37295", "#fabfd2",
    "#b07aa1", "#9d7660", "#d7b5a6", "#d4d4d4",
];

pub(crate) fn svg(snapshot: &Snapshot) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut out, snapshot);
    out
}

fn colour(phase: &str) -> &'static str {
    let index = Phase::ALL.iter().position(|p| p.name() == phase);
    COLOURS[index.unwrap_or(Phase::COUNT)]
}

fn write(out: &mut String, snapshot: &Snapshot) -> std::fmt::Result {
    let phases: Vec<_> = snapshot
        .phases
        .iter()
        .filter(|p| p.share >= 0.0005)
        .collect();
    let legend_top = 104.0;
    let layers_top = legend_top + ROW * phases.len().div_ceil(3) as f64 + 40.0;
    let height = layers_top + ROW * snapshot.layers.len() as f64 + 16.0;
    writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"system-ui, sans-serif\" font-size=\"12\">"
    )?;
    writeln!(
        out,
        "<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>"
    )?;
    let tokens = snapshot.tokens;
    writeln!(
        out,
        "<text x=\"12\" y=\"24\" font-size=\"16\" fill=\"#222\">Where the time goes: {} prompt tokens, {} decoded</text>",
        tokens.prompt, tokens.decoded
    )?;
    if let Some(decode) = &snapshot.decode {
        writeln!(
            out,
            "<text x=\"12\" y=\"44\" fill=\"#555\">decode step: p50 {:.2} ms, p95 {:.2} ms, p99 {:.2} ms; {:.2} GB/s read</text>",
            decode.p50_ms, decode.p95_ms, decode.p99_ms, snapshot.bandwidth.decode_gb_per_second
        )?;
    }
    writeln!(out, "<text x=\"12\" y=\"76\" fill=\"#222\">all</text>")?;
    let mut x = LEFT;
    for phase in &phases {
        let width = phase.share * BAR;
        bar(out, x, 60.0, width, 24.0, &phase.phase, phase.total_ms)?;
        x += width;
    }
    for (index, phase) in phases.iter().enumerate() {
        let (x, y) = (
            LEFT + 220.0 * (index % 3) as f64,
            legend_top + ROW * (index / 3) as f64,
        );
        writeln!(
            out,
            "<rect x=\"{x}\" y=\"{y}\" width=\"10\" height=\"10\" fill=\"{}\"/>",
            colour(&phase.phase)
        )?;
        writeln!(
            out,
            "<text x=\"{}\" y=\"{}\" fill=\"#222\">{} {:.1} %, {:.1} µs a token</text>",
            x + 16.0,
            y + 9.0,
            phase.phase,
            phase.share * 100.0,
            phase.per_token_us
        )?;
    }
    let total = |layer: &crate::LayerProfile| layer.phases.iter().map(|p| p.total_ms).sum::<f64>();
    let longest = snapshot.layers.iter().map(total).fold(0.0, f64::max);
    if longest > 0.0 {
        for (index, layer) in snapshot.layers.iter().enumerate() {
            let y = layers_top + ROW * index as f64;
            writeln!(
                out,
                "<text x=\"12\" y=\"{}\" fill=\"#222\">layer {}</text>",
                y + 11.0,
                layer.layer
            )?;
            let mut x = LEFT;
            for phase in &layer.phases {
                let width = phase.total_ms / longest * BAR;
                bar(out, x, y, width, ROW - 4.0, &phase.phase, phase.total_ms)?;
                x += width;
            }
            if let Some(zeros) = layer.zero_fraction {
                let x = LEFT + BAR + 8.0;
                writeln!(
                    out,
                    "<text x=\"{x}\" y=\"{}\" fill=\"#555\">{:.0} % zeros</text>",
                    y + 11.0,
                    zeros * 100.0
                )?;
            }
        }
    }
    writeln!(out, "</svg>")
}

fn bar(
    out: &mut String,
    x: f64,
    y: f64,
    width: f64,
    height: f64,
    phase: &str,
    ms: f64,
) -> std::fmt::Result {
    writeln!(
        out,
        "<rect x=\"{x:.2}\" y=\"{y}\" width=\"{width:.2}\" height=\"{height}\" fill=\"{}\"><title>{phase}: {ms:.3} ms</title></rect>",
        colour(phase)
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::clock::tests::nanoseconds;
    use crate::{LayerActivity, Phase, PhaseClock, Profile, Step};

    #[test]
    fn the_report_and_the_chart_name_every_phase_that_took_time() {
        let mut profile = Profile::new(2, 0);
        let mut clock = PhaseClock::new(2, nanoseconds);
        clock.set_recording(true, 0);
        let start = std::time::Instant::now();
        clock.begin();
        for (phase, layer) in [
            (Phase::Qkv, Some(0)),
            (Phase::Down, Some(1)),
            (Phase::Head, None),
        ] {
            std::thread::sleep(Duration::from_millis(2));
            clock.lap(phase, layer);
        }
        clock.end();
        profile.add_activity(
            0,
            LayerActivity {
                values: 4,
                zeros: 3,
                quantized_zeros: 3,
                skipped_bytes: 0,
            },
        );
        let step = Step {
            wall: start.elapsed(),
            decoded_tokens: 1,
            ..Step::default()
        };
        profile.add_step(step, &mut clock);
        let snapshot = profile.snapshot();
        let (report, chart) = (snapshot.report(), snapshot.chart());
        for name in ["qkv", "down", "head"] {
            assert!(report.contains(name), "{report}");
            assert!(chart.contains(&format!("<title>{name}: ")), "{chart}");
        }
        assert!(!report.contains("attention"), "it took no time");
        assert!(report.contains("75.0%"));
        assert!(chart.starts_with("<svg ") && chart.ends_with("</svg>\n"));
        assert_eq!(
            chart.matches("<text").count(),
            chart.matches("</text>").count()
        );
        let json: serde_json::Value = serde_json::from_str(&snapshot.to_json()).unwrap();
        assert_eq!(json["layers"][0]["quantizedZeroFraction"], 0.75);
        assert_eq!(json["tokens"]["decoded"], 1);
    }
}
