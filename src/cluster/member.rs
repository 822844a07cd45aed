//! One rank of a cluster: its part of the model, and passes that all ranks make together.

use tokgate_kernels::{DType, Runtime};

use super::exchange::{Exchange, Joiner, Purpose};
use super::network::CANDIDATE_BYTES;
use super::plan::Plan;
use super::wire::Lost;
use crate::engine::config::ModelConfig;
use crate::engine::forward::{BuildError, Chunk, ForwardError, LogitRows, Model, Work};
use crate::engine::kv_cache::{KvCache, KvCacheError};
use crate::engine::mapping;
use crate::engine::weights::ModelWeights;

/// Why ranks cannot go on together.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    /// See [`Lost`].
    #[error(transparent)]
    Lost(#[from] Lost),
    /// See [`ForwardError`].
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// See [`KvCacheError`].
    #[error(transparent)]
    Cache(#[from] KvCacheError),
    /// See [`BuildError`].
    #[error(transparent)]
    Build(#[from] BuildError),
}

/// A rank that is ready to compute.
pub struct Member<'m, 'w> {
    model: Model,
    plan: &'m Plan,
    rt: &'m Runtime,
    exchange: &'m mut Exchange<'w>,
    cache: KvCache,
    /// Of this rank's part of the vocabulary.
    logits: Vec<f32>,
    /// Rows of them.
    rows: usize,
    /// What was computed by this rank.
    pub work: Work,
}

impl<'m, 'w> Member<'m, 'w> {
    /// Cuts this rank's part out of the model, and claims its cache for `positions`.
    ///
    /// # Errors
    /// [`MemberError`] if the model makes no sense or there is no memory for the cache.
    pub fn new(
        config: &ModelConfig,
        weights: &ModelWeights,
        plan: &'m Plan,
        rt: &'m Runtime,
        exchange: &'m mut Exchange<'w>,
        kv: DType,
        positions: usize,
    ) -> Result<Self, MemberError> {
        let model = Model::part(config, weights, &plan.parts[exchange.rank()])?;
        let cache = KvCache::new(model.config(), kv, positions)?;
        Ok(Self {
            model,
            plan,
            rt,
            exchange,
            cache,
            logits: Vec::new(),
            rows: 0,
            work: Work::default(),
        })
    }

    /// This rank's part of the model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// What the ranks meet over.
    pub fn exchange(&mut self) -> &mut Exchange<'w> {
        self.exchange
    }

    /// Positions in the cache.
    pub fn len(&self) -> usize {
        self.cache.len()
    }

    /// Whether the cache is empty.
    pub fn is_empty(&self) -> bool {
        self.cache.is_empty()
    }

    /// Forgets all positions from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.cache.truncate(len);
    }

    /// One pass: rank 0 says which tokens, as many as every rank expects.
    ///
    /// # Errors
    /// [`MemberError`]; it names the rank that is to blame, if one is.
    pub fn pass(&mut self, tokens: &mut [u32], rows: LogitRows) -> Result<(), MemberError> {
        let mut bytes: Vec<u8> = tokens.iter().flat_map(|t| t.to_le_bytes()).collect();
        self.exchange.broadcast(Purpose::Tokens, &mut bytes)?;
        for (token, bytes) in tokens.iter_mut().zip(bytes.as_chunks().0) {
            *token = u32::from_le_bytes(*bytes);
        }
        self.local_pass(tokens, rows)
    }

    /// [`Member::pass`] of tokens that all ranks know already.
    ///
    /// # Errors
    /// See there.
    pub fn local_pass(&mut self, tokens: &[u32], rows: LogitRows) -> Result<(), MemberError> {
        self.rows = match rows {
            LogitRows::None => 0,
            LogitRows::Last => tokens.len().min(1),
            LogitRows::All => tokens.len(),
        };
        let chunk = Chunk {
            tokens,
            cache: &mut self.cache,
            logits: rows,
        };
        let mut join = Joiner {
            exchange: self.exchange,
            lost: None,
        };
        let (rt, logits, work) = (self.rt, &mut self.logits, &mut self.work);
        let passed = self
            .model
            .forward_part(rt, &mut [chunk], logits, work, &mut join);
        match join.lost {
            Some(lost) => Err(lost.into()),
            None => Ok(passed?),
        }
    }

    /// The `most` likeliest tokens of the last row, largest logit first and of equal ones the lower id; on rank 0 those
    /// of the whole vocabulary, elsewhere nothing.
    ///
    /// # Errors
    /// [`Lost`].
    pub fn candidates(&mut self, most: usize) -> Result<Vec<(u32, f32)>, Lost> {
        let part = &self.plan.parts[self.exchange.rank()].vocab;
        let last = self.logits.len().saturating_sub(part.len());
        let logits = &self.logits[last..];
        let bytes: Vec<u8> = best(logits, part.start, most)
            .into_iter()
            .flat_map(|(id, logit)| [id.to_le_bytes(), logit.to_le_bytes()])
            .flatten()
            .collect();
        let parts = &self.plan.parts;
        let len = |rank: usize| parts[rank].vocab.len().min(most) * CANDIDATE_BYTES;
        let all = self
            .exchange
            .gather_lengths(Purpose::Logits, &bytes, len)?
            .concat();
        let words = all.as_chunks::<4>().0.as_chunks::<2>().0;
        let mut all: Vec<(u32, f32)> = words
            .iter()
            .map(|[id, logit]| (u32::from_le_bytes(*id), f32::from_le_bytes(*logit)))
            .collect();
        sort(&mut all);
        all.truncate(most);
        Ok(all)
    }

    /// All logits of the last pass, `[rows, n_vocab]`; on rank 0, elsewhere nothing.
    ///
    /// # Errors
    /// [`Lost`].
    pub fn all_logits(&mut self) -> Result<Vec<f32>, Lost> {
        let parts: Vec<usize> = self.plan.parts.iter().map(|p| p.vocab.len()).collect();
        let rows = self.rows;
        let bytes = mapping::bytes(&self.logits);
        let len = |rank: usize| rows * parts[rank] * size_of::<f32>();
        let all = self.exchange.gather_lengths(Purpose::Logits, bytes, len)?;
        let mut logits = Vec::new();
        for row in 0..rows {
            for (bytes, part) in all.iter().zip(&parts) {
                let row = &bytes.as_chunks().0[row * part..][..*part];
                logits.extend(row.iter().map(|bytes| f32::from_le_bytes(*bytes)));
            }
        }
        Ok(logits)
    }
}

/// The `most` largest of `logits`, whose first has the id `first`, in the order of [`sort`]; NaN comes last.
fn best(logits: &[f32], first: usize, most: usize) -> Vec<(u32, f32)> {
    let ids = first..;
    let mut all: Vec<(u32, f32)> = ids
        .zip(logits)
        .map(|(id, logit)| (u32::try_from(id).unwrap_or(u32::MAX), *logit))
        .collect();
    if most < all.len() && most > 0 {
        all.select_nth_unstable_by(most - 1, order);
    }
    all.truncate(most);
    sort(&mut all);
    all
}

fn sort(candidates: &mut [(u32, f32)]) {
    candidates.sort_unstable_by(order);
}

fn order(a: &(u32, f32), b: &(u32, f32)) -> std::cmp::Ordering {
    let number = |logit: f32| {
        if logit.is_nan() {
            f32::NEG_INFINITY
        } else {
            logit
        }
    };
    number(b.1).total_cmp(&number(a.1)).then(a.0.cmp(&b.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_come_first_and_of_equal_ones_the_lower_id() {
        let logits = [1.0, f32::NAN, 3.0, 3.0, f32::NEG_INFINITY, 2.0];
        assert_eq!(best(&logits, 10, 3), [(12, 3.0), (13, 3.0), (15, 2.0)]);
        assert_eq!(best(&logits, 0, 99).len(), 6);
        assert_eq!(best(&[], 0, 3), []);
    }
}
