//! Sinks and window in the whole pass, against a cache that was rebuilt without the gap: its keys turned anew, one by one.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout)] // helpers of tests, too

mod common;

use common::{Runner, Setup, reference_folders};
use ryz_format::RopeStyle;
use ryz_kvcache::{BLOCK_TOKENS, KvDType, Window};
use ryz_model::Activations;

/// Turns the key of each position of a block back by `shift` positions.
fn turn_back(bytes: &mut [u8], runner: &Runner, shift: usize) {
    let config = runner.model.config();
    let (dim, turned) = (config.key_head_dim, config.rope_dim);
    let heads = config.num_hidden_layers * config.num_key_value_heads;
    let head_bytes = bytes.len() / heads;
    for head in bytes.chunks_exact_mut(head_bytes) {
        for key in head[..BLOCK_TOKENS * dim * 4].chunks_exact_mut(dim * 4) {
            let mut values: Vec<f32> = key
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
                .collect();
            for pair in 0..turned / 2 {
                let (a, b) = match config.rope.style {
                    RopeStyle::Norm => (2 * pair, 2 * pair + 1),
                    _ => (pair, pair + turned / 2),
                };
                let frequency =
                    f64::from(config.rope.theta).powf(-2.0 * pair as f64 / turned as f64);
                let (sin, cos) = (shift as f64 * frequency).sin_cos();
                let (x, y) = (f64::from(values[a]), f64::from(values[b]));
                values[a] = (x * cos + y * sin) as f32;
                values[b] = (y * cos - x * sin) as f32;
            }
            for (bytes, value) in key.chunks_exact_mut(4).zip(values) {
                bytes.copy_from_slice(&value.to_le_bytes());
            }
        }
    }
}

#[test]
fn a_step_sees_sinks_and_window_as_one_text() {
    let folder = &reference_folders()[0];
    let tokens: Vec<u32> = (0..131).map(|t| t * 7 % 400).collect();
    let mut styles = Vec::new();
    for file in ["b158-v1-tq2_0.gguf", "llama-v-tq2_0.gguf"] {
        let setup = Setup::exact(Activations::F32);
        let mut runner = Runner::load(&folder.join(file), setup);
        styles.push(format!("{:?}", runner.model.config().rope.style));
        let window = Window::new(4, 40);
        let last = tokens.len() - 1;
        runner.logits(&tokens[..last]);
        runner.window = Some(window);
        let got = runner.extend(&tokens[last..], last).remove(0);
        runner.window = None;
        let all = runner.extend(&tokens[last..], last).remove(0);
        let shift = window.shift(last);
        assert_eq!(shift, 64);
        runner.without(window.gone(last), |bytes, runner| {
            turn_back(bytes, runner, shift)
        });
        let expected = runner.extend(&tokens[last..], last - shift).remove(0);
        let greatest = expected.iter().fold(0f32, |most, x| most.max(x.abs()));
        let difference = |other: &[f32]| {
            let pairs = got.iter().zip(other).map(|(a, b)| (a - b).abs());
            pairs.fold(0f32, f32::max) / greatest
        };
        assert!(
            difference(&expected) < 2e-5,
            "{file}: {}",
            difference(&expected)
        );
        // What is not seen would have been noticed.
        assert!(difference(&all) > 1e-3, "{file}: {}", difference(&all));
    }
    styles.dedup();
    assert_eq!(styles.len(), 2, "both ways of turning are shown");
    assert_eq!(Setup::exact(Activations::F32).kv, KvDType::F32);
}
