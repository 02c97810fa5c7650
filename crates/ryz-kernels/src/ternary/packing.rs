//! How densely codes lie, and laying them out anew where they are.

use std::{fmt, str::FromStr};

use ryz_tmac::ReadOnlySlice;

use super::{Line, PackedTernary, base3};
use crate::KernelError;

/// How densely the codes of a ternary matrix are packed. Products are the same bits; they differ in what they read of memory
/// and in what they compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Packing {
    /// Four codes a byte.
    #[default]
    TwoBits,
    /// Five codes a byte, in base 3: a fifth less memory to read, and more to compute.
    Base3,
}

impl Packing {
    /// Both.
    pub const ALL: [Self; 2] = [Self::TwoBits, Self::Base3];

    /// Its name, as options take it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TwoBits => "2-bit",
            Self::Base3 => "1.6-bit",
        }
    }
}

impl fmt::Display for Packing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Packing {
    type Err = KernelError;

    fn from_str(name: &str) -> Result<Self, KernelError> {
        let found = Self::ALL.into_iter().find(|packing| packing.name() == name);
        found.ok_or_else(|| KernelError::UnknownPacking {
            expected: "2-bit, 1.6-bit",
            got: name.to_owned(),
        })
    }
}

impl PackedTernary {
    /// How its codes are packed.
    pub fn packing(&self) -> Packing {
        self.packing
    }

    /// Whether 1.6 bits can hold it: not where a weight is +2 (code 3), its lines are those of a mapped file, or it has fewer
    /// than 320 columns (nothing to gain) or more than 32,768.
    pub fn fits_base3(&self) -> bool {
        !self.has_code_3()
            && matches!(self.lines, ReadOnlySlice::Owned(_))
            && self.cols >= base3::BLOCK_COLS
            && self.lines_per_tile() <= base3::MAX_TILE_LINES
    }

    /// Lays the codes out anew in the memory that they have, where that can be; what 1.6 bits do not need of it is given back to
    /// the system. Whether the matrix is packed so now.
    pub fn repack(&mut self, packing: Packing) -> bool {
        if self.packing == packing || (packing == Packing::Base3 && !self.fits_base3()) {
            return self.packing == packing;
        }
        let (two_bits, base3) = (self.lines_per_tile(), base3::stored_lines(self.cols));
        let ReadOnlySlice::Owned(lines) = &mut self.lines else {
            return false;
        };
        let tiles = lines.len() / two_bits;
        let mut tile = [Line([0; 64]); base3::MAX_TILE_LINES];
        let tile = &mut tile[..two_bits];
        match packing {
            Packing::Base3 => {
                for index in 0..tiles {
                    tile.copy_from_slice(&lines[index * two_bits..][..two_bits]);
                    (self.kernels).base3_pack(tile, &mut lines[index * base3..][..base3]);
                }
                lines.discard(tiles * base3..tiles * two_bits);
            }
            // From the last tile on: each is written behind what is still to be read.
            Packing::TwoBits => {
                for index in (0..tiles).rev() {
                    let packed = &mut tile[..base3];
                    packed.copy_from_slice(&lines[index * base3..][..base3]);
                    let to = &mut lines[index * two_bits..][..two_bits];
                    (self.kernels).base3_unpack(packed, to, self.kernels.prefetch());
                }
            }
        }
        self.packing = packing;
        true
    }
}
