//! A real vocabulary and chat template in the place of the made-up one.

use std::{error::Error, fs};

use ryz_format::{Array, Gguf, GgufWriter, StringArray, Value};

/// What to take the place of the vocabulary.
pub struct Graft {
    /// A GGUF file, of whose metadata the `tokenizer.*` pairs are taken.
    pub vocabulary: String,
    /// A file of a chat template, in the place of the vocabulary's own.
    pub template: Option<String>,
}

impl Graft {
    /// Writes the pairs, with as many tokens as the model has rows: those past the vocabulary's are unused.
    pub fn write(&self, writer: &mut GgufWriter, size: usize) -> Result<(), Box<dyn Error>> {
        let file = fs::read(&self.vocabulary)?;
        let mut metadata = Gguf::parse(&file, file.len() as u64)?.metadata;
        let tokens = metadata.get_strings("tokenizer.ggml.tokens")?.clone();
        if tokens.len() > size {
            return Err(format!("{} tokens for {size} rows", tokens.len()).into());
        }
        let unused = (tokens.len()..size).map(|id| format!("[PAD{id}]"));
        let tokens: StringArray = tokens.iter().map(str::to_owned).chain(unused).collect();
        let mut types = metadata.get_i32s("tokenizer.ggml.token_type")?.into_owned();
        // 5 is an unused token's type.
        types.resize(size, 5);
        metadata.set(
            "tokenizer.ggml.tokens",
            Value::Array(Array::Strings(tokens)),
        );
        metadata.set("tokenizer.ggml.token_type", Value::Array(Array::I32(types)));
        metadata.remove("tokenizer.ggml.scores");
        if let Some(template) = &self.template {
            metadata.set("tokenizer.chat_template", fs::read_to_string(template)?);
        }
        for (key, value) in metadata.iter() {
            if key.starts_with("tokenizer.") {
                writer.push(key, value.clone())?;
            }
        }
        Ok(())
    }
}
