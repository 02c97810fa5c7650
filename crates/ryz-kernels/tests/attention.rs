//! Attention over a block: every level against the reference bit for bit, the reference against f64, and the four-bit form.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout)] // helpers of tests, too

mod common;

use common::*;
use half::f16;
use ryz_kernels::{
    Int4Block, KV_BLOCK, Kernels, KvBlock, Level, RunningSoftmax, Tile, VALUE_GROUP,
};

/// A block of floats, and what it is in the other types.
struct Block {
    key_dim: usize,
    value_dim: usize,
    keys: Vec<f32>,
    values: Vec<f32>,
    halves: [Vec<f16>; 2],
    bytes: [Vec<i8>; 2],
    scales: [Vec<f32>; 2],
    int4: Int4,
}

struct Int4 {
    key_codes: Vec<[u8; 8]>,
    key_scales: Vec<f16>,
    key_minima: Vec<f16>,
    value_codes: Vec<[u8; 8]>,
    value_groups: Vec<[[f16; KV_BLOCK]; 2]>,
}

fn tile(rows: &[f32], dim: usize, start: usize) -> Tile {
    std::array::from_fn(|position| {
        std::array::from_fn(|c| {
            rows[position * dim..][..dim]
                .get(start + c)
                .map_or(0.0, |x| *x)
        })
    })
}

impl Int4 {
    fn of(
        kernels: Kernels,
        keys: &[f32],
        key_dim: usize,
        values: &[f32],
        value_dim: usize,
    ) -> Self {
        let mut block = Self {
            key_codes: vec![[0; 8]; key_dim],
            key_scales: vec![f16::ZERO; key_dim],
            key_minima: vec![f16::ZERO; key_dim],
            value_codes: vec![[0; 8]; value_dim.div_ceil(16) * 16],
            value_groups: vec![[[f16::ZERO; KV_BLOCK]; 2]; value_dim.div_ceil(VALUE_GROUP)],
        };
        for start in (0..key_dim).step_by(16) {
            let end = key_dim.min(start + 16);
            kernels.quantize_keys_u4(
                &tile(keys, key_dim, start),
                &mut block.key_codes[start..end],
                &mut block.key_scales[start..end],
                &mut block.key_minima[start..end],
            );
        }
        for (group, start) in (0..value_dim).step_by(VALUE_GROUP).enumerate() {
            let width = VALUE_GROUP.min(value_dim - start);
            let tiles: Vec<Tile> = (start..start + width)
                .step_by(16)
                .map(|start| tile(values, value_dim, start))
                .collect();
            kernels.quantize_values_u4(
                &tiles,
                width,
                &mut block.value_codes[start..start + tiles.len() * 16],
                &mut block.value_groups[group],
            );
        }
        block
    }

    fn key(&self, position: usize, channel: usize) -> f64 {
        let code = self.key_codes[channel][position % 8] >> (4 * (position / 8)) & 15;
        f64::from(code) * f64::from(self.key_scales[channel].to_f32())
            + f64::from(self.key_minima[channel].to_f32())
    }

    fn value(&self, position: usize, channel: usize) -> f64 {
        let codes = self.value_codes[channel / 16 * 16 + position];
        let code = codes[channel % 8] >> (4 * (channel % 16 / 8)) & 15;
        let [scales, minima] = &self.value_groups[channel / VALUE_GROUP];
        f64::from(code) * f64::from(scales[position].to_f32())
            + f64::from(minima[position].to_f32())
    }
}

impl Block {
    fn random(random: &mut Random, key_dim: usize, value_dim: usize) -> Self {
        let keys = random.floats(16 * key_dim);
        let values = random.floats(16 * value_dim);
        let bytes = |rows: &[f32], dim: usize| {
            let mut bytes = vec![0; rows.len()];
            let rows = rows.chunks_exact(dim).zip(bytes.chunks_exact_mut(dim));
            let scales = rows.map(|(row, q)| 1.0 / scalar().quantize_row_i8(row, q));
            let scales = scales.collect::<Vec<_>>();
            (bytes, scales)
        };
        let halves = [&keys, &values].map(|x| x.iter().map(|&x| f16::from_f32(x)).collect());
        let (key_bytes, key_scales) = bytes(&keys, key_dim);
        let (value_bytes, value_scales) = bytes(&values, value_dim);
        Self {
            int4: Int4::of(scalar(), &keys, key_dim, &values, value_dim),
            key_dim,
            value_dim,
            keys,
            values,
            halves,
            bytes: [key_bytes, value_bytes],
            scales: [key_scales, value_scales],
        }
    }

    fn views(&self) -> [KvBlock<'_>; 4] {
        let q = &self.int4;
        [
            KvBlock::F32 {
                keys: &self.keys,
                key_stride: self.key_dim,
                values: &self.values,
                value_stride: self.value_dim,
            },
            KvBlock::F16 {
                keys: &self.halves[0],
                values: &self.halves[1],
            },
            KvBlock::Int8 {
                keys: &self.bytes[0],
                key_scales: &self.scales[0],
                values: &self.bytes[1],
                value_scales: &self.scales[1],
            },
            KvBlock::Int4(Int4Block {
                key_codes: &q.key_codes,
                key_scales: &q.key_scales,
                key_minima: &q.key_minima,
                value_codes: &q.value_codes,
                value_groups: &q.value_groups,
            }),
        ]
    }

    /// A number as a view has it.
    fn stored(&self, view: usize, of_values: bool, position: usize, channel: usize) -> f64 {
        let dim = if of_values {
            self.value_dim
        } else {
            self.key_dim
        };
        let at = position * dim + channel;
        let side = usize::from(of_values);
        match view {
            0 => f64::from([&self.keys, &self.values][side][at]),
            1 => f64::from(self.halves[side][at].to_f32()),
            2 => f64::from(self.bytes[side][at]) * f64::from(self.scales[side][position]),
            _ if of_values => self.int4.value(position, channel),
            _ => self.int4.key(position, channel),
        }
    }
}

fn levels_quiet() -> impl Iterator<Item = Kernels> {
    Level::ALL
        .into_iter()
        .filter_map(|level| Kernels::new(level).ok())
}

#[test]
fn every_type_and_level_against_f64() {
    levels();
    let mut random = seed("every_type_and_level_against_f64");
    for (key_dim, value_dim) in [(64, 64), (128, 32), (16, 40), (24, 8), (5, 33), (80, 80)] {
        for count in 1..=8 {
            let blocks = [(); 2].map(|()| Block::random(&mut random, key_dim, value_dim));
            let queries = random.floats(count * key_dim);
            let last = 1 + random.below(16);
            let scale = 0.4;
            for view in 0..4 {
                // Whole blocks only in four bits.
                let positions = [16, if view == 3 { 16 } else { last }];
                let compute = |kernels: Kernels| {
                    let mut running = vec![RunningSoftmax::default(); count];
                    let mut out = vec![0.0; count * value_dim];
                    for (block, positions) in blocks.iter().zip(positions) {
                        let view = &block.views()[view];
                        kernels.attend_block(
                            view,
                            positions,
                            &queries,
                            scale,
                            &mut running,
                            &mut out,
                        );
                    }
                    kernels.attend_end(&running, &mut out);
                    out
                };
                let got = compute(scalar());
                for kernels in levels_quiet() {
                    assert_same(&compute(kernels), &got, || {
                        format!("type {view}, {count} queries, {}", kernels.level())
                    });
                }
                for n in 0..count {
                    let mut terms = Vec::new();
                    for (block, positions) in blocks.iter().zip(positions) {
                        for position in 0..positions {
                            let dot: f64 = (0..key_dim)
                                .map(|c| {
                                    f64::from(queries[n * key_dim + c])
                                        * block.stored(view, false, position, c)
                                })
                                .sum();
                            terms.push((dot * f64::from(scale), block, position));
                        }
                    }
                    let most = terms.iter().fold(f64::MIN, |most, term| most.max(term.0));
                    let sum: f64 = terms.iter().map(|term| (term.0 - most).exp()).sum();
                    for channel in 0..value_dim {
                        let expected: f64 = terms
                            .iter()
                            .map(|(score, block, position)| {
                                let weight = (score - most).exp() / sum;
                                weight * block.stored(view, true, *position, channel)
                            })
                            .sum();
                        let got = f64::from(got[n * value_dim + channel]);
                        // Scores are below 100 and their error below 1e-5; weights err by as much, relatively.
                        assert!(
                            (got - expected).abs() < 1e-4,
                            "type {view}: {got}, expected {expected}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn four_bits_are_the_nearest_points_of_their_grids_on_every_level() {
    let mut random = seed("four_bits_are_the_nearest_points_of_their_grids_on_every_level");
    for (key_dim, value_dim) in [(64, 64), (5, 33), (128, 16)] {
        for size in [1e-6f32, 1.0, 300.0] {
            let mut keys: Vec<f32> = random.floats(16 * key_dim);
            let mut values: Vec<f32> = random.floats(16 * value_dim);
            keys.iter_mut().chain(&mut values).for_each(|x| *x *= size);
            // A channel, and a position, that are all alike.
            keys.iter_mut().step_by(key_dim).for_each(|x| *x = size);
            values[..value_dim].fill(-size);
            let block = Int4::of(scalar(), &keys, key_dim, &values, value_dim);
            for kernels in levels_quiet() {
                let other = Int4::of(kernels, &keys, key_dim, &values, value_dim);
                assert_eq!(other.key_codes, block.key_codes, "{}", kernels.level());
                assert_eq!(other.key_scales, block.key_scales);
                assert_eq!(other.key_minima, block.key_minima);
                assert_eq!(other.value_codes, block.value_codes);
                assert_eq!(other.value_groups, block.value_groups);
            }
            // Half a step, and what rounding the scale and the minimum to halves moves the ends by.
            let check = |got: f64, x: f32, least: f32, most: f32| {
                let range = f64::from(most) - f64::from(least);
                let halves = 2f64.powi(-11);
                let ends = f64::from(least).abs() * halves + range * halves + 15.0 * 6e-8;
                let bound = range / 30.0 + 2.0 * ends;
                assert!((got - f64::from(x)).abs() <= bound, "{x} became {got}");
            };
            let bounds = |values: &mut dyn Iterator<Item = f32>| {
                values.fold((f32::MAX, f32::MIN), |(a, b), x| (a.min(x), b.max(x)))
            };
            for c in 0..key_dim {
                let (least, most) = bounds(&mut (0..16).map(|p| keys[p * key_dim + c]));
                for p in 0..16 {
                    check(block.key(p, c), keys[p * key_dim + c], least, most);
                }
            }
            for p in 0..16 {
                for group in values[p * value_dim..][..value_dim]
                    .chunks(VALUE_GROUP)
                    .enumerate()
                {
                    let (least, most) = bounds(&mut group.1.iter().copied());
                    for (c, &x) in group.1.iter().enumerate() {
                        check(block.value(p, group.0 * VALUE_GROUP + c), x, least, most);
                    }
                }
            }
        }
    }
}

#[test]
fn small_products_add_rows_in_order() {
    let mut random = seed("small_products_add_rows_in_order");
    for (count, k, cols) in [(1, 64, 32), (3, 32, 64), (9, 7, 21), (4, 16, 16), (5, 1, 3)] {
        let (weights, rows) = (random.floats(count * k), random.floats(k * cols));
        let start = random.floats(count * cols);
        for kernels in levels_quiet() {
            let mut out = start.clone();
            kernels.mul_add_rows(&weights, &rows, cols, &mut out);
            for n in 0..count {
                for c in 0..cols {
                    let terms = (0..k).map(|i| (weights[n * k + i], rows[i * cols + c]));
                    let expected = terms.fold(start[n * cols + c], |sum, (w, x)| w.mul_add(x, sum));
                    assert_eq!(out[n * cols + c].to_bits(), expected.to_bits());
                }
            }
        }
    }
}
