//! `baselines/gate.toml`: how much worse is too much, by metric and by bench.
//!
//! ```toml
//! schema = 1
//! controls = ["*/candle/*"]          # code that this project does not change: it shows what the machine did
//!
//! [session]
//! unknown_drift_pct = 50             # allowed to the machine where too few benches show what it did
//! most_drift_pct = 50                # never more than this is excused by the machine
//!
//! [time]                             # also for rates
//! statistic = "low"                  # "best", "low" (10 % quantile) or "median"
//! threshold_pct = 15
//! median_threshold_pct = 30          # a slow-down that only the median shows
//! tail_threshold_pct = 100           # a slow-down that only the 90 % quantile shows: never red, always said
//! min_samples = 10
//!
//! [instructions]
//! threshold_pct = 0.5
//! floor = 100                        # smaller differences are not looked at
//! least = 10                         # a bench that executes less was optimised away
//! macs_per_instruction = 64          # likewise m × k × n over this, for a shape that has all three
//!
//! [[override]]                       # the last match wins
//! bench = "model/*_tg128_*"          # * stands for any text, also with /
//! metric = "time"                    # all metrics if left out
//! threshold_pct = 40
//! statistic = "median"
//! gates = false
//! reason = "Reads DRAM, whose bandwidth comes in bursts."
//! ```
//!
//! [`super::policy`] has the part that `tokgate gate` judges by. Everything but `schema` may be left out. An unknown key is an error, because a misspelt threshold gates nothing.

use serde::Deserialize;
use toml::Spanned;

use super::policy::{self, Policy, PolicyToml};
use super::stats::Statistic;
use crate::record::{BenchId, Metric, MetricKind};

/// The version of the format that is read.
pub const SCHEMA: i64 = 1;

/// The thresholds of a comparison.
#[derive(Clone, Debug, PartialEq)]
pub struct Gate {
    controls: Vec<String>,
    /// What the machine may have done between two sessions.
    pub session: SessionLimits,
    clocked: ClockedLimits,
    counted: CountedLimits,
    overrides: Vec<Override>,
    /// How two commits that were measured in one session are judged.
    pub policy: Policy,
}

/// How much of a difference the machine is allowed to have made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SessionLimits {
    /// Allowed either way where too few benches show what the machine did, in percent.
    pub unknown_drift_pct: f64,
    /// The most that is ever allowed, in percent.
    pub most_drift_pct: f64,
}

/// The limits of measurements taken with a clock.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClockedLimits {
    /// The figure that is compared.
    pub statistic: Statistic,
    /// How much worse the compared figure may be, in percent.
    pub threshold_pct: f64,
    /// How much worse the median may be, in percent.
    pub median_threshold_pct: f64,
    /// How much worse the 90 % quantile may be before it is mentioned, in percent.
    pub tail_threshold_pct: f64,
    /// The fewest samples that a verdict is made of.
    pub min_samples: usize,
}

/// The limits of counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CountedLimits {
    /// How much more may be counted, in percent.
    pub threshold_pct: f64,
    /// Differences below this are not looked at.
    pub floor: f64,
    /// The least that a bench plausibly counts.
    pub least: f64,
    /// The most multiply-accumulates that one instruction plausibly does.
    pub macs_per_instruction: f64,
}

/// The limits of one bench and metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limits {
    /// For what a clock measured.
    Clocked(ClockedLimits),
    /// For what was counted.
    Counted(CountedLimits),
}

/// Why a gate cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GateError {
    /// Not TOML, or an unknown key, or a value of the wrong type.
    #[error("{file}: {what}")]
    Toml {
        /// The file.
        file: String,
        /// The place and what is wrong.
        what: String,
    },
    /// A value that makes no sense.
    #[error("{file}:{line}: {key}: {what}")]
    Value {
        /// The file.
        file: String,
        /// The line, from 1.
        line: usize,
        /// The key.
        key: &'static str,
        /// What is wrong with its value.
        what: String,
    },
}

#[derive(Clone, Debug, PartialEq)]
struct Override {
    bench: String,
    metric: Option<Metric>,
    threshold_pct: Option<f64>,
    statistic: Option<Statistic>,
    gates: Option<bool>,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            controls: Vec::new(),
            session: SessionLimits {
                unknown_drift_pct: 50.0,
                most_drift_pct: 50.0,
            },
            clocked: ClockedLimits {
                statistic: Statistic::default(),
                threshold_pct: 15.0,
                median_threshold_pct: 30.0,
                tail_threshold_pct: 100.0,
                min_samples: 10,
            },
            counted: CountedLimits {
                threshold_pct: 0.5,
                floor: 100.0,
                least: 10.0,
                macs_per_instruction: 64.0,
            },
            overrides: Vec::new(),
            policy: Policy::default(),
        }
    }
}

impl Gate {
    /// Understands the text of a gate that comes from `file`.
    ///
    /// # Errors
    /// [`GateError`] that names `file`, the line and the key.
    pub fn from_toml(text: &str, file: &str) -> Result<Self, GateError> {
        let toml: GateToml = toml::from_str(text).map_err(|error| GateError::Toml {
            file: file.to_owned(),
            what: error.to_string().trim_end().to_owned(),
        })?;
        Checker { text, file }.gate(toml)
    }

    /// What a measurement of `id` is judged by.
    pub fn limits(&self, id: &BenchId, metric: Metric) -> Limits {
        let matching = || self.matching(id, metric);
        match metric.kind() {
            MetricKind::Clocked => {
                let mut limits = self.clocked;
                for found in matching() {
                    limits.threshold_pct = found.threshold_pct.unwrap_or(limits.threshold_pct);
                    limits.statistic = found.statistic.unwrap_or(limits.statistic);
                }
                // A median may not be judged more strictly than the figure that stands for the bench.
                limits.median_threshold_pct = limits.median_threshold_pct.max(limits.threshold_pct);
                limits.tail_threshold_pct = limits.tail_threshold_pct.max(limits.threshold_pct);
                Limits::Clocked(limits)
            }
            MetricKind::Counted => {
                let mut limits = self.counted;
                for found in matching() {
                    limits.threshold_pct = found.threshold_pct.unwrap_or(limits.threshold_pct);
                }
                Limits::Counted(limits)
            }
        }
    }

    /// Whether a regression of `id` turns the gate red.
    pub fn gates(&self, id: &BenchId, metric: Metric) -> bool {
        let said = self
            .matching(id, metric)
            .filter_map(|found| found.gates)
            .last();
        said.unwrap_or_else(|| metric.gates() && !self.is_control(id))
    }

    /// Whether `id` measures code that this project does not change.
    pub fn is_control(&self, id: &BenchId) -> bool {
        self.controls
            .iter()
            .any(|pattern| matches(pattern, id.as_str()))
    }

    fn matching(&self, id: &BenchId, metric: Metric) -> impl Iterator<Item = &Override> {
        self.overrides.iter().filter(move |found| {
            found.metric.is_none_or(|only| only == metric) && matches(&found.bench, id.as_str())
        })
    }
}

/// Whether `text` has the form of `pattern`, in which `*` stands for any text.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let Some(last) = parts.next_back() else {
        return rest.is_empty();
    };
    // Taking each part at its first place leaves the most room for those behind it.
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GateToml {
    schema: Spanned<i64>,
    #[serde(default)]
    controls: Vec<Spanned<String>>,
    #[serde(default)]
    session: SessionToml,
    #[serde(default)]
    time: TimeToml,
    #[serde(default)]
    instructions: InstructionsToml,
    #[serde(default, rename = "override")]
    overrides: Vec<OverrideToml>,
    #[serde(default)]
    gate: PolicyToml,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct SessionToml {
    unknown_drift_pct: Option<Spanned<f64>>,
    most_drift_pct: Option<Spanned<f64>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct TimeToml {
    statistic: Option<Statistic>,
    threshold_pct: Option<Spanned<f64>>,
    median_threshold_pct: Option<Spanned<f64>>,
    tail_threshold_pct: Option<Spanned<f64>>,
    min_samples: Option<Spanned<i64>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct InstructionsToml {
    threshold_pct: Option<Spanned<f64>>,
    floor: Option<Spanned<f64>>,
    least: Option<Spanned<f64>>,
    macs_per_instruction: Option<Spanned<f64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OverrideToml {
    bench: Spanned<String>,
    metric: Option<Spanned<String>>,
    threshold_pct: Option<Spanned<f64>>,
    statistic: Option<Statistic>,
    gates: Option<bool>,
    reason: Spanned<String>,
}

/// Turns what the file says into what a gate is, with the text at hand to name lines.
pub(super) struct Checker<'a> {
    text: &'a str,
    file: &'a str,
}

impl Checker<'_> {
    fn gate(&self, toml: GateToml) -> Result<Gate, GateError> {
        if *toml.schema.get_ref() != SCHEMA {
            let what = format!(
                "is {}, this version of tokgate reads {SCHEMA}",
                toml.schema.get_ref()
            );
            return Err(self.wrong("schema", &toml.schema, what));
        }
        let usual = Gate::default();
        let mut controls = Vec::new();
        for pattern in toml.controls {
            controls.push(self.pattern("controls", pattern)?);
        }
        let session = SessionLimits {
            unknown_drift_pct: self.percent(
                "unknown_drift_pct",
                toml.session.unknown_drift_pct,
                usual.session.unknown_drift_pct,
            )?,
            most_drift_pct: self.percent(
                "most_drift_pct",
                toml.session.most_drift_pct,
                usual.session.most_drift_pct,
            )?,
        };
        let time = toml.time;
        let clocked = ClockedLimits {
            statistic: time.statistic.unwrap_or(usual.clocked.statistic),
            threshold_pct: self.percent(
                "threshold_pct",
                time.threshold_pct,
                usual.clocked.threshold_pct,
            )?,
            median_threshold_pct: self.percent(
                "median_threshold_pct",
                time.median_threshold_pct,
                usual.clocked.median_threshold_pct,
            )?,
            tail_threshold_pct: self.percent(
                "tail_threshold_pct",
                time.tail_threshold_pct,
                usual.clocked.tail_threshold_pct,
            )?,
            min_samples: self.samples(time.min_samples, usual.clocked.min_samples)?,
        };
        let counts = toml.instructions;
        let counted = CountedLimits {
            threshold_pct: self.percent(
                "threshold_pct",
                counts.threshold_pct,
                usual.counted.threshold_pct,
            )?,
            floor: self.number("floor", counts.floor, usual.counted.floor, 0.0)?,
            least: self.number("least", counts.least, usual.counted.least, 0.0)?,
            macs_per_instruction: self.number(
                "macs_per_instruction",
                counts.macs_per_instruction,
                usual.counted.macs_per_instruction,
                1.0,
            )?,
        };
        let overrides = toml.overrides.into_iter();
        Ok(Gate {
            controls,
            session,
            clocked,
            counted,
            overrides: overrides
                .map(|found| self.override_(found))
                .collect::<Result<_, _>>()?,
            policy: policy::policy(self, toml.gate)?,
        })
    }

    fn override_(&self, toml: OverrideToml) -> Result<Override, GateError> {
        self.reason(
            &toml.reason,
            "must say why this bench is judged by other rules",
        )?;
        if toml.threshold_pct.is_none() && toml.statistic.is_none() && toml.gates.is_none() {
            let what = "has none of threshold_pct, statistic, gates".to_owned();
            return Err(self.wrong("override", &toml.bench, what));
        }
        let threshold_pct = match toml.threshold_pct {
            None => None,
            given => Some(self.percent("threshold_pct", given, 0.0)?),
        };
        Ok(Override {
            bench: self.pattern("bench", toml.bench)?,
            metric: self.metric(toml.metric)?,
            threshold_pct,
            statistic: toml.statistic,
            gates: toml.gates,
        })
    }

    pub(super) fn reason(&self, given: &Spanned<String>, must: &str) -> Result<(), GateError> {
        if given.get_ref().trim().is_empty() {
            return Err(self.wrong("reason", given, must.to_owned()));
        }
        Ok(())
    }

    pub(super) fn metric(
        &self,
        given: Option<Spanned<String>>,
    ) -> Result<Option<Metric>, GateError> {
        let parse = |name: Spanned<String>| {
            let parsed = name.get_ref().parse();
            parsed.map_err(|error| self.wrong("metric", &name, format!("{error}")))
        };
        given.map(parse).transpose()
    }

    pub(super) fn pattern(
        &self,
        key: &'static str,
        pattern: Spanned<String>,
    ) -> Result<String, GateError> {
        if pattern.get_ref().is_empty() {
            return Err(self.wrong(key, &pattern, "matches no bench".to_owned()));
        }
        Ok(pattern.into_inner())
    }

    pub(super) fn percent(
        &self,
        key: &'static str,
        given: Option<Spanned<f64>>,
        usual: f64,
    ) -> Result<f64, GateError> {
        self.number(key, given, usual, 0.0)
    }

    fn number(
        &self,
        key: &'static str,
        given: Option<Spanned<f64>>,
        usual: f64,
        least: f64,
    ) -> Result<f64, GateError> {
        let Some(given) = given else {
            return Ok(usual);
        };
        let number = *given.get_ref();
        if number.is_finite() && number >= least {
            Ok(number)
        } else {
            let what = format!("is {number}, which is not a number of at least {least}");
            Err(self.wrong(key, &given, what))
        }
    }

    fn samples(&self, given: Option<Spanned<i64>>, usual: usize) -> Result<usize, GateError> {
        let Some(given) = given else {
            return Ok(usual);
        };
        match usize::try_from(*given.get_ref()) {
            Ok(samples) if samples > 0 => Ok(samples),
            _ => {
                let what = format!("is {}, at least 1 is needed", given.get_ref());
                Err(self.wrong("min_samples", &given, what))
            }
        }
    }

    pub(super) fn wrong<T>(
        &self,
        key: &'static str,
        value: &Spanned<T>,
        what: String,
    ) -> GateError {
        let before = self.text.get(..value.span().start).unwrap_or_default();
        GateError::Value {
            file: self.file.to_owned(),
            line: 1 + before.matches('\n').count(),
            key,
            what,
        }
    }
}
