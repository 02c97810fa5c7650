//! Output matrices of real models in every type that heads come in, with one token and with eight; and those products by which rows of
//! K types are screened.
//!
//! Each is larger than caches hold, but for the small story model's. Rows at both ends are compared with the reference before and
//! after the measurement.

use std::ops::Range;

use criterion::{BenchmarkId, Criterion, Throughput};
use ryz_format::DType;
use ryz_kernels::{DenseWeight, Kernels, Level, Line, Linear, PreparedInput};
use ryz_tmac::{Arena, ArenaConfig, MatMut};

use super::{Input, levels, linear};

/// The vocabulary and hidden size of models.
const HEADS: [(&str, usize, usize); 4] = [
    ("bitnet-2b", 128_256, 2560),
    ("bonsai-1.7b", 151_936, 2048),
    ("bonsai-8b", 151_936, 4096),
    ("tales-6m", 4096, 256),
];
const TYPES: [DType; 9] = [
    DType::F32,
    DType::F16,
    DType::BF16,
    DType::Q8_0,
    DType::Q6K,
    DType::Q5K,
    DType::Q4K,
    DType::Q3K,
    DType::Q2K,
];
const TOKENS: [usize; 2] = [1, 8];
/// Rows at either end that are checked.
const CHECKED: usize = 24;

/// A product of some rows, exact or coarse.
fn multiply(
    weights: &Linear,
    coarse: bool,
    rows: Range<usize>,
    input: &Input,
    scratch: &mut [Line],
    out: &mut [f32],
) {
    let out = MatMut::from_slice(out, rows.len());
    match weights {
        Linear::Dense(weights) if coarse => {
            weights.matmul_coarse(
                rows,
                input.view(),
                scratch,
                &mut PreparedInput::default(),
                out,
            );
        }
        _ => weights.matmul(rows, input.view(), scratch, out),
    }
}

/// Asserts that both ends of `out` are the reference's.
fn check(
    weights: &mut Linear,
    coarse: bool,
    kernels: Kernels,
    input: &Input,
    scratch: &mut [Line],
    out: &[f32],
) {
    let rows = weights.rows();
    weights.set_kernels(Kernels::new(Level::Scalar).expect("here"));
    for range in [0..CHECKED, rows - CHECKED..rows] {
        let mut expected = vec![0.0; CHECKED * input.view().tokens()];
        multiply(
            weights,
            coarse,
            range.clone(),
            input,
            scratch,
            &mut expected,
        );
        for (got, expected) in out.chunks_exact(rows).zip(expected.chunks_exact(CHECKED)) {
            assert_eq!(&got[range.clone()], expected, "rows {range:?}");
        }
    }
    weights.set_kernels(kernels);
}

pub fn heads(c: &mut Criterion) {
    let arena = Arena::new(ArenaConfig::default());
    for (model, rows, cols) in HEADS {
        for dtype in TYPES {
            // Made at the first measurement, so that those that are filtered out cost nothing.
            let mut made = None;
            let ways = [(false, ""), (true, " coarse")];
            let ways = ways
                .into_iter()
                .filter(|(coarse, _)| !coarse || DenseWeight::has_coarse(dtype));
            for (tokens, (coarse, way)) in TOKENS
                .into_iter()
                .flat_map(|tokens| ways.clone().map(move |way| (tokens, way)))
            {
                let name = format!("head/{model}/{dtype}{way}/{rows}x{cols}/{tokens} tokens");
                let mut group = c.benchmark_group(name);
                let bytes = rows * dtype.row_bytes(cols).expect("whole blocks");
                group.throughput(Throughput::Bytes(bytes as u64));
                for kernels in levels() {
                    let id = BenchmarkId::from_parameter(kernels.level());
                    group.bench_function(id, |b| {
                        let weights = made.get_or_insert_with(|| {
                            linear(&arena, dtype, rows, cols, 1, true, kernels)
                        });
                        weights.set_kernels(kernels);
                        let input = Input::new(&arena, kernels, tokens, cols, None);
                        let mut out = vec![0.0; rows * tokens];
                        let mut scratch = vec![Line([0; 64]); weights.scratch_lines()];
                        multiply(weights, coarse, 0..rows, &input, &mut scratch, &mut out);
                        check(weights, coarse, kernels, &input, &mut scratch, &out);
                        b.iter(|| {
                            multiply(weights, coarse, 0..rows, &input, &mut scratch, &mut out)
                        });
                        check(weights, coarse, kernels, &input, &mut scratch, &out);
                    });
                }
                group.finish();
            }
        }
    }
}
