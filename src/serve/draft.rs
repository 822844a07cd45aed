//! Guessing the next tokens from the text itself, so that one pass can check several.
//!
//! EXACT. A pass computes the logits behind each guessed token, and the sampler draws from each row as it would have
//! done one token at a time. A guess stands if it is what was drawn; the first that is not is replaced by what was
//! drawn, and the rest is forgotten. The tokens are therefore the same, draw for draw, with guesses and without
//! (beyond the order of additions within a pass): greedy output is identical, and sampled output has the same
//! distribution, whatever is guessed.

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

/// How many tokens to guess: more after guesses that all stood, fewer after wrong ones, and none for a while, each time
/// longer, where nothing stands. Text that cannot be guessed thus costs a few wider passes and no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    most: usize,
    length: usize,
    pause: usize,
    misses: u32,
}

/// A first guess is short: on CPUs a pass of a few rows costs little more than one of a single row.
const FIRST: usize = 3;

/// The longest pause is 2 to this power tokens.
const LONGEST_PAUSE: u32 = 8;

impl Pace {
    /// Guesses of at most `most` tokens; 0 for none at all.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            length: FIRST.min(most),
            pause: 0,
            misses: 0,
        }
    }

    /// Tokens to guess before the next pass.
    pub fn next(&mut self) -> usize {
        if self.pause > 0 {
            self.pause -= 1;
            return 0;
        }
        self.length
    }

    /// Learns that of `drafted` tokens, at least 1, the first `accepted` stood.
    pub fn learn(&mut self, drafted: usize, accepted: usize) {
        if accepted == 0 {
            self.misses = (self.misses + 1).min(LONGEST_PAUSE);
            self.pause = 1 << self.misses;
            self.length = (self.length / 2).max(1).min(self.most);
        } else {
            self.misses = 0;
            let length = if accepted == drafted {
                2 * self.length
            } else {
                accepted + 1
            };
            self.length = length.min(self.most);
        }
    }
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

    #[test]
    fn a_text_that_cannot_be_guessed_is_left_alone() {
        let mut pace = Pace::new(8);
        let mut guesses = 0;
        for _ in 0..1000 {
            if pace.next() > 0 {
                guesses += 1;
                pace.learn(1, 0);
            }
        }
        assert!(guesses <= 12, "{guesses}");
        pace.learn(1, 1);
        assert_eq!((pace.length, pace.misses), (2, 0));
        pace.learn(2, 2);
        pace.learn(4, 4);
        pace.learn(8, 8);
        assert_eq!(pace.length, 8);
        assert_eq!(Pace::new(0).next(), 0);
    }
}
