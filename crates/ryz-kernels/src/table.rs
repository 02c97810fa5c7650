//! The kernel table: one row names, selects, tests and benches a kernel, and the one place that calls kernels of
//! products.

use std::ops::Range;

use ryz_format::DType;
use ryz_tmac::{MatMut, MatRef};

use crate::{
    ActivationView, BatchLayout, DenseWeight, KernelError, KernelOptions, Level, Line, LineOrder,
    PreparedInput, QuantizedRows, QuantizedTiles, TileShape, dense, simd,
    sparse::{self, SparseTernary},
    ternary::{self, TernaryView, base3::Base3View},
    vector,
};
use ryz_tmac::PrefetchManager;

/// A row: a kernel's name (inputs_output_op_tile_isa) and the kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KernelRow<F> {
    pub name: &'static str,
    kernel: F,
}

type TernaryI8 = unsafe fn(TernaryView<'_>, Range<usize>, QuantizedRows<'_>, MatMut<'_, f32>);
type TernaryTiles = unsafe fn(TernaryView<'_>, Range<usize>, QuantizedTiles<'_>, MatMut<'_, f32>);
type Base3Gemm = unsafe fn(Base3View<'_>, Range<usize>, QuantizedRows<'_>, MatMut<'_, f32>);
type Base3Pack = unsafe fn(&[Line], &mut [Line]);
type Base3Unpack = unsafe fn(&[Line], &mut [Line], PrefetchManager);
type TernaryF32 = unsafe fn(TernaryView<'_>, Range<usize>, MatRef<'_, f32>, MatMut<'_, f32>);
type Dense = unsafe fn(&DenseWeight, Range<usize>, ActivationView<'_>, MatMut<'_, f32>);
type SparseRows = unsafe fn(&SparseTernary, Range<usize>, QuantizedRows<'_>, MatMut<'_, f32>);
type SparseListed = unsafe fn(&SparseTernary, &[u32], usize, QuantizedRows<'_>, usize, &mut [f32]);
type SparseColumns =
    unsafe fn(&SparseTernary, Range<usize>, QuantizedRows<'_>, &mut [Line], MatMut<'_, f32>);
type FromTiles = unsafe fn(LineOrder, usize, &[Line], &mut [Line]);
type ToTiles = unsafe fn(LineOrder, usize, usize, &[Line], &mut [Line], PrefetchManager);
type Fixed = unsafe fn(
    &DenseWeight,
    Range<usize>,
    ActivationView<'_>,
    &mut [Line],
    &mut PreparedInput,
    MatMut<'_, f32>,
);
type CoarseErrors = unsafe fn(&DenseWeight, usize, &mut [f32]);
type Decode = unsafe fn(DType, &[u8], &mut [f32]);

/// The kernels of one level.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KernelSet {
    pub level: Level,
    pub vector: &'static vector::VectorKernels,
    pub ternary_i8: KernelRow<TernaryI8>,
    pub ternary_tiles: KernelRow<TernaryTiles>,
    pub tile_shape: TileShape,
    /// Which of the two batches take when nothing was chosen: the faster one where it was measured (`docs/tmac.md`).
    batch: BatchLayout,
    pub ternary_f32: KernelRow<TernaryF32>,
    /// One token with weights in 1.6 bits.
    pub base3: KernelRow<Base3Gemm>,
    /// The most tokens of its products.
    pub base3_tokens: usize,
    base3_pack: Base3Pack,
    base3_unpack: Base3Unpack,
    pub sparse_rows: KernelRow<SparseRows>,
    /// The same kernel, for some rows.
    sparse_listed: SparseListed,
    pub sparse_columns: KernelRow<SparseColumns>,
    /// Moves that change no code, so that they need no name.
    from_tiles: FromTiles,
    to_tiles: ToTiles,
    pub dense: KernelRow<Dense>,
    pub fixed: KernelRow<Fixed>,
    /// The same with activations of one byte.
    pub coarse: KernelRow<Fixed>,
    /// A factor of the bound of what they differ by, which needs no name.
    coarse_errors: CoarseErrors,
    decode: KernelRow<Decode>,
}

/// The kernels of one level, proved to run here, and how they are used: a small handle that is passed by value.
///
/// ```
/// use ryz_kernels::{Kernels, Level};
///
/// let best = Kernels::default();
/// let reference = Kernels::new(Level::Scalar)?;
/// let x: Vec<f32> = (0..100).map(|i| i as f32 * 0.1).collect();
/// assert_eq!(best.dot_f32(&x, &x), reference.dot_f32(&x, &x)); // the same bits on every level
/// # Ok::<(), ryz_kernels::KernelError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Kernels {
    set: &'static KernelSet,
    batch: BatchLayout,
    prefetch: PrefetchManager,
}

impl Default for Kernels {
    /// The best level of this machine.
    fn default() -> Self {
        Self::of_set(set_of(Level::detect()))
    }
}

impl Kernels {
    /// The kernels of `level`.
    ///
    /// # Errors
    /// [`KernelError::UnsupportedLevel`] when this machine cannot run it.
    pub fn new(level: Level) -> Result<Self, KernelError> {
        if level.supported() {
            Ok(Self::of_set(set_of(level)))
        } else {
            Err(KernelError::UnsupportedLevel {
                expected: Level::detect(),
                got: level,
            })
        }
    }

    fn of_set(set: &'static KernelSet) -> Self {
        Self {
            set,
            batch: set.batch,
            prefetch: PrefetchManager::default(),
        }
    }

    /// The same kernels, used as `options` say. Results do not depend on them.
    pub fn with_options(self, options: KernelOptions) -> Self {
        Self {
            set: self.set,
            batch: options.batch.unwrap_or(self.set.batch),
            prefetch: options.prefetch,
        }
    }

    /// The same kernels, with another distance of [`Kernels::prefetch`].
    pub fn with_prefetch(self, prefetch: PrefetchManager) -> Self {
        Self { prefetch, ..self }
    }

    /// Its level.
    pub fn level(self) -> Level {
        self.set.level
    }

    /// How int8 activations of a batch lie when ternary weights are multiplied with them.
    pub fn batch(self) -> BatchLayout {
        self.batch
    }

    /// The lines of the tiles that this level reads.
    pub fn tile_shape(self) -> TileShape {
        self.set.tile_shape
    }

    /// How far ahead streams of weights are asked for.
    pub fn prefetch(self) -> PrefetchManager {
        self.prefetch
    }

    /// The names of its kernels of products.
    pub fn names(self) -> [&'static str; 10] {
        let set = self.set;
        [
            set.ternary_i8.name,
            set.ternary_tiles.name,
            set.ternary_f32.name,
            set.base3.name,
            set.sparse_rows.name,
            set.sparse_columns.name,
            set.dense.name,
            set.fixed.name,
            set.coarse.name,
            set.decode.name,
        ]
    }

    pub(crate) fn set(self) -> &'static KernelSet {
        self.set
    }

    /// Shapes are the caller's to check.
    pub(crate) fn ternary_matmul(
        self,
        weights: TernaryView<'_>,
        rows: Range<usize>,
        x: ActivationView<'_>,
        out: MatMut<'_, f32>,
    ) {
        match x {
            ActivationView::I8(x) => {
                // SAFETY: a Kernels exists for supported levels only; that is all a kernel asks.
                unsafe { (self.set.ternary_i8.kernel)(weights, rows, x, out) }
            }
            ActivationView::Tiles { tiles, rest } => {
                let (first, last) = out.split_rows(tiles.tokens());
                // SAFETY: as above.
                unsafe { (self.set.ternary_tiles.kernel)(weights, rows.clone(), tiles, first) };
                if rest.tokens() > 0 {
                    // SAFETY: as above.
                    unsafe { (self.set.ternary_i8.kernel)(weights, rows, rest, last) }
                }
            }
            ActivationView::F32(x) => {
                // SAFETY: as above.
                unsafe { (self.set.ternary_f32.kernel)(weights, rows, x, out) }
            }
        }
    }

    /// Of one token. Shapes are the caller's to check.
    pub(crate) fn base3_gemm(
        self,
        weights: Base3View<'_>,
        rows: Range<usize>,
        x: QuantizedRows<'_>,
        out: MatMut<'_, f32>,
    ) {
        // SAFETY: a Kernels exists for supported levels only; that is all a kernel asks.
        unsafe { (self.set.base3.kernel)(weights, rows, x, out) }
    }

    pub(crate) fn base3_pack(self, two_bits: &[Line], packed: &mut [Line]) {
        // SAFETY: a Kernels exists for supported levels only; that is all a kernel asks.
        unsafe { (self.set.base3_pack)(two_bits, packed) }
    }

    pub(crate) fn base3_unpack(
        self,
        packed: &[Line],
        two_bits: &mut [Line],
        prefetch: PrefetchManager,
    ) {
        // SAFETY: a Kernels exists for supported levels only; that is all a kernel asks.
        unsafe { (self.set.base3_unpack)(packed, two_bits, prefetch) }
    }

    pub(crate) fn sparse_rows(
        self,
        weights: &SparseTernary,
        rows: Range<usize>,
        x: QuantizedRows<'_>,
        out: MatMut<'_, f32>,
    ) {
        // SAFETY: a Kernels exists for supported levels only; that is all a kernel asks.
        unsafe { (self.set.sparse_rows.kernel)(weights, rows, x, out) }
    }

    pub(crate) fn sparse_listed(
        self,
        weights: &SparseTernary,
        list: &[u32],
        first: usize,
        x: QuantizedRows<'_>,
        token: usize,
        out: &mut [f32],
    ) {
        // SAFETY: a Kernels exists for supported levels only; that is all a kernel asks.
        unsafe { (self.set.sparse_listed)(weights, list, first, x, token, out) }
    }

    pub(crate) fn sparse_columns(
        self,
        weights: &SparseTernary,
        rows: Range<usize>,
        x: QuantizedRows<'_>,
        scratch: &mut [Line],
        out: MatMut<'_, f32>,
    ) {
        // SAFETY: a Kernels exists for supported levels only; that is all a kernel asks.
        unsafe { (self.set.sparse_columns.kernel)(weights, rows, x, scratch, out) }
    }

    pub(crate) fn sparse_from_tiles(
        self,
        order: LineOrder,
        run: usize,
        tiles: &[Line],
        lines: &mut [Line],
    ) {
        // SAFETY: a Kernels exists for supported levels only; that is all a kernel asks.
        unsafe { (self.set.from_tiles)(order, run, tiles, lines) }
    }

    pub(crate) fn sparse_to_tiles(
        self,
        order: LineOrder,
        run: usize,
        place: usize,
        lines: &[Line],
        tiles: &mut [Line],
    ) {
        // SAFETY: a Kernels exists for supported levels only; that is all a kernel asks.
        unsafe { (self.set.to_tiles)(order, run, place, lines, tiles, self.prefetch) }
    }

    pub(crate) fn dense_matmul(
        self,
        weights: &DenseWeight,
        rows: Range<usize>,
        x: ActivationView<'_>,
        out: MatMut<'_, f32>,
    ) {
        // SAFETY: a Kernels exists for supported levels only; that is all a kernel asks.
        unsafe { (self.set.dense.kernel)(weights, rows, x, out) }
    }

    pub(crate) fn fixed_matmul(
        self,
        weights: &DenseWeight,
        rows: Range<usize>,
        x: ActivationView<'_>,
        scratch: &mut [Line],
        prepared: &mut PreparedInput,
        out: MatMut<'_, f32>,
    ) {
        // SAFETY: a Kernels exists for supported levels only; that is all a kernel asks.
        unsafe { (self.set.fixed.kernel)(weights, rows, x, scratch, prepared, out) }
    }

    pub(crate) fn coarse_matmul(
        self,
        weights: &DenseWeight,
        rows: Range<usize>,
        x: ActivationView<'_>,
        scratch: &mut [Line],
        prepared: &mut PreparedInput,
        out: MatMut<'_, f32>,
    ) {
        // SAFETY: a Kernels exists for supported levels only; that is all a kernel asks.
        unsafe { (self.set.coarse.kernel)(weights, rows, x, scratch, prepared, out) }
    }

    pub(crate) fn coarse_errors(self, weights: &DenseWeight, first: usize, out: &mut [f32]) {
        // SAFETY: a Kernels exists for supported levels only; that is all a kernel asks.
        unsafe { (self.set.coarse_errors)(weights, first, out) }
    }

    pub(crate) fn dense_decode(self, dtype: DType, bytes: &[u8], out: &mut [f32]) {
        // SAFETY: a Kernels exists for supported levels only; that is all a kernel asks.
        unsafe { (self.set.decode.kernel)(dtype, bytes, out) }
    }
}

fn set_of(level: Level) -> &'static KernelSet {
    match level {
        Level::Scalar => &SCALAR,
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => &AVX2,
        #[cfg(target_arch = "x86_64")]
        Level::AvxVnni => &AVX_VNNI,
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => &AVX512,
        #[cfg(target_arch = "x86_64")]
        Level::Avx512Vnni if is_x86_feature_detected!("avx512vbmi") => &AVX512_VBMI,
        #[cfg(target_arch = "x86_64")]
        Level::Avx512Vnni => &AVX512_VNNI,
        #[cfg(not(target_arch = "x86_64"))]
        _ => &SCALAR,
    }
}

/// Declares the set of a level: wrappers of the generic kernels with its features, each with its row.
macro_rules! kernel_set {
    (
        $set:ident, $level:ident, $isa:literal, $vector:ident,
        features($($features:literal)?), simd($simd:expr), codes($codes:expr), i8($tile:literal),
        tiles($shape:ident, $tokens:literal), batch($batch:ident), base3($base3:expr)
    ) => {
        static $set: KernelSet = {
            $(#[target_feature(enable = $features)])?
            fn ternary_i8(
                weights: TernaryView<'_>,
                rows: Range<usize>,
                x: QuantizedRows<'_>,
                out: MatMut<'_, f32>,
            ) {
                ternary::integer::matmul($codes, weights, rows, x, out);
            }

            $(#[target_feature(enable = $features)])?
            fn ternary_tiles(
                weights: TernaryView<'_>,
                rows: Range<usize>,
                x: QuantizedTiles<'_>,
                out: MatMut<'_, f32>,
            ) {
                ternary::tiles::matmul($codes, weights, rows, x, out);
            }

            $(#[target_feature(enable = $features)])?
            fn ternary_f32(
                weights: TernaryView<'_>,
                rows: Range<usize>,
                x: MatRef<'_, f32>,
                out: MatMut<'_, f32>,
            ) {
                ternary::float::matmul($simd, weights, rows, x, out);
            }

            $(#[target_feature(enable = $features)])?
            fn base3(
                weights: Base3View<'_>,
                rows: Range<usize>,
                x: QuantizedRows<'_>,
                out: MatMut<'_, f32>,
            ) {
                ternary::base3::gemm($codes, weights, rows, x, out);
            }

            $(#[target_feature(enable = $features)])?
            fn base3_pack(two_bits: &[Line], packed: &mut [Line]) {
                ternary::base3::pack_tile(two_bits, packed);
            }

            $(#[target_feature(enable = $features)])?
            fn base3_unpack(packed: &[Line], two_bits: &mut [Line], prefetch: PrefetchManager) {
                ternary::base3::unpack_tile(packed, two_bits, prefetch);
            }

            $(#[target_feature(enable = $features)])?
            fn sparse_rows(
                weights: &SparseTernary,
                rows: Range<usize>,
                x: QuantizedRows<'_>,
                out: MatMut<'_, f32>,
            ) {
                sparse::product::rows($codes, weights, rows, x, out);
            }

            $(#[target_feature(enable = $features)])?
            fn sparse_listed(
                weights: &SparseTernary,
                list: &[u32],
                first: usize,
                x: QuantizedRows<'_>,
                token: usize,
                out: &mut [f32],
            ) {
                sparse::product::listed_rows($codes, weights, list, first, &x.row(token), out);
            }

            $(#[target_feature(enable = $features)])?
            fn sparse_columns(
                weights: &SparseTernary,
                rows: Range<usize>,
                x: QuantizedRows<'_>,
                scratch: &mut [Line],
                out: MatMut<'_, f32>,
            ) {
                sparse::product::columns($codes, weights, rows, x, scratch, out);
            }

            $(#[target_feature(enable = $features)])?
            fn from_tiles(order: LineOrder, run: usize, tiles: &[Line], lines: &mut [Line]) {
                sparse::order::from_tiles(order, run, tiles, lines);
            }

            $(#[target_feature(enable = $features)])?
            fn to_tiles(
                order: LineOrder,
                run: usize,
                place: usize,
                lines: &[Line],
                tiles: &mut [Line],
                prefetch: PrefetchManager,
            ) {
                sparse::order::to_tiles(order, run, place, lines, tiles, prefetch);
            }

            $(#[target_feature(enable = $features)])?
            fn dense(
                weights: &DenseWeight,
                rows: Range<usize>,
                x: ActivationView<'_>,
                out: MatMut<'_, f32>,
            ) {
                dense::matmul::matmul($simd, weights, rows, x, out);
            }

            $(#[target_feature(enable = $features)])?
            fn fixed(
                weights: &DenseWeight,
                rows: Range<usize>,
                x: ActivationView<'_>,
                scratch: &mut [Line],
                prepared: &mut PreparedInput,
                out: MatMut<'_, f32>,
            ) {
                dense::fixed::matmul($codes, weights, rows, x, scratch, prepared, out);
            }

            $(#[target_feature(enable = $features)])?
            fn coarse(
                weights: &DenseWeight,
                rows: Range<usize>,
                x: ActivationView<'_>,
                scratch: &mut [Line],
                prepared: &mut PreparedInput,
                out: MatMut<'_, f32>,
            ) {
                dense::fixed::coarse_matmul($codes, weights, rows, x, scratch, prepared, out);
            }

            $(#[target_feature(enable = $features)])?
            fn coarse_errors(weights: &DenseWeight, first: usize, out: &mut [f32]) {
                dense::fixed::coarse::row_errors($codes, weights, first, out);
            }

            $(#[target_feature(enable = $features)])?
            fn decode(dtype: DType, bytes: &[u8], out: &mut [f32]) {
                dense::matmul::decode($simd, dtype, bytes, out);
            }

            KernelSet {
                level: Level::$level,
                vector: &vector::$vector,
                ternary_i8: KernelRow { name: concat!("i8_t2_i32_gemm_", $tile, "_", $isa), kernel: ternary_i8 },
                ternary_tiles: KernelRow { name: concat!("i8", $tokens, "_t2_i32_gemm_", $tile, "_", $isa), kernel: ternary_tiles },
                tile_shape: TileShape::$shape,
                batch: BatchLayout::$batch,
                ternary_f32: KernelRow { name: concat!("f32_t2_f32_gemm_4x16_", $isa), kernel: ternary_f32 },
                base3: KernelRow { name: concat!("i8_b3_i32_gemm_16x320_", $isa), kernel: base3 },
                base3_tokens: $base3,
                base3_pack,
                base3_unpack,
                sparse_rows: KernelRow { name: concat!("i8_t2_i32_gemv_1x256_", $isa), kernel: sparse_rows },
                sparse_listed,
                sparse_columns: KernelRow { name: concat!("i8_t2_i32_gemv_256x1_", $isa), kernel: sparse_columns },
                from_tiles,
                to_tiles,
                dense: KernelRow { name: concat!("f32_blocks_f32_gemm_4x16_", $isa), kernel: dense },
                fixed: KernelRow { name: concat!("x24_k_f32_gemm_1x64_", $isa), kernel: fixed },
                coarse: KernelRow { name: concat!("x8_k_f32_gemm_1x64_", $isa), kernel: coarse },
                coarse_errors,
                decode: KernelRow { name: concat!("blocks_f32_decode_1x16_", $isa), kernel: decode },
            }
        };
    };
}

kernel_set! {
    SCALAR, Scalar, "scalar", SCALAR,
    features(), simd(simd::Scalar), codes(ternary::ScalarCodes), i8("16x16"),
    tiles(Quads, "t16x4"), batch(Rows),
    base3(<ternary::ScalarCodes as ternary::base3::Base3Dot>::TOKENS)
}

#[cfg(target_arch = "x86_64")]
kernel_set! {
    AVX2, Avx2, "avx2", AVX2,
    features("avx2,fma,f16c"),
    simd({
        // SAFETY: the function has the features that the token stands for.
        unsafe { simd::Avx2::assume() }
    }),
    codes({
        // SAFETY: the function has the features that the token stands for.
        unsafe { ternary::Avx2Codes::assume() }
    }),
    i8("16x16"),
    tiles(Pairs, "t32x2"), batch(Rows),
    base3(<ternary::Avx2Codes as ternary::base3::Base3Dot>::TOKENS)
}

#[cfg(target_arch = "x86_64")]
kernel_set! {
    AVX_VNNI, AvxVnni, "avxvnni", AVX2,
    features("avx2,fma,f16c,avxvnni"),
    simd({
        // SAFETY: the function has the features that the token stands for.
        unsafe { simd::Avx2::assume() }
    }),
    codes({
        // SAFETY: the function has the features that the token stands for.
        unsafe { ternary::AvxVnniCodes::assume() }
    }),
    i8("16x16"),
    tiles(Quads, "t16x4"), batch(Rows),
    base3(<ternary::AvxVnniCodes as ternary::base3::Base3Dot>::TOKENS)
}

#[cfg(target_arch = "x86_64")]
kernel_set! {
    AVX512, Avx512, "avx512", AVX512,
    features("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"),
    simd({
        // SAFETY: the function has the features that the token stands for.
        unsafe { simd::Avx512::assume() }
    }),
    codes({
        // SAFETY: the function has the features that the token stands for.
        unsafe { ternary::Avx512Codes::assume() }
    }),
    i8("16x16"),
    tiles(Pairs, "t32x2"), batch(Rows),
    base3(<ternary::Avx512Codes as ternary::base3::Base3Dot>::TOKENS)
}

#[cfg(target_arch = "x86_64")]
kernel_set! {
    AVX512_VNNI, Avx512Vnni, "avx512vnni", AVX512,
    features("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c"),
    simd({
        // SAFETY: the function has the features that the token stands for.
        unsafe { simd::Avx512::assume() }
    }),
    codes({
        // SAFETY: the function has the features that the token stands for.
        unsafe { ternary::Avx512VnniCodes::assume() }
    }),
    i8("16x16"),
    tiles(Quads, "t16x4"), batch(Rows),
    base3(<ternary::Avx512VnniCodes as ternary::base3::Base3Dot>::TOKENS)
}

/// [`AVX512_VNNI`], where codes in base 3 are looked up.
#[cfg(target_arch = "x86_64")]
static AVX512_VBMI: KernelSet = {
    #[target_feature(
        enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx2,fma,f16c"
    )]
    fn base3(
        weights: Base3View<'_>,
        rows: Range<usize>,
        x: QuantizedRows<'_>,
        out: MatMut<'_, f32>,
    ) {
        // SAFETY: the function has the features that the token stands for.
        let codes = unsafe { ternary::base3::avx512::Avx512VbmiCodes::assume() };
        ternary::base3::gemm(codes, weights, rows, x, out);
    }

    KernelSet {
        base3: KernelRow {
            name: "i8_b3_i32_gemm_16x320_vbmi_avx512vnni",
            kernel: base3,
        },
        ..AVX512_VNNI
    }
};

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    /// The set of processors without VBMI is tested on those with it as well.
    #[test]
    fn avx512_vnni_without_vbmi_passes() {
        let level = Level::Avx512Vnni;
        if level.supported() {
            let kernels = Kernels::of_set(&AVX512_VNNI);
            assert_eq!(kernels.set.base3.name, "i8_b3_i32_gemm_16x320_avx512vnni");
            assert!(crate::self_test(kernels).is_ok());
        }
    }
}
