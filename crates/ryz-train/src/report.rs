//! The loss curve as CSV and SVG.

use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// One point of the curve.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Steps done.
    pub step: u64,
    /// Tokens trained on.
    pub tokens: u64,
    /// Seconds of training.
    pub seconds: f64,
    /// Mean training loss since the last point, in nats per token.
    pub train_loss: f64,
    /// Validation loss in nats per token, if measured: over `eval_windows` windows, the same at
    /// every point.
    pub valid_loss: Option<f64>,
    /// Validation bits per byte, if measured.
    pub bits_per_byte: Option<f64>,
    /// Learning rate of the last step.
    pub learning_rate: f32,
}

/// The curve so far.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// Sorted by step.
    pub points: Vec<Point>,
    /// Sum and number of losses since the last point.
    pub(crate) pending: (f64, u64),
}

impl History {
    /// Adds a step's loss to the next point.
    pub(crate) fn add_loss(&mut self, loss: f64) {
        self.pending.0 += loss;
        self.pending.1 += 1;
    }

    /// Takes the pending losses and returns their mean.
    pub(crate) fn take_loss(&mut self) -> f64 {
        let (sum, count) = std::mem::take(&mut self.pending);
        sum / count.max(1) as f64
    }

    /// Lowest validation bits per byte so far.
    pub fn best(&self) -> Option<f64> {
        self.points
            .iter()
            .filter_map(|p| p.bits_per_byte)
            .min_by(f64::total_cmp)
    }

    /// The curve as comma-separated values.
    pub fn to_csv(&self) -> String {
        let mut out = String::from(
            "step,tokens,seconds,train_loss,valid_loss,valid_bits_per_byte,learning_rate\n",
        );
        for p in &self.points {
            let optional = |v: Option<f64>| v.map(|v| format!("{v:.5}")).unwrap_or_default();
            let _ = writeln!(
                out,
                "{},{},{:.1},{:.5},{},{},{:.3e}",
                p.step,
                p.tokens,
                p.seconds,
                p.train_loss,
                optional(p.valid_loss),
                optional(p.bits_per_byte),
                p.learning_rate
            );
        }
        out
    }

    /// The curve as a chart: training loss as a line, validation loss as dots, both in nats per
    /// token over tokens.
    pub fn to_svg(&self) -> String {
        const WIDTH: f64 = 720.0;
        const HEIGHT: f64 = 360.0;
        const MARGIN: f64 = 48.0;
        let most = self.points.last().map_or(1, |p| p.tokens.max(1)) as f64;
        let losses = || {
            self.points
                .iter()
                .flat_map(|p| [Some(p.train_loss), p.valid_loss])
                .flatten()
        };
        let low = losses().fold(f64::INFINITY, f64::min).min(8.0).floor();
        let high = losses().fold(low + 1.0, f64::max).min(low + 5.0).ceil();
        let x = |tokens: u64| MARGIN + tokens as f64 / most * (WIDTH - 2.0 * MARGIN);
        let y = |loss: f64| {
            HEIGHT - MARGIN - (loss.min(high) - low) / (high - low) * (HEIGHT - 2.0 * MARGIN)
        };
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n"
        );
        for i in 0..=4 {
            let loss = low + (high - low) * f64::from(i) / 4.0;
            let tokens = (most * f64::from(i) / 4.0) as u64;
            let _ = writeln!(
                out,
                "<line x1=\"{MARGIN}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{loss:.2}</text>\
                 <text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{:.1} M</text>",
                WIDTH - MARGIN,
                MARGIN - 6.0,
                y(loss) + 4.0,
                x(tokens),
                HEIGHT - MARGIN + 18.0,
                tokens as f64 / 1e6,
                at = y(loss),
            );
        }
        let line: Vec<String> = self
            .points
            .iter()
            .map(|p| format!("{:.1},{:.1}", x(p.tokens), y(p.train_loss)))
            .collect();
        let _ = writeln!(
            out,
            "<polyline fill=\"none\" stroke=\"#1f77b4\" points=\"{}\"/>",
            line.join(" ")
        );
        for p in &self.points {
            if let Some(loss) = p.valid_loss {
                let _ = writeln!(
                    out,
                    "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"#d62728\"/>",
                    x(p.tokens),
                    y(loss)
                );
            }
        }
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"24\" text-anchor=\"end\"><tspan fill=\"#1f77b4\">training</tspan> and <tspan fill=\"#d62728\">validation</tspan> loss, nats a token, over tokens trained on</text>\n</svg>",
            WIDTH - MARGIN
        );
        out
    }
}
