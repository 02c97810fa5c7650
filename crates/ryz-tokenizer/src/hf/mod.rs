//! Tokenizers out of a Hugging Face folder: tokenizer.json and its neighbours.
//!
//! The file is a program for the `tokenizers` crate: it may name any regular expression, normaliser or decoder. Only
//! what real BPE models use is taken over, by exact comparison; everything else is refused before it runs.

mod json;
mod pipeline;

use std::sync::Arc;

use ahash::AHashMap;
use serde::Deserialize;

use self::{
    json::{
        GenerationConfig, Ids, LegacyTemplate, MergeJson, TokenName, TokenizerConfig,
        TokenizerJson, VocabJson,
    },
    pipeline::Split,
};
use crate::{
    Tokenizer, TokenizerError,
    bpe::{ByteLevelBpe, Merges, SentencePieceBpe},
    gguf::end_of_generation,
    output::UnknownToken,
    pretokenizer::Pretokenizer,
    special::{Added, AddedTokens, ends_generation, ends_infill},
    tokenizer::{ChatTemplates, Inner, Model, SpacePrefix, SpecialTokens},
    vocab::{Alphabet, Kind, MAX_TOKENS, Vocab, parse_byte},
};

const FILE: &str = "tokenizer.json";
const VOCAB: &str = "tokenizer.json: model.vocab";
const ADDED: &str = "tokenizer.json: added_tokens";
const MERGES: &str = "tokenizer.json: model.merges";

/// The bytes of a Hugging Face folder's files.
#[derive(Clone, Copy, Debug, Default)]
pub struct HfFiles<'a> {
    /// tokenizer.json.
    pub tokenizer: &'a [u8],
    /// tokenizer_config.json: the names of BOS and EOS, whether they are added, the chat template.
    pub tokenizer_config: Option<&'a [u8]>,
    /// generation_config.json: more tokens that end a generation.
    pub generation_config: Option<&'a [u8]>,
    /// chat_template.jinja, which comes before the other places.
    pub chat_template: Option<&'a [u8]>,
    /// chat_template.json, which older models that see or hear have; it comes before tokenizer_config.json.
    pub legacy_template: Option<&'a [u8]>,
    /// The template for conversations with tools, [`HfFiles::TOOL_USE`]; it comes before the list in
    /// tokenizer_config.json.
    pub tool_use_template: Option<&'a [u8]>,
}

impl HfFiles<'_> {
    /// Where a folder has the template for conversations with tools.
    pub const TOOL_USE: &'static str = "additional_chat_templates/tool_use.jinja";
}

impl Tokenizer {
    /// Reads a Hugging Face folder's tokenizer: byte-level BPE, or SentencePiece's BPE with merges.
    ///
    /// Added tokens are looked for in the text as it is, also those that the file wants looked for in normalised text.
    ///
    /// # Errors
    ///
    /// A [`TokenizerError`] that names the file and field for anything missing, malformed or not handled.
    pub fn from_hf(files: &HfFiles<'_>) -> Result<Tokenizer, TokenizerError> {
        let file: TokenizerJson<'_> = parse(FILE, files.tokenizer)?;
        let config: TokenizerConfig = match files.tokenizer_config {
            Some(bytes) => parse("tokenizer_config.json", bytes)?,
            None => TokenizerConfig::default(),
        };
        let generation: GenerationConfig = match files.generation_config {
            Some(bytes) => parse("generation_config.json", bytes)?,
            None => GenerationConfig::default(),
        };
        let legacy: LegacyTemplate = match files.legacy_template {
            Some(bytes) => parse("chat_template.json", bytes)?,
            None => LegacyTemplate::default(),
        };
        let named = |name| {
            let listed = legacy.chat_template.iter().chain(&config.chat_template);
            listed.filter_map(|templates| templates.find(name)).next()
        };
        let from = |file, bytes: Option<&[u8]>, name| match bytes {
            Some(bytes) => utf8(file, bytes).map(Some),
            None => Ok(named(name).map(str::to_owned)),
        };
        let chat_templates = ChatTemplates {
            default: from("chat_template.jinja", files.chat_template, "default")?,
            tool_use: from(HfFiles::TOOL_USE, files.tool_use_template, "tool_use")?,
        };
        build(file, &config, generation, chat_templates)
    }
}

fn build(
    file: TokenizerJson<'_>,
    config: &TokenizerConfig,
    generation: GenerationConfig,
    chat_templates: ChatTemplates,
) -> Result<Tokenizer, TokenizerError> {
    check_model(&file)?;
    let steps = pipeline::steps(file.normalizer.as_ref(), file.pre_tokenizer.as_ref())?;
    pipeline::check_decoder(file.decoder.as_ref(), &steps.split)?;
    let alphabet = match steps.split {
        Split::ByteLevel(_) => Alphabet::ByteLevel,
        Split::SentencePiece { .. } => Alphabet::SentencePiece,
    };
    let (mut vocab, added) = vocab(&file, alphabet)?;
    let merges = file.model.merges.as_deref().unwrap_or_default();
    let pairs = merges.iter().map(|merge| match merge {
        MergeJson::Pair(left, right) => Ok((&**left, &**right)),
        MergeJson::Joined(joined) => joined.split_once(' ').ok_or(&**joined),
    });
    let text_ids = std::mem::take(&mut vocab.text_ids);
    let merges = Merges::new(MERGES, text_ids, pairs, &vocab.apart())?;
    let ignore_merges = file.model.ignore_merges;
    let (model, space_prefix, unless_space) = match steps.split {
        Split::ByteLevel(words) => {
            let model = ByteLevelBpe::new(merges, words, ignore_merges);
            (Model::ByteLevel(Box::new(model)), SpacePrefix::Never, false)
        }
        Split::SentencePiece {
            prefix,
            unless_space,
        } => {
            let fallback = file.model.byte_fallback;
            let words = Pretokenizer::new();
            let model = SentencePieceBpe::new(merges, words, fallback, ignore_merges);
            (
                Model::SentencePieceBpe(Box::new(model)),
                prefix,
                unless_space,
            )
        }
    };

    let added = AddedTokens::new(added)?;
    let find = |name: &Option<TokenName>| {
        let text = name.as_ref()?.text();
        added.token_to_id(text).or_else(|| model.token_to_id(text))
    };
    let named = |field: &str, name: &Option<TokenName>| match (name, find(name)) {
        (Some(name), None) => Err(TokenizerError::Field {
            field: format!("tokenizer_config.json: {field}"),
            expected: "a token of the vocabulary",
            got: name.text().to_owned(),
        }),
        (_, id) => Ok(id),
    };
    let unk = match &file.model.unk_token {
        Some(text) => added.token_to_id(text).or_else(|| model.token_to_id(text)),
        None => None,
    };
    let special = SpecialTokens {
        bos: named("bos_token", &config.bos_token)?,
        eos: named("eos_token", &config.eos_token)?,
        unk: unk.or(find(&config.unk_token)),
        pad: find(&config.pad_token),
        ..SpecialTokens::default()
    };
    let (mut prefix, mut suffix) = pipeline::affixes(file.post_processor.as_ref(), vocab.len())?;
    if let (Some(bos), Some(add)) = (special.bos, config.add_bos_token) {
        prefix.retain(|&id| id != bos);
        prefix.splice(0..0, add.then_some(bos));
    }
    if let (Some(eos), Some(add)) = (special.eos, config.add_eos_token) {
        suffix.retain(|&id| id != eos);
        suffix.extend(add.then_some(eos));
    }
    let mut ends = end_of_generation(added.tokens(), &special);
    ends.extend(match generation.eos_token_id {
        Some(Ids::One(id)) => vec![id],
        Some(Ids::Many(ids)) => ids,
        None => Vec::new(),
    });
    ends.sort_unstable();
    ends.dedup();
    ends.retain(|&id| id < vocab.len());
    let longest = vocab.longest();
    Ok(Tokenizer {
        inner: Arc::new(Inner {
            vocab,
            model,
            added,
            special,
            end_of_generation: ends,
            prefix,
            suffix,
            nfc: steps.nfc,
            space_prefix,
            unless_space,
            chat_templates,
            longest,
            unknown: UnknownToken {
                id: unk,
                fused: file.model.fuse_unk,
            },
            warnings: Vec::new(),
        }),
    })
}

fn check_model(file: &TokenizerJson<'_>) -> Result<(), TokenizerError> {
    let model = &file.model;
    let unsupported = |field: &str, got: String| {
        Err(TokenizerError::Unsupported {
            key: format!("{FILE}: model.{field}"),
            got,
        })
    };
    match &model.kind {
        Some(kind) if kind != "BPE" => return unsupported("type", kind.clone()),
        _ => {}
    }
    if matches!(model.vocab, VocabJson::List) {
        return unsupported("vocab", "a list".to_owned());
    }
    if model.merges.is_none() {
        return Err(TokenizerError::Empty { key: MERGES });
    }
    if let Some(dropout) = model.dropout.filter(|&dropout| dropout != 0.0) {
        return unsupported("dropout", dropout.to_string());
    }
    for (field, affix) in [
        (
            "continuing_subword_prefix",
            &model.continuing_subword_prefix,
        ),
        ("end_of_word_suffix", &model.end_of_word_suffix),
    ] {
        if let Some(affix) = affix.as_ref().filter(|affix| !affix.is_empty()) {
            return unsupported(field, affix.clone());
        }
    }
    Ok(())
}

/// The tokens by id, those of the model and the added ones, and the added ones as they are looked for.
fn vocab(
    file: &TokenizerJson<'_>,
    alphabet: Alphabet,
) -> Result<(Vocab, Vec<Added>), TokenizerError> {
    let VocabJson::Map(pairs) = &file.model.vocab else {
        return Err(TokenizerError::Empty { key: VOCAB });
    };
    if pairs.is_empty() {
        return Err(TokenizerError::Empty { key: VOCAB });
    }
    let count = (pairs.len() + file.added_tokens.len()) as u64;
    // Ids may have gaps, and a gap costs memory that the file does not pay for.
    let limit = (2 * count + (1 << 16)).min(MAX_TOKENS);
    let highest = |key, ids: &mut dyn Iterator<Item = u32>| match ids.max() {
        Some(id) if u64::from(id) >= limit => Err(TokenizerError::LimitExceeded {
            key,
            limit: limit - 1,
            got: id.into(),
        }),
        id => Ok(id.map_or(0, |id| id as usize + 1)),
    };
    let size = highest(VOCAB, &mut pairs.iter().map(|(_, id)| *id))?.max(highest(
        ADDED,
        &mut file.added_tokens.iter().map(|token| token.id),
    )?);

    let unk = file.model.unk_token.as_deref();
    let mut tokens: Vec<(&str, Kind)> = vec![("", Kind::Unused); size];
    let mut taken = vec![false; size];
    for (text, id) in pairs {
        let byte = file.model.byte_fallback && parse_byte(text).is_some();
        let slot = &mut tokens[*id as usize];
        if std::mem::replace(&mut taken[*id as usize], true) {
            return Err(duplicate_id(VOCAB, *id, slot.0, text));
        }
        *slot = (text, if byte { Kind::Byte } else { Kind::Normal });
    }
    let mut ids: AHashMap<&str, u32> = AHashMap::new();
    if !file.added_tokens.is_empty() {
        ids = (0..)
            .zip(&tokens)
            .map(|(id, (text, _))| (*text, id))
            .collect();
    }
    let mut added = Vec::with_capacity(file.added_tokens.len());
    for token in &file.added_tokens {
        let (id, text) = (token.id, token.content.as_str());
        if text.is_empty() || token.single_word {
            return Err(TokenizerError::Field {
                field: ADDED.to_owned(),
                expected: "tokens with text that need not be single words",
                got: format!("token {id}, {text:?}"),
            });
        }
        let named = ends_generation(text) && !ends_infill(text);
        let kind = match token.special || named {
            true if Some(text) == unk => Kind::Unknown,
            true => Kind::Control,
            false => Kind::UserDefined,
        };
        let slot = &mut tokens[id as usize];
        if std::mem::replace(&mut taken[id as usize], true) && slot.0 != text {
            return Err(duplicate_id(ADDED, id, slot.0, text));
        }
        if let Some(&first) = ids.get(text).filter(|&&first| first != id) {
            return Err(TokenizerError::DuplicateToken {
                key: ADDED,
                index: id,
                first,
                text: text.to_owned(),
            });
        }
        *slot = (text, kind);
        added.push(Added {
            id,
            text: text.to_owned(),
            kind,
            lstrip: token.lstrip,
            rstrip: token.rstrip,
        });
    }
    let vocab = Vocab::new(VOCAB, alphabet, tokens.into_iter())?;
    Ok((vocab, added))
}

fn duplicate_id(key: &'static str, id: u32, first: &str, text: &str) -> TokenizerError {
    TokenizerError::DuplicateId {
        key,
        id,
        first: first.to_owned(),
        text: text.to_owned(),
    }
}

fn parse<'a, T: Deserialize<'a>>(file: &'static str, bytes: &'a [u8]) -> Result<T, TokenizerError> {
    serde_json::from_slice(bytes).map_err(|source| TokenizerError::Json { file, source })
}

fn utf8(file: &'static str, bytes: &[u8]) -> Result<String, TokenizerError> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(error) => Err(TokenizerError::Field {
            field: file.to_owned(),
            expected: "UTF-8",
            got: format!("other bytes at {}", error.valid_up_to()),
        }),
    }
}
