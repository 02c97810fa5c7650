//! Bounds on a template's source before minijinja sees it.
//!
//! Its parser limits nesting by brackets and blocks, but builds chains (`a.b.c…`, `not not …`, `elif … elif …`) as trees as
//! deep as the chain is long, and then walks them by recursion: a long one would overflow the stack. So a tag has a limit of
//! words and signs, and a template one of `elif`s, both far above what real templates have and far below what overflows.

use crate::TemplateError;

/// Bytes of source; real templates have up to some 30,000.
const MAX_SOURCE: usize = 1 << 18;
/// Words, literals and signs in one tag.
const MAX_TAG: usize = 400;
/// `elif` tags in all.
const MAX_ELIF: usize = 100;

/// Checks the bounds, and gives the source with `{% generation %}`, which only marks text for training, taken out.
pub(super) fn check(source: &str) -> Result<String, TemplateError> {
    too_large("bytes", MAX_SOURCE, source.len())?;
    let bytes = source.as_bytes();
    let mut out = String::with_capacity(source.len() + 16);
    let mut copied = 0;
    let mut elifs = 0;
    let mut at = 0;
    while let Some(open) = find(bytes, at, |pair| matches!(pair, b"{{" | b"{%" | b"{#")) {
        if bytes[open + 1] == b'#' {
            at = find(bytes, open + 2, |pair| pair == b"#}").map_or(bytes.len(), |end| end + 2);
            continue;
        }
        let block = bytes[open + 1] == b'%';
        let close: [u8; 2] = if block { *b"%}" } else { *b"}}" };
        let tag = scan(bytes, open + 2, close);
        too_large("words and signs in a tag", MAX_TAG, tag.words)?;
        at = tag.end;
        if !block || !tag.closed {
            continue;
        }
        // The tag without its delimiters and their signs of white space control.
        let inner = &source[open + 2..tag.end - 2];
        let word = inner.trim_matches(['-', '+']).trim();
        match word {
            "raw" => {
                at = source[at..]
                    .find("endraw")
                    .map_or(bytes.len(), |end| at + end);
            }
            "generation" | "endgeneration" => {
                let instead = if word == "generation" {
                    "if true"
                } else {
                    "endif"
                };
                let start = open + 2 + (word.as_ptr() as usize - inner.as_ptr() as usize);
                out.push_str(&source[copied..start]);
                out.push_str(instead);
                copied = start + word.len();
            }
            _ if word.starts_with("elif") => {
                elifs += 1;
                too_large("elif tags", MAX_ELIF, elifs)?;
            }
            _ => {}
        }
    }
    out.push_str(&source[copied..]);
    Ok(out)
}

struct Tag {
    words: usize,
    /// Past the closing delimiter, or the end of the source.
    end: usize,
    closed: bool,
}

/// Counts a tag's words and finds its end as minijinja does: a delimiter outside of strings and of brackets.
fn scan(bytes: &[u8], start: usize, close: [u8; 2]) -> Tag {
    let mut at = start;
    let mut words = 0;
    let mut depth = 0i64;
    while at < bytes.len() {
        if depth == 0 && bytes[at..].starts_with(&close) {
            return Tag {
                words,
                end: at + 2,
                closed: true,
            };
        }
        let byte = bytes[at];
        at += 1;
        if byte.is_ascii_whitespace() {
            continue;
        }
        words += 1;
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth -= 1,
            b'"' | b'\'' => {
                while at < bytes.len() && bytes[at] != byte {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                at += 1;
            }
            _ if is_word(byte) => {
                while at < bytes.len() && is_word(bytes[at]) {
                    at += 1;
                }
            }
            _ => {}
        }
    }
    Tag {
        words,
        end: bytes.len(),
        closed: false,
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii()
}

fn find(bytes: &[u8], from: usize, mut wanted: impl FnMut(&[u8]) -> bool) -> Option<usize> {
    let rest = bytes.get(from..)?;
    rest.windows(2).position(&mut wanted).map(|i| from + i)
}

fn too_large(what: &'static str, limit: usize, got: usize) -> Result<(), TemplateError> {
    if got > limit {
        return Err(TemplateError::TooLarge { what, limit, got });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_tags_become_conditions() {
        let source =
            "a{%- generation -%}b{{ '{% generation %}' }}{% endgeneration%}{# {% generation %} #}é";
        let expected = "a{%- if true -%}b{{ '{% generation %}' }}{% endif%}{# {% generation %} #}é";
        assert_eq!(check(source).unwrap(), expected);
        let raw = "{% raw %}{% generation %}{% endraw %}{% generation %}";
        assert_eq!(
            check(raw).unwrap(),
            "{% raw %}{% generation %}{% endraw %}{% if true %}"
        );
    }

    #[test]
    fn chains_are_refused_wherever_they_hide() {
        let long = ".a".repeat(300);
        for source in [
            format!("{{{{ a{long} }}}}"),
            format!("{{{{ {{'a': {{'b': 1}}}} {long}"),
            format!("{{{{ '}}}}' {long}"),
            format!("{{{{ '\\'}}}}' {long}"),
            format!("{{% set x = a{long} %}}"),
            format!("{{# {{{{ #}}{{{{ a{long}"),
        ] {
            let error = check(&source).unwrap_err();
            assert!(error.to_string().contains("words and signs"), "{error}");
        }
        assert!(
            check(&format!(
                "{{% if a %}}{}{{% endif %}}",
                "{% elif b %}".repeat(101)
            ))
            .is_err()
        );
        assert!(check(&" ".repeat(MAX_SOURCE + 1)).is_err());
        assert!(check("{{").is_ok());
        assert!(check("{% 'a\\").is_ok());
    }
}
