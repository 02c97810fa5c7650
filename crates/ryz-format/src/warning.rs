//! Warnings: what is probably wrong with a file that can be used all the same.

use std::fmt;

/// Something in a file that is probably wrong, and does not keep the file from being used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The key or field that it is about.
    pub subject: String,
    /// What is probably wrong, what was done, and how to say otherwise.
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
