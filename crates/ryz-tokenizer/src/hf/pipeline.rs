//! The steps around the model in tokenizer.json: what is known is taken over, all else is refused by name.

use serde_json::Value;

use super::FILE;
use crate::{TokenizerError, pretokenizer::Pretokenizer, tokenizer::SpacePrefix};

/// How deeply `Sequence`s may nest.
const MAX_DEPTH: usize = 4;
/// Ids that a post-processor may add on each side.
const MAX_AFFIX: usize = 16;

/// What `normalizer` and `pre_tokenizer` do.
pub(super) struct Steps {
    pub(super) nfc: bool,
    pub(super) split: Split,
}

pub(super) enum Split {
    /// Byte-level words.
    ByteLevel(Pretokenizer),
    /// Spaces as `▁` and no words.
    SentencePiece {
        prefix: SpacePrefix,
        /// No prefix where the text begins with a space.
        unless_space: bool,
    },
}

/// Reads the two steps before the model.
pub(super) fn steps(
    normalizer: Option<&Value>,
    pre_tokenizer: Option<&Value>,
) -> Result<Steps, TokenizerError> {
    let mut nfc = false;
    let mut prepend = false;
    let mut replace = false;
    for step in flatten(normalizer, "normalizer", "normalizers")? {
        let content = |key| step.get(key).and_then(Value::as_str);
        match kind(step) {
            "NFC" => nfc = true,
            "Prepend" if content("prepend") == Some("▁") => prepend = true,
            "Replace"
                if step.pointer("/pattern/String").and_then(Value::as_str) == Some(" ")
                    && content("content") == Some("▁") =>
            {
                replace = true;
            }
            _ => return Err(unsupported("normalizer", step)),
        }
    }

    let mut words = Pretokenizer::new();
    let mut byte_level = false;
    let mut metaspace = None;
    for step in flatten(pre_tokenizer, "pre_tokenizer", "pretokenizers")? {
        let refused = || unsupported("pre_tokenizer", step);
        let flag = |key, default| step.get(key).map_or(Some(default), Value::as_bool);
        // What comes after `ByteLevel` would work on its alphabet and no longer on the text.
        if byte_level || metaspace.is_some() {
            return Err(refused());
        }
        match kind(step) {
            "Split" => {
                let pattern = step.pointer("/pattern/Regex").and_then(Value::as_str);
                let behavior = step.get("behavior").and_then(Value::as_str);
                let removed = match (behavior, flag("invert", false)) {
                    (Some("Isolated"), Some(false)) => Some(false),
                    // Patterns that match everywhere leave nothing to remove.
                    (Some("Removed"), Some(true)) => Some(true),
                    _ => None,
                };
                let known = pattern
                    .zip(removed)
                    .and_then(|(p, r)| words.published(p, r));
                words = known.ok_or_else(refused)??;
            }
            "Digits" => {
                let individual = flag("individual_digits", false).ok_or_else(refused)?;
                words = words.digits(individual)?;
            }
            "Punctuation" => {
                words = match step.get("behavior").and_then(Value::as_str) {
                    None | Some("Isolated") => words.punctuation(false)?,
                    Some("Contiguous") => words.punctuation(true)?,
                    _ => return Err(refused()),
                };
            }
            "ByteLevel" => {
                byte_level = true;
                match (flag("add_prefix_space", true), flag("use_regex", true)) {
                    (Some(false), Some(true)) => words = words.gpt2()?,
                    (Some(false), Some(false)) => {}
                    _ => return Err(refused()),
                }
            }
            "Metaspace" => {
                let plain = step.get("replacement").and_then(Value::as_str) == Some("▁")
                    && flag("split", true) == Some(false);
                let scheme = match step.get("prepend_scheme").and_then(Value::as_str) {
                    Some("always") => SpacePrefix::Always,
                    Some("first") => SpacePrefix::First,
                    Some("never") => SpacePrefix::Never,
                    _ => return Err(refused()),
                };
                metaspace = Some(scheme).filter(|_| plain);
                if !plain {
                    return Err(refused());
                }
            }
            _ => return Err(refused()),
        }
    }

    let split = match (byte_level, metaspace, replace) {
        (true, None, false) if !prepend => Split::ByteLevel(words),
        (false, Some(prefix), false) if !prepend && words.is_empty() => Split::SentencePiece {
            prefix,
            unless_space: true,
        },
        (false, None, true) if words.is_empty() => Split::SentencePiece {
            prefix: if prepend {
                SpacePrefix::Always
            } else {
                SpacePrefix::Never
            },
            unless_space: false,
        },
        _ => {
            return Err(TokenizerError::Unsupported {
                key: format!("{FILE}: pre_tokenizer"),
                got: "neither ByteLevel nor spaces as ▁".to_owned(),
            });
        }
    };
    Ok(Steps { nfc, split })
}

/// Checks that `decoder` is the inverse of the steps, which is what decoding here does.
pub(super) fn check_decoder(decoder: Option<&Value>, split: &Split) -> Result<(), TokenizerError> {
    for step in flatten(decoder, "decoder", "decoders")? {
        let known: &[&str] = match split {
            Split::ByteLevel(_) => &["ByteLevel"],
            Split::SentencePiece { .. } => {
                &["Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"]
            }
        };
        if !known.contains(&kind(step)) {
            return Err(unsupported("decoder", step));
        }
    }
    Ok(())
}

/// The ids that `post_processor` puts before and after a text.
pub(super) fn affixes(
    post_processor: Option<&Value>,
    vocab_size: u32,
) -> Result<(Vec<u32>, Vec<u32>), TokenizerError> {
    let (mut before, mut after) = (Vec::new(), Vec::new());
    for step in flatten(post_processor, "post_processor", "processors")? {
        match kind(step) {
            "ByteLevel" => {}
            "TemplateProcessing" => {
                // The template for two texts is not used, and still has to make sense.
                template(step, "pair", vocab_size)?;
                (before, after) = template(step, "single", vocab_size)?;
            }
            _ => return Err(unsupported("post_processor", step)),
        }
    }
    Ok((before, after))
}

fn template(
    step: &Value,
    name: &str,
    vocab_size: u32,
) -> Result<(Vec<u32>, Vec<u32>), TokenizerError> {
    let field = || format!("{FILE}: post_processor.{name}");
    let wrong = |expected, got: &Value| TokenizerError::Field {
        field: field(),
        expected,
        got: shown(got),
    };
    let mut ids = [Vec::new(), Vec::new()];
    let mut side = 0;
    let pieces = match step.get(name) {
        None if name == "pair" => return Ok(Default::default()),
        None => return Err(wrong("a list of pieces", &Value::Null)),
        Some(pieces) => pieces
            .as_array()
            .ok_or_else(|| wrong("a list of pieces", pieces))?,
    };
    for piece in pieces {
        if piece.get("Sequence").is_some() {
            side = 1;
            continue;
        }
        let special = piece.pointer("/SpecialToken/id").and_then(Value::as_str);
        let special = special.ok_or_else(|| wrong("a Sequence or a SpecialToken", piece))?;
        let tokens = step
            .get("special_tokens")
            .and_then(|tokens| tokens.get(special));
        let tokens = tokens
            .and_then(|token| token.get("ids"))
            .and_then(Value::as_array);
        let tokens = tokens.ok_or_else(|| wrong("a name from special_tokens", piece))?;
        for id in tokens {
            let number = id.as_u64().ok_or_else(|| wrong("token ids", id))?;
            if number >= u64::from(vocab_size) {
                return Err(TokenizerError::IdOutOfRange {
                    key: field(),
                    vocab_size,
                    got: number,
                });
            }
            ids[side].push(number as u32);
            if ids[side].len() > MAX_AFFIX {
                return Err(wrong("at most 16 special tokens", id));
            }
        }
    }
    Ok(ids.into())
}

/// The steps of a component: itself, those of a `Sequence`, or none.
fn flatten<'a>(
    component: Option<&'a Value>,
    name: &'static str,
    list: &'static str,
) -> Result<Vec<&'a Value>, TokenizerError> {
    fn walk<'a>(
        step: &'a Value,
        name: &'static str,
        list: &'static str,
        depth: usize,
        out: &mut Vec<&'a Value>,
    ) -> Result<(), TokenizerError> {
        if kind(step) != "Sequence" {
            out.push(step);
            return Ok(());
        }
        let steps = step.get(list).and_then(Value::as_array);
        let steps = steps.filter(|_| depth < MAX_DEPTH);
        for step in steps.ok_or_else(|| unsupported(name, step))? {
            walk(step, name, list, depth + 1, out)?;
        }
        Ok(())
    }
    let mut out = Vec::new();
    if let Some(component) = component.filter(|component| !component.is_null()) {
        walk(component, name, list, 0, &mut out)?;
    }
    Ok(out)
}

fn kind(step: &Value) -> &str {
    step.get("type").and_then(Value::as_str).unwrap_or_default()
}

fn unsupported(component: &'static str, step: &Value) -> TokenizerError {
    TokenizerError::Unsupported {
        key: format!("{FILE}: {component}"),
        got: match step.pointer("/pattern/Regex").and_then(Value::as_str) {
            Some(pattern) => pattern.to_owned(),
            None => shown(step),
        },
    }
}

/// A value for an error, which shows its beginning.
fn shown(value: &Value) -> String {
    let mut text = value.to_string();
    text.truncate(text.floor_char_boundary(400));
    text
}
