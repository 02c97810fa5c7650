//! What can be wrong with a vocabulary or a chat template: each fault with its place, what was expected and what was there.

use std::fmt;

use ryz_format::FormatError;

/// A fault of a tokenizer's files, or text that a vocabulary cannot express.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// A metadata key is missing or has the wrong type.
    #[error(transparent)]
    Metadata(#[from] FormatError),
    /// A JSON file does not parse, or a field has the wrong type.
    #[error("{file} does not parse")]
    Json {
        /// The file's name.
        file: &'static str,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A JSON field has the right type and is still impossible.
    #[error("{field}: expected {expected}, got {}", QuotedText(got))]
    Field {
        /// The file and the field's path in it.
        field: String,
        /// What was needed.
        expected: &'static str,
        /// What was there.
        got: String,
    },
    /// Something well formed that is not implemented, such as another tokenizer model, or a pattern that is not known to be harmless.
    #[error("{key}: {} is not supported", QuotedText(got))]
    Unsupported {
        /// The key or field.
        key: String,
        /// What it asks for.
        got: String,
    },
    /// A vocabulary without tokens.
    #[error("{key} is missing or empty")]
    Empty {
        /// The key or field.
        key: &'static str,
    },
    /// More of something than any real file has.
    #[error("{key}: expected at most {limit}, got {got}")]
    LimitExceeded {
        /// The key or field.
        key: &'static str,
        /// The limit.
        limit: u64,
        /// What was there.
        got: u64,
    },
    /// An array that goes with the tokens has another length.
    #[error("{key}: expected {expected} elements, one for each token, got {got}")]
    LengthMismatch {
        /// The key.
        key: &'static str,
        /// The number of tokens.
        expected: usize,
        /// The number of elements.
        got: usize,
    },
    /// Two ids have the same text.
    #[error("{key}[{index}]: {} is already token {first}", QuotedText(text))]
    DuplicateToken {
        /// The key or field.
        key: &'static str,
        /// The second id.
        index: u32,
        /// The first id.
        first: u32,
        /// Their text.
        text: String,
    },
    /// Two texts have the same id.
    #[error(
        "{key}: {} and {} both have id {id}",
        QuotedText(first),
        QuotedText(text)
    )]
    DuplicateId {
        /// The field.
        key: &'static str,
        /// The id.
        id: u32,
        /// One text.
        first: String,
        /// The other text.
        text: String,
    },
    /// A merge is not a pair, or it or its result is not in the vocabulary.
    #[error(
        "{key}[{index}]: expected two tokens whose union is a token, got {}",
        QuotedText(got)
    )]
    BadMerge {
        /// The key or field.
        key: &'static str,
        /// Which merge.
        index: usize,
        /// The merge.
        got: String,
    },
    /// A byte token is not written `<0xHH>`.
    #[error(
        "{key}[{index}]: expected a byte token <0x00> to <0xFF>, got {}",
        QuotedText(got)
    )]
    BadByteToken {
        /// The key.
        key: &'static str,
        /// The token's id.
        index: u32,
        /// The token's text.
        got: String,
    },
    /// A score is not a number.
    #[error("{key}[{index}]: expected a number, got {got}")]
    BadScore {
        /// The key.
        key: &'static str,
        /// The token's id.
        index: u32,
        /// The score.
        got: f32,
    },
    /// An id that is not in the vocabulary.
    #[error("{key}: expected a token id below {vocab_size}, got {got}")]
    IdOutOfRange {
        /// The key or field.
        key: String,
        /// The number of tokens.
        vocab_size: u32,
        /// The id.
        got: u64,
    },
    /// A pre-tokenizer that is not known.
    #[error(
        "tokenizer.ggml.pre: {} is not known; if it cuts words as a known one does, name that one by \
         an override of tokenizer.ggml.pre, for instance {:?} or {:?}",
        QuotedText(name),
        "llama-bpe",
        "qwen2"
    )]
    UnknownPretokenizer {
        /// The name.
        name: String,
    },
    /// A text is more tokens than it may be.
    #[error("the text is more than {limit} tokens")]
    TooManyTokens {
        /// The most that it may be.
        limit: usize,
    },
    /// The work was cancelled.
    #[error("the work was cancelled")]
    Cancelled,
    /// A table of the vocabulary cannot be built.
    #[error("the vocabulary is refused")]
    Model {
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl TokenizerError {
    /// The stable code that callers switch on.
    pub fn code(&self) -> &'static str {
        match self {
            TokenizerError::Unsupported { .. } | TokenizerError::UnknownPretokenizer { .. } => {
                "UNSUPPORTED"
            }
            TokenizerError::TooManyTokens { .. } => "CONTEXT_OVERFLOW",
            TokenizerError::Cancelled => "ABORTED",
            _ => "INVALID_TOKENIZER",
        }
    }
}

/// A fault of a chat template, or of what it was asked to render.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// The template is not UTF-8.
    #[error("chat template is not UTF-8 at byte {offset}")]
    NotUtf8 {
        /// The first bad byte.
        offset: usize,
    },
    /// The template is too long or nested too deeply.
    #[error("chat template: expected at most {limit} {what}, got {got}")]
    TooLarge {
        /// What was counted.
        what: &'static str,
        /// The limit.
        limit: usize,
        /// What was there.
        got: usize,
    },
    /// The template does not parse.
    #[error("chat template does not parse; the option chatTemplate takes another one")]
    Syntax {
        /// Where and why.
        source: minijinja::Error,
    },
    /// Rendering failed.
    #[error("chat template does not render")]
    Render {
        /// Where and why.
        source: minijinja::Error,
    },
    /// The template itself refused the conversation by `raise_exception`.
    #[error("chat template refuses the conversation: {message}")]
    Raised {
        /// What the template says.
        message: String,
    },
    /// Arguments of a call are text that the template needs as an object, and they are none.
    #[error(
        "messages[{message}].tool_calls[{call}].function.arguments: expected JSON of an object"
    )]
    Arguments {
        /// Which message.
        message: usize,
        /// Which of its calls.
        call: usize,
    },
    /// The thread that renders could not be started.
    #[error("no thread to render a chat template on")]
    Thread {
        /// Why.
        source: std::io::Error,
    },
    /// Rendering was cancelled.
    #[error("the rendering of a chat template was cancelled")]
    Cancelled,
    /// Rendering took more work or memory than any real template needs.
    #[error("chat template exceeds its limit of {what}")]
    LimitExceeded {
        /// Which limit.
        what: &'static str,
    },
}

impl TemplateError {
    /// The stable code that callers switch on.
    pub fn code(&self) -> &'static str {
        match self {
            TemplateError::LimitExceeded { .. } => "TEMPLATE_LIMIT",
            TemplateError::Thread { .. } => "OUT_OF_MEMORY",
            TemplateError::Cancelled => "ABORTED",
            TemplateError::Arguments { .. } => "INVALID_ARGUMENT",
            _ => "INVALID_TEMPLATE",
        }
    }
}

/// Text out of a file as an error shows it: quoted, escaped and cut, so that a hostile name cannot flood a terminal.
struct QuotedText<'a>(&'a str);

impl fmt::Display for QuotedText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 80;
        match self.0.char_indices().nth(SHOWN) {
            None => write!(f, "{:?}", self.0),
            Some((end, _)) => write!(f, "{:?}… ({} bytes)", &self.0[..end], self.0.len()),
        }
    }
}
