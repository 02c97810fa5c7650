//! Warnings: probable faults of a usable file.

use std::fmt;

/// A probable fault of a file that remains usable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The key or field concerned.
    pub subject: String,
    /// The probable fault, what was done, and how to override it.
    pub message: String,
}

impl Warning {
    /// A warning about a key or field.
    pub fn new(subject: impl Into<String>, message: impl Into<String>) -> Warning {
        Warning {
            subject: subject.into(),
            message: message.into(),
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.message)
    }
}
