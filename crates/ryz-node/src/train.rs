//! Training and fine-tuning, on a thread of their own.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use napi::bindgen_prelude::{FnArgs, Function};
use napi::threadsafe_function::{
    ThreadsafeCallContext, ThreadsafeFunction, ThreadsafeFunctionCallMode,
};
use napi::{Env, Result, Status};
use napi_derive::napi;
use ryz_train::{Preparation, RunEvent, RunOptions, RunReport, TrainError};
use serde_json::{Value as Json, json};

use crate::answer::{Failure, catching};
use crate::engine::NativeCancel;
use crate::jobs;

/// What to run, already checked by TypeScript.
#[napi(object, object_to_js = false)]
pub struct TrainSettings {
    /// Text files.
    pub corpus: Vec<String>,
    /// Text files for validation.
    pub valid: Vec<String>,
    /// The model to write.
    pub output: String,
    /// Differences from the default configuration, as JSON.
    pub config: String,
    /// Model to fine-tune.
    pub model: Option<String>,
    /// Model to learn from.
    pub teacher: Option<String>,
    /// Goes on from the checkpoint.
    pub resume: bool,
    /// Replaces what is there.
    pub overwrite: bool,
    /// Computing threads.
    pub threads: Option<u32>,
}

type TrainArgs = FnArgs<(Option<Failure>, Option<String>, Option<String>)>;

enum Message {
    /// As JSON.
    Event(String),
    /// As JSON.
    Done(String),
    Failed(Failure),
}

type Callback = ThreadsafeFunction<Message, (), TrainArgs, Status, false>;

/// Trains. The callback gets events any number of times, then a failure or the report; events and report are JSON.
#[napi(catch_unwind)]
pub fn train_model(
    env: Env,
    settings: TrainSettings,
    #[napi(
        ts_arg_type = "(failure: Failure | null, report: string | null, event: string | null) => void"
    )]
    on_message: Function<'_, TrainArgs, ()>,
) -> Result<NativeCancel> {
    let callback: Callback = on_message
        .build_threadsafe_function::<Message>()
        .build_callback(|context: ThreadsafeCallContext<Message>| {
            Ok(match context.value {
                Message::Event(event) => (None, None, Some(event)).into(),
                Message::Done(report) => (None, Some(report), None).into(),
                Message::Failed(failure) => (Some(failure), None, None).into(),
            })
        })?;
    let cancelled = jobs::spawn(&env, "ryz-train", move |cancelled| {
        let send = |message| {
            callback.call(message, ThreadsafeFunctionCallMode::NonBlocking);
        };
        let event = |event: RunEvent| send(Message::Event(event_json(event).to_string()));
        send(match catching(|| train(settings, cancelled, event)) {
            Ok(report) => Message::Done(report_json(&report).to_string()),
            Err(failure) => Message::Failed(failure),
        });
    })?;
    Ok(NativeCancel::new(move || {
        cancelled.store(true, Ordering::Relaxed)
    }))
}

fn train(
    settings: TrainSettings,
    cancelled: &AtomicBool,
    mut report: impl FnMut(RunEvent),
) -> std::result::Result<RunReport, Failure> {
    let paths = |paths: Vec<String>| paths.into_iter().map(PathBuf::from).collect();
    let config = serde_json::from_str(&settings.config)
        .map_err(|error| Failure::new("INVALID_ARGUMENT", &error))?;
    let options = RunOptions {
        corpus: paths(settings.corpus),
        valid: paths(settings.valid),
        output: settings.output.into(),
        config,
        model: settings.model.map(PathBuf::from),
        teacher: settings.teacher.map(PathBuf::from),
        resume: settings.resume,
        overwrite: settings.overwrite,
        threads: settings.threads.map(|threads| threads as usize),
    };
    ryz_train::run(&options, cancelled, &mut report).map_err(|error| failure(&error))
}

fn failure(error: &TrainError) -> Failure {
    let failure = Failure::new(error.code(), error);
    match error {
        TrainError::InvalidOption {
            name,
            expected,
            got,
        } => failure.of_option(*name, expected, Some(got.clone())),
        _ => failure,
    }
}

fn event_json(event: RunEvent) -> Json {
    match event {
        RunEvent::Preparing(what) => json!({ "type": "preparing", "what": match what {
            Preparation::Texts => "texts",
            Preparation::Tokenizer => "tokenizer",
            Preparation::Model => "model",
            Preparation::Encoding => "encoding",
            Preparation::Teacher => "teacher",
        } }),
        RunEvent::Started {
            step,
            steps,
            parameters,
            train_tokens,
            valid_tokens,
        } => json!({
            "type": "started",
            "step": step,
            "steps": steps,
            "parameters": parameters,
            "trainTokens": train_tokens,
            "validTokens": valid_tokens,
        }),
        RunEvent::Step(step) => json!({
            "type": "step",
            "step": step.step,
            "steps": step.steps,
            "loss": step.loss,
            "divergence": step.divergence,
            "learningRate": step.learning_rate,
            "gradientNorm": step.gradient_norm,
            "tokens": step.tokens,
            "epochs": step.epochs,
            "tokensPerSecond": step.tokens_per_second,
            "etaSeconds": step.eta_seconds,
        }),
        RunEvent::Validation { point, evaluation } => json!({
            "type": "validation",
            "step": point.step,
            "trainLoss": point.train_loss,
            "loss": evaluation.loss,
            "bitsPerByte": evaluation.bits_per_byte,
            "tokens": evaluation.tokens,
        }),
        RunEvent::Sample { step, text } => json!({ "type": "sample", "step": step, "text": text }),
        RunEvent::Checkpoint { step, path } => {
            json!({ "type": "checkpoint", "step": step, "path": path.display().to_string() })
        }
        other => json!({ "type": "other", "what": format!("{other:?}") }),
    }
}

fn report_json(report: &RunReport) -> Json {
    let path = |path: &std::path::Path| path.display().to_string();
    let zeros = report.evaluation.zeros.iter();
    json!({
        "output": path(&report.files.output),
        "checkpoint": path(&report.files.checkpoint),
        "curveCsv": path(&report.files.curve_csv),
        "curveSvg": path(&report.files.curve_svg),
        "bytes": report.bytes,
        "steps": report.steps,
        "tokens": report.tokens,
        "seconds": report.seconds,
        "parameters": report.parameters,
        "validation": {
            "loss": report.evaluation.loss,
            "bitsPerByte": report.evaluation.bits_per_byte,
            "tokens": report.evaluation.tokens,
            "zeros": zeros
                .map(|layer| json!({ "gates": layer.gates, "activations": layer.activations }))
                .collect::<Vec<_>>(),
        },
    })
}
