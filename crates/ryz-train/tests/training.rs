//! Training as a whole: it learns, its model is the engine's, and a kill loses at most one interval.
#![allow(clippy::unwrap_used)] // helpers of tests, too

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use ryz_engine::{
    Activations, Engine, EngineConfig, Event, GenerateRequest, KvDType, Prompt, SamplingParams,
};
use ryz_train::{
    Corpus, HiddenAct, ModelShape, PretrainedModel, TextTokenizer, TrainConfig, Trainer,
    WeightScale, documents, read_text,
};

fn excerpt() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../__test__/fixtures/corpus/tales-excerpt.txt");
    read_text(&path).unwrap()
}

/// The excerpt's last twentieth is for validation.
fn texts() -> (String, String) {
    let text = excerpt();
    let mut cut = text.len() / 20 * 19;
    while !text.is_char_boundary(cut) {
        cut += 1;
    }
    let (train, valid) = text.split_at(cut);
    (train.to_owned(), valid.to_owned())
}

/// A flag that nobody sets.
static GO: AtomicBool = AtomicBool::new(false);

fn small() -> TrainConfig {
    TrainConfig {
        model: ModelShape {
            hidden_size: 256,
            intermediate_size: 512,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            max_position_embeddings: 64,
            vocab_size: 512,
            ..ModelShape::default()
        },
        steps: 30,
        batch_sequences: 8,
        warmup_steps: 5,
        ..TrainConfig::default()
    }
}

fn trainer(config: TrainConfig, threads: usize) -> Trainer {
    let (train, valid) = texts();
    let parts = documents(&train, config.split_headings);
    let tokenizer =
        TextTokenizer::train(parts.iter().copied(), config.model.vocab_size, 2, &GO).unwrap();
    let corpus = Corpus::new(&config, &tokenizer, &train, &valid, &GO).unwrap();
    Trainer::new(config, tokenizer, corpus, threads).unwrap()
}

fn engine(path: &Path, activations: Activations) -> Engine {
    let config = EngineConfig {
        threads: Some(2),
        pinning: ryz_engine::Pinning::Off,
        activations: Some(activations),
        kv: KvDType::F32,
        ..EngineConfig::default()
    };
    Engine::load(path, &config, &mut |_| ControlFlow::Continue(())).unwrap()
}

fn engine_logits(engine: &Engine, tokens: &[u32]) -> Vec<f32> {
    let (sender, received) = channel();
    let reply = Box::new(move |result| drop(sender.send(result)));
    let _running = engine.logits(tokens.to_vec(), true, 0, reply).unwrap();
    received.recv().unwrap().unwrap().data
}

#[test]
fn a_short_run_lowers_the_loss_and_its_export_generates() {
    let mut trainer = trainer(small(), 2);
    let before = trainer.evaluate(0, &GO).unwrap();
    for _ in 0..30 {
        trainer.step().unwrap();
    }
    let after = trainer.evaluate(0, &GO).unwrap();
    assert!(
        after.loss < before.loss - 0.5,
        "{} → {}",
        before.loss,
        after.loss
    );
    assert!(after.bits_per_byte < before.bits_per_byte);

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    trainer.export(&path).unwrap();
    let engine = engine(&path, Activations::Int8);
    let (sender, events) = channel();
    let request = GenerateRequest {
        max_tokens: Some(20),
        credits: 100,
        sampling: SamplingParams {
            ignore_eos: true,
            ..SamplingParams::greedy()
        },
        ..GenerateRequest::new(Prompt::Text("Once upon a time".to_owned()))
    };
    let _running = engine
        .generate(request, Box::new(move |event| drop(sender.send(event))))
        .unwrap();
    let mut tokens = 0;
    for event in events {
        match event {
            Event::Delta(delta) => tokens += delta.token_ids.len(),
            Event::Finish(_) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(tokens, 20);

    // What the engine scores is what the trainer validates: the same windows, the same loss.
    let valid = trainer.corpus().valid().to_vec();
    let (sender, received) = channel();
    let reply = Box::new(move |result| drop(sender.send(result)));
    // A window of the trainer predicts each of its tokens' successors: 64 of 65 tokens, one shared with the next.
    let window = valid[..65].to_vec();
    let mut part = trainer_loss(&mut trainer, &window);
    let _running = engine.score(window[..64].to_vec(), None, 0, reply).unwrap();
    let scored = received.recv().unwrap().unwrap();
    part.truncate(63);
    let want: f64 = part.iter().sum();
    assert_eq!(scored.tokens, 63);
    assert!(
        (scored.sum_nll - want).abs() < 0.01 * want,
        "{} and {want}",
        scored.sum_nll
    );
}

/// −ln p of each token but the first, from the trainer's own logits.
fn trainer_loss(trainer: &mut Trainer, tokens: &[u32]) -> Vec<f64> {
    let vocabulary = trainer.config().model.vocab_size;
    let logits = trainer.logits(&tokens[..tokens.len() - 1]).unwrap();
    let rows = logits.chunks_exact(vocabulary);
    rows.zip(&tokens[1..])
        .map(|(row, &token)| {
            let top = row.iter().copied().fold(f32::MIN, f32::max);
            let sum: f64 = row.iter().map(|l| f64::from(l - top).exp()).sum();
            sum.ln() - f64::from(row[token as usize] - top)
        })
        .collect()
}

/// The engine computes what training computed: within 2e−3 without activation quantisation (T1 of the reference set),
/// and with it, where a value near a rounding boundary may fall either way and moves its whole row, in the median (T3
/// compares only positions that are known to be far from such boundaries).
#[test]
fn the_engines_logits_are_those_of_training() {
    for (act, scale, kv_heads) in [
        (HiddenAct::Relu2, WeightScale::Tensor, 2),
        (HiddenAct::Silu, WeightScale::Tensor, 4),
        (HiddenAct::Relu2, WeightScale::Channel, 4),
    ] {
        for quantise_activations in [false, true] {
            let mut config = small();
            config.model.hidden_act = act;
            config.model.num_key_value_heads = kv_heads;
            config.weight_scale = scale;
            config.quantise_activations = quantise_activations;
            let mut trainer = trainer(config, 2);
            for _ in 0..6 {
                trainer.step().unwrap();
            }
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("model.gguf");
            trainer.export(&path).unwrap();
            let tokens = trainer.corpus().valid()[..48].to_vec();
            let want = trainer.logits(&tokens).unwrap();
            let activations = if quantise_activations {
                Activations::Int8
            } else {
                Activations::F32
            };
            let got = engine_logits(&engine(&path, activations), &tokens);
            assert_eq!(got.len(), want.len());
            let mut differences: Vec<f32> =
                got.iter().zip(&want).map(|(a, b)| (a - b).abs()).collect();
            differences.sort_by(f32::total_cmp);
            let at = |part: f64| differences[((differences.len() - 1) as f64 * part) as usize];
            let (median, largest) = (at(0.5), at(1.0));
            if quantise_activations {
                assert!(
                    median < 2e-2 && largest < 0.3,
                    "{act:?} int8: {median}, {largest}"
                );
            } else {
                assert!(largest < 2e-3, "{act:?} f32: {largest}");
            }
        }
    }
}

#[test]
fn threads_do_not_change_a_run() {
    let run = |threads| {
        let mut trainer = trainer(small(), threads);
        let losses: Vec<u64> = (0..3)
            .map(|_| trainer.step().unwrap().loss.to_bits())
            .collect();
        (losses, trainer.export_bytes().unwrap())
    };
    assert!(run(1) == run(2));
}

const CHILD: &str = "RYZ_TRAIN_CHILD";
const CHILD_STEPS: u64 = 12;
const CHILD_INTERVAL: u64 = 3;

/// A run that checkpoints, from its last checkpoint on if there is one.
fn checkpointed_run(folder: &Path) -> Vec<u8> {
    let path = folder.join("checkpoint.safetensors");
    let config = TrainConfig {
        steps: CHILD_STEPS,
        ..small()
    };
    let (train, valid) = texts();
    let mut trainer = if path.exists() {
        Trainer::resume(&path, &train, &valid, 2, &GO, |kept| Ok(kept.clone())).unwrap()
    } else {
        self::trainer(config, 2)
    };
    while trainer.steps_done() < CHILD_STEPS {
        trainer.step().unwrap();
        if trainer.steps_done().is_multiple_of(CHILD_INTERVAL) {
            trainer.save(&path).unwrap();
        }
    }
    trainer.export_bytes().unwrap()
}

/// Not a test of its own: what the next one starts as another process.
#[test]
fn child_of_the_kill_test() {
    if let Some(folder) = std::env::var_os(CHILD) {
        let bytes = checkpointed_run(&PathBuf::from(&folder));
        std::fs::write(Path::new(&folder).join("done.gguf"), bytes).unwrap();
    }
}

#[test]
fn a_kill_at_any_moment_loses_at_most_one_interval() {
    let undisturbed = tempfile::tempdir().unwrap();
    let want = checkpointed_run(undisturbed.path());

    let folder = tempfile::tempdir().unwrap();
    let checkpoint = folder.path().join("checkpoint.safetensors");
    let start = || {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_of_the_kill_test"])
            .env(CHILD, folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    let deadline = Instant::now() + Duration::from_secs(300);
    let mut kills = 0;
    let mut written = None;
    while kills < 3 {
        let mut child = start();
        // Killed soon after it has written a checkpoint: in the middle of a step, or of the next write.
        loop {
            assert!(Instant::now() < deadline, "no progress in 300 s");
            let modified = std::fs::metadata(&checkpoint)
                .and_then(|m| m.modified())
                .ok();
            let ended = child.try_wait().unwrap().is_some();
            if ended || (modified.is_some() && modified != written) {
                written = modified;
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(7 * kills));
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        let (train, valid) = texts();
        let resumed =
            Trainer::resume(&checkpoint, &train, &valid, 2, &GO, |kept| Ok(kept.clone())).unwrap();
        assert!(resumed.steps_done().is_multiple_of(CHILD_INTERVAL) && resumed.steps_done() > 0);
    }
    assert_eq!(start().wait().unwrap().code(), Some(0));
    let got = std::fs::read(folder.path().join("done.gguf")).unwrap();
    assert!(
        got == want,
        "a run that was killed three times ends as if it had not been"
    );
}

/// The model's logits in the engine, and in a trainer that loaded its file.
#[test]
fn fine_tuning_begins_with_the_files_weights_and_lowers_the_loss() {
    let (train, valid) = texts();
    for scale in [WeightScale::Tensor, WeightScale::Channel] {
        let mut first = trainer(
            TrainConfig {
                weight_scale: scale,
                ..small()
            },
            2,
        );
        for _ in 0..20 {
            first.step().unwrap();
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        first.export(&path).unwrap();

        let model = PretrainedModel::open(&path).unwrap();
        assert_eq!(model.shape(), &first.config().model);
        let config = TrainConfig {
            warmup_steps: 2,
            learning_rate: 1e-3,
            ..model.config()
        };
        assert_eq!(config.weight_scale, scale);
        let corpus = Corpus::new(&config, model.tokenizer(), &train, &valid, &GO).unwrap();
        let mut tuned = Trainer::finetune(model, config, corpus, 2).unwrap();
        let tokens = first.corpus().valid()[..48].to_vec();
        assert_eq!(tuned.corpus().valid(), first.corpus().valid());
        assert_eq!(
            tuned.logits(&tokens).unwrap(),
            first.logits(&tokens).unwrap()
        );
        assert_eq!(tuned.export_bytes().unwrap(), first.export_bytes().unwrap());
        let before = tuned.evaluate(0, &GO).unwrap();
        for _ in 0..24 {
            tuned.step().unwrap();
        }
        let after = tuned.evaluate(0, &GO).unwrap();
        assert!(
            after.loss < before.loss - 0.02,
            "{scale:?}: {} → {}",
            before.loss,
            after.loss
        );
    }
}

/// A float model is a teacher and, made ternary, a start.
#[test]
fn a_student_comes_closer_to_its_float_teacher() {
    let (train, valid) = texts();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("teacher.gguf");
    let mut teacher = trainer(
        TrainConfig {
            quantise_weights: false,
            quantise_activations: false,
            ..small()
        },
        2,
    );
    for _ in 0..30 {
        teacher.step().unwrap();
    }
    teacher.export(&path).unwrap();
    let run = |weight: f32| {
        let model = PretrainedModel::open(&path).unwrap();
        let config = TrainConfig {
            distillation_weight: weight,
            warmup_steps: 2,
            learning_rate: 2e-3,
            steps: 20,
            ..model.config()
        };
        assert!(config.quantise_weights);
        let corpus = Corpus::new(&config, model.tokenizer(), &train, &valid, &GO).unwrap();
        let mut student = Trainer::finetune(model, config, corpus, 2).unwrap();
        assert_eq!(student.step().unwrap().divergence, None);
        student
            .learn_from(PretrainedModel::open(&path).unwrap())
            .unwrap();
        let divergences: Vec<f64> = (1..20)
            .map(|_| student.step().unwrap().divergence.unwrap())
            .collect();
        assert!(divergences.iter().all(|d| *d > 0.0), "{divergences:?}");
        (divergences[0], divergences[18])
    };
    let (first, last) = run(1.0);
    assert!(last < 0.7 * first, "from {first} to {last}");
    let (_, untaught) = run(0.0);
    assert!(last < untaught, "taught {last}, not taught {untaught}");
}

#[test]
fn models_that_do_not_fit_are_refused_by_name() {
    let reference = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../__test__/fixtures/reference");
    let error = PretrainedModel::open(&reference.join("llama-v-tq2_0.gguf")).unwrap_err();
    assert_eq!(error.code(), "UNSUPPORTED");
    assert!(error.to_string().contains("architecture"), "{error}");
    let error = PretrainedModel::open(&reference.join("none.gguf")).unwrap_err();
    assert_eq!(error.code(), "FILE_NOT_FOUND");
    // Every form of BitNet that the reference set has, a folder among them.
    for name in [
        "b158-v1-tq2_0.gguf",
        "b158-v-i2_s.gguf",
        "b158-v-hf-packed",
        "bitnet-v-tq1_0.gguf",
    ] {
        let model = PretrainedModel::open(&reference.join(name)).unwrap();
        let mut student = trainer(small(), 1);
        let error = student.learn_from(model).unwrap_err();
        assert_eq!(error.code(), "UNSUPPORTED");
        assert!(error.to_string().contains("vocabulary"), "{error}");
    }
}
