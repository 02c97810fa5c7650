//! Packing a file's ternary blocks into lines, any rows at a time.

use std::{
    ops::Range,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
};

use half::f16;
use ryz_format::{DType, TensorView};
use ryz_tmac::{AlignedVec, Arena, BufferKind, LINE, MappedSlice, ReadOnlySlice};

use super::{
    LINE_COLS, Line, MAX_COLS, PackedTernary, Packing, ROW_TILE, Scales, UNIT_LINES, words,
};
use crate::{KernelError, Kernels, activations::UNIT};

/// A ternary matrix that is being packed, piece by piece and by several threads.
///
/// ```
/// use ryz_format::{DType, TensorView};
/// use ryz_kernels::{Kernels, ScaleLayout, TernaryPacker};
/// use ryz_tmac::{Arena, ArenaConfig};
///
/// let bytes = [0x55; 32 * 66]; // 32 rows of one TQ2_0 block
/// let view = TensorView::new("w", DType::TQ2_0, 32, 256, &bytes).unwrap();
/// let arena = Arena::new(ArenaConfig::default());
/// let mut packer = TernaryPacker::new("w", DType::TQ2_0, 32, 256, Kernels::default(), &arena)?;
/// for mut chunk in packer.chunks(16) {
///     chunk.pack(&view.slice_rows(chunk.rows()))?;
/// }
/// assert_eq!(packer.finish(&arena)?.scale_layout(), ScaleLayout::PerTensor);
/// # Ok::<(), ryz_kernels::KernelError>(())
/// ```
#[derive(Debug)]
pub struct TernaryPacker {
    name: String,
    dtype: DType,
    rows: usize,
    cols: usize,
    kernels: Kernels,
    lines: ReadOnlySlice<Line>,
    halves: AlignedVec<[u16; ROW_TILE]>,
    found: TensorCheck,
}

/// What the chunks found out about the whole tensor.
#[derive(Debug, Default)]
struct TensorCheck {
    code_3: AtomicBool,
    /// The bits of the tensor's scale, for the types that have one.
    tensor_scale: AtomicU32,
}

/// Scale groups of a row in a file's blocks; none where the tensor has one scale.
fn groups(dtype: DType, cols: usize) -> usize {
    match dtype.has_tensor_scale() {
        true => 0,
        false => cols.div_ceil(dtype.block_values()),
    }
}

/// Whether a code has both bits, +2; in a column or row of padding as well, which only chooses the kernels.
fn has_code_3(lines: &[Line]) -> bool {
    // A stretch has no branches: it is read as fast as memory gives it.
    lines.chunks(64).any(|stretch| {
        let mut both = [0; 8];
        for line in stretch {
            let words: &[u64; 8] = bytemuck::cast_ref(line);
            for (both, word) in both.iter_mut().zip(words) {
                *both |= word & word >> 1;
            }
        }
        both.iter().any(|both| both & 0x5555_5555_5555_5555 != 0)
    })
}

impl TernaryPacker {
    /// Takes the memory of a `rows` × `cols` matrix named `name`.
    ///
    /// # Errors
    /// [`KernelError::UnsupportedType`] for a type that is not ternary, [`KernelError::Shape`] for one too wide or
    /// empty, [`KernelError::Memory`].
    pub fn new(
        name: &str,
        dtype: DType,
        rows: usize,
        cols: usize,
        kernels: Kernels,
        arena: &Arena,
    ) -> Result<Self, KernelError> {
        Self::with_lines(name, dtype, (rows, cols), kernels, arena, None)
    }

    fn with_lines(
        name: &str,
        dtype: DType,
        (rows, cols): (usize, usize),
        kernels: Kernels,
        arena: &Arena,
        lines: Option<MappedSlice<Line>>,
    ) -> Result<Self, KernelError> {
        if !dtype.is_ternary() {
            return Err(KernelError::UnsupportedType {
                tensor: name.to_owned(),
                expected: "a ternary type",
                got: dtype,
            });
        }
        let shape = |what, expected, got| KernelError::Shape {
            tensor: name.to_owned(),
            what,
            expected,
            got,
        };
        if cols == 0 || cols > MAX_COLS {
            return Err(shape("columns from 1 to", MAX_COLS, cols));
        }
        // Far above any model; keeps the products below within usize.
        const MAX_ROWS: usize = 1 << 32;
        if rows == 0 || rows > MAX_ROWS {
            return Err(shape("rows from 1 to", MAX_ROWS, rows));
        }
        let tiles = rows.div_ceil(ROW_TILE);
        let count = Self::line_count(rows, cols);
        let lines: ReadOnlySlice<Line> = match lines {
            Some(lines) => lines.into(),
            None => arena.allocate_slice(count, BufferKind::Weights)?.into(),
        };
        assert_eq!(lines.len(), count, "lines of {name}");
        let groups = groups(dtype, cols);
        Ok(Self {
            name: name.to_owned(),
            dtype,
            rows,
            cols,
            kernels,
            lines,
            halves: arena.allocate_slice(tiles * groups, BufferKind::Weights)?,
            found: TensorCheck::default(),
        })
    }

    /// Bytes that a packer of this shape takes from its arena: those of the packed matrix, or a little more, for equal
    /// group scales become one in the end. 0 for a type that is not ternary.
    pub fn memory(dtype: DType, rows: usize, cols: usize) -> usize {
        if !dtype.is_ternary() {
            return 0;
        }
        let groups = groups(dtype, cols);
        let tiles = rows.div_ceil(ROW_TILE);
        let lines = cols.div_ceil(UNIT).saturating_mul(UNIT_LINES * LINE);
        let halves = tiles.saturating_mul(groups * size_of::<[u16; ROW_TILE]>());
        tiles
            .saturating_mul(lines)
            .saturating_add(halves.div_ceil(LINE).saturating_mul(LINE))
    }

    /// Cuts the matrix into chunks of `rows` rows, a multiple of [`ROW_TILE`] (the last may be shorter), which may be
    /// packed in any order and on any thread.
    ///
    /// # Panics
    /// When `rows` is no multiple of [`ROW_TILE`] or 0, or the lines are a mapped file's.
    pub fn chunks(&mut self, rows: usize) -> impl ExactSizeIterator<Item = PackChunk<'_>> {
        assert!(
            rows > 0 && rows.is_multiple_of(ROW_TILE),
            "{rows} rows are no whole tiles"
        );
        let tiles = rows / ROW_TILE;
        let total = self.rows;
        let groups = groups(self.dtype, self.cols);
        let lines_per_tile = self.cols.div_ceil(UNIT) * UNIT_LINES;
        let mut halves: &mut [[u16; ROW_TILE]] = &mut self.halves;
        let (name, dtype, cols, found) = (self.name.as_str(), self.dtype, self.cols, &self.found);
        let ReadOnlySlice::Owned(lines) = &mut self.lines else {
            panic!("lines of {name} that are read where they are cannot be packed");
        };
        lines
            .chunks_mut(tiles * lines_per_tile)
            .enumerate()
            .map(move |(index, lines)| {
                let here = lines.len() / lines_per_tile * groups;
                let (first, rest) = std::mem::take(&mut halves).split_at_mut(here);
                halves = rest;
                let start = index * rows;
                PackChunk {
                    name,
                    dtype,
                    cols,
                    groups,
                    rows: start..total.min(start + rows),
                    lines,
                    halves: first,
                    found,
                }
            })
    }

    /// Lines of a matrix of this shape.
    pub fn line_count(rows: usize, cols: usize) -> usize {
        let lines = cols.div_ceil(UNIT).saturating_mul(UNIT_LINES);
        rows.div_ceil(ROW_TILE).saturating_mul(lines)
    }

    /// As [`TernaryPacker::new`], over the lines of a prepacked tensor that are read where they are; its scales are still
    /// to be read ([`TernaryPacker::prepacked_mut`]).
    ///
    /// # Errors
    /// As [`TernaryPacker::new`].
    ///
    /// # Panics
    /// When the lines are not [`TernaryPacker::line_count`].
    pub fn of_lines(
        name: &str,
        dtype: DType,
        shape: (usize, usize),
        lines: MappedSlice<Line>,
        kernels: Kernels,
        arena: &Arena,
    ) -> Result<Self, KernelError> {
        Self::with_lines(name, dtype, shape, kernels, arena, Some(lines))
    }

    /// Bytes of the lines.
    pub fn line_bytes(&self) -> usize {
        size_of_val::<[Line]>(&self.lines)
    }

    /// The lines (empty when they are read where they are) and the groups' scales (fp16, little-endian) of a prepacked
    /// tensor, to be read into from a file; [`TernaryPacker::finish_prepacked`] is next.
    pub fn prepacked_mut(&mut self) -> (&mut [u8], &mut [u8]) {
        let lines = match &mut self.lines {
            ReadOnlySlice::Owned(lines) => bytemuck::cast_slice_mut(lines),
            ReadOnlySlice::Mapped(_) => &mut [],
        };
        (lines, bytemuck::cast_slice_mut(&mut self.halves))
    }

    /// The packed matrix out of what was read into [`TernaryPacker::prepacked_mut`]; `scale` is the tensor's where its
    /// type has one.
    ///
    /// # Errors
    /// [`KernelError::InvalidScale`] for a scale that is not finite, or is 0 for weights that are not all 0;
    /// [`KernelError::Memory`].
    pub fn finish_prepacked(
        mut self,
        scale: f32,
        arena: &Arena,
    ) -> Result<PackedTernary, KernelError> {
        let invalid = |row, got| KernelError::InvalidScale {
            tensor: self.name.clone(),
            row,
            got,
        };
        if !scale.is_finite() {
            return Err(invalid(0, scale));
        }
        self.found.tensor_scale = AtomicU32::new(scale.to_bits());
        let lines_per_tile = self.cols.div_ceil(UNIT) * UNIT_LINES;
        let is_padding = |tile, row| tile * ROW_TILE + row >= self.rows;
        let lines: &[Line] = &self.lines;
        self.found.code_3 = AtomicBool::new(has_code_3(lines));
        let group = self.dtype.block_values();
        let groups = groups(self.dtype, self.cols);
        for (index, scales) in self.halves.iter_mut().enumerate() {
            let (tile, place) = (index / groups, index % groups);
            for (row, half) in scales.iter_mut().enumerate() {
                *half = u16::from_le(*half);
                let scale = f16::from_bits(*half);
                if is_padding(tile, row) {
                    *half = 0;
                    continue;
                }
                // What stands for zeroes must be zeroes (see collapse); all else must be a number.
                let of_group = place * group / LINE_COLS..(place + 1) * group / LINE_COLS;
                let lines = &lines[tile * lines_per_tile..][..lines_per_tile][of_group];
                let zeroes = || lines.iter().all(|line| line.word(row) == 0x5555_5555);
                if !scale.is_finite() || (*half << 1 == 0 && !(*half == 0 && zeroes())) {
                    return Err(invalid(tile * ROW_TILE + row, scale.to_f32()));
                }
            }
        }
        self.finish(arena)
    }

    /// The packed matrix, once every chunk is packed. Rows of chunks that were not packed are undefined.
    ///
    /// # Errors
    /// [`KernelError::Memory`].
    pub fn finish(self, arena: &Arena) -> Result<PackedTernary, KernelError> {
        let scales = if self.dtype.has_tensor_scale() {
            Scales::PerTensor(f32::from_bits(self.found.tensor_scale.into_inner()))
        } else {
            let group = self.dtype.block_values();
            let groups = self.cols.div_ceil(group);
            Scales::PerGroup {
                group,
                groups,
                halves: self.halves,
            }
            .collapse(arena)?
        };
        Ok(PackedTernary {
            rows: self.rows,
            cols: self.cols,
            max_code: if self.found.code_3.into_inner() { 3 } else { 2 },
            packing: Packing::TwoBits,
            lines: self.lines,
            scales,
            kernels: self.kernels,
        })
    }
}

/// Some rows of a [`TernaryPacker`].
#[derive(Debug)]
pub struct PackChunk<'a> {
    name: &'a str,
    dtype: DType,
    cols: usize,
    groups: usize,
    rows: Range<usize>,
    lines: &'a mut [Line],
    halves: &'a mut [[u16; ROW_TILE]],
    found: &'a TensorCheck,
}

impl PackChunk<'_> {
    /// Its rows in the matrix.
    pub fn rows(&self) -> Range<usize> {
        self.rows.clone()
    }

    /// Packs `view`, which is exactly these rows.
    ///
    /// # Errors
    /// [`KernelError::InvalidCode`] for code 3 in a type that has none, [`KernelError::InvalidScale`] for a scale that is
    /// not finite.
    ///
    /// # Panics
    /// When `view` has another type or shape.
    pub fn pack(&mut self, view: &TensorView<'_>) -> Result<(), KernelError> {
        self.pack_rows_of(view, 0)
    }

    /// Packs these rows out of `view`, which holds the matrix from row `first` on.
    ///
    /// # Errors
    /// As [`PackChunk::pack`].
    ///
    /// # Panics
    /// When `view` has another type or width, or does not hold the rows.
    pub fn pack_rows_of(&mut self, view: &TensorView<'_>, first: usize) -> Result<(), KernelError> {
        assert_eq!(
            (view.dtype(), view.cols()),
            (self.dtype, self.cols),
            "type and width of {}",
            self.name
        );
        assert!(
            first + self.rows.len() <= view.rows(),
            "rows {:?} of {}",
            self.rows,
            self.name
        );
        let lines_per_tile = self.cols.div_ceil(UNIT) * UNIT_LINES;
        let mut codes = vec![0; lines_per_tile * LINE_COLS];
        let mut words = vec![0; lines_per_tile];
        let mut scales = vec![0.0; view.scales_per_row()];
        for row in 0..self.rows.len() {
            words::unpack(view, first + row, &mut words, &mut scales, &mut codes);
            self.check(row, &words, &scales)?;
            let (tile, row) = (row / ROW_TILE, row % ROW_TILE);
            if self.groups > 0 {
                let group = self.dtype.block_values() / LINE_COLS;
                let halves = &mut self.halves[tile * self.groups..][..self.groups];
                for ((words, &scale), halves) in words.chunks_mut(group).zip(&scales).zip(halves) {
                    // A group of zeroes has scale 0, and only such a group: its scale can then be any (see collapse).
                    if scale == 0.0 {
                        words.fill(words::ZEROES);
                    }
                    let zero = words.iter().all(|&word| word == words::ZEROES);
                    halves[row] = if zero {
                        0
                    } else {
                        f16::from_f32(scale).to_bits()
                    };
                }
            }
            let lines = &mut self.lines[tile * lines_per_tile..][..lines_per_tile];
            for (line, word) in lines.iter_mut().zip(&words) {
                line.0[4 * row..4 * row + 4].copy_from_slice(&word.to_le_bytes());
            }
        }
        Ok(())
    }

    /// Looks for faults of the file, and for code 3 where it is none.
    fn check(&self, row: usize, words: &[u32], scales: &[f32]) -> Result<(), KernelError> {
        let row = self.rows.start + row;
        if words::have_code_3(words) {
            if self.dtype.has_tensor_scale() {
                return Err(KernelError::InvalidCode {
                    tensor: self.name.to_owned(),
                    row,
                    got: 3,
                });
            }
            self.found.code_3.store(true, Ordering::Relaxed);
        }
        if let Some(&got) = scales.iter().find(|scale| !scale.is_finite()) {
            return Err(KernelError::InvalidScale {
                tensor: self.name.to_owned(),
                row,
                got,
            });
        }
        if self.dtype.has_tensor_scale() {
            self.found
                .tensor_scale
                .store(scales[0].to_bits(), Ordering::Relaxed);
        }
        Ok(())
    }
}

impl PackedTernary {
    /// Packs a whole tensor.
    ///
    /// # Errors
    /// As [`TernaryPacker::new`], [`PackChunk::pack`] and [`TernaryPacker::finish`].
    pub fn pack(
        view: &TensorView<'_>,
        kernels: Kernels,
        arena: &Arena,
    ) -> Result<Self, KernelError> {
        let mut packer = TernaryPacker::new(
            view.name(),
            view.dtype(),
            view.rows(),
            view.cols(),
            kernels,
            arena,
        )?;
        let rows = view.rows().next_multiple_of(ROW_TILE);
        for mut chunk in packer.chunks(rows) {
            chunk.pack(view)?;
        }
        packer.finish(arena)
    }
}
