//! The part of `baselines/gate.toml` that `tokgate gate` judges by, where both commits are measured in one session.
//!
//! ```toml
//! [gate]
//! false_alarms_pct = 1               # runs that may be red although nothing changed
//! statistic = "best"                 # unless `tokgate calibrate` found another to be sharper
//! threshold_pct = 1                  # what is not worse by more than this passes
//! median_threshold_pct = 5           # a slow-down that only the median shows
//! tail_threshold_pct = 25            # only the 90 % quantile: never red, always said
//! required = ["matmul/*"]            # each must match a bench of the head
//!
//! [[gate.check]]                     # faster but wrong is no gain: run in the head's worktree
//! name = "the kernels' error budgets"
//! command = ["cargo", "test", "--package", "kernels"]
//!
//! [[gate.limit]]                     # the last match wins
//! bench = "model/*"
//! metric = "time"                    # all metrics if left out
//! threshold_pct = 2
//! statistic = "median"
//! gates = false
//! reason = "Reads DRAM."
//!
//! [[gate.accept]]
//! bench = "attention/*"
//! metric = "time"                    # all metrics if left out
//! bound_pct = 4                      # a regression beyond this is red all the same
//! missing = false                    # true: the bench may vanish; no bound is needed
//! reason = "Correct for heads of 80 now."
//! expires = "2027-03-31"             # from the day after, the gate says so and is not green
//! ```

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::Deserialize;
use toml::Spanned;

use super::gate::{Checker, GateError, matches};
use super::stats::Statistic;
use crate::record::{BenchId, Metric};

/// How two commits that were measured in one session are judged.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// The share of runs that may be red although nothing changed, in percent.
    pub false_alarms_pct: f64,
    usual: TrialLimits,
    limits: Vec<Limit>,
    accepted: Vec<Acceptance>,
    required: Vec<String>,
    checks: Vec<CheckCommand>,
}

/// A command that fails where results are wrong.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckCommand {
    /// What it checks.
    pub name: String,
    /// The program and its arguments.
    pub command: Vec<String>,
}

/// The limits of what a clock measured of one bench.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrialLimits {
    /// The figure that is compared.
    pub statistic: Statistic,
    /// Whether the policy names the statistic for this bench, so that a calibration does not choose it.
    pub statistic_is_given: bool,
    /// How much worse the compared figure may be, in percent.
    pub threshold_pct: f64,
    /// How much worse the median may be, in percent.
    pub median_threshold_pct: f64,
    /// How much worse the 90 % quantile may be before it is mentioned, in percent.
    pub tail_threshold_pct: f64,
}

/// A regression that was looked at and agreed to.
#[derive(Clone, Debug, PartialEq)]
pub struct Acceptance {
    /// The benches, with `*` for any text.
    pub bench: String,
    /// The metric; all of them if absent.
    pub metric: Option<Metric>,
    /// How much worse they may be, in percent; absent where only vanishing is accepted.
    pub bound_pct: Option<f64>,
    /// Whether they may vanish.
    pub missing: bool,
    /// Why.
    pub reason: String,
    /// The last day on which it holds, in UTC.
    pub expires: Date,
}

#[derive(Clone, Debug, PartialEq)]
struct Limit {
    bench: String,
    metric: Option<Metric>,
    threshold_pct: Option<f64>,
    statistic: Option<Statistic>,
    gates: Option<bool>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            false_alarms_pct: 1.0,
            usual: TrialLimits {
                statistic: Statistic::Best,
                statistic_is_given: false,
                threshold_pct: 1.0,
                median_threshold_pct: 5.0,
                tail_threshold_pct: 25.0,
            },
            limits: Vec::new(),
            accepted: Vec::new(),
            required: Vec::new(),
            checks: Vec::new(),
        }
    }
}

impl Policy {
    /// What the times of `id` are judged by.
    pub fn limits(&self, id: &BenchId) -> TrialLimits {
        let mut limits = self.usual;
        for found in self.matching(id, Metric::Time) {
            limits.threshold_pct = found.threshold_pct.unwrap_or(limits.threshold_pct);
            limits.statistic_is_given |= found.statistic.is_some();
            limits.statistic = found.statistic.unwrap_or(limits.statistic);
        }
        limits.median_threshold_pct = limits.median_threshold_pct.max(limits.threshold_pct);
        limits.tail_threshold_pct = limits.tail_threshold_pct.max(limits.median_threshold_pct);
        limits
    }

    /// The threshold for a metric of `id` that a `[[gate.limit]]` names, in percent.
    pub fn given_threshold_pct(&self, id: &BenchId, metric: Metric) -> Option<f64> {
        self.matching(id, metric)
            .filter_map(|found| found.threshold_pct)
            .last()
    }

    /// Whether a `[[gate.limit]]` says that `id` turns the gate red, or that it does not.
    pub fn gates(&self, id: &BenchId, metric: Metric) -> Option<bool> {
        self.matching(id, metric)
            .filter_map(|found| found.gates)
            .last()
    }

    /// The regression of `id` that was agreed to and still holds `at` that time.
    pub fn accepted(&self, id: &BenchId, metric: Metric, at: Timestamp) -> Option<&Acceptance> {
        self.holding(id, at).find(|found| {
            found.bound_pct.is_some() && found.metric.is_none_or(|only| only == metric)
        })
    }

    /// The agreement that `id` may vanish, if it holds `at` that time.
    pub fn may_vanish(&self, id: &BenchId, at: Timestamp) -> Option<&Acceptance> {
        self.holding(id, at).find(|found| found.missing)
    }

    /// Everything that was agreed to.
    pub fn acceptances(&self) -> &[Acceptance] {
        &self.accepted
    }

    /// Patterns that must each match a bench.
    pub fn required(&self) -> &[String] {
        &self.required
    }

    /// What must hold, whatever the clock says.
    pub fn checks(&self) -> &[CheckCommand] {
        &self.checks
    }

    fn holding(&self, id: &BenchId, at: Timestamp) -> impl Iterator<Item = &Acceptance> {
        let accepted = self.accepted.iter();
        accepted.filter(move |found| found.holds(at) && found.is_of(id))
    }

    fn matching(&self, id: &BenchId, metric: Metric) -> impl Iterator<Item = &Limit> {
        self.limits.iter().filter(move |found| {
            found.metric.is_none_or(|only| only == metric) && matches(&found.bench, id.as_str())
        })
    }
}

impl Acceptance {
    /// Whether it has not expired `at` that time.
    pub fn holds(&self, at: Timestamp) -> bool {
        at.to_zoned(TimeZone::UTC).date() <= self.expires
    }

    /// Whether it is about `id`.
    pub fn is_of(&self, id: &BenchId) -> bool {
        matches(&self.bench, id.as_str())
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PolicyToml {
    false_alarms_pct: Option<Spanned<f64>>,
    statistic: Option<Statistic>,
    threshold_pct: Option<Spanned<f64>>,
    median_threshold_pct: Option<Spanned<f64>>,
    tail_threshold_pct: Option<Spanned<f64>>,
    #[serde(default)]
    required: Vec<Spanned<String>>,
    #[serde(default, rename = "check")]
    checks: Vec<Spanned<CheckCommand>>,
    #[serde(default, rename = "limit")]
    limits: Vec<LimitToml>,
    #[serde(default, rename = "accept")]
    accepted: Vec<AcceptToml>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitToml {
    bench: Spanned<String>,
    metric: Option<Spanned<String>>,
    threshold_pct: Option<Spanned<f64>>,
    statistic: Option<Statistic>,
    gates: Option<bool>,
    reason: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AcceptToml {
    bench: Spanned<String>,
    metric: Option<Spanned<String>>,
    bound_pct: Option<Spanned<f64>>,
    #[serde(default)]
    missing: bool,
    reason: Spanned<String>,
    expires: Spanned<String>,
}

/// The policy that `toml` describes; `checker` names the lines of what is wrong.
pub(super) fn policy(checker: &Checker<'_>, toml: PolicyToml) -> Result<Policy, GateError> {
    let Policy {
        false_alarms_pct,
        usual,
        ..
    } = Policy::default();
    let false_alarms_pct = match &toml.false_alarms_pct {
        Some(given) if !(*given.get_ref() > 0.0 && *given.get_ref() <= 50.0) => {
            let what = format!(
                "is {}, which is not above 0 and at most 50",
                given.get_ref()
            );
            return Err(checker.wrong("false_alarms_pct", given, what));
        }
        Some(given) => *given.get_ref(),
        None => false_alarms_pct,
    };
    let usual = TrialLimits {
        statistic: toml.statistic.unwrap_or(usual.statistic),
        statistic_is_given: false,
        threshold_pct: checker.percent("threshold_pct", toml.threshold_pct, usual.threshold_pct)?,
        median_threshold_pct: checker.percent(
            "median_threshold_pct",
            toml.median_threshold_pct,
            usual.median_threshold_pct,
        )?,
        tail_threshold_pct: checker.percent(
            "tail_threshold_pct",
            toml.tail_threshold_pct,
            usual.tail_threshold_pct,
        )?,
    };
    let pattern = |found| checker.pattern("required", found);
    Ok(Policy {
        false_alarms_pct,
        usual,
        required: toml
            .required
            .into_iter()
            .map(pattern)
            .collect::<Result<_, _>>()?,
        checks: toml
            .checks
            .into_iter()
            .map(|found| check(checker, found))
            .collect::<Result<_, _>>()?,
        limits: toml
            .limits
            .into_iter()
            .map(|found| limit(checker, found))
            .collect::<Result<_, _>>()?,
        accepted: toml
            .accepted
            .into_iter()
            .map(|found| acceptance(checker, found))
            .collect::<Result<_, _>>()?,
    })
}

fn check(checker: &Checker<'_>, toml: Spanned<CheckCommand>) -> Result<CheckCommand, GateError> {
    if toml.get_ref().command.is_empty() {
        return Err(checker.wrong("command", &toml, "names no program".to_owned()));
    }
    Ok(toml.into_inner())
}

fn limit(checker: &Checker<'_>, toml: LimitToml) -> Result<Limit, GateError> {
    checker.reason(
        &toml.reason,
        "must say why this bench is judged by other rules",
    )?;
    if toml.threshold_pct.is_none() && toml.statistic.is_none() && toml.gates.is_none() {
        let what = "has none of threshold_pct, statistic, gates".to_owned();
        return Err(checker.wrong("gate.limit", &toml.bench, what));
    }
    Ok(Limit {
        bench: checker.pattern("bench", toml.bench)?,
        metric: checker.metric(toml.metric)?,
        threshold_pct: match toml.threshold_pct {
            None => None,
            given => Some(checker.percent("threshold_pct", given, 0.0)?),
        },
        statistic: toml.statistic,
        gates: toml.gates,
    })
}

fn acceptance(checker: &Checker<'_>, toml: AcceptToml) -> Result<Acceptance, GateError> {
    checker.reason(&toml.reason, "must say why this is accepted")?;
    if toml.bound_pct.is_none() && !toml.missing {
        let what = "has neither bound_pct nor missing = true".to_owned();
        return Err(checker.wrong("gate.accept", &toml.bench, what));
    }
    let Ok(expires) = toml.expires.get_ref().parse::<Date>() else {
        let what = format!(
            "is '{}', not a day such as 2027-03-31",
            toml.expires.get_ref()
        );
        return Err(checker.wrong("expires", &toml.expires, what));
    };
    Ok(Acceptance {
        bench: checker.pattern("bench", toml.bench)?,
        metric: checker.metric(toml.metric)?,
        bound_pct: match toml.bound_pct {
            None => None,
            given => Some(checker.percent("bound_pct", given, 0.0)?),
        },
        missing: toml.missing,
        reason: toml.reason.into_inner(),
        expires,
    })
}
