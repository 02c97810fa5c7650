//! Model files: untrusted bytes in, validated views out.
#![forbid(unsafe_code)]
