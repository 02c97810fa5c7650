//! The SIMD feature sets that kernels are written for.

use std::{fmt, str::FromStr};

use crate::KernelError;

/// A SIMD feature set. Every level computes the same bits; they differ in speed alone.
///
/// ```
/// use ryz_kernels::Level;
///
/// assert!(Level::Scalar.supported());
/// assert!(Level::detect().supported());
/// assert_eq!("avx2".parse::<Level>()?, Level::Avx2);
/// # Ok::<(), ryz_kernels::KernelError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Level {
    /// Portable code: the reference.
    Scalar,
    /// AVX2, FMA, F16C (x86-64-v3).
    Avx2,
    /// AVX2 and AVX-VNNI.
    AvxVnni,
    /// AVX-512 F, BW, DQ and VL (x86-64-v4).
    Avx512,
    /// AVX-512 and AVX-512 VNNI.
    Avx512Vnni,
}

impl Level {
    /// Every level, from the plainest to the best.
    pub const ALL: [Level; 5] = [
        Level::Scalar,
        Level::Avx2,
        Level::AvxVnni,
        Level::Avx512,
        Level::Avx512Vnni,
    ];

    /// The best level of this machine.
    pub fn detect() -> Level {
        let supported = Self::ALL.into_iter().rev().find(|level| level.supported());
        supported.unwrap_or(Level::Scalar)
    }

    /// Whether this machine can run it.
    pub fn supported(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            let v3 = || {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            };
            let v4 = || {
                v3() && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            };
            match self {
                Level::Scalar => true,
                Level::Avx2 => v3(),
                Level::AvxVnni => v3() && is_x86_feature_detected!("avxvnni"),
                Level::Avx512 => v4(),
                Level::Avx512Vnni => v4() && is_x86_feature_detected!("avx512vnni"),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            self == Level::Scalar
        }
    }

    /// Its name, as options take it.
    pub const fn name(self) -> &'static str {
        match self {
            Level::Scalar => "scalar",
            Level::Avx2 => "avx2",
            Level::AvxVnni => "avxvnni",
            Level::Avx512 => "avx512",
            Level::Avx512Vnni => "avx512vnni",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Level {
    type Err = KernelError;

    fn from_str(name: &str) -> Result<Self, KernelError> {
        let found = Self::ALL.into_iter().find(|level| level.name() == name);
        found.ok_or_else(|| KernelError::UnknownLevel {
            expected: "scalar, avx2, avxvnni, avx512, avx512vnni",
            got: name.to_owned(),
        })
    }
}
