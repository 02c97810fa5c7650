//! How kernels are used: what changes their speed and nothing else.

use std::{fmt, str::FromStr};

use ryz_tmac::PrefetchManager;

use crate::KernelError;

/// How int8 activations of many tokens lie in memory when ternary weights are multiplied with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BatchLayout {
    /// Row by row: lanes are rows of weights, and four activations of a token are broadcast to them.
    Rows,
    /// Token-interleaved tiles: lanes are tokens, and the codes of a row of weights are broadcast to them.
    Tiles,
}

impl BatchLayout {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Rows, Self::Tiles];

    /// Its name, as options take it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rows => "rows",
            Self::Tiles => "tiles",
        }
    }
}

impl fmt::Display for BatchLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for BatchLayout {
    type Err = KernelError;

    fn from_str(name: &str) -> Result<Self, KernelError> {
        let found = Self::ALL.into_iter().find(|layout| layout.name() == name);
        found.ok_or_else(|| KernelError::UnknownBatchLayout {
            expected: "rows, tiles",
            got: name.to_owned(),
        })
    }
}

/// Options of [`Kernels::with_options`](crate::Kernels::with_options).
///
/// ```
/// use ryz_kernels::{BatchLayout, KernelOptions, Kernels};
/// use ryz_tmac::PrefetchManager;
///
/// let options = KernelOptions {
///     batch: Some(BatchLayout::Tiles),
///     prefetch: PrefetchManager::OFF,
/// };
/// let kernels = Kernels::default().with_options(options);
/// assert_eq!(kernels.batch(), BatchLayout::Tiles);
/// assert_eq!(kernels.prefetch().lines(), 0);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelOptions {
    /// How the activations of a batch lie; default what was measured to be faster for the level.
    pub batch: Option<BatchLayout>,
    /// How far ahead ternary weights are asked for; default [`PrefetchManager::DEFAULT_LINES`].
    pub prefetch: PrefetchManager,
}
