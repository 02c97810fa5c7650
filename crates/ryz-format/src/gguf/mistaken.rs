//! Recognizes other kinds of files, commonly passed by mistake, by their first bytes.

/// Signatures of gzip, xz, zstd and bzip2 files.
const COMPRESSED: [&[u8]; 4] = [b"\x1f\x8b", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"BZh"];

/// The kind of file and what to do; `None` if it is not recognized.
pub(crate) fn mistaken(prefix: &[u8]) -> Option<&'static str> {
    let head = &prefix[..prefix.len().min(512)];
    let text = head.trim_ascii_start();
    let tag = |tag: &str| {
        text.get(..tag.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(tag.as_bytes()))
    };
    Some(
        if head.starts_with(b"version https://git-lfs.github.com/") {
            "a Git LFS pointer, not the file it stands for: fetch that with `git lfs pull`"
        } else if tag("<!doctype") || tag("<html") || tag("<head") || tag("<?xml") {
            "a web page, not the file behind it: download it again, from its direct link"
        } else if head.starts_with(b"PK\x03\x04") {
            "a ZIP archive (PyTorch's files are such): pass a .gguf file or a folder with safetensors"
        } else if (COMPRESSED.iter()).any(|magic| head.starts_with(magic)) {
            "compressed: unpack it first"
        } else if ["lmgg", "fmgg", "tjgg", "algg"]
            .iter()
            .any(|magic| head.starts_with(magic.as_bytes()))
        {
            "a file of GGML's formats before GGUF: convert it anew, or download it as GGUF"
        } else if head.get(8) == Some(&b'{') && head[..8].ends_with(&[0; 4]) {
            "a safetensors file: pass the folder that holds it with its config.json"
        } else if text.starts_with(b"{") {
            "a JSON document, not a model: a server's error, or one of a model's smaller files"
        } else {
            return None;
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_pass_by_mistake_is_recognised() {
        let is = |bytes: &[u8], start: &str| mistaken(bytes).unwrap_or("").starts_with(start);
        assert!(is(
            b"version https://git-lfs.github.com/spec/v1\noid",
            "a Git LFS"
        ));
        assert!(is(b"\n<!DOCTYPE html><html>", "a web page"));
        assert!(is(b"{\"error\":\"Unauthorized\"}", "a JSON"));
        assert!(is(b"\x40\0\0\0\0\0\0\0{\"a\":", "a safetensors"));
        assert!(is(b"PK\x03\x04....", "a ZIP"));
        assert_eq!(mistaken(b""), None);
        assert_eq!(mistaken(b"GGML"), None);
    }
}
