//! A whole run from files to a model, with checkpoints, samples and the loss curve along the way.

use crate::checkpoint::write_atomically;
use crate::config::TrainConfig;
use crate::corpus::{Corpus, documents, hold_out, read_text};
use crate::error::TrainError;
use crate::pretrained::PretrainedModel;
use crate::report::Point;
use crate::tokenizer::TextTokenizer;
use crate::trainer::{Evaluation, SampleOptions, StepReport, Trainer};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Minimum time between two step reports: a tiny model makes hundreds of steps per second.
const REPORT_INTERVAL: Duration = Duration::from_millis(50);

/// Options of [`run`].
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// Text files in UTF-8; at least one.
    pub corpus: Vec<PathBuf>,
    /// Text files for validation. If empty, the end of the corpus is held out (`valid_ratio`).
    pub valid: Vec<PathBuf>,
    /// The GGUF file to write. Checkpoint and curve are written beside it ([`RunFiles`]).
    pub output: PathBuf,
    /// Fields of [`TrainConfig`] to change, as a JSON object (or null). The others come from the
    /// defaults of a fresh run or of fine-tuning, or from the checkpoint of a resumed run.
    pub config: serde_json::Value,
    /// The model to fine-tune; `None` trains a new one.
    pub model: Option<PathBuf>,
    /// The teacher, in addition to the texts. Its vocabulary must equal the student's.
    pub teacher: Option<PathBuf>,
    /// Whether to continue from the checkpoint, which must exist, with the same texts. Default
    /// false.
    pub resume: bool,
    /// Whether to replace the output and checkpoint of an earlier run. Default false.
    pub overwrite: bool,
    /// Computing threads, at most one per shard. Default: the number of processors.
    pub threads: Option<usize>,
}

/// The files of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunFiles {
    /// The model, written after the last step.
    pub output: PathBuf,
    /// Everything needed to resume; written every `checkpoint_interval` steps and when the run is
    /// stopped.
    pub checkpoint: PathBuf,
    /// The loss curve as numbers; written with every checkpoint.
    pub curve_csv: PathBuf,
    /// The loss curve as a chart; written with every checkpoint.
    pub curve_svg: PathBuf,
}

impl RunFiles {
    /// `model.gguf`, `model.checkpoint.safetensors`, `model.curve.csv` and `model.curve.svg`.
    pub fn beside(output: &Path) -> Self {
        let beside = |ending| output.with_extension(ending);
        Self {
            output: output.to_owned(),
            checkpoint: beside("checkpoint.safetensors"),
            curve_csv: beside("curve.csv"),
            curve_svg: beside("curve.svg"),
        }
    }
}

/// A stage before the first step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preparation {
    /// Reading the texts.
    Texts,
    /// Learning the vocabulary.
    Tokenizer,
    /// Reading the model to fine-tune, or the checkpoint.
    Model,
    /// Encoding the texts.
    Encoding,
    /// Reading the teacher.
    Teacher,
}

/// A progress event of a run.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum RunEvent {
    /// Preparing.
    Preparing(Preparation),
    /// Training begins.
    Started {
        /// Steps already done, according to the checkpoint.
        step: u64,
        /// Total steps.
        steps: u64,
        /// Number of trained parameters.
        parameters: usize,
        /// Tokens of the training texts.
        train_tokens: usize,
        /// Tokens of the validation text.
        valid_tokens: usize,
    },
    /// Steps were done. Fast steps are not all reported, but the last one is.
    Step(StepReport),
    /// A validation on `eval_windows` windows.
    Validation {
        /// The point on the curve.
        point: Point,
        /// The full evaluation.
        evaluation: Evaluation,
    },
    /// A sample was written.
    Sample {
        /// Steps done.
        step: u64,
        /// The prompt and its continuation.
        text: String,
    },
    /// A checkpoint and the curve were written.
    Checkpoint {
        /// Steps done.
        step: u64,
        /// The file.
        path: PathBuf,
    },
}

/// A finished run.
#[derive(Debug, Clone, PartialEq)]
pub struct RunReport {
    /// The files written.
    pub files: RunFiles,
    /// Size of the model's file.
    pub bytes: u64,
    /// Total steps.
    pub steps: u64,
    /// Tokens trained on.
    pub tokens: u64,
    /// Seconds of training, including those before a resumption.
    pub seconds: f64,
    /// Number of trained parameters.
    pub parameters: usize,
    /// The exported weights on the whole validation text. (The curve always uses the same few
    /// windows.)
    pub evaluation: Evaluation,
}

/// Trains or fine-tunes, from files to files.
///
/// Setting `cancel` stops the run within a layer of the current step, which is discarded. The run
/// then writes a checkpoint and the curve and returns [`TrainError::Aborted`]; before the first
/// step, it writes nothing. It can be resumed. `report` is called on the calling thread.
///
/// # Errors
///
/// Existing files without `overwrite` or `resume`, before anything is computed; unusable texts,
/// configurations or models; a loss that is not finite. The last checkpoint is kept.
///
/// # Examples
///
/// ```no_run
/// use std::sync::atomic::AtomicBool;
/// use ryz_train::{RunEvent, RunOptions, run};
///
/// let options = RunOptions {
///     corpus: vec!["tales.txt".into()],
///     output: "model.gguf".into(),
///     config: serde_json::json!({ "steps": 500, "model": { "hidden_size": 128 } }),
///     ..RunOptions::default()
/// };
/// let report = run(&options, &AtomicBool::new(false), &mut |event| {
///     if let RunEvent::Step(step) = event {
///         eprintln!("{} of {}: {:.3}", step.step, step.steps, step.loss);
///     }
/// })?;
/// assert_eq!(report.steps, 500);
/// # Ok::<(), ryz_train::TrainError>(())
/// ```
pub fn run(
    options: &RunOptions,
    cancel: &AtomicBool,
    report: &mut dyn FnMut(RunEvent),
) -> Result<RunReport, TrainError> {
    let files = RunFiles::beside(&options.output);
    refuse(options, &files)?;
    let mut trainer = prepare(options, &files, cancel, report)?;
    report(RunEvent::Started {
        step: trainer.steps_done(),
        steps: trainer.config().steps,
        parameters: trainer.parameter_count(),
        train_tokens: trainer.corpus().train_tokens(),
        valid_tokens: trainer.corpus().valid().len(),
    });
    let mut run = Run {
        trainer: &mut trainer,
        files: &files,
        cancel,
        report,
        saved: None,
    };
    run.steps()?;
    let evaluation = run.trainer.evaluate(0, cancel)?;
    let bytes = trainer.export_bytes()?;
    write_atomically(&files.output, &bytes)?;
    Ok(RunReport {
        files,
        bytes: bytes.len() as u64,
        steps: trainer.steps_done(),
        tokens: trainer.steps_done() * trainer.config().tokens_per_step(),
        seconds: trainer.seconds(),
        parameters: trainer.parameter_count(),
        evaluation,
    })
}

/// Rejects leftover files of an earlier run, and outputs that are also inputs.
fn refuse(options: &RunOptions, files: &RunFiles) -> Result<(), TrainError> {
    let invalid = |name, expected: &str, got: &Path| {
        Err(crate::config::option(name, expected, got.display()))
    };
    if options.corpus.is_empty() {
        return Err(crate::config::option("corpus", "at least one file", "none"));
    }
    let folder = match files.output.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    if files.output.file_name().is_none() || files.output.is_dir() || !folder.is_dir() {
        return invalid("output", "a file in a folder that is there", &files.output);
    }
    let inputs = options.corpus.iter().chain(&options.valid);
    let inputs = inputs.chain(&options.model).chain(&options.teacher);
    let written = [
        &files.output,
        &files.checkpoint,
        &files.curve_csv,
        &files.curve_svg,
    ];
    for input in inputs.filter_map(|input| input.canonicalize().ok()) {
        for path in written {
            if path.canonicalize().is_ok_and(|path| path == input) {
                return invalid("output", "beside none of the files that are read", path);
            }
        }
    }
    if options.overwrite || options.resume {
        return Ok(());
    }
    for path in [&files.output, &files.checkpoint] {
        if path.exists() {
            return Err(TrainError::Exists {
                path: path.clone(),
                hint: "resume the run (`resume: true`, --resume), or replace its files (`overwrite: true`, --force)",
            });
        }
    }
    Ok(())
}

/// Reads the inputs and creates a trainer.
fn prepare(
    options: &RunOptions,
    files: &RunFiles,
    cancel: &AtomicBool,
    report: &mut dyn FnMut(RunEvent),
) -> Result<Trainer, TrainError> {
    let mut preparing = |preparation| {
        report(RunEvent::Preparing(preparation));
        match cancel.load(Ordering::Relaxed) {
            true => Err(TrainError::Aborted),
            false => Ok(()),
        }
    };
    let none = serde_json::json!({});
    let changes = match &options.config {
        serde_json::Value::Null => &none,
        changes => changes,
    };
    let threads = options
        .threads
        .or_else(|| std::thread::available_parallelism().ok().map(Into::into))
        .unwrap_or(1);
    preparing(Preparation::Texts)?;
    let texts = |paths: &[PathBuf]| -> Result<String, TrainError> {
        let texts: Result<Vec<_>, _> = paths.iter().map(|path| read_text(path)).collect();
        Ok(texts?.join("\n\n"))
    };
    let (corpus, valid) = (texts(&options.corpus)?, texts(&options.valid)?);
    let split = |config: &TrainConfig| match options.valid.is_empty() {
        true => hold_out(&corpus, config.valid_ratio),
        false => (corpus.as_str(), valid.as_str()),
    };
    let mut trainer = if options.resume {
        preparing(Preparation::Model)?;
        // Use the checkpoint's split; otherwise the validation text could include training text.
        let kept = crate::checkpoint::load(&files.checkpoint)?.state.config;
        let config = kept.changed(changes)?;
        if config.valid_ratio != kept.valid_ratio {
            let expected = format!("{}, the checkpoint's", kept.valid_ratio);
            return Err(crate::config::option(
                "valid_ratio",
                &expected,
                config.valid_ratio,
            ));
        }
        preparing(Preparation::Encoding)?;
        let (train, valid) = split(&config);
        Trainer::resume(&files.checkpoint, train, valid, threads, cancel, |_| {
            Ok(config)
        })?
    } else if let Some(path) = &options.model {
        preparing(Preparation::Model)?;
        let model = PretrainedModel::open(path)?;
        let config = model.config().changed(changes)?;
        preparing(Preparation::Encoding)?;
        let (train, valid) = split(&config);
        let corpus = Corpus::new(&config, model.tokenizer(), train, valid, cancel)?;
        Trainer::finetune(model, config, corpus, threads)?
    } else {
        let config = TrainConfig::default().changed(changes)?;
        let (train, valid) = split(&config);
        preparing(Preparation::Tokenizer)?;
        let texts = documents(train, config.split_headings);
        let size = config.model.vocab_size;
        let tokenizer = TextTokenizer::train(texts.into_iter(), size, threads, cancel)?;
        preparing(Preparation::Encoding)?;
        let corpus = Corpus::new(&config, &tokenizer, train, valid, cancel)?;
        Trainer::new(config, tokenizer, corpus, threads)?
    };
    if let Some(path) = &options.teacher {
        preparing(Preparation::Teacher)?;
        trainer.learn_from(PretrainedModel::open(path)?)?;
    }
    Ok(trainer)
}

struct Run<'a> {
    trainer: &'a mut Trainer,
    files: &'a RunFiles,
    cancel: &'a AtomicBool,
    report: &'a mut dyn FnMut(RunEvent),
    /// The step of the last checkpoint.
    saved: Option<u64>,
}

impl Run<'_> {
    /// Runs all remaining steps. A checkpoint is written, whatever ends them.
    fn steps(&mut self) -> Result<(), TrainError> {
        let steps = self.trainer.config().steps;
        let mut reported: Option<Instant> = None;
        self.saved = Some(self.trainer.steps_done());
        while self.trainer.steps_done() < steps {
            if self.cancel.load(Ordering::Relaxed) {
                self.save()?;
                return Err(TrainError::Aborted);
            }
            let step = match self.trainer.step_unless(self.cancel) {
                // The loop saves the progress of the previous step.
                Err(TrainError::Aborted) => continue,
                step => step?,
            };
            let due = |interval: u64| {
                interval > 0 && (step.step.is_multiple_of(interval) || step.step == steps)
            };
            let config = self.trainer.config();
            let (validates, points, saves, samples) = (
                due(config.eval_interval),
                due(config.curve_interval),
                due(config.checkpoint_interval),
                due(config.sample_interval),
            );
            let recent = reported.is_some_and(|then| then.elapsed() < REPORT_INTERVAL);
            if !recent || validates || saves || samples || step.step == steps {
                reported = Some(Instant::now());
                (self.report)(RunEvent::Step(step));
            }
            if validates {
                self.validate()?;
            } else if points {
                self.trainer.record(None);
            }
            if saves {
                self.save()?;
            }
            if samples {
                self.sample()?;
            }
        }
        Ok(())
    }

    /// Validates, unless the run is stopped meanwhile; the loop then detects it.
    fn validate(&mut self) -> Result<(), TrainError> {
        let windows = self.trainer.config().eval_windows;
        match self.trainer.evaluate(windows, self.cancel) {
            Ok(evaluation) => {
                let point = self.trainer.record(Some(&evaluation));
                (self.report)(RunEvent::Validation { point, evaluation });
                Ok(())
            }
            Err(TrainError::Aborted) => {
                self.save()?;
                Err(TrainError::Aborted)
            }
            Err(error) => Err(error),
        }
    }

    fn save(&mut self) -> Result<(), TrainError> {
        let step = self.trainer.steps_done();
        if self.saved == Some(step) {
            return Ok(());
        }
        let path = &self.files.checkpoint;
        self.trainer.save(path)?;
        let history = self.trainer.history();
        write_atomically(&self.files.curve_csv, history.to_csv().as_bytes())?;
        write_atomically(&self.files.curve_svg, history.to_svg().as_bytes())?;
        self.saved = Some(step);
        let path = path.clone();
        (self.report)(RunEvent::Checkpoint { step, path });
        Ok(())
    }

    fn sample(&mut self) -> Result<(), TrainError> {
        let config = self.trainer.config();
        let step = self.trainer.steps_done();
        let options = SampleOptions {
            max_tokens: config.sample_tokens,
            temperature: 0.8,
            top_k: 40,
            seed: step,
        };
        let prompt = config.sample_prompt.clone();
        match self.trainer.sample_unless(&prompt, options, self.cancel) {
            Ok(text) => (self.report)(RunEvent::Sample { step, text }),
            // The loop detects it next.
            Err(TrainError::Aborted) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}
