use proptest::prelude::*;
use ryz_format::encode;
use ryz_kernels::{ActivationView, Level};
use ryz_numa::{LeaseOptions, Topology};
use ryz_tmac::{ArenaConfig, MatMut, MatRef};

use super::*;

/// A head of these rows in `dtype`, and its image.
fn head(rows: &[Vec<f32>], dtype: DType, level: Level) -> (Linear, Option<HeadImage>) {
    let arena = Arena::new(ArenaConfig::default());
    let kernels = Kernels::new(level).unwrap();
    let mut bytes = Vec::new();
    for row in rows {
        encode::encode_floats(dtype, row, &mut bytes);
    }
    let mut blocks = arena.allocate(bytes.len(), BufferKind::Weights).unwrap();
    blocks.as_bytes_mut().copy_from_slice(&bytes);
    let dense = DenseWeight::new("head", dtype, rows.len(), rows[0].len(), blocks, kernels);
    let head = Linear::Dense(dense.unwrap());
    let options = LeaseOptions {
        threads: Some(2),
        ..LeaseOptions::default()
    };
    let lease = Lease::on(Topology::synthetic("core:2 pu:1").unwrap(), options).unwrap();
    let image = HeadImage::new(&head, HeadScreening::Always, kernels, &arena, None, &lease);
    (head, image.unwrap())
}

/// The copy of a float head.
fn copy<'a>(head: &'a Linear, image: &'a HeadImage) -> &'a Linear {
    assert!(!image.is_head());
    image.matrix(head)
}

fn logits(weight: &Linear, x: &[f32]) -> Vec<f32> {
    let mut out = vec![0.0; weight.rows()];
    let x = ActivationView::F32(MatRef::from_slice(x, x.len()));
    let rows = weight.rows();
    weight.matmul(0..rows, x, &mut [], MatMut::from_slice(&mut out, rows));
    out
}

/// Ids by descending logit, ties by ascending id.
fn best(logits: &[f32]) -> Vec<usize> {
    let mut ids: Vec<usize> = (0..logits.len()).collect();
    ids.sort_by(|&a, &b| logits[b].partial_cmp(&logits[a]).unwrap().then(a.cmp(&b)));
    ids
}

/// Checks the bounds of all rows; returns the largest ratio of a difference to its bound.
fn check(head: &Linear, image: &HeadImage, x: &[f32]) -> f64 {
    let norm = image.norm(head, x);
    assert!(norm.is_finite(), "{norm}");
    let (exact, near) = (logits(head, x), logits(copy(head, image), x));
    let mut used = 0.0f64;
    for row in 0..exact.len() {
        let difference = (f64::from(exact[row]) - f64::from(near[row])).abs();
        let width = f64::from(image.width(row, norm));
        assert!(difference <= width, "row {row}: {difference} > {width}");
        assert!(exact[row] <= image.upper(row, norm, near[row]), "row {row}");
        used = used.max(difference / width);
    }
    for group in [1, GROUP] {
        let count = exact.len().div_ceil(group);
        let (mut lower, mut upper) = (vec![0.0; count], vec![0.0; count]);
        let image = HeadImageOf { group, image };
        image.bounds(norm, &near, &mut lower, &mut upper);
        for (index, rows) in exact.chunks(group).enumerate() {
            let most = rows.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert!(
                lower[index] <= most && most <= upper[index],
                "group {index}"
            );
        }
        for needed in [1, 2, count / 2, count].map(|needed| needed.max(1)) {
            let threshold = image.threshold(&lower, &upper, needed);
            for &row in best(&exact).iter().take(needed) {
                assert!(upper[row / group] >= threshold, "group of row {row}");
                let upper = image.image.upper(row, norm, near[row]);
                assert!(upper >= threshold, "row {row} of {needed}");
            }
        }
    }
    used
}

/// An image with a different group size.
struct HeadImageOf<'a> {
    group: usize,
    image: &'a HeadImage,
}

impl HeadImageOf<'_> {
    fn bounds(&self, norm: f32, logits: &[f32], lower: &mut [f32], upper: &mut [f32]) {
        let errors = &self.image.errors;
        group_bounds(self.group, errors, norm, logits, lower, upper);
    }

    fn threshold(&self, lower: &[f32], upper: &[f32], needed: usize) -> f32 {
        self.image.threshold(&mut lower.to_vec(), upper, needed)
    }
}

/// The instruction levels that this machine supports.
fn levels() -> impl Iterator<Item = Level> {
    Level::ALL.into_iter().filter(|level| level.supported())
}

const FLOATS: [DType; 3] = [DType::F16, DType::BF16, DType::F32];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn bounds_hold_for_any_numbers(
        seed in any::<u64>(),
        (rows, blocks) in (1usize..40, 1usize..9),
        (weight_scale, x_scale) in (-12i32..4, -40i32..20),
        dtype in 0usize..3,
        spread in 0i32..12,
    ) {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            ((state >> 40) as f64 / f64::from(1 << 23) - 1.0) as f32
        };
        let mut values = |count: usize, scale: i32| -> Vec<f32> {
            let one = |_| {
                let size = scale - (next().abs() * spread as f32) as i32;
                next() * (size as f32).exp2()
            };
            (0..count).map(one).collect()
        };
        let cols = 32 * blocks;
        let weights: Vec<Vec<f32>> = (0..rows).map(|_| values(cols, weight_scale)).collect();
        for level in levels() {
            let (head, image) = head(&weights, FLOATS[dtype], level);
            let image = image.unwrap();
            check(&head, &image, &values(cols, x_scale));
        }
    }
}

/// Hidden states parallel to a row's error are the worst case: they nearly reach the bound.
#[test]
fn the_worst_hidden_states_stay_within_the_bounds() {
    for dtype in FLOATS {
        let cols = 256;
        let row = |seed: usize| (0..cols).map(move |c| ((c * c * 31 + seed * 977) as f32).sin());
        let weights: Vec<Vec<f32>> = (0..20).map(|seed| row(seed).collect()).collect();
        for level in levels() {
            let (head, image) = head(&weights, dtype, level);
            let image = image.unwrap();
            let (mut own, mut near) = (vec![0.0; cols], vec![0.0; cols]);
            for worst in 0..weights.len() {
                head.embedding_row(worst, &mut own);
                copy(&head, &image).embedding_row(worst, &mut near);
                let x: Vec<f32> = own
                    .iter()
                    .zip(&near)
                    .map(|(w, v)| 100.0 * (w - v))
                    .collect();
                let used = check(&head, &image, &x);
                assert!(used > 0.9, "{dtype}, {level}: {used}");
            }
        }
    }
}

#[test]
fn tiny_numbers_and_zeroes_stay_within_the_bounds() {
    let tiny = f32::from_bits(3);
    for dtype in [DType::BF16, DType::F32] {
        let weights = [
            vec![tiny; 64],
            vec![0.0; 64],
            vec![1e-30; 64],
            vec![-1e-38; 64],
        ];
        let (head, image) = head(&weights, dtype, Level::detect());
        let image = image.unwrap();
        for x in [0.0, tiny, 1e-20, 1.0, -3.0] {
            check(&head, &image, &[x; 64]);
        }
    }
}

#[test]
fn equal_rows_all_survive() {
    let row: Vec<f32> = (0..64).map(|c| (c as f32).cos()).collect();
    let other: Vec<f32> = row.iter().map(|w| w * 0.1).collect();
    let weights: Vec<_> = (0..90)
        .map(|r| if r % 9 == 4 { &row } else { &other }.clone())
        .collect();
    let (head, image) = head(&weights, DType::F16, Level::detect());
    let image = image.unwrap();
    let (norm, near) = (image.norm(&head, &row), logits(copy(&head, &image), &row));
    let (mut lower, mut upper) = (vec![0.0; 90], vec![0.0; 90]);
    image.bounds(0, norm, &near, &mut lower, &mut upper);
    for needed in 1..=10 {
        let threshold = image.threshold(&mut lower.clone(), &upper, needed);
        let survivors = (0..90).filter(|&row| image.upper(row, norm, near[row]) >= threshold);
        assert!(survivors.eq((0..90).filter(|row| row % 9 == 4)), "{needed}");
    }
    assert_eq!(best(&logits(&head, &row))[..3], [4, 13, 22]);
}

#[test]
fn what_is_no_number_is_not_screened() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut weights = vec![vec![0.5; 32]; 40];
        weights[37][31] = bad;
        for dtype in FLOATS {
            assert!(
                head(&weights, dtype, Level::detect()).1.is_none(),
                "{dtype} {bad}"
            );
        }
        let (head, image) = head(&[vec![0.5; 32]], DType::F16, Level::detect());
        let image = image.unwrap();
        let mut x = [1.0; 32];
        x[9] = bad;
        assert_eq!(image.norm(&head, &x), f32::INFINITY);
        assert_eq!(image.norm(&head, &[1e37; 32]), f32::INFINITY);
    }
    // The scales of its blocks exceed fp16.
    assert!(
        head(&[vec![1e8; 32]], DType::F32, Level::detect())
            .1
            .is_none()
    );
}

/// A head that is its own image stops screening once the observed counts show that it does not pay
/// off; a copy does not.
#[test]
fn a_head_that_is_its_own_image_is_judged_by_what_was_seen() {
    let blocks = vec![1u8; 200 * DType::Q6K.row_bytes(256).unwrap()];
    let arena = Arena::new(ArenaConfig::default());
    let mut buffer = arena.allocate(blocks.len(), BufferKind::Weights).unwrap();
    buffer.as_bytes_mut().copy_from_slice(&blocks);
    let kernels = Kernels::default();
    let dense = DenseWeight::new("head", DType::Q6K, 200, 256, buffer, kernels).unwrap();
    let dense = Linear::Dense(dense);
    let lease = Lease::on(
        Topology::synthetic("core:2 pu:1").unwrap(),
        LeaseOptions::default(),
    )
    .unwrap();
    let image = |screening| {
        HeadImage::new(&dense, screening, kernels, &arena, None, &lease)
            .unwrap()
            .unwrap()
    };
    let auto = image(HeadScreening::Auto);
    assert!(auto.is_head() && auto.bytes() == 800);
    // 2 % of 200 rows is 4.
    assert!(auto.still_pays([15, 3000]), "too few to tell");
    assert!(auto.still_pays([16, 63]) && !auto.still_pays([16, 64]));
    assert!(image(HeadScreening::Always).still_pays([16, 3200]));
    let (_, copied) = head(&[vec![0.5; 32]], DType::F16, Level::detect());
    assert!(copied.unwrap().still_pays([16, 16]));
}
