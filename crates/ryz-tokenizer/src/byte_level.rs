//! GPT-2's alphabet: a printable character for each byte, so that byte-level BPE can work on text.
//!
//! The bytes `!`–`~`, `¡`–`¬` and `®`–`ÿ` stand for themselves; the other 68, in order, are U+0100 to U+0143.

/// The character of each byte.
pub(crate) const CHARS: [char; 256] = chars();

/// The byte of each character below U+0144, or -1.
const BYTES: [i16; 0x144] = bytes();

const fn chars() -> [char; 256] {
    let mut table = ['\0'; 256];
    let mut next = 0x100;
    let mut byte = 0;
    while byte < 256 {
        let own = matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
        let code = if own { byte } else { next };
        if !own {
            next += 1;
        }
        table[byte as usize] = match char::from_u32(code) {
            Some(char) => char,
            None => panic!("codes below U+0144 are characters"),
        };
        byte += 1;
    }
    table
}

const fn bytes() -> [i16; 0x144] {
    let mut table = [-1; 0x144];
    let mut byte = 0;
    while byte < 256 {
        table[CHARS[byte] as usize] = byte as i16;
        byte += 1;
    }
    table
}

/// The byte that a character stands for.
pub(crate) fn byte_of(char: char) -> Option<u8> {
    BYTES
        .get(char as usize)
        .and_then(|&byte| u8::try_from(byte).ok())
}

/// Appends the characters of bytes.
pub(crate) fn push_chars(bytes: &[u8], out: &mut String) {
    out.extend(bytes.iter().map(|&byte| CHARS[byte as usize]));
}

/// Appends the bytes of a token's text; a character outside the alphabet stands for its own UTF-8.
pub(crate) fn push_bytes(text: &str, out: &mut Vec<u8>) {
    for char in text.chars() {
        match byte_of(char) {
            Some(byte) => out.push(byte),
            None => out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_characters_and_all_bytes_round_trip() {
        assert_eq!(CHARS[b' ' as usize], 'Ġ');
        assert_eq!(CHARS[b'\n' as usize], 'Ċ');
        assert_eq!(CHARS[0], 'Ā');
        assert_eq!(CHARS[0xAD], '\u{143}');
        assert_eq!(CHARS[0xFF], 'ÿ');
        let all: Vec<u8> = (0..=255).collect();
        let (mut text, mut back) = (String::new(), Vec::new());
        push_chars(&all, &mut text);
        push_bytes(&text, &mut back);
        assert_eq!(back, all);
        assert_eq!(byte_of('世'), None);
    }
}
