//! Vector kernels: every level against the reference bit for bit, and the reference against f64.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout)] // helpers of tests, too

mod common;

use common::*;
use half::f16;
use ryz_kernels::{Activation, Kernels};

/// Runs `f` on every level with the same operands.
fn same_on_all(what: &str, f: impl Fn(Kernels) -> Vec<f32>) -> Vec<f32> {
    let expected = f(scalar());
    for kernels in levels_quiet() {
        assert_same(&f(kernels), &expected, || {
            format!("{what}, {}", kernels.level())
        });
    }
    expected
}

fn levels_quiet() -> impl Iterator<Item = Kernels> {
    ryz_kernels::Level::ALL
        .into_iter()
        .filter_map(|level| Kernels::new(level).ok())
}

#[test]
fn products_and_sums() {
    levels();
    let mut random = seed("products_and_sums");
    for len in (0..70).chain([128, 255, 1000, 6912]) {
        let a = random.floats(len);
        let b = random.floats(len);
        let halves: Vec<f16> = b.iter().map(|&b| f16::from_f32(b)).collect();
        let bytes: Vec<i8> = (0..len).map(|_| random.next() as i8).collect();
        let dots = same_on_all(&format!("dot of {len}"), |k| {
            vec![
                k.dot_f32(&a, &b),
                k.dot_f16(&a, &halves),
                k.dot_i8(&a, &bytes),
            ]
        });
        let exact = |b: &dyn Fn(usize) -> f64| {
            let terms = (0..len).map(|i| f64::from(a[i]) * b(i));
            terms.fold((0.0, 0.0), |(sum, size), term| {
                (sum + term, size + term.abs())
            })
        };
        let values: [&dyn Fn(usize) -> f64; 3] = [
            &|i| f64::from(b[i]),
            &|i| f64::from(halves[i].to_f32()),
            &|i| f64::from(bytes[i]),
        ];
        for (dot, value) in dots.into_iter().zip(values) {
            let (sum, size) = exact(value);
            let bound = size * (len as f64 / 16.0 + 6.0) * 2f64.powi(-24);
            assert!(
                (f64::from(dot) - sum).abs() <= bound,
                "dot of {len}: {dot} and {sum}"
            );
        }
        for (axpy, value) in values.into_iter().enumerate() {
            let y = same_on_all(&format!("axpy of {len}"), |k| {
                let mut y = a.clone();
                match axpy {
                    0 => k.axpy_f32(0.3, &b, &mut y),
                    1 => k.axpy_f16(0.3, &halves, &mut y),
                    _ => k.axpy_i8(0.3, &bytes, &mut y),
                }
                y
            });
            for i in 0..len {
                let x = value(i) as f32;
                assert_eq!(y[i], 0.3f32.mul_add(x, a[i]));
            }
        }
        let sums = same_on_all("add, mul, scale", |k| {
            let mut y = a.clone();
            k.add(&b, &mut y);
            k.mul(&b, &mut y);
            k.scale(0.7, &mut y);
            y
        });
        for i in 0..len {
            assert_eq!(sums[i], (a[i] + b[i]) * b[i] * 0.7);
        }
        let halves = same_on_all("halves", |k| {
            let mut out = vec![f16::ZERO; len];
            k.f32_to_f16(&a, &mut out);
            let mut wide = vec![0.0; len];
            k.f16_to_f32(&out, &mut wide);
            wide
        });
        for i in 0..len {
            assert_eq!(halves[i], f16::from_f32(a[i]).to_f32());
        }
        let greatest = same_on_all("max", |k| vec![k.max(&a)])[0];
        assert_eq!(
            greatest,
            a.iter().copied().fold(f32::NEG_INFINITY, f32::max)
        );
    }
}

#[test]
fn softmax_and_its_parts() {
    let mut random = seed("softmax_and_its_parts");
    for len in (1..50).chain([511, 4096]) {
        let x: Vec<f32> = (0..len).map(|_| random.float() * 20.0).collect();
        let y = same_on_all(&format!("softmax of {len}"), |k| {
            let mut x = x.clone();
            k.softmax(&mut x);
            x
        });
        let maximum = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = x.iter().map(|&x| f64::from(x - maximum).exp()).sum();
        for (y, x) in y.into_iter().zip(&x) {
            let expected = f64::from(x - maximum).exp() / sum;
            assert!(
                (f64::from(y) - expected).abs() <= expected * 2e-5 + 1e-38,
                "{y} and {expected}"
            );
        }
    }
    let masked = same_on_all("a masked softmax", |k| {
        let mut x = vec![1.0, f32::NEG_INFINITY, 1.0];
        k.softmax(&mut x);
        x
    });
    assert_eq!(masked, [0.5, 0.0, 0.5]);
}

#[test]
fn norms() {
    let mut random = seed("norms");
    for len in [1, 3, 16, 17, 64, 100, 2560] {
        for size in [1e-12f32, 1.0, 1e15] {
            let x: Vec<f32> = (0..len).map(|_| random.float() * size).collect();
            let weight = random.floats(len);
            let y = same_on_all(&format!("norm of {len}"), |k| {
                let mut out = vec![0.0; len];
                k.rms_norm(&x, &weight, 1e-5, &mut out);
                let mut in_place = x.clone();
                k.rms_norm_in_place(&mut in_place, &weight, 1e-5);
                assert_eq!(in_place, out);
                out
            });
            let mean: f64 = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / len as f64;
            let inverse = 1.0 / (mean + f64::from(1e-5f32)).sqrt();
            for i in 0..len {
                let expected = f64::from(x[i]) * inverse * f64::from(weight[i]);
                assert!((f64::from(y[i]) - expected).abs() <= expected.abs() * 1e-6 + 1e-30);
            }
        }
    }
}

#[test]
fn rotations_and_activations() {
    let mut random = seed("rotations_and_activations");
    for pairs in [1, 2, 7, 16, 32, 40, 64] {
        // Two values past the rotated part stay.
        let head = random.floats(2 * pairs + 2);
        let angles: Vec<f32> = (0..pairs).map(|_| random.float() * 3.0).collect();
        let (cos, sin): (Vec<f32>, Vec<f32>) = angles.iter().map(|a| (a.cos(), a.sin())).unzip();
        for neox in [true, false] {
            let y = same_on_all("rope", |k| {
                let mut head = head.clone();
                if neox {
                    k.rope_neox(&mut head, &cos, &sin)
                } else {
                    k.rope_norm(&mut head, &cos, &sin)
                }
                head
            });
            for i in 0..pairs {
                let (a, b) = if neox {
                    (i, i + pairs)
                } else {
                    (2 * i, 2 * i + 1)
                };
                assert_eq!(y[a], head[a] * cos[i] - head[b] * sin[i]);
                assert_eq!(y[b], head[b] * cos[i] + head[a] * sin[i]);
            }
            assert_eq!(y[2 * pairs..], head[2 * pairs..]);
        }
    }
    for len in (1..40).chain([6912]) {
        let gate: Vec<f32> = (0..len).map(|_| random.float() * 30.0).collect();
        let up = random.floats(len);
        for activation in [Activation::Silu, Activation::Relu2] {
            let y = same_on_all("activation", |k| {
                let mut gate = gate.clone();
                k.activate_mul(activation, &up, &mut gate);
                gate
            });
            for i in 0..len {
                let g = f64::from(gate[i]);
                let act = match activation {
                    Activation::Silu => g / (1.0 + (-g).exp()),
                    Activation::Relu2 => g.max(0.0).powi(2),
                };
                let expected = act * f64::from(up[i]);
                assert!((f64::from(y[i]) - expected).abs() <= expected.abs() * 2e-7 + 1e-40);
            }
        }
    }
}

#[test]
fn quantisation() {
    let mut random = seed("quantisation");
    for len in (1..40).chain([128, 2560]) {
        for kind in 0..5 {
            let x: Vec<f32> = (0..len)
                .map(|i| match kind {
                    0 => 0.0,
                    // Exact ties: s is 1, and halves round to even.
                    1 => {
                        if i == 0 {
                            127.0
                        } else {
                            (random.below(254) as f32 - 127.0) + 0.5
                        }
                    }
                    2 => random.float() * 1e-7,
                    3 => random.float() * f32::MAX,
                    _ => random.float() * 3.0,
                })
                .collect();
            let expected = {
                let mut q = vec![0i8; len];
                (scalar().quantize_row_i8(&x, &mut q), q)
            };
            for kernels in levels_quiet() {
                let mut q = vec![0i8; len];
                let s = kernels.quantize_row_i8(&x, &mut q);
                assert_eq!(
                    (s.to_bits(), &q),
                    (expected.0.to_bits(), &expected.1),
                    "{}",
                    kernels.level()
                );
            }
            let s = 127.0 / x.iter().fold(1e-5f32, |m, x| m.max(x.abs()));
            assert_eq!(expected.0, s);
            for (q, x) in expected.1.iter().zip(&x) {
                assert_eq!(
                    f32::from(*q),
                    (x * s).round_ties_even().clamp(-128.0, 127.0)
                );
            }
        }
    }
    for kernels in levels_quiet() {
        for len in [1, 16, 21] {
            let mut x = vec![1.0; len];
            x[len - 1] = f32::NAN;
            let mut q = vec![0; len];
            assert!(kernels.quantize_row_i8(&x, &mut q).is_nan(), "a NaN shows");
            assert_eq!(q, vec![-128; len]);
        }
    }
}
