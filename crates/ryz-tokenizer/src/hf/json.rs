//! The parts of tokenizer.json and its neighbours that matter, as serde reads them.
//!
//! serde_json refuses nesting beyond 128 levels, which is what a hostile file would overflow a stack with.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::Value;

/// tokenizer.json.
#[derive(Deserialize)]
#[serde(expecting = "an object")]
pub(super) struct TokenizerJson<'a> {
    #[serde(default)]
    pub(super) added_tokens: Vec<AddedToken>,
    #[serde(default)]
    pub(super) normalizer: Option<Value>,
    #[serde(default)]
    pub(super) pre_tokenizer: Option<Value>,
    #[serde(default)]
    pub(super) post_processor: Option<Value>,
    #[serde(default)]
    pub(super) decoder: Option<Value>,
    #[serde(borrow)]
    pub(super) model: ModelJson<'a>,
}

/// An element of `added_tokens`.
#[derive(Deserialize)]
#[serde(expecting = "an object")]
pub(super) struct AddedToken {
    pub(super) id: u32,
    pub(super) content: String,
    #[serde(default)]
    pub(super) single_word: bool,
    #[serde(default)]
    pub(super) lstrip: bool,
    #[serde(default)]
    pub(super) rstrip: bool,
    #[serde(default)]
    pub(super) special: bool,
}

/// `model`.
#[derive(Deserialize)]
#[serde(expecting = "an object")]
pub(super) struct ModelJson<'a> {
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    #[serde(borrow)]
    pub(super) vocab: VocabJson<'a>,
    #[serde(borrow, default)]
    pub(super) merges: Option<Vec<MergeJson<'a>>>,
    pub(super) dropout: Option<f32>,
    pub(super) continuing_subword_prefix: Option<String>,
    pub(super) end_of_word_suffix: Option<String>,
    #[serde(default)]
    pub(super) unk_token: Option<String>,
    #[serde(default)]
    pub(super) fuse_unk: bool,
    #[serde(default)]
    pub(super) byte_fallback: bool,
    #[serde(default)]
    pub(super) ignore_merges: bool,
}

/// `model.vocab`: texts with ids; other models than BPE have a list.
pub(super) enum VocabJson<'a> {
    Map(Vec<(Cow<'a, str>, u32)>),
    List,
}

/// `"a b"` or `["a", "b"]`.
pub(super) enum MergeJson<'a> {
    Joined(Cow<'a, str>),
    Pair(Cow<'a, str>, Cow<'a, str>),
}

/// Text that is borrowed from the file where it has no escapes.
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Text<'a>, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for VocabJson<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<VocabJson<'a>, D::Error> {
        struct VocabVisitor;
        impl<'de> Visitor<'de> for VocabVisitor {
            type Value = VocabJson<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of texts to ids")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<VocabJson<'de>, M::Error> {
                let mut pairs = Vec::new();
                while let Some((Text(text), id)) = map.next_entry()? {
                    pairs.push((text, id));
                }
                Ok(VocabJson::Map(pairs))
            }

            fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<VocabJson<'de>, S::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(VocabJson::List)
            }
        }
        deserializer.deserialize_any(VocabVisitor)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for MergeJson<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<MergeJson<'a>, D::Error> {
        struct MergeVisitor;
        impl<'de> Visitor<'de> for MergeVisitor {
            type Value = MergeJson<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a merge: \"a b\" or [\"a\", \"b\"]")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<MergeJson<'de>, E> {
                Ok(MergeJson::Joined(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<MergeJson<'de>, E> {
                Ok(MergeJson::Joined(Cow::Owned(text.to_owned())))
            }

            fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<MergeJson<'de>, S::Error> {
                let mut next = |index| {
                    seq.next_element::<Text<'de>>()?
                        .ok_or_else(|| S::Error::invalid_length(index, &self))
                };
                let (Text(left), Text(right)) = (next(0)?, next(1)?);
                match seq.next_element::<IgnoredAny>()? {
                    None => Ok(MergeJson::Pair(left, right)),
                    Some(_) => Err(S::Error::invalid_length(3, &self)),
                }
            }
        }
        deserializer.deserialize_any(MergeVisitor)
    }
}

/// tokenizer_config.json.
#[derive(Default, Deserialize)]
#[serde(expecting = "an object")]
pub(super) struct TokenizerConfig {
    pub(super) bos_token: Option<TokenName>,
    pub(super) eos_token: Option<TokenName>,
    pub(super) unk_token: Option<TokenName>,
    pub(super) pad_token: Option<TokenName>,
    pub(super) add_bos_token: Option<bool>,
    pub(super) add_eos_token: Option<bool>,
    pub(super) chat_template: Option<Templates>,
}

/// A token by its text, bare or in an object.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum TokenName {
    Bare(String),
    Object { content: String },
}

impl TokenName {
    pub(super) fn text(&self) -> &str {
        match self {
            TokenName::Bare(text) | TokenName::Object { content: text } => text,
        }
    }
}

/// chat_template.json.
#[derive(Default, Deserialize)]
#[serde(expecting = "an object")]
pub(super) struct LegacyTemplate {
    pub(super) chat_template: Option<Templates>,
}

impl Templates {
    /// The template of that name; a single one is the default.
    pub(super) fn find(&self, name: &str) -> Option<&str> {
        match self {
            Templates::One(template) => (name == "default").then_some(template.as_str()),
            Templates::Named(templates) => templates
                .iter()
                .find(|named| named.name == name)
                .map(|named| named.template.as_str()),
        }
    }
}

/// One template, or several with names.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Templates {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
pub(super) struct NamedTemplate {
    pub(super) name: String,
    pub(super) template: String,
}

/// generation_config.json.
#[derive(Default, Deserialize)]
#[serde(expecting = "an object")]
pub(super) struct GenerationConfig {
    pub(super) eos_token_id: Option<Ids>,
}

/// One id or several.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Ids {
    One(u32),
    Many(Vec<u32>),
}
