//! A profile as data, with camelCase names in JSON.

use serde::Serialize;

/// The contents of a profile at one moment. Each name ends in the unit of its time.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Snapshot {
    /// Time by phase, in order, with `unattributed` (time of no phase) last.
    pub phases: Vec<PhaseTime>,
    /// The same for each layer, with its feed-forward activity.
    pub layers: Vec<LayerProfile>,
    /// Steps that decoded one token per sequence.
    pub decode: Option<LatencySummary>,
    /// Steps with prompt tokens.
    pub prefill: Option<LatencySummary>,
    /// Tokens computed.
    pub tokens: TokenCounts,
    /// Bytes read.
    pub bandwidth: Bandwidth,
    /// Cache counts from the hardware.
    pub cache: CacheProfile,
    /// User-defined timers, by path.
    pub timers: Vec<SpanTime>,
    /// Maximum bytes held at once by the engine's memory manager.
    pub memory_high_water_bytes: u64,
}

/// Time of one phase.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct PhaseTime {
    /// The phase's name.
    pub phase: String,
    /// Total.
    pub total_ms: f64,
    /// Total divided by all tokens computed.
    pub per_token_us: f64,
    /// Total divided by all time, 0 to 1.
    pub share: f64,
}

/// One layer.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct LayerProfile {
    /// Its index.
    pub layer: usize,
    /// Its phases.
    pub phases: Vec<PhaseTime>,
    /// Fraction of the gate and up outputs that are 0; `None` before any were counted.
    pub zero_fraction: Option<f64>,
    /// Fraction of their int8 forms that are 0.
    pub quantized_zero_fraction: Option<f64>,
}

/// Latency of steps.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct LatencySummary {
    /// Number of steps.
    pub steps: u64,
    /// Mean.
    pub mean_ms: f64,
    /// Median.
    pub p50_ms: f64,
    /// 95 % of steps are no slower.
    pub p95_ms: f64,
    /// 99 % of steps are no slower.
    pub p99_ms: f64,
    /// Slowest.
    pub max_ms: f64,
}

/// Tokens computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct TokenCounts {
    /// Prompt tokens.
    pub prompt: u64,
    /// Decoded tokens.
    pub decoded: u64,
}

/// Bytes read from memory, computed rather than measured: every weight of a step once, and the
/// cache up to each position.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Bandwidth {
    /// Weights.
    pub weight_bytes_per_token: f64,
    /// Keys and values.
    pub kv_bytes_per_token: f64,
    /// Bytes skipped thanks to sparsity.
    pub skipped_bytes_per_token: f64,
    /// Bytes divided by the time of decode steps, in 10⁹ bytes per second.
    pub decode_gb_per_second: f64,
}

/// Last-level cache accesses of the computing threads from hardware counters, divided by all tokens
/// computed.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct CacheProfile {
    /// Accesses that reached the last-level cache; `None` if not counted.
    pub references_per_token: Option<f64>,
    /// Accesses that went to memory.
    pub misses_per_token: Option<f64>,
    /// Why nothing was counted.
    pub refused: Option<String>,
}

impl CacheProfile {
    /// From the counts over `tokens`, or the reason why there are none.
    pub fn new(counted: Result<crate::CacheCounts, String>, tokens: TokenCounts) -> Self {
        let tokens = (tokens.prompt + tokens.decoded).max(1) as f64;
        match counted {
            Ok(counts) => Self {
                references_per_token: Some(counts.references as f64 / tokens),
                misses_per_token: Some(counts.misses as f64 / tokens),
                refused: None,
            },
            Err(why) => Self {
                references_per_token: None,
                misses_per_token: None,
                refused: Some(why),
            },
        }
    }
}

/// Timers of one path.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct SpanTime {
    /// Names from the outermost to its own, separated by slashes.
    pub path: String,
    /// Number of ended timers.
    pub count: u64,
    /// Total.
    pub total_ms: f64,
}

impl Snapshot {
    /// A human-readable table.
    pub fn report(&self) -> String {
        crate::report::table(self)
    }

    /// A self-contained SVG: one bar of phases, and one for each layer.
    pub fn chart(&self) -> String {
        crate::chart::svg(self)
    }

    /// As JSON.
    pub fn to_json(&self) -> String {
        // Numbers, strings and lists always serialize.
        serde_json::to_string(self).unwrap_or_default()
    }
}
