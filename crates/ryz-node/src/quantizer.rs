//! A quantiser of the program: JavaScript that makes float weights ternary, called while a model is converted.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use napi::bindgen_prelude::{Float32Array, FnArgs, Function, Int8Array};
use napi::threadsafe_function::{
    ThreadsafeCallContext, ThreadsafeFunction, ThreadsafeFunctionCallMode,
};
use napi::{Env, Result, Status};
use napi_derive::napi;
use ryz_format::{BuiltIn, Quantized, Quantizer, SharedQuantizer};

use crate::answer::Failure;
use crate::jobs::{self, Ending};
use crate::questions::Questions;

/// A tensor to be quantised.
#[napi(object, object_from_js = false)]
pub struct QuantizeCall {
    /// What the answer must name.
    pub id: f64,
    /// The tensor's name.
    pub tensor: String,
    /// Rows.
    pub rows: u32,
    /// Weights of each.
    pub columns: u32,
    /// Row after row.
    pub weights: Float32Array,
}

struct Message {
    id: u64,
    tensor: String,
    rows: u32,
    columns: u32,
    weights: Vec<f32>,
}

type Callback = ThreadsafeFunction<Message, (), FnArgs<(QuantizeCall,)>, Status, false>;
#[derive(Default)]
struct PendingCall {
    questions: Questions<Quantized>,
    closed: AtomicBool,
}

struct JsQuantizer {
    name: String,
    /// Released when it is closed: until then it keeps the process alive.
    callback: Arc<Mutex<Option<Callback>>>,
    waiting: Arc<PendingCall>,
}

impl Quantizer for JsQuantizer {
    fn name(&self) -> &str {
        &self.name
    }

    fn quantize(
        &self,
        tensor: &str,
        weights: &[f32],
        rows: usize,
        cols: usize,
    ) -> std::result::Result<Quantized, String> {
        let send = |id| {
            let message = Message {
                id,
                tensor: tensor.to_owned(),
                rows: rows as u32,
                columns: cols as u32,
                weights: weights.to_vec(),
            };
            let callback = self.callback.lock().unwrap_or_else(PoisonError::into_inner);
            callback.as_ref().map_or(Status::Closing, |callback| {
                callback.call(message, ThreadsafeFunctionCallMode::NonBlocking)
            })
        };
        self.waiting.questions.ask(send, || {
            let closed = self.waiting.closed.load(Ordering::Relaxed);
            closed.then(|| "the work was given up".to_owned())
        })
    }
}

/// Ends the waiting for answers of an environment that ends.
struct Closing(Weak<PendingCall>);

impl Ending for Closing {
    fn end(&mut self) {
        if let Some(waiting) = self.0.upgrade() {
            waiting.closed.store(true, Ordering::Relaxed);
        }
    }

    fn is_over(&self) -> bool {
        self.0.strong_count() == 0
    }
}

/// A quantiser of the program, for one conversion or load.
#[napi]
pub struct NativeQuantizer {
    callback: Arc<Mutex<Option<Callback>>>,
    waiting: Arc<PendingCall>,
    quantizer: SharedQuantizer,
}

#[napi]
impl NativeQuantizer {
    /// A quantiser of that name, which calls `on_call` for each tensor.
    #[napi(constructor)]
    pub fn new(
        env: Env,
        name: String,
        #[napi(ts_arg_type = "(call: QuantizeCall) => void")] on_call: Function<
            '_,
            FnArgs<(QuantizeCall,)>,
            (),
        >,
    ) -> Result<Self> {
        let callback: Callback = on_call
            .build_threadsafe_function::<Message>()
            .build_callback(|context: ThreadsafeCallContext<Message>| {
                let message = context.value;
                Ok((QuantizeCall {
                    id: message.id as f64,
                    tensor: message.tensor,
                    rows: message.rows,
                    columns: message.columns,
                    weights: Float32Array::new(message.weights),
                },)
                    .into())
            })?;
        let callback = Arc::new(Mutex::new(Some(callback)));
        let waiting = Arc::<PendingCall>::default();
        jobs::keep(&env, Box::new(Closing(Arc::downgrade(&waiting))))?;
        let quantizer = SharedQuantizer::new(JsQuantizer {
            name,
            callback: Arc::clone(&callback),
            waiting: Arc::clone(&waiting),
        });
        Ok(Self {
            callback,
            waiting,
            quantizer,
        })
    }

    /// Answers a call: codes and scales, or what went wrong.
    #[napi(catch_unwind)]
    pub fn answer(
        &self,
        id: f64,
        codes: Option<Int8Array>,
        scales: Option<Float32Array>,
        error: Option<String>,
    ) {
        let reply = match (codes, scales, error) {
            (Some(codes), Some(scales), None) => Ok(Quantized {
                codes: codes.to_vec(),
                scales: scales.to_vec(),
            }),
            (_, _, error) => Err(error.unwrap_or_else(|| "it gave nothing".to_owned())),
        };
        self.waiting.questions.answer(id, reply);
    }

    /// The work is over: no more calls.
    #[napi(catch_unwind)]
    pub fn close(&self) {
        self.waiting.closed.store(true, Ordering::Relaxed);
        self.callback
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }
}

impl NativeQuantizer {
    pub(crate) fn shared(&self) -> SharedQuantizer {
        self.quantizer.clone()
    }
}

/// The quantiser of the engine's own of that name.
pub(crate) fn built_in_quantizer(name: &str) -> std::result::Result<SharedQuantizer, Failure> {
    let known = BuiltIn::ALL.iter().find(|built_in| built_in.name() == name);
    let built_in = known.ok_or_else(|| Failure::unknown("quantizer", name))?;
    Ok(SharedQuantizer::new(*built_in))
}
