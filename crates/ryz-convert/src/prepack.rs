//! Rows of codes in the kernels' layout, described in `docs/prepacked.md`.

use half::f16;
use ryz_format::DType;

/// Rows of a tile, and the multiple to which columns are padded.
const TILE: (usize, usize) = DType::PREPACKED_TILE;
/// Rows and columns of a line of 64 bytes.
const LINE: usize = 16;

/// Collects rows until a tile is full.
pub(crate) struct Prepacker {
    /// (line of a tile, 64 bytes)
    lines: Vec<[u8; 64]>,
    /// Rows in `lines`.
    rows: usize,
    /// Weights that share a scale; `None` if all do.
    group: Option<usize>,
    /// (group, row of the tile) of the current tile, then of all tiles.
    tile_scales: Vec<[u16; TILE.0]>,
    scales: Vec<[u16; TILE.0]>,
    /// A padded row.
    codes: Vec<u8>,
}

impl Prepacker {
    pub(crate) fn new(cols: usize, group: usize, tensor_scale: bool) -> Prepacker {
        let padded = cols.next_multiple_of(TILE.1);
        let groups = if tensor_scale { 0 } else { cols / group };
        Prepacker {
            lines: vec![[0; 64]; padded / LINE],
            rows: 0,
            group: (!tensor_scale).then_some(group),
            tile_scales: vec![[0; TILE.0]; groups],
            scales: Vec::new(),
            codes: vec![0; padded],
        }
    }

    /// Adds the next row; appends the tile's lines to `out` when it is full.
    pub(crate) fn row(&mut self, codes: &[u8], scales: &[f32], out: &mut Vec<u8>) {
        self.codes[..codes.len()].copy_from_slice(codes);
        if let Some(group) = self.group {
            let codes = &mut self.codes[..codes.len()];
            let groups = codes.chunks_mut(group).zip(scales);
            for ((codes, &scale), of_tile) in groups.zip(&mut self.tile_scales) {
                let half = f16::from_f32(scale);
                // A scale of 0 means that all weights are 0; all such groups use it.
                if half == f16::ZERO {
                    codes.fill(1);
                }
                let zeroes = codes.iter().all(|&code| code == 1);
                of_tile[self.rows] = if zeroes { 0 } else { half.to_bits() };
            }
        }
        for (line, codes) in self.lines.iter_mut().zip(self.codes.chunks_exact(LINE)) {
            for (byte, out) in line[4 * self.rows..][..4].iter_mut().enumerate() {
                *out = (0..4).fold(0, |bits, k| bits | codes[4 * k + byte] << (2 * k));
            }
        }
        self.rows += 1;
        if self.rows == TILE.0 {
            self.flush(out);
        }
    }

    /// Appends the rest of the last tile, and the groups' scales.
    pub(crate) fn finish(mut self, out: &mut Vec<u8>) {
        if self.rows > 0 {
            self.flush(out);
        }
        out.extend(
            self.scales
                .iter()
                .flatten()
                .flat_map(|half| half.to_le_bytes()),
        );
    }

    fn flush(&mut self, out: &mut Vec<u8>) {
        out.extend(self.lines.iter().flatten());
        self.lines.fill([0; 64]);
        self.scales.extend(&self.tile_scales);
        self.tile_scales.fill([0; TILE.0]);
        self.rows = 0;
    }
}
