//! Requests in, token events out: sequences, scheduler, sampler.
//!
//! ```text
//! generate(request) ──► (tokenise) ──► queue ──► Scheduler ──► forward ──► Sampler ──► text ──► EventSink
//!        ▲                                          │                                    │
//!        └── RequestHandle: cancel, grant ──────────┴────────── schedule → run → postprocess ─┘
//! ```
//!
//! One engine thread owns all that changes: the run state, the cache, the block pool, the sequences. A second one
//! tokenises prompts. Everyone else holds an [`Engine`] and the [`RequestHandle`]s of their requests. A request that is
//! not read stops being computed when its credits are spent; one that is dropped ends within a step.
#![forbid(unsafe_code)]

mod answer_form;
mod api;
mod assembler;
mod cache_counters;
mod capacity;
mod chat;
mod checks;
mod command;
mod config;
mod control_texts;
mod error;
mod eviction;
mod executor;
mod frontend;
mod generation;
mod guide;
mod handle;
mod jobs;
pub mod math;
mod memory;
mod operators;
mod prefix;
mod profiler;
mod request;
pub mod sampler;
mod saved;
mod scheduler;
mod screening;
mod sequence;
mod speculation;
mod state;
mod stop;
mod submission;
mod text;
mod threads;
mod tuning;

pub use answer_form::AnswerForm;
pub use api::{
    CalibrateOptions, CalibrateProgress, CalibrationReport, Completion, DraftInfo, Engine,
    EngineMemory, ModelInfo, RankCost, RestoredPrefix, SavedPrefix, Task,
};
pub use chat::{Chat, ChatTokens};
pub use config::EngineConfig;
pub use error::EngineError;
pub use eviction::{BlockRanker, Eviction, RankedBlock};
pub use guide::{Constraint, SchemaSettings, ToolChoice, WhiteSpace};
pub use handle::RequestHandle;
pub use memory::Compaction;
pub use operators::{Operator, OperatorCall};
pub use profiler::ProfileObserver;
pub use request::{
    Delta, Event, EventSink, Finish, FinishReason, GenerateRequest, LogitsOutput, Prompt, Reply,
    ScoreOutput, Timings, Usage,
};
pub use sampler::{DryParams, Mirostat, SamplerKind, SamplingParams, TokenLogprobs};
pub use screening::Screening;
pub use state::EngineStats;
pub use stop::StopMatcher;
pub use text::{open_tokenizer, text_warnings};
pub use tuning::{TunedMatrix, Tuning, TuningSource};

pub use ryz_kernels::{BatchLayout, Level, Packing};
pub use ryz_kvcache::KvDType;
pub use ryz_model::{
    Activations, HeadScreening, HeadType, HookPoint, LoadProgress, Quantized, QuantizedTensor,
    Quantizer, SharedQuantizer,
};
pub use ryz_numa::{Numa, Pinning};
pub use ryz_profile::{Operation, Phase, Snapshot, SpanId};
pub use ryz_tmac::{
    BufferKind, BuiltInPolicy, HugePages, MemoryLayout, MemoryPolicy, MemoryRequest, MemoryStats,
    NodePlacement, NodeSet, PlacementRequest, SharedPolicy,
};
pub use ryz_tokenizer::{
    CallBody, CallForm, ChatInput, DecodeStream, EncodeOptions, JsonName, Marks, NameEnd,
    Parameter, Tokenizer,
};
