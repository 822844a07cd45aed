//! Result files side by side: every figure, and how far the others are from the first. No verdict: these are single
//! runs, and who made them knows what they meant to change.

use serde::Serialize;

use crate::record::results::{Better, Results};

/// Figures of several files, in the order of the first that has them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SideBySide {
    /// Names of the columns.
    pub columns: Vec<Column>,
    /// One row a figure.
    pub rows: Vec<Row>,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Column {
    /// What to call it.
    pub label: String,
    /// What made it.
    pub kind: String,
}

/// A figure of all files.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Its name.
    pub metric: String,
    /// Which way it gets better; a description has none.
    pub better: Option<Better>,
    /// By column; `None` where a file lacks it.
    pub cells: Vec<Option<Cell>>,
}

/// A figure of one file.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Cell {
    /// The figure.
    pub value: f64,
    /// The standard deviation of what it was computed from.
    pub deviation: Option<f64>,
    /// (value / first − 1) · 100, unrounded; `None` in the first column, and where the first is 0 and this is not.
    pub difference_pct: Option<f64>,
    /// What the difference means.
    pub effect: Effect,
}

/// What a difference from the first column means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// There is none to speak of: a description, or the same figure.
    None,
    /// In the direction in which the figure gets better.
    Better,
    /// In the other.
    Worse,
    /// Not larger than the deviations together, √(a² + b²).
    WithinSpread,
}

/// Puts files side by side.
pub fn side_by_side(files: &[(String, Results)]) -> SideBySide {
    let mut rows: Vec<Row> = Vec::new();
    for (column, (_, results)) in files.iter().enumerate() {
        // Where a figure that only later files have goes: behind the one before it there.
        let mut place = 0;
        for figure in &results.figures {
            let found = rows.iter().position(|row| row.metric == figure.name);
            let at = found.unwrap_or_else(|| {
                let row = Row {
                    metric: figure.name.clone(),
                    better: figure.better,
                    cells: vec![None; files.len()],
                };
                rows.insert(place, row);
                place
            });
            place = at + 1;
            rows[at].cells[column] = Some(Cell {
                value: figure.value,
                deviation: figure.deviation,
                difference_pct: None,
                effect: Effect::None,
            });
        }
    }
    for row in &mut rows {
        let (first, better) = (row.cells[0], row.better);
        for cell in row.cells.iter_mut().skip(1).flatten() {
            if let Some(first) = first {
                cell.weigh(first, better);
            }
        }
    }
    SideBySide {
        columns: files
            .iter()
            .map(|(label, results)| Column {
                label: label.clone(),
                kind: results.kind.clone(),
            })
            .collect(),
        rows,
    }
}

impl SideBySide {
    /// Whether any figure is in more than one file.
    pub fn has_common_rows(&self) -> bool {
        let is_common = |row: &Row| row.cells.iter().flatten().count() > 1;
        self.rows.iter().any(is_common)
    }
}

impl Cell {
    fn weigh(&mut self, first: Self, better: Option<Better>) {
        self.difference_pct = if self.value == first.value {
            Some(0.0)
        } else {
            Some((self.value / first.value - 1.0) * 100.0).filter(|percent| percent.is_finite())
        };
        let difference = self.value - first.value;
        let spread = match (first.deviation, self.deviation) {
            (None, None) => None,
            (one, other) => Some(one.unwrap_or(0.0).hypot(other.unwrap_or(0.0))),
        };
        self.effect = match better {
            None => Effect::None,
            Some(_) if difference == 0.0 => Effect::None,
            Some(_) if spread.is_some_and(|spread| difference.abs() <= spread) => {
                Effect::WithinSpread
            }
            Some(better) if (difference > 0.0) == (better == Better::Higher) => Effect::Better,
            Some(_) => Effect::Worse,
        };
    }
}
