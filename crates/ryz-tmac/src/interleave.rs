//! Token-interleaved tiles: a cache line holds some channels of many tokens, instead of many
//! channels of one token.
//!
//! ```text
//! float line   16 tokens × 1 channel    | h0[c] h1[c] … h15[c] |
//! int8 line    16 tokens × 4 channels   | h0[c..c+4] h1[c..c+4] … h15[c..c+4] |
//! int8 line    32 tokens × 2 channels   | h0[c..c+2] h1[c..c+2] … h31[c..c+2] |
//! ```
//!
//! In a vector register loaded from such a line, every lane is a token. One broadcast weight
//! applies to all of them, and lanes are never added together. Integer products add neighbouring
//! bytes, pairs (`maddubs`) or fours (`dpbusd`, `sdot`), so an int8 line keeps as many consecutive
//! channels of a token together. A tile's lines are in channel order: a product with all tokens of
//! a tile reads one stream, whatever the stride of the rows was.

use bytemuck::{Pod, Zeroable};

use crate::{LINE, MatMut, MatRef};

/// One line of a tile: `CHANNELS` consecutive channels of each of `TOKENS` tokens, 64 bytes in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct TileLine<T, const TOKENS: usize, const CHANNELS: usize>(pub [[T; CHANNELS]; TOKENS]);

/// 16 tokens × 1 channel of f32.
pub type FloatLine = TileLine<f32, 16, 1>;
/// 16 tokens × 1 sum.
pub type SumLine = TileLine<i32, 16, 1>;
/// 16 tokens × 4 channels of int8: the fours that `dpbusd` and `sdot` add.
pub type QuadLine = TileLine<i8, 16, 4>;
/// 32 tokens × 2 channels of int8: the pairs that `maddubs` adds.
pub type PairLine = TileLine<i8, 32, 2>;

macro_rules! plain {
    ($($line:ty),+) => {
        $(
            const _: () = assert!(size_of::<$line>() == LINE && align_of::<$line>() == LINE);

            // SAFETY: an array of numbers, for which all-zero bytes are valid.
            unsafe impl Zeroable for $line {}
            // SAFETY: 64 bytes of numbers aligned to 64 (asserted): no padding, and any bits are
            // valid.
            unsafe impl Pod for $line {}
        )+
    };
}

plain!(FloatLine, SumLine, QuadLine, PairLine);

impl<T: Copy, const TOKENS: usize, const CHANNELS: usize> TileLine<T, TOKENS, CHANNELS> {
    /// Tokens per tile.
    pub const TOKENS: usize = TOKENS;
    /// Channels per line.
    pub const CHANNELS: usize = CHANNELS;

    /// Lines of a tile with `channels` channels; the last one may be partly padding.
    pub const fn lines(channels: usize) -> usize {
        channels.div_ceil(CHANNELS)
    }

    /// Writes one token's channels into the lines of its tile. Channels past the end of `values`
    /// are unchanged.
    ///
    /// # Panics
    /// When the tile has no such token, or not [`TileLine::lines`] for the values.
    #[inline]
    pub fn set_token(tile: &mut [Self], token: usize, values: &[T]) {
        assert!(token < TOKENS, "token {token} of a tile of {TOKENS}");
        assert_eq!(tile.len(), Self::lines(values.len()), "lines of a tile");
        let (whole, rest) = values.as_chunks::<CHANNELS>();
        for (line, values) in tile.iter_mut().zip(whole) {
            line.0[token] = *values;
        }
        if let Some(line) = tile.get_mut(whole.len()) {
            line.0[token][..rest.len()].copy_from_slice(rest);
        }
    }

    /// Reads one token's channels from the lines of its tile.
    ///
    /// # Panics
    /// As [`TileLine::set_token`].
    #[inline]
    pub fn get_token(tile: &[Self], token: usize, values: &mut [T]) {
        assert!(token < TOKENS, "token {token} of a tile of {TOKENS}");
        assert_eq!(tile.len(), Self::lines(values.len()), "lines of a tile");
        for (values, line) in values.chunks_mut(CHANNELS).zip(tile) {
            values.copy_from_slice(&line.0[token][..values.len()]);
        }
    }

    /// Packs rows (token, channel) into whole tiles: tile t holds the tokens starting at t ·
    /// [`TileLine::TOKENS`]. Padding tokens and channels are unchanged.
    ///
    /// ```
    /// use bytemuck::Zeroable;
    /// use ryz_tmac::{MatRef, QuadLine};
    ///
    /// // 2 tokens of 6 channels: in one tile of two lines.
    /// let rows: [i8; 12] = [1, 2, 3, 4, 5, 6, 11, 12, 13, 14, 15, 16];
    /// let mut tile = [QuadLine::zeroed(); 2];
    /// QuadLine::pack(MatRef::from_slice(&rows, 6), &mut tile);
    /// assert_eq!(tile[0].0[..3], [[1, 2, 3, 4], [11, 12, 13, 14], [0; 4]]);
    /// assert_eq!(tile[1].0[..3], [[5, 6, 0, 0], [15, 16, 0, 0], [0; 4]]);
    /// ```
    ///
    /// # Panics
    /// When the number of lines differs from what the rows need.
    pub fn pack(rows: MatRef<'_, T>, tiles: &mut [Self]) {
        let per_tile = Self::check(tiles.len(), rows.rows(), rows.cols());
        for row in 0..rows.rows() {
            let tile = &mut tiles[row / TOKENS * per_tile..][..per_tile];
            Self::set_token(tile, row % TOKENS, rows.row(row));
        }
    }

    /// Restores the packed rows.
    ///
    /// # Panics
    /// As [`TileLine::pack`].
    pub fn unpack(tiles: &[Self], mut rows: MatMut<'_, T>) {
        let per_tile = Self::check(tiles.len(), rows.rows(), rows.cols());
        for row in 0..rows.rows() {
            let tile = &tiles[row / TOKENS * per_tile..][..per_tile];
            Self::get_token(tile, row % TOKENS, rows.row_mut(row));
        }
    }

    fn check(lines: usize, tokens: usize, channels: usize) -> usize {
        let per_tile = Self::lines(channels);
        let expected = tokens.div_ceil(TOKENS) * per_tile;
        assert_eq!(
            lines, expected,
            "lines of tiles for {tokens} tokens of {channels} channels"
        );
        per_tile
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Packs, checks where each value went, and unpacks.
    fn round_trip<T, const TOKENS: usize, const CHANNELS: usize>(
        tokens: usize,
        channels: usize,
        stride: usize,
        value: impl Fn(usize) -> T,
    ) where
        T: Copy + PartialEq + std::fmt::Debug + Default,
    {
        let rows: Vec<T> = (0..tokens * stride).map(value).collect();
        let view = MatRef::strided(&rows, tokens, channels, stride);
        let per_tile = TileLine::<T, TOKENS, CHANNELS>::lines(channels);
        let empty = TileLine([[T::default(); CHANNELS]; TOKENS]);
        let mut tiles = vec![empty; tokens.div_ceil(TOKENS) * per_tile];
        TileLine::pack(view, &mut tiles);
        for token in 0..tiles.len() / per_tile * TOKENS {
            for channel in 0..per_tile * CHANNELS {
                let line = &tiles[token / TOKENS * per_tile + channel / CHANNELS];
                let got = line.0[token % TOKENS][channel % CHANNELS];
                let inside = token < tokens && channel < channels;
                let expected = match inside {
                    true => rows[token * stride + channel],
                    false => T::default(),
                };
                assert_eq!(got, expected, "token {token}, channel {channel}");
            }
        }
        let mut back = vec![T::default(); tokens * channels];
        TileLine::unpack(&tiles, MatMut::from_slice(&mut back, channels));
        for token in 0..tokens {
            assert_eq!(back[token * channels..][..channels], *view.row(token));
        }
    }

    proptest! {
        #[test]
        fn every_value_goes_to_its_token_and_channel_and_comes_back(
            tokens in 1usize..70, channels in 1usize..40, gap in 0usize..5
        ) {
            let stride = channels + gap;
            round_trip::<f32, 16, 1>(tokens, channels, stride, |i| i as f32 + 1.0);
            round_trip::<i8, 16, 4>(tokens, channels, stride, |i| (i % 255) as i8);
            round_trip::<i8, 32, 2>(tokens, channels, stride, |i| (i % 255) as i8);
        }
    }

    #[test]
    #[should_panic(expected = "lines of tiles for 17 tokens of 8 channels")]
    fn too_few_lines_are_refused() {
        let rows = [0; 17 * 8];
        let mut tiles = [QuadLine::zeroed(); 2];
        QuadLine::pack(MatRef::from_slice(&rows, 8), &mut tiles);
    }
}
