//! Dense block types, sixteen weights at a time: each decoded exactly as ggml's `dequantize_row_*` does, every
//! multiplication and addition rounded on its own.

use crate::simd::{LANES, Simd};

/// A block type.
pub(crate) trait Block {
    /// Weights of a block, a multiple of sixteen.
    const VALUES: usize;
    /// Bytes of a block.
    const BYTES: usize;
    /// What is computed once a block.
    type Head: Copy + Default;

    fn head<S: Simd>(s: S, block: &[u8], head: &mut Self::Head);

    /// Weights 16·part … 16·part + 15 of a block.
    fn load<S: Simd>(s: S, head: &Self::Head, block: &[u8], part: usize) -> S::F;
}

/// N bytes of a block.
#[inline(always)]
pub(super) fn bytes<const N: usize>(block: &[u8], start: usize) -> &[u8; N] {
    block[start..]
        .first_chunk()
        .expect("a block is as long as its type says")
}

#[inline(always)]
pub(super) fn half<S: Simd>(s: S, block: &[u8], start: usize) -> f32 {
    s.half(u16::from_le_bytes(*bytes(block, start)))
}

/// Sixteen values made from their index, exact in i8.
#[inline(always)]
pub(super) fn lanes<S: Simd>(s: S, f: impl Fn(usize) -> u8) -> S::F {
    let mut values = [0; LANES];
    for (l, value) in values.iter_mut().enumerate() {
        *value = f(l) as i8;
    }
    s.load_i8(&values)
}

pub(crate) struct F32Block;

impl Block for F32Block {
    const VALUES: usize = 16;
    const BYTES: usize = 64;
    type Head = ();

    #[inline(always)]
    fn head<S: Simd>(_: S, _: &[u8], (): &mut ()) {}

    #[inline(always)]
    fn load<S: Simd>(s: S, (): &(), block: &[u8], _: usize) -> S::F {
        let bits: [u32; LANES] = bytemuck::pod_read_unaligned(bytes::<64>(block, 0));
        let mut values = [0.0; LANES];
        for l in 0..LANES {
            values[l] = f32::from_bits(u32::from_le(bits[l]));
        }
        s.load(&values)
    }
}

/// Sixteen little-endian words of 16 bits.
#[inline(always)]
fn words(block: &[u8]) -> [u16; LANES] {
    // Read as a whole: of words made from bytes one by one it is not certain that a compiler makes one load.
    let mut words: [u16; LANES] = bytemuck::pod_read_unaligned(bytes::<32>(block, 0));
    for l in 0..LANES {
        words[l] = u16::from_le(words[l]);
    }
    words
}

pub(crate) struct F16Block;

impl Block for F16Block {
    const VALUES: usize = 16;
    const BYTES: usize = 32;
    type Head = ();

    #[inline(always)]
    fn head<S: Simd>(_: S, _: &[u8], (): &mut ()) {}

    #[inline(always)]
    fn load<S: Simd>(s: S, (): &(), block: &[u8], _: usize) -> S::F {
        s.load_f16(&words(block))
    }
}

pub(crate) struct Bf16Block;

impl Block for Bf16Block {
    const VALUES: usize = 16;
    const BYTES: usize = 32;
    type Head = ();

    #[inline(always)]
    fn head<S: Simd>(_: S, _: &[u8], (): &mut ()) {}

    #[inline(always)]
    fn load<S: Simd>(s: S, (): &(), block: &[u8], _: usize) -> S::F {
        s.load_bf16(&words(block))
    }
}

/// d, then 32 int8: w = q·d.
pub(crate) struct Q8_0Block;

impl Block for Q8_0Block {
    const VALUES: usize = 32;
    const BYTES: usize = 34;
    type Head = f32;

    #[inline(always)]
    fn head<S: Simd>(s: S, block: &[u8], head: &mut f32) {
        *head = half(s, block, 0);
    }

    #[inline(always)]
    fn load<S: Simd>(s: S, d: &f32, block: &[u8], part: usize) -> S::F {
        let quants = bytes::<16>(block, 2 + 16 * part);
        s.mul(lanes(s, |l| quants[l]), s.splat(*d))
    }
}

/// d, 16 bytes: w = (q − 8)·d; the first half in the low nibbles.
pub(crate) struct Q4_0Block;

impl Block for Q4_0Block {
    const VALUES: usize = 32;
    const BYTES: usize = 18;
    type Head = f32;

    #[inline(always)]
    fn head<S: Simd>(s: S, block: &[u8], head: &mut f32) {
        *head = half(s, block, 0);
    }

    #[inline(always)]
    fn load<S: Simd>(s: S, d: &f32, block: &[u8], part: usize) -> S::F {
        let nibbles = bytes::<16>(block, 2);
        s.mul(
            lanes(s, |l| (nibbles[l] >> (4 * part) & 15).wrapping_sub(8)),
            s.splat(*d),
        )
    }
}

/// d, m, 16 bytes: w = q·d + m.
pub(crate) struct Q4_1Block;

impl Block for Q4_1Block {
    const VALUES: usize = 32;
    const BYTES: usize = 20;
    type Head = [f32; 2];

    #[inline(always)]
    fn head<S: Simd>(s: S, block: &[u8], head: &mut [f32; 2]) {
        *head = [half(s, block, 0), half(s, block, 2)];
    }

    #[inline(always)]
    fn load<S: Simd>(s: S, [d, m]: &[f32; 2], block: &[u8], part: usize) -> S::F {
        let nibbles = bytes::<16>(block, 4);
        let q = lanes(s, |l| nibbles[l] >> (4 * part) & 15);
        s.add(s.mul(q, s.splat(*d)), s.splat(*m))
    }
}

/// The fifth bits of sixteen weights of a 32-weight block, in place.
#[inline(always)]
fn fifth_bit(high: u32, l: usize, part: usize) -> u8 {
    ((high >> (l + 16 * part) & 1) << 4) as u8
}

/// d, 4 bytes of fifth bits, 16 bytes: w = (q − 16)·d.
pub(crate) struct Q5_0Block;

impl Block for Q5_0Block {
    const VALUES: usize = 32;
    const BYTES: usize = 22;
    type Head = (f32, u32);

    #[inline(always)]
    fn head<S: Simd>(s: S, block: &[u8], head: &mut (f32, u32)) {
        *head = (half(s, block, 0), u32::from_le_bytes(*bytes(block, 2)));
    }

    #[inline(always)]
    fn load<S: Simd>(s: S, (d, high): &(f32, u32), block: &[u8], part: usize) -> S::F {
        let nibbles = bytes::<16>(block, 6);
        let q =
            |l: usize| (nibbles[l] >> (4 * part) & 15 | fifth_bit(*high, l, part)).wrapping_sub(16);
        s.mul(lanes(s, q), s.splat(*d))
    }
}

/// d, m, 4 bytes of fifth bits, 16 bytes: w = q·d + m.
pub(crate) struct Q5_1Block;

impl Block for Q5_1Block {
    const VALUES: usize = 32;
    const BYTES: usize = 24;
    type Head = (f32, f32, u32);

    #[inline(always)]
    fn head<S: Simd>(s: S, block: &[u8], head: &mut (f32, f32, u32)) {
        *head = (
            half(s, block, 0),
            half(s, block, 2),
            u32::from_le_bytes(*bytes(block, 4)),
        );
    }

    #[inline(always)]
    fn load<S: Simd>(s: S, (d, m, high): &(f32, f32, u32), block: &[u8], part: usize) -> S::F {
        let nibbles = bytes::<16>(block, 8);
        let q = lanes(s, |l| {
            nibbles[l] >> (4 * part) & 15 | fifth_bit(*high, l, part)
        });
        s.add(s.mul(q, s.splat(*d)), s.splat(*m))
    }
}
