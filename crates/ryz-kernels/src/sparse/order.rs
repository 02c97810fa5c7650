//! The orders of lines, and the way from one to the other.

use ryz_tmac::PrefetchManager;

use crate::{
    Line, ROW_TILE,
    sparse::{LINE_CODES, MAX_RUN, PLANE},
    ternary::LINE_COLS,
};

/// Which codes share a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LineOrder {
    /// 256 columns of one row: rows can be left out.
    Rows,
    /// 256 rows of one column: columns can be left out.
    Columns,
}

impl LineOrder {
    /// Row ranges of products start at multiples of this.
    pub const fn row_granule(self) -> usize {
        match self {
            Self::Rows => ROW_TILE,
            Self::Columns => LINE_CODES,
        }
    }

    /// Whether a matrix of this shape can be in this order: it has whole lines, and sums fit.
    pub const fn fits(self, rows: usize, cols: usize) -> bool {
        match self {
            Self::Rows => rows.is_multiple_of(ROW_TILE) && cols.is_multiple_of(LINE_CODES),
            Self::Columns => {
                rows.is_multiple_of(LINE_CODES)
                    && cols.is_multiple_of(crate::UNIT)
                    && cols <= super::MAX_COLUMNS
            }
        }
    }

    /// Lines of one row or column that lie together, of those that a piece of the layout has: the greatest count of granules up
    /// to [`MAX_RUN`] that divides the matrix into whole pieces.
    pub(crate) const fn run(self, rows: usize) -> usize {
        match self {
            Self::Rows => 1,
            Self::Columns => {
                let mut run = MAX_RUN;
                while !(rows / LINE_CODES).is_multiple_of(run) {
                    run -= 1;
                }
                run
            }
        }
    }

    /// Lines of [`LineOrder::row_granule`] rows, in this order as in tiles.
    pub(crate) const fn granule_lines(self, cols: usize) -> usize {
        self.row_granule() / ROW_TILE * (cols / LINE_COLS)
    }
}

/// Lays the tiles of a piece of `run` granules out anew in `order`.
#[inline(always)]
pub(crate) fn from_tiles(order: LineOrder, run: usize, tiles: &[Line], lines: &mut [Line]) {
    assert_eq!(tiles.len(), lines.len(), "lines of a piece");
    match order {
        LineOrder::Rows => tile_to_rows(tiles, lines),
        LineOrder::Columns => {
            for (place, tiles) in tiles.chunks_exact(tiles.len() / run).enumerate() {
                tiles_to_columns(tiles, lines, run, place);
            }
        }
    }
}

/// Lays the granule at `place` of a piece in `order` out as tiles.
#[inline(always)]
pub(crate) fn to_tiles(
    order: LineOrder,
    run: usize,
    place: usize,
    lines: &[Line],
    tiles: &mut [Line],
    prefetch: PrefetchManager,
) {
    assert_eq!(tiles.len() * run, lines.len(), "lines of a piece");
    match order {
        LineOrder::Rows => rows_to_tile(lines, tiles, prefetch),
        LineOrder::Columns => columns_to_tiles(lines, run, place, tiles, prefetch),
    }
}

/// Tiles of a line of columns.
const TILES: usize = LINE_CODES / ROW_TILE;
/// Those of a plane.
const PLANE_TILES: usize = PLANE / ROW_TILE;

/// Bytes of 16 columns × 256 rows, on the way: (rows' plane or bits, column mod 4, row of the plane).
type Planes = [[[u8; PLANE]; 4]; 4];

#[inline(always)]
fn tiles_to_columns(tiles: &[Line], columns: &mut [Line], run: usize, place: usize) {
    let lines = tiles.len() / TILES;
    for (at, columns) in columns.chunks_exact_mut(LINE_COLS * run).enumerate() {
        let mut planes: Planes = [[[0; PLANE]; 4]; 4];
        for tile in 0..TILES {
            let line = &tiles[tile * lines + at].0;
            let (plane, first) = (tile / PLANE_TILES, tile % PLANE_TILES * ROW_TILE);
            for m in 0..4 {
                for row in 0..ROW_TILE {
                    planes[plane][m][first + row] = line[4 * row + m];
                }
            }
        }
        let of_place = columns.iter_mut().skip(place).step_by(run);
        for (c, column) in of_place.enumerate() {
            let (k, m) = (c / 4, c % 4);
            for j in 0..PLANE {
                let code = |plane: usize| planes[plane][m][j] >> (2 * k) & 3;
                column.0[j] = code(0) | code(1) << 2 | code(2) << 4 | code(3) << 6;
            }
        }
    }
}

#[inline(always)]
fn columns_to_tiles(
    lines: &[Line],
    run: usize,
    place: usize,
    tiles: &mut [Line],
    prefetch: PrefetchManager,
) {
    let tile_lines = tiles.len() / TILES;
    for (at, columns) in lines.chunks_exact(LINE_COLS * run).enumerate() {
        let mut planes: Planes = [[[0; PLANE]; 4]; 4];
        let columns: [&Line; LINE_COLS] = std::array::from_fn(|c| &columns[c * run + place]);
        for column in columns {
            prefetch.ahead(column);
        }
        for (plane, of_plane) in planes.iter_mut().enumerate() {
            for (m, bytes) in of_plane.iter_mut().enumerate() {
                for (j, byte) in bytes.iter_mut().enumerate() {
                    let code = |k: usize| columns[4 * k + m].0[j] >> (2 * plane) & 3;
                    *byte = code(0) | code(1) << 2 | code(2) << 4 | code(3) << 6;
                }
            }
        }
        for tile in 0..TILES {
            let (plane, first) = (tile / PLANE_TILES, tile % PLANE_TILES * ROW_TILE);
            let line: &mut [u32; ROW_TILE] =
                bytemuck::cast_mut::<[u8; 64], _>(&mut tiles[tile * tile_lines + at].0);
            for (row, word) in line.iter_mut().enumerate() {
                let byte = |m: usize| u32::from(planes[plane][m][first + row]);
                *word = (byte(0) | byte(1) << 8 | byte(2) << 16 | byte(3) << 24).to_le();
            }
        }
    }
}

/// Lines of a tile whose codes one line of a row has.
const SPAN: usize = LINE_CODES / LINE_COLS;
/// The low code of each byte of a word.
const LOW: u32 = 0x0303_0303;

#[inline(always)]
fn tile_to_rows(tile: &[Line], rows: &mut [Line]) {
    let spans = tile.len() / SPAN;
    for (at, lines) in tile.as_chunks::<SPAN>().0.iter().enumerate() {
        for row in 0..ROW_TILE {
            let mut words = [0u32; 16];
            for (place, word) in words.iter_mut().enumerate() {
                let (b, k) = (place / 4, place % 4);
                for plane in 0..4 {
                    *word |= (lines[4 * plane + b].word(row) >> (2 * k) & LOW) << (2 * plane);
                }
            }
            rows[row * spans + at] = Line(bytemuck::cast(words.map(u32::to_le)));
        }
    }
}

#[inline(always)]
fn rows_to_tile(rows: &[Line], tile: &mut [Line], prefetch: PrefetchManager) {
    let spans = tile.len() / SPAN;
    for (at, lines) in tile.as_chunks_mut::<SPAN>().0.iter_mut().enumerate() {
        // (word, row)
        let mut turned = [[0u32; ROW_TILE]; 16];
        for row in 0..ROW_TILE {
            let line = &rows[row * spans + at];
            prefetch.ahead(line);
            for word in 0..16 {
                turned[word][row] = line.word(word);
            }
        }
        for plane in 0..4 {
            for b in 0..4 {
                let line: &mut [u32; ROW_TILE] =
                    bytemuck::cast_mut::<[u8; 64], _>(&mut lines[4 * plane + b].0);
                for (row, word) in line.iter_mut().enumerate() {
                    let code = |k: usize| (turned[4 * b + k][row] >> (2 * plane) & LOW) << (2 * k);
                    *word = (code(0) | code(1) | code(2) | code(3)).to_le();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of a small generator.
    fn lines(count: usize) -> Vec<Line> {
        let mut state = 7u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..count)
            .map(|_| Line(std::array::from_fn(|_| next())))
            .collect()
    }

    /// The code of a row and column of tiles.
    fn code_of_tiles(tiles: &[Line], cols: usize, row: usize, col: usize) -> u32 {
        let line = &tiles[row / 16 * (cols / 16) + col / 16];
        let c = col % 16;
        line.word(row % 16) >> (8 * (c % 4) + 2 * (c / 4)) & 3
    }

    #[test]
    fn columns_hold_the_codes_of_the_tiles_and_go_back() {
        let (cols, run) = (192, 3);
        let granule = LineOrder::Columns.granule_lines(cols);
        let tiles = lines(run * granule);
        let mut columns = tiles.clone();
        from_tiles(LineOrder::Columns, run, &tiles, &mut columns);
        for row in 0..256 * run {
            for col in 0..cols {
                let line = &columns[col * run + row / 256].0;
                let code = line[row % 64] >> (2 * (row % 256 / 64)) & 3;
                assert_eq!(u32::from(code), code_of_tiles(&tiles, cols, row, col));
            }
        }
        for (place, tiles) in tiles.chunks_exact(granule).enumerate() {
            let mut back = vec![Line([0; 64]); granule];
            let off = PrefetchManager::OFF;
            to_tiles(LineOrder::Columns, run, place, &columns, &mut back, off);
            assert!(tiles.iter().zip(&back).all(|(a, b)| a.0 == b.0));
        }
    }

    #[test]
    fn runs_divide_matrices_into_whole_pieces() {
        let run = |blocks: usize| LineOrder::Columns.run(256 * blocks);
        assert_eq!(
            [1, 2, 7, 8, 10, 11, 12, 16].map(run),
            [1, 2, 7, 8, 5, 1, 6, 8]
        );
        assert_eq!(LineOrder::Rows.run(2560), 1);
    }

    #[test]
    fn rows_hold_the_codes_of_the_tile_and_go_back() {
        let cols = 768;
        let tiles = lines(LineOrder::Rows.granule_lines(cols));
        let mut rows = tiles.clone();
        from_tiles(LineOrder::Rows, 1, &tiles, &mut rows);
        for row in 0..16 {
            for col in 0..cols {
                let line = &rows[row * (cols / 256) + col / 256];
                let code = line.0[col % 64] >> (2 * (col % 256 / 64)) & 3;
                assert_eq!(u32::from(code), code_of_tiles(&tiles, cols, row, col));
            }
        }
        let mut back = vec![Line([0; 64]); tiles.len()];
        to_tiles(
            LineOrder::Rows,
            1,
            0,
            &rows,
            &mut back,
            PrefetchManager::OFF,
        );
        assert!(tiles.iter().zip(&back).all(|(a, b)| a.0 == b.0));
    }
}
