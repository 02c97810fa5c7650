//! String literals of a template, written anew with the escapes that minijinja knows.

/// The inside of a literal whose escapes are Python's; none where nothing has to change.
pub(super) fn rewritten(inside: &str, quote: char) -> Option<String> {
    if !inside.contains('\\') {
        return None;
    }
    let mut out = String::with_capacity(inside.len());
    let mut push = |char: char| {
        if char == '\\' || char == quote {
            out.push('\\');
        }
        out.push(char);
    };
    let mut rest = inside;
    let mut high: Option<u32> = None;
    while let Some(char) = rest.chars().next() {
        rest = &rest[char.len_utf8()..];
        if char != '\\' {
            push(char);
            continue;
        }
        let escape = rest.chars().next()?;
        rest = &rest[escape.len_utf8()..];
        let digits = |rest: &str, most: usize, base: u32| {
            rest.chars()
                .take(most)
                .take_while(|c| c.is_digit(base))
                .count()
        };
        let (code, length) = match escape {
            '\n' => continue,
            '\\' | '\'' | '"' => (escape.into(), 0),
            'a' => (0x07, 0),
            'b' => (0x08, 0),
            'f' => (0x0c, 0),
            'n' => (0x0a, 0),
            'r' => (0x0d, 0),
            't' => (0x09, 0),
            'v' => (0x0b, 0),
            '0'..='7' => {
                let length = digits(rest, 2, 8);
                let number = format!("{escape}{}", &rest[..length]);
                (u32::from_str_radix(&number, 8).ok()?, length)
            }
            'x' | 'u' | 'U' => {
                let length = match escape {
                    'x' => 2,
                    'u' => 4,
                    _ => 8,
                };
                if digits(rest, length, 16) < length {
                    return None; // Jinja2 refuses it; so does minijinja.
                }
                (u32::from_str_radix(&rest[..length], 16).ok()?, length)
            }
            other => {
                push('\\');
                push(other);
                continue;
            }
        };
        rest = &rest[length..];
        match (high.take(), code) {
            (Some(high), 0xdc00..=0xdfff) => {
                let pair = 0x10000 + ((high - 0xd800) << 10) + (code - 0xdc00);
                push(char::from_u32(pair).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            (None, 0xd800..=0xdbff) if rest.starts_with("\\u") => high = Some(code),
            (_, code) => push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_pythons() {
        for (inside, expected) in [
            (r"a\nb", "a\nb"),
            (r"\d\/\q", r"\\d\\/\\q"),
            (r"\\ \'", r"\\ \'"),
            (r"\x41\u00e9\U0001f600\101\0", "Aé😀A\0"),
            (r"\ud83d\ude00", "😀"),
            ("a\\\nb", "ab"),
            (r"\a\v\b\f", "\u{7}\u{b}\u{8}\u{c}"),
        ] {
            let got = rewritten(inside, '\'').unwrap();
            assert_eq!(got, expected, "{inside}");
        }
        assert_eq!(rewritten("plain", '"'), None);
        assert_eq!(rewritten(r"\x4", '"'), None);
        assert_eq!(rewritten("\\", '"'), None);
    }
}
