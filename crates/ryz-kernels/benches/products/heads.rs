//! Output matrices of real models in every type that heads come in, with one token and with eight.
//!
//! Each is larger than caches hold, but for the small story model's. Rows at both ends are compared with the reference before and
//! after the measurement.

use criterion::{BenchmarkId, Criterion, Throughput};
use ryz_format::DType;
use ryz_kernels::{Kernels, Level, Line, Linear};
use ryz_tmac::{Arena, ArenaConfig, MatMut};

use super::{Input, levels, linear, product};

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

/// Asserts that both ends of `out` are the reference's.
fn check(weights: &mut Linear, kernels: Kernels, input: &Input, scratch: &mut [Line], out: &[f32]) {
    let rows = weights.rows();
    weights.set_kernels(Kernels::new(Level::Scalar).expect("here"));
    for range in [0..CHECKED, rows - CHECKED..rows] {
        let mut expected = vec![0.0; CHECKED * input.view().tokens()];
        let whole = MatMut::from_slice(&mut expected, CHECKED);
        weights.matmul(range.clone(), input.view(), scratch, whole);
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
            for tokens in TOKENS {
                let name = format!("head/{model}/{dtype}/{rows}x{cols}/{tokens} tokens");
                let mut group = c.benchmark_group(name);
                let bytes = rows * dtype.row_bytes(cols).expect("whole blocks");
                group.throughput(Throughput::Bytes(bytes as u64));
                for kernels in levels() {
                    let row = linear(&arena, dtype, 1, cols, 1, true, kernels);
                    let id = BenchmarkId::from_parameter(row.kernel_name(false));
                    group.bench_function(id, |b| {
                        let weights = made.get_or_insert_with(|| {
                            linear(&arena, dtype, rows, cols, 1, true, kernels)
                        });
                        weights.set_kernels(kernels);
                        let input = Input::new(&arena, kernels, tokens, cols, None);
                        let mut out = vec![0.0; rows * tokens];
                        let mut scratch = vec![Line([0; 64]); weights.scratch_lines()];
                        product(weights, &input, &mut scratch, &mut out);
                        check(weights, kernels, &input, &mut scratch, &out);
                        b.iter(|| product(weights, &input, &mut scratch, &mut out));
                        check(weights, kernels, &input, &mut scratch, &out);
                    });
                }
                group.finish();
            }
        }
    }
}
