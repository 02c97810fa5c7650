//! Scales of a ternary matrix: one, one a row, or one a group of columns.

use ryz_tmac::{AlignedVec, Arena, BufferKind, MemoryError};

use super::ROW_TILE;
use crate::{math, simd::Simd};

/// How many scales a ternary matrix has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScaleLayout {
    /// One.
    PerTensor,
    /// One for each row.
    PerRow,
    /// One for each group of this many columns of a row: 64, 128 or 256.
    PerGroup(usize),
}

/// The scales themselves. Group scales stay the halves that the file has.
#[derive(Debug)]
#[allow(clippy::enum_variant_names, reason = "the names of the layouts")]
pub(crate) enum Scales {
    /// The scale.
    PerTensor(f32),
    /// (rows, padded to whole tiles)
    PerRow(AlignedVec<f32>),
    /// (tile, group, row of the tile), halves
    PerGroup {
        group: usize,
        groups: usize,
        halves: AlignedVec<[u16; ROW_TILE]>,
    },
}

impl Scales {
    pub(crate) fn layout(&self) -> ScaleLayout {
        match self {
            Self::PerTensor(_) => ScaleLayout::PerTensor,
            Self::PerRow(_) => ScaleLayout::PerRow,
            Self::PerGroup { group, .. } => ScaleLayout::PerGroup(*group),
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::PerTensor(_) => 4,
            Self::PerRow(scales) => size_of_val::<[f32]>(scales),
            Self::PerGroup { halves, .. } => size_of_val::<[[u16; ROW_TILE]]>(halves),
        }
    }

    /// The scale of one weight.
    pub(crate) fn at(&self, tile: usize, row: usize, col: usize) -> f32 {
        match self {
            Self::PerTensor(scale) => *scale,
            Self::PerRow(scales) => scales[tile * ROW_TILE + row],
            Self::PerGroup {
                group,
                groups,
                halves,
            } => math::f16_to_f32(halves[tile * groups + col / group][row]),
        }
    }

    /// The scales of a tile's rows in one of its groups; where there are none, the whole row is one.
    #[inline(always)]
    pub(crate) fn of_rows<S: Simd>(&self, s: S, tile: usize, group: usize) -> [f32; ROW_TILE] {
        let mut scales = [0.0; ROW_TILE];
        match self {
            Self::PerTensor(scale) => scales = [*scale; ROW_TILE],
            Self::PerRow(rows) => scales = rows.as_chunks().0[tile],
            Self::PerGroup { groups, halves, .. } => {
                s.store(s.load_f16(&halves[tile * groups + group]), &mut scales);
            }
        }
        scales
    }

    /// Makes equal group scales one, a row's or the tensor's. A zero stands in for any scale: the packer writes it where
    /// all weights of a group are zero, and only there.
    pub(crate) fn collapse(self, arena: &Arena) -> Result<Self, MemoryError> {
        let Self::PerGroup { groups, halves, .. } = &self else {
            return Ok(self);
        };
        let mut tensor = Some(0u16);
        let tiles = halves.len() / groups;
        let mut rows = vec![0u16; tiles * ROW_TILE];
        for (tile, row_scales) in halves
            .chunks_exact(*groups)
            .zip(rows.chunks_exact_mut(ROW_TILE))
        {
            for group in tile {
                for (known, &scale) in row_scales.iter_mut().zip(group) {
                    match (*known, scale) {
                        (_, 0) => {}
                        (0, _) => *known = scale,
                        (known, scale) if known == scale => {}
                        _ => return Ok(self),
                    }
                }
            }
            for &scale in &*row_scales {
                tensor = match (tensor, scale) {
                    (tensor, 0) => tensor,
                    (Some(0), scale) => Some(scale),
                    (Some(known), scale) if known == scale => tensor,
                    _ => None,
                };
            }
        }
        if let Some(scale) = tensor {
            return Ok(Self::PerTensor(math::f16_to_f32(scale)));
        }
        let mut scales = arena.allocate_slice::<f32>(rows.len(), BufferKind::Weights)?;
        for (scale, half) in scales.iter_mut().zip(rows) {
            *scale = math::f16_to_f32(half);
        }
        Ok(Self::PerRow(scales))
    }
}
