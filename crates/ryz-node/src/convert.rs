//! Converting a model on a thread of its own.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use napi::bindgen_prelude::{ClassInstance, FnArgs, Function};
use napi::threadsafe_function::{
    ThreadsafeCallContext, ThreadsafeFunction, ThreadsafeFunctionCallMode,
};
use napi::{Env, Result, Status};
use napi_derive::napi;
use ryz_convert::{
    ConvertError, ConvertOptions, ConvertPhase, ConvertProgress, ConvertReport, EmbeddingForm,
    FloatWeights, InexactScales, Method, TensorReport, TernaryForm,
};

use ryz_format::SharedQuantizer;

use crate::answer::{Failure, catching, named};
use crate::engine::NativeCancel;
use crate::jobs;
use crate::quantizer::{NativeQuantizer, built_in_quantizer};

/// What TypeScript asks for, already checked there.
#[napi(object, object_to_js = false)]
pub struct ConvertSettings {
    /// The form of linear layers.
    pub form: String,
    /// The form of embedding and head.
    pub embeddings: String,
    /// What becomes of linear layers that are not ternary.
    pub float_weights: String,
    /// What becomes of scales that are no fp16 numbers.
    pub inexact_scales: String,
    /// Whether weights are laid out as the kernels read them.
    pub prepack: bool,
    /// Whether an existing target is replaced.
    pub overwrite: bool,
    /// Whether a folder's tokenizer is taken over.
    pub tokenizer: bool,
    /// The target's `general.name`.
    pub name: Option<String>,
    /// A quantiser that comes with the engine.
    pub quantizer: Option<String>,
}

/// How far a conversion has come.
#[napi(object)]
pub struct ConvertStep {
    /// `scan` or `write`.
    pub phase: String,
    /// Bytes of the source's tensors that are done in this phase.
    pub done_bytes: f64,
    /// Bytes of the source's tensors.
    pub total_bytes: f64,
}

/// What became of a tensor.
#[napi(object)]
pub struct ConvertedTensor {
    /// The name in the target.
    pub name: String,
    /// The type in the source.
    pub source_type: Option<String>,
    /// The type in the target.
    #[napi(js_name = "type")]
    pub dtype: String,
    /// Rows; 1 for a vector.
    pub rows: f64,
    /// Columns.
    pub columns: f64,
    /// How it was made.
    pub method: String,
    /// Whether it has exactly the source's values.
    pub lossless: bool,
    /// Share of weights that are 0.
    pub zero_fraction: Option<f64>,
    /// mean((w − ŵ)²).
    pub mse: Option<f64>,
    /// The cosine between w and ŵ.
    pub cosine: Option<f64>,
    /// max |w − ŵ|.
    pub max_abs: Option<f64>,
}

/// A finished conversion.
#[napi(object)]
pub struct Conversion {
    /// The file written.
    pub target: String,
    /// Its length.
    pub bytes: f64,
    /// Bytes of the source's tensors.
    pub source_bytes: f64,
    /// Whether nothing was lost.
    pub lossless: bool,
    /// In the target's order.
    pub tensors: Vec<ConvertedTensor>,
    /// Tensors that were left out.
    pub dropped: Vec<String>,
    /// What the target cannot say about the tokenizer.
    pub tokenizer_notes: Vec<String>,
}

type ConvertArgs = FnArgs<(Option<Failure>, Option<Conversion>, Option<ConvertStep>)>;

enum Message {
    Step(ConvertStep),
    Done(Box<Conversion>),
    Failed(Failure),
}

type Callback = ThreadsafeFunction<Message, (), ConvertArgs, Status, false>;

/// Converts a model. The callback gets progress any number of times, then a failure or the report.
#[napi(catch_unwind)]
pub fn convert_model(
    env: Env,
    source: String,
    target: String,
    settings: ConvertSettings,
    with_progress: bool,
    quantizer: Option<ClassInstance<'_, NativeQuantizer>>,
    #[napi(
        ts_arg_type = "(failure: Failure | null, conversion: Conversion | null, step: ConvertStep | null) => void"
    )]
    on_message: Function<'_, ConvertArgs, ()>,
) -> Result<NativeCancel> {
    let callback: Callback = on_message
        .build_threadsafe_function::<Message>()
        .build_callback(|context: ThreadsafeCallContext<Message>| {
            Ok(match context.value {
                Message::Step(step) => (None, None, Some(step)).into(),
                Message::Done(conversion) => (None, Some(*conversion), None).into(),
                Message::Failed(failure) => (Some(failure), None, None).into(),
            })
        })?;
    let quantizer = quantizer.map(|quantizer| quantizer.shared());
    let cancelled = jobs::spawn(&env, "ryz-convert", move |cancelled| {
        let send = |message| {
            callback.call(message, ThreadsafeFunctionCallMode::NonBlocking);
        };
        let step = |step| {
            if with_progress {
                send(Message::Step(step));
            }
        };
        send(
            match catching(|| convert(&source, &target, settings, quantizer, cancelled, step)) {
                Ok(conversion) => Message::Done(Box::new(conversion)),
                Err(failure) => Message::Failed(failure),
            },
        );
    })?;
    Ok(NativeCancel::new(move || {
        cancelled.store(true, Ordering::Relaxed)
    }))
}

fn convert(
    source: &str,
    target: &str,
    settings: ConvertSettings,
    quantizer: Option<SharedQuantizer>,
    cancelled: &AtomicBool,
    report: impl Fn(ConvertStep),
) -> std::result::Result<Conversion, Failure> {
    let mut options = options(settings)?;
    options.quantizer = quantizer.or(options.quantizer);
    let mut reported = None;
    let mut progress = |progress: ConvertProgress<'_>| {
        let percent = progress.done_bytes * 100 / progress.total_bytes.max(1);
        if reported != Some((progress.phase, percent)) {
            reported = Some((progress.phase, percent));
            report(ConvertStep {
                phase: match progress.phase {
                    ConvertPhase::Scan => "scan",
                    _ => "write",
                }
                .to_owned(),
                done_bytes: progress.done_bytes as f64,
                total_bytes: progress.total_bytes as f64,
            });
        }
        match cancelled.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    };
    ryz_convert::convert(
        Path::new(source),
        Path::new(target),
        &options,
        &mut progress,
    )
    .map(conversion)
    .map_err(|error| failure(&error))
}

fn failure(error: &ConvertError) -> Failure {
    let failure = Failure::new(error.code(), error);
    match error {
        ConvertError::InvalidOption {
            option,
            expected,
            got,
        } => failure.of_option(*option, *expected, Some(got.clone())),
        _ => failure,
    }
}

const EMBEDDINGS: [(&str, EmbeddingForm); 6] = [
    ("keep", EmbeddingForm::Keep),
    ("f32", EmbeddingForm::F32),
    ("f16", EmbeddingForm::F16),
    ("bf16", EmbeddingForm::BF16),
    ("q8_0", EmbeddingForm::Q8_0),
    ("ternary", EmbeddingForm::Ternary),
];

const FLOAT_WEIGHTS: [(&str, FloatWeights); 4] = [
    ("absmean", FloatWeights::AbsmeanTensor),
    ("absmean-block", FloatWeights::AbsmeanBlock),
    ("keep", FloatWeights::Keep),
    ("refuse", FloatWeights::Refuse),
];

const INEXACT_SCALES: [(&str, InexactScales); 2] = [
    ("separate", InexactScales::Separate),
    ("round", InexactScales::Round),
];

fn options(settings: ConvertSettings) -> std::result::Result<ConvertOptions, Failure> {
    let forms = TernaryForm::ALL.map(|form| (form.dtype().name(), form));
    let mut options = ConvertOptions::new(named("type", &forms, &settings.form)?);
    options.embeddings = named("embeddings", &EMBEDDINGS, &settings.embeddings)?;
    options.float_weights = named("floatWeights", &FLOAT_WEIGHTS, &settings.float_weights)?;
    options.inexact_scales = named("inexactScales", &INEXACT_SCALES, &settings.inexact_scales)?;
    if let Some(name) = &settings.quantizer {
        options.quantizer = Some(built_in_quantizer(name)?);
    }
    options.prepack = settings.prepack;
    options.overwrite = settings.overwrite;
    options.tokenizer = settings.tokenizer;
    options.name = settings.name;
    Ok(options)
}

fn conversion(report: ConvertReport) -> Conversion {
    Conversion {
        lossless: report.is_lossless(),
        target: report.target.to_string_lossy().into_owned(),
        bytes: report.bytes as f64,
        source_bytes: report.source_bytes as f64,
        tensors: report.tensors.into_iter().map(tensor).collect(),
        dropped: report.dropped,
        tokenizer_notes: report.tokenizer_notes,
    }
}

fn tensor(tensor: TensorReport) -> ConvertedTensor {
    ConvertedTensor {
        name: tensor.name,
        source_type: tensor.source.map(|dtype| dtype.name().to_owned()),
        dtype: tensor.target.name().to_owned(),
        rows: tensor.rows as f64,
        columns: tensor.cols as f64,
        method: match tensor.method {
            Method::Copied => "copied",
            Method::Repacked => "repacked",
            Method::Recognized => "recognized",
            Method::Quantized => "quantized",
            Method::Converted => "converted",
            _ => "derived",
        }
        .to_owned(),
        lossless: tensor.lossless,
        zero_fraction: tensor.zero_fraction,
        mse: tensor.error.map(|error| error.mse),
        cosine: tensor.error.map(|error| error.cosine),
        max_abs: tensor.error.map(|error| error.max_abs),
    }
}
