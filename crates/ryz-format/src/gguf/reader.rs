//! A cursor over a prefix of a file with known total length.

use crate::FormatError;

/// Reads little-endian values. Data past the prefix but inside the file gives `Incomplete`; data
/// past the end of the file gives `Truncated`.
pub(super) struct Reader<'a> {
    prefix: &'a [u8],
    file_len: u64,
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(prefix: &'a [u8], file_len: u64) -> Reader<'a> {
        let known = usize::try_from(file_len).map_or(prefix.len(), |len| prefix.len().min(len));
        Reader {
            prefix: &prefix[..known],
            file_len,
            at: 0,
        }
    }

    /// The file offset of the next byte.
    pub(super) fn offset(&self) -> u64 {
        self.at as u64
    }

    /// Checks that the file has `bytes` more bytes, in the prefix or after it.
    pub(super) fn require(&self, what: &str, bytes: u64) -> Result<(), FormatError> {
        let got = self.file_len - self.offset();
        if bytes > got {
            return Err(FormatError::Truncated {
                what: what.to_owned(),
                offset: self.offset(),
                expected: bytes,
                got,
            });
        }
        Ok(())
    }

    /// The next `bytes` bytes.
    pub(super) fn take(&mut self, what: &str, bytes: u64) -> Result<&'a [u8], FormatError> {
        self.require(what, bytes)?;
        let needed = self.offset() + bytes;
        if needed > self.prefix.len() as u64 {
            return Err(FormatError::Incomplete {
                needed,
                got: self.prefix.len() as u64,
            });
        }
        let taken = &self.prefix[self.at..needed as usize];
        self.at = needed as usize;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], FormatError> {
        let bytes = self.take(what, N as u64)?;
        Ok(*bytes.first_chunk().expect("N bytes were taken"))
    }

    pub(super) fn u8(&mut self, what: &str) -> Result<u8, FormatError> {
        Ok(self.array::<1>(what)?[0])
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32, FormatError> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64, FormatError> {
        self.array(what).map(u64::from_le_bytes)
    }

    pub(super) fn bytes<const N: usize>(&mut self, what: &str) -> Result<[u8; N], FormatError> {
        self.array(what)
    }

    /// A length followed by that many bytes of UTF-8.
    pub(super) fn string(&mut self, what: &str) -> Result<&'a str, FormatError> {
        let len = self.u64(what)?;
        let offset = self.offset();
        let bytes = self.take(what, len)?;
        std::str::from_utf8(bytes).map_err(|_| FormatError::BadText {
            what: what.to_owned(),
            offset,
            expected: "UTF-8",
        })
    }

    /// A name: a string of 1 to `limit` bytes.
    pub(super) fn name(&mut self, what: &str, limit: u64) -> Result<&'a str, FormatError> {
        let offset = self.offset();
        let len = self.u64(what)?;
        if len > limit {
            return Err(FormatError::LimitExceeded {
                what: what.to_owned(),
                limit,
                got: len,
            });
        }
        if len == 0 {
            return Err(FormatError::BadText {
                what: what.to_owned(),
                offset,
                expected: "at least one byte long",
            });
        }
        self.at -= 8;
        self.string(what)
    }

    /// A copy of the cursor, for reading ahead.
    pub(super) fn fork(&self) -> Reader<'a> {
        Reader { ..*self }
    }
}
