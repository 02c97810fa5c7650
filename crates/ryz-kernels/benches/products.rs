//! Every row of the kernel table on the shapes of real models, decode and prefill, beside the machine's read
//! bandwidth. Each product is checked against the reference before it is timed and again afterwards.
//!
//! Decode walks a set of matrices larger than the last-level cache, as a model does: throughput is bytes of weights a
//! second, to be compared with `read/96MiB`. Prefill's throughput is multiply-accumulates a second.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout)] // helpers of tests, too

#[path = "products/heads.rs"]
mod heads;

use std::{hint::black_box, time::Duration};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ryz_format::{DType, TensorView};
use ryz_kernels::{
    ActivationView, DenseWeight, Kernels, Level, Line, LineOrder, Linear, PackedTernary, Packing,
    QuantizedActivations, QuantizedLayout, SparseTernary,
};
use ryz_tmac::{Arena, ArenaConfig, BufferKind, MatMut, MatRef};

/// Rows × columns of projections: of BitNet b1.58 2B-4T, Ternary Bonsai 1.7B and 8B, and the model of the package.
const SHAPES: [(usize, usize); 9] = [
    (2560, 2560),
    (6912, 2560),
    (2560, 6912),
    (6144, 2048),
    (2048, 6144),
    (12288, 4096),
    (4096, 12288),
    (768, 256),
    (256, 768),
];
/// Bytes of weights that decode walks: far more than caches hold.
const STREAMED: usize = 96 << 20;

fn levels() -> impl Iterator<Item = Kernels> {
    Level::ALL
        .into_iter()
        .filter_map(|level| match Kernels::new(level) {
            Ok(kernels) => Some(kernels),
            Err(_) => {
                eprintln!("level {level}: not run here");
                None
            }
        })
}

fn random_bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Random blocks with modest scales; `vary` gives every block its own, so that they stay group scales.
fn blocks(dtype: DType, rows: usize, cols: usize, seed: u64, vary: bool) -> Vec<u8> {
    let mut bytes = random_bytes(rows * dtype.row_bytes(cols).expect("whole blocks"), seed);
    let halves: &[usize] = match dtype {
        DType::TQ2_0 => &[64],
        DType::Q6K => &[208],
        DType::Q4K | DType::Q5K => &[0, 2],
        DType::Q3K => &[108],
        DType::Q2K => &[80, 82],
        DType::Q2_0G64 | DType::Q2_0G128 | DType::Q8_0 => &[0],
        DType::F16 => &[0],
        DType::BF16 | DType::F32 => &[],
        _ => unreachable!("not benched"),
    };
    for (index, block) in bytes.chunks_exact_mut(dtype.block_bytes()).enumerate() {
        if dtype.is_ternary() {
            // No code 3: it takes the other integer row.
            block
                .iter_mut()
                .for_each(|byte| *byte &= !(*byte >> 1 & *byte & 0x55));
        }
        for &at in halves {
            let half = if vary {
                0x2c00 | (index * 7 % 1000) as u16
            } else {
                0x2c00
            };
            block[at..at + 2].copy_from_slice(&half.to_le_bytes());
        }
        // Floats of a modest exponent.
        match dtype {
            DType::BF16 => block[1] = block[1] & 0x80 | 0x3c,
            DType::F32 => block[3] = block[3] & 0x80 | 0x3c,
            _ => {}
        }
    }
    bytes
}

fn linear(
    arena: &Arena,
    dtype: DType,
    rows: usize,
    cols: usize,
    seed: u64,
    vary: bool,
    kernels: Kernels,
) -> Linear {
    let bytes = blocks(dtype, rows, cols, seed, vary);
    if dtype.is_ternary() {
        let view = TensorView::new("bench", dtype, rows, cols, &bytes).expect("whole blocks");
        return Linear::Ternary(PackedTernary::pack(&view, kernels, arena).expect("packs"));
    }
    let mut buffer = arena
        .allocate(bytes.len(), BufferKind::Weights)
        .expect("memory");
    buffer.as_bytes_mut().copy_from_slice(&bytes);
    Linear::Dense(DenseWeight::new("bench", dtype, rows, cols, buffer, kernels).expect("fits"))
}

fn activations(tokens: usize, cols: usize) -> Vec<f32> {
    let bytes = random_bytes(4 * tokens * cols, 3);
    bytes
        .chunks_exact(4)
        .map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]]) as f32 * 1e-9)
        .collect()
}

/// What a product reads.
enum Input {
    F32(Vec<f32>, usize),
    I8(QuantizedActivations, usize),
}

impl Input {
    fn new(
        arena: &Arena,
        kernels: Kernels,
        tokens: usize,
        cols: usize,
        group: Option<Option<usize>>,
    ) -> Self {
        let x = activations(tokens, cols);
        let Some(group) = group else {
            return Self::F32(x, cols);
        };
        let layout = group.map_or(QuantizedLayout::per_token(cols), |group| {
            QuantizedLayout::per_group(cols, group)
        });
        let mut rows = QuantizedActivations::new(layout, tokens, arena).expect("memory");
        for (token, x) in x.chunks_exact(cols).enumerate() {
            kernels.quantize_row(layout, x, rows.row_mut(token));
        }
        Self::I8(rows, tokens)
    }

    fn view(&self) -> ActivationView<'_> {
        match self {
            Self::F32(x, cols) => ActivationView::F32(MatRef::from_slice(x, *cols)),
            Self::I8(rows, tokens) => ActivationView::I8(rows.rows(*tokens)),
        }
    }
}

fn product(weights: &Linear, input: &Input, scratch: &mut [Line], out: &mut [f32]) {
    weights.matmul(
        0..weights.rows(),
        input.view(),
        scratch,
        MatMut::from_slice(out, weights.rows()),
    );
}

/// The reference's result on the first tokens and rows.
fn check(
    weights: &Linear,
    reference: &Linear,
    input: &Input,
    scratch: &mut [Line],
    out: &mut [f32],
) {
    product(weights, input, scratch, out);
    let mut expected = vec![0.0; 64 * input.view().tokens()];
    reference.matmul(
        0..64,
        input.view(),
        scratch,
        MatMut::from_slice(&mut expected, 64),
    );
    for (got, expected) in out
        .chunks_exact(weights.rows())
        .zip(expected.chunks_exact(64))
    {
        assert_eq!(&got[..64], expected, "{}", weights.kernel_name(true));
    }
}

fn read_bandwidth(c: &mut Criterion) {
    let arena = Arena::new(ArenaConfig::default());
    let mut buffer = arena
        .allocate(STREAMED, BufferKind::Scratch)
        .expect("memory");
    buffer.as_bytes_mut().fill(1);
    let mut group = c.benchmark_group("read");
    group.throughput(Throughput::Bytes(STREAMED as u64));
    group.bench_function("96MiB", |b| {
        b.iter(|| {
            let mut sums = [0u64; 32];
            for chunk in buffer.as_slice::<u64>().as_chunks::<32>().0 {
                for (sum, value) in sums.iter_mut().zip(chunk) {
                    *sum = sum.wrapping_add(*value);
                }
            }
            black_box(sums)
        });
    });
    group.finish();
}

/// The shapes on which a type is measured: dense projections on one model's, dense heads in a file of their own.
fn shapes(dtype: DType) -> &'static [(usize, usize)] {
    if dtype.is_ternary() {
        &SHAPES
    } else {
        &SHAPES[..3]
    }
}

/// The cases: type, whether its scales vary, packing, and activations (none: f32).
type Case = (&'static str, DType, bool, Packing, Option<Option<usize>>);

const CASES: [Case; 12] = [
    (
        "t2_tensor_i8",
        DType::TQ2_0,
        false,
        Packing::TwoBits,
        Some(None),
    ),
    (
        "t1.6_tensor_i8",
        DType::TQ2_0,
        false,
        Packing::Base3,
        Some(None),
    ),
    (
        "t2_g128_i8",
        DType::Q2_0G128,
        true,
        Packing::TwoBits,
        Some(None),
    ),
    (
        "t2_g128_i8g128",
        DType::Q2_0G128,
        true,
        Packing::TwoBits,
        Some(Some(128)),
    ),
    (
        "t1.6_g128_i8g128",
        DType::Q2_0G128,
        true,
        Packing::Base3,
        Some(Some(128)),
    ),
    (
        "t2_g64_i8g64",
        DType::Q2_0G64,
        true,
        Packing::TwoBits,
        Some(Some(64)),
    ),
    ("t2_tensor_f32", DType::TQ2_0, false, Packing::TwoBits, None),
    ("q8_0_f32", DType::Q8_0, true, Packing::TwoBits, None),
    ("q6_k_f32", DType::Q6K, true, Packing::TwoBits, None),
    ("q4_k_f32", DType::Q4K, true, Packing::TwoBits, None),
    ("f16_f32", DType::F16, false, Packing::TwoBits, None),
    ("bf16_f32", DType::BF16, false, Packing::TwoBits, None),
];

fn decode(c: &mut Criterion) {
    let arena = Arena::new(ArenaConfig::default());
    for (case, dtype, vary, packing, activation) in CASES {
        for &(rows, cols) in shapes(dtype) {
            let mut group = c.benchmark_group(format!("decode/{case}/{rows}x{cols}"));
            let scalar = Kernels::new(Level::Scalar).expect("here");
            let mut reference = linear(&arena, dtype, rows, cols, 1, vary, scalar);
            reference.repack(packing);
            let count = STREAMED.div_ceil(reference.packed_bytes());
            // Packed at the first measurement, so that those that are filtered out cost nothing.
            let mut model = Vec::new();
            for kernels in levels() {
                let input = Input::new(&arena, kernels, 1, cols, activation);
                let mut out = vec![0.0; rows];
                let mut scratch = vec![Line([0; 64]); reference.scratch_lines()];
                group.throughput(Throughput::Bytes((count * reference.packed_bytes()) as u64));
                group.bench_function(BenchmarkId::from_parameter(kernels.level()), |b| {
                    if model.is_empty() {
                        model.extend((0..count).map(|_| {
                            let mut weights = linear(&arena, dtype, rows, cols, 1, vary, scalar);
                            weights.repack(packing);
                            weights
                        }));
                    }
                    model
                        .iter_mut()
                        .for_each(|weights| weights.set_kernels(kernels));
                    check(&model[0], &reference, &input, &mut scratch, &mut out);
                    b.iter(|| {
                        model
                            .iter()
                            .for_each(|weights| product(weights, &input, &mut scratch, &mut out))
                    });
                    check(
                        &model[count - 1],
                        &reference,
                        &input,
                        &mut scratch,
                        &mut out,
                    );
                });
            }
            group.finish();
        }
    }
}

fn prefill(c: &mut Criterion) {
    const TOKENS: usize = 128;
    let arena = Arena::new(ArenaConfig::default());
    for (case, dtype, vary, packing, activation) in CASES {
        for &(rows, cols) in shapes(dtype) {
            let mut group = c.benchmark_group(format!("prefill{TOKENS}/{case}/{rows}x{cols}"));
            group.throughput(Throughput::Elements((rows * cols * TOKENS) as u64));
            for kernels in levels() {
                group.bench_function(BenchmarkId::from_parameter(kernels.level()), |b| {
                    let mut weights = linear(&arena, dtype, rows, cols, 1, vary, kernels);
                    weights.repack(packing);
                    let mut reference = linear(&arena, dtype, rows, cols, 1, vary, kernels);
                    reference.set_kernels(Kernels::new(Level::Scalar).expect("here"));
                    let input = Input::new(&arena, kernels, TOKENS, cols, activation);
                    let mut out = vec![0.0; rows * TOKENS];
                    let mut scratch = vec![Line([0; 64]); weights.scratch_lines()];
                    check(&weights, &reference, &input, &mut scratch, &mut out);
                    b.iter(|| product(&weights, &input, &mut scratch, &mut out));
                    check(&weights, &reference, &input, &mut scratch, &mut out);
                });
            }
            group.finish();
        }
    }
}

/// Products that leave columns out, by the share of columns that count, beside the packed matrix; and those of rows. Bytes are those
/// of the whole matrix, so that throughput tells how much faster a product is, not how fast memory is read.
fn sparse(c: &mut Criterion) {
    let arena = Arena::new(ArenaConfig::default());
    let dtype = DType::TQ2_0;
    let scalar = Kernels::new(Level::Scalar).expect("here");
    for (order, rows, cols) in [
        (None, 2560, 6912),
        (Some(LineOrder::Columns), 2560, 6912),
        (Some(LineOrder::Rows), 6912, 2560),
    ] {
        let make = |kernels| {
            let weights = linear(&arena, dtype, rows, cols, 1, false, kernels);
            match (order, weights) {
                (Some(order), Linear::Ternary(packed)) => {
                    let sparse = SparseTernary::new(packed, order, &arena).expect("memory");
                    Linear::Sparse(sparse.expect("the shape fits"))
                }
                (_, weights) => weights,
            }
        };
        let reference = make(scalar);
        let count = STREAMED.div_ceil(reference.packed_bytes());
        let mut model: Vec<Linear> = (0..count).map(|_| make(scalar)).collect();
        for tokens in [1, 2, 3, 8, 16, 64, 512] {
            for active in [100, 33, 10] {
                if active < 100 && (tokens > 3 || order != Some(LineOrder::Columns)) {
                    continue;
                }
                let name = match order {
                    None => "tiles".to_owned(),
                    Some(order) => format!("{order:?}").to_lowercase(),
                };
                let name = format!("sparse/{name}/{rows}x{cols}/{active}%/{tokens} tokens");
                let mut group = c.benchmark_group(name);
                group.throughput(Throughput::Bytes((count * reference.packed_bytes()) as u64));
                let mut x = activations(tokens, cols);
                for (place, x) in x.iter_mut().enumerate() {
                    if place * 7919 % 100 >= active {
                        *x = 0.0;
                    }
                }
                for kernels in levels() {
                    let layout = QuantizedLayout::per_token(cols);
                    let mut rows_of =
                        QuantizedActivations::new(layout, tokens, &arena).expect("memory");
                    for (token, x) in x.chunks_exact(cols).enumerate() {
                        kernels.quantize_row(layout, x, rows_of.row_mut(token));
                    }
                    let input = Input::I8(rows_of, tokens);
                    let mut out = vec![0.0; rows * tokens];
                    let mut scratch = vec![Line([0; 64]); reference.scratch_lines()];
                    group.bench_function(BenchmarkId::from_parameter(kernels.level()), |b| {
                        model
                            .iter_mut()
                            .for_each(|weights| weights.set_kernels(kernels));
                        let mut expected = vec![0.0; rows * tokens];
                        product(&reference, &input, &mut scratch, &mut expected);
                        product(&model[0], &input, &mut scratch, &mut out);
                        assert_eq!(out, expected, "{}", model[0].kernel_name(true));
                        b.iter(|| {
                            for weights in &model {
                                product(weights, &input, &mut scratch, &mut out);
                            }
                        });
                        assert_eq!(out, expected, "{}", model[0].kernel_name(true));
                    });
                }
                group.finish();
            }
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = read_bandwidth, decode, heads::heads, prefill, sparse
}
criterion_main!(benches);
