//! The target's key–value pairs.

use ryz_format::{Metadata, Value};

use crate::{ConvertError, ConvertOptions, source::Source, tokenizer};

/// The pairs of the target, and what they cannot say about the tokenizer.
pub(crate) fn pairs(
    source: &Source,
    options: &ConvertOptions,
) -> Result<(Metadata, Vec<String>), ConvertError> {
    let mut pairs = Metadata::new();
    let mut notes = Vec::new();
    if source.folder().is_some() {
        let mut config = source.config().gguf_pairs().into_iter();
        // The architecture first, as everyone has it.
        config
            .by_ref()
            .take(1)
            .for_each(|(key, value)| pairs.set(&key, value));
        let folder = source.path().canonicalize().ok();
        let name = folder.as_deref().and_then(|folder| folder.file_name());
        let name = name.map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        pairs.set("general.name", name);
        general(&mut pairs, options);
        config.for_each(|(key, value)| pairs.set(&key, value));
        if options.tokenizer {
            let tokenizer = tokenizer::convert(source)?;
            notes = tokenizer.notes;
            for (key, value) in tokenizer.pairs.iter() {
                pairs.set(key, value.clone());
            }
        }
    } else {
        // One file with the alignment that it has unless it says so.
        let kept = |key: &str| !key.starts_with("split.") && key != "general.alignment";
        for (key, value) in source
            .model()
            .metadata()
            .iter()
            .filter(|(key, _)| kept(key))
        {
            pairs.set(key, value.clone());
        }
        general(&mut pairs, options);
    }
    Ok((pairs, notes))
}

/// What is said of every ternary file, in its place where the source says it too.
fn general(pairs: &mut Metadata, options: &ConvertOptions) {
    if let Some(name) = &options.name {
        pairs.set("general.name", name.as_str());
    }
    pairs.set("general.file_type", Value::U32(options.form.file_type()));
    pairs.set("general.quantization_version", Value::U32(2));
    if options.prepack {
        pairs.set("ryzanstein.prepacked.version", Value::U32(1));
        // On lines, so that a mapped file is read in place.
        pairs.set("general.alignment", Value::U32(64));
    }
}
