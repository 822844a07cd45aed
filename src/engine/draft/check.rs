//! Which guesses stand.

/// Draws a token from each of `rows`, the logits behind the last token and behind each guess, until one is drawn that
/// was not guessed, or until `draw` says that the text ends there. Returns how many guesses stood.
///
/// # Errors
/// What `draw` says.
pub fn check<'r, E>(
    draft: &[u32],
    rows: impl IntoIterator<Item = &'r [f32]>,
    mut draw: impl FnMut(&'r [f32]) -> Result<(u32, bool), E>,
) -> Result<usize, E> {
    for (at, logits) in rows.into_iter().enumerate() {
        let (token, is_end) = draw(logits)?;
        let stands = draft.get(at) == Some(&token);
        if !stands || is_end {
            return Ok(at + usize::from(stands));
        }
    }
    Ok(draft.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::sampler::{Sampler, SamplerParams};

    /// A model of four tokens, each of which says how likely the next ones are.
    const CHAIN: [[f32; 4]; 4] = [
        [0.1, 0.6, 0.2, 0.1],
        [0.25, 0.25, 0.4, 0.1],
        [0.7, 0.1, 0.1, 0.1],
        [0.05, 0.05, 0.1, 0.8],
    ];

    fn sampler(seed: u64) -> Sampler {
        Sampler::new(SamplerParams {
            temperature: 1.0,
            seed,
            ..SamplerParams::default()
        })
        .unwrap()
    }

    /// `n` tokens of the chain, with guesses of up to `most` tokens that `guess` makes of the last one; and how many
    /// guesses stood.
    fn generate(n: usize, most: usize, guess: impl Fn(u32) -> u32) -> (Vec<u32>, usize) {
        let logits = CHAIN.map(|row| row.map(f32::ln));
        let mut sampler = sampler(5);
        let mut text = vec![0];
        let mut accepted = 0;
        while text.len() <= n {
            let mut draft = Vec::new();
            let mut last = text[text.len() - 1];
            let rows = std::iter::once(&logits[last as usize][..]);
            for _ in 0..most {
                last = guess(last);
                draft.push(last);
            }
            let rows = rows.chain(draft.iter().map(|&token| &logits[token as usize][..]));
            let rows: Vec<&[f32]> = rows.collect();
            accepted += check(&draft, rows, |logits| {
                let token = sampler.sample(logits)?;
                text.push(token);
                Ok::<_, crate::engine::sampler::SamplerError>((token, false))
            })
            .unwrap();
        }
        (text, accepted)
    }

    #[test]
    fn what_is_guessed_changes_no_draw() {
        let (plain, none) = generate(2000, 0, |_| 0);
        assert_eq!(none, 0);
        for most in [1, 3, 8] {
            let good = generate(2000, most, |last| [1, 2, 0, 3][last as usize]);
            let bad = generate(2000, most, |last| [3, 3, 1, 0][last as usize]);
            assert_eq!(good.0[..2000], plain[..2000]);
            assert_eq!(bad.0[..2000], plain[..2000]);
            assert!(good.1 > 3 * bad.1, "{} {}", good.1, bad.1);
        }
    }

    /// The statistic is χ² with 3 degrees of freedom for each token; 21.1 is its quantile at 0.9999. The seed is fixed,
    /// so that this cannot flicker.
    #[test]
    fn sampled_text_has_the_models_distribution_whatever_is_guessed() {
        for (most, shift) in [(2, 1), (5, 0), (5, 2)] {
            let (text, _) = generate(40_000, most, |last| (last + shift) % 4);
            for (from, row) in CHAIN.iter().enumerate() {
                let mut counts = [0.0; 4];
                for pair in text.windows(2).filter(|pair| pair[0] as usize == from) {
                    counts[pair[1] as usize] += 1.0;
                }
                let n: f64 = counts.iter().sum();
                let terms = counts.iter().zip(row).map(|(count, &p)| {
                    let expected = n * f64::from(p);
                    (count - expected).powi(2) / expected
                });
                let statistic: f64 = terms.sum();
                assert!(statistic < 21.1, "{most} {shift} {from}: {statistic}");
            }
        }
    }

    #[test]
    fn a_text_that_ends_is_not_drawn_on() {
        let rows = [&[0.0_f32][..]; 4];
        let mut drawn = 0;
        let accepted = check(&[7, 7, 7], rows, |_| {
            drawn += 1;
            Ok::<_, ()>((7, drawn == 2))
        });
        assert_eq!((accepted, drawn), (Ok(2), 2));
        assert_eq!(check(&[7], rows, |_| Err(())), Err(()));
    }
}
