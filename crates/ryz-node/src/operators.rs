//! Operators and profilers of the program: code in JavaScript that the engine calls.
//!
//! The engine's thread waits for an operator's answer; JavaScript's never waits for the engine's.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use napi::bindgen_prelude::{Float32Array, Float64Array, FnArgs, Function};
use napi::threadsafe_function::{
    ThreadsafeCallContext, ThreadsafeFunction, ThreadsafeFunctionCallMode,
};
use napi::{Result, Status};
use napi_derive::napi;
use ryz_engine::{HookPoint, Operation, Operator, OperatorCall, ProfileObserver};

use crate::answer::{Failure, failure};
use crate::engine::NativeEngine;
use crate::questions::Questions;

/// A call of an operator.
#[napi(object, object_from_js = false)]
pub struct Call {
    /// What the answer must name.
    pub id: f64,
    /// The place.
    pub at: String,
    /// Its layer, if it is in one.
    pub layer: Option<u32>,
    /// Position of the first row.
    pub position: u32,
    /// Rows.
    pub rows: u32,
    /// Values of each.
    pub columns: u32,
    /// Row after row.
    pub input: Float32Array,
}

struct Message {
    id: u64,
    call: OperatorCall,
    input: Vec<f32>,
}

/// Weak: a registered operator does not keep the process alive.
type OperatorCallback = ThreadsafeFunction<Message, (), FnArgs<(Call,)>, Status, false, true>;

/// Other values, or none.
type Answers = Questions<Option<Vec<f32>>>;

struct JsOperator {
    callback: OperatorCallback,
    questions: Arc<Answers>,
    timeout: Duration,
}

impl Operator for JsOperator {
    fn forward(
        &self,
        call: &OperatorCall,
        values: &mut [f32],
        cancelled: &dyn Fn() -> bool,
    ) -> std::result::Result<(), String> {
        let send = |id| {
            let message = Message {
                id,
                call: *call,
                input: values.to_vec(),
            };
            self.callback
                .call(message, ThreadsafeFunctionCallMode::NonBlocking)
        };
        let began = Instant::now();
        let answer = self.questions.ask(send, || {
            if cancelled() {
                return Some("the request was cancelled".to_owned());
            }
            let limit = self.timeout.as_millis();
            (began.elapsed() >= self.timeout)
                .then(|| format!("it did not answer within {limit} ms"))
        });
        let Some(output) = answer? else { return Ok(()) };
        if output.len() != values.len() {
            return Err(format!(
                "expected {} values, got {}",
                values.len(),
                output.len()
            ));
        }
        values.copy_from_slice(&output);
        Ok(())
    }
}

/// The way back for an operator's answers.
#[napi]
pub struct NativeOperator {
    questions: Arc<Answers>,
}

#[napi]
impl NativeOperator {
    /// Answers a call: with other values, with none to leave them, or with what went wrong. An answer that nobody waits
    /// for any more does nothing.
    #[napi(catch_unwind)]
    pub fn answer(&self, id: f64, output: Option<Float32Array>, error: Option<String>) {
        let reply = match error {
            Some(message) => Err(message),
            None => Ok(output.map(|values| values.to_vec())),
        };
        self.questions.answer(id, reply);
    }
}

/// Operations of steps: a name's index, the layer (−1 for none), start and duration in nanoseconds, again and again.
#[derive(Default)]
struct OperationLog {
    values: Vec<f64>,
    /// Operations that did not fit.
    dropped: u32,
}

/// Most operations that wait for JavaScript.
const MAX_GATHERED: usize = 1 << 16;

/// What the profiler of the program gets in one call.
#[napi(object, object_from_js = false)]
pub struct Operations {
    /// Four numbers an operation: a phase's index, layer or −1, start, duration.
    pub values: Float64Array,
    /// Operations that were dropped because JavaScript was busy.
    pub dropped: u32,
}

type ObserverCallback = ThreadsafeFunction<(), (), FnArgs<(Operations,)>, Status, false, true>;

struct JsObserver {
    callback: ObserverCallback,
    gathered: Arc<Mutex<OperationLog>>,
    /// A call is under way.
    called: Arc<AtomicBool>,
}

impl ProfileObserver for JsObserver {
    fn step(&self, operations: &[Operation]) {
        {
            let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
            let room = MAX_GATHERED.saturating_sub(gathered.values.len() / 4);
            for operation in operations.iter().take(room) {
                gathered.values.extend([
                    f64::from(operation.phase as u8),
                    operation.layer.map_or(-1.0, f64::from),
                    operation.start.as_nanos() as f64,
                    operation.duration.as_nanos() as f64,
                ]);
            }
            gathered.dropped += operations.len().saturating_sub(room) as u32;
        }
        if !self.called.swap(true, Ordering::SeqCst) {
            self.callback
                .call((), ThreadsafeFunctionCallMode::NonBlocking);
        }
    }
}

#[napi]
impl NativeEngine {
    /// Calls JavaScript at some places of the forward pass.
    #[napi(catch_unwind)]
    pub fn register_operator(
        &self,
        name: String,
        places: Vec<String>,
        timeout_ms: u32,
        #[napi(ts_arg_type = "(call: Call) => void")] on_call: Function<'_, FnArgs<(Call,)>, ()>,
    ) -> Result<napi::Either<NativeOperator, Failure>> {
        let callback = on_call
            .build_threadsafe_function::<Message>()
            .weak::<true>()
            .build_callback(|context: ThreadsafeCallContext<Message>| {
                let Message { id, call, input } = context.value;
                let layer = match call.point {
                    HookPoint::Attention(layer) | HookPoint::FeedForward(layer) => Some(layer),
                    _ => None,
                };
                Ok((Call {
                    id: id as f64,
                    at: call.point.to_string(),
                    layer: layer.map(|layer| layer as u32),
                    position: call.position as u32,
                    rows: call.rows as u32,
                    columns: call.cols as u32,
                    input: Float32Array::new(input),
                },)
                    .into())
            })?;
        let questions = Arc::<Answers>::default();
        let operator = Arc::new(JsOperator {
            callback,
            questions: Arc::clone(&questions),
            timeout: Duration::from_millis(u64::from(timeout_ms)),
        });
        Ok(
            match self.engine()?.register_operator(&name, &places, operator) {
                Ok(()) => napi::Either::A(NativeOperator { questions }),
                Err(error) => napi::Either::B(failure(&error)),
            },
        )
    }

    /// Removes an operator; whether there was one.
    #[napi(catch_unwind)]
    pub fn unregister_operator(&self, name: String) -> Result<bool> {
        Ok(self.engine()?.unregister_operator(&name))
    }

    /// Gives the operations of every so many steps to JavaScript.
    #[napi(catch_unwind)]
    pub fn set_profiler(
        &self,
        every: u32,
        #[napi(ts_arg_type = "(operations: Operations) => void")] on_operations: Function<
            '_,
            FnArgs<(Operations,)>,
            (),
        >,
    ) -> Result<()> {
        let gathered = Arc::<Mutex<OperationLog>>::default();
        let called = Arc::<AtomicBool>::default();
        let (taken, done) = (Arc::clone(&gathered), Arc::clone(&called));
        let callback = on_operations
            .build_threadsafe_function::<()>()
            .weak::<true>()
            .build_callback(move |_: ThreadsafeCallContext<()>| {
                // Before the taking: what comes after it makes a call of its own.
                done.store(false, Ordering::SeqCst);
                let mut gathered = taken.lock().unwrap_or_else(PoisonError::into_inner);
                let OperationLog { values, dropped } = std::mem::take(&mut *gathered);
                let values = Float64Array::new(values);
                Ok((Operations { values, dropped },).into())
            })?;
        let observer = Arc::new(JsObserver {
            callback,
            gathered,
            called,
        });
        self.engine()?
            .set_profile_observer(Some(observer), every.max(1))
            .map_err(|error| failure(&error).thrown())
    }

    /// No profiler any more.
    #[napi(catch_unwind)]
    pub fn clear_profiler(&self) -> Result<()> {
        self.engine()?
            .set_profile_observer(None, 1)
            .map_err(|error| failure(&error).thrown())
    }
}

/// The names that operations have, by index.
#[napi]
pub fn profile_phases() -> Vec<String> {
    let phases = ryz_engine::Phase::ALL.iter();
    phases.map(|phase| phase.name().to_owned()).collect()
}
