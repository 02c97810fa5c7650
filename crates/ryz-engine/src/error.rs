//! Everything that can go wrong between a request and its last event.

/// An error of the engine. Options are named as the public TypeScript surface spells them, because that is where the
/// user reads the message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// An option is outside what it may be.
    #[error("{option}: expected {expected}, got {got}")]
    InvalidArgument {
        /// The option's public name, such as `topP`.
        option: &'static str,
        /// What it may be.
        expected: String,
        /// What it was.
        got: String,
    },
    /// The model produced a logit that is not a number (or +infinity), so no token can be chosen.
    #[error(
        "the model produced logit {value} for token {token} at position {position}, expected a finite number"
    )]
    NonFiniteLogits {
        /// Vocabulary id of the first such logit.
        token: u32,
        /// Position of the sequence it belongs to.
        position: usize,
        /// The value itself.
        value: f32,
    },
    /// Bans, biases and minimum lengths together leave no token to choose.
    #[error("logitBias, ignoreEos and minTokens leave no token to choose at position {position}")]
    NoCandidates {
        /// Position of the sequence.
        position: usize,
    },
}

impl EngineError {
    /// A stable code that callers may switch on.
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidArgument { .. } | Self::NoCandidates { .. } => "INVALID_ARGUMENT",
            Self::NonFiniteLogits { .. } => "INTERNAL",
        }
    }

    /// An [`EngineError::InvalidArgument`].
    pub(crate) fn invalid(
        option: &'static str,
        expected: impl Into<String>,
        got: impl std::fmt::Display,
    ) -> Self {
        Self::InvalidArgument {
            option,
            expected: expected.into(),
            got: got.to_string(),
        }
    }
}
