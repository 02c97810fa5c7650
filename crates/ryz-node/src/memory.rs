//! An engine's memory: what lies where, compaction, and policies of the program.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use napi::bindgen_prelude::{FnArgs, Function};
use napi::threadsafe_function::{
    ThreadsafeCallContext, ThreadsafeFunction, ThreadsafeFunctionCallMode,
};
use napi::{Env, Result, Status};
use napi_derive::napi;
use ryz_engine::{
    BuiltInPolicy, Compaction, HugePages, MemoryPolicy, MemoryRequest, NodePlacement, NodeSet,
    PlacementRequest, SharedPolicy,
};
use ryz_numa::Topology;

use crate::answer::{Answer, AnswerArgs, Failure, failure, named};
use crate::engine::NativeEngine;
use crate::jobs::{self, Ending};
use crate::questions::Questions;

/// Names of pages.
pub const HUGE_PAGES: [(&str, HugePages); 3] = [
    ("transparent", HugePages::Transparent),
    ("explicit", HugePages::Explicit),
    ("off", HugePages::Off),
];

/// What a compaction did.
#[napi(object)]
pub struct CompactionDone {
    /// Blocks that moved: from, to, from, to, ….
    pub moves: Vec<f64>,
    /// Bytes given back to the system.
    pub released_bytes: f64,
    /// The part of the cache's blocks up to the last one in use that was free.
    pub fragmentation: f64,
}

#[napi]
impl NativeEngine {
    /// What lies where, as JSON.
    #[napi(catch_unwind)]
    pub fn memory_layout(&self) -> Result<String> {
        Ok(self.engine()?.memory_layout().to_json())
    }

    /// The same as text.
    #[napi(catch_unwind)]
    pub fn memory_report(&self) -> Result<String> {
        Ok(self.engine()?.memory_layout().to_string())
    }

    /// Moves the cache's blocks together.
    #[napi(catch_unwind)]
    pub fn compact_memory(
        &self,
        #[napi(ts_arg_type = "(failure: Failure | null, value: CompactionDone | null) => void")]
        done: Function<'_, AnswerArgs<CompactionDone>, ()>,
    ) -> Result<()> {
        let answer = Answer::new(&done)?;
        let compacted = |compaction: Compaction| CompactionDone {
            moves: compaction
                .moves
                .iter()
                .flat_map(|&(from, to)| [from as f64, to as f64])
                .collect(),
            released_bytes: compaction.released_bytes as f64,
            fragmentation: compaction.fragmentation,
        };
        let reply = Box::new(move |result: std::result::Result<Compaction, _>| {
            answer.send_from(|| result.map(compacted).map_err(|error| failure(&error)));
        });
        self.engine()?
            .compact_memory(reply)
            .map_err(|error| failure(&error).thrown())
    }
}

/// The policy of that name: `default`, `hugepages`, `interleave`, or `limit` of so many bytes.
pub fn built_in(name: &str, limit: Option<f64>) -> std::result::Result<SharedPolicy, Failure> {
    Ok(SharedPolicy::new(match (name, limit) {
        ("hugepages", _) => BuiltInPolicy::huge_pages(),
        ("interleave", _) => {
            let machine = Topology::detect();
            let nodes = machine.map_or_else(|_| vec![0], |machine| machine.nodes().to_vec());
            BuiltInPolicy::interleave(nodes.into_iter().collect())
        }
        ("limit", Some(bytes)) => BuiltInPolicy::limit(bytes as usize),
        _ => BuiltInPolicy::allow(),
    }))
}

/// A question to a policy, or the news that memory has gone back.
#[napi(object, object_from_js = false)]
pub struct MemoryCall {
    /// To answer it by; none for news.
    pub id: Option<f64>,
    /// Bytes.
    pub bytes: f64,
    /// What they are for.
    pub kind: String,
    /// Whose they are; empty for several.
    pub owner: String,
}

/// What a policy answers.
#[napi(object, object_to_js = false)]
#[derive(Default)]
pub struct MemoryAnswer {
    /// Why it is denied.
    pub denied: Option<String>,
    /// The pages.
    pub huge_pages: Option<String>,
    /// The nodes.
    pub nodes: Option<Vec<u32>>,
    /// Whether pages lie on the nodes by turns.
    pub interleave: Option<bool>,
}

type Callback = ThreadsafeFunction<MemoryCall, (), FnArgs<(MemoryCall,)>, Status, false, true>;

/// A policy's questions, until its environment ends.
#[derive(Default)]
struct PolicyQuestions {
    questions: Questions<PlacementRequest>,
    closed: AtomicBool,
}

struct JsPolicy {
    callback: Callback,
    asked: Arc<PolicyQuestions>,
}

impl JsPolicy {
    fn call(&self, id: Option<u64>, request: &MemoryRequest<'_>) -> Status {
        let call = MemoryCall {
            id: id.map(|id| id as f64),
            bytes: request.bytes as f64,
            kind: request.kind.name().to_owned(),
            owner: request.owner.to_owned(),
        };
        self.callback
            .call(call, ThreadsafeFunctionCallMode::NonBlocking)
    }
}

impl MemoryPolicy for JsPolicy {
    fn on_allocate(
        &self,
        request: &MemoryRequest<'_>,
    ) -> std::result::Result<PlacementRequest, String> {
        self.asked.questions.ask(
            |id| self.call(Some(id), request),
            || {
                let closed = self.asked.closed.load(Ordering::Relaxed);
                closed.then(|| "its JavaScript environment has ended".to_owned())
            },
        )
    }

    fn on_free(&self, request: &MemoryRequest<'_>) {
        // News that nobody is there to hear.
        let _ = self.call(None, request);
    }
}

/// Ends the waiting for answers of an environment that ends.
struct Closing(Weak<PolicyQuestions>);

impl Ending for Closing {
    fn end(&mut self) {
        if let Some(asked) = self.0.upgrade() {
            asked.closed.store(true, Ordering::Relaxed);
        }
    }

    fn is_over(&self) -> bool {
        self.0.strong_count() == 0
    }
}

/// A policy of the program.
#[napi]
pub struct NativeMemoryPolicy {
    asked: Arc<PolicyQuestions>,
    policy: SharedPolicy,
}

#[napi]
impl NativeMemoryPolicy {
    /// A policy that calls `on_call` for memory that is wanted, and for memory that has gone.
    #[napi(constructor)]
    pub fn new(
        env: Env,
        #[napi(ts_arg_type = "(call: MemoryCall) => void")] on_call: Function<
            '_,
            FnArgs<(MemoryCall,)>,
            (),
        >,
    ) -> Result<Self> {
        let callback: Callback = on_call
            .build_threadsafe_function::<MemoryCall>()
            .weak::<true>()
            .build_callback(|context: ThreadsafeCallContext<MemoryCall>| {
                Ok((context.value,).into())
            })?;
        let asked = Arc::<PolicyQuestions>::default();
        jobs::keep(&env, Box::new(Closing(Arc::downgrade(&asked))))?;
        let policy = SharedPolicy::new(JsPolicy {
            callback,
            asked: Arc::clone(&asked),
        });
        Ok(Self { asked, policy })
    }

    /// Answers a question.
    #[napi(catch_unwind)]
    pub fn answer(&self, id: f64, answer: MemoryAnswer) {
        self.asked.questions.answer(id, wish(answer));
    }
}

impl NativeMemoryPolicy {
    pub(crate) fn shared(&self) -> SharedPolicy {
        self.policy.clone()
    }
}

fn wish(answer: MemoryAnswer) -> std::result::Result<PlacementRequest, String> {
    if let Some(reason) = answer.denied {
        return Err(reason);
    }
    let huge_pages = answer
        .huge_pages
        .map(|name| named("hugePages", &HUGE_PAGES, &name));
    let huge_pages = huge_pages.transpose().map_err(|failure| failure.message)?;
    let nodes = answer.nodes.map(|nodes| {
        let set: NodeSet = nodes.into_iter().map(|node| node as usize).collect();
        match answer.interleave {
            Some(true) => NodePlacement::Interleave(set),
            _ => NodePlacement::Bind(set),
        }
    });
    Ok(PlacementRequest { huge_pages, nodes })
}
