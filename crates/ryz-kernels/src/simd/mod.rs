//! Sixteen lanes of f32 or i32: the one vocabulary in which the float kernels are written.
//!
//! A kernel is written once over [`Simd`] and compiled once for each register width. All widths hold the same sixteen
//! lanes and do the same IEEE operation on each, fused only where [`Simd::fma`] says so, and [`Simd::sum`] adds the
//! lanes by one fixed tree; so every width gives the same bits. Values are passed as arrays of exactly sixteen, which
//! keeps raw loads and stores inside the implementations.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;
pub(crate) use scalar::Scalar;

/// Lanes of every float reduction.
pub(crate) const LANES: usize = 16;

/// Bytes of a [`Simd::B`].
pub(crate) const BYTES: usize = 32;

/// A token that proves a register width's features, with the operations on sixteen lanes.
pub(crate) trait Simd: Copy {
    /// Sixteen f32.
    type F: Copy;
    /// Sixteen i32.
    type I: Copy;
    /// Thirty-two bytes: blocks keep their codes in stretches of as many.
    type B: Copy;

    /// Whether there are registers for eight sums and as many tables, rather than four.
    const WIDE: bool;

    fn splat(self, value: f32) -> Self::F;
    fn load(self, values: &[f32; LANES]) -> Self::F;
    fn store(self, vector: Self::F, out: &mut [f32; LANES]);
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// a · b + c, rounded once.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The lanes added as a tree: l with l + 8, l + 4, l + 2, l + 1.
    fn sum(self, vector: Self::F) -> f32;
    /// IEEE halves.
    fn load_f16(self, bits: &[u16; LANES]) -> Self::F;
    /// One IEEE half.
    fn half(self, bits: u16) -> f32;
    /// To IEEE halves, ties to even.
    fn store_f16(self, vector: Self::F, out: &mut [u16; LANES]);
    /// bfloat16.
    fn load_bf16(self, bits: &[u16; LANES]) -> Self::F;
    fn load_i8(self, values: &[i8; LANES]) -> Self::F;
    /// Four-bit values: lanes 0–7 from the low halves of the bytes, 8–15 from the high ones.
    fn load_u4(self, bytes: &[u8; 8]) -> Self::F;
    /// Clamped to −128 … 127 (NaN to −128) and rounded, ties to even.
    fn store_i8(self, vector: Self::F, out: &mut [i8; LANES]);
    /// Lane c is `table[code c of word] `, where `table` repeats four values and the codes are those of a
    /// [`Line`](crate::ternary::Line)'s word: code c in bits 8·(c mod 4) + 2·(c div 4).
    fn lookup(self, word: u32, table: Self::F) -> Self::F;

    fn splat_i(self, value: i32) -> Self::I;
    fn load_i(self, values: &[i32; LANES]) -> Self::I;
    fn store_i(self, vector: Self::I, out: &mut [i32; LANES]);
    fn add_i(self, a: Self::I, b: Self::I) -> Self::I;
    fn sub_i(self, a: Self::I, b: Self::I) -> Self::I;
    fn max_i(self, a: Self::I, b: Self::I) -> Self::I;
    /// The bits of each |x|: their order as integers is the order of the values, with NaN above all.
    fn magnitude_bits(self, vector: Self::F) -> Self::I;
    fn load_bytes(self, bytes: &[u8; BYTES]) -> Self::B;
    fn store_bytes(self, vector: Self::B, out: &mut [i8; BYTES]);
    /// Each byte's bits that `mask` has.
    fn and_bytes(self, vector: Self::B, mask: u8) -> Self::B;
    fn or_bytes(self, a: Self::B, b: Self::B) -> Self::B;
    /// Each byte less `value`, wrapping.
    fn sub_bytes(self, vector: Self::B, value: u8) -> Self::B;
    /// Each byte shifted right by N bits, of 1 … 7.
    fn shift_right<const N: i32>(self, vector: Self::B) -> Self::B;
    /// Each byte shifted left by N bits, of 1 … 7.
    fn shift_left<const N: i32>(self, vector: Self::B) -> Self::B;
    /// The nearest f32, ties to even.
    fn to_f32(self, vector: Self::I) -> Self::F;

    /// The greatest lane.
    #[inline(always)]
    fn greatest_i(self, vector: Self::I) -> i32 {
        let mut lanes = [0; LANES];
        self.store_i(vector, &mut lanes);
        lanes.into_iter().fold(i32::MIN, i32::max)
    }
}

/// A tail of fewer than sixteen values, filled up.
#[inline(always)]
pub(crate) fn padded<T: Copy>(tail: &[T], filler: T) -> [T; LANES] {
    let mut lanes = [filler; LANES];
    lanes[..tail.len()].copy_from_slice(tail);
    lanes
}
