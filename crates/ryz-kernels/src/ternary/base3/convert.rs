//! From 2 bits to 1.6 and back, a tile at a time. Loops over bytes, which every level's registers take 32 or 64 of.

use ryz_tmac::PrefetchManager;

use super::{BLOCK_LINES, BLOCK_UNITS, UNIT_LINES};
use crate::ternary::Line;

/// Lines of a block in 2 bits.
const TWO_BIT_LINES: usize = BLOCK_UNITS * UNIT_LINES;

/// Packs the lines of a tile in 2 bits, without code 3, into [`super::stored_lines`] of 1.6.
#[inline(always)]
pub(crate) fn pack_tile(two_bits: &[Line], packed: &mut [Line]) {
    let (blocks, rest) = two_bits.as_chunks::<TWO_BIT_LINES>();
    let (packed, of_rest) = packed.split_at_mut(blocks.len() * BLOCK_LINES);
    for (block, packed) in blocks.iter().zip(packed.as_chunks_mut().0) {
        pack_block(block, packed);
    }
    of_rest.copy_from_slice(rest);
}

/// What [`pack_tile`] made, in 2 bits again.
#[inline(always)]
pub(crate) fn unpack_tile(packed: &[Line], two_bits: &mut [Line], prefetch: PrefetchManager) {
    let (blocks, of_rest) = two_bits.as_chunks_mut::<TWO_BIT_LINES>();
    let (packed, rest) = packed.split_at(blocks.len() * BLOCK_LINES);
    for (packed, block) in packed.as_chunks().0.iter().zip(blocks) {
        unpack_block(packed, block, prefetch);
    }
    of_rest.copy_from_slice(rest);
}

#[inline(always)]
fn pack_block(block: &[Line; TWO_BIT_LINES], packed: &mut [Line; BLOCK_LINES]) {
    for (j, line) in packed.iter_mut().enumerate() {
        // Four columns of each unit are a field of one line of it.
        let (at, field) = (j / 4, 2 * (j % 4));
        for (i, byte) in line.0.iter_mut().enumerate() {
            *byte = 0;
            for unit in (0..BLOCK_UNITS).rev() {
                *byte = 3 * *byte + (block[unit * UNIT_LINES + at].0[i] >> field & 3);
            }
        }
    }
}

#[inline(always)]
fn unpack_block(
    packed: &[Line; BLOCK_LINES],
    block: &mut [Line; TWO_BIT_LINES],
    prefetch: PrefetchManager,
) {
    for (at, lines) in packed.as_chunks::<4>().0.iter().enumerate() {
        let mut planes = [[0; 64]; BLOCK_UNITS];
        for line in lines {
            prefetch.ahead(line);
        }
        for i in 0..64 {
            let codes = [
                codes_of(lines[0].0[i]),
                codes_of(lines[1].0[i]),
                codes_of(lines[2].0[i]),
                codes_of(lines[3].0[i]),
            ];
            for unit in 0..BLOCK_UNITS {
                let [a, b, c, d] = codes.map(|codes| codes[unit]);
                planes[unit][i] = a | b << 2 | c << 4 | d << 6;
            }
        }
        for unit in 0..BLOCK_UNITS {
            block[unit * UNIT_LINES + at] = Line(planes[unit]);
        }
    }
}

/// A number modulo 3·p is one modulo p: less p, where that does not wrap round, twice.
#[inline(always)]
fn modulo(number: u8, p: u8) -> u8 {
    let once = number.min(number.wrapping_sub(p));
    once.min(once.wrapping_sub(p))
}

/// The places of a number in base 3, without a division: what a place leaves is 0, p or 2p, and an and or a shift tells them apart.
#[inline(always)]
fn codes_of(number: u8) -> [u8; BLOCK_UNITS] {
    let below_81 = modulo(number, 81);
    let below_27 = modulo(below_81, 27);
    let below_9 = modulo(below_27, 9);
    let below_3 = modulo(below_9, 3);
    [
        below_3,
        (below_9 - below_3 + 2) >> 2,    // 0, 3, 6
        (below_27 - below_9) & 3,        // 0, 9, 18
        (below_81 - below_27 + 10) >> 5, // 0, 27, 54
        (number - below_81) & 3,         // 0, 81, 162
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_those_of_division() {
        for number in 0..243u8 {
            let expected = [1, 3, 9, 27, 81].map(|p| number / p % 3);
            assert_eq!(codes_of(number), expected, "{number}");
        }
    }

    /// Column 4j + b of unit k is place k of byte 4r + b of line j, as the module says.
    #[test]
    fn codes_lie_as_is_written_and_go_back() {
        let code = |row: usize, col: usize| (row * 7 + col * 5 + col / 9) % 3;
        let units = 12; // two blocks and two units
        let mut two_bits = vec![Line([0; 64]); units * UNIT_LINES];
        for row in 0..16 {
            for col in 0..units * 64 {
                let byte = &mut two_bits[col / 16].0[4 * row + col % 4];
                *byte |= (code(row, col) as u8) << (2 * (col % 16 / 4));
            }
        }
        let mut packed = vec![Line([0xff; 64]); 2 * BLOCK_LINES + 2 * UNIT_LINES];
        pack_tile(&two_bits, &mut packed);
        for row in 0..16 {
            for col in 0..2 * 320 {
                let (block, unit, col_of_unit) = (col / 320, col % 320 / 64, col % 64);
                let line = &packed[block * BLOCK_LINES + col_of_unit / 4];
                let place = usize::from(line.0[4 * row + col % 4]) / 3usize.pow(unit as u32) % 3;
                assert_eq!(place, code(row, col), "row {row}, column {col}");
            }
        }
        let mut back = vec![Line([0xff; 64]); two_bits.len()];
        unpack_tile(&packed, &mut back, PrefetchManager::OFF);
        assert!(two_bits.iter().zip(&back).all(|(a, b)| a.0 == b.0));
    }
}
