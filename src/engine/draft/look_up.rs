//! Guesses from the text itself.

/// Lengths of endings that are looked up, longest first: two tokens in common are chance in most texts.
const ENDINGS: std::ops::RangeInclusive<usize> = 3..=5;

/// What followed the last time that the text had its present ending, at most `most` tokens.
pub fn look_up(tokens: &[u32], most: usize) -> &[u32] {
    for length in ENDINGS.rev() {
        let Some(start) = tokens.len().checked_sub(length) else {
            continue;
        };
        let ending = &tokens[start..];
        let found = (0..start)
            .rev()
            .find(|&at| tokens[at..at + length] == *ending);
        if let Some(at) = found {
            let follows = &tokens[at + length..];
            return &follows[..follows.len().min(most)];
        }
    }
    &[]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_and_latest_ending_is_followed() {
        assert_eq!(look_up(&[1, 2, 3, 7, 8, 9, 1, 2, 3], 2), [7, 8]);
        assert_eq!(look_up(&[1, 2, 3, 7, 1, 2, 3, 8, 1, 2, 3], 9), [8, 1, 2, 3]);
        assert_eq!(look_up(&[9, 1, 2, 3, 7, 5, 1, 2, 3, 8, 9, 1, 2, 3], 1), [7]);
        assert!(look_up(&[1, 2, 3, 4, 2, 3], 4).is_empty());
        assert!(look_up(&[], 4).is_empty());
        // An ending may overlap itself.
        assert_eq!(look_up(&[5, 5, 5, 5], 4), [5]);
    }
}
