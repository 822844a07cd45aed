//! How a model with experts used them: `count[layer][expert]`, how evenly, and which ones most.
//!
//! ```text
//! p_e        = count_e / Σ count          in a layer
//! entropy    = −Σ p_e · ln p_e / ln n     1: all n experts alike; 0: always the same one
//! imbalance  = max_e count_e · n / Σ count   1: all alike; n / top_k: the same ones for every token
//! ```

use serde::Serialize;

use super::Selections;

/// Counts of the prompt's passes and of those of single tokens.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExpertUsage {
    /// Layers.
    pub layers: usize,
    /// Experts of a layer.
    pub experts: usize,
    /// Experts of a token.
    pub top_k: usize,
    /// The prompt's passes.
    pub prefill: Counts,
    /// Passes of single tokens.
    pub decode: Counts,
}

/// Tokens that went to each expert.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Counts {
    /// Selections: the sum of all counts.
    pub selections: u64,
    /// What the sum must be: `layers · tokens · top_k`, less the last layer's for tokens whose logits nobody wanted.
    pub expected: u64,
    /// Of each layer.
    pub by_layer: Vec<Layer>,
}

/// One layer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Layer {
    /// Of each expert.
    pub counts: Vec<u64>,
    /// From 0 to 1; `None` where nothing was counted.
    pub entropy: Option<f64>,
    /// From 1 up; `None` where nothing was counted.
    pub imbalance: Option<f64>,
}

/// An expert that was chosen often.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Hot {
    /// Layer, from 0.
    pub layer: usize,
    /// Expert, from 0.
    pub expert: usize,
    /// Tokens that went to it.
    pub count: u64,
    /// Their share of the tokens that the layer saw.
    pub share: f64,
}

/// Counts that do not add up, which would mean that a kernel lost or invented a selection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "experts were selected {counted} times where it must be {expected}: this is a fault in tokgate, please report it"
)]
pub struct Miscounted {
    counted: u64,
    expected: u64,
}

impl ExpertUsage {
    /// Takes counts `[layer][expert]` and holds their sums to what they must be.
    ///
    /// # Errors
    /// [`Miscounted`].
    pub fn new(
        (layers, experts, top_k): (usize, usize, usize),
        (prefill, decode): (&[u64], &[u64]),
        expected: Selections,
    ) -> Result<Self, Miscounted> {
        Ok(Self {
            layers,
            experts,
            top_k,
            prefill: Counts::new(experts, prefill, expected.prefill)?,
            decode: Counts::new(experts, decode, expected.decode)?,
        })
    }

    /// The `limit` experts with the largest share of their layer's tokens, over both phases.
    pub fn hot(&self, limit: usize) -> Vec<Hot> {
        let mut hot = Vec::new();
        let empty = Layer::new(&[]);
        for layer in 0..self.layers {
            let of = |counts: &Counts, expert: usize| {
                let layer = counts.by_layer.get(layer).unwrap_or(&empty);
                layer.counts.get(expert).copied().unwrap_or(0)
            };
            let both = |expert| of(&self.prefill, expert) + of(&self.decode, expert);
            let selections: u64 = (0..self.experts).map(both).sum();
            let tokens = selections as f64 / self.top_k as f64;
            hot.extend(
                (0..self.experts)
                    .map(both)
                    .enumerate()
                    .filter(|(_, count)| *count > 0)
                    .map(|(expert, count)| Hot {
                        layer,
                        expert,
                        count,
                        share: count as f64 / tokens,
                    }),
            );
        }
        hot.sort_by(|a, b| b.share.total_cmp(&a.share));
        hot.truncate(limit);
        hot
    }
}

impl Counts {
    fn new(experts: usize, counts: &[u64], expected: u64) -> Result<Self, Miscounted> {
        let selections = counts.iter().sum();
        if selections != expected {
            return Err(Miscounted {
                counted: selections,
                expected,
            });
        }
        Ok(Self {
            selections,
            expected,
            by_layer: counts.chunks(experts.max(1)).map(Layer::new).collect(),
        })
    }

    /// Mean over the layers that saw a token of their entropy and of their imbalance.
    pub fn means(&self) -> Option<(f64, f64)> {
        let seen = self
            .by_layer
            .iter()
            .filter_map(|layer| layer.entropy.zip(layer.imbalance));
        let seen: Vec<(f64, f64)> = seen.collect();
        let mean =
            |of: fn(&(f64, f64)) -> f64| seen.iter().map(of).sum::<f64>() / seen.len() as f64;
        (!seen.is_empty()).then(|| (mean(|pair| pair.0), mean(|pair| pair.1)))
    }

    /// Experts that no token went to.
    pub fn unused(&self) -> usize {
        let counts = self.by_layer.iter().flat_map(|layer| &layer.counts);
        counts.filter(|count| **count == 0).count()
    }
}

impl Layer {
    fn new(counts: &[u64]) -> Self {
        let sum: u64 = counts.iter().sum();
        let n = counts.len() as f64;
        let entropy = || {
            let terms = counts.iter().filter(|count| **count > 0).map(|count| {
                let p = *count as f64 / sum as f64;
                -p * p.ln()
            });
            // One expert is always as even as it can be.
            if counts.len() > 1 {
                terms.sum::<f64>() / n.ln()
            } else {
                1.0
            }
        };
        let most = counts.iter().copied().max().unwrap_or(0);
        Self {
            counts: counts.to_vec(),
            entropy: (sum > 0).then(entropy),
            imbalance: (sum > 0).then(|| most as f64 * n / sum as f64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(
        prefill: &[u64],
        decode: &[u64],
        expected: (u64, u64),
    ) -> Result<ExpertUsage, Miscounted> {
        let expected = Selections {
            prefill: expected.0,
            decode: expected.1,
        };
        ExpertUsage::new((2, 4, 2), (prefill, decode), expected)
    }

    #[test]
    fn evenness_is_told_by_layer() {
        let even = [2, 2, 2, 2];
        let same = [4, 4, 0, 0];
        let usage = usage(&[even, same].concat(), &[0; 8], (16, 0)).unwrap();
        let [even, same] = &usage.prefill.by_layer[..] else {
            panic!("two layers");
        };
        assert_eq!((even.entropy, even.imbalance), (Some(1.0), Some(1.0)));
        assert_eq!((same.entropy, same.imbalance), (Some(0.5), Some(2.0)));
        assert_eq!(usage.decode.by_layer[0].entropy, None);
        assert_eq!((usage.prefill.unused(), usage.decode.means()), (2, None));
    }

    #[test]
    fn the_hottest_experts_come_first() {
        let usage = usage(&[3, 1, 0, 0, 1, 1, 1, 1], &[1, 0, 1, 0, 0, 0, 0, 2], (8, 4)).unwrap();
        let hot = usage.hot(2);
        assert_eq!((hot[0].layer, hot[0].expert, hot[0].count), (0, 0, 4));
        assert_eq!(hot[0].share, 4.0 / 3.0);
        assert_eq!((hot[1].layer, hot[1].expert, hot[1].count), (1, 3, 3));
    }

    #[test]
    fn a_lost_selection_is_an_error() {
        let error = usage(&[1; 8], &[0; 8], (9, 0)).unwrap_err();
        assert!(error.to_string().contains("8 times where it must be 9"));
    }
}
