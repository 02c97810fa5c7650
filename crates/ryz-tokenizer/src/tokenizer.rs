//! The tokenizer: text to ids and back.

use std::{borrow::Cow, sync::Arc};

use ryz_format::Warning;
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

use crate::{
    Bounds, ChatTemplate, DecodeStream, Encoded, TokenizerError,
    bpe::{ByteLevelBpe, SentencePieceBpe},
    output::{Output, UnknownToken},
    special::{AddedTokens, Fragment},
    spm::Spm,
    vocab::{Kind, Vocab},
};

/// How text becomes ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Put BOS in front and EOS behind where the model's own files say so. Default: true.
    pub add_special: bool,
    /// Turn the text of control tokens, such as `<|eot_id|>`, into those tokens. Default: false, because text from a user
    /// must not steer the model; true for the output of a chat template.
    pub parse_special: bool,
}

impl Default for EncodeOptions {
    fn default() -> EncodeOptions {
        EncodeOptions {
            add_special: true,
            parse_special: false,
        }
    }
}

/// Turns text into token ids and back.
///
/// A clone is cheap and shares everything.
///
/// # Examples
///
/// ```
/// use ryz_format::{Array, Metadata, Value};
/// use ryz_tokenizer::{EncodeOptions, Tokenizer};
///
/// let strings = |list: &[&str]| Value::Array(Array::Strings(list.iter().collect()));
/// let mut metadata = Metadata::new();
/// metadata.set("tokenizer.ggml.model", "gpt2");
/// metadata.set("tokenizer.ggml.pre", "gpt-2");
/// metadata.set("tokenizer.ggml.tokens", strings(&["a", "b", "Ġ", "ab", "Ġab"]));
/// metadata.set("tokenizer.ggml.merges", strings(&["a b", "Ġ ab"]));
/// let tokenizer = Tokenizer::from_gguf(&metadata)?;
/// let ids = tokenizer.encode("ab ab", EncodeOptions::default())?;
/// assert_eq!(ids, [3, 4]);
/// assert_eq!(tokenizer.decode(&ids, true), "ab ab");
/// # Ok::<(), ryz_tokenizer::TokenizerError>(())
/// ```
#[derive(Clone)]
pub struct Tokenizer {
    pub(crate) inner: Arc<Inner>,
}

/// What the readers of the file formats fill in.
pub(crate) struct Inner {
    pub(crate) vocab: Vocab,
    pub(crate) model: Model,
    pub(crate) added: AddedTokens,
    pub(crate) special: SpecialTokens,
    /// Sorted ids that end a generation.
    pub(crate) end_of_generation: Vec<u32>,
    /// Ids put before text.
    pub(crate) prefix: Vec<u32>,
    /// Ids put after text.
    pub(crate) suffix: Vec<u32>,
    /// Unicode normalisation form C is applied to text first.
    pub(crate) nfc: bool,
    /// The first piece of text gets a space that decoding takes away again.
    pub(crate) space_prefix: SpacePrefix,
    /// But not where the text begins with a space.
    pub(crate) unless_space: bool,
    pub(crate) chat_templates: ChatTemplates,
    /// Bytes of the longest token.
    pub(crate) longest: usize,
    /// What stands for text that the vocabulary cannot say.
    pub(crate) unknown: UnknownToken,
    /// What is probably wrong with the files.
    pub(crate) warnings: Vec<Warning>,
}

/// Where a SentencePiece model puts a space before text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SpacePrefix {
    Never,
    /// At the start and after every added token.
    Always,
    /// At the start.
    First,
}

/// The ids with a name.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SpecialTokens {
    pub(crate) bos: Option<u32>,
    pub(crate) eos: Option<u32>,
    pub(crate) eot: Option<u32>,
    pub(crate) eom: Option<u32>,
    pub(crate) unk: Option<u32>,
    pub(crate) pad: Option<u32>,
}

/// The sources of the model's chat templates.
#[derive(Default)]
pub(crate) struct ChatTemplates {
    pub(crate) default: Option<String>,
    /// The one for conversations with tools.
    pub(crate) tool_use: Option<String>,
}

pub(crate) enum Model {
    ByteLevel(Box<ByteLevelBpe>),
    Spm(Box<Spm>),
    /// SentencePiece's BPE with a list of merges, as tokenizer.json has it.
    SentencePieceBpe(Box<SentencePieceBpe>),
}

impl Model {
    fn encode(&self, text: &str, out: &mut Output<'_>) -> Result<(), TokenizerError> {
        match self {
            Model::ByteLevel(model) => model.encode(text, out),
            Model::Spm(model) => model.encode(text, out),
            Model::SentencePieceBpe(model) => model.encode(text, out),
        }
    }

    pub(crate) fn token_to_id(&self, text: &str) -> Option<u32> {
        match self {
            Model::ByteLevel(model) => model.token_to_id(text),
            Model::Spm(model) => model.token_to_id(text),
            Model::SentencePieceBpe(model) => model.token_to_id(text),
        }
    }

    fn is_sentence_piece(&self) -> bool {
        !matches!(self, Model::ByteLevel(_))
    }
}

impl Tokenizer {
    /// The ids of a text. What the vocabulary cannot say becomes the unknown token, or is left out
    /// where there is none.
    ///
    /// # Errors
    ///
    /// None that a text can cause.
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>, TokenizerError> {
        let encoded = self.encode_within(text, options, Bounds::NONE)?;
        Ok(encoded.ids)
    }

    /// The ids of a text, within bounds of work, and how much of it the vocabulary cannot say.
    ///
    /// It takes time in proportion to the text's length, and memory in proportion to the number of ids
    /// and, where text is normalised or spaces become `▁`, the text's length.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::TooManyTokens`] and [`TokenizerError::Cancelled`], as `bounds` says.
    pub fn encode_within(
        &self,
        text: &str,
        options: EncodeOptions,
        bounds: Bounds<'_>,
    ) -> Result<Encoded, TokenizerError> {
        let suffix = &self.inner.suffix;
        let behind = if options.add_special { suffix } else { &[][..] };
        self.run(text, options, bounds, behind)
    }

    /// The ids of a text that a model is to continue: as [`Tokenizer::encode_within`], and never with
    /// EOS behind it.
    ///
    /// # Errors
    ///
    /// As [`Tokenizer::encode_within`].
    pub fn encode_prompt(
        &self,
        text: &str,
        options: EncodeOptions,
        bounds: Bounds<'_>,
    ) -> Result<Encoded, TokenizerError> {
        self.run(text, options, bounds, &[])
    }

    fn run(
        &self,
        text: &str,
        options: EncodeOptions,
        bounds: Bounds<'_>,
        behind: &[u32],
    ) -> Result<Encoded, TokenizerError> {
        let inner = &*self.inner;
        let mut out = Output::new(text.len() / 3 + 2, bounds, inner.unknown);
        if options.add_special {
            inner.prefix.iter().try_for_each(|&id| out.push(id))?;
        }
        let mut first = true;
        let mut after_token = true;
        inner.added.split(
            text,
            options.parse_special,
            &mut |fragment| match fragment {
                Fragment::Token(id) => {
                    out.worked(0)?;
                    after_token = true;
                    first = false;
                    out.push(id)
                }
                Fragment::Text(text) => {
                    let prefix = match inner.space_prefix {
                        SpacePrefix::Never => false,
                        SpacePrefix::Always => after_token,
                        SpacePrefix::First => first,
                    };
                    after_token = false;
                    first = false;
                    let text = inner.prepare(text, prefix, &mut out)?;
                    inner.model.encode(&text, &mut out)
                }
            },
        )?;
        behind.iter().try_for_each(|&id| out.push(id))?;
        Ok(out.encoded)
    }

    /// The most bytes of text that `tokens` tokens can be: a longer text is more tokens, whatever it
    /// says. Characters that the vocabulary leaves out count as text all the same.
    pub fn most_bytes(&self, tokens: usize) -> usize {
        // Composed characters are at most three times as long when they are decomposed.
        let factor = if self.inner.nfc { 3 } else { 1 };
        tokens
            .saturating_mul(self.inner.longest.max(1))
            .saturating_mul(factor)
    }

    /// What is probably wrong with the files that the tokenizer was read from.
    pub fn warnings(&self) -> &[Warning] {
        &self.inner.warnings
    }

    /// The text of ids; bytes that are not UTF-8, such as a character cut at either end, become U+FFFD.
    ///
    /// With `skip_special`, control tokens are left out. Ids outside the vocabulary have no text.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let mut bytes = Vec::with_capacity(4 * ids.len());
        let mut space = self.inner.space_prefix != SpacePrefix::Never;
        for &id in ids {
            if self.is_special(id) {
                if !skip_special {
                    bytes.extend_from_slice(self.token_bytes(id));
                }
                continue;
            }
            let token = self.token_bytes(id);
            let token = if space {
                token.strip_prefix(b" ").unwrap_or(token)
            } else {
                token
            };
            space = false;
            bytes.extend_from_slice(token);
        }
        match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        }
    }

    /// A decoder for ids that come one at a time, which never gives half a character.
    pub fn decode_stream(&self, skip_special: bool) -> DecodeStream {
        DecodeStream::new(self.clone(), skip_special)
    }

    /// The bytes of a token; none for an id outside the vocabulary.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.inner.vocab.token_bytes(id)
    }

    /// The text of a token, with U+FFFD for bytes that are not UTF-8 alone.
    pub fn piece(&self, id: u32) -> String {
        String::from_utf8_lossy(self.token_bytes(id)).into_owned()
    }

    /// The id of a token by the text that the file has for it, such as `<|im_start|>` or `Ġthe`.
    pub fn token_id(&self, text: &str) -> Option<u32> {
        let added = self.inner.added.token_to_id(text);
        added.or_else(|| self.inner.model.token_to_id(text))
    }

    /// The number of ids: each is below it. A model's embedding may have more rows.
    pub fn vocab_size(&self) -> u32 {
        self.inner.vocab.len()
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.inner.special.bos
    }

    /// The token that ends a text.
    pub fn eos(&self) -> Option<u32> {
        self.inner.special.eos
    }

    /// The token that ends a turn of a conversation, where the file names one.
    pub fn eot(&self) -> Option<u32> {
        self.inner.special.eot
    }

    /// The token for what the vocabulary cannot express.
    pub fn unk(&self) -> Option<u32> {
        self.inner.special.unk
    }

    /// The token that fills a batch.
    pub fn pad(&self) -> Option<u32> {
        self.inner.special.pad
    }

    /// Whether [`EncodeOptions::add_special`] puts BOS in front.
    pub fn adds_bos(&self) -> bool {
        self.bos()
            .is_some_and(|bos| self.inner.prefix.contains(&bos))
    }

    /// Whether a token instructs the model instead of being text: what `parse_special` is about.
    pub fn is_control(&self, id: u32) -> bool {
        self.inner.vocab.kind(id) == Some(Kind::Control)
    }

    /// Whether decoding with `skip_special` leaves a token out: control tokens and the unknown token.
    pub fn is_special(&self, id: u32) -> bool {
        self.inner.vocab.kind(id).is_some_and(Kind::is_special)
    }

    /// Whether a token is a part of texts: not an instruction, the unknown token, or a filler.
    pub fn is_text(&self, id: u32) -> bool {
        let kind = self.inner.vocab.kind(id);
        matches!(kind, Some(Kind::Normal | Kind::UserDefined | Kind::Byte))
    }

    /// Whether a token is one byte of what the vocabulary has no text for.
    pub fn is_byte(&self, id: u32) -> bool {
        self.inner.vocab.kind(id) == Some(Kind::Byte)
    }

    /// Whether encoding puts a space in front of a text, so that its middle is encoded in another way.
    pub fn adds_space(&self) -> bool {
        self.inner.space_prefix != SpacePrefix::Never
    }

    /// Whether a model that samples this token has finished: EOS, the end of a turn, and the other names for it.
    pub fn is_end_of_generation(&self, id: u32) -> bool {
        self.inner.end_of_generation.binary_search(&id).is_ok()
    }

    /// The tokens that end a generation, in ascending order.
    pub fn end_of_generation(&self) -> &[u32] {
        &self.inner.end_of_generation
    }

    /// The source of the model's chat template.
    pub fn chat_template_source(&self) -> Option<&str> {
        let templates = &self.inner.chat_templates;
        templates
            .default
            .as_deref()
            .or(self.tool_use_template_source())
    }

    /// The source of the template for conversations with tools, where the model has one of its own for them.
    pub fn tool_use_template_source(&self) -> Option<&str> {
        self.inner.chat_templates.tool_use.as_deref()
    }

    /// The model's chat templates, with its BOS, EOS, padding and unknown token; none when the model has no template.
    ///
    /// One that does not parse says so when it is to render.
    pub fn chat_template(&self) -> Option<ChatTemplate> {
        let source = self.chat_template_source()?;
        let text = |id: Option<u32>| id.map(|id| self.piece(id)).unwrap_or_default();
        let mut template = ChatTemplate::unchecked(source, &text(self.bos()), &text(self.eos()));
        if let Some(source) = self.tool_use_template_source() {
            template.set_tool_use(source);
        }
        let special = &self.inner.special;
        for (name, id) in [("pad_token", special.pad), ("unk_token", special.unk)] {
            if let Some(id) = id {
                template.set_token(name, &self.piece(id));
            }
        }
        Some(template)
    }
}

impl Inner {
    /// Text as the model wants it.
    fn prepare<'t>(
        &self,
        text: &'t str,
        prefix: bool,
        out: &mut Output<'_>,
    ) -> Result<Cow<'t, str>, TokenizerError> {
        let mut text = Cow::Borrowed(text);
        if self.nfc && is_nfc_quick(text.chars()) != IsNormalized::Yes {
            let mut composed = String::with_capacity(text.len());
            for char in text.nfc() {
                composed.push(char);
                out.worked(0)?;
            }
            text = Cow::Owned(composed);
        }
        if !self.model.is_sentence_piece() {
            return Ok(text);
        }
        let prefix = prefix && !(self.unless_space && text.starts_with([' ', '▁']));
        if !prefix && !text.contains(' ') {
            return Ok(text);
        }
        let mut escaped = String::with_capacity(text.len() + text.len() / 2 + 3);
        if prefix {
            escaped.push('▁');
        }
        for (i, piece) in text.split(' ').enumerate() {
            if i > 0 {
                escaped.push('▁');
            }
            escaped.push_str(piece);
            out.worked(0)?;
        }
        Ok(Cow::Owned(escaped))
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("special", &self.inner.special)
            .finish_non_exhaustive()
    }
}
