//! The history page: one HTML file that opens from disk, with the script, the style and the data in it.
//!
//! Nothing that a commit or a bench says can become markup or code. The data are JSON in a block that is never run, with
//! every `<`, `>` and `&` escaped; the script puts texts into the page as text; and the page's own policy lets it load
//! nothing. The figures are whole numbers of a power of ten: `v` the values, `l` and `h` the quartiles as distances from
//! them, `null` where nothing was measured. `data.js` reads them back.

use serde::Serialize;

use crate::judge::trend::{Change, Machine, Point, Series, Trend};
use crate::judge::{Level, Statistic};
use crate::record::{Direction, Metric, Remote};

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("style.css");

/// The script, in the order in which its parts need each other.
const SCRIPT: [&str; 7] = [
    include_str!("core.js"),
    include_str!("data.js"),
    include_str!("chart.js"),
    include_str!("overview.js"),
    include_str!("bench.js"),
    include_str!("roofline.js"),
    include_str!("app.js"),
];

/// Digits that the smallest figure of a series keeps; no clock is as good.
const DIGITS: i32 = 5;

/// What the page says besides the trend.
#[derive(Clone, Debug)]
pub struct Subject<'a> {
    /// The project's name.
    pub project: &'a str,
    /// Where its commits can be looked at.
    pub remote: Option<&'a Remote>,
}

/// The page.
pub fn page(trend: &Trend, subject: &Subject) -> String {
    let data = serde_json::to_string(&Data::of(trend, subject))
        .expect("numbers, texts, lists and keys that are texts");
    PAGE.replace("{{style}}", STYLE)
        .replace("{{script}}", &SCRIPT.join("\n"))
        // Last, so that nothing in the data is taken for a place to fill in.
        .replace("{{data}}", &harmless(&data))
}

/// JSON that cannot end the block it stands in, nor a line of a script.
fn harmless(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                text.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            _ => text.push(c),
        }
    }
    text
}

#[derive(Serialize)]
struct Data<'a> {
    schema: u32,
    project: &'a str,
    links: Option<Links<'a>>,
    metrics: Vec<MetricData>,
    commits: Vec<(&'a str, i64, &'a str, &'a str)>,
    machines: Vec<MachineData<'a>>,
}

#[derive(Serialize)]
struct Links<'a> {
    page: &'a str,
    commit: &'a str,
    compare: Option<&'a str>,
}

#[derive(Serialize)]
struct MetricData {
    name: &'static str,
    unit: &'static str,
    higher: bool,
    gates: bool,
}

#[derive(Serialize)]
struct MachineData<'a> {
    key: &'a str,
    cpu: &'a str,
    commits: Vec<usize>,
    /// Where the compiler became another one.
    rustc: Vec<(usize, &'a str)>,
    dirty: Vec<usize>,
    elements_per_s: Option<f64>,
    bytes_per_s: Option<f64>,
    series: Vec<SeriesData<'a>>,
}

#[derive(Serialize)]
struct SeriesData<'a> {
    id: &'a str,
    metric: usize,
    statistic: Statistic,
    limit: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    elements: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    scale: f64,
    v: Vec<Option<i64>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    l: Vec<Option<i64>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    h: Vec<Option<i64>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    changes: Vec<ChangeData>,
}

#[derive(Serialize)]
struct ChangeData {
    after: usize,
    at: usize,
    worse: bool,
    delta: f64,
    p: f64,
    /// Mean, standard deviation and number of figures.
    before: (f64, f64, usize),
    since: (f64, f64, usize),
}

impl<'a> Data<'a> {
    fn of(trend: &'a Trend, subject: &Subject<'a>) -> Self {
        // What lies before the first measurement is no part of any trend.
        let columns = trend.machines.iter().flat_map(|machine| &machine.columns);
        let first = columns.map(|column| column.commit).min().unwrap_or(0);
        let commits = trend.commits[first.min(trend.commits.len())..].iter();
        Self {
            schema: 1,
            project: subject.project,
            links: subject.remote.map(|remote| Links {
                page: &remote.page,
                commit: &remote.commit,
                compare: remote.compare.as_deref(),
            }),
            metrics: Metric::ALL.map(MetricData::of).into(),
            commits: commits
                .map(|commit| {
                    let (author, subject) = (&*commit.author, &*commit.subject);
                    (&*commit.id, commit.authored_at, author, subject)
                })
                .collect(),
            machines: trend
                .machines
                .iter()
                .map(|machine| MachineData::of(machine, first))
                .collect(),
        }
    }
}

impl MetricData {
    fn of(metric: Metric) -> Self {
        Self {
            name: metric.name(),
            unit: metric.unit(),
            higher: metric.direction() == Direction::HigherIsBetter,
            gates: metric.gates(),
        }
    }
}

impl<'a> MachineData<'a> {
    fn of(machine: &'a Machine, first: usize) -> Self {
        let columns = || machine.columns.iter().enumerate();
        let mut rustc: Vec<(usize, &str)> = Vec::new();
        for (at, column) in columns() {
            if rustc.last().is_none_or(|(_, last)| *last != column.rustc) {
                rustc.push((at, &column.rustc));
            }
        }
        let dirty = columns().filter(|(_, column)| column.dirty);
        Self {
            key: machine.key.as_str(),
            cpu: machine.columns.last().map_or("", |column| &column.cpu),
            commits: columns().map(|(_, column)| column.commit - first).collect(),
            rustc,
            dirty: dirty.map(|(at, _)| at).collect(),
            elements_per_s: machine.roof.elements_per_s,
            bytes_per_s: machine.roof.bytes_per_s,
            series: machine.series.iter().map(SeriesData::of).collect(),
        }
    }
}

impl<'a> SeriesData<'a> {
    fn of(series: &'a Series) -> Self {
        let scale = scale(series);
        let whole = |figure: f64| (figure / scale).round() as i64;
        let each = |part: &dyn Fn(&Point) -> i64| -> Vec<Option<i64>> {
            series
                .points
                .iter()
                .map(|point| point.as_ref().map(part))
                .collect()
        };
        let spread = series
            .points
            .iter()
            .flatten()
            .any(|point| whole(point.low) != whole(point.high));
        let distances = |part: &dyn Fn(&Point) -> i64| {
            if spread { each(part) } else { Vec::new() }
        };
        Self {
            id: series.id.as_str(),
            metric: Metric::ALL
                .iter()
                .position(|metric| *metric == series.metric)
                .unwrap_or_default(),
            statistic: series.statistic,
            limit: series.threshold_pct,
            elements: series.throughput.elements,
            bytes: series.throughput.bytes,
            scale,
            v: each(&|point| whole(point.value)),
            l: distances(&|point| whole(point.value) - whole(point.low)),
            h: distances(&|point| whole(point.high) - whole(point.value)),
            changes: series.changes.iter().map(ChangeData::of).collect(),
        }
    }
}

impl ChangeData {
    fn of(change: &Change) -> Self {
        let level = |level: Level| (level.mean, level.deviation, level.figures);
        Self {
            after: change.after,
            at: change.column,
            worse: change.worse,
            delta: change.point.delta_pct(),
            p: change.point.p,
            before: level(change.point.before),
            since: level(change.point.after),
        }
    }
}

/// The power of ten that leaves the smallest figure [`DIGITS`] digits; counts stay as they are.
fn scale(series: &Series) -> f64 {
    if !matches!(series.metric, Metric::Time | Metric::TokensPerSecond) {
        return 1.0;
    }
    let values = series.points.iter().flatten().map(|point| point.value);
    let smallest = values.filter(|value| *value > 0.0).reduce(f64::min);
    let exponent = smallest.map_or(0, |value| value.log10().floor() as i32);
    10_f64.powi((exponent + 1 - DIGITS).clamp(-12, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_in_a_page_stays_json_and_nothing_else() {
        let text = "</script><script>alert(1)</script><!-- & \u{2028}\u{2029} {{data}}";
        let json = serde_json::to_string(text).unwrap();
        let safe = harmless(&json);
        assert!(
            !safe.contains(['<', '>', '&', '\u{2028}', '\u{2029}']),
            "{safe}"
        );
        assert_eq!(serde_json::from_str::<String>(&safe).unwrap(), text);
    }

    #[test]
    fn the_page_loads_nothing() {
        let places = PAGE.matches("{{").count();
        assert_eq!(places, 3);
        for source in [PAGE, STYLE].into_iter().chain(SCRIPT) {
            for word in [
                "innerHTML",
                "insertAdjacent",
                "document.write",
                "eval(",
                "fetch(",
                "@import",
                "url(",
            ] {
                assert!(!source.contains(word), "{word}");
            }
        }
        assert!(PAGE.contains("default-src 'none'"));
        assert!(!SCRIPT.join("").contains("</"));
    }
}
