//! Tokenizers out of a GGUF file's metadata, with the defaults that llama.cpp has for what a file leaves out.

use std::sync::Arc;

use ahash::AHashSet;
use ryz_format::{Metadata, Warning};

use crate::{
    Tokenizer, TokenizerError,
    bpe::{ByteLevelBpe, Merges, SentencePieceBpe, parts},
    output::UnknownToken,
    pretokenizer::Pretokenizer,
    special::{Added, AddedTokens, ends_generation, ends_infill},
    spm::Spm,
    tokenizer::{ChatTemplates, Inner, Model, SpacePrefix, SpecialTokens},
    vocab::{Alphabet, Kind, Vocab},
};

const TOKENS: &str = "tokenizer.ggml.tokens";
const MERGES: &str = "tokenizer.ggml.merges";
const SCORES: &str = "tokenizer.ggml.scores";
const TOKEN_TYPE: &str = "tokenizer.ggml.token_type";
const PRE: &str = "tokenizer.ggml.pre";
const MODEL: &str = "tokenizer.ggml.model";
const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";

/// Names of `tokenizer.ggml.pre` that mean SentencePiece's BPE over lines of text.
const LINES: [&str; 4] = ["gemma4", "granite-embed-multi-311m", "sarvam-moe", "mmbert"];

impl Tokenizer {
    /// Reads the keys `tokenizer.*`: the models `gpt2` (byte-level BPE, by `tokenizer.ggml.pre`), `llama`
    /// (SentencePiece with scores) and `gemma4` (SentencePiece with merges).
    ///
    /// # Errors
    ///
    /// A [`TokenizerError`] that names the key, and the index in it, for anything missing, malformed or not handled.
    pub fn from_gguf(metadata: &Metadata) -> Result<Tokenizer, TokenizerError> {
        match metadata.get_str(MODEL)? {
            "gpt2" => {
                let (pre, warnings) = pre(metadata)?;
                if LINES.contains(&pre) {
                    lines(metadata, pre)
                } else {
                    byte_level(metadata, pre, warnings)
                }
            }
            "llama" => sentence_piece(metadata),
            "gemma4" => lines(metadata, "gemma4"),
            other => Err(TokenizerError::Unsupported {
                key: MODEL.to_owned(),
                got: other.to_owned(),
            }),
        }
    }
}

/// The name of the pre-tokenizer, where the file has none by its architecture.
fn pre(metadata: &Metadata) -> Result<(&str, Vec<Warning>), TokenizerError> {
    if let Some(pre) = metadata.find_str(PRE)?.filter(|pre| !pre.is_empty()) {
        return Ok((pre, Vec::new()));
    }
    let architecture = metadata.find_str("general.architecture")?;
    // Microsoft's files leave the key out, and their models have Llama 3's tokenizer.
    if let Some("bitnet-b1.58" | "bitnet-25") = architecture {
        return Ok(("llama-bpe", Vec::new()));
    }
    let warning = Warning::new(
        PRE,
        "it is missing, so text is cut by the name \"default\", which is probably not how the model was \
         trained; name the right one by an override of this key, for instance \"llama-bpe\" or \"qwen2\"",
    );
    Ok(("default", vec![warning]))
}

fn byte_level(
    metadata: &Metadata,
    pre: &str,
    warnings: Vec<Warning>,
) -> Result<Tokenizer, TokenizerError> {
    let named = Pretokenizer::named(pre)?;
    let mut vocab = vocab(metadata, Alphabet::ByteLevel)?;
    let text_ids = std::mem::take(&mut vocab.text_ids);
    let apart = vocab.apart();
    // Files of Kimi K2 may leave merges out: the order of the tokens says the same.
    let merges = if pre == "kimi-k2" && metadata.find_strings(MERGES)?.is_none() {
        Merges::of_ids(text_ids)
    } else {
        let merges = metadata.get_strings(MERGES)?;
        Merges::new(MERGES, text_ids, merges.iter().map(parts), &apart)?
    };
    let defaults = named.defaults;
    let model = ByteLevelBpe::new(merges, named.pretokenizer, defaults.ignore_merges);
    let read = VocabularyRules {
        add_bos: defaults.add_bos,
        space_prefix: SpacePrefix::Never,
        warnings,
        defaults: SpecialTokens::default(),
    };
    finish(metadata, vocab, Model::ByteLevel(Box::new(model)), read)
}

/// SentencePiece's BPE with merges, over the lines of a text.
fn lines(metadata: &Metadata, pre: &str) -> Result<Tokenizer, TokenizerError> {
    let mut vocab = vocab(metadata, Alphabet::SentencePiece)?;
    let text_ids = std::mem::take(&mut vocab.text_ids);
    let merges = metadata.get_strings(MERGES)?;
    let merges = Merges::new(MERGES, text_ids, merges.iter().map(parts), &vocab.apart())?;
    let words = Pretokenizer::new().line_ends()?;
    let model = SentencePieceBpe::new(merges, words, true, false).spaced(pre == "mmbert");
    let prefix = metadata.find_bool("tokenizer.ggml.add_space_prefix")?;
    let read = VocabularyRules {
        add_bos: pre != "sarvam-moe" && pre != "mmbert",
        space_prefix: match prefix {
            Some(true) => SpacePrefix::Always,
            _ => SpacePrefix::Never,
        },
        warnings: Vec::new(),
        defaults: SpecialTokens::default(),
    };
    finish(
        metadata,
        vocab,
        Model::SentencePieceBpe(Box::new(model)),
        read,
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
    let read = VocabularyRules {
        add_bos: true,
        space_prefix: match metadata.find_bool("tokenizer.ggml.add_space_prefix")? {
            Some(false) => SpacePrefix::Never,
            _ => SpacePrefix::Always,
        },
        warnings: Vec::new(),
        defaults,
    };
    finish(metadata, vocab, Model::Spm(Box::new(model)), read)
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
    let kind = |index: usize| {
        let types = types.as_ref();
        types.map_or(Kind::Normal, |types| Kind::from_gguf(types[index]))
    };
    let ends: AHashSet<&str> = (0..tokens.len())
        .zip(tokens.iter())
        .filter(|(index, text)| ends_generation(text) && kind(*index) == Kind::Normal)
        .map(|(_, text)| text)
        .collect();
    let merged = merged(metadata, &ends)?;
    let kinds = tokens.iter().enumerate().map(|(index, text)| {
        // Some files have the end of a turn as plain text: its name says more than its type, unless
        // a merge makes it, which shows that it is text.
        let control = match kind(index) {
            Kind::Normal => ends.contains(text) && !merged.contains(text),
            Kind::UserDefined => ends_generation(text) && !ends_infill(text),
            _ => false,
        };
        (text, if control { Kind::Control } else { kind(index) })
    });
    Vocab::new(TOKENS, alphabet, kinds)
}

/// Which of these texts a merge makes.
fn merged<'a>(
    metadata: &'a Metadata,
    texts: &AHashSet<&'a str>,
) -> Result<AHashSet<&'a str>, TokenizerError> {
    let mut found = AHashSet::new();
    let (Some(merges), false) = (metadata.find_strings(MERGES)?, texts.is_empty()) else {
        return Ok(found);
    };
    for merge in merges.iter() {
        let Ok((left, right)) = parts(merge) else {
            continue;
        };
        let made = texts
            .iter()
            .find(|text| text.strip_prefix(left) == Some(right));
        found.extend(made);
    }
    Ok(found)
}

fn special_tokens(
    metadata: &Metadata,
    vocab: &Vocab,
    defaults: SpecialTokens,
    warnings: &mut Vec<Warning>,
) -> Result<SpecialTokens, TokenizerError> {
    let key = |name: &str| format!("tokenizer.ggml.{name}_token_id");
    let needed = |name: &str, default: Option<u32>| {
        let key = key(name);
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
    // Nothing is lost without these.
    let mut optional = |name: &str, default: Option<u32>| {
        let key = key(name);
        let id = match metadata.find_u64(&key) {
            Ok(id) => id.map(i128::from),
            Err(error) => match metadata.find_i32(&key) {
                Ok(id) => id.map(i128::from),
                Err(_) => return Err(TokenizerError::from(error)),
            },
        };
        let Some(id) = id else {
            return Ok(default);
        };
        let within = u32::try_from(id).ok().filter(|&id| id < vocab.len());
        if within.is_none() {
            let last = vocab.len() - 1;
            let message = format!("{id} is no token of 0 to {last}, and is left out of account");
            warnings.push(Warning::new(key, message));
        }
        Ok(within)
    };
    Ok(SpecialTokens {
        bos: needed("bos", defaults.bos)?,
        eos: needed("eos", defaults.eos)?,
        eot: needed("eot", defaults.eot)?,
        eom: needed("eom", defaults.eom)?,
        unk: optional("unknown", defaults.unk)?,
        pad: optional("padding", defaults.pad)?,
    })
}

/// What the model of a vocabulary decides besides how it merges.
struct VocabularyRules {
    add_bos: bool,
    space_prefix: SpacePrefix,
    warnings: Vec<Warning>,
    defaults: SpecialTokens,
}

fn finish(
    metadata: &Metadata,
    mut vocab: Vocab,
    model: Model,
    read: VocabularyRules,
) -> Result<Tokenizer, TokenizerError> {
    let mut warnings = read.warnings;
    let special = special_tokens(metadata, &vocab, read.defaults, &mut warnings)?;
    let add_bos = metadata.find_bool(ADD_BOS)?.unwrap_or(read.add_bos);
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
    // Files name a token that ends texts where a vocabulary has no unknown one; only one of that
    // type stands for text.
    let unknown = special.unk.filter(|&id| {
        vocab.kind(id) == Some(Kind::Unknown) && end_of_generation.binary_search(&id).is_err()
    });
    Ok(Tokenizer {
        inner: Arc::new(Inner {
            end_of_generation,
            added: AddedTokens::new(added)?,
            prefix: special.bos.filter(|_| add_bos).into_iter().collect(),
            suffix: special.eos.filter(|_| add_eos).into_iter().collect(),
            nfc: false,
            space_prefix: read.space_prefix,
            unless_space: false,
            chat_templates: ChatTemplates {
                default: metadata
                    .find_str("tokenizer.chat_template")?
                    .map(str::to_owned),
                tool_use: metadata
                    .find_str("tokenizer.chat_template.tool_use")?
                    .map(str::to_owned),
            },
            longest: vocab.longest(),
            vocab,
            model,
            special,
            unknown: UnknownToken {
                id: unknown,
                fused: false,
            },
            warnings,
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
        .filter(|token| match token.kind {
            Kind::Control => ends_generation(&token.text),
            Kind::UserDefined => ends_infill(&token.text),
            _ => false,
        })
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
