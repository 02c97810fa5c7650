//! Why weights cannot be packed or a kernel is refused.

use ryz_format::DType;
use ryz_tmac::MemoryError;

use crate::Level;

/// Faults of a file's weights, of an option, or of a kernel; wrong operands of a product are our own fault and panic.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// Memory for packed weights or scratch was refused.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A block type has no kernel for what was asked.
    #[error("tensor {tensor}: expected {expected}, got {got}")]
    UnsupportedType {
        /// The tensor.
        tensor: String,
        /// The types that there are kernels for.
        expected: &'static str,
        /// The tensor's type.
        got: DType,
    },
    /// A matrix is too large for a kernel's integer sums, or its byte count does not fit its shape.
    #[error("tensor {tensor}: expected {what} {expected}, got {got}")]
    Shape {
        /// The tensor.
        tensor: String,
        /// The property.
        what: &'static str,
        /// What it may be.
        expected: usize,
        /// What it was.
        got: usize,
    },
    /// A weight code that the type does not have.
    #[error("tensor {tensor}, row {row}: expected weight codes 0 to 2, got {got}")]
    InvalidCode {
        /// The tensor.
        tensor: String,
        /// The row of the tensor.
        row: usize,
        /// The code found.
        got: u8,
    },
    /// A scale that is infinite or not a number.
    #[error("tensor {tensor}, row {row}: expected a finite scale, got {got}")]
    InvalidScale {
        /// The tensor.
        tensor: String,
        /// The row of the tensor.
        row: usize,
        /// The scale found.
        got: f32,
    },
    /// A level was asked for by a name that is none.
    #[error("level: expected one of {expected}, got {got:?}")]
    UnknownLevel {
        /// The names.
        expected: &'static str,
        /// What was asked for.
        got: String,
    },
    /// A layout of batches was asked for by a name that is none.
    #[error("batch layout: expected one of {expected}, got {got:?}")]
    UnknownBatchLayout {
        /// The names.
        expected: &'static str,
        /// What was asked for.
        got: String,
    },
    /// A packing was asked for by a name that is none.
    #[error("packing: expected one of {expected}, got {got:?}")]
    UnknownPacking {
        /// The names.
        expected: &'static str,
        /// What was asked for.
        got: String,
    },
    /// A level was forced that this machine does not have.
    #[error("level: expected one that this machine has (up to {expected}), got {got}")]
    UnsupportedLevel {
        /// The best level of this machine.
        expected: Level,
        /// The level asked for.
        got: Level,
    },
    /// A kernel differs from its reference on this machine and must not be used.
    #[error("kernel {kernel}: self-test case {case}: expected {expected}, got {got}")]
    SelfTest {
        /// The kernel's name.
        kernel: &'static str,
        /// The failing case.
        case: String,
        /// The reference's value.
        expected: f32,
        /// The kernel's value.
        got: f32,
    },
}

impl KernelError {
    /// The stable code that crosses to TypeScript.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Memory(error) => error.code(),
            Self::UnsupportedType { .. } => "UNSUPPORTED",
            Self::Shape { .. } | Self::InvalidCode { .. } | Self::InvalidScale { .. } => {
                "INVALID_FILE"
            }
            Self::UnknownLevel { .. }
            | Self::UnknownBatchLayout { .. }
            | Self::UnknownPacking { .. }
            | Self::UnsupportedLevel { .. } => "INVALID_ARGUMENT",
            Self::SelfTest { .. } => "KERNEL_REFUSED",
        }
    }
}
