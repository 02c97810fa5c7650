//! The target's key–value pairs.

use ryz_format::{Metadata, Value};

use crate::{ConvertError, ConvertOptions, source::Source, tokenizer};

/// The target's pairs, and notes on what they cannot express about the tokenizer.
pub(crate) fn pairs(
    source: &Source,
    options: &ConvertOptions,
) -> Result<(Metadata, Vec<String>), ConvertError> {
    let mut pairs = Metadata::new();
    let mut notes = Vec::new();
    if source.folder().is_some() {
        let mut config = source.config().gguf_pairs().into_iter();
        // The architecture comes first, as is conventional.
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
        // The target is a single file with default alignment unless set below.
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

/// Keys common to every ternary file; they take the place of the source's.
fn general(pairs: &mut Metadata, options: &ConvertOptions) {
    if let Some(name) = &options.name {
        pairs.set("general.name", name.as_str());
    }
    pairs.set("general.file_type", Value::U32(options.form.file_type()));
    pairs.set("general.quantization_version", Value::U32(2));
    if options.prepack {
        pairs.set("ryzanstein.prepacked.version", Value::U32(1));
        // Aligned to cache lines, so that a mapped file can be read in place.
        pairs.set("general.alignment", Value::U32(64));
    }
}
