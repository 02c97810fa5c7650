//! Tokenizers without a model.

use std::path::Path;
use std::sync::Arc;

use napi::bindgen_prelude::{Either, Function, Uint8Array, Uint32Array};
use napi::{Env, Result};
use napi_derive::napi;
use ryz_engine::{Chat, EngineError, open_tokenizer};
use ryz_source::Overrides;
use ryz_tokenizer::{Bounds, EncodeOptions, Tokenizer};

use crate::answer::{Answer, AnswerArgs, Failure, failure};
use crate::chat;
use crate::engine::{NativeCancel, cancellable};
use crate::jobs;
use crate::load::{Config, engine_config};

/// What a vocabulary has.
#[napi(object)]
pub struct TokenizerInfo {
    /// Ids are below this.
    pub vocabulary_size: u32,
    /// Begins a text.
    pub bos_token: Option<u32>,
    /// Ends a text.
    pub eos_token: Option<u32>,
    /// Ends a turn.
    pub eot_token: Option<u32>,
    /// Stands for what the vocabulary cannot say.
    pub unknown_token: Option<u32>,
    /// Fills a batch.
    pub padding_token: Option<u32>,
    /// End a generation.
    pub end_tokens: Vec<u32>,
    /// The source of the chat template.
    pub chat_template: Option<String>,
    /// What is probably wrong with the files.
    pub warnings: Vec<String>,
}

/// What a text became.
#[napi(object)]
pub struct EncodedText {
    /// Its ids.
    pub token_ids: Uint32Array,
    /// Characters that the vocabulary cannot say.
    pub unknown_characters: f64,
}

/// A tokenizer, and the chat template that the files have with it.
#[napi]
pub struct NativeTokenizer {
    tokenizer: Tokenizer,
    chat: Option<Arc<Chat>>,
}

/// Reads the tokenizer of a GGUF file, of a tokenizer.json, or of the folder that holds one.
#[napi(catch_unwind)]
pub fn load_tokenizer(
    env: Env,
    path: String,
    config: Config,
    #[napi(ts_arg_type = "(failure: Failure | null, value: NativeTokenizer | null) => void")]
    done: Function<'_, AnswerArgs<NativeTokenizer>, ()>,
) -> Result<()> {
    let answer = Answer::new(&done)?;
    jobs::spawn(&env, "ryz-tokenizer", move |_| {
        answer.send_from(|| {
            let overrides = engine_config(config)?.all_overrides();
            let overrides = overrides.map_err(|error| failure(&error))?;
            let tokenizer = open(Path::new(&path), &overrides)?;
            let template = tokenizer.chat_template();
            let chat = template.map(|template| Arc::new(Chat::new(template, &tokenizer)));
            Ok(NativeTokenizer { tokenizer, chat })
        });
    })?;
    Ok(())
}

#[napi]
impl NativeTokenizer {
    /// What it has.
    #[napi(catch_unwind)]
    pub fn info(&self) -> TokenizerInfo {
        let t = &self.tokenizer;
        TokenizerInfo {
            vocabulary_size: t.vocab_size(),
            bos_token: t.bos(),
            eos_token: t.eos(),
            eot_token: t.eot(),
            unknown_token: t.unk(),
            padding_token: t.pad(),
            end_tokens: t.end_of_generation().to_vec(),
            chat_template: t.chat_template_source().map(str::to_owned),
            warnings: t.warnings().iter().map(ToString::to_string).collect(),
        }
    }

    /// The id of a token by its text in the file.
    #[napi(catch_unwind)]
    pub fn token_id(&self, text: String) -> Option<u32> {
        self.tokenizer.token_id(&text)
    }

    /// Text to token ids.
    #[napi(catch_unwind)]
    pub fn encode(
        &self,
        env: Env,
        text: String,
        add_special: bool,
        parse_special: bool,
        #[napi(ts_arg_type = "(failure: Failure | null, value: EncodedText | null) => void")]
        done: Function<'_, AnswerArgs<EncodedText>, ()>,
    ) -> Result<NativeCancel> {
        let tokenizer = self.tokenizer.clone();
        let options = EncodeOptions {
            add_special,
            parse_special,
        };
        cancellable(&env, &done, text.len(), move |cancelled| {
            let bounds = Bounds {
                cancelled,
                ..Bounds::NONE
            };
            let encoded = tokenizer.encode_within(&text, options, bounds);
            let encoded = encoded.map_err(|error| Failure::new(error.code(), &error))?;
            Ok(EncodedText {
                token_ids: Uint32Array::new(encoded.ids),
                unknown_characters: encoded.unknown as f64,
            })
        })
    }

    /// Renders the chat template. The input is JSON, as text or as UTF-8.
    #[napi(catch_unwind)]
    pub fn apply_chat_template(
        &self,
        env: Env,
        input: Either<String, Uint8Array>,
        #[napi(ts_arg_type = "(failure: Failure | null, value: string | null) => void")]
        done: Function<'_, AnswerArgs<String>, ()>,
    ) -> Result<NativeCancel> {
        let (input, chat) = (chat::bytes(input), self.chat.clone());
        cancellable(&env, &done, input.len(), move |cancelled| {
            let chat = chat.ok_or_else(|| failure(&EngineError::NoChatTemplate))?;
            let text = chat.apply(&chat::parse(&input)?, cancelled);
            text.map_err(|error| failure(&error))
        })
    }

    /// Token ids to text.
    #[napi(catch_unwind)]
    pub fn decode(
        &self,
        env: Env,
        tokens: Uint32Array,
        skip_special: bool,
        #[napi(ts_arg_type = "(failure: Failure | null, value: string | null) => void")]
        done: Function<'_, AnswerArgs<String>, ()>,
    ) -> Result<()> {
        let (answer, tokenizer) = (Answer::new(&done)?, self.tokenizer.clone());
        let tokens = tokens.to_vec();
        jobs::soon(&env, move |_| {
            answer.send_from(|| {
                known(&tokenizer, &tokens)?;
                Ok(tokenizer.decode(&tokens, skip_special))
            });
        })
    }

    /// The text of each token.
    #[napi(catch_unwind)]
    pub fn pieces(
        &self,
        env: Env,
        tokens: Uint32Array,
        #[napi(ts_arg_type = "(failure: Failure | null, value: Array<string> | null) => void")]
        done: Function<'_, AnswerArgs<Vec<String>>, ()>,
    ) -> Result<()> {
        let (answer, tokenizer) = (Answer::new(&done)?, self.tokenizer.clone());
        let tokens = tokens.to_vec();
        jobs::soon(&env, move |_| {
            answer.send_from(|| {
                known(&tokenizer, &tokens)?;
                Ok(tokens.iter().map(|&id| tokenizer.piece(id)).collect())
            });
        })
    }
}

fn known(tokenizer: &Tokenizer, ids: &[u32]) -> std::result::Result<(), Failure> {
    let size = tokenizer.vocab_size();
    match ids.iter().find(|&&id| id >= size) {
        None => Ok(()),
        Some(id) => Err(Failure::plain(
            "INVALID_ARGUMENT",
            format!("tokens: expected token ids below {size}, got {id}"),
        )),
    }
}

/// A refusal of the vocabulary itself names the file.
fn open(path: &Path, overrides: &Overrides) -> std::result::Result<Tokenizer, Failure> {
    open_tokenizer(path, overrides).map_err(|error| {
        let failure = failure(&error);
        match error {
            EngineError::Tokenizer(_) => {
                let message = format!("{}: {}", path.display(), failure.message);
                Failure { message, ..failure }
            }
            _ => failure,
        }
    })
}
