//! Tokenizers out of a GGUF file's metadata, with the defaults that llama.cpp has for what a file leaves out.

use std::sync::Arc;

use ryz_format::Metadata;

use crate::{
    Tokenizer, TokenizerError,
    bpe::ByteLevelBpe,
    pretokenizer::Pretokenizer,
    special::{Added, AddedTokens, ends_generation},
    spm::Spm,
    tokenizer::{Inner, Model, SpacePrefix, SpecialTokens},
    vocab::{Alphabet, Kind, Vocab},
};

const TOKENS: &str = "tokenizer.ggml.tokens";
const MERGES: &str = "tokenizer.ggml.merges";
const SCORES: &str = "tokenizer.ggml.scores";
const TOKEN_TYPE: &str = "tokenizer.ggml.token_type";

impl Tokenizer {
    /// Reads the keys `tokenizer.*`: the models `gpt2` (byte-level BPE, by `tokenizer.ggml.pre`) and `llama` (SentencePiece).
    ///
    /// # Errors
    ///
    /// A [`TokenizerError`] that names the key, and the index in it, for anything missing, malformed or not handled.
    pub fn from_gguf(metadata: &Metadata) -> Result<Tokenizer, TokenizerError> {
        match metadata.get_str("tokenizer.ggml.model")? {
            "gpt2" => byte_level(metadata),
            "llama" => sentence_piece(metadata),
            other => Err(TokenizerError::Unsupported {
                key: "tokenizer.ggml.model".to_owned(),
                got: other.to_owned(),
            }),
        }
    }
}

fn byte_level(metadata: &Metadata) -> Result<Tokenizer, TokenizerError> {
    let pre = metadata.find_str("tokenizer.ggml.pre")?;
    let named = Pretokenizer::named(pre.filter(|pre| !pre.is_empty()).unwrap_or("default"))?;
    let mut vocab = vocab(metadata, Alphabet::ByteLevel)?;
    // The space between the two parts is the first that is not the first character.
    let split = |merge: &'_ str| {
        let first = merge.chars().next().map_or(0, char::len_utf8);
        let space = merge[first..].find(' ').map(|i| first + i);
        space.map(|i| (i, i + 1))
    };
    let merges = metadata.get_strings(MERGES)?;
    let pairs = merges.iter().map(|merge| match split(merge) {
        Some((end, start)) => Ok((&merge[..end], &merge[start..])),
        None => Err(merge),
    });
    let text_ids = std::mem::take(&mut vocab.text_ids);
    let model = ByteLevelBpe::new(
        MERGES,
        text_ids,
        pairs,
        named.pretokenizer,
        named.ignore_merges,
    )?;
    let special = special_tokens(metadata, &vocab, SpecialTokens::default())?;
    finish(
        metadata,
        vocab,
        Model::ByteLevel(Box::new(model)),
        special,
        named.add_bos,
        SpacePrefix::Never,
    )
}

fn sentence_piece(metadata: &Metadata) -> Result<Tokenizer, TokenizerError> {
    let mut vocab = vocab(metadata, Alphabet::SentencePiece)?;
    let text_ids = std::mem::take(&mut vocab.text_ids);
    let scores = metadata.get_f32s(SCORES)?;
    let model = Spm::new(SCORES, text_ids, vocab.len(), &scores)?;
    let within = |id: u32| (id < vocab.len()).then_some(id);
    let defaults = SpecialTokens {
        bos: within(1),
        eos: within(2),
        unk: within(0),
        ..SpecialTokens::default()
    };
    let special = special_tokens(metadata, &vocab, defaults)?;
    let prefix = match metadata.find_bool("tokenizer.ggml.add_space_prefix")? {
        Some(false) => SpacePrefix::Never,
        _ => SpacePrefix::Always,
    };
    finish(
        metadata,
        vocab,
        Model::Spm(Box::new(model)),
        special,
        true,
        prefix,
    )
}

fn vocab(metadata: &Metadata, alphabet: Alphabet) -> Result<Vocab, TokenizerError> {
    let tokens = metadata.get_strings(TOKENS)?;
    let types = metadata.find_i32s(TOKEN_TYPE)?;
    if let Some(types) = &types
        && types.len() != tokens.len()
    {
        return Err(TokenizerError::LengthMismatch {
            key: TOKEN_TYPE,
            expected: tokens.len(),
            got: types.len(),
        });
    }
    let kinds = tokens.iter().enumerate().map(|(index, text)| {
        let kind = types
            .as_ref()
            .map_or(Kind::Normal, |types| Kind::from_gguf(types[index]));
        // Some files have the end of a turn as plain text; a name says more than the type.
        let control = ends_generation(text) && kind != Kind::Byte;
        (text, if control { Kind::Control } else { kind })
    });
    Vocab::new(TOKENS, alphabet, kinds)
}

fn special_tokens(
    metadata: &Metadata,
    vocab: &Vocab,
    defaults: SpecialTokens,
) -> Result<SpecialTokens, TokenizerError> {
    let id = |name: &str, default: Option<u32>| {
        let key = format!("tokenizer.ggml.{name}_token_id");
        match metadata.find_u32(&key)? {
            Some(id) if id >= vocab.len() => Err(TokenizerError::IdOutOfRange {
                key,
                vocab_size: vocab.len(),
                got: id.into(),
            }),
            Some(id) => Ok(Some(id)),
            None => Ok(default),
        }
    };
    Ok(SpecialTokens {
        bos: id("bos", defaults.bos)?,
        eos: id("eos", defaults.eos)?,
        eot: id("eot", defaults.eot)?,
        eom: id("eom", defaults.eom)?,
        unk: id("unknown", defaults.unk)?,
        pad: id("padding", defaults.pad)?,
    })
}

fn finish(
    metadata: &Metadata,
    mut vocab: Vocab,
    model: Model,
    special: SpecialTokens,
    add_bos: bool,
    space_prefix: SpacePrefix,
) -> Result<Tokenizer, TokenizerError> {
    let add_bos = metadata
        .find_bool("tokenizer.ggml.add_bos_token")?
        .unwrap_or(add_bos);
    let add_eos = metadata
        .find_bool("tokenizer.ggml.add_eos_token")?
        .unwrap_or(false);
    let added: Vec<Added> = std::mem::take(&mut vocab.added)
        .into_iter()
        .map(|(id, text)| Added {
            id,
            kind: vocab.kind(id).unwrap_or(Kind::Control),
            text,
            lstrip: false,
            rstrip: false,
        })
        .collect();
    let end_of_generation = end_of_generation(&added, &special);
    Ok(Tokenizer {
        inner: Arc::new(Inner {
            end_of_generation,
            added: AddedTokens::new(added)?,
            prefix: special.bos.filter(|_| add_bos).into_iter().collect(),
            suffix: special.eos.filter(|_| add_eos).into_iter().collect(),
            nfc: false,
            space_prefix,
            unless_space: false,
            chat_template: metadata
                .find_str("tokenizer.chat_template")?
                .map(str::to_owned),
            vocab,
            model,
            special,
        }),
    })
}

/// The ids that end a generation: by their names, and EOS, EOT and EOM whatever their names.
pub(crate) fn end_of_generation(added: &[Added], special: &SpecialTokens) -> Vec<u32> {
    let has = |text: &str| added.iter().any(|token| token.text == text);
    // In vocabularies of the "harmony" kind `<|end|>` ends a message, not the answer.
    let harmony = has("<|return|>") && has("<|call|>") || has("<|calls|>") && has("<|flush|>");
    let named = added
        .iter()
        .filter(|token| token.kind == Kind::Control && ends_generation(&token.text))
        .filter(|token| !(harmony && token.text == "<|end|>"))
        .filter(|token| !(token.text == "</s>" && has("<|tool_response>")))
        .map(|token| token.id);
    let mut ids: Vec<u32> = named
        .chain(
            [special.eos, special.eot, special.eom]
                .into_iter()
                .flatten(),
        )
        .collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}
