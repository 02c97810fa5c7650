//! Evaluates a checkpoint on the whole validation text: `evaluate OUT_DIR TRAIN.txt VALID.txt`.
//!
//! Prints the validation loss and, for each layer, the zero fractions on which the sparse path's speed depends.
#![allow(clippy::print_stdout)]

use ryz_train::{Trainer, read_text};
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [out, train, valid] = args.as_slice() else {
        return Err("usage: evaluate OUT_DIR TRAIN.txt VALID.txt".into());
    };
    let (train, valid) = (read_text(train.as_ref())?, read_text(valid.as_ref())?);
    let checkpoint = Path::new(out).join("checkpoint.safetensors");
    let mut trainer = Trainer::resume(&checkpoint, &train, &valid, 1, |_| {})?;
    let evaluation = trainer.evaluate(None);
    println!(
        "step {} valid {:.4} nats/token = {:.4} bits/byte",
        trainer.steps_done(),
        evaluation.loss,
        evaluation.bits_per_byte,
    );
    for (layer, zeros) in evaluation.zeros.iter().enumerate() {
        println!(
            "layer {layer}: gates {:.4} activations {:.4}",
            zeros.gates, zeros.activations
        );
    }
    Ok(())
}
