//! Calibrating a model on a thread of its own.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use napi::bindgen_prelude::{FnArgs, Function};
use napi::threadsafe_function::{
    ThreadsafeCallContext, ThreadsafeFunction, ThreadsafeFunctionCallMode,
};
use napi::{Env, Result, Status};
use napi_derive::napi;
use ryz_engine::{CalibrateOptions, CalibrateProgress, CalibrationReport, Engine, RankCost};

use crate::answer::{Failure, catching, failure};
use crate::engine::NativeCancel;
use crate::jobs;
use crate::load::{Config, engine_config};

/// What TypeScript asks for, already checked there.
#[napi(object, object_to_js = false)]
pub struct CalibrateSettings {
    /// The file to write.
    pub output: Option<String>,
    /// Tokens that are computed together.
    pub window: Option<u32>,
    /// Dimensions whose cost is measured.
    pub ranks: Vec<u32>,
}

/// What a number of dimensions costs.
#[napi(object)]
pub struct CalibratedRank {
    /// Dimensions that are stored of each value.
    pub rank: u32,
    /// The part of the variance that they hold.
    pub kept: f64,
    /// Mean negative log-likelihood.
    pub mean_nll: f64,
}

/// What was learnt.
#[napi(object)]
pub struct CalibrationResult {
    /// The file written.
    pub path: String,
    /// Tokens that were learnt from.
    pub tokens: f64,
    /// Tokens that costs were measured on.
    pub held_out_tokens: f64,
    /// Channels of a value.
    pub channels: u32,
    /// Mean negative log-likelihood with whole values.
    pub mean_nll: f64,
    /// By number of dimensions.
    pub ranks: Vec<CalibratedRank>,
}

type CalibrateArgs = FnArgs<(Option<Failure>, Option<CalibrationResult>, Option<f64>)>;

enum Message {
    Step(f64),
    Done(CalibrationResult),
    Failed(Failure),
}

type Callback = ThreadsafeFunction<Message, (), CalibrateArgs, Status, false>;

/// Calibrates a model. The callback gets the part that is done any number of times, then a failure or the report.
#[napi(catch_unwind)]
pub fn calibrate_model(
    env: Env,
    path: String,
    text: String,
    settings: CalibrateSettings,
    config: Config,
    with_progress: bool,
    #[napi(
        ts_arg_type = "(failure: Failure | null, result: CalibrationResult | null, fraction: number | null) => void"
    )]
    on_message: Function<'_, CalibrateArgs, ()>,
) -> Result<NativeCancel> {
    let callback: Callback = on_message
        .build_threadsafe_function::<Message>()
        .build_callback(|context: ThreadsafeCallContext<Message>| {
            Ok(match context.value {
                Message::Step(fraction) => (None, None, Some(fraction)).into(),
                Message::Done(result) => (None, Some(result), None).into(),
                Message::Failed(failure) => (Some(failure), None, None).into(),
            })
        })?;
    let cancelled = jobs::spawn(&env, "ryz-calibrate", move |cancelled| {
        let send = |message| {
            callback.call(message, ThreadsafeFunctionCallMode::NonBlocking);
        };
        let step = |fraction| {
            if with_progress {
                send(Message::Step(fraction));
            }
        };
        send(
            match catching(|| calibrate(&path, &text, settings, config, cancelled, step)) {
                Ok(result) => Message::Done(result),
                Err(failure) => Message::Failed(failure),
            },
        );
    })?;
    Ok(NativeCancel::new(move || {
        cancelled.store(true, Ordering::Relaxed)
    }))
}

fn calibrate(
    path: &str,
    text: &str,
    settings: CalibrateSettings,
    config: Config,
    cancelled: &AtomicBool,
    report: impl Fn(f64) + Send + Sync,
) -> std::result::Result<CalibrationResult, Failure> {
    let options = CalibrateOptions {
        output: settings.output.map(PathBuf::from),
        window: settings.window.map(|window| window as usize),
        ranks: settings.ranks.iter().map(|&rank| rank as usize).collect(),
    };
    let mut reported = None;
    let mut progress = |progress: CalibrateProgress| {
        let percent = progress.done * 100 / progress.total.max(1);
        if reported != Some(percent) {
            reported = Some(percent);
            report(progress.done as f64 / progress.total.max(1) as f64);
        }
    };
    let config = engine_config(config)?;
    let path = Path::new(path);
    Engine::calibrate(path, text, &options, &config, &mut progress, cancelled)
        .map(result)
        .map_err(|error| failure(&error))
}

fn result(report: CalibrationReport) -> CalibrationResult {
    let rank = |cost: RankCost| CalibratedRank {
        rank: cost.rank as u32,
        kept: cost.kept,
        mean_nll: cost.mean_nll,
    };
    CalibrationResult {
        path: report.path.to_string_lossy().into_owned(),
        tokens: report.tokens as f64,
        held_out_tokens: report.held_out as f64,
        channels: report.channels as u32,
        mean_nll: report.mean_nll,
        ranks: report.ranks.into_iter().map(rank).collect(),
    }
}
