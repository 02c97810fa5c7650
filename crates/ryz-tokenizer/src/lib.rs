//! Text to tokens and back, and chat templates.
//!
//! - [`Tokenizer`] comes from a GGUF file's metadata or from Hugging Face's tokenizer.json; it encodes and decodes.
//! - [`DecodeStream`] decodes ids as they come and never gives half a character.
//! - [`ChatTemplate`] turns a conversation into the text that a model was trained on, within bounds of work and memory.
//!
//! All of it reads files that may be hostile: vocabularies are checked whole before they are used, no regular expression
//! out of a file is ever compiled, and text of a user never yields a control token unless it is asked to.
//!
//! Merging is written here, because no crate bounds its time and memory, or can be told to stop; tests
//! compare it with the `tokenizers` crate.
#![forbid(unsafe_code)]

mod bpe;
mod byte_level;
mod error;
mod gguf;
mod hf;
mod merge;
mod output;
mod pretokenizer;
mod special;
mod spm;
mod stream;
mod template;
mod tokenizer;
mod vocab;

pub use error::{TemplateError, TokenizerError};
pub use hf::HfFiles;
pub use output::{Bounds, Encoded};
pub use pretokenizer::names_of_pattern;
pub use stream::DecodeStream;
pub use template::{
    AnswerForm, ArgumentForm, CallBody, CallForm, ChatInput, ChatTemplate, ContentForms,
    HistoryForm, JsonName, Marks, NameEnd, Parameter,
};
pub use tokenizer::{EncodeOptions, Tokenizer};
