//! Proposals from the text itself: what followed the last tokens when they came before (Saxena, "Prompt Lookup Decoding",
//! 2023), as in summaries, edits of code and quotations.

use super::pace::Pace;

/// Tokens whose repetition is looked for, the longest first.
const NEEDLES: std::ops::RangeInclusive<usize> = 2..=4;
/// How far back is looked.
const WINDOW: usize = 16_384;

/// A generation's proposals from its own text.
#[derive(Debug)]
pub(super) struct PromptLookup {
    pub pace: Pace,
}

impl PromptLookup {
    /// Proposals of up to `most` tokens.
    pub fn new(most: usize) -> Self {
        Self {
            pace: Pace::new(most, 0.0),
        }
    }

    /// Adds to `draft` what may follow `tokens`: up to `room` tokens, or none.
    pub fn propose(&mut self, tokens: &[u32], room: usize, draft: &mut Vec<u32>) {
        let length = self.pace.next(room);
        if length > 0 {
            // Past the end it goes on with itself: a loop goes on.
            let followers = followers(tokens, length);
            draft.extend(followers.iter().cycle().take(length));
        }
    }
}

/// What followed the latest earlier occurrence of the longest end of `tokens` that has one: up to `length` tokens.
fn followers(tokens: &[u32], length: usize) -> &[u32] {
    let tokens = &tokens[tokens.len().saturating_sub(WINDOW)..];
    for needle in NEEDLES.rev() {
        let Some(before) = tokens.len().checked_sub(needle) else {
            continue;
        };
        let wanted = &tokens[before..];
        let earlier = (0..before)
            .rev()
            .find(|&at| tokens[at..].starts_with(wanted));
        if let Some(at) = earlier {
            let first = at + needle;
            return &tokens[first..tokens.len().min(first + length)];
        }
    }
    &[]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proposal(lookup: &mut PromptLookup, tokens: &[u32], room: usize) -> Vec<u32> {
        let mut draft = Vec::new();
        lookup.propose(tokens, room, &mut draft);
        draft
    }

    #[test]
    fn what_followed_the_longest_repetition_is_proposed() {
        // 3 4 came twice: after 2 3 4, as now, came 5; after 9 3 4 came 6.
        let tokens = [1, 2, 3, 4, 5, 7, 9, 3, 4, 6, 8, 2, 3, 4];
        assert_eq!(followers(&tokens, 2), [5, 7]);
        assert_eq!(followers(&tokens[..9], 8), [5, 7, 9, 3, 4]);
        assert_eq!(followers(&[1, 2, 3, 4], 4), [0u32; 0]);
        assert_eq!(followers(&[7], 4), [0u32; 0]);
        assert_eq!(followers(&[5, 5, 5], 4), [5], "overlapping itself");
    }

    #[test]
    fn there_is_room_or_there_is_no_proposal() {
        let tokens = [1, 2, 3, 4, 5, 6, 1, 2];
        assert_eq!(proposal(&mut PromptLookup::new(8), &tokens, 3), [3, 4, 5]);
        assert_eq!(proposal(&mut PromptLookup::new(1), &tokens, 3), [3]);
        assert!(proposal(&mut PromptLookup::new(8), &tokens, 0).is_empty());
        // A loop goes on past its end.
        let looped = proposal(&mut PromptLookup::new(8), &[9, 5, 6, 5, 6], 99);
        assert_eq!(looped, [5, 6, 5, 6]);
    }

    #[test]
    fn proposals_grow_while_they_hold_and_shrink_when_they_do_not() {
        let tokens: Vec<u32> = (0..40).chain(0..4).collect();
        let mut lookup = PromptLookup::new(10);
        assert_eq!(proposal(&mut lookup, &tokens, 99).len(), 4);
        lookup.pace.verified(4, 4);
        assert_eq!(proposal(&mut lookup, &tokens, 99).len(), 8);
        lookup.pace.verified(8, 8);
        assert_eq!(proposal(&mut lookup, &tokens, 99).len(), 10);
        lookup.pace.verified(10, 2);
        assert_eq!(proposal(&mut lookup, &tokens, 99).len(), 3);
    }

    #[test]
    fn it_rests_where_proposals_fail_and_tries_again() {
        let tokens: Vec<u32> = (0..40).chain(0..4).collect();
        let mut lookup = PromptLookup::new(4);
        let rests = |lookup: &mut PromptLookup| {
            for _ in 0..20 {
                let proposed = proposal(lookup, &tokens, 99).len();
                if proposed == 0 {
                    break;
                }
                lookup.pace.verified(proposed, 0);
            }
            1 + (0..1000)
                .take_while(|_| proposal(lookup, &tokens, 99).is_empty())
                .count()
        };
        assert_eq!(rests(&mut lookup), 16);
        lookup.pace.verified(1, 0);
        assert_eq!(rests(&mut lookup), 32);
    }
}
