//! Expresses a Hugging Face tokenizer in GGUF's keys.
//!
//! The tokenizer crate reads and checks the files; this module only produces the equivalent
//! `tokenizer.ggml.*`. The result is read back and compared, because keys that are almost
//! equivalent produce a model that almost works.

use std::{borrow::Cow, collections::HashMap};

use ryz_format::{Array, FormatError, Metadata, Value};
use ryz_tokenizer::{EncodeOptions, HfFiles, Tokenizer, TokenizerError, names_of_pattern};
use serde::Deserialize;

use crate::{
    ConvertError,
    source::{Source, at},
};

/// Texts that distinguish pre-tokenizers, normalizers and affixes.
const PROBES: [&str; 6] = [
    "",
    "Hello, world! It's 12345 o'clock; IT'S 7.",
    "  two  spaces\tand\n\n lines \r\n end ",
    "if (x == 10) {\n    return \"a\" + 1.5e-3;\n}",
    "日本語のテキスト und Größe, naïve café — 1½ ٣٤",
    "a",
];

/// `tokenizer.ggml.token_type`.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// A tokenizer in GGUF's keys.
pub(crate) struct GgufTokenizer {
    pub(crate) pairs: Metadata,
    /// What the keys cannot express, one sentence each.
    pub(crate) notes: Vec<String>,
}

/// The parts of tokenizer.json that map to keys.
#[derive(Deserialize)]
struct File<'a> {
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(default)]
    normalizer: Option<serde_json::Value>,
    #[serde(default)]
    pre_tokenizer: Option<serde_json::Value>,
    #[serde(borrow)]
    model: Model<'a>,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct Model<'a> {
    vocab: HashMap<String, u32>,
    #[serde(borrow)]
    merges: Vec<Merge<'a>>,
    #[serde(default)]
    ignore_merges: bool,
    #[serde(default)]
    unk_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge<'a> {
    Joined(#[serde(borrow)] Cow<'a, str>),
    Pair(String, String),
}

/// Converts a folder's tokenizer.
pub(crate) fn convert(source: &Source) -> Result<GgufTokenizer, ConvertError> {
    let read = |name| source.folder().map_or(Ok(None), |folder| folder.read(name));
    let path = source.path().join("tokenizer.json");
    let json = read("tokenizer.json")?.ok_or_else(|| {
        let path = path.clone();
        ConvertError::Read(ryz_tmac::MemoryError::FileNotFound { path })
    })?;
    let (config, generation, template, legacy, tool_use) = (
        read("tokenizer_config.json")?,
        read("generation_config.json")?,
        read("chat_template.jinja")?,
        read("chat_template.json")?,
        read(HfFiles::TOOL_USE)?,
    );
    let files = HfFiles {
        tokenizer: &json,
        tokenizer_config: config.as_deref(),
        generation_config: generation.as_deref(),
        chat_template: template.as_deref(),
        legacy_template: legacy.as_deref(),
        tool_use_template: tool_use.as_deref(),
    };
    let refused = |source_error| ConvertError::Tokenizer {
        path: source.path().to_owned(),
        source: source_error,
    };
    let original = Tokenizer::from_hf(&files).map_err(refused)?;
    let file: File<'_> = serde_json::from_slice(&json).map_err(|error| {
        at(&path)(FormatError::Json {
            what: "tokenizer.json",
            source: error,
        })
    })?;
    let (mut pairs, mut notes) = pairs(&file, &original, source.config().vocab_size)?;
    let mut written = Tokenizer::from_gguf(&pairs).map_err(refused)?;
    let ends = missing_ends(&original, &written);
    if !ends.is_empty() {
        for (key, &id) in ["eot", "eom"].into_iter().zip(&ends) {
            pairs.set(&format!("tokenizer.ggml.{key}_token_id"), Value::U32(id));
        }
        written = Tokenizer::from_gguf(&pairs).map_err(refused)?;
        for id in missing_ends(&original, &written) {
            notes.push(format!("token {id} ends a generation, which is not said"));
        }
    }
    compare(&original, &written).map_err(refused)??;
    notes.extend(unequal(&original, &written).map_err(refused)?);
    Ok(GgufTokenizer { pairs, notes })
}

/// The keys, except the end-of-generation tokens.
fn pairs(
    file: &File<'_>,
    original: &Tokenizer,
    vocab_size: usize,
) -> Result<(Metadata, Vec<String>), ConvertError> {
    let mut notes = Vec::new();
    let spaces = spaces(file);
    let pre = match spaces {
        Some(_) => None,
        None => Some(pre(file.pre_tokenizer.as_ref(), file.model.ignore_merges)?),
    };
    if spaces.is_none() && file.normalizer.as_ref().is_some_and(|step| !step.is_null()) {
        notes.push("text is no longer brought to Unicode's NFC before it is encoded".to_owned());
    }
    let count = original.vocab_size() as usize;
    if count > vocab_size {
        return Err(ConvertError::TooManyTokens {
            vocab_size,
            got: count,
        });
    }
    let mut tokens: Vec<Cow<'_, str>> = (0..vocab_size)
        .map(|id| Cow::Owned(format!("[PAD{id}]")))
        .collect();
    let mut types = vec![UNUSED; vocab_size];
    for (text, &id) in &file.model.vocab {
        tokens[id as usize] = text.as_str().into();
        types[id as usize] = match original.is_byte(id) {
            true => BYTE,
            false => NORMAL,
        };
    }
    for token in &file.added_tokens {
        let id = token.id as usize;
        tokens[id] = token.content.as_str().into();
        types[id] = match original.is_special(token.id) || token.special {
            true if file.model.unk_token.as_ref() == Some(&token.content) => UNKNOWN,
            true => CONTROL,
            false => USER_DEFINED,
        };
        if token.lstrip || token.rstrip {
            let text = &token.content;
            notes.push(format!(
                "token {text:?} no longer takes the white space beside it"
            ));
        }
    }
    let mut pairs = Metadata::new();
    pairs.set(
        "tokenizer.ggml.model",
        if pre.is_some() { "gpt2" } else { "llama" },
    );
    pairs.set("tokenizer.ggml.pre", pre.unwrap_or("default"));
    pairs.set(
        "tokenizer.ggml.tokens",
        Array::Strings(tokens.iter().collect()),
    );
    pairs.set("tokenizer.ggml.token_type", Array::I32(types.clone()));
    match spaces {
        None => {
            let merges = file.model.merges.iter().map(|merge| match merge {
                Merge::Joined(joined) => joined.to_string(),
                Merge::Pair(left, right) => format!("{left} {right}"),
            });
            pairs.set("tokenizer.ggml.merges", Array::Strings(merges.collect()));
        }
        Some(prefix) => {
            pairs.set("tokenizer.ggml.scores", Array::F32(scores(file, &types)));
            pairs.set("tokenizer.ggml.add_space_prefix", prefix);
        }
    }
    let (prefix, suffix) = affixes(original)?;
    let ids = [
        ("bos", original.bos().or(prefix)),
        ("eos", original.eos().or(suffix)),
        ("unknown", original.unk()),
        ("padding", original.pad()),
    ];
    for (name, id) in ids {
        if let Some(id) = id {
            pairs.set(&format!("tokenizer.ggml.{name}_token_id"), Value::U32(id));
        }
    }
    pairs.set("tokenizer.ggml.add_bos_token", prefix.is_some());
    if suffix.is_some() {
        pairs.set("tokenizer.ggml.add_eos_token", true);
    }
    if let Some(template) = original.chat_template_source() {
        pairs.set("tokenizer.chat_template", template);
    }
    if let Some(template) = original.tool_use_template_source() {
        pairs.set("tokenizer.chat_template.tool_use", template);
    }
    Ok((pairs, notes))
}

/// For SentencePiece BPE, whether a space is prepended to a text; `None` for other models.
fn spaces(file: &File<'_>) -> Option<bool> {
    let kind = |step: &serde_json::Value| step["type"].as_str().unwrap_or_default().to_owned();
    let mut steps = Vec::new();
    let normalizer = file.normalizer.as_ref();
    normalizer.inspect(|step| flatten(step, "normalizers", &mut steps));
    let kinds: Vec<String> = steps.into_iter().map(kind).collect();
    let mut before = Vec::new();
    let pre_tokenizer = file.pre_tokenizer.as_ref();
    pre_tokenizer.inspect(|step| flatten(step, "pretokenizers", &mut before));
    match before.as_slice() {
        [] if kinds.iter().any(|kind| kind == "Replace") => {
            Some(kinds.iter().any(|kind| kind == "Prepend"))
        }
        [step] if kind(step) == "Metaspace" => Some(step["prepend_scheme"] != "never"),
        _ => None,
    }
}

/// A score for each token: the later the first merge that makes it, the lower. Tokens that no merge
/// makes come last; their scores are never used.
fn scores(file: &File<'_>, types: &[i32]) -> Vec<f32> {
    let last = file.model.merges.len();
    let text = |types: &i32| *types == NORMAL;
    let mut scores: Vec<f32> = (0..)
        .zip(types)
        .map(|(id, kind)| {
            if text(kind) {
                -((last + id) as f32)
            } else {
                0.0
            }
        })
        .collect();
    let mut whole = String::new();
    for (rank, merge) in file.model.merges.iter().enumerate().rev() {
        let (left, right) = match merge {
            Merge::Joined(joined) => joined.split_once(' ').unwrap_or((joined, "")),
            Merge::Pair(left, right) => (left.as_str(), right.as_str()),
        };
        whole.clear();
        whole.push_str(left);
        whole.push_str(right);
        if let Some(&id) = file.model.vocab.get(&whole) {
            scores[id as usize] = -(rank as f32);
        }
    }
    scores
}

/// The name of the pre-tokenizer; of equivalent ones, one is chosen.
fn pre(
    pre_tokenizer: Option<&serde_json::Value>,
    ignore_merges: bool,
) -> Result<&'static str, ConvertError> {
    let mut steps = Vec::new();
    if let Some(step) = pre_tokenizer {
        flatten(step, "pretokenizers", &mut steps);
    }
    let text = |step: &serde_json::Value, path: &str| {
        let text = step.pointer(path).and_then(serde_json::Value::as_str);
        text.unwrap_or_default().to_owned()
    };
    let flag = |step: &serde_json::Value, name: &str, default| {
        step.get(name)
            .and_then(serde_json::Value::as_bool)
            .unwrap_or(default)
    };
    let kinds: Vec<String> = steps.iter().map(|step| text(step, "/type")).collect();
    let kinds: Vec<&str> = kinds.iter().map(String::as_str).collect();
    let name = match (kinds.as_slice(), steps.as_slice()) {
        (["Split", "ByteLevel"], [split, bytes]) if !flag(bytes, "use_regex", true) => {
            let names = names_of_pattern(&text(split, "/pattern/Regex"));
            let same = names.iter().find(|(_, ignores)| *ignores == ignore_merges);
            if let Some((name, _)) = same {
                return Ok(name);
            }
            names.first().map(|(name, _)| *name)
        }
        (["ByteLevel"], [bytes]) if flag(bytes, "use_regex", true) => Some("gpt-2"),
        (["Digits", "ByteLevel"], [digits, bytes])
            if flag(digits, "individual_digits", false) && flag(bytes, "use_regex", true) =>
        {
            Some("smollm")
        }
        _ => None,
    };
    // The name determines whether a word that is itself a token skips the merges.
    match (name, ignore_merges) {
        (Some(name), false) => Ok(name),
        (Some(name), true) => Err(ConvertError::TokenizerForm {
            field: "model.ignore_merges",
            got: format!("true with the pre-tokenizer {name}"),
        }),
        (None, _) => Err(ConvertError::TokenizerForm {
            field: "pre_tokenizer",
            got: pre_tokenizer.map_or("null".to_owned(), ToString::to_string),
        }),
    }
}

fn flatten<'a>(step: &'a serde_json::Value, list: &str, out: &mut Vec<&'a serde_json::Value>) {
    match step.get(list).and_then(|steps| steps.as_array()) {
        Some(steps) => steps.iter().for_each(|step| flatten(step, list, out)),
        None if step.is_null() => {}
        None => out.push(step),
    }
}

/// The id before and the id after every text. GGUF allows at most one each, and it must be BOS or
/// EOS.
fn affixes(tokenizer: &Tokenizer) -> Result<(Option<u32>, Option<u32>), ConvertError> {
    let encode = |text, add_special| {
        let options = EncodeOptions {
            add_special,
            ..EncodeOptions::default()
        };
        tokenizer.encode(text, options).ok()
    };
    // A small vocabulary may lack some bytes. The empty text shows all ids, but not on which side
    // they are.
    let shown = ["a", "e", "0", " ", ""].into_iter().find_map(|text| {
        let (plain, all) = (encode(text, false)?, encode(text, true)?);
        let start = all.windows(plain.len().max(1)).position(|ids| ids == plain);
        let start = start.unwrap_or(all.len());
        let end = start + plain.len();
        Some((all[..start].to_vec(), all.get(end..)?.to_vec()))
    });
    let (before, after) = shown.unwrap_or_default();
    let one = |ids: &[u32], known: Option<u32>| match *ids {
        [] => Some(None),
        [id] if known.is_none_or(|known| known == id) => Some(Some(id)),
        _ => None,
    };
    match (one(&before, tokenizer.bos()), one(&after, tokenizer.eos())) {
        (Some(before), Some(after)) => Ok((before, after)),
        _ => Err(ConvertError::TokenizerForm {
            field: "post_processor",
            got: format!("the ids {before:?} before and {after:?} after a text"),
        }),
    }
}

/// Tokens that end a generation in the first tokenizer but not in the second.
fn missing_ends(original: &Tokenizer, written: &Tokenizer) -> Vec<u32> {
    let ends = original.end_of_generation().iter().copied();
    ends.filter(|&id| !written.is_end_of_generation(id))
        .collect()
}

/// Checks that both produce the same ids for texts that distinguish tokenizers.
fn compare(
    original: &Tokenizer,
    written: &Tokenizer,
) -> Result<Result<(), ConvertError>, TokenizerError> {
    for probe in PROBES {
        for parse_special in [false, true] {
            let options = EncodeOptions {
                add_special: true,
                parse_special,
            };
            // A small vocabulary may lack some bytes.
            let Ok(expected) = original.encode(probe, options) else {
                continue;
            };
            let got = written.encode(probe, options)?;
            if got != expected {
                return Ok(Err(ConvertError::TokenizerForm {
                    field: "pre_tokenizer, model or post_processor",
                    got: format!("{probe:?} is {expected:?}, and would be {got:?}"),
                }));
            }
        }
    }
    Ok(Ok(()))
}

/// Finds words of the vocabulary that the second tokenizer splits differently; returns a sentence
/// about them.
fn unequal(original: &Tokenizer, written: &Tokenizer) -> Result<Option<String>, TokenizerError> {
    const MOST: u32 = 4096;
    let options = EncodeOptions::default();
    let count = original.vocab_size();
    let step = (count / MOST).max(1);
    let mut text = String::new();
    for id in (0..count)
        .step_by(step as usize)
        .filter(|&id| original.is_text(id))
    {
        // Each word, preceded by the previous one.
        let previous = text.len();
        text.push_str(&original.piece(id));
        if original.encode(&text, options)? != written.encode(&text, options)? {
            return Ok(Some(format!(
                "{text:?} is cut in another way, and other words may be"
            )));
        }
        text.drain(..previous);
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

    #[test]
    fn names_of_pre_tokenizers() {
        let byte_level = |use_regex: bool| json!({"type": "ByteLevel", "use_regex": use_regex});
        let split = |pattern: &str| {
            json!({"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": pattern}},
                byte_level(false),
            ]})
        };
        assert_eq!(pre(Some(&split(LLAMA3)), false).unwrap(), "smaug-bpe");
        assert_eq!(pre(Some(&split(LLAMA3)), true).unwrap(), "llama-bpe");
        assert_eq!(pre(Some(&split(QWEN2)), false).unwrap(), "qwen2");
        assert_eq!(pre(Some(&byte_level(true)), false).unwrap(), "gpt-2");
        let digits = json!({"pretokenizers": [
            {"type": "Digits", "individual_digits": true},
            byte_level(true),
        ]});
        assert_eq!(pre(Some(&digits), false).unwrap(), "smollm");
        for (step, ignore_merges) in [
            (split("(a+)+$"), false),
            (split(QWEN2), true),
            (byte_level(false), false),
            (json!({"type": "Metaspace"}), false),
            (json!(null), false),
        ] {
            let error = pre(Some(&step), ignore_merges).unwrap_err();
            assert_eq!(error.code(), "UNSUPPORTED", "{step}");
        }
    }
}
