//! What two renderings have in common, cut so that no mark such as `<tool_call>` is torn apart.

/// How many bytes of whole characters two texts begin with in common.
pub(super) fn common_prefix(a: &str, b: &str) -> usize {
    a.chars()
        .zip(b.chars())
        .take_while(|(a, b)| a == b)
        .map(|(a, _)| a.len_utf8())
        .sum()
}

/// How many bytes of whole characters two texts end with in common.
fn common_suffix(a: &str, b: &str) -> usize {
    a.chars()
        .rev()
        .zip(b.chars().rev())
        .take_while(|(a, b)| a == b)
        .map(|(a, _)| a.len_utf8())
        .sum()
}

/// The common beginning of two texts without the mark that both only begin.
pub(super) fn whole_prefix<'a>(a: &'a str, b: &str) -> &'a str {
    let common = &a[..common_prefix(a, b)];
    if common.len() == a.len() || common.len() == b.len() {
        return common;
    }
    let open = [('<', '>'), ('[', ']')]
        .into_iter()
        .filter_map(|(open, close)| {
            let at = common.rfind(open)?;
            (!common[at..].contains(close)).then_some(at)
        });
    &common[..open.min().unwrap_or(common.len())]
}

/// The common end of two texts without the mark that both only end.
pub(super) fn whole_suffix<'a>(a: &'a str, b: &str) -> &'a str {
    let common = &a[a.len() - common_suffix(a, b)..];
    if common.len() == a.len() || common.len() == b.len() {
        return common;
    }
    let torn = [('<', '>'), ('[', ']')]
        .into_iter()
        .filter_map(|(open, close)| {
            let at = common.find(close)?;
            let first = common.find(open).unwrap_or(common.len());
            (at < first).then_some(at + close.len_utf8())
        });
    &common[torn.max().unwrap_or(0)..]
}

/// The parts of `head call middle call tail`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Frame {
    pub begin: String,
    pub open: String,
    pub close: String,
    pub separator: String,
    pub end: String,
}

impl Frame {
    /// From what stands before the first call, between two, and behind the last.
    pub fn new(head: &str, middle: Option<&str>, tail: &str) -> Frame {
        let text = |text: &str| text.trim().to_owned();
        let Some(middle) = middle else {
            return Frame {
                open: text(head),
                close: text(tail),
                ..Frame::default()
            };
        };
        let open = whole_suffix(head, middle);
        let rest = &middle[..middle.len() - open.len()];
        let close = whole_prefix(tail, rest);
        Frame {
            begin: text(&head[..head.len() - open.len()]),
            open: text(open),
            close: text(close),
            separator: text(&rest[close.len()..]),
            end: text(&tail[close.len()..]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(head: &str, middle: &str, tail: &str) -> [String; 5] {
        let frame = Frame::new(head, Some(middle), tail);
        [
            frame.begin,
            frame.open,
            frame.close,
            frame.separator,
            frame.end,
        ]
    }

    #[test]
    fn marks_around_each_call_are_told_from_those_around_all() {
        assert_eq!(
            frame(
                "<|calls_begin|><|call_begin|>functions.",
                "<|call_end|><|call_begin|>functions.",
                "<|call_end|><|calls_end|>"
            ),
            [
                "<|calls_begin|>",
                "<|call_begin|>functions.",
                "<|call_end|>",
                "",
                "<|calls_end|>"
            ]
        );
        assert_eq!(
            frame("\n<call>\n", "\n</call>\n<call>\n", "\n</call>"),
            ["", "<call>", "</call>", "", ""]
        );
        assert_eq!(frame("[", ", ", "]"), ["[", "", "", ",", "]"]);
        assert_eq!(frame("[CALLS]", "[CALLS]", ""), ["", "[CALLS]", "", "", ""]);
    }

    #[test]
    fn no_mark_is_torn_apart() {
        assert_eq!(whole_prefix(">\n</function>", ">\n<parameter="), ">\n");
        assert_eq!(whole_prefix("</call>", "<key>"), "");
        assert_eq!(whole_suffix("_begin|><|x|>f.", "_end|><|x|>f."), "<|x|>f.");
    }
}
