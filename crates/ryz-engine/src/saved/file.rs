//! The file of a saved state: safetensors with `tokens` (u32), `blocks` (block, byte: as the cache has them) and `note` (u8).
//!
//! Its metadata name the version, the model, and what the blocks' bytes depend on; a checksum (XXH3, 128 bits) is over all of
//! it. Nothing in the file is trusted: lengths are compared with what the engine expects before anything is allocated.

use std::io::Write;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use ryz_files::{OutputError, OutputFile, OverwritePolicy};
use ryz_kvcache::BLOCK_TOKENS;
use ryz_model::ModelError;
use ryz_tmac::{Arena, Buffer, BufferKind, InputFile};
use safetensors::SafeTensorError;
use safetensors::tensor::{Dtype, Metadata, TensorInfo, TensorView};
use xxhash_rust::xxh3::Xxh3;

use crate::checks::check_cancelled;
use crate::error::EngineError;

const VERSION: &str = "1";
const CHECKSUM: &str = "ryzanstein.checksum";
/// A header names three tensors and six facts.
const MAX_HEADER: u64 = 1 << 16;
/// Whether a fuzzer was built, as cargo-fuzz says.
#[allow(unexpected_cfgs)]
const FUZZING: bool = cfg!(fuzzing);
/// Bytes written before a look whether they are still wanted.
const PIECE: usize = 8 << 20;
/// Most bytes of a note.
const MAX_NOTE: usize = 1 << 24;

/// What the bytes of blocks depend on, as a file has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub fingerprint: String,
    pub kv: String,
    pub value_rank: String,
    pub activations: String,
    pub block_bytes: usize,
}

/// The tokens of whole blocks, those blocks, and whatever was saved with them.
#[derive(Debug)]
pub(crate) struct State {
    pub tokens: Vec<u32>,
    pub blocks: Buffer,
    pub note: Vec<u8>,
}

impl Identity {
    /// As metadata, with what each is called in a message.
    fn facts(&self) -> [(&'static str, &'static str, &str); 5] {
        [
            ("ryzanstein.state.version", "version", VERSION),
            (
                "ryzanstein.model_fingerprint",
                "model fingerprint",
                &self.fingerprint,
            ),
            ("ryzanstein.kv", "cache type", &self.kv),
            ("ryzanstein.value_rank", "value rank", &self.value_rank),
            ("ryzanstein.activations", "activations", &self.activations),
        ]
    }

    fn checksum(&self, state: &State) -> String {
        let mut hash = Xxh3::new();
        for (_, _, fact) in self.facts() {
            hash.update(&(fact.len() as u64).to_le_bytes());
            hash.update(fact.as_bytes());
        }
        hash.update(&(state.tokens.len() as u64).to_le_bytes());
        for token in &state.tokens {
            hash.update(&token.to_le_bytes());
        }
        hash.update(state.blocks.as_bytes());
        hash.update(&state.note);
        format!("{:032x}", hash.digest128())
    }
}

/// A fault of a file.
pub(crate) fn wrong(
    path: &Path,
    what: &'static str,
    expected: impl Into<String>,
    got: impl Into<String>,
) -> EngineError {
    EngineError::SavedState {
        path: path.to_owned(),
        what,
        expected: expected.into(),
        got: got.into(),
    }
}

/// Whether a note may be so long.
pub(crate) fn check_note(bytes: usize) -> Result<(), EngineError> {
    if bytes <= MAX_NOTE {
        return Ok(());
    }
    let expected = format!("at most {MAX_NOTE} bytes");
    Err(EngineError::invalid("note", expected, bytes))
}

/// Writes a state, whole or not at all. Bytes of the file.
pub(crate) fn write(
    path: &Path,
    identity: &Identity,
    state: &State,
    cancel: &AtomicBool,
) -> Result<u64, EngineError> {
    let tokens: Vec<u8> = state.tokens.iter().flat_map(|t| t.to_le_bytes()).collect();
    let blocks = vec![state.tokens.len() / BLOCK_TOKENS, identity.block_bytes];
    let invalid = |source| EngineError::SavedStateFile {
        path: path.to_owned(),
        source,
    };
    let views = [
        ("tokens", Dtype::U32, vec![state.tokens.len()], &tokens[..]),
        ("blocks", Dtype::U8, blocks, state.blocks.as_bytes()),
        ("note", Dtype::U8, vec![state.note.len()], &state.note),
    ];
    let views = views.map(|(name, dtype, shape, bytes)| {
        let view = TensorView::new(dtype, shape, bytes);
        view.map(|view| (name, view)).map_err(invalid)
    });
    let views = views.into_iter().collect::<Result<Vec<_>, _>>()?;
    let facts = identity.facts().into_iter();
    let metadata = facts
        .map(|(key, _, fact)| (key.to_owned(), fact.to_owned()))
        .chain([(CHECKSUM.to_owned(), identity.checksum(state))])
        .collect();
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(invalid)?;
    let failed = |source| EngineError::SavedStateIo {
        path: path.to_owned(),
        source,
    };
    let mut file = OutputFile::create(path).map_err(failed)?;
    for piece in bytes.chunks(PIECE) {
        check_cancelled(cancel)?;
        let written = file.write_all(piece);
        written.map_err(|source| {
            failed(OutputError {
                action: "write",
                source,
            })
        })?;
    }
    check_cancelled(cancel)?;
    file.commit(OverwritePolicy::Replace).map_err(failed)
}

/// Reads the state of an engine that has `identity` and a context of so many tokens.
pub(crate) fn read(
    path: &Path,
    identity: &Identity,
    context: usize,
    arena: &Arena,
) -> Result<State, EngineError> {
    let failed = |error| EngineError::from(ModelError::Memory(error));
    let file = InputFile::open(path).map_err(failed)?;
    let (header, data) = header(&file)?;
    let metadata = header.metadata().as_ref();
    let fact = |key: &str| metadata.and_then(|facts| facts.get(key));
    for (key, what, expected) in identity.facts() {
        let got = fact(key).map_or("none", String::as_str);
        if got != expected {
            return Err(wrong(path, what, expected, got));
        }
    }
    let shape = |name: &'static str, dtype, dimensions: usize| {
        let tensor = header.info(name);
        let tensor = tensor.filter(|t| t.dtype == dtype && t.shape.len() == dimensions);
        tensor.ok_or_else(|| {
            let expected = format!("{dtype:?} in {dimensions} dimensions");
            wrong(path, name, expected, "none such")
        })
    };
    let tokens = shape("tokens", Dtype::U32, 1)?;
    let blocks = shape("blocks", Dtype::U8, 2)?;
    let note = shape("note", Dtype::U8, 1)?;
    let count = tokens.shape[0];
    if count > context || !count.is_multiple_of(BLOCK_TOKENS) {
        let expected = format!("whole blocks of {BLOCK_TOKENS}, at most {context}");
        return Err(wrong(path, "tokens", expected, count.to_string()));
    }
    let expected = [count / BLOCK_TOKENS, identity.block_bytes];
    if blocks.shape != expected {
        let got = format!("{:?}", blocks.shape);
        return Err(wrong(path, "blocks", format!("{expected:?}"), got));
    }
    if note.shape[0] > MAX_NOTE {
        let got = note.shape[0].to_string();
        return Err(wrong(path, "note", format!("at most {MAX_NOTE}"), got));
    }
    // Of a shape that is as expected, so that these are lengths which the engine has too, or a note's.
    let at = |name: &'static str, tensor: &TensorInfo, bytes: usize| {
        let (start, end) = tensor.data_offsets;
        if end.checked_sub(start) != Some(bytes) {
            let got = format!("{start} to {end}");
            return Err(wrong(path, name, format!("{bytes} bytes"), got));
        }
        Ok((data.saturating_add(start as u64), bytes))
    };
    let tokens = at("tokens", tokens, count * size_of::<u32>())?;
    let blocks = at("blocks", blocks, expected[0] * expected[1])?;
    let note = at("note", note, note.shape[0])?;
    let whole = data + (tokens.1 + blocks.1 + note.1) as u64;
    if header.tensors().len() != 3 || file.len() != whole {
        let got = file.len().to_string();
        return Err(wrong(path, "bytes", whole.to_string(), got));
    }
    let bytes = |(start, len)| {
        let mut bytes = vec![0; len];
        file.read_at(start, &mut bytes).map(|()| bytes)
    };
    let token_bytes = bytes(tokens).map_err(failed)?;
    let (token_bytes, _) = token_bytes.as_chunks::<4>();
    let arena = arena.labelled("saved keys and values");
    let (start, len) = blocks;
    let state = State {
        tokens: token_bytes.iter().map(|t| u32::from_le_bytes(*t)).collect(),
        note: bytes(note).map_err(failed)?,
        blocks: file
            .read_range(start, len, &arena, BufferKind::Staging)
            .map_err(failed)?,
    };
    let (got, computed) = (fact(CHECKSUM), identity.checksum(&state));
    // A fuzzer finds no checksum, and a forger computes one.
    if got != Some(&computed) && !FUZZING {
        let got = got.map_or("none", String::as_str);
        return Err(wrong(path, "checksum", computed, got));
    }
    Ok(state)
}

/// The header of a file, and where the data begin.
fn header(file: &InputFile) -> Result<(Metadata, u64), EngineError> {
    let path = file.path();
    let failed = |error| EngineError::from(ModelError::Memory(error));
    let short = |expected: u64| wrong(path, "bytes", expected.to_string(), file.len().to_string());
    let mut start = [0; 8];
    if file.len() < 8 {
        return Err(short(8));
    }
    file.read_at(0, &mut start).map_err(failed)?;
    let len = u64::from_le_bytes(start);
    if len > MAX_HEADER {
        let expected = format!("a header of at most {MAX_HEADER} bytes");
        return Err(wrong(path, "header", expected, len.to_string()));
    }
    if file.len() < 8 + len {
        return Err(short(8 + len));
    }
    let mut bytes = vec![0; len as usize];
    file.read_at(8, &mut bytes).map_err(failed)?;
    let header = serde_json::from_slice(&bytes);
    let header = header.map_err(|source| EngineError::SavedStateFile {
        path: path.to_owned(),
        source: SafeTensorError::InvalidHeaderDeserialization(source),
    })?;
    Ok((header, 8 + len))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::TestRunner;
    use ryz_tmac::ArenaConfig;

    use super::*;

    const BLOCK_BYTES: usize = 48;
    static GO_ON: AtomicBool = AtomicBool::new(false);

    fn identity() -> Identity {
        Identity {
            fingerprint: "0123".to_owned(),
            kv: "int8".to_owned(),
            value_rank: "64".to_owned(),
            activations: "int8".to_owned(),
            block_bytes: BLOCK_BYTES,
        }
    }

    fn state(arena: &Arena, blocks: usize) -> State {
        let bytes = arena.allocate(blocks * BLOCK_BYTES, BufferKind::Staging);
        let mut bytes = bytes.unwrap();
        let numbers = bytes.as_bytes_mut().iter_mut().zip(0..);
        numbers.for_each(|(byte, at): (_, usize)| *byte = (at * 7) as u8);
        State {
            tokens: (0..(blocks * BLOCK_TOKENS) as u32).collect(),
            blocks: bytes,
            note: b"a note".to_vec(),
        }
    }

    /// The file of a state of three blocks, and its bytes.
    fn written(arena: &Arena) -> (tempfile::TempDir, std::path::PathBuf, Vec<u8>) {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("state");
        let bytes = write(&path, &identity(), &state(arena, 3), &GO_ON).unwrap();
        let file = std::fs::read(&path).unwrap();
        assert_eq!(bytes, file.len() as u64);
        (folder, path, file)
    }

    /// Whatever is done to a file: it is refused as one, or says what it said before.
    #[test]
    fn a_file_says_what_was_saved_or_nothing() {
        use prop::collection::vec;
        use prop::sample::Index;
        let arena = Arena::new(ArenaConfig {
            limit: Some(1 << 20),
            ..ArenaConfig::default()
        });
        let (_folder, path, whole) = written(&arena);
        let want = state(&arena, 3);
        let changes = vec((any::<Index>(), any::<u8>()), 1..6);
        let cut = prop::option::of(any::<Index>());
        let header = prop::option::of(any::<u64>());
        let more = prop::option::of(vec(any::<u8>(), 0..20));
        let mut runner = TestRunner::new(ProptestConfig::with_cases(1_000));
        let run = runner.run(
            &(changes, cut, header, more),
            |(changes, cut, header, more)| {
                let mut bytes = whole.clone();
                for (at, byte) in changes {
                    let at = at.index(bytes.len());
                    bytes[at] = byte;
                }
                if let Some(len) = header {
                    bytes[..8].copy_from_slice(&len.to_le_bytes());
                }
                if let Some(cut) = cut {
                    bytes.truncate(cut.index(bytes.len()));
                }
                bytes.extend(more.into_iter().flatten());
                std::fs::write(&path, &bytes)?;
                match read(&path, &identity(), 64, &arena) {
                    Ok(got) => {
                        prop_assert_eq!(got.tokens, &want.tokens[..]);
                        prop_assert_eq!(got.note, &want.note[..]);
                        prop_assert_eq!(got.blocks.as_bytes(), want.blocks.as_bytes());
                    }
                    Err(error) => prop_assert_eq!(error.code(), "INVALID_FILE", "{}", error),
                }
                Ok(())
            },
        );
        run.unwrap();
    }

    #[test]
    fn a_state_is_read_as_it_was_written_by_who_has_room_for_it() {
        let arena = Arena::new(ArenaConfig::default());
        let (_folder, path, _) = written(&arena);
        let got = read(&path, &identity(), 48, &arena).unwrap();
        let want = state(&arena, 3);
        assert_eq!((got.tokens, got.note), (want.tokens, want.note));
        assert_eq!(got.blocks.as_bytes(), want.blocks.as_bytes());
        let short = read(&path, &identity(), 47, &arena).unwrap_err();
        assert!(short.to_string().contains("at most 47"), "{short}");
        for (what, change) in [
            (
                "model fingerprint",
                (|i| i.fingerprint.clear()) as fn(&mut Identity),
            ),
            ("cache type", |i| i.kv = "f16".to_owned()),
            ("value rank", |i| i.value_rank = "32".to_owned()),
            ("activations", |i| i.activations = "f32".to_owned()),
            ("blocks", |i| i.block_bytes = 96),
        ] {
            let mut other = identity();
            change(&mut other);
            let error = read(&path, &other, 64, &arena).unwrap_err();
            assert_eq!(error.code(), "INVALID_FILE");
            assert!(error.to_string().contains(what), "{error}");
        }
    }

    #[test]
    fn a_file_that_is_not_wanted_any_more_leaves_the_older_one_and_nothing_beside_it() {
        let arena = Arena::new(ArenaConfig::default());
        let (folder, path, whole) = written(&arena);
        let cancel = AtomicBool::new(true);
        let error = write(&path, &identity(), &state(&arena, 5), &cancel).unwrap_err();
        assert_eq!(error.code(), "ABORTED");
        assert_eq!(std::fs::read(&path).unwrap(), whole);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_state_that_memory_is_refused_for_is_an_error() {
        let (_folder, path, _) = written(&Arena::new(ArenaConfig::default()));
        let small = Arena::new(ArenaConfig {
            limit: Some(64),
            ..ArenaConfig::default()
        });
        let error = read(&path, &identity(), 64, &small).unwrap_err();
        assert_eq!(error.code(), "MEMORY_LIMIT");
    }
}
