//! CPython's `random`: `random.seed(n)` for an integer, `random.shuffle`, `random.choice`, number for number.
//!
//! DEFINITION, as CPython 3.2 and later have it (`Lib/random.py`, `_randommodule.c`):
//! ```text
//! seed(n)         MT19937's init_by_array of |n| as 32-bit words, the low one first
//! getrandbits(k)  the next 32 bits, shifted right by 32 − k                                  (k ≤ 32)
//! _randbelow(n)   k = n.bit_length(); getrandbits(k) until it is below n
//! shuffle(x)      for i = len − 1 down to 1: exchange x[i] with x[_randbelow(i + 1)]
//! choice(x)       x[_randbelow(len)]
//! ```
//! The tests hold values that CPython 3.11 gave.

use super::mersenne::Mersenne;

/// `random.Random(seed)`.
#[derive(Clone, Debug)]
pub struct Random(Mersenne);

impl Random {
    /// Starts from a seed.
    pub fn new(seed: u64) -> Self {
        let words = [seed as u32, (seed >> 32) as u32];
        let used = if words[1] == 0 { 1 } else { 2 };
        Self(Mersenne::of_words(&words[..used]))
    }

    /// `random.shuffle(list)`.
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for at in (1..list.len()).rev() {
            let other = self.below(at as u64 + 1) as usize;
            list.swap(at, other);
        }
    }

    /// `random.choice(list)`; `None` for an empty one.
    pub fn choice<'a, T>(&mut self, list: &'a [T]) -> Option<&'a T> {
        match list.len() {
            0 => None,
            len => list.get(self.below(len as u64) as usize),
        }
    }

    /// `_randbelow(n)`; `n` is at least 1.
    fn below(&mut self, n: u64) -> u64 {
        let bits = u64::BITS - n.leading_zeros();
        loop {
            let number = self.bits(bits);
            if number < n {
                return number;
            }
        }
    }

    /// `getrandbits(count)`, the low word first.
    fn bits(&mut self, count: u32) -> u64 {
        if count <= 32 {
            return u64::from(self.0.next_u32() >> (32 - count));
        }
        let low = u64::from(self.0.next_u32());
        low | u64::from(self.0.next_u32() >> (64 - count)) << 32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shuffles_and_choices_are_cpythons() {
        let cases: [(u64, [u32; 12], u32, u32); 4] = [
            (0, [1, 9, 8, 5, 10, 2, 3, 7, 4, 0, 11, 6], 516, 1),
            (1, [7, 11, 0, 8, 5, 6, 3, 10, 4, 1, 9, 2], 499, 0),
            (42, [7, 5, 2, 8, 9, 6, 11, 3, 4, 0, 1, 10], 32, 0),
            // A seed of two words.
            (
                (1 << 40) + 5,
                [3, 5, 2, 9, 6, 7, 1, 10, 0, 4, 11, 8],
                253,
                5,
            ),
        ];
        for (seed, shuffled, of_1000, of_7) in cases {
            let mut random = Random::new(seed);
            let mut list: Vec<u32> = (0..12).collect();
            random.shuffle(&mut list);
            assert_eq!(list, shuffled, "seed {seed}");
            let many: Vec<u32> = (0..1000).collect();
            assert_eq!(random.choice(&many), Some(&of_1000), "seed {seed}");
            assert_eq!(random.choice(&many[..7]), Some(&of_7), "seed {seed}");
        }
        assert_eq!(Random::new(0).choice::<u8>(&[]), None);
    }

    #[test]
    fn long_lists_need_a_second_twist() {
        let mut list: Vec<u32> = (0..3000).collect();
        Random::new(1).shuffle(&mut list);
        assert_eq!(list[..8], [1963, 2657, 2056, 5, 1327, 2359, 2484, 2684]);
        assert_eq!(list[2997..], [258, 2331, 550]);
    }
}
