//! Keys of JSON objects do not repeat.
//!
//! A context-free grammar cannot remember which keys an object has. Where a schema counts
//! properties the grammar counts them; everywhere else this tracker follows the text, and takes
//! tokens out of a mask that would write a key a second time.

use std::collections::HashSet;
use std::sync::Arc;

use llguidance::toktrie::{SimpleVob, TokTrie};

/// Follows a text that is JSON from its first byte on.
#[derive(Clone)]
pub(super) struct KeyTracker {
    /// Tokens that hold a quotation mark: no other token ends a key.
    quoting: Arc<[u32]>,
    /// The objects and lists that are open, outermost first; the keys of each object so far.
    open: Vec<Option<HashSet<Vec<u8>>>>,
    string: Option<OpenString>,
    /// Whether a string would be a key.
    at_key: bool,
}

/// A string that has begun.
#[derive(Clone, Default)]
struct OpenString {
    is_key: bool,
    /// As it is written: the grammar writes each character in one way.
    text: Vec<u8>,
    is_escaped: bool,
}

/// What a byte does to an open string.
enum Effect {
    Inside,
    Closed,
}

impl OpenString {
    fn push(&mut self, byte: u8) -> Effect {
        if !self.is_escaped && byte == b'"' {
            return Effect::Closed;
        }
        self.is_escaped = !self.is_escaped && byte == b'\\';
        if self.is_key {
            self.text.push(byte);
        }
        Effect::Inside
    }
}

impl KeyTracker {
    /// The beginning of a text in the tokens of this vocabulary.
    pub fn new(vocabulary: &TokTrie) -> Self {
        let ids = 0..vocabulary.vocab_size() as u32;
        Self {
            quoting: ids
                .filter(|&id| vocabulary.token(id).contains(&b'"'))
                .collect(),
            open: Vec::new(),
            string: None,
            at_key: false,
        }
    }

    /// Goes on by the bytes of a token.
    pub fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.push_byte(byte);
        }
    }

    fn push_byte(&mut self, byte: u8) {
        if let Some(string) = &mut self.string {
            if let Effect::Closed = string.push(byte)
                && let Some(string) = self.string.take()
                && string.is_key
            {
                self.at_key = false;
                if let Some(Some(keys)) = self.open.last_mut() {
                    keys.insert(string.text);
                }
            }
            return;
        }
        match byte {
            b'{' => self.open.push(Some(HashSet::new())),
            b'[' => self.open.push(None),
            b'}' | b']' => drop(self.open.pop()),
            b'"' => {
                self.string = Some(OpenString {
                    is_key: self.at_key,
                    ..OpenString::default()
                });
            }
            _ => {}
        }
        let in_object = matches!(self.open.last(), Some(Some(_)));
        match byte {
            b'{' => self.at_key = true,
            b',' => self.at_key = in_object,
            b'[' | b'}' | b']' => self.at_key = false,
            _ => {}
        }
    }

    /// Takes the tokens out of a mask that repeat a key, unless none would be left.
    pub fn restrict(&self, mask: &mut SimpleVob, vocabulary: &TokTrie) {
        let has_keys =
            |keys: &Option<HashSet<_>>| keys.as_ref().is_some_and(|keys| !keys.is_empty());
        if !self.open.iter().any(has_keys) {
            return;
        }
        let repeats = |&&id: &&u32| mask.is_allowed(id) && self.repeats(vocabulary.token(id));
        let repeating: Vec<u32> = self.quoting.iter().filter(repeats).copied().collect();
        if repeating.len() < mask.num_set() {
            for id in repeating {
                mask.disallow_token(id);
            }
        }
    }

    /// Whether these bytes write a key that its object has.
    fn repeats(&self, bytes: &[u8]) -> bool {
        let mut string = self.string.clone();
        let mut at_key = self.at_key;
        // Objects and lists that were open and still are; those that the bytes open, and keys that
        // they add, by the number of what is open around them.
        let mut kept = self.open.len();
        let mut opened: Vec<bool> = Vec::new();
        let mut added: Vec<(usize, Vec<u8>)> = Vec::new();
        for &byte in bytes {
            let level = kept + opened.len();
            let outer = kept.checked_sub(1).and_then(|at| self.open[at].as_ref());
            if let Some(open) = &mut string {
                if let Effect::Closed = open.push(byte) {
                    let closed = string.take().unwrap_or_default();
                    if closed.is_key {
                        at_key = false;
                        let known = outer.filter(|_| opened.is_empty());
                        let entry = (level, closed.text);
                        if known.is_some_and(|keys| keys.contains(&entry.1))
                            || added.contains(&entry)
                        {
                            return true;
                        }
                        added.push(entry);
                    }
                }
                continue;
            }
            match byte {
                b'"' => {
                    string = Some(OpenString {
                        is_key: at_key,
                        ..OpenString::default()
                    });
                }
                b'{' | b'[' => {
                    opened.push(byte == b'{');
                    at_key = byte == b'{';
                }
                b'}' | b']' => {
                    if opened.pop().is_none() {
                        kept = kept.saturating_sub(1);
                    }
                    added.retain(|(of, _)| *of < level);
                    at_key = false;
                }
                b',' => at_key = opened.last().copied().unwrap_or(outer.is_some()),
                _ => {}
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(text: &str) -> KeyTracker {
        let mut tracker = KeyTracker {
            quoting: Arc::new([]),
            open: Vec::new(),
            string: None,
            at_key: false,
        };
        tracker.push(text.as_bytes());
        tracker
    }

    #[test]
    fn a_key_repeats_in_its_own_object_alone() {
        for (text, next, repeats) in [
            (r#"{"a":1,"#, r#""a""#, true),
            (r#"{"a":1,""#, r#"a""#, true),
            (r#"{"a":1,"a"#, r#"""#, true),
            (r#"{"a":1"#, r#","a":"#, true),
            (r#"{"a":1,"a"#, r#"b""#, false),
            (r#"{"a":1,"#, r#""b""#, false),
            (r#"{"a":{"#, r#""a""#, false),
            (r#"{"a":{"a":1},"#, r#""a""#, true),
            (r#"{"b":{"a":1},"#, r#""a""#, false),
            (r#"{"a":"#, r#""a""#, false),
            (r#"{"a":"x","#, r#""a""#, true),
            (r#"{"a":["a","#, r#""a""#, false),
            (r#"{"a\"":1,"#, r#""a\"""#, true),
            (r#"{"a\"":1,"#, r#""a""#, false),
            (r#"{"a":1},"#, r#""a""#, false),
            (r#"[{"a":1},{"#, r#""a""#, false),
            (r#"{"a\\":1,"#, r#""a\\""#, true),
            (r#"{"a":[1"#, r#"],"a""#, true),
            (r#"{"a":{"b":1"#, r#"},"b""#, false),
            (r#"{"a":{"b":1"#, r#"},"a""#, true),
            (r#"[{"a":1"#, r#"},{"a""#, false),
            ("", r#"{"a":1,"a""#, true),
            ("", r#"[{"a":1},{"a""#, false),
            ("", r#"{"a":[1,"a""#, false),
        ] {
            assert_eq!(
                after(text).repeats(next.as_bytes()),
                repeats,
                "{text} + {next}"
            );
        }
    }
}
