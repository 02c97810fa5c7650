//! The merge loop of every model here: of all neighbours whose union is a token the best pair merges
//! first, of equals the leftmost, until no pair is left.
//!
//! A long word is merged in windows, so that it takes bounded memory, and time in proportion to its
//! length. The result is exact, not an approximation: tokens t₁…tₙ are what the loop makes of a text if
//! and only if it makes tᵢtᵢ₊₁ of each two neighbours by themselves. (Seen from within two tokens, the
//! loop over a text takes the same steps as the loop over the two, up to the first merge across an
//! outer border; so the first such merge would happen there too.) All neighbours of a window have that
//! property, so windows that share a token at one place join there. Windows that share none are merged
//! anew as one.

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
};

use crate::TokenizerError;

/// No neighbour, no token.
pub(crate) const NONE: u32 = u32::MAX;

/// Bytes of a window: longer words are merged in several.
const WINDOW: usize = 1 << 13;

/// A piece of the window; pieces form a list by their indices.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Symbol {
    /// Its token, or [`NONE`].
    pub(crate) id: u32,
    /// Where it begins in the window.
    pub(crate) start: u32,
    /// 0 once it was merged into its left neighbour.
    pub(crate) len: u32,
    previous: u32,
    next: u32,
}

impl Symbol {
    /// A piece before anything is merged.
    pub(crate) fn new(id: u32, start: usize, len: usize) -> Symbol {
        Symbol {
            id,
            start: start as u32,
            len: len as u32,
            previous: NONE,
            next: NONE,
        }
    }
}

/// What a pair becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Union {
    /// Less is better.
    pub(crate) rank: u32,
    pub(crate) id: u32,
}

/// What may merge with what.
pub(crate) trait Pairs {
    /// Appends the smallest pieces of a text, each character by itself of the others.
    fn symbols(&self, text: &str, out: &mut Vec<Symbol>);

    /// What two neighbours of the text become, if anything.
    fn union(&self, text: &str, left: &Symbol, right: &Symbol) -> Option<Union>;
}

/// Two neighbours whose union is a token.
struct Pair {
    union: Union,
    left: u32,
    /// Where the union ends in the window: a pair that has since grown is out of date.
    end: u32,
}

impl Ord for Pair {
    fn cmp(&self, other: &Pair) -> Ordering {
        Reverse((self.union.rank, self.left)).cmp(&Reverse((other.union.rank, other.left)))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Pair) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Pair) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Pair {}

/// Memory that words share.
#[derive(Default)]
pub(crate) struct Scratch {
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Pair>,
}

/// A token in the whole text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Token {
    id: u32,
    start: usize,
    end: usize,
}

/// Merges a text, and tells each token in order.
pub(crate) fn merge<P: Pairs>(
    pairs: &P,
    text: &str,
    scratch: &mut Scratch,
    each: &mut impl FnMut(Step<'_>) -> Result<(), TokenizerError>,
) -> Result<(), TokenizerError> {
    merge_in_windows(pairs, text, WINDOW, scratch, each)
}

/// What [`merge`] tells.
pub(crate) enum Step<'t> {
    /// A token, or a piece without one.
    Token { id: u32, text: &'t str },
    /// So many bytes were worked on.
    Worked(usize),
}

fn merge_in_windows<P: Pairs>(
    pairs: &P,
    text: &str,
    size: usize,
    scratch: &mut Scratch,
    each: &mut impl FnMut(Step<'_>) -> Result<(), TokenizerError>,
) -> Result<(), TokenizerError> {
    // Tokens of the window before, that are not told yet.
    let mut before: Vec<Token> = Vec::new();
    let mut now: Vec<Token> = Vec::new();
    // The token of the window before where this one begins.
    let mut overlap = 0;
    let (mut start, mut width) = (0_usize, size);
    loop {
        let end = text.floor_char_boundary(start.saturating_add(width).min(text.len()));
        window(pairs, &text[start..end], scratch);
        each(Step::Worked(end - start))?;
        now.clear();
        now.extend(tokens(&scratch.symbols, start));
        let Some((from_before, from_now)) = join(&before[overlap..], &now) else {
            // They share nothing: one window over both.
            start = before[0].start;
            width = (end - start) + size;
            before.clear();
            overlap = 0;
            continue;
        };
        tell(text, &before[..overlap + from_before], each)?;
        now.drain(..from_now);
        if end == text.len() {
            return tell(text, &now, each);
        }
        let late = start + (end - start) / 8 * 7;
        overlap = match now.iter().position(|token| {
            token.start >= late && token.start > start && text.is_char_boundary(token.start)
        }) {
            Some(overlap) => overlap,
            // Nothing in it is a token.
            None if now.is_empty() => {
                before.clear();
                (start, width, overlap) = (end, size, 0);
                continue;
            }
            // A token fills the end of the window: a wider one.
            None => {
                start = now[0].start;
                width = (end - start) + size;
                before.clear();
                overlap = 0;
                continue;
            }
        };
        std::mem::swap(&mut before, &mut now);
        start = before[overlap].start;
        width = size;
    }
}

fn tell(
    text: &str,
    tokens: &[Token],
    each: &mut impl FnMut(Step<'_>) -> Result<(), TokenizerError>,
) -> Result<(), TokenizerError> {
    tokens.iter().try_for_each(|token| {
        each(Step::Token {
            id: token.id,
            // Tokens of bytes may end inside a character.
            text: text.get(token.start..token.end).unwrap_or_default(),
        })
    })
}

/// How many tokens of each list come before a token that both have; none where they have none. An
/// empty first list has nothing to agree with.
fn join(before: &[Token], now: &[Token]) -> Option<(usize, usize)> {
    if before.is_empty() {
        return Some((0, 0));
    }
    let (mut i, mut j) = (0, 0);
    while let (Some(a), Some(b)) = (before.get(i), now.get(j)) {
        if a == b {
            return Some((i, j));
        }
        if a.start <= b.start {
            i += 1;
        } else {
            j += 1;
        }
    }
    None
}

/// The symbols that are left, as tokens of the whole text.
fn tokens(symbols: &[Symbol], start: usize) -> impl Iterator<Item = Token> + '_ {
    let left = symbols.iter().filter(|symbol| symbol.len > 0);
    left.map(move |symbol| Token {
        id: symbol.id,
        start: start + symbol.start as usize,
        end: start + (symbol.start + symbol.len) as usize,
    })
}

/// Merges one window; what is left in `scratch.symbols` with a length is its tokens.
fn window<P: Pairs>(pairs: &P, text: &str, scratch: &mut Scratch) {
    let Scratch { symbols, queue } = scratch;
    symbols.clear();
    queue.clear();
    pairs.symbols(text, symbols);
    let count = symbols.len();
    for (i, symbol) in symbols.iter_mut().enumerate() {
        symbol.previous = i.checked_sub(1).map_or(NONE, |i| i as u32);
        symbol.next = if i + 1 < count { i as u32 + 1 } else { NONE };
    }
    let push = |symbols: &[Symbol], left: u32, right: u32, queue: &mut BinaryHeap<Pair>| {
        let (first, second) = (&symbols[left as usize], &symbols[right as usize]);
        if let Some(union) = pairs.union(text, first, second) {
            queue.push(Pair {
                union,
                left,
                end: second.start + second.len,
            });
        }
    };
    for right in 1..count {
        push(symbols, right as u32 - 1, right as u32, queue);
    }
    while let Some(pair) = queue.pop() {
        let left = symbols[pair.left as usize];
        if left.len == 0 || left.next == NONE {
            continue;
        }
        let right = symbols[left.next as usize];
        // Symbols only ever grow, so the same end means the same two.
        if right.start + right.len != pair.end {
            continue;
        }
        symbols[left.next as usize].len = 0;
        let merged = &mut symbols[pair.left as usize];
        merged.id = pair.union.id;
        merged.len = pair.end - merged.start;
        merged.next = right.next;
        if right.next != NONE {
            symbols[right.next as usize].previous = pair.left;
            push(symbols, pair.left, right.next, queue);
        }
        if left.previous != NONE {
            push(symbols, left.previous, pair.left, queue);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tokens are texts; a pair merges when its union is one, in their order.
    struct Words(Vec<&'static str>);

    impl Pairs for Words {
        fn symbols(&self, text: &str, out: &mut Vec<Symbol>) {
            for (start, char) in text.char_indices() {
                out.push(Symbol::new(char as u32 + 1000, start, char.len_utf8()));
            }
        }

        fn union(&self, text: &str, left: &Symbol, right: &Symbol) -> Option<Union> {
            let whole = &text[left.start as usize..(right.start + right.len) as usize];
            let rank = self.0.iter().position(|word| *word == whole)? as u32;
            Some(Union { rank, id: rank })
        }
    }

    fn ids(words: &Words, text: &str, size: usize) -> Vec<u32> {
        let mut out = Vec::new();
        let mut texts = String::new();
        merge_in_windows(words, text, size, &mut Scratch::default(), &mut |step| {
            if let Step::Token { id, text } = step {
                out.push(id);
                texts += text;
            }
            Ok(())
        })
        .unwrap();
        assert_eq!(texts, text, "nothing is lost");
        out
    }

    #[test]
    fn the_best_pair_merges_first_and_of_equals_the_leftmost() {
        let words = Words(vec!["ab", "bc", "abc"]);
        assert_eq!(ids(&words, "abc", 100), [2]);
        assert_eq!(ids(&words, "bcab", 100), [1, 0]);
        let words = Words(vec!["bc", "ab", "aa"]);
        assert_eq!(ids(&words, "abc", 100), [u32::from(b'a') + 1000, 0]);
        assert_eq!(ids(&words, "aaa", 100), [2, u32::from(b'a') + 1000]);
    }

    #[test]
    fn windows_give_what_one_window_gives() {
        let vocabularies = [
            Words(vec!["ab", "ba", "aba", "abab", "aa", "aaaa", "bb", "abb"]),
            Words(vec!["aa", "aaaa", "aaaaaaaa", "ba", "bab", "é", "éa"]),
            Words(vec!["bc", "ab", "ca", "abca", "caab", "bcab", "cc"]),
        ];
        let mut state = 0x5EED_u64;
        let mut next = |n: usize| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 33) as usize % n
        };
        for round in 0..600 {
            let words = &vocabularies[round % vocabularies.len()];
            let letters = ["a", "b", "c", "é", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"];
            let kinds = 1 + next(letters.len());
            let text: String = (0..next(400)).map(|_| letters[next(kinds)]).collect();
            let whole = ids(words, &text, usize::MAX / 2);
            for size in [32, 50, 101] {
                assert_eq!(
                    ids(words, &text, size),
                    whole,
                    "{text} in windows of {size}"
                );
            }
        }
    }
}
