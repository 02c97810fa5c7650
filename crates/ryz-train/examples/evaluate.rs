//! Evaluates a model on a text: `evaluate MODEL.gguf TEXT.txt [WINDOWS]`.
//!
//! Prints the loss (of so many windows, spread evenly; by default of all) and, for each layer, the zero fractions on which
//! the sparse path's speed depends.
#![allow(clippy::print_stdout)]

use ryz_train::{Corpus, PretrainedModel, Trainer, read_text};
use std::sync::atomic::AtomicBool;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, text, windows @ ..] = args.as_slice() else {
        return Err("usage: evaluate MODEL.gguf TEXT.txt [WINDOWS]".into());
    };
    let windows = windows.first().map_or(Ok(0), |n| n.parse())?;
    let cancel = AtomicBool::new(false);
    let text = read_text(text.as_ref())?;
    let model = PretrainedModel::open(model.as_ref())?;
    let config = model.config();
    let corpus = Corpus::new(&config, model.tokenizer(), &text, &text, &cancel)?;
    let mut trainer = Trainer::finetune(model, config, corpus, 2)?;
    let found = trainer.evaluate(windows, &cancel)?;
    println!(
        "{} tokens: {:.4} nats/token = {:.4} bits/byte",
        found.tokens, found.loss, found.bits_per_byte,
    );
    for (layer, zeros) in found.zeros.iter().enumerate() {
        println!(
            "layer {layer}: gates {:.4} activations {:.4}",
            zeros.gates, zeros.activations
        );
    }
    Ok(())
}
