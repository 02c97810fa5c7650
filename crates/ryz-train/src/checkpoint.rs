//! Checkpoints: one safetensors file with parameters, moments, the step, the configuration and the
//! tokenizer (the bytes of a GGUF header).
//!
//! Written beside the old file and renamed over it, so that a complete one exists even if the
//! process is killed.

use crate::config::TrainConfig;
use crate::error::TrainError;
use crate::optimizer::AdamW;
use crate::report::History;
use crate::tokenizer::TextTokenizer;
use ryz_tmac::{BufferKind, InputFile, MemoryError};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::Path;

/// A checkpoint's data other than tensors.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct State {
    pub step: u64,
    pub seconds: f64,
    pub config: TrainConfig,
    pub history: History,
}

/// A complete checkpoint.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    pub state: State,
    pub tokenizer: TextTokenizer,
    pub parameters: Vec<f32>,
    pub optimizer: AdamW,
}

const STATE: &str = "ryz-train.state";
const TOKENIZER: &str = "tokenizer";

/// Replaces the checkpoint at `path`.
pub(crate) fn save(
    path: &Path,
    state: &State,
    tokenizer: &TextTokenizer,
    parameters: &[f32],
    optimizer: &AdamW,
) -> Result<(), TrainError> {
    let unreadable = |source| TrainError::UnreadableCheckpoint {
        path: path.to_owned(),
        source,
    };
    let view = |data| {
        TensorView::new(
            Dtype::F32,
            vec![parameters.len()],
            bytemuck::cast_slice(data),
        )
        .map_err(unreadable)
    };
    let tokenizer = tokenizer.to_bytes()?;
    let tokenizer = TensorView::new(Dtype::U8, vec![tokenizer.len()], &tokenizer);
    let tensors = [
        (TOKENIZER, tokenizer.map_err(unreadable)?),
        ("parameters", view(parameters)?),
        ("first_moments", view(&optimizer.first)?),
        ("second_moments", view(&optimizer.second)?),
    ];
    let state = serde_json::to_string(state).map_err(TrainError::Config)?;
    let metadata = HashMap::from([(STATE.to_owned(), state)]);
    let bytes = safetensors::serialize(tensors, Some(metadata)).map_err(unreadable)?;
    write_atomically(path, &bytes)
}

/// Replaces a file atomically: readers see either the old or the new content.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    let written = ryz_files::write_file(path, bytes);
    written.map(drop).map_err(|source| TrainError::Write {
        path: path.to_owned(),
        source,
    })
}

/// Reads a regular file. Rejects pipes and devices, which may have no end.
pub(crate) fn read_whole(path: &Path) -> Result<Vec<u8>, TrainError> {
    let file = InputFile::open(path)?;
    let length = usize::try_from(file.len()).unwrap_or(usize::MAX);
    let mut bytes = Vec::new();
    let reserved = bytes.try_reserve_exact(length);
    reserved.map_err(|_| MemoryError::OutOfMemory {
        kind: BufferKind::Staging,
        requested: length,
    })?;
    bytes.resize(length, 0);
    file.read_at(0, &mut bytes)?;
    Ok(bytes)
}

/// Reads a checkpoint and checks its sizes.
pub(crate) fn load(path: &Path) -> Result<Checkpoint, TrainError> {
    let bytes = read_whole(path)?;
    let unreadable = |source| TrainError::UnreadableCheckpoint {
        path: path.to_owned(),
        source,
    };
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(unreadable)?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(unreadable)?;
    let invalid = |name: &str, expected: &str, got: String| TrainError::InvalidCheckpoint {
        path: path.to_owned(),
        name: name.to_owned(),
        expected: expected.to_owned(),
        got,
    };
    let state = header.metadata().as_ref().and_then(|m| m.get(STATE));
    let state = state.ok_or_else(|| invalid(STATE, "present", "nothing".to_owned()))?;
    let state: State = serde_json::from_str(state).map_err(TrainError::Config)?;
    state.config.check()?;
    let total = crate::layout::Layout::new(&state.config.model).total;
    let read = |name: &str| -> Result<Vec<f32>, TrainError> {
        let tensor = tensors.tensor(name).map_err(unreadable)?;
        if tensor.dtype() != Dtype::F32 || tensor.shape() != [total] {
            let got = format!("{:?} {:?}", tensor.dtype(), tensor.shape());
            return Err(invalid(name, &format!("F32 [{total}]"), got));
        }
        Ok(tensor
            .data()
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect())
    };
    let optimizer = AdamW {
        first: read("first_moments")?,
        second: read("second_moments")?,
    };
    let tokenizer = tensors.tensor(TOKENIZER).map_err(unreadable)?;
    Ok(Checkpoint {
        tokenizer: TextTokenizer::from_bytes(tokenizer.data())?,
        parameters: read("parameters")?,
        optimizer,
        state,
    })
}
