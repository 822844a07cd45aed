//! How much to guess, so that guessing never costs much more than it brings.
//!
//! DEFINITION. The unit is a token that is generated without guesses: one pass. A text's account gets each guess that
//! stood, pays what guessing and the wider pass took beyond a plain pass, and gets `ALLOWANCE` for every token. There are
//! guesses while the account is above zero. So over n tokens the loss is at most `FIRST + ALLOWANCE · n`, and one round:
//! after the first texts, some 1.5 %. What guessing wins is its own; of it, at most `MOST` is kept to be lost again.
//!
//! The length is the one that promises most tokens for its time, by how often guesses stood of late and by what guesses
//! of that length cost: `(1 + a + … + aᵏ) / (1 + cost(k))` is largest. A length that was not tried yet is taken to cost
//! in proportion to the next shorter one that was, and what is known of lengths that are not used any more fades towards
//! that. What a draft model takes to catch up with a text, such as to read its prompt, is paid, and says nothing of any
//! length. Rows beyond the first are nearly free where memory is the limit, and
//! dear where few cores share much bandwidth, so that no length is right everywhere.

/// What a text may lose to guesses, as a share of its tokens.
const ALLOWANCE: f32 = 0.015;

/// What the account begins with: enough to let a draft model read a prompt of some hundred tokens.
const FIRST: f32 = 3.0;

/// The most that the account holds.
const MOST: f32 = 8.0;

/// The most that it owes: a clock that jumped must not forbid guesses for ever.
const LEAST: f32 = -4.0;

/// Tokens of the first guess.
const FIRST_LENGTH: usize = 2;

/// How often guesses are taken to stand before the first.
const FIRST_CHANCE: f32 = 0.7;

/// What the last guess counts for in the averages.
const WEIGHT: f32 = 0.1;

/// How fast a cost that is out of proportion to that of the length in use fades: one that was measured in a bad moment
/// would keep its length from being tried again.
const FADE: f32 = 0.02;

/// How many tokens to guess for the texts of one slot.
#[derive(Clone, Debug, PartialEq)]
pub struct Pace {
    account: f32,
    /// How often a guessed token stood, if those before it did.
    chance: f32,
    /// What guesses cost, by their tokens; none are known at first.
    costs: Vec<Option<f32>>,
}

impl Pace {
    /// Guesses of at most `most` tokens; 0 for none at all.
    pub fn new(most: usize) -> Self {
        Self {
            account: FIRST,
            chance: FIRST_CHANCE,
            costs: vec![None; most + 1],
        }
    }

    /// Tokens to guess before the next pass.
    pub fn next(&self) -> usize {
        let most = self.costs.len() - 1;
        if self.account <= 0.0 || most == 0 {
            return 0;
        }
        if self.costs[1..].iter().all(Option::is_none) {
            return FIRST_LENGTH.min(most);
        }
        let mut best = (0.0, 1);
        let (mut tokens, mut stands) = (1.0, 1.0);
        // The last length whose cost is known, and the cost of a token there.
        let mut each = None;
        for (length, cost) in self.costs.iter().enumerate().skip(1) {
            stands *= self.chance;
            tokens += stands;
            if let Some(cost) = cost {
                each = Some(cost / length as f32);
            }
            // What is shorter than all that was tried costs as much as the shortest that was, or less.
            let each = each.or_else(|| {
                let known = self.costs.iter().enumerate().skip(length);
                let mut known = known.filter_map(|(at, cost)| Some((*cost)? / at as f32));
                known.next()
            });
            let worth = tokens / (1.0 + each.unwrap_or(0.0) * length as f32);
            // A little more is not worth a longer guess, and what is not known is not trusted far.
            if worth > 1.01 * best.0 {
                best = (worth, length);
            }
        }
        best.1
    }

    /// Learns that a pass brought so many tokens.
    pub fn earn(&mut self, tokens: usize) {
        self.account = (self.account + ALLOWANCE * tokens as f32).min(MOST);
    }

    /// Learns that of `drafted` tokens the first `accepted` stood, which took so many plain passes more than none;
    /// `caught_up` if that was not for the guess alone.
    pub fn learn(&mut self, drafted: usize, accepted: usize, cost: f32, caught_up: bool) {
        let cost = cost.max(0.0);
        self.account = (self.account + accepted as f32 - cost).clamp(LEAST, MOST);
        for stood in (0..drafted.min(accepted + 1)).map(|at| at < accepted) {
            let one = if stood { 1.0 } else { 0.0 };
            self.chance += WEIGHT * (one - self.chance);
        }
        if caught_up || drafted == 0 {
            return;
        }
        let at = drafted.min(self.costs.len() - 1);
        let mean = self.costs[at].get_or_insert(cost);
        // A pass that took long because something else ran says nothing.
        *mean += WEIGHT * (cost.min(2.0 * *mean + 0.1) - *mean);
        let each = *mean / at as f32;
        for (length, cost) in self.costs.iter_mut().enumerate().skip(1) {
            if let Some(cost) = cost {
                *cost -= FADE * (*cost - each * length as f32).max(0.0);
            }
        }
    }
}

/// Passes with guesses between two that are plain, so that what one takes stays known.
const REFRESH: u32 = 64;

/// How many more of these may have been all wrong than right. A plain pass costs nothing where guesses are in vain, and
/// one that was measured in a slow moment makes them look free for as long as it is believed.
const IN_VAIN: u32 = 3;

/// Plain passes that are remembered.
const REMEMBERED: usize = 5;

/// What passes take, by how many texts they continue.
#[derive(Clone, Debug, Default)]
pub struct Costs {
    plain: Vec<Plain>,
}

/// What plain passes took.
#[derive(Clone, Debug, Default)]
struct Plain {
    /// Seconds of the last ones, the oldest first.
    seconds: Vec<f64>,
    /// Passes with guesses since.
    since: u32,
    /// How many more of these were in vain than not.
    in_vain: u32,
}

impl Plain {
    /// Seconds of a plain pass. The median does not know those that something else held up, and the last one knows first
    /// when the machine has become faster.
    fn seconds(&self) -> Option<f64> {
        let mut sorted = self.seconds.clone();
        sorted.sort_by(f64::total_cmp);
        let median = sorted.get(sorted.len() / 2)?;
        Some(median.min(*self.seconds.last()?))
    }
}

impl Costs {
    /// Whether a pass for `texts` texts may have guesses, because it is known what it takes without.
    pub fn is_known(&self, texts: usize) -> bool {
        self.plain.get(texts).is_some_and(|plain| {
            !plain.seconds.is_empty() && plain.since < REFRESH && plain.in_vain < IN_VAIN
        })
    }

    /// Learns what a pass without guesses took.
    pub fn plain(&mut self, texts: usize, seconds: f64) {
        if self.plain.len() <= texts {
            self.plain.resize(texts + 1, Plain::default());
        }
        let plain = &mut self.plain[texts];
        if plain.seconds.len() == REMEMBERED {
            plain.seconds.remove(0);
        }
        plain.seconds.push(seconds);
        (plain.since, plain.in_vain) = (0, 0);
    }

    /// What a pass with guesses, of which so many stood, and guessing cost beyond a plain pass, in tokens: all texts
    /// waited for it.
    pub fn extra(&mut self, texts: usize, stood: usize, seconds: f64) -> f64 {
        let Some(plain) = self.plain.get_mut(texts) else {
            return 0.0;
        };
        plain.since += 1;
        plain.in_vain = match stood {
            0 => plain.in_vain + 1,
            _ => plain.in_vain.saturating_sub(1),
        };
        match plain.seconds() {
            Some(alone) if alone > 0.0 => (seconds - alone).max(0.0) / alone * texts as f64,
            _ => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tokens that 10,000 plain passes' time brings, where a guess stands with `chance`, a guessed token costs `each`,
    /// and a wider pass `wider`.
    fn tokens(chance: f64, each: f64, wider: f64) -> f64 {
        let mut pace = Pace::new(24);
        let mut word = 1_u64;
        let mut stands = || {
            word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (word >> 11) as f64 / (1_u64 << 53) as f64 <= chance
        };
        let (mut time, mut tokens) = (0.0, 0.0);
        while time < 10_000.0 {
            let drafted = pace.next();
            let accepted = (0..drafted).take_while(|_| stands()).count();
            let cost = if drafted > 0 {
                each * drafted as f64 + wider
            } else {
                0.0
            };
            time += 1.0 + cost;
            tokens += 1.0 + accepted as f64;
            pace.earn(1 + accepted);
            if drafted > 0 {
                pace.learn(drafted, accepted, cost as f32, false);
            }
        }
        tokens
    }

    /// By how much longer 2,000 tokens take of which no guess stands, where times swing between two speeds and some passes
    /// are held up, than they take without guesses in the same times.
    fn loss_in_noise(each: f64, wider: f64, seed: u64) -> f64 {
        let (mut pace, mut costs) = (Pace::new(24), Costs::default());
        let mut word = seed;
        let mut uniform = || {
            word = word
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (word >> 11) as f64 / (1_u64 << 53) as f64
        };
        let (mut slow, mut time, mut without) = (false, 0.0, 0.0);
        for _ in 0..2_000 {
            slow ^= uniform() < 0.05;
            let jitter = 1.0 + 0.04 * (uniform() - 0.5);
            let held_up = if uniform() < 0.03 {
                1.0 + 3.0 * uniform()
            } else {
                0.0
            };
            let speed = jitter * if slow { 1.4 } else { 1.0 };
            let drafted = if costs.is_known(1) { pace.next() } else { 0 };
            let cost = match drafted {
                0 => 0.0,
                _ => each * drafted as f64 + wider,
            };
            let took = (1.0 + cost) * speed + held_up;
            time += took;
            without += speed + held_up;
            pace.earn(1);
            if drafted == 0 {
                costs.plain(1, took);
            } else {
                pace.learn(drafted, 0, costs.extra(1, 0, took) as f32, false);
            }
        }
        time / without - 1.0
    }

    #[test]
    fn noise_does_not_make_vain_guesses_look_free() {
        for each in [0.02, 0.05, 0.1, 0.2, 0.5] {
            for wider in [0.0, 0.1, 0.3] {
                let losses = (1..=40).map(|seed| loss_in_noise(each, wider, seed));
                let losses: Vec<f64> = losses.collect();
                let mean = losses.iter().sum::<f64>() / losses.len() as f64;
                let most = losses.iter().copied().fold(0.0, f64::max);
                assert!(
                    mean < 0.016 && most < 0.022,
                    "{each} {wider}: {mean} {most}"
                );
            }
        }
    }

    #[test]
    fn nothing_accepted_costs_little_and_much_accepted_pays() {
        for each in [0.05, 0.2, 1.0] {
            for wider in [0.0, 0.3, 2.0] {
                let loss = 1.0 - tokens(0.0, each, wider) / 10_000.0;
                assert!((0.0..0.018).contains(&loss), "{each} {wider}: {loss}");
            }
        }
        // Where a guess costs more than it can bring, the account stops it although all stand.
        assert!(tokens(1.0, 1.5, 0.0) > 9_800.0);
        assert!(tokens(0.8, 0.05, 0.2) > 20_000.0);
        assert!(tokens(1.0, 0.05, 0.2) > 60_000.0);
        // Few cores and fair guesses: short ones pay, long ones would not.
        assert!(tokens(0.5, 0.4, 0.0) > 10_200.0);
    }

    #[test]
    fn neither_a_prompt_nor_a_bad_moment_keeps_good_lengths_away() {
        let mut pace = Pace::new(8);
        // Reading the prompt takes three passes.
        pace.learn(2, 2, 3.0, true);
        pace.learn(2, 2, 0.3, false);
        // What a longer one is worth was measured while something else ran.
        pace.learn(3, 3, 2.0, false);
        let mut longest = 0;
        for _ in 0..400 {
            let drafted = pace.next();
            longest = longest.max(drafted);
            pace.earn(1 + drafted);
            pace.learn(drafted, drafted, 0.15 * drafted as f32, false);
        }
        assert_eq!(longest, 8);
    }

    #[test]
    fn no_guesses_are_none() {
        let mut pace = Pace::new(0);
        assert_eq!(pace.next(), 0);
        pace.learn(0, 0, 0.0, false);
        assert_eq!(pace.next(), 0);
    }

    #[test]
    fn costs_are_told_beside_plain_passes() {
        let mut costs = Costs::default();
        assert!(!costs.is_known(2));
        costs.plain(2, 1.0);
        assert!(costs.is_known(2) && !costs.is_known(1));
        // Half a pass more, for two texts: a token.
        assert_eq!(costs.extra(2, 1, 1.5), 1.0);
        assert_eq!(costs.extra(2, 1, 0.5), 0.0);
        for _ in 2..REFRESH {
            costs.extra(2, 1, 1.0);
        }
        assert!(!costs.is_known(2));
        // One that was held up is not believed, and a faster one at once.
        costs.plain(2, 1.0);
        costs.plain(2, 1e9);
        assert_eq!(costs.extra(2, 0, 2.0), 2.0);
        assert!(costs.is_known(2));
        costs.plain(2, 0.5);
        for _ in 0..IN_VAIN {
            assert!(costs.is_known(2));
            assert_eq!(costs.extra(2, 0, 1.0), 2.0);
        }
        assert!(!costs.is_known(2));
    }
}
