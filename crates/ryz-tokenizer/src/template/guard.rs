//! Bounds on a template's source before minijinja sees it, and what Jinja2 reads otherwise in it.
//!
//! Its parser limits nesting by brackets and blocks, but builds chains (`a.b.c…`, `not not …`, `elif … elif …`) as trees as
//! deep as the chain is long, and then walks them by recursion: a long one would overflow the stack. So a tag has a limit of
//! words and signs, and a template one of `elif`s, both far above what real templates have and far below what overflows.

use std::borrow::Cow;

use super::literals::rewritten;
use crate::TemplateError;

/// Bytes of source; real templates have up to some 30,000.
const MAX_SOURCE: usize = 1 << 18;
/// Words, literals and signs in one tag.
const MAX_TAG: usize = 400;
/// `elif` tags in all.
const MAX_ELIF: usize = 100;

/// Checks the bounds, and gives the source as minijinja has to read it.
///
/// Line ends become `\n`, string literals get escapes that it knows, and `{% generation %}`, which marks text for
/// training, becomes a scope.
pub(super) fn check(source: &str) -> Result<String, TemplateError> {
    too_large("bytes", MAX_SOURCE, source.len())?;
    let source = if source.contains('\r') {
        Cow::Owned(source.replace("\r\n", "\n").replace('\r', "\n"))
    } else {
        Cow::Borrowed(source)
    };
    let source = &*source;
    let bytes = source.as_bytes();
    let mut edited = EditedSource::new(source);
    let mut elifs = 0;
    let mut at = 0;
    while let Some(open) = find(bytes, at, |pair| matches!(pair, b"{{" | b"{%" | b"{#")) {
        if bytes[open + 1] == b'#' {
            at = find(bytes, open + 2, |pair| pair == b"#}").map_or(bytes.len(), |end| end + 2);
            continue;
        }
        let block = bytes[open + 1] == b'%';
        let close: [u8; 2] = if block { *b"%}" } else { *b"}}" };
        let tag = scan(&mut edited, open + 2, close);
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
                    "with"
                } else {
                    "endwith"
                };
                let start = open + 2 + (word.as_ptr() as usize - inner.as_ptr() as usize);
                edited.replace(start, start + word.len(), instead);
            }
            _ if word.starts_with("elif") => {
                elifs += 1;
                too_large("elif tags", MAX_ELIF, elifs)?;
            }
            _ => {}
        }
    }
    Ok(edited.finish())
}

/// A source with some places replaced, in their order.
struct EditedSource<'a> {
    source: &'a str,
    out: String,
    copied: usize,
}

impl<'a> EditedSource<'a> {
    fn new(source: &'a str) -> EditedSource<'a> {
        EditedSource {
            source,
            out: String::with_capacity(source.len() + 16),
            copied: 0,
        }
    }

    fn replace(&mut self, start: usize, end: usize, instead: &str) {
        self.out.push_str(&self.source[self.copied..start]);
        self.out.push_str(instead);
        self.copied = end;
    }

    fn finish(mut self) -> String {
        self.out.push_str(&self.source[self.copied..]);
        self.out
    }
}

struct Tag {
    words: usize,
    /// Past the closing delimiter, or the end of the source.
    end: usize,
    closed: bool,
}

/// Counts a tag's words, rewrites its literals and finds its end as minijinja does: a delimiter outside of strings and
/// of brackets.
fn scan(edited: &mut EditedSource<'_>, start: usize, close: [u8; 2]) -> Tag {
    let source = edited.source;
    let bytes = source.as_bytes();
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
                let inside = at;
                while at < bytes.len() && bytes[at] != byte {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                let literal = source.get(inside..at.min(bytes.len()));
                if let Some(instead) = literal.and_then(|text| rewritten(text, byte.into())) {
                    edited.replace(inside, at, &instead);
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
    fn generation_tags_become_scopes() {
        let source =
            "a{%- generation -%}b{{ '{% generation %}' }}{% endgeneration%}{# {% generation %} #}é";
        let expected = "a{%- with -%}b{{ '{% generation %}' }}{% endwith%}{# {% generation %} #}é";
        assert_eq!(check(source).unwrap(), expected);
        let raw = "{% raw %}{% generation %}{% endraw %}{% generation %}";
        assert_eq!(
            check(raw).unwrap(),
            "{% raw %}{% generation %}{% endraw %}{% with %}"
        );
    }

    #[test]
    fn line_ends_and_literals_are_read_as_jinja2_reads_them() {
        assert_eq!(check("a\r\nb\rc{{ '\r\n' }}").unwrap(), "a\nb\nc{{ '\n' }}");
        assert_eq!(check(r"{{ '\d\x41' }}\d").unwrap(), r"{{ '\\dA' }}\d");
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
