//! The machine's limits, measured around each repetition of a test.

use anyhow::Context;
use tokgate_kernels::Runtime;

use crate::cli::BenchArgs;
use crate::cmd::model::Loaded;
use crate::judge::stats::median_and_deviation;
use crate::probe::limits::{Limits, Phase, Reached, Resource};
use crate::record::llama_bench::LlamaBench;
use crate::throughput::Sample;

/// What measures the limits of `rt` for a model; `None` if nobody wants to know them.
///
/// # Errors
/// If there is no memory for it.
pub fn of(args: &BenchArgs, loaded: &Loaded, rt: &Runtime) -> anyhow::Result<Option<Limits>> {
    if args.no_limit {
        return Ok(None);
    }
    let limits = Limits::new(rt, loaded.matrix_type(), loaded.bytes());
    let limits = limits.context("the machine's limits; --no-limit leaves them out")?;
    Ok(Some(limits))
}

/// The limits beside one test.
pub struct Beside<'a> {
    limits: Option<(&'a Limits, &'a Runtime)>,
    reached: Vec<Reached>,
    shares: Vec<(f64, Resource)>,
}

impl<'a> Beside<'a> {
    /// Measures for the first time, before the first repetition.
    pub fn new(limits: Option<&'a Limits>, rt: &'a Runtime) -> Self {
        let limits = limits.map(|limits| (limits, rt));
        Self {
            limits,
            reached: limits.iter().map(|(limits, rt)| limits.now(rt)).collect(),
            shares: Vec::new(),
        }
    }

    /// Measures again, and holds the repetition to what was reached before and after it.
    pub fn after(&mut self, sample: &Sample) {
        let (Some((limits, rt)), Some(before)) = (self.limits, self.reached.last().copied()) else {
            return;
        };
        let after = limits.now(rt);
        self.reached.push(after);
        let prompt = Phase {
            bytes: sample.prompt.bytes,
            macs: sample.prompt.macs,
        };
        let generation = Phase {
            bytes: sample.work.bytes - prompt.bytes,
            macs: sample.work.macs - prompt.macs,
        };
        let bound = before.between(after).bound(&[prompt, generation]);
        let share = |(ns, resource): (f64, Resource)| {
            let pct = 100.0 * ns / sample.ns.max(1) as f64;
            (pct, resource)
        };
        self.shares.extend(bound.map(share));
    }

    /// Writes medians into the result.
    pub fn fill(&self, result: &mut LlamaBench) {
        let median = |values: Vec<f64>| median_and_deviation(&values).map(|(median, _)| median);
        result.limit_gbs = median(self.reached.iter().map(|reached| reached.gbs).collect());
        let gmacs = self.reached.iter().filter_map(|reached| reached.macs);
        result.limit_gmacs = median(gmacs.map(|(_, gmacs)| gmacs).collect());
        result.limit_pct = median(self.shares.iter().map(|(pct, _)| *pct).collect());
        let resource = self.shares.last().map(|(_, resource)| *resource);
        result.limit_resource = resource.map(|resource| resource.name().to_owned());
    }
}

/// What to say of a result that cannot be.
pub fn warning(result: &LlamaBench) -> Option<String> {
    if !result.is_beyond_limit() {
        return None;
    }
    let resource = match result.limit_resource.as_deref() {
        Some("read") => "read bandwidth",
        _ => "multiply–accumulate peak",
    };
    Some(format!(
        "{} at {} threads ran at {:.0} % of the {resource} that was measured around each repetition: a mistake to look \
         into (work that was counted and not done, or the limit disturbed by a neighbour; repeat it)",
        result.test(),
        result.n_threads,
        result.limit_pct.unwrap_or_default(),
    ))
}
