//! The engine's profile, for TypeScript.

use napi::bindgen_prelude::Function;
use napi::{Env, Result};
use napi_derive::napi;
use ryz_engine::SpanId;

use crate::answer::AnswerArgs;
use crate::engine::NativeEngine;

#[napi]
impl NativeEngine {
    /// Starts recording; so many single operations are kept for a trace.
    #[napi(catch_unwind)]
    pub fn start_profiling(&self, operations: u32) -> Result<()> {
        self.engine()?.start_profiling(operations as usize);
        Ok(())
    }

    /// Stops recording.
    #[napi(catch_unwind)]
    pub fn stop_profiling(&self) -> Result<()> {
        self.engine()?.stop_profiling();
        Ok(())
    }

    /// What was recorded, as JSON.
    #[napi(catch_unwind)]
    pub fn profile(&self) -> Result<String> {
        Ok(self.engine()?.profile().to_json())
    }

    /// What was recorded, as a table.
    #[napi(catch_unwind)]
    pub fn profile_report(&self) -> Result<String> {
        Ok(self.engine()?.profile().report())
    }

    /// What was recorded, as an SVG picture.
    #[napi(catch_unwind)]
    pub fn profile_chart(&self) -> Result<String> {
        Ok(self.engine()?.profile().chart())
    }

    /// The single operations, as a Chrome trace.
    #[napi(catch_unwind)]
    pub fn profile_trace(
        &self,
        env: Env,
        #[napi(ts_arg_type = "(failure: Failure | null, value: string | null) => void")]
        done: Function<'_, AnswerArgs<String>, ()>,
    ) -> Result<()> {
        self.soon(&env, &done, |engine| Ok(engine.profile_trace()))
    }

    /// Starts a timer within the last one that runs; none when too many run.
    #[napi(catch_unwind)]
    pub fn start_timer(&self, name: String) -> Result<Option<f64>> {
        let id = self.engine()?.start_timer(&name);
        Ok(id.map(|SpanId(id)| id as f64))
    }

    /// Ends a timer and gives its milliseconds; none when there is no such timer.
    #[napi(catch_unwind)]
    pub fn end_timer(&self, id: f64) -> Result<Option<f64>> {
        let ran = self.engine()?.end_timer(SpanId(id as u64));
        Ok(ran.map(|ran| ran.as_secs_f64() * 1e3))
    }
}
