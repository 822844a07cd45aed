//! The Mersenne Twister MT19937 (Matsumoto and Nishimura 1998), on which CPython's `random` and NumPy's legacy
//! `numpy.random` stand, with the two ways of seeding that these use.

const N: usize = 624;
const M: usize = 397;

/// The generator.
#[derive(Clone, Debug)]
pub struct Mersenne {
    state: [u32; N],
    at: usize,
}

impl Mersenne {
    /// `init_genrand`: what `numpy.random.seed(seed)` does.
    pub fn of_word(seed: u32) -> Self {
        let mut state = [seed; N];
        for at in 1..N {
            let last = state[at - 1];
            state[at] = 1_812_433_253_u32
                .wrapping_mul(last ^ last >> 30)
                .wrapping_add(at as u32);
        }
        Self { state, at: N }
    }

    /// `init_by_array`: what CPython's `random.seed(seed)` does with the 32-bit words of an integer, the low one first.
    pub fn of_words(words: &[u32]) -> Self {
        let words = if words.is_empty() { &[0][..] } else { words };
        let Self { mut state, .. } = Self::of_word(19_650_218);
        let mut at = 1;
        let mut step = |factor: u32, add: &dyn Fn(usize) -> u32| {
            let last = state[at - 1];
            let mixed = (last ^ last >> 30).wrapping_mul(factor);
            state[at] = (state[at] ^ mixed).wrapping_add(add(at));
            at += 1;
            if at == N {
                state[0] = state[N - 1];
                at = 1;
            }
        };
        for round in 0..N.max(words.len()) {
            let word = round % words.len();
            step(1_664_525, &|_| words[word].wrapping_add(word as u32));
        }
        for _ in 1..N {
            step(1_566_083_941, &|at| (at as u32).wrapping_neg());
        }
        state[0] = 1 << 31;
        Self { state, at: N }
    }

    /// The next 32 bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.at == N {
            self.twist();
        }
        let mut word = self.state[self.at];
        self.at += 1;
        word ^= word >> 11;
        word ^= word << 7 & 0x9d2c_5680;
        word ^= word << 15 & 0xefc6_0000;
        word ^ word >> 18
    }

    /// The next number of [0, 1) with 53 bits (`genrand_res53`).
    pub fn next_f64(&mut self) -> f64 {
        let (high, low) = (self.next_u32() >> 5, self.next_u32() >> 6);
        (f64::from(high) * 67_108_864.0 + f64::from(low)) / 9_007_199_254_740_992.0
    }

    fn twist(&mut self) {
        for at in 0..N {
            let mixed = self.state[at] & 1 << 31 | self.state[(at + 1) % N] & !(1 << 31);
            let odd = if mixed & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[at] = self.state[(at + M) % N] ^ mixed >> 1 ^ odd;
        }
        self.at = 0;
    }
}
