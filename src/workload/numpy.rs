//! NumPy's random integers: `Generator(PCG64(seed)).integers(0, n, count)`, number for number.
//!
//! DEFINITION. Three parts, each as NumPy 1.17 and later have it:
//! ```text
//! SeedSequence   the seed as 32-bit words, hashed into a pool of four and out of it again
//! PCG64          XSL-RR 128/64 (O'Neill 2014): a 128-bit linear congruential step, then xor and rotate
//! integers       below 2³²: Lemire's multiply-and-shift on 32-bit halves, the low half of each output first;
//!                the high half is kept for the next number, over calls
//! ```
//! The tests hold values that NumPy 2.4 gave.

const INIT_A: u32 = 0x43b0_d7e5;
const MULT_A: u32 = 0x931e_8875;
const INIT_B: u32 = 0x8b51_f9dd;
const MULT_B: u32 = 0x58f3_8ded;
const MIX_LEFT: u32 = 0xca01_f9dd;
const MIX_RIGHT: u32 = 0x4973_f715;
const MULTIPLIER: u128 = 0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645;

/// `numpy.random.Generator(numpy.random.PCG64(seed))`.
#[derive(Clone, Debug)]
pub struct Generator {
    state: u128,
    increment: u128,
    /// The high half of an output whose low half was used.
    half: Option<u32>,
}

impl Generator {
    /// Starts from a seed.
    pub fn new(seed: u64) -> Self {
        let words = generate_state(&pool(seed));
        let wide = |at: usize| u128::from(words[at]) << 64 | u128::from(words[at + 1]);
        let mut generator = Self {
            state: 0,
            increment: wide(2) << 1 | 1,
            half: None,
        };
        generator.step();
        generator.state = generator.state.wrapping_add(wide(0));
        generator.step();
        generator
    }

    /// The next of `integers(0, n)`; 0 where `n` is 0 or 1, without drawing.
    pub fn below(&mut self, n: u32) -> u32 {
        if n <= 1 {
            return 0;
        }
        let mut product = u64::from(self.next_u32()) * u64::from(n);
        if (product as u32) < n {
            let threshold = n.wrapping_neg() % n;
            while (product as u32) < threshold {
                product = u64::from(self.next_u32()) * u64::from(n);
            }
        }
        (product >> 32) as u32
    }

    fn next_u32(&mut self) -> u32 {
        self.half.take().unwrap_or_else(|| {
            let output = self.next_u64();
            self.half = Some((output >> 32) as u32);
            output as u32
        })
    }

    fn next_u64(&mut self) -> u64 {
        self.step();
        let folded = (self.state >> 64) as u64 ^ self.state as u64;
        folded.rotate_right((self.state >> 122) as u32)
    }

    fn step(&mut self) {
        self.state = self
            .state
            .wrapping_mul(MULTIPLIER)
            .wrapping_add(self.increment);
    }
}

/// `SeedSequence(seed).pool`.
fn pool(seed: u64) -> [u32; 4] {
    let mut constant = INIT_A;
    let mut hash = |word: u32| hash(word, &mut constant, MULT_A);
    let mut pool = [seed as u32, (seed >> 32) as u32, 0, 0].map(&mut hash);
    for from in 0..4 {
        for to in (0..4).filter(|to| *to != from) {
            let hashed = hash(pool[from]);
            let mixed = MIX_LEFT
                .wrapping_mul(pool[to])
                .wrapping_sub(MIX_RIGHT.wrapping_mul(hashed));
            pool[to] = mixed ^ mixed >> 16;
        }
    }
    pool
}

/// `SeedSequence.generate_state(4, uint64)`: the low word of each comes first.
fn generate_state(pool: &[u32; 4]) -> [u64; 4] {
    let mut constant = INIT_B;
    let words: [u32; 8] = std::array::from_fn(|at| hash(pool[at % 4], &mut constant, MULT_B));
    std::array::from_fn(|at| u64::from(words[2 * at + 1]) << 32 | u64::from(words[2 * at]))
}

fn hash(word: u32, constant: &mut u32, factor: u32) -> u32 {
    let word = word ^ *constant;
    *constant = constant.wrapping_mul(factor);
    let word = word.wrapping_mul(*constant);
    word ^ word >> 16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(seed: u64, n: u32, count: usize) -> Vec<u32> {
        let mut generator = Generator::new(seed);
        (0..count).map(|_| generator.below(n)).collect()
    }

    /// `[int(x) for x in Generator(PCG64(seed)).integers(0, 10000, 9)]`.
    #[test]
    fn integers_are_numpys() {
        assert_eq!(
            numbers(0, 10_000, 9),
            [8506, 6369, 5111, 2697, 3078, 409, 752, 165, 1752]
        );
        assert_eq!(
            numbers(1, 10_000, 9),
            [4731, 5118, 7551, 9504, 348, 1441, 8229, 9486, 2492]
        );
        assert_eq!(
            numbers(2025001, 10_000, 9),
            [1852, 7088, 1219, 7766, 3028, 5683, 8836, 5386, 7808]
        );
        assert_eq!(
            numbers(4294967301, 10_000, 9),
            [1323, 7742, 7782, 4707, 8786, 6958, 8483, 8165, 8154]
        );
        assert_eq!(
            numbers(18446744073709551615, 10_000, 9),
            [5479, 6800, 9500, 8453, 3584, 74, 1001, 8945, 6047]
        );
    }

    /// A range just above a half of 2³² rejects nearly every second draw.
    #[test]
    fn rejection_is_numpys() {
        assert_eq!(
            numbers(7, 2147483649, 6),
            [
                1926751966, 1241873585, 1790251937, 483628757, 119253154, 644602188
            ]
        );
    }

    /// `integers(0, 10000, 3)` three times: the unused half is kept between calls.
    #[test]
    fn an_odd_number_of_draws_leaves_a_half_for_the_next_call() {
        assert_eq!(
            numbers(11, 10_000, 9),
            [1338, 1285, 7970, 4992, 5900, 6014, 7121, 286, 4855]
        );
    }

    #[test]
    fn a_range_of_one_draws_nothing() {
        let mut generator = Generator::new(3);
        assert_eq!((generator.below(1), generator.below(0)), (0, 0));
        assert_eq!(generator.below(10_000), numbers(3, 10_000, 1)[0]);
    }
}
