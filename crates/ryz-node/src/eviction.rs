//! Eviction policies: from JavaScript's to the engine's.

use napi_derive::napi;
use ryz_engine::Eviction;

use crate::answer::Failure;

/// What a request forgets, already checked in TypeScript.
#[napi(object, object_to_js = false)]
pub struct EvictionPolicy {
    /// Its name.
    pub policy: String,
    /// The first tokens, which are kept.
    pub sinks: u32,
    /// The last ones.
    pub window: u32,
    /// Those that are kept in all.
    pub tokens: u32,
}

impl EvictionPolicy {
    /// The engine's own form of it.
    pub fn convert(self) -> Result<Eviction, Failure> {
        let (sinks, window) = (self.sinks as usize, self.window as usize);
        let tokens = self.tokens as usize;
        Ok(match self.policy.as_str() {
            "none" => Eviction::None,
            "sliding-window" => Eviction::SlidingWindow { window },
            "heavy-hitters" => Eviction::HeavyHitters { tokens, window },
            "ranked" => Eviction::Ranked { tokens, window },
            "attention-sinks" => Eviction::AttentionSinks { sinks, window },
            other => return Err(Failure::unknown("eviction.policy", other)),
        })
    }
}
