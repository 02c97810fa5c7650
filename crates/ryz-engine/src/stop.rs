//! Stop strings: text that may be the beginning of one is held back, so that no part of it is ever delivered.

/// What a push yields.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReleasedText {
    /// Text that can no longer be part of a stop string.
    pub text: String,
    /// A stop string is complete; it and what came after it are gone.
    pub stopped: bool,
}

/// Finds stop strings in a stream of text, however the pieces cut them.
///
/// The first stop string to be complete ends the text (the longest, if several end together), as if the text had come
/// character by character; so the result does not depend on how a tokenizer cuts it.
#[derive(Debug, Clone)]
pub struct StopMatcher {
    stops: Vec<String>,
    held: String,
}

impl StopMatcher {
    /// A matcher for these strings; empty ones are ignored.
    pub fn new(stops: &[String]) -> Self {
        Self {
            stops: stops.iter().filter(|s| !s.is_empty()).cloned().collect(),
            held: String::new(),
        }
    }

    /// Bytes held back so far.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Takes more text and releases what is safe.
    pub fn push(&mut self, text: &str) -> ReleasedText {
        if self.stops.is_empty() {
            return ReleasedText {
                text: text.to_owned(),
                stopped: false,
            };
        }
        self.held.push_str(text);
        let first = self
            .stops
            .iter()
            .filter_map(|s| self.held.find(s.as_str()).map(|at| (at + s.len(), at)))
            .min();
        if let Some((_, start)) = first {
            let mut text = std::mem::take(&mut self.held);
            text.truncate(start);
            return ReleasedText {
                text,
                stopped: true,
            };
        }
        let keep = self.longest_beginning();
        let rest = self.held.split_off(self.held.len() - keep);
        ReleasedText {
            text: std::mem::replace(&mut self.held, rest),
            stopped: false,
        }
    }

    /// Releases what is held when the text ends without a stop string.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Length of the longest end of the held text that begins a stop string.
    fn longest_beginning(&self) -> usize {
        let begins = |s: &String| {
            (1..s.len().min(self.held.len() + 1))
                .rev()
                .find(|&n| s.is_char_boundary(n) && self.held.ends_with(&s[..n]))
        };
        self.stops.iter().filter_map(begins).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (Vec<String>, bool) {
        let stops: Vec<String> = stops.iter().map(|s| (*s).to_owned()).collect();
        let mut matcher = StopMatcher::new(&stops);
        let mut out = vec![];
        for piece in pieces {
            let released = matcher.push(piece);
            out.push(released.text);
            if released.stopped {
                return (out, true);
            }
        }
        out.push(matcher.finish());
        (out, false)
    }

    #[test]
    fn text_that_may_begin_a_stop_string_is_held_back() {
        assert_eq!(
            run(&["END"], &["a E", "N", "d"]),
            (
                vec!["a ".into(), String::new(), "ENd".into(), String::new()],
                false
            )
        );
        assert_eq!(
            run(&["END"], &["a E", "N", "D b"]),
            (vec!["a ".into(), String::new(), String::new()], true)
        );
        assert_eq!(
            run(&["END"], &["a E"]),
            (vec!["a ".into(), "E".into()], false)
        );
    }

    #[test]
    fn a_false_start_inside_another_start_is_found() {
        assert_eq!(run(&["aab"], &["a", "a", "a", "b"]).0.concat(), "a");
        assert_eq!(
            run(&["abab!"], &["ababab", "!"]),
            (vec!["ab".into(), String::new()], true)
        );
    }

    #[test]
    fn the_first_to_be_complete_wins_and_the_longest_of_those() {
        assert_eq!(run(&["abcd", "bc"], &["abcd"]), (vec!["a".into()], true));
        assert_eq!(run(&["bc", "abc"], &["xabc"]), (vec!["x".into()], true));
    }

    #[test]
    fn multi_byte_characters_are_never_cut() {
        assert_eq!(
            run(&["é!"], &["é", "?"]),
            (vec![String::new(), "é?".into(), String::new()], false)
        );
        assert_eq!(
            run(&["日本"], &["日", "本"]),
            (vec![String::new(), String::new()], true)
        );
        // Same first byte, other character.
        assert_eq!(
            run(&["é"], &["è"]),
            (vec!["è".into(), String::new()], false)
        );
    }

    #[test]
    fn without_stop_strings_everything_passes() {
        assert_eq!(
            run(&[""], &["abc"]),
            (vec!["abc".into(), String::new()], false)
        );
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(text in "[abé]{0,24}", stops in prop::collection::vec("[abé]{1,4}", 1..4), cuts in prop::collection::vec(1usize..4, 24)) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let chars: Vec<String> = text.chars().map(String::from).collect();
            let one_by_one: Vec<&str> = chars.iter().map(String::as_str).collect();
            let want = run(&stops, &one_by_one);
            let mut pieces = vec![];
            let mut at = 0;
            for cut in cuts {
                if at < chars.len() {
                    pieces.push(chars[at..(at + cut).min(chars.len())].concat());
                    at += cut;
                }
            }
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let got = run(&stops, &pieces);
            prop_assert_eq!(got.0.concat(), want.0.concat());
            prop_assert_eq!(got.1, want.1);
            // And by definition: the text up to the first stop string that ends.
            let first = stops.iter().filter_map(|s| text.find(s).map(|at| (at + s.len(), at))).min();
            prop_assert_eq!(got.0.concat(), first.map_or(text.clone(), |(_, at)| text[..at].to_owned()));
        }
    }
}
