//! Text to tokens and back, and chat templates.
#![forbid(unsafe_code)]
