//! Merges by rank: byte-level BPE in words from a pre-tokenizer, and SentencePiece's over whole texts.

use ahash::{AHashMap, AHashSet};

use crate::{
    TokenizerError, byte_level,
    merge::{NONE, Pairs, Scratch, Step, Symbol, Union, merge},
    output::Output,
    pretokenizer::Pretokenizer,
};

/// Words up to this long are remembered during one call.
const REMEMBERED_BYTES: usize = 64;
/// This many words are remembered during one call.
const REMEMBERED_WORDS: usize = 1 << 15;

/// The merges of a file.
pub(crate) struct Merges {
    text_ids: AHashMap<String, u32>,
    unions: AHashMap<(u32, u32), Union>,
    /// Bytes of the longest text.
    longest: usize,
}

/// A merge of a file: its two parts, or the text that is not a merge.
pub(crate) type Merge<'a> = Result<(&'a str, &'a str), &'a str>;

impl Merges {
    /// Checks merges that may be malformed. The first of two equal merges counts. Those of `apart`,
    /// control tokens, which text must not yield, are left out.
    pub(crate) fn new<'a>(
        key: &'static str,
        text_ids: AHashMap<String, u32>,
        merges: impl ExactSizeIterator<Item = Merge<'a>>,
        apart: &AHashSet<String>,
    ) -> Result<Merges, TokenizerError> {
        let bad = |index, got: String| TokenizerError::BadMerge { key, index, got };
        let longest = text_ids.keys().map(String::len).max().unwrap_or(0);
        let mut unions = AHashMap::with_capacity(merges.len());
        let mut whole = String::new();
        for (index, merge) in merges.enumerate() {
            let (left, right) = merge.map_err(|got| bad(index, got.to_owned()))?;
            whole.clear();
            whole.push_str(left);
            whole.push_str(right);
            let ids = (
                text_ids.get(left).copied(),
                text_ids.get(right).copied(),
                text_ids.get(&whole).copied(),
            );
            let (Some(left_id), Some(right_id), Some(id)) = ids else {
                let known = |text: &str| text_ids.contains_key(text) || apart.contains(text);
                if known(left) && known(right) && known(&whole) {
                    continue;
                }
                return Err(bad(index, format!("{left} {right}")));
            };
            let rank = index as u32;
            unions
                .entry((left_id, right_id))
                .or_insert(Union { rank, id });
        }
        Ok(Merges {
            text_ids,
            unions,
            longest,
        })
    }

    /// The merges of a vocabulary that lists none, as tiktoken reads it: any two tokens whose union is
    /// a token, in the order of the unions' ids.
    pub(crate) fn of_ids(text_ids: AHashMap<String, u32>) -> Merges {
        let longest = text_ids.keys().map(String::len).max().unwrap_or(0);
        let mut unions = AHashMap::with_capacity(text_ids.len());
        for (text, &id) in &text_ids {
            for (at, _) in text.char_indices().skip(1) {
                let (left, right) = text.split_at(at);
                if let (Some(&left), Some(&right)) = (text_ids.get(left), text_ids.get(right)) {
                    unions.insert((left, right), Union { rank: id, id });
                }
            }
        }
        Merges {
            text_ids,
            unions,
            longest,
        }
    }

    /// The id of a text.
    pub(crate) fn token_to_id(&self, text: &str) -> Option<u32> {
        self.text_ids.get(text).copied()
    }

    fn union(&self, left: &Symbol, right: &Symbol) -> Option<Union> {
        self.unions.get(&(left.id, right.id)).copied()
    }

    /// A whole text's id, where `ignored` says that merges do not matter then.
    fn whole(&self, text: &str, ignored: bool) -> Option<u32> {
        (ignored && text.len() <= self.longest)
            .then(|| self.token_to_id(text))
            .flatten()
    }
}

/// Byte-level BPE.
pub(crate) struct ByteLevelBpe {
    merges: Merges,
    pretokenizer: Pretokenizer,
    /// The token of each byte.
    bytes: [u32; 256],
    all_bytes: bool,
    ignore_merges: bool,
}

/// The bytes of a word, each a symbol.
struct Bytes<'a> {
    bpe: &'a ByteLevelBpe,
    /// Bytes without a token are symbols, too, and become the unknown token.
    keep_unknown: bool,
}

impl Pairs for Bytes<'_> {
    fn symbols(&self, text: &str, out: &mut Vec<Symbol>) {
        let bytes = text.bytes().enumerate();
        let symbols = bytes.map(|(at, byte)| Symbol::new(self.bpe.bytes[usize::from(byte)], at, 1));
        let all = self.keep_unknown || self.bpe.all_bytes;
        out.extend(symbols.filter(|symbol| all || symbol.id != NONE));
    }

    fn union(&self, _text: &str, left: &Symbol, right: &Symbol) -> Option<Union> {
        self.bpe.merges.union(left, right)
    }
}

impl ByteLevelBpe {
    pub(crate) fn new(
        merges: Merges,
        pretokenizer: Pretokenizer,
        ignore_merges: bool,
    ) -> ByteLevelBpe {
        let bytes = byte_level::CHARS.map(|char| {
            let id = merges.token_to_id(char.encode_utf8(&mut [0; 4]));
            id.unwrap_or(NONE)
        });
        ByteLevelBpe {
            merges,
            pretokenizer,
            all_bytes: !bytes.contains(&NONE),
            bytes,
            ignore_merges,
        }
    }

    /// The id of a text.
    pub(crate) fn token_to_id(&self, text: &str) -> Option<u32> {
        self.merges.token_to_id(text)
    }

    /// Appends the ids of text without added tokens.
    pub(crate) fn encode(&self, text: &str, out: &mut Output<'_>) -> Result<(), TokenizerError> {
        let mut remembered: AHashMap<Box<str>, (usize, usize)> = AHashMap::new();
        let mut scratch = Scratch::default();
        let mut chars = String::new();
        self.pretokenizer.split(text, &mut |word| {
            if let Some(&(from, to)) = remembered.get(word) {
                out.worked(0)?;
                return out.repeat(from, to);
            }
            let from = out.encoded.ids.len();
            let unknown = out.encoded.unknown;
            if self.ignore_merges && word.len() <= self.merges.longest {
                chars.clear();
                byte_level::push_chars(word.as_bytes(), &mut chars);
                if let Some(id) = self.merges.whole(&chars, true) {
                    out.worked(word.len())?;
                    return out.push(id);
                }
            }
            self.word(word, &mut scratch, out)?;
            let plain = out.encoded.unknown == unknown;
            if plain && word.len() <= REMEMBERED_BYTES && remembered.len() < REMEMBERED_WORDS {
                remembered.insert(word.into(), (from, out.encoded.ids.len()));
            }
            Ok(())
        })
    }

    fn word(
        &self,
        word: &str,
        scratch: &mut Scratch,
        out: &mut Output<'_>,
    ) -> Result<(), TokenizerError> {
        let keep_unknown = out.has_unknown();
        if !self.all_bytes && !keep_unknown {
            let mut buffer = [0; 4];
            for char in word.chars() {
                let bytes = char.encode_utf8(&mut buffer).bytes();
                if bytes
                    .map(|byte| self.bytes[usize::from(byte)])
                    .any(|id| id == NONE)
                {
                    out.push_unknown()?;
                }
            }
        }
        let pairs = Bytes {
            bpe: self,
            keep_unknown,
        };
        merge(&pairs, word, scratch, &mut |step| match step {
            Step::Token { id: NONE, .. } => out.push_unknown(),
            Step::Token { id, .. } => out.push(id),
            Step::Worked(bytes) => out.worked(bytes),
        })
    }
}

/// SentencePiece's BPE with a list of merges: text with `▁` for spaces, bytes for unknown characters.
pub(crate) struct SentencePieceBpe {
    merges: Merges,
    /// What is merged by itself: most files, the whole text.
    words: Pretokenizer,
    /// The token of each byte, `<0xHH>`.
    bytes: Option<[u32; 256]>,
    ignore_merges: bool,
    /// Every word begins with `▁`, the first of a line too.
    spaced: bool,
}

impl SentencePieceBpe {
    /// `byte_fallback`: a character without a token becomes its bytes, where all of them have one.
    pub(crate) fn new(
        merges: Merges,
        words: Pretokenizer,
        byte_fallback: bool,
        ignore_merges: bool,
    ) -> SentencePieceBpe {
        let byte = |byte| {
            merges
                .token_to_id(&format!("<0x{byte:02X}>"))
                .unwrap_or(NONE)
        };
        SentencePieceBpe {
            bytes: byte_fallback.then(|| std::array::from_fn(byte)),
            merges,
            words,
            ignore_merges,
            spaced: false,
        }
    }

    /// Each `▁` begins a word, and each line does.
    pub(crate) fn spaced(mut self, spaced: bool) -> SentencePieceBpe {
        self.spaced = spaced;
        self
    }

    /// The id of a text.
    pub(crate) fn token_to_id(&self, text: &str) -> Option<u32> {
        self.merges.token_to_id(text)
    }

    /// Appends the ids of text in which spaces are `▁`.
    pub(crate) fn encode(&self, text: &str, out: &mut Output<'_>) -> Result<(), TokenizerError> {
        let mut scratch = Scratch::default();
        self.words.split(text, &mut |piece| {
            // Lines without text are tokens wherever there is one; merges have no line ends.
            let empty_lines = !self.words.is_empty() && piece.starts_with('\n');
            if empty_lines || !self.spaced {
                let whole = self.ignore_merges || empty_lines;
                return self.word(piece, whole, &mut scratch, out);
            }
            let prefix = if piece.starts_with('▁') { "" } else { "▁" };
            let line = format!("{prefix}{piece}");
            let mut start = 0;
            while start < line.len() {
                let next = line[start + '▁'.len_utf8()..].find('▁');
                let end = next.map_or(line.len(), |next| start + '▁'.len_utf8() + next);
                self.word(&line[start..end], self.ignore_merges, &mut scratch, out)?;
                start = end;
            }
            Ok(())
        })
    }

    fn word(
        &self,
        word: &str,
        whole: bool,
        scratch: &mut Scratch,
        out: &mut Output<'_>,
    ) -> Result<(), TokenizerError> {
        if let Some(id) = self.merges.whole(word, whole) {
            out.worked(word.len())?;
            return out.push(id);
        }
        let pairs = Characters {
            bpe: self,
            keep_unknown: out.has_unknown(),
        };
        if !pairs.keep_unknown {
            let lost = word.chars().filter(|&char| pairs.is_unknown(char));
            for _ in 0..lost.count() {
                out.push_unknown()?;
            }
        }
        merge(&pairs, word, scratch, &mut |step| match step {
            Step::Token { id: NONE, .. } => out.push_unknown(),
            Step::Token { id, .. } => out.push(id),
            Step::Worked(bytes) => out.worked(bytes),
        })
    }
}

/// The characters of a text, or their bytes.
struct Characters<'a> {
    bpe: &'a SentencePieceBpe,
    keep_unknown: bool,
}

impl Characters<'_> {
    /// The tokens of a character's bytes, if all are there.
    fn bytes(&self, char: char) -> Option<impl Iterator<Item = u32> + use<>> {
        let table = self.bpe.bytes.as_ref()?;
        let mut buffer = [0; 4];
        let len = char.encode_utf8(&mut buffer).len();
        let ids = buffer.map(|byte| table[usize::from(byte)]);
        (!ids[..len].contains(&NONE)).then(|| ids.into_iter().take(len))
    }

    fn is_unknown(&self, char: char) -> bool {
        let mut buffer = [0; 4];
        let text = &*char.encode_utf8(&mut buffer);
        self.bpe.token_to_id(text).is_none() && self.bytes(char).is_none()
    }
}

impl Pairs for Characters<'_> {
    fn symbols(&self, text: &str, out: &mut Vec<Symbol>) {
        for (at, char) in text.char_indices() {
            let len = char.len_utf8();
            if let Some(id) = self.bpe.token_to_id(&text[at..at + len]) {
                out.push(Symbol::new(id, at, len));
            } else if let Some(ids) = self.bytes(char) {
                out.extend(ids.zip(at..).map(|(id, at)| Symbol::new(id, at, 1)));
            } else if self.keep_unknown {
                out.push(Symbol::new(NONE, at, len));
            }
        }
    }

    fn union(&self, _text: &str, left: &Symbol, right: &Symbol) -> Option<Union> {
        self.bpe.merges.union(left, right)
    }
}

/// The two parts of a merge as GGUF files write it: the space between them is the first that is not the
/// first character.
pub(crate) fn parts(merge: &str) -> Merge<'_> {
    let first = merge.chars().next().map_or(0, char::len_utf8);
    match merge[first..].find(' ') {
        Some(space) => Ok((&merge[..first + space], &merge[first + space + 1..])),
        None => Err(merge),
    }
}
