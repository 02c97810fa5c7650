//! Prefixes in files.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use napi::bindgen_prelude::{Function, Uint32Array};
use napi::{Env, Result};
use napi_derive::napi;
use ryz_engine::Engine;

use crate::answer::{Answer, AnswerArgs, Failure, failure};
use crate::engine::{NativeCancel, NativeEngine};
use crate::jobs;

/// What was saved.
#[napi(object)]
pub struct SavedPrefix {
    /// Tokens of whole blocks.
    pub tokens: f64,
    /// Bytes of the file.
    pub bytes: f64,
}

/// What was restored.
#[napi(object)]
pub struct RestoredPrefix {
    /// The tokens of the file.
    pub tokens: Uint32Array,
    /// How many of them are in the prefix cache.
    pub restored: f64,
    /// What was saved beside them.
    pub note: String,
}

#[napi]
impl NativeEngine {
    /// Saves what was computed of the tokens, and a note.
    #[napi(catch_unwind)]
    pub fn save_prefix(
        &self,
        env: Env,
        tokens: Uint32Array,
        note: String,
        path: String,
        #[napi(ts_arg_type = "(failure: Failure | null, value: SavedPrefix | null) => void")]
        done: Function<'_, AnswerArgs<SavedPrefix>, ()>,
    ) -> Result<NativeCancel> {
        let tokens = tokens.to_vec();
        self.wait_for(&env, &done, move |engine, cancel| {
            let saved = engine.save_prefix(&tokens, note.as_bytes(), &PathBuf::from(path), cancel);
            let saved = saved.map_err(|error| failure(&error))?;
            Ok(SavedPrefix {
                tokens: saved.tokens as f64,
                bytes: saved.bytes as f64,
            })
        })
    }

    /// Brings it back.
    #[napi(catch_unwind)]
    pub fn restore_prefix(
        &self,
        env: Env,
        path: String,
        #[napi(ts_arg_type = "(failure: Failure | null, value: RestoredPrefix | null) => void")]
        done: Function<'_, AnswerArgs<RestoredPrefix>, ()>,
    ) -> Result<NativeCancel> {
        self.wait_for(&env, &done, move |engine, cancel| {
            let restored = engine.restore_prefix(&PathBuf::from(&path), cancel);
            let restored = restored.map_err(|error| failure(&error))?;
            let note = String::from_utf8(restored.note);
            let note = note.map_err(|_| {
                let message = format!("{path}: saved state's note: expected UTF-8");
                Failure::plain("INVALID_FILE", message)
            })?;
            Ok(RestoredPrefix {
                tokens: Uint32Array::new(restored.tokens),
                restored: restored.restored as f64,
                note,
            })
        })
    }
}

impl NativeEngine {
    /// Work that waits for the engine's thread, on a thread of its own.
    fn wait_for<T: napi::bindgen_prelude::ToNapiValue + Send + 'static>(
        &self,
        env: &Env,
        done: &Function<'_, AnswerArgs<T>, ()>,
        work: impl FnOnce(&Engine, &AtomicBool) -> std::result::Result<T, Failure> + Send + 'static,
    ) -> Result<NativeCancel> {
        let answer = Answer::new(done)?;
        let engine = match self.slot().get() {
            Ok(engine) => engine,
            Err(failure) => {
                answer.send(Err(failure));
                return Ok(NativeCancel::new(|| {}));
            }
        };
        let cancelled = jobs::spawn(env, "ryz-state", move |cancelled| {
            answer.send_from(|| work(&engine, cancelled));
        })?;
        Ok(NativeCancel::new(move || {
            cancelled.store(true, Ordering::Relaxed)
        }))
    }
}
