//! What goes wrong leaves nothing behind, and says what it was.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use common::{Model, Rng, Shape, Tensor, committed, convert, is_projection, listing, tiny, write};
use ryz_convert::{
    ConvertError, ConvertOptions, ConvertPhase, EmbeddingForm, FloatWeights, Method, TernaryForm,
};
use ryz_format::{DType, Gguf, encode};

const SHAPE: Shape = Shape {
    hidden: 256,
    inner: 256,
};

/// A folder with a source in it.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new(file: &[u8]) -> Place {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("source.gguf"), file).unwrap();
        Place { folder }
    }

    fn source(&self) -> PathBuf {
        self.folder.path().join("source.gguf")
    }

    fn target(&self) -> PathBuf {
        self.folder.path().join("target.gguf")
    }

    /// The error of a conversion that must leave the folder as it was.
    fn refused(&self, options: &ConvertOptions) -> ConvertError {
        let before = listing(self.folder.path());
        let error = convert(&self.source(), &self.target(), options).unwrap_err();
        assert_eq!(listing(self.folder.path()), before, "{error}");
        error
    }
}

/// A model whose projections are in a ternary type, each with one scale.
fn ternary(shape: Shape, dtype: DType, scale: f32) -> Vec<u8> {
    let mut rng = Rng(1);
    let (pairs, tensors) = tiny(shape, |name, rows, cols| {
        let codes = rng.codes(rows * cols);
        let scales = match dtype.has_tensor_scale() {
            true => vec![scale],
            false => vec![scale; rows * cols / dtype.block_values()],
        };
        Tensor::ternary(name, dtype, &[cols as u64, rows as u64], &codes, &scales)
    });
    write(&pairs, &tensors)
}

/// A model whose projections are made of these numbers.
fn floats(shape: Shape, dtype: DType, mut value: impl FnMut(usize) -> f32) -> Vec<u8> {
    let (pairs, tensors) = tiny(shape, |name, rows, cols| {
        let values: Vec<f32> = (0..rows * cols).map(&mut value).collect();
        Tensor::floats(name, dtype, &[cols as u64, rows as u64], &values)
    });
    write(&pairs, &tensors)
}

fn tensor_of(error: &ConvertError) -> String {
    match error {
        ConvertError::BadCode { name, .. }
        | ConvertError::Unrepresentable { name, .. }
        | ConvertError::ScalesDiffer { name, .. }
        | ConvertError::NotFinite { name, .. }
        | ConvertError::NotTernary { name, .. } => name.clone(),
        other => panic!("{other}"),
    }
}

#[test]
fn a_target_that_is_there_stays() {
    let place = Place::new(&ternary(SHAPE, DType::TQ2_0, 0.5));
    fs::write(place.target(), b"precious").unwrap();
    let mut options = ConvertOptions::new(TernaryForm::TQ1_0);
    let error = place.refused(&options);
    assert!(matches!(error, ConvertError::TargetExists { .. }));
    assert_eq!(error.code(), "INVALID_ARGUMENT");
    assert_eq!(fs::read(place.target()).unwrap(), b"precious");
    // Also when a conversion that may replace it fails half-way.
    options.overwrite = true;
    let mut calls = 0;
    let error = ryz_convert::convert(&place.source(), &place.target(), &options, &mut |p| {
        calls += usize::from(p.phase == ConvertPhase::Write);
        match calls {
            0..4 => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        }
    });
    assert_eq!(error.unwrap_err().code(), "ABORTED");
    assert_eq!(fs::read(place.target()).unwrap(), b"precious");
    assert_eq!(listing(place.folder.path()), ["source.gguf", "target.gguf"]);
    convert(&place.source(), &place.target(), &options).unwrap();
    Model::read(&place.target());
    assert_eq!(listing(place.folder.path()), ["source.gguf", "target.gguf"]);
}

#[test]
fn an_abort_at_any_call_leaves_nothing() {
    let place = Place::new(&ternary(SHAPE, DType::TQ2_0, 0.5));
    let options = ConvertOptions::new(TernaryForm::I2_S);
    let run = |stop: usize| {
        let (mut calls, mut seen) = (0, Vec::new());
        let result = ryz_convert::convert(&place.source(), &place.target(), &options, &mut |p| {
            calls += 1;
            assert!(p.done_bytes <= p.total_bytes);
            seen.push((p.phase, p.done_bytes, p.total_bytes));
            match calls < stop {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        });
        (result, seen)
    };
    let (result, seen) = run(usize::MAX);
    result.unwrap();
    fs::remove_file(place.target()).unwrap();
    // Both phases go from little to all.
    for phase in [ConvertPhase::Scan, ConvertPhase::Write] {
        let of_phase: Vec<_> = seen.iter().filter(|seen| seen.0 == phase).collect();
        assert!(of_phase.windows(2).all(|pair| pair[0].1 <= pair[1].1));
        let (_, done, total) = of_phase.last().unwrap();
        assert_eq!(done, total);
    }
    for stop in 1..=seen.len() {
        let (result, _) = run(stop);
        assert!(matches!(result, Err(ConvertError::Aborted)), "{stop}");
        assert_eq!(listing(place.folder.path()), ["source.gguf"], "{stop}");
    }
}

#[test]
fn a_source_is_never_the_target() {
    let file = ternary(SHAPE, DType::TQ2_0, 0.5);
    let place = Place::new(&file);
    let mut options = ConvertOptions::new(TernaryForm::TQ1_0);
    options.overwrite = true;
    let mut targets = vec![place.source(), place.folder.path().join("./source.gguf")];
    #[cfg(unix)]
    {
        let link = place.folder.path().join("link.gguf");
        std::os::unix::fs::symlink(place.source(), &link).unwrap();
        targets.push(link);
    }
    for target in targets {
        let error = convert(&place.source(), &target, &options).unwrap_err();
        assert!(
            matches!(error, ConvertError::TargetIsSource { .. }),
            "{error}"
        );
        assert!(fs::read(place.source()).unwrap() == file);
    }
    // A folder's own files.
    let folder = committed().join("b158-v-hf-packed");
    let error = convert(&folder, &folder.join("tokenizer.json"), &options).unwrap_err();
    assert!(matches!(error, ConvertError::TargetIsSource { .. }));
}

#[test]
fn targets_that_cannot_be() {
    let place = Place::new(&ternary(SHAPE, DType::TQ2_0, 0.5));
    let mut options = ConvertOptions::new(TernaryForm::TQ1_0);
    options.overwrite = true;
    for (target, found) in [
        (place.folder.path().to_owned(), "a folder"),
        (place.folder.path().join("none/target"), "no such folder"),
        (PathBuf::from("/"), "no file name"),
    ] {
        let error = convert(&place.source(), &target, &options).unwrap_err();
        assert_eq!(error.code(), "INVALID_ARGUMENT");
        assert!(error.to_string().contains(found), "{error}");
    }
    // A name as long as names can be.
    let long = place.folder.path().join("n".repeat(255));
    convert(&place.source(), &long, &options).unwrap();
}

/// The system refuses: an error of the target, with the cause.
#[cfg(target_os = "linux")]
#[test]
fn a_folder_that_cannot_be_written() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new(&ternary(SHAPE, DType::TQ2_0, 0.5));
    let closed = place.folder.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o555)).unwrap();
    // Root may write everywhere but into the kernel's own folders.
    let writable = fs::write(closed.join("probe"), b"").is_ok();
    let folder = if writable {
        Path::new("/proc")
    } else {
        &closed
    };
    let options = ConvertOptions::new(TernaryForm::TQ1_0);
    let error = convert(&place.source(), &folder.join("target.gguf"), &options).unwrap_err();
    assert!(matches!(error, ConvertError::Write { .. }), "{error}");
    assert_eq!(error.code(), "IO");
    assert!(std::error::Error::source(&error).is_some());
}

#[test]
fn sources_that_are_not_there_or_no_models() {
    let place = Place::new(b"GGML is not GGUF");
    let options = ConvertOptions::new(TernaryForm::TQ1_0);
    assert_eq!(place.refused(&options).code(), "INVALID_FILE");
    fs::write(place.source(), b"").unwrap();
    assert_eq!(place.refused(&options).code(), "INVALID_FILE");
    fs::remove_file(place.source()).unwrap();
    assert_eq!(place.refused(&options).code(), "FILE_NOT_FOUND");
    fs::create_dir(place.source()).unwrap();
    let error = place.refused(&options);
    assert_eq!(error.code(), "FILE_NOT_FOUND");
    let mut words = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        words += &error.to_string();
        cause = error.source();
    }
    assert!(words.contains("config.json"), "{words}");
    // A first part without its others.
    fs::remove_dir(place.source()).unwrap();
}

#[test]
fn codes_and_scales_that_are_faults() {
    // Code 3 in a type that has none.
    let mut file = ternary(SHAPE, DType::I2S, 0.5);
    let at = Model::parse(file.clone())
        .info("blk.0.attn_k.weight")
        .offset as usize;
    file[at + 5] |= 0b11;
    let place = Place::new(&file);
    let error = place.refused(&ConvertOptions::new(TernaryForm::TQ1_0));
    assert_eq!(error.code(), "INVALID_FILE");
    match error {
        ConvertError::BadCode {
            name, row, column, ..
        } => assert_eq!(
            (name.as_str(), row, column),
            ("blk.0.attn_k.weight", 0, 101)
        ),
        other => panic!("{other}"),
    }
    // Even where the bytes would only be copied.
    assert!(matches!(
        place.refused(&ConvertOptions::new(TernaryForm::I2_S)),
        ConvertError::BadCode { .. }
    ));
    // +2, which TQ2_0 has and TQ1_0 has not.
    let mut file = ternary(SHAPE, DType::TQ2_0, 0.5);
    let at = Model::parse(file.clone())
        .info("blk.0.ffn_up.weight")
        .offset as usize;
    file[at] |= 0b11;
    let place = Place::new(&file);
    for form in [TernaryForm::TQ1_0, TernaryForm::I2_S] {
        let error = place.refused(&ConvertOptions::new(form));
        assert!(matches!(error, ConvertError::Unrepresentable { .. }));
        assert_eq!(tensor_of(&error), "blk.0.ffn_up.weight");
        assert_eq!(error.code(), "UNSUPPORTED");
    }
    let options = ConvertOptions::new(TernaryForm::Q2_0_G64);
    assert!(
        convert(&place.source(), &place.target(), &options)
            .unwrap()
            .is_lossless()
    );
    let converted = Model::read(&place.target());
    assert_eq!(converted.values("blk.0.ffn_up.weight")[0], 1.0);
    // Scales that are no numbers.
    for scale in [f32::NAN, f32::INFINITY] {
        let place = Place::new(&ternary(SHAPE, DType::I2S, scale));
        let error = place.refused(&ConvertOptions::new(TernaryForm::TQ2_0));
        assert!(matches!(error, ConvertError::NotFinite { .. }));
        assert_eq!(tensor_of(&error), "blk.0.attn_q.weight");
        assert_eq!(error.code(), "INVALID_FILE");
    }
}

#[test]
fn scales_that_one_block_cannot_have() {
    let mut seed = Rng(3);
    let (pairs, tensors) = tiny(SHAPE, |name, rows, cols| {
        let codes = seed.codes(rows * cols);
        let scales: Vec<f32> = (0..rows * cols / 64)
            .map(|i| 1.0 + (i % 4) as f32)
            .collect();
        let shape = [cols as u64, rows as u64];
        Tensor::ternary(name, DType::Q2_0G64, &shape, &codes, &scales)
    });
    let place = Place::new(&write(&pairs, &tensors));
    for (form, per) in [
        (TernaryForm::Q2_0_G128, "block"),
        (TernaryForm::TQ2_0, "block"),
        (TernaryForm::I2_S, "tensor"),
    ] {
        match place.refused(&ConvertOptions::new(form)) {
            ConvertError::ScalesDiffer {
                per: got,
                first,
                other,
                ..
            } => assert_eq!((got, first, other), (per, 1.0, 2.0)),
            other => panic!("{form}: {other}"),
        }
    }
}

#[test]
fn float_weights_as_asked() {
    let mut rng = Rng(9);
    let mut gauss = move |_| {
        let sum: u32 = (0..8).map(|_| (rng.next() >> 48) as u32).sum();
        (sum as f32 / 65536.0 - 4.0) * 0.1
    };
    let place = Place::new(&floats(SHAPE, DType::BF16, &mut gauss));
    let mut options = ConvertOptions::new(TernaryForm::TQ2_0);
    options.float_weights = FloatWeights::Refuse;
    let error = place.refused(&options);
    assert!(matches!(error, ConvertError::NotTernary { .. }));
    assert_eq!(tensor_of(&error), "blk.0.attn_q.weight");
    options.overwrite = true;

    options.float_weights = FloatWeights::Keep;
    let report = convert(&place.source(), &place.target(), &options).unwrap();
    assert!(report.is_lossless());
    assert!(fs::read(place.target()).unwrap().len() >= fs::read(place.source()).unwrap().len());

    let mut mse = Vec::new();
    for rule in [FloatWeights::AbsmeanTensor, FloatWeights::AbsmeanBlock] {
        options.float_weights = rule;
        let report = convert(&place.source(), &place.target(), &options).unwrap();
        assert!(!report.is_lossless());
        let (was, is) = (Model::read(&place.source()), Model::read(&place.target()));
        for tensor in report.tensors.iter().filter(|t| is_projection(&t.name)) {
            assert_eq!(
                (tensor.method, tensor.target),
                (Method::Quantized, DType::TQ2_0)
            );
            // The codes are the public quantiser's.
            let (values, written) = (was.values(&tensor.name), is.values(&tensor.name));
            let block = match rule {
                FloatWeights::AbsmeanBlock => 256,
                _ => values.len(),
            };
            for (values, written) in values.chunks(block).zip(written.chunks(block)) {
                let mut codes = vec![0; values.len()];
                encode::quantize_absmean(values, &mut codes);
                let signs = written
                    .iter()
                    .map(|w| (w.signum() * f32::from(*w != 0.0)) as i8);
                assert!(codes.iter().map(|&code| code as i8 - 1).eq(signs));
            }
        }
        let error = |t: &&ryz_convert::TensorReport| t.error.map(|error| error.mse);
        mse.push(report.tensors.iter().find_map(|t| error(&t)).unwrap());
    }
    assert!(mse.iter().all(|mse| *mse > 0.0), "{mse:?}");

    options.form = TernaryForm::I2_S;
    let error = convert(&place.source(), &place.target(), &options).unwrap_err();
    assert!(matches!(error, ConvertError::InvalidOption { .. }));
    // Weights that are no numbers.
    let place = Place::new(&floats(SHAPE, DType::F32, |i| {
        if i == 300 { f32::NAN } else { 0.1 * i as f32 }
    }));
    let error = place.refused(&ConvertOptions::new(TernaryForm::TQ2_0));
    assert!(
        matches!(error, ConvertError::NotFinite { row: 1, .. }),
        "{error}"
    );
}

/// Ternary weights that the source has in other types are found, with one scale or with one a block.
#[test]
fn ternary_weights_in_disguise() {
    for dtype in [DType::F32, DType::F16, DType::BF16, DType::Q8_0] {
        let mut rng = Rng(4);
        let value = move |_| ((rng.next() % 3) as f32 - 1.0) * 0.5;
        let place = Place::new(&floats(SHAPE, dtype, value));
        for form in TernaryForm::ALL {
            let mut options = ConvertOptions::new(form);
            options.float_weights = FloatWeights::Refuse;
            options.overwrite = true;
            let report = convert(&place.source(), &place.target(), &options).unwrap();
            assert!(report.is_lossless(), "{dtype} {form}");
            let (was, is) = (Model::read(&place.source()), Model::read(&place.target()));
            for name in was.names() {
                // An int8's scale of 0.5 / 127 is no fp16 number: what they mean goes beside the weights.
                let beside = name.replace(".weight", ".scale");
                let scale = is.names().contains(&beside).then(|| is.values(&beside)[0]);
                let values: Vec<f32> = is.values(&name);
                let meant = values.iter().map(|w| w * scale.unwrap_or(1.0));
                assert!(
                    meant.eq(was.values(&name)),
                    "{dtype} {form} {name} {scale:?}"
                );
            }
        }
    }
    let place = Place::new(&floats(SHAPE, DType::F32, |i| {
        ((i * 7 % 3) as f32 - 1.0) * (1 + i / 64 % 4) as f32
    }));
    let mut options = ConvertOptions::new(TernaryForm::Q2_0_G64);
    options.float_weights = FloatWeights::Refuse;
    let report = convert(&place.source(), &place.target(), &options).unwrap();
    assert!(report.is_lossless());
    options.form = TernaryForm::Q2_0_G128;
    options.overwrite = true;
    let error = convert(&place.source(), &place.target(), &options).unwrap_err();
    assert!(matches!(error, ConvertError::NotTernary { .. }));
}

/// Rows that are no whole blocks get a type that holds them exactly.
#[test]
fn rows_of_no_whole_blocks() {
    let shape = Shape {
        hidden: 128,
        inner: 384,
    };
    let place = Place::new(&ternary(shape, DType::Q2_0G64, 0.25));
    for form in TernaryForm::ALL {
        let mut options = ConvertOptions::new(form);
        options.overwrite = true;
        let report = convert(&place.source(), &place.target(), &options).unwrap();
        assert!(report.is_lossless(), "{form}");
        let (was, is) = (Model::read(&place.source()), Model::read(&place.target()));
        for name in was.names() {
            assert!(was.values(&name) == is.values(&name), "{form} {name}");
        }
        let expected = match form {
            TernaryForm::TQ1_0 | TernaryForm::TQ2_0 => DType::Q8_0,
            _ => form.dtype(),
        };
        assert_eq!(is.info("blk.0.attn_q.weight").dtype, expected, "{form}");
    }
}

#[test]
fn embeddings_as_asked() {
    let place = Place::new(&ternary(SHAPE, DType::TQ2_0, 0.5));
    for (embeddings, dtype, lossless) in [
        (EmbeddingForm::Keep, DType::F16, true),
        (EmbeddingForm::F32, DType::F32, true),
        (EmbeddingForm::BF16, DType::BF16, true),
        (EmbeddingForm::Q8_0, DType::Q8_0, false),
        (EmbeddingForm::Ternary, DType::TQ2_0, false),
    ] {
        let mut options = ConvertOptions::new(TernaryForm::TQ2_0);
        (options.embeddings, options.overwrite) = (embeddings, true);
        let report = convert(&place.source(), &place.target(), &options).unwrap();
        let embedding = &report.tensors[0];
        assert_eq!(embedding.name, "token_embd.weight");
        assert_eq!((embedding.target, embedding.lossless), (dtype, lossless));
        assert_eq!(embedding.error.is_some(), !lossless);
        assert_eq!(
            Model::read(&place.target()).info("token_embd.weight").dtype,
            dtype
        );
    }
}

/// A file in three parts becomes one, which says nothing of parts.
#[test]
fn parts_become_one_file() {
    let (pairs, tensors) = tiny(SHAPE, |name, rows, cols| {
        let codes = Rng(5).codes(rows * cols);
        let scales = vec![0.5; rows * cols / 256];
        Tensor::ternary(
            name,
            DType::TQ2_0,
            &[cols as u64, rows as u64],
            &codes,
            &scales,
        )
    });
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole.gguf");
    fs::write(&whole, write(&pairs, &tensors)).unwrap();
    let count = tensors.len() as i32;
    let mut rest = tensors;
    for part in 0..3u16 {
        let mut own = pairs.clone();
        own.set("split.no", ryz_format::Value::U16(part));
        own.set("split.count", ryz_format::Value::U16(3));
        own.set("split.tensors.count", ryz_format::Value::I32(count));
        let after = rest.split_off(if part == 2 { rest.len() } else { 4 });
        let name = format!("model-{:05}-of-00003.gguf", part + 1);
        fs::write(folder.path().join(name), write(&own, &rest)).unwrap();
        rest = after;
    }
    let options = ConvertOptions::new(TernaryForm::TQ1_0);
    let first = folder.path().join("model-00001-of-00003.gguf");
    let (a, b) = (folder.path().join("a"), folder.path().join("b"));
    convert(&first, &a, &options).unwrap();
    convert(&whole, &b, &options).unwrap();
    assert!(fs::read(a).unwrap() == fs::read(b).unwrap());
    fs::remove_file(folder.path().join("model-00002-of-00003.gguf")).unwrap();
    let before = listing(folder.path());
    let error = convert(&first, &folder.path().join("c"), &options).unwrap_err();
    assert_eq!(error.code(), "FILE_NOT_FOUND");
    assert_eq!(listing(folder.path()), before);
}

/// Truncations and flipped bits, mostly of the header: an error that leaves nothing, or a file that can be read.
#[test]
fn mutations_never_panic_nor_leave_anything() {
    let shape = Shape {
        hidden: 64,
        inner: 64,
    };
    let file = ternary(shape, DType::Q2_0G64, 0.5);
    let header = Gguf::parse(&file, file.len() as u64).unwrap().data_start as usize;
    let place = Place::new(&file);
    let mut options = ConvertOptions::new(TernaryForm::I2_S);
    options.overwrite = true;
    let (mut refused, mut converted) = (0, 0);
    for seed in 0..1500u64 {
        let mut rng = Rng(seed);
        let mut mutated = file.clone();
        if rng.next().is_multiple_of(4) {
            mutated.truncate(rng.next() as usize % file.len());
        } else {
            for _ in 0..=rng.next() % 3 {
                let until = if rng.next().is_multiple_of(5) {
                    file.len()
                } else {
                    header
                };
                let at = rng.next() as usize % until;
                mutated[at] ^= 1 << (rng.next() % 8);
            }
        }
        fs::write(place.source(), &mutated).unwrap();
        match convert(&place.source(), &place.target(), &options) {
            Ok(_) => {
                Model::read(&place.target());
                fs::remove_file(place.target()).unwrap();
                converted += 1;
            }
            Err(error) => {
                assert!(!error.to_string().is_empty());
                assert_ne!(error.code(), "INTERNAL", "seed {seed}: {error}");
                refused += 1;
            }
        }
        assert_eq!(listing(place.folder.path()), ["source.gguf"], "seed {seed}");
    }
    assert!(refused > 500 && converted > 50, "{refused} {converted}");
}
