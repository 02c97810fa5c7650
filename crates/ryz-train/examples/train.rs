//! Trains a model from text files: `train OUT_DIR TRAIN.txt VALID.txt [CONFIG.json]`.
//!
//! Goes on from `OUT_DIR/checkpoint.safetensors` when that exists (schedule fields then come from CONFIG.json). Writes
//! the checkpoint, `model.gguf`, `curve.csv` and `curve.svg` there. THREADS sets the number of threads.
#![allow(clippy::print_stdout)]

use ryz_train::{Corpus, SampleOptions, TextTokenizer, TrainConfig, Trainer, documents, read_text};
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [out, train, valid, config @ ..] = args.as_slice() else {
        return Err("usage: train OUT_DIR TRAIN.txt VALID.txt [CONFIG.json]".into());
    };
    let out = PathBuf::from(out);
    std::fs::create_dir_all(&out)?;
    let config = match config.first() {
        Some(path) => TrainConfig::from_json(&std::fs::read_to_string(path)?)?,
        None => TrainConfig::default(),
    };
    let threads = std::env::var("THREADS")
        .ok()
        .and_then(|t| t.parse().ok())
        .unwrap_or(1);
    let (train, valid) = (read_text(train.as_ref())?, read_text(valid.as_ref())?);
    let checkpoint = out.join("checkpoint.safetensors");
    let mut trainer = if checkpoint.exists() {
        Trainer::resume(&checkpoint, &train, &valid, threads, |kept| {
            let model = kept.model.clone();
            *kept = config.clone();
            kept.model = model;
        })?
    } else {
        let texts = documents(&train, config.split_headings);
        let tokenizer = TextTokenizer::train(texts.iter().copied(), config.model.vocab_size)?;
        std::fs::write(out.join("tokenizer.json"), tokenizer.to_json()?)?;
        println!("{} documents", texts.len());
        let corpus = Corpus::new(&config, &tokenizer, &train, &valid)?;
        Trainer::new(config, tokenizer, corpus, threads)?
    };
    println!(
        "{} parameters, {} training tokens, {} validation tokens ({:.3} bytes a token), from step {}",
        trainer.parameter_count(),
        trainer.corpus().train_tokens(),
        trainer.corpus().valid().len(),
        trainer.corpus().valid_bytes() as f64 / trainer.corpus().valid().len() as f64,
        trainer.steps_done(),
    );
    let config = trainer.config().clone();
    let (mut slice_tokens, mut slice_start) = (0, std::time::Instant::now());
    while trainer.steps_done() < config.steps {
        let report = trainer.step()?;
        slice_tokens += config.batch_sequences * config.model.max_position_embeddings;
        let due = |interval: u64| {
            interval > 0 && (report.step % interval == 0 || report.step == config.steps)
        };
        if due(20) {
            let speed = slice_tokens as f64 / slice_start.elapsed().as_secs_f64();
            (slice_tokens, slice_start) = (0, std::time::Instant::now());
            println!(
                "step {}/{} epoch {:.2} loss {:.4} lr {:.2e} grad {:.3} {speed:.0} tokens/s",
                report.step,
                report.steps,
                report.epochs,
                report.loss,
                report.learning_rate,
                report.gradient_norm,
            );
        }
        if due(config.eval_interval) {
            let evaluation = trainer.evaluate(if report.step == config.steps {
                None
            } else {
                Some(64)
            });
            let point = trainer.record(Some(&evaluation));
            println!(
                "step {} train {:.4} valid {:.4} nats/token = {:.4} bits/byte; gates zero {:?}",
                report.step,
                point.train_loss,
                evaluation.loss,
                evaluation.bits_per_byte,
                evaluation
                    .zeros
                    .iter()
                    .map(|z| (z.gates * 100.0).round())
                    .collect::<Vec<_>>(),
            );
            trainer.export(&out.join("model.gguf"))?;
        } else if due(50) {
            trainer.record(None);
        }
        if due(config.checkpoint_interval) {
            trainer.save(&checkpoint)?;
            std::fs::write(out.join("curve.csv"), trainer.history().to_csv())?;
            std::fs::write(out.join("curve.svg"), trainer.history().to_svg())?;
        }
        if due(config.sample_interval) {
            let options = SampleOptions {
                max_tokens: 80,
                temperature: 0.8,
                top_k: 40,
                seed: report.step,
            };
            println!("--- {}\n---", trainer.sample("Once upon a time", options)?);
        }
    }
    Ok(())
}
