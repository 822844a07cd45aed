//! Where a series of figures changed its level: E-divisive with the t-test and the merging of Hunter.
//!
//! ```text
//! 1. Split   In windows that overlap by half: E-divisive (Matteson, James 2014) takes the place τ < κ that maximises
//!            Q̂(τ, κ) = mn/(m+n) · (2·E|X−Y| − E|X−X'| − E|Y−Y'|),  X = Z[s..τ], Y = Z[τ..κ],
//!            and splits there, as long as Student's t-test tells both sides apart at ten times the wanted p.
//! 2. Merge   Over the whole series: the least credible place is dropped and its neighbours are tested again, until
//!            all have p < the wanted one and move the mean by more than is worth a mark.
//! ```
//!
//! Fleming, Kołaczkowski et al., "Hunter: Using Change Point Detection to Hunt for Performance Regressions"
//! (ICPE 2023), as Apache Otava carries it on; `tests/otava.json` holds its results on the same series, to which these
//! are equal. It is preferred to PELT because nothing has to be known of the noise: no penalty is to be tuned for each
//! bench and machine. Permutations, as in the original E-divisive, would need 10⁵ of them for the p that is asked here.
//!
//! One thing is added: [`Options::min_stay`]. A burst of a neighbour during one run looks like a change of level that
//! lasted for one commit, so a level must last before it is believed, where a clock took the figures.
//!
//! The place is searched for, so p is *not* the rate of false alarms. That is simulated, with the options that are used:
//! see [`Options::clocked`] and `tests/changes.rs`.

use statrs::distribution::{ContinuousCDF, StudentsT};

/// What is a change.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Figures that are looked at together.
    pub window: usize,
    /// How likely two parts of one level may be to look as different as the two sides of a change.
    pub max_p: f64,
    /// The least relative move of the mean, seen from the smaller one.
    pub min_move: f64,
    /// The fewest figures that a level lasts.
    pub min_stay: usize,
}

/// A place where the level changed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ChangePoint {
    /// The first figure of the new level.
    pub at: usize,
    /// What came before, back to the change before it.
    pub before: Level,
    /// What comes after, up to the next change.
    pub after: Level,
    /// How likely one level would look so different on both sides of a place that was given beforehand.
    pub p: f64,
}

/// Figures between two changes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Level {
    /// How many there are.
    pub figures: usize,
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation, of the figures as they are (over n).
    pub deviation: f64,
}

impl Options {
    /// For what a clock measured: fewer than one false change in 5,000 measured commits of one bench, be the noise
    /// normal, such as only adds, or in bursts. A change is marked once its level has lasted for three measurements; +5 %
    /// in noise of 2 % is found after ten with a probability above 0.9.
    pub const fn clocked() -> Self {
        Self {
            window: 50,
            max_p: 1e-5,
            min_move: 0.01,
            min_stay: 3,
        }
    }

    /// For counts, which repeat: every move of more than a thousandth, at once.
    pub const fn counted() -> Self {
        Self {
            min_move: 0.001,
            min_stay: 1,
            ..Self::clocked()
        }
    }
}

impl ChangePoint {
    /// How much the mean moved, in percent of what it was.
    pub fn delta_pct(&self) -> f64 {
        (self.after.mean / self.before.mean - 1.0) * 100.0
    }

    /// The relative move seen from the smaller mean, so that a change and its way back are of one size.
    fn size(&self) -> f64 {
        let ratio = self.after.mean / self.before.mean;
        let size = (ratio - 1.0).abs().max((1.0 / ratio - 1.0).abs());
        if size.is_nan() { 0.0 } else { size }
    }
}

/// The changes of level in `figures`, which are in the order of the commits that were measured; gaps are left out of
/// it. Empty where a figure is not finite.
pub fn change_points(figures: &[f64], options: Options) -> Vec<ChangePoint> {
    if figures.iter().any(|figure| !figure.is_finite()) {
        return Vec::new();
    }
    let places = split(figures, options.window.max(2), relaxed(options.max_p));
    merge(figures, places, options)
}

/// The p of the first step: what it drops is lost, what it keeps is tested again.
fn relaxed(max_p: f64) -> f64 {
    if max_p < 0.05 {
        max_p * 10.0
    } else if max_p < 0.5 {
        max_p * 2.0
    } else {
        max_p
    }
}

/// The candidates of all windows, sorted.
fn split(figures: &[f64], window: usize, max_p: f64) -> Vec<usize> {
    let mut places = Vec::new();
    let mut start = 0;
    while start < figures.len() {
        let end = figures.len().min(start + window);
        let found = split_window(&figures[start..end], max_p);
        let last = found.last().map_or(0, |place| start + place);
        places.extend(found.into_iter().map(|place| start + place));
        start = last.max(start + window / 2);
    }
    places.sort_unstable();
    places.dedup();
    places
}

/// E-divisive: splits the part whose best place promises most, until that place is not credible.
fn split_window(figures: &[f64], max_p: f64) -> Vec<usize> {
    let distances = Distances::of(figures);
    let mut bounds = vec![0, figures.len()];
    loop {
        let mut best: Option<(usize, usize, f64)> = None;
        for (part, ends) in bounds.windows(2).enumerate() {
            if let Some((place, gain)) = distances.best_place(ends[0], ends[1])
                && best.is_none_or(|(_, _, most)| gain > most)
            {
                best = Some((part, place, gain));
            }
        }
        let Some((part, place, _)) = best else { break };
        let (left, right) = (bounds[part]..place, place..bounds[part + 1]);
        if p_value(Level::of(&figures[left]), Level::of(&figures[right])) > max_p {
            break;
        }
        bounds.insert(part + 1, place);
    }
    bounds.pop();
    bounds.remove(0);
    bounds
}

fn merge(figures: &[f64], mut places: Vec<usize>, options: Options) -> Vec<ChangePoint> {
    loop {
        let changes = describe(figures, &places);
        match least_credible(&changes, options) {
            Some(at) => places.remove(at),
            None => return changes,
        };
    }
}

fn describe(figures: &[f64], places: &[usize]) -> Vec<ChangePoint> {
    let mut bounds = vec![0];
    bounds.extend(places);
    bounds.push(figures.len());
    let levels: Vec<Level> = bounds
        .windows(2)
        .map(|ends| Level::of(&figures[ends[0]..ends[1]]))
        .collect();
    let change = |(at, levels): (&usize, &[Level])| ChangePoint {
        at: *at,
        before: levels[0],
        after: levels[1],
        p: p_value(levels[0], levels[1]),
    };
    places.iter().zip(levels.windows(2)).map(change).collect()
}

/// The change to drop next, if one is to be dropped: the least likely, else the smallest, else the less likely end of
/// the level that lasted least.
fn least_credible(changes: &[ChangePoint], options: Options) -> Option<usize> {
    let (unlikely, change) = first_max(changes, |change| change.p)?;
    if change.p >= options.max_p {
        return Some(unlikely);
    }
    let (small, change) = first_max(changes, |change| -change.size())?;
    if change.size() <= options.min_move {
        return Some(small);
    }
    let shortest = |change: &ChangePoint| change.before.figures.min(change.after.figures);
    let least = changes.iter().map(shortest).min()?;
    if least >= options.min_stay {
        return None;
    }
    let rank = |change: &ChangePoint| {
        if shortest(change) == least {
            change.p
        } else {
            f64::NEG_INFINITY
        }
    };
    first_max(changes, rank).map(|(at, _)| at)
}

fn first_max(
    changes: &[ChangePoint],
    rank: impl Fn(&ChangePoint) -> f64,
) -> Option<(usize, &ChangePoint)> {
    let mut best: Option<(usize, &ChangePoint)> = None;
    for (at, change) in changes.iter().enumerate() {
        if best.is_none_or(|(_, most)| rank(change) > rank(most)) {
            best = Some((at, change));
        }
    }
    best
}

impl Level {
    fn of(figures: &[f64]) -> Self {
        let count = figures.len() as f64;
        let mean = figures.iter().sum::<f64>() / count;
        let square = |figure: &f64| (figure - mean) * (figure - mean);
        Self {
            figures: figures.len(),
            mean,
            deviation: (figures.iter().map(square).sum::<f64>() / count).sqrt(),
        }
    }
}

/// Student's two-sided t-test with pooled variance. As in Otava, the deviations go into it as they are, over n.
fn p_value(left: Level, right: Level) -> f64 {
    let [n, m] = [left.figures as f64, right.figures as f64];
    let freedom = n + m - 2.0;
    let distance = (right.mean - left.mean).abs();
    // Sums of one and the same figure differ by roundings.
    let rounding = 1e-12 * left.mean.abs().max(right.mean.abs());
    if freedom < 1.0 || distance <= rounding {
        return 1.0;
    }
    let squares = (n - 1.0) * left.deviation.powi(2) + (m - 1.0) * right.deviation.powi(2);
    let error = (squares / freedom * (1.0 / n + 1.0 / m)).sqrt();
    if error <= rounding {
        return 0.0;
    }
    match StudentsT::new(0.0, 1.0, freedom) {
        Ok(student) => 2.0 * student.cdf(-distance / error),
        Err(_) => 1.0,
    }
}

/// Sums of all distances between the figures of a window: `sums[i][j]` over the first i and the first j of them.
struct Distances {
    count: usize,
    sums: Vec<f64>,
}

impl Distances {
    fn of(figures: &[f64]) -> Self {
        let count = figures.len();
        let width = count + 1;
        let mut sums = vec![0.0; width * width];
        for (i, a) in figures.iter().enumerate() {
            let mut row = 0.0;
            for (j, b) in figures.iter().enumerate() {
                row += (a - b).abs();
                sums[(i + 1) * width + j + 1] = sums[i * width + j + 1] + row;
            }
        }
        Self { count, sums }
    }

    /// The sum of the distances between the figures of `[a, b)` and those of `[c, d)`.
    fn between(&self, (a, b): (usize, usize), (c, d): (usize, usize)) -> f64 {
        let sum = |i: usize, j: usize| self.sums[i * (self.count + 1) + j];
        sum(b, d) - sum(a, d) - sum(b, c) + sum(a, c)
    }

    /// The place τ in `[start, end)` that maximises Q̂(τ, κ) for some κ, and the maximum; `None` for fewer than two
    /// figures.
    fn best_place(&self, start: usize, end: usize) -> Option<(usize, f64)> {
        let mut best: Option<(usize, f64)> = None;
        for place in start + 1..end {
            let left = (start, place);
            let n = (place - start) as f64;
            // Each pair is in the sum twice, which the formula's factor 2 makes up for; one figure has no pair.
            let inside_left = self.between(left, left) / (n - 1.0).max(1.0);
            for last in place + 1..=end {
                let right = (place, last);
                let m = (last - place) as f64;
                let inside_right = self.between(right, right) / (m - 1.0).max(1.0);
                let gain = (2.0 * self.between(left, right) - m * inside_left - n * inside_right)
                    / (n + m);
                if best.is_none_or(|(_, most)| gain > most) {
                    best = Some((place, gain));
                }
            }
        }
        best
    }
}
