//! What one machine does without others: its speed, and the time of a part of a model, stretch by stretch.

use std::mem;
use std::time::Instant;

use tokgate_kernels::{DType, Runtime};

use super::member::MemberError;
use crate::engine::config::ModelConfig;
use crate::engine::forward::{Apart, Chunk, Join, Joint, LogitRows, Model, Work};
use crate::engine::kv_cache::KvCache;
use crate::engine::weights::ModelWeights;

/// The fewest passes that a speed is told from.
const LEAST_PASSES: usize = 3;

/// How fast this machine is with a model: 10⁹ multiply–accumulates a second in generating, measured on its first layers
/// for `seconds`.
///
/// As many layers as are far more than caches hold; of their matrices, all pages are read.
///
/// # Errors
/// [`MemberError`] if the model makes no sense.
pub fn speed(
    config: &ModelConfig,
    weights: &ModelWeights,
    rt: &Runtime,
    kv: DType,
    seconds: f64,
) -> Result<f64, MemberError> {
    /// Bytes of matrices that no cache holds.
    const ENOUGH: u64 = 256 << 20;
    let layer = weights.total().bytes / config.n_layer as u64;
    let layers = usize::try_from(ENOUGH / layer.max(1)).unwrap_or(usize::MAX);
    let n_layer = layers.saturating_add(1).min(config.n_layer);
    let config = ModelConfig {
        n_layer,
        ..config.clone()
    };
    let mut weights = weights.clone();
    weights.layers.truncate(n_layer);
    let model = Model::new(config, weights)?;
    let mut timed = Timed::new(&model, rt, kv)?;
    let (mut macs, mut spent, mut passes) = (0, 0.0, 0);
    while passes < LEAST_PASSES || spent < seconds {
        spent += timed.pass()?.iter().sum::<f64>();
        macs += timed.work.macs;
        passes += 1;
    }
    Ok(macs as f64 / 1e9 / spent)
}

/// A model, or a part of one, of which passes of one token are timed without any other part.
pub struct Timed<'a> {
    model: &'a Model,
    rt: &'a Runtime,
    cache: KvCache,
    logits: Vec<f32>,
    /// What the last pass did.
    work: Work,
}

/// Times the stretches between sums, of which it leaves the parts as they are.
struct Stretches {
    since: Instant,
    seconds: Vec<f64>,
}

impl Stretches {
    fn end(&mut self) {
        let now = Instant::now();
        let since = mem::replace(&mut self.since, now);
        self.seconds.push((now - since).as_secs_f64());
    }
}

impl Join for Stretches {
    fn sum(&mut self, _: Joint, _: &mut [f32]) -> Result<(), Apart> {
        self.end();
        Ok(())
    }
}

impl<'a> Timed<'a> {
    /// After a pass that reads the pages.
    ///
    /// # Errors
    /// [`MemberError`] if there is no memory for keys and values, or the pass fails.
    pub fn new(model: &'a Model, rt: &'a Runtime, kv: DType) -> Result<Self, MemberError> {
        let mut timed = Self {
            model,
            rt,
            cache: KvCache::new(model.config(), kv, 1)?,
            logits: Vec::new(),
            work: Work::default(),
        };
        timed.pass()?;
        Ok(timed)
    }

    /// Seconds of a pass, from its start to the first sum, from each sum to the next, and on to its end.
    ///
    /// # Errors
    /// [`MemberError`] if the pass fails.
    pub fn pass(&mut self) -> Result<Vec<f64>, MemberError> {
        self.cache.truncate(0);
        self.work = Work::default();
        let chunk = Chunk {
            tokens: &[0],
            cache: &mut self.cache,
            logits: LogitRows::Last,
        };
        let mut stretches = Stretches {
            since: Instant::now(),
            seconds: Vec::new(),
        };
        self.model.forward_part(
            self.rt,
            &mut [chunk],
            &mut self.logits,
            &mut self.work,
            &mut stretches,
        )?;
        stretches.end();
        Ok(stretches.seconds)
    }
}
