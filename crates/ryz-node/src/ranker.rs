//! Rankings of blocks by the program: JavaScript that is asked between steps.
//!
//! The engine's thread waits for an answer; JavaScript's never waits for the engine's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use napi::Result;
use napi::Status;
use napi::bindgen_prelude::{Float64Array, FnArgs, Function};
use napi::threadsafe_function::{
    ThreadsafeCallContext, ThreadsafeFunction, ThreadsafeFunctionCallMode,
};
use napi_derive::napi;
use ryz_engine::{BlockRanker, RankedBlock};

use crate::engine::NativeEngine;
use crate::questions::Questions;

/// Blocks to be ranked.
#[napi(object, object_from_js = false)]
pub struct RankingCall {
    /// What the answer must name.
    pub id: f64,
    /// The first position of each.
    pub positions: Float64Array,
    /// The attention that each has had.
    pub attention: Float64Array,
}

struct Message {
    id: u64,
    blocks: Vec<RankedBlock>,
}

/// Weak: a ranker does not keep the process alive.
type RankerCallback = ThreadsafeFunction<Message, (), FnArgs<(RankingCall,)>, Status, false, true>;

struct JsRanker {
    callback: RankerCallback,
    questions: Arc<Questions<Vec<f64>>>,
    timeout: Duration,
}

impl BlockRanker for JsRanker {
    fn rank(
        &self,
        blocks: &[RankedBlock],
        cancelled: &dyn Fn() -> bool,
    ) -> std::result::Result<Vec<f64>, String> {
        let send = |id| {
            let blocks = blocks.to_vec();
            self.callback.call(
                Message { id, blocks },
                ThreadsafeFunctionCallMode::NonBlocking,
            )
        };
        let began = Instant::now();
        self.questions.ask(send, || {
            if cancelled() {
                return Some("the request was cancelled".to_owned());
            }
            let limit = self.timeout.as_millis();
            (began.elapsed() >= self.timeout)
                .then(|| format!("it did not answer within {limit} ms"))
        })
    }
}

/// The way back for a ranker's answers.
#[napi]
pub struct NativeRanker {
    questions: Arc<Questions<Vec<f64>>>,
}

#[napi]
impl NativeRanker {
    /// Answers a call: with a number for each block, or with what went wrong. An answer that nobody waits for any more does
    /// nothing.
    #[napi(catch_unwind)]
    pub fn answer(&self, id: f64, scores: Option<Float64Array>, error: Option<String>) {
        let reply = match (scores, error) {
            (Some(scores), None) => Ok(scores.to_vec()),
            (_, error) => Err(error.unwrap_or_default()),
        };
        self.questions.answer(id, reply);
    }
}

#[napi]
impl NativeEngine {
    /// Lets JavaScript rank the blocks of requests that ask for it.
    #[napi(catch_unwind)]
    pub fn set_block_ranker(
        &self,
        timeout_ms: u32,
        #[napi(ts_arg_type = "(call: RankingCall) => void")] on_call: Function<
            '_,
            FnArgs<(RankingCall,)>,
            (),
        >,
    ) -> Result<NativeRanker> {
        let callback = on_call
            .build_threadsafe_function::<Message>()
            .weak::<true>()
            .build_callback(|context: ThreadsafeCallContext<Message>| {
                let Message { id, blocks } = context.value;
                let positions = blocks.iter().map(|block| block.position as f64);
                let attention = blocks.iter().map(|block| block.attention);
                Ok((RankingCall {
                    id: id as f64,
                    positions: Float64Array::new(positions.collect()),
                    attention: Float64Array::new(attention.collect()),
                },)
                    .into())
            })?;
        let questions = Arc::<Questions<Vec<f64>>>::default();
        let ranker = Arc::new(JsRanker {
            callback,
            questions: Arc::clone(&questions),
            timeout: Duration::from_millis(u64::from(timeout_ms)),
        });
        self.engine()?.set_block_ranker(Some(ranker));
        Ok(NativeRanker { questions })
    }

    /// No ranker any more.
    #[napi(catch_unwind)]
    pub fn clear_block_ranker(&self) -> Result<()> {
        self.engine()?.set_block_ranker(None);
        Ok(())
    }
}
