//! A seeded generator, blocks of every type, and the levels of this machine.
#![allow(dead_code, reason = "each test binary uses a part")]

use half::f16;
use ryz_format::DType;
use ryz_kernels::{
    ActivationView, Kernels, Level, Line, Linear, QuantizedActivations, QuantizedLayout,
};
use ryz_tmac::{Arena, ArenaConfig, MatMut, MatRef};

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        ((self.next() >> 32) as usize * limit) >> 32
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// Between −1 and 1.
    pub fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    }

    pub fn floats(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.float()).collect()
    }

    /// A finite half: ordinary, subnormal, zero or of the largest; either sign.
    pub fn scale(&mut self) -> u16 {
        let sign = (self.next() as u16) & 0x8000;
        sign | match self.below(16) {
            0 => 0,
            1 => 1 + self.below(0x3ff) as u16,
            2 => 0x7bff,
            _ => 0x2000 + self.below(0x1c00) as u16,
        }
    }
}

/// The seed of a sweep, printed so that a failure can be repeated: `RYZ_TEST_SEED` sets it.
pub fn seed(name: &str) -> Random {
    let seed = std::env::var("RYZ_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or(20_261_123);
    println!("{name}: RYZ_TEST_SEED={seed}");
    Random(seed)
}

/// The levels of this machine but the reference; says which are missing.
pub fn levels() -> Vec<Kernels> {
    let mut levels = Vec::new();
    for level in Level::ALL
        .into_iter()
        .filter(|&level| level != Level::Scalar)
    {
        match Kernels::new(level) {
            Ok(kernels) => levels.push(kernels),
            Err(error) => println!("SKIPPED: {error}"),
        }
    }
    for kernels in &levels {
        println!("rows: {}", kernels.names().join(", "));
        assert!(
            kernels
                .names()
                .iter()
                .all(|name| name.ends_with(&format!("_{}", kernels.level())))
        );
    }
    levels
}

pub fn scalar() -> Kernels {
    Kernels::new(Level::Scalar).unwrap()
}

pub fn arena() -> Arena {
    Arena::new(ArenaConfig::default())
}

pub const TERNARY: [DType; 8] = [
    DType::I2S,
    DType::TQ1_0,
    DType::TQ2_0,
    DType::Q2_0G64,
    DType::Q2_0G128,
    DType::Q1_0,
    DType::PQ2_0,
    DType::PTQ1_0,
];

/// Where the fp16 scale is in a ternary block.
pub fn scale_at(dtype: DType) -> Option<usize> {
    match dtype {
        DType::TQ1_0 => Some(52),
        DType::TQ2_0 => Some(64),
        DType::PTQ1_0 => Some(26),
        DType::I2S => None,
        _ => Some(0),
    }
}

/// How the scales of random ternary blocks are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScaleRule {
    Same,
    PerRow,
    Any,
}

/// Random ternary blocks: codes below `codes` (all 2 and all 0 at times), scales by rule.
pub fn ternary_blocks(
    random: &mut Random,
    dtype: DType,
    rows: usize,
    cols: usize,
    codes: u8,
    rule: ScaleRule,
) -> Vec<u8> {
    let row_bytes = dtype.row_bytes(cols).unwrap();
    let mut bytes = vec![0; rows * row_bytes];
    let at = scale_at(dtype);
    let tensor = random.scale();
    for row in bytes.chunks_exact_mut(row_bytes) {
        let of_row = random.scale();
        for block in row.chunks_exact_mut(dtype.block_bytes()) {
            let constant = (random.below(4) == 0).then(|| random.pick(&[0, codes - 1]));
            for byte in block.iter_mut() {
                *byte = if matches!(dtype, DType::TQ1_0 | DType::PTQ1_0 | DType::Q1_0) {
                    random.next() as u8
                } else {
                    (0..4).fold(0, |byte, _| {
                        byte << 2 | constant.unwrap_or_else(|| random.below(codes.into()) as u8)
                    })
                };
            }
            let scale = match rule {
                ScaleRule::Same => tensor,
                ScaleRule::PerRow => of_row,
                ScaleRule::Any => random.scale(),
            };
            if let Some(at) = at {
                block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
            }
        }
    }
    bytes
}

/// Random blocks of a dense type, with finite scales.
pub fn dense_blocks(random: &mut Random, dtype: DType, rows: usize, cols: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..rows * dtype.row_bytes(cols).unwrap())
        .map(|_| random.next() as u8)
        .collect();
    let halves: &[usize] = match dtype {
        DType::Q4_0 | DType::Q5_0 | DType::Q8_0 | DType::F16 => &[0],
        DType::Q4_1 | DType::Q5_1 | DType::Q4K | DType::Q5K => &[0, 2],
        DType::Q2K => &[80, 82],
        DType::Q3K => &[108],
        DType::Q6K => &[208],
        _ => &[],
    };
    for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
        for &at in halves {
            block[at..at + 2].copy_from_slice(&random.scale().to_le_bytes());
        }
        match dtype {
            DType::F32 => block.copy_from_slice(&random.float().to_le_bytes()),
            DType::BF16 => block.copy_from_slice(&random.float().to_le_bytes()[2..]),
            _ => {}
        }
    }
    bytes
}

/// Activations that reach the ends: rows of ±127 after quantisation, zeroes, tiny and large ones.
pub fn activations(random: &mut Random, tokens: usize, cols: usize) -> Vec<f32> {
    let mut x = Vec::with_capacity(tokens * cols);
    for _ in 0..tokens {
        let kind = random.below(6);
        let sign = random.pick(&[-1.0, 1.0]);
        x.extend((0..cols).map(|i| match kind {
            0 => 127.0 * sign,
            1 => 0.0,
            2 => {
                if i % 2 == 0 {
                    -64.0
                } else {
                    64.0
                }
            }
            3 => random.float() * 1e-6,
            _ => random.float() * 4.0,
        }));
    }
    x
}

/// Quantised rows whose values are −128 where asked: the widest operands that an integer kernel may meet.
pub fn quantized(
    kernels: Kernels,
    layout: QuantizedLayout,
    x: &[f32],
    arena: &Arena,
) -> QuantizedActivations {
    let tokens = x.len() / layout.cols();
    let mut rows = QuantizedActivations::new(layout, tokens, arena).unwrap();
    for (token, x) in x.chunks_exact(layout.cols()).enumerate() {
        kernels.quantize_row(layout, x, rows.row_mut(token));
    }
    rows
}

/// The whole product.
pub fn product(weights: &Linear, x: ActivationView<'_>) -> Vec<f32> {
    let mut out = vec![f32::NAN; x.tokens() * weights.rows()];
    let mut scratch = vec![Line([0; 64]); weights.scratch_lines()];
    weights.matmul(
        0..weights.rows(),
        x,
        &mut scratch,
        MatMut::from_slice(&mut out, weights.rows()),
    );
    out
}

pub fn f32_view(x: &[f32], cols: usize) -> ActivationView<'_> {
    ActivationView::F32(MatRef::from_slice(x, cols))
}

/// Equal bit for bit; any NaN equals any other.
#[track_caller]
pub fn assert_same(got: &[f32], expected: &[f32], what: impl Fn() -> String) {
    assert_eq!(got.len(), expected.len(), "{}", what());
    for (i, (a, b)) in got.iter().zip(expected).enumerate() {
        let same = a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
        assert!(same, "{}: element {i}: got {a:e}, expected {b:e}", what());
    }
}

/// A half from a float.
pub fn half_bits(x: f32) -> [u8; 2] {
    f16::from_f32(x).to_le_bytes()
}
