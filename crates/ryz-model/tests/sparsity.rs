//! Leaving zeroes out changes no logit, and reads less.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout)] // helpers of tests, too

mod common;

use std::{fs::File, path::Path};

use common::{Runner, Setup};
use ryz_format::{DType, GgufWriter, Value, encode};
use ryz_kernels::{BatchLayout, KernelOptions, Level, LineOrder};
use ryz_kvcache::KvDType;
use ryz_model::{Activations, Counting};
use ryz_tmac::{Arena, ArenaConfig, PrefetchManager};

const HIDDEN: usize = 512;
const FFN: usize = 768;
const LAYERS: usize = 2;
const VOCAB: usize = 64;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// A BitNet model of random weights, wide enough for both orders; `codes` are 3, or 4 with +2 among them.
fn write_model(path: &Path, codes: u64) {
    let (arch, mut random) = ("bitnet-b1.58", Random(20_261_124));
    let mut writer = GgufWriter::new();
    let number = |value: usize| Value::U32(value as u32);
    let pairs = [
        ("context_length", number(512)),
        ("embedding_length", number(HIDDEN)),
        ("block_count", number(LAYERS)),
        ("feed_forward_length", number(FFN)),
        ("attention.head_count", number(8)),
        ("attention.head_count_kv", number(4)),
        ("attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("rope.freq_base", Value::F32(10_000.0)),
        ("rope.dimension_count", number(64)),
        ("vocab_size", number(VOCAB)),
    ];
    let name = Value::String(arch.to_owned());
    writer.push("general.architecture", name).unwrap();
    for (key, value) in pairs {
        writer.push(&format!("{arch}.{key}"), value).unwrap();
    }
    let mut tensors = vec![("token_embd".to_owned(), VOCAB, HIDDEN)];
    for layer in 0..LAYERS {
        let parts = [
            ("attn_norm", 0, HIDDEN),
            ("attn_q", HIDDEN, HIDDEN),
            ("attn_k", HIDDEN / 2, HIDDEN),
            ("attn_v", HIDDEN / 2, HIDDEN),
            ("attn_sub_norm", 0, HIDDEN),
            ("attn_output", HIDDEN, HIDDEN),
            ("ffn_norm", 0, HIDDEN),
            ("ffn_gate", FFN, HIDDEN),
            ("ffn_up", FFN, HIDDEN),
            ("ffn_sub_norm", 0, FFN),
            ("ffn_down", HIDDEN, FFN),
        ];
        tensors.extend(parts.map(|(part, rows, cols)| (format!("blk.{layer}.{part}"), rows, cols)));
    }
    tensors.push(("output_norm".to_owned(), 0, HIDDEN));
    let dtype = |name: &str, rows: usize| match (name, rows) {
        ("token_embd", _) => DType::F16,
        (_, 0) => DType::F32,
        _ => DType::TQ2_0,
    };
    for (name, rows, cols) in &tensors {
        let shape: Vec<u64> = match rows {
            0 => vec![*cols as u64],
            rows => vec![*cols as u64, *rows as u64],
        };
        let name_of_file = format!("{name}.weight");
        writer
            .declare(&name_of_file, dtype(name, *rows), &shape)
            .unwrap();
    }
    let mut body = writer.start(File::create(path).unwrap()).unwrap();
    for (name, rows, cols) in &tensors {
        let mut bytes = Vec::new();
        match dtype(name, *rows) {
            DType::F32 => {
                for _ in 0..*cols {
                    bytes.extend_from_slice(&1.0f32.to_le_bytes());
                }
            }
            DType::F16 => {
                for _ in 0..rows * cols {
                    // Between 2^−5 and 2^−3, of either sign.
                    let half =
                        (0x2800 + random.below(0x800) as u16) | (random.next() as u16 & 0x8000);
                    bytes.extend_from_slice(&half.to_le_bytes());
                }
            }
            _ => {
                let values: Vec<u8> = (0..rows * cols)
                    .map(|_| random.below(codes) as u8)
                    .collect();
                let scales = vec![0.03125; cols / 256];
                for row in values.chunks_exact(*cols) {
                    encode::encode_ternary(DType::TQ2_0, row, &scales, &mut bytes);
                }
            }
        }
        body.tensor(&format!("{name}.weight"), &bytes).unwrap();
    }
    body.finish().unwrap();
}

fn bits(rows: &[Vec<f32>]) -> Vec<u32> {
    rows.iter().flatten().map(|logit| logit.to_bits()).collect()
}

#[test]
fn logits_are_those_of_the_dense_path() {
    let folder = tempfile::tempdir().unwrap();
    let prompt: Vec<u32> = (0..41).map(|index| index * 11 % VOCAB as u32).collect();
    let mut compared = 0;
    for codes in [3, 4] {
        let path = folder.path().join(format!("codes-{codes}.gguf"));
        write_model(&path, codes);
        let base = Setup {
            kv: KvDType::Int8,
            level: Level::Scalar,
            threads: 1,
            sparsity: false,
            ..Setup::exact(Activations::Int8)
        };
        let mut dense = Runner::load(&path, base);
        let names = dense.model.kernel_names();
        assert!(
            names.iter().all(|name| !name.contains("_gemv_")),
            "{names:?}"
        );
        let expected = bits(&dense.logits(&prompt));
        for level in Level::ALL.into_iter().filter(|level| level.supported()) {
            for threads in [1, 2, 3] {
                for chunk in [1, 2, 3, 13, 41] {
                    for batch in BatchLayout::ALL {
                        let setup = Setup {
                            level,
                            threads,
                            chunk,
                            sparsity: true,
                            options: KernelOptions {
                                batch: Some(batch),
                                prefetch: PrefetchManager::default(),
                            },
                            ..base
                        };
                        let mut sparse = Runner::load(&path, setup);
                        let names = sparse.model.kernel_names();
                        let has = |kernel: &str| names.iter().any(|name| name.contains(kernel));
                        assert!(has("_gemv_1x256_"), "{names:?}");
                        // Two blocks of 256 rows cannot be shared among three.
                        assert_eq!(has("_gemv_256x1_"), threads < 3, "{names:?}");
                        let got = bits(&sparse.logits(&prompt));
                        assert!(
                            got == expected,
                            "{codes} codes, {level}, {threads} threads, chunk {chunk}, {batch}"
                        );
                        compared += 1;
                    }
                }
            }
        }
    }
    assert!(compared >= 60, "only {compared} runs were compared");
}

#[test]
fn what_is_left_out_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    write_model(&path, 3);
    let setup = Setup {
        chunk: 1,
        ..Setup::exact(Activations::Int8)
    };
    let mut runner = Runner::load(&path, setup);
    runner.record();
    runner.logits(&[7]);
    for layer in runner.activity() {
        let (values, zeros) = (layer.values as usize, layer.zeros as usize);
        assert_eq!(values, FFN);
        assert!(zeros > FFN / 4 && zeros < 3 * FFN / 4, "{zeros} zeroes");
        // A row of up and a column of down, 2 bits a weight.
        let columns = layer.quantized_zeros as usize * HIDDEN / 4;
        let skipped = layer.skipped_bytes as usize;
        let rows = (skipped - columns) / (HIDDEN / 4);
        assert!(
            rows <= zeros && rows + 32 > zeros,
            "{rows} rows, {zeros} zeroes"
        );
    }
}

/// Half of the gates are positive: above a share of a quarter all rows are read, with the same logits.
#[test]
fn all_rows_are_read_where_a_list_does_not_pay() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    write_model(&path, 3);
    for level in Level::ALL.into_iter().filter(|level| level.supported()) {
        for threads in [1, 2] {
            let setup = Setup {
                level,
                threads,
                chunk: 1,
                ..Setup::exact(Activations::Int8)
            };
            let mut runner = Runner::load(&path, setup);
            let arena = Arena::new(ArenaConfig::default());
            let timers = runner.model.product_timers(&arena, 0, 1, 1).unwrap();
            let mut kinds = timers.iter().map(|timer| timer.kind().clone());
            let kind = kinds
                .find(|kind| kind.order == Some(LineOrder::Rows))
                .unwrap();
            assert_eq!((kind.rows, kind.cols), (FFN, HIDDEN));
            let mut run = |share: f32| {
                runner.model.set_listed_share(&kind, share);
                runner.record();
                let logits = bits(&runner.logits(&[7, 8]));
                let activity = runner.activity();
                let skipped = activity.iter().map(|layer| layer.skipped_bytes);
                (logits, skipped.sum::<u64>())
            };
            let (listed, skipped) = run(1.0);
            let (whole, of_columns) = run(0.25);
            assert_eq!(listed, whole, "{level}, {threads} threads");
            assert!(
                0 < of_columns && of_columns < skipped,
                "{of_columns} of {skipped} bytes were left out"
            );
            assert_eq!(run(0.75), (listed, skipped), "{level}, {threads} threads");
        }
    }
}

/// A third to two thirds of rows and columns count: with less than that as the share up to which leaving out pays, matrices lie
/// in tiles after 64 tokens, and with more they stay in their orders. Logits are the same throughout.
#[test]
fn matrices_that_leave_out_too_little_are_laid_out_as_tiles() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    write_model(&path, 3);
    let tokens: Vec<u32> = (0..90).map(|token| token * 7 % VOCAB as u32).collect();
    for level in Level::ALL.into_iter().filter(|level| level.supported()) {
        for threads in [1, 2] {
            let setup = Setup {
                level,
                threads,
                chunk: 1,
                ..Setup::exact(Activations::Int8)
            };
            let mut expected = None;
            // Of up and of down: how many matrices are laid out.
            for (shares, laid_out) in [
                ([1.0, 1.0], 0),
                ([0.9, 0.9], 0),
                ([0.1, 0.9], LAYERS),
                ([1.0, 0.1], LAYERS),
                ([0.1, 0.1], 2 * LAYERS),
            ] {
                let mut runner = Runner::load(&path, setup);
                let arena = Arena::new(ArenaConfig::default());
                let timers = runner.model.product_timers(&arena, 0, 1, 1).unwrap();
                for kind in timers.iter().map(|timer| timer.kind()) {
                    match kind.order {
                        Some(LineOrder::Rows) => runner.model.set_order_share(kind, shares[0]),
                        Some(LineOrder::Columns) => runner.model.set_order_share(kind, shares[1]),
                        None => {}
                    }
                }
                runner.renew();
                runner.record();
                let (mut logits, mut settled) = (Vec::new(), 0);
                for (start, &token) in tokens.iter().enumerate() {
                    logits.extend(runner.extend(&[token], start));
                    if start + 1 < 64 {
                        assert!(!runner.settle_order());
                        runner.activity();
                    } else {
                        settled += usize::from(runner.settle_order());
                    }
                }
                assert_eq!(settled, laid_out, "{level}, {threads} threads");
                runner.activity();
                logits.extend(runner.extend(&[3], tokens.len()));
                let activity = runner.activity();
                let skipped: u64 = activity.iter().map(|layer| layer.skipped_bytes).sum();
                assert_eq!(skipped == 0, laid_out == 2 * LAYERS, "{skipped} bytes");
                let logits = bits(&logits);
                assert_eq!(expected.get_or_insert_with(|| logits.clone()), &logits);
            }
        }
    }
}

/// What a measurement does to a model: some matrices lie in tiles meanwhile, and products of every way are made.
#[test]
fn a_model_that_was_measured_is_as_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    write_model(&path, 3);
    for threads in [1, 2] {
        let setup = Setup {
            threads,
            chunk: 1,
            ..Setup::exact(Activations::Int8)
        };
        let mut runner = Runner::load(&path, setup);
        let expected = bits(&runner.logits(&[7, 8]));
        let arena = Arena::new(ArenaConfig::default());
        let mut timers = runner.model.product_timers(&arena, 0, 1, 3).unwrap();
        let mut ordered = 0;
        for timer in &mut timers {
            for tokens in [1, 3] {
                let time = runner.model.time_products(&runner.lease, timer, tokens);
                assert!(!time.unwrap().is_zero());
            }
            if timer.kind().order.is_none() {
                continue;
            }
            ordered += 1;
            assert_eq!(timer.matrices(), LAYERS);
            let (model, lease) = (&mut runner.model, &runner.lease);
            model.lay_out(lease, timer, 0..1, true, &arena).unwrap();
            for window in [0..1, 1..2] {
                timer.restrict(window);
                assert!(!model.time_products(lease, timer, 1).unwrap().is_zero());
            }
            for counting in [Counting::All, Counting::Half] {
                let time = model.time_counting(lease, timer, counting);
                assert!(!time.unwrap().is_zero());
            }
            // In tiles, too, a step gives the same.
            assert_eq!(bits(&runner.logits(&[7, 8])), expected);
            let (model, lease) = (&mut runner.model, &runner.lease);
            model.lay_out(lease, timer, 0..1, false, &arena).unwrap();
        }
        assert_eq!(ordered, 2);
        runner.record();
        assert_eq!(bits(&runner.logits(&[7, 8])), expected);
        let skipped = runner
            .activity()
            .iter()
            .all(|layer| layer.skipped_bytes > 0);
        assert!(skipped, "every layer leaves something out again");
    }
}

#[test]
fn activations_that_are_not_whole_integers_read_everything() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    write_model(&path, 3);
    for activations in [Activations::F32, Activations::Int8Group] {
        let runner = Runner::load(&path, Setup::exact(activations));
        let names = runner.model.kernel_names();
        assert!(
            names.iter().all(|name| !name.contains("_gemv_")),
            "{names:?}"
        );
    }
}
