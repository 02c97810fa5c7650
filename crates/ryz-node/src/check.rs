//! Reads a file as far as one stage of loading: what `npm run badfiles` asks of each malformed file.

use std::fs;
use std::path::Path;

use napi::bindgen_prelude::Function;
use napi::{Env, Result};
use napi_derive::napi;
use ryz_format::hf::Safetensors;
use ryz_format::{Gguf, ModelConfig};
use ryz_model::ModelSource;
use ryz_tokenizer::{ChatInput, ChatTemplate, EncodeOptions, HfFiles, Tokenizer};

use crate::answer::{Answer, AnswerArgs, Failure};
use crate::jobs;

/// Reads the file or folder at `path` up to `stage`: "container", "config", "tokenizer" or "template", which is rendered
/// with the conversation in `input` (JSON).
#[napi(catch_unwind)]
pub fn check_file(
    env: Env,
    path: String,
    stage: String,
    input: Option<String>,
    #[napi(ts_arg_type = "(failure: Failure | null, value: boolean | null) => void")]
    done: Function<'_, AnswerArgs<bool>, ()>,
) -> Result<()> {
    let answer = Answer::new(&done)?;
    jobs::spawn(&env, "ryz-check", move |_| {
        answer.send_from(|| check(Path::new(&path), &stage, input.as_deref()).map(|()| true));
    })?;
    Ok(())
}

/// Makes a failure of any of the crates' errors.
macro_rules! failed {
    () => {
        |error| Failure::new(error.code(), &error)
    };
}

fn check(path: &Path, stage: &str, input: Option<&str>) -> std::result::Result<(), Failure> {
    match stage {
        "container" => container(path),
        "config" => config(path),
        "tokenizer" => tokenizer(path),
        "template" => template(path, input.unwrap_or("[]")),
        _ => Err(Failure::plain(
            "INVALID_ARGUMENT",
            "stage: expected container, config, tokenizer or template",
        )),
    }
}

fn read(path: &Path) -> std::result::Result<Vec<u8>, Failure> {
    fs::read(path).map_err(|error| Failure::new("IO", &error))
}

fn gguf(path: &Path) -> std::result::Result<Gguf, Failure> {
    let bytes = read(path)?;
    Gguf::parse(&bytes, bytes.len() as u64).map_err(failed!())
}

fn is_gguf(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "gguf")
}

fn container(path: &Path) -> std::result::Result<(), Failure> {
    if is_gguf(path) {
        return gguf(path).map(drop);
    }
    let bytes = read(path)?;
    Safetensors::parse(&bytes, bytes.len() as u64)
        .map(drop)
        .map_err(failed!())
}

fn config(path: &Path) -> std::result::Result<(), Failure> {
    if path.is_dir() {
        return ModelSource::open(path).map(drop).map_err(failed!());
    }
    let gguf = gguf(path)?;
    ModelConfig::from_gguf_keys(&gguf.metadata, &gguf.tensors)
        .map(drop)
        .map_err(failed!())
}

fn tokenizer(path: &Path) -> std::result::Result<(), Failure> {
    let tokenizer = if path.is_dir() {
        let optional = |name: &str| fs::read(path.join(name)).ok();
        let tokenizer = read(&path.join("tokenizer.json"))?;
        let tokenizer_config = optional("tokenizer_config.json");
        let generation_config = optional("generation_config.json");
        let chat_template = optional("chat_template.jinja");
        Tokenizer::from_hf(&HfFiles {
            tokenizer: &tokenizer,
            tokenizer_config: tokenizer_config.as_deref(),
            generation_config: generation_config.as_deref(),
            chat_template: chat_template.as_deref(),
            ..HfFiles::default()
        })
    } else {
        Tokenizer::from_gguf(&gguf(path)?.metadata)
    }
    .map_err(failed!())?;
    // A text without a gap is the worst case of every pattern that splits words.
    let text = "a".repeat(5000) + "! Hello wörld";
    let options = EncodeOptions {
        add_special: true,
        parse_special: false,
    };
    let ids = tokenizer.encode(&text, options).map_err(failed!())?;
    drop(tokenizer.decode(&ids, false));
    Ok(())
}

fn template(path: &Path, input: &str) -> std::result::Result<(), Failure> {
    let input: serde_json::Value =
        serde_json::from_str(input).map_err(|error| Failure::new("INVALID_ARGUMENT", &error))?;
    let text = |name: &str| input[name].as_str().unwrap_or_default().to_owned();
    let template = ChatTemplate::from_bytes(&read(path)?, &text("bos_token"), &text("eos_token"))
        .map_err(failed!())?;
    template
        .render(&ChatInput::new(input["messages"].clone()))
        .map(drop)
        .map_err(failed!())
}
