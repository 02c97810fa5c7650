//! Paged key-value cache: block bookkeeping and storage.
