//! A whole run: files in, a model out, with checkpoints, samples and the loss curve on the way.

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

/// Least time between two reports of steps: a tiny model makes hundreds of steps a second.
const REPORT_INTERVAL: Duration = Duration::from_millis(50);

/// What to run. See [`run`].
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// Text files, UTF-8, at least one.
    pub corpus: Vec<PathBuf>,
    /// Text files for validation. With none, the end of the corpus is held out (`valid_ratio`).
    pub valid: Vec<PathBuf>,
    /// The GGUF file to write. Checkpoint and curve are beside it ([`RunFiles`]).
    pub output: PathBuf,
    /// Fields of [`TrainConfig`] that differ from the defaults, as a JSON object (or null): from those of a fresh run,
    /// of a fine-tuned model, or, for a run that is resumed, of its checkpoint.
    pub config: serde_json::Value,
    /// Model to fine-tune; none trains a new one.
    pub model: Option<PathBuf>,
    /// Model to learn from besides the texts. Its vocabulary must be the student's.
    pub teacher: Option<PathBuf>,
    /// Go on from the checkpoint, which must be there, with the same texts. Default false.
    pub resume: bool,
    /// Replace output and checkpoint of an earlier run. Default false.
    pub overwrite: bool,
    /// Computing threads, at most one for each shard. Default: as many as there are processors.
    pub threads: Option<usize>,
}

/// The files of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunFiles {
    /// The model, written after the last step.
    pub output: PathBuf,
    /// All that it takes to go on, every `checkpoint_interval` steps and when the run is stopped.
    pub checkpoint: PathBuf,
    /// The loss curve as numbers, with every checkpoint.
    pub curve_csv: PathBuf,
    /// The loss curve as a picture, with every checkpoint.
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

/// What happens before the first step.
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

/// What a run says of itself.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum RunEvent {
    /// It prepares.
    Preparing(Preparation),
    /// It begins to train.
    Started {
        /// Steps done, by the checkpoint.
        step: u64,
        /// Steps in all.
        steps: u64,
        /// Numbers trained.
        parameters: usize,
        /// Tokens of the training texts.
        train_tokens: usize,
        /// Tokens of the validation text.
        valid_tokens: usize,
    },
    /// It made steps; not every step is reported when they are quick, the last one is.
    Step(StepReport),
    /// It validated on `eval_windows` windows.
    Validation {
        /// The point on the curve.
        point: Point,
        /// All that was measured.
        evaluation: Evaluation,
    },
    /// It wrote a sample.
    Sample {
        /// Steps done.
        step: u64,
        /// The prompt and what followed.
        text: String,
    },
    /// It wrote a checkpoint and the curve.
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
    /// What was written.
    pub files: RunFiles,
    /// Length of the model's file.
    pub bytes: u64,
    /// Steps in all.
    pub steps: u64,
    /// Tokens trained on.
    pub tokens: u64,
    /// Seconds of training, those before a resumption included.
    pub seconds: f64,
    /// Numbers trained.
    pub parameters: usize,
    /// The exported weights on the whole validation text. (The curve has the same few windows throughout.)
    pub evaluation: Evaluation,
}

/// Trains, or fine-tunes, from files to files.
///
/// Setting `cancel` stops the run within a layer of a step, which does not count: it then writes a checkpoint and the curve and returns
/// [`TrainError::Aborted`]; before the first step, it leaves nothing behind. It can be resumed. `report` is called on this
/// thread.
///
/// # Errors
///
/// Files that are there already without `overwrite` or `resume`, before anything is computed; texts, configurations and
/// models that cannot be used; a loss that is no number. The last checkpoint stays.
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

/// Refuses what an earlier run left, and outputs that are inputs.
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

/// Reads what there is to read, and makes a trainer of it.
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
        // The split is the checkpoint's, or validation text would have been trained on.
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
    /// All steps that are left. Whatever ends them, the checkpoint is there.
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
                // The loop saves what the step before it has made.
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

    /// Validates, unless the run is stopped meanwhile: then the loop sees it next.
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
            // The loop sees it next.
            Err(TrainError::Aborted) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}
