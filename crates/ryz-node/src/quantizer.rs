//! A quantiser of the program: JavaScript that makes float weights ternary, called while a model is converted.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use napi::bindgen_prelude::{Float32Array, FnArgs, Function, Int8Array};
use napi::threadsafe_function::{
    ThreadsafeCallContext, ThreadsafeFunction, ThreadsafeFunctionCallMode,
};
use napi::{Result, Status};
use napi_derive::napi;
use ryz_format::{Quantized, Quantizer, SharedQuantizer};

/// How often a waiting thread looks whether the work was given up.
const LOOK: Duration = Duration::from_millis(50);

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
type Reply = std::result::Result<Quantized, String>;

#[derive(Default)]
struct Waiting {
    next: AtomicU64,
    closed: AtomicBool,
    calls: Mutex<HashMap<u64, SyncSender<Reply>>>,
}

impl Waiting {
    fn calls(&self) -> MutexGuard<'_, HashMap<u64, SyncSender<Reply>>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct JsQuantizer {
    name: String,
    /// Released when it is closed: until then it keeps the process alive.
    callback: Arc<Mutex<Option<Callback>>>,
    waiting: Arc<Waiting>,
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
        let id = self.waiting.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = sync_channel(1);
        self.waiting.calls().insert(id, sender);
        let message = Message {
            id,
            tensor: tensor.to_owned(),
            rows: rows as u32,
            columns: cols as u32,
            weights: weights.to_vec(),
        };
        let sent = {
            let callback = self.callback.lock().unwrap_or_else(PoisonError::into_inner);
            callback.as_ref().map_or(Status::Closing, |callback| {
                callback.call(message, ThreadsafeFunctionCallMode::NonBlocking)
            })
        };
        let reply = loop {
            if sent != Status::Ok {
                break Err("its JavaScript environment has ended".to_owned());
            }
            match answer.recv_timeout(LOOK) {
                Ok(reply) => break reply,
                Err(RecvTimeoutError::Disconnected) => break Err("it never answered".to_owned()),
                Err(RecvTimeoutError::Timeout) if self.waiting.closed.load(Ordering::Relaxed) => {
                    break Err("the work was given up".to_owned());
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        };
        self.waiting.calls().remove(&id);
        reply
    }
}

/// A quantiser of the program, for one conversion.
#[napi]
pub struct NativeQuantizer {
    callback: Arc<Mutex<Option<Callback>>>,
    waiting: Arc<Waiting>,
    quantizer: SharedQuantizer,
}

#[napi]
impl NativeQuantizer {
    /// A quantiser of that name, which calls `on_call` for each tensor.
    #[napi(constructor)]
    pub fn new(
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
        let waiting = Arc::<Waiting>::default();
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
        let Some(call) = self.waiting.calls().remove(&(id as u64)) else {
            return;
        };
        let reply = match (codes, scales, error) {
            (Some(codes), Some(scales), None) => Ok(Quantized {
                codes: codes.to_vec(),
                scales: scales.to_vec(),
            }),
            (_, _, error) => Err(error.unwrap_or_else(|| "it gave nothing".to_owned())),
        };
        // The other side may have given up just now.
        drop(call.try_send(reply));
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
