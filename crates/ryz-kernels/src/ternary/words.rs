//! A row of a file's ternary blocks as the words of its lines: 16 columns each, column c in byte c mod 4, bits 2·(c div 4).
//!
//! Blocks of 2 bits are not taken apart into codes: a word of the lines is a transposition of the 2-bit fields of the
//! file's words, which a few shifts and masks do for all bytes at once.

use ryz_format::{DType, TensorView};

use super::LINE_COLS;

/// A word of zeroes: code 1 everywhere.
pub(super) const ZEROES: u32 = 0x5555_5555;

/// Whether a code 3 (+2) is among the words.
pub(super) fn have_code_3(words: &[u32]) -> bool {
    let both = words.iter().fold(0, |or, word| or | (word & word >> 1));
    both & 0x5555_5555 != 0
}

/// The words of row `row`, and its scales as [`TensorView::unpack_row`] gives them; words past the last column are 0, and
/// `codes` is room for a code of each column of all words.
pub(super) fn unpack(
    view: &TensorView<'_>,
    row: usize,
    words: &mut [u32],
    scales: &mut [f32],
    codes: &mut [u8],
) {
    let used = view.cols() / LINE_COLS;
    match view.dtype() {
        DType::TQ2_0 => {
            let blocks = words.as_chunks_mut::<16>().0.iter_mut();
            let halves = view.row(row).as_chunks::<66>().0.iter().zip(scales);
            for (words, (block, scale)) in blocks.zip(halves) {
                let (bytes, half) = block.split_at(64);
                for (words, bytes) in words.as_chunks_mut().0.iter_mut().zip(bytes.as_chunks().0) {
                    *words = interleaved(bytes);
                }
                *scale = half::f16::from_le_bytes([half[0], half[1]]).to_f32();
            }
        }
        DType::I2S => {
            let blocks = view.row(row).as_chunks::<32>().0;
            for (words, bytes) in words.as_chunks_mut::<8>().0.iter_mut().zip(blocks) {
                // The highest bits come first.
                let [g, h, e, f, c, d, a, b] = interleaved(bytes);
                *words = [a, b, c, d, e, f, g, h];
            }
            scales[0] = view.scale();
        }
        DType::Q2_0G64 | DType::Q2_0G128 | DType::PQ2_0 => {
            let dtype = view.dtype();
            let blocks = words.chunks_mut(dtype.block_values() / LINE_COLS);
            let bytes = view.row(row).chunks_exact(dtype.block_bytes());
            for ((words, block), scale) in blocks.zip(bytes).zip(scales) {
                let (half, bytes) = block.split_at(2);
                for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
                    *word = consecutive(*bytes);
                }
                *scale = half::f16::from_le_bytes([half[0], half[1]]).to_f32();
            }
        }
        DType::Q1_0 => {
            let blocks = words.as_chunks_mut::<8>().0.iter_mut();
            let bytes = view.row(row).as_chunks::<18>().0.iter();
            for ((words, block), scale) in blocks.zip(bytes).zip(scales) {
                let (half, bytes) = block.split_at(2);
                for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
                    *word = of_bits(*bytes);
                }
                *scale = half::f16::from_le_bytes([half[0], half[1]]).to_f32();
            }
        }
        _ => {
            view.unpack_row(row, &mut codes[..view.cols()], scales);
            for (word, codes) in words.iter_mut().zip(codes.as_chunks().0) {
                *word = of_codes(codes);
            }
            return; // the room past the last column is 0 and stays so
        }
    }
    words[used..].fill(0);
}

fn of_codes(codes: &[u8; LINE_COLS]) -> u32 {
    let words: [u32; 4] = bytemuck::cast(*codes);
    let [a, b, c, d] = words.map(u32::from_le);
    a | b << 2 | c << 4 | d << 6
}

/// 16 bits, the low ones first, as codes 0 and 2.
fn of_bits(bytes: [u8; 2]) -> u32 {
    let bits = u32::from(u16::from_le_bytes(bytes));
    // Bit m of a nibble goes to bit 0 of byte m: times 2^(7·m) it lies at 8·m, and no other product does.
    let spread = |nibble: u32| (nibble * 0x0020_4081) & 0x0101_0101;
    let field = |k: u32| spread((bits >> (4 * k)) & 15) << (2 * k + 1);
    field(0) | field(1) | field(2) | field(3)
}

/// 128 codes of which number 32·l + m is in byte m, bits 2·l.
fn interleaved(bytes: &[u8; 32]) -> [u32; 8] {
    let words: [[u8; 4]; 8] = bytemuck::cast(*bytes);
    let [a, b, c, d, e, f, g, h] = words.map(u32::from_le_bytes);
    let ([a, c, e, g], [b, d, f, h]) = (transposed([a, b, c, d]), transposed([e, f, g, h]));
    [a, b, c, d, e, f, g, h]
}

/// Field l of word k becomes field k of word l, in each byte.
fn transposed([mut a, mut b, mut c, mut d]: [u32; 4]) -> [u32; 4] {
    for (low, high) in [(&mut a, &mut c), (&mut b, &mut d)] {
        let change = ((*low >> 4) ^ *high) & 0x0f0f_0f0f;
        *high ^= change;
        *low ^= change << 4;
    }
    for (low, high) in [(&mut a, &mut b), (&mut c, &mut d)] {
        let change = ((*low >> 2) ^ *high) & 0x3333_3333;
        *high ^= change;
        *low ^= change << 2;
    }
    [a, b, c, d]
}

/// 16 codes of which number 4·i + j is in byte i, bits 2·j.
fn consecutive(bytes: [u8; 4]) -> u32 {
    let mut word = u32::from_le_bytes(bytes);
    let change = ((word >> 6) ^ word) & 0x00cc_00cc;
    word ^= change ^ change << 6;
    let change = ((word >> 12) ^ word) & 0x0000_f0f0;
    word ^ change ^ change << 12
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every type, against its own decoder, on bytes of a small generator.
    #[test]
    fn words_hold_the_codes_that_the_decoder_gives() {
        let mut state = 5u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let types = [
            DType::TQ1_0,
            DType::TQ2_0,
            DType::I2S,
            DType::Q2_0G64,
            DType::Q2_0G128,
            DType::Q1_0,
            DType::PQ2_0,
            DType::PTQ1_0,
        ];
        for dtype in types {
            let (rows, cols) = (3, 512);
            let len = rows * dtype.row_bytes(cols).unwrap();
            let bytes: Vec<u8> = (0..len).map(|_| next()).collect();
            let scale = if dtype.has_tensor_scale() { 0.5 } else { 1.0 };
            let view = TensorView::with_scale("w", dtype, rows, cols, &bytes, scale).unwrap();
            for row in 0..rows {
                let mut expected = (vec![0; cols], vec![0.0; view.scales_per_row()]);
                view.unpack_row(row, &mut expected.0, &mut expected.1);
                // With room past the last column.
                let mut words = vec![7; cols / LINE_COLS + 4];
                let mut codes = vec![0; words.len() * LINE_COLS];
                let mut scales = vec![0.0; view.scales_per_row()];
                unpack(&view, row, &mut words, &mut scales, &mut codes);
                let code = |col: usize| {
                    let c = col % LINE_COLS;
                    (words[col / LINE_COLS] >> (8 * (c % 4) + 2 * (c / 4)) & 3) as u8
                };
                let got: Vec<u8> = (0..cols).map(code).collect();
                assert_eq!(got, expected.0, "{dtype}");
                let bits = |scales: &[f32]| scales.iter().map(|s| s.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&scales), bits(&expected.1), "{dtype}");
                assert_eq!(words[cols / LINE_COLS..], [0; 4], "{dtype}");
                assert_eq!(have_code_3(&words), expected.0.contains(&3));
            }
        }
    }
}
