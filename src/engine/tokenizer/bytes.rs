//! GPT-2's alphabet: every byte as one printable character, so that a byte string is a text without spaces.
//!
//! Printable Latin-1 stands for itself; the other 68 bytes follow from U+0100 on, in order.

/// The character of each byte.
pub(super) const BYTE_TO_CHAR: [char; 256] = byte_to_char();

/// The byte of each character below U+0144.
pub(super) const CHAR_TO_BYTE: [Option<u8>; 0x144] = char_to_byte();

const fn byte_to_char() -> [char; 256] {
    let mut chars = ['\0'; 256];
    let mut next = 0x100;
    let mut byte = 0;
    while byte < 256 {
        let printable = matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let code = if printable { byte as u32 } else { next };
        if !printable {
            next += 1;
        }
        chars[byte] = match char::from_u32(code) {
            Some(c) => c,
            None => panic!("below the surrogates every number is a character"),
        };
        byte += 1;
    }
    chars
}

const fn char_to_byte() -> [Option<u8>; 0x144] {
    let mut bytes = [None; 0x144];
    let mut byte = 0;
    while byte < 256 {
        bytes[BYTE_TO_CHAR[byte] as usize] = Some(byte as u8);
        byte += 1;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_is_gpt2s() {
        assert_eq!(BYTE_TO_CHAR[b' ' as usize], 'Ġ');
        assert_eq!(BYTE_TO_CHAR[b'\n' as usize], 'Ċ');
        assert_eq!(BYTE_TO_CHAR[0xad], 'Ń');
        for byte in 0..=255u8 {
            assert_eq!(
                CHAR_TO_BYTE[BYTE_TO_CHAR[byte as usize] as usize],
                Some(byte)
            );
        }
    }
}
