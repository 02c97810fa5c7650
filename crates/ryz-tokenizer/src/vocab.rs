//! A vocabulary after its checks: what each id means, whatever file described it.

use ahash::{AHashMap, AHashSet};

use crate::{TokenizerError, byte_level};

/// No real vocabulary comes near; it bounds the tables that a file can ask for.
pub(crate) const MAX_TOKENS: u64 = 1 << 22;

/// Bounds the automaton that finds added tokens in text.
const MAX_ADDED_BYTES: u64 = 1 << 20;

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Text.
    Normal,
    /// The token for what the vocabulary cannot express.
    Unknown,
    /// An instruction to the model, such as the end of a turn; text yields it only when asked to.
    Control,
    /// Text that is always this token, before anything else is looked at.
    UserDefined,
    /// A filler that text does not yield.
    Unused,
    /// One byte, written `<0xHH>`.
    Byte,
}

impl Kind {
    /// From `tokenizer.ggml.token_type`; other numbers are undefined and taken as text.
    pub(crate) fn from_gguf(number: i32) -> Kind {
        match number {
            2 => Kind::Unknown,
            3 => Kind::Control,
            4 => Kind::UserDefined,
            5 => Kind::Unused,
            6 => Kind::Byte,
            _ => Kind::Normal,
        }
    }

    /// Whether it means something to the model and nothing to a reader.
    pub(crate) fn is_special(self) -> bool {
        matches!(self, Kind::Control | Kind::Unknown)
    }
}

/// How a token's text stands for bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alphabet {
    /// GPT-2's character for each byte.
    ByteLevel,
    /// UTF-8 with `▁` for a space, and byte tokens.
    SentencePiece,
}

/// The tokens in the order of their ids: kind, and the bytes that they decode to.
pub(crate) struct Vocab {
    kinds: Vec<Kind>,
    bytes: Vec<u8>,
    /// Where each token ends in `bytes`.
    ends: Vec<u32>,
    /// Every text with its id, but for those of control and unknown tokens, which text must not yield.
    pub(crate) text_ids: AHashMap<String, u32>,
    /// Control, unknown and user-defined tokens with their text.
    pub(crate) added: Vec<(u32, String)>,
}

impl Vocab {
    /// Checks and lays out tokens: no text twice, byte tokens well formed.
    ///
    /// `key` names the tokens in errors.
    pub(crate) fn new<'a>(
        key: &'static str,
        alphabet: Alphabet,
        tokens: impl ExactSizeIterator<Item = (&'a str, Kind)>,
    ) -> Result<Vocab, TokenizerError> {
        let count = tokens.len();
        if count == 0 {
            return Err(TokenizerError::Empty { key });
        }
        if count as u64 > MAX_TOKENS {
            return Err(TokenizerError::LimitExceeded {
                key,
                limit: MAX_TOKENS,
                got: count as u64,
            });
        }
        let mut vocab = Vocab {
            kinds: Vec::with_capacity(count),
            bytes: Vec::with_capacity(8 * count),
            ends: Vec::with_capacity(count),
            text_ids: AHashMap::with_capacity(count),
            added: Vec::new(),
        };
        let mut added_ids: AHashMap<String, u32> = AHashMap::new();
        let mut added_bytes = 0;
        for (index, (text, kind)) in (0u32..).zip(tokens) {
            vocab.kinds.push(kind);
            vocab.push_bytes(key, alphabet, index, text, kind)?;
            let end =
                u32::try_from(vocab.bytes.len()).map_err(|_| TokenizerError::LimitExceeded {
                    key,
                    limit: u32::MAX.into(),
                    got: vocab.bytes.len() as u64,
                })?;
            vocab.ends.push(end);
            // Fillers of an empty text occur in padded vocabularies; nothing yields them.
            if text.is_empty() {
                continue;
            }
            let apart = kind.is_special();
            let ids = if apart {
                &mut added_ids
            } else {
                &mut vocab.text_ids
            };
            if let Some(first) = ids.insert(text.to_owned(), index) {
                return Err(TokenizerError::DuplicateToken {
                    key,
                    index,
                    first,
                    text: text.to_owned(),
                });
            }
            if apart || kind == Kind::UserDefined {
                added_bytes += text.len() as u64;
                vocab.added.push((index, text.to_owned()));
            }
        }
        if added_bytes > MAX_ADDED_BYTES {
            return Err(TokenizerError::LimitExceeded {
                key: "bytes of control and user-defined tokens",
                limit: MAX_ADDED_BYTES,
                got: added_bytes,
            });
        }
        for (text, index) in &added_ids {
            if let Some(&other) = vocab.text_ids.get(text) {
                return Err(TokenizerError::DuplicateToken {
                    key,
                    index: other.max(*index),
                    first: other.min(*index),
                    text: text.clone(),
                });
            }
        }
        Ok(vocab)
    }

    fn push_bytes(
        &mut self,
        key: &'static str,
        alphabet: Alphabet,
        index: u32,
        text: &str,
        kind: Kind,
    ) -> Result<(), TokenizerError> {
        match (kind, alphabet) {
            (Kind::Byte, _) => {
                let byte = parse_byte(text).ok_or_else(|| TokenizerError::BadByteToken {
                    key,
                    index,
                    got: text.to_owned(),
                })?;
                self.bytes.push(byte);
            }
            (Kind::Control | Kind::Unknown | Kind::UserDefined, Alphabet::ByteLevel) => {
                self.bytes.extend_from_slice(text.as_bytes());
            }
            (_, Alphabet::ByteLevel) => byte_level::push_bytes(text, &mut self.bytes),
            (Kind::Control | Kind::Unknown, Alphabet::SentencePiece) => {
                self.bytes.extend_from_slice(text.as_bytes());
            }
            (_, Alphabet::SentencePiece) => {
                let mut rest = text;
                while let Some((before, after)) = rest.split_once('▁') {
                    self.bytes.extend_from_slice(before.as_bytes());
                    self.bytes.push(b' ');
                    rest = after;
                }
                self.bytes.extend_from_slice(rest.as_bytes());
            }
        }
        Ok(())
    }

    /// The texts that text must not yield: of control and unknown tokens.
    pub(crate) fn apart(&self) -> AHashSet<String> {
        let apart = self.added.iter().filter(|(id, _)| {
            let kind = self.kind(*id);
            kind.is_some_and(Kind::is_special)
        });
        apart.map(|(_, text)| text.clone()).collect()
    }

    /// Bytes of the longest token.
    pub(crate) fn longest(&self) -> usize {
        let starts = std::iter::once(&0).chain(&self.ends);
        let lengths = self.ends.iter().zip(starts).map(|(end, start)| end - start);
        lengths.max().unwrap_or(0) as usize
    }

    /// The number of ids.
    pub(crate) fn len(&self) -> u32 {
        self.kinds.len() as u32
    }

    /// What an id is for.
    pub(crate) fn kind(&self, id: u32) -> Option<Kind> {
        self.kinds.get(id as usize).copied()
    }

    /// The bytes that an id decodes to; none for an id that is not there.
    pub(crate) fn token_bytes(&self, id: u32) -> &[u8] {
        let index = id as usize;
        let Some(&end) = self.ends.get(index) else {
            return &[];
        };
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.bytes[start as usize..end as usize]
    }
}

/// The byte of `<0xHH>`.
pub(crate) fn parse_byte(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    let hex = |c: u8| (c as char).to_digit(16);
    match *digits.as_bytes() {
        [high, low] => Some((hex(high)? * 16 + hex(low)?) as u8),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_by_alphabet_and_kind() {
        let tokens = [
            ("Ġa", Kind::Normal),
            ("<|x y|>", Kind::Control),
            ("", Kind::Unused),
            ("世", Kind::Normal),
        ];
        let vocab = Vocab::new("t", Alphabet::ByteLevel, tokens.into_iter()).unwrap();
        assert_eq!(vocab.token_bytes(0), b" a");
        assert_eq!(vocab.token_bytes(1), b"<|x y|>");
        assert_eq!(vocab.token_bytes(2), b"");
        assert_eq!(vocab.token_bytes(3), "世".as_bytes());
        assert_eq!(vocab.token_bytes(4), b"");
        assert_eq!(vocab.text_ids.get("<|x y|>"), None);

        let tokens = [("▁a▁", Kind::Normal), ("<0x0a>", Kind::Byte)];
        let vocab = Vocab::new("t", Alphabet::SentencePiece, tokens.into_iter()).unwrap();
        assert_eq!(vocab.token_bytes(0), b" a ");
        assert_eq!(vocab.token_bytes(1), b"\n");
    }

    #[test]
    fn faults_name_the_index() {
        let new = |tokens: &[(&str, Kind)]| {
            Vocab::new("t", Alphabet::ByteLevel, tokens.iter().copied())
                .err()
                .unwrap()
                .to_string()
        };
        assert_eq!(new(&[]), "t is missing or empty");
        let (n, c) = (Kind::Normal, Kind::Control);
        assert_eq!(
            new(&[("a", n), ("b", n), ("a", n)]),
            "t[2]: \"a\" is already token 0"
        );
        assert_eq!(
            new(&[("b", n), ("a", c), ("a", n)]),
            "t[2]: \"a\" is already token 1"
        );
        assert_eq!(
            new(&[("<0x-1>", Kind::Byte)]),
            "t[0]: expected a byte token <0x00> to <0xFF>, got \"<0x-1>\""
        );
        assert_eq!(parse_byte("<0x+1>"), None);
        assert_eq!(parse_byte("<0xZZ>"), None);
    }
}
