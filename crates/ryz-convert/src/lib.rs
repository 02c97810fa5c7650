//! Converts models to ternary GGUF files.
//!
//! [`convert`] reads a GGUF file, all parts of a split one, or a Hugging Face folder, and writes
//! one GGUF file whose linear layers are `TQ1_0`, `TQ2_0`, `I2_S` or `Q2_0`. Ternary weights of any
//! form are converted without loss. Float weights are quantized by BitNet's absmean rule, and the
//! report gives each tensor's error.
//!
//! The source is read twice, a few megabytes at a time: once to find scales and faults, once to
//! write. The target appears under its name only when it is complete and on disk.
//!
//! [`FloatModel`] reads the same models' tensors as floats.
//!
//! # Examples
//!
//! ```no_run
//! use std::{ops::ControlFlow, path::Path};
//! use ryz_convert::{ConvertOptions, TernaryForm, convert};
//!
//! let options = ConvertOptions::new(TernaryForm::TQ1_0);
//! let report = convert(
//!     Path::new("bitnet-2b"),
//!     Path::new("bitnet-2b-tq1_0.gguf"),
//!     &options,
//!     &mut |_| ControlFlow::Continue(()),
//! )?;
//! assert!(report.is_lossless());
//! # Ok::<(), ryz_convert::ConvertError>(())
//! ```
#![forbid(unsafe_code)]

mod error;
mod metadata;
mod options;
mod plan;
mod prepack;
mod progress;
mod reader;
mod report;
mod rope;
mod rows;
mod scan;
mod source;
mod target;
mod ternary;
mod tokenizer;
mod write;

use std::{
    io::{BufWriter, Write},
    ops::ControlFlow,
    path::Path,
};

use ryz_format::{FormatError, GgufWriter};

pub use self::{
    error::ConvertError,
    options::{ConvertOptions, EmbeddingForm, FloatWeights, InexactScales, TernaryForm},
    reader::FloatModel,
    report::{ConvertPhase, ConvertProgress, ConvertReport, Method, TensorReport},
};
use self::{
    progress::Progress,
    source::Source,
    target::{Target, write_error},
    write::Writer,
};
pub use ryz_format::TensorError;

/// Converts the model at `source`, a GGUF file or a Hugging Face folder, to a GGUF file at
/// `target`.
///
/// `progress` is called every few megabytes; [`ControlFlow::Break`] ends the conversion with
/// [`ConvertError::Aborted`].
///
/// # Errors
/// The source is malformed, unsupported, or not representable in the requested form (the error
/// names the tensor); the target exists and must not be overwritten, or is a file of the source; a
/// read or write fails; the callback aborts. After an error the target is unchanged, with one
/// exception: if syncing its folder, the last step, fails, the target is complete.
pub fn convert(
    source: &Path,
    target: &Path,
    options: &ConvertOptions,
    progress: &mut dyn FnMut(ConvertProgress<'_>) -> ControlFlow<()>,
) -> Result<ConvertReport, ConvertError> {
    options.check()?;
    let source = Source::open(source)?;
    source.refuse_prepacked()?;
    let paths = source.paths();
    let file = Target::create(
        target,
        options.overwrite,
        paths.iter().map(|path| path.as_path()),
    )?;
    let source_bytes = source.model().tensors().iter().map(|t| t.bytes).sum();
    let mut progress = Progress::new(progress, source_bytes);
    let (pairs, tokenizer_notes) = metadata::pairs(&source, options)?;
    let plan = plan::plan(&source, options, &mut progress)?;
    progress.begin_write()?;

    // A format error in our output comes from the source; only the sink's errors are the target's.
    let failed = |error| match error {
        FormatError::Write { what: _, source } => write_error(target, "write", source),
        error => source::at(source.path())(error),
    };
    let mut writer = GgufWriter::new();
    for (key, value) in pairs.iter() {
        writer.push(key, value.clone()).map_err(failed)?;
    }
    drop(pairs);
    for output in &plan.outputs {
        writer
            .declare(&output.name, output.target_dtype(), &output.shape)
            .map_err(failed)?;
    }
    let sink = BufWriter::with_capacity(1 << 20, file.file());
    let mut body = writer.start(sink).map_err(failed)?;
    let mut tensors = Vec::with_capacity(plan.outputs.len());
    for output in &plan.outputs {
        let mut writer = Writer {
            source: &source,
            body: &mut body,
            progress: &mut progress,
            quantizer: options.quantizer.as_ref(),
            failed: &failed,
        };
        tensors.push(writer.tensor(output)?);
    }
    let mut sink = body.finish().map_err(failed)?;
    sink.flush()
        .map_err(|error| write_error(target, "write", error))?;
    drop(sink);
    progress.end()?;
    // Verify that a reader accepts the file before it gets its name.
    Source::open(file.part()).map_err(|error| match error {
        ConvertError::Format { path: _, source } => source::at(target)(source),
        error => error,
    })?;
    Ok(ConvertReport {
        bytes: file.commit()?,
        target: target.to_owned(),
        source_bytes,
        tensors,
        dropped: plan.dropped,
        tokenizer_notes,
    })
}
