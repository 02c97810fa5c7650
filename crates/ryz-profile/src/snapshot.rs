//! A profile as data. In JSON the names are in camelCase.

use serde::Serialize;

/// What a profile holds at one moment. Times are in the unit that their name ends in.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Snapshot {
    /// Time by phase, in order, `unattributed` last: what no phase owns up to.
    pub phases: Vec<PhaseTime>,
    /// The same within each layer, and how busy its feed-forward network was.
    pub layers: Vec<LayerProfile>,
    /// Steps that gave each sequence one token.
    pub decode: Option<LatencySummary>,
    /// Steps with prompt tokens.
    pub prefill: Option<LatencySummary>,
    /// Tokens computed.
    pub tokens: TokenCounts,
    /// Bytes read.
    pub bandwidth: Bandwidth,
    /// What the processor counted of the caches.
    pub cache: CacheProfile,
    /// The program's own timers, by path.
    pub timers: Vec<SpanTime>,
    /// Most bytes that the engine's memory manager has held at once.
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
    /// Total over all tokens computed.
    pub per_token_us: f64,
    /// Total over all time, 0 to 1.
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
    /// Fraction of the values after gate and up that are 0; `None` before anything was seen.
    pub zero_fraction: Option<f64>,
    /// Fraction of their int8 forms that are 0.
    pub quantized_zero_fraction: Option<f64>,
}

/// Latency of steps.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct LatencySummary {
    /// Steps.
    pub steps: u64,
    /// Mean.
    pub mean_ms: f64,
    /// Median.
    pub p50_ms: f64,
    /// 95 % are no slower.
    pub p95_ms: f64,
    /// 99 % are no slower.
    pub p99_ms: f64,
    /// Slowest.
    pub max_ms: f64,
}

/// Tokens computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct TokenCounts {
    /// Of prompts.
    pub prompt: u64,
    /// One at a time.
    pub decoded: u64,
}

/// Bytes read from memory, counted, not measured: every weight of a step once, and the cache up to each position.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Bandwidth {
    /// Weights.
    pub weight_bytes_per_token: f64,
    /// Keys and values.
    pub kv_bytes_per_token: f64,
    /// What sparsity saved.
    pub skipped_bytes_per_token: f64,
    /// Bytes over time of decode steps, 10⁹ bytes a second.
    pub decode_gb_per_second: f64,
}

/// Accesses of the last-level cache by the computing threads, counted by the processor, over all tokens computed.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct CacheProfile {
    /// Those that came as far; `None` where it is not counted.
    pub references_per_token: Option<f64>,
    /// Those of them that went on to memory.
    pub misses_per_token: Option<f64>,
    /// Why it is not counted.
    pub refused: Option<String>,
}

impl CacheProfile {
    /// Of what was counted over `tokens`, or why nothing was.
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
    /// Names from the outermost to its own, by slashes.
    pub path: String,
    /// Times ended.
    pub count: u64,
    /// Total.
    pub total_ms: f64,
}

impl Snapshot {
    /// A table for people.
    pub fn report(&self) -> String {
        crate::report::table(self)
    }

    /// A self-contained SVG: a bar by phase, and one by layer.
    pub fn chart(&self) -> String {
        crate::chart::svg(self)
    }

    /// As JSON.
    pub fn to_json(&self) -> String {
        // Numbers, strings and lists: nothing here can fail to be JSON.
        serde_json::to_string(self).unwrap_or_default()
    }
}
