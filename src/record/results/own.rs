//! The project's own JSON: every file has a `schema` and a `kind`, and most have `figures`.

use serde_json::{Map, Value};

use super::{Better, MAX_FIGURES, ResultFigure, Results, ResultsError, numbers};

/// The version of the files that is read.
pub(super) const SCHEMA: u32 = 1;

/// Keys by which the elements of a list are told apart.
const NAMES: [&str; 4] = ["key", "name", "prompt", "threads"];

/// Reads a file with `schema` and `kind`, or one of the prompts' script that the format comes from, which has neither.
pub(super) fn json(value: &Value) -> Option<Result<Results, ResultsError>> {
    let fields = value.as_object()?;
    let kind = fields.get("kind").and_then(Value::as_str);
    let Some((kind, schema)) = kind.zip(fields.get("schema")) else {
        return prompts(fields).map(Ok);
    };
    if schema.as_u64() != Some(u64::from(SCHEMA)) {
        return Some(Err(ResultsError::Version {
            kind: kind.chars().take(40).collect(),
            found: schema.to_string().chars().take(20).collect(),
        }));
    }
    if kind == "prompts" {
        return prompts(fields).map(Ok);
    }
    // A verdict on two runs is not a result of one.
    if kind.starts_with("comparison") {
        return None;
    }
    let mut walk = Walk {
        named: Results::new(kind),
        plain: Results::new(kind),
    };
    walk.object(fields, "");
    let results = match walk.named.figures.is_empty() {
        true => walk.plain,
        false => walk.named,
    };
    Some(Ok(results))
}

/// What `tokgate prompts` writes.
fn prompts(fields: &Map<String, Value>) -> Option<Results> {
    let prompts = fields.get("prompts")?.as_object()?;
    let summary = fields.get("summary")?;
    let mut results = Results::new("prompts");
    let higher = Some(Better::Higher);
    for (key, prompt) in prompts {
        let (stats, runs) = (prompt.get("stats")?, prompt.get("results"));
        let samples = |of: &[&str]| -> Vec<f64> {
            let runs = runs.and_then(Value::as_array).into_iter().flatten();
            runs.filter_map(|run| of.iter().try_fold(run, |at, key| at.get(key))?.as_f64())
                .collect()
        };
        let figures: [(&str, &str, &[&str], Option<Better>); 5] = [
            (
                "tok/s",
                "avg_tokens_per_second",
                &["tokens_per_second"],
                higher,
            ),
            (
                "tok/s by the server's clock",
                "avg_server_tokens_per_second",
                &["server", "tokens_per_second"],
                higher,
            ),
            (
                "tok/s end to end",
                "avg_end_to_end_tokens_per_second",
                &["end_to_end_tokens_per_second"],
                higher,
            ),
            (
                "TTFT (ms)",
                "avg_first_token_ms",
                &["first_token_ms"],
                Some(Better::Lower),
            ),
            ("tokens", "avg_tokens", &["tokens"], None),
        ];
        for (name, key_of, samples_of, better) in figures {
            if let Some(value) = stats.get(key_of).and_then(Value::as_f64) {
                let figure = ResultFigure::new(format!("{key} {name}"), value, better);
                results.push(figure.with_samples(&samples(samples_of)));
            }
        }
        if let Some(rate) = stats.get("success_rate").and_then(Value::as_f64) {
            let name = format!("{key} success (%)");
            results.push(ResultFigure::new(name, rate * 100.0, higher));
        }
    }
    let overall = summary.get("overall_avg_tokens_per_second");
    if let Some(value) = overall.and_then(Value::as_f64) {
        results.push(ResultFigure::new("overall tok/s", value, higher));
    }
    Some(results)
}

/// Collects figures wherever they are: named ones with a unit, and all other numbers in case there are none of those.
struct Walk {
    named: Results,
    plain: Results,
}

impl Walk {
    fn object(&mut self, fields: &Map<String, Value>, path: &str) {
        if let Some(figure) = named(fields, path) {
            self.named.push(figure);
            return;
        }
        for (key, value) in fields {
            // The list of figures is where they are, not what they are of.
            let inner = match key.as_str() {
                "figures" => path.to_owned(),
                _ => joined(path, key),
            };
            self.value(value, &inner);
        }
    }

    fn value(&mut self, value: &Value, path: &str) {
        match value {
            Value::Object(fields) => self.object(fields, path),
            Value::Array(elements) => {
                // Raw samples are not figures, and a list without names is one of them.
                for (at, element) in elements.iter().enumerate() {
                    let Value::Object(fields) = element else {
                        continue;
                    };
                    if named(fields, path).is_some() {
                        self.object(fields, path);
                        continue;
                    }
                    let name = NAMES.iter().find_map(|key| match fields.get(*key)? {
                        Value::String(text) => Some(text.clone()),
                        Value::Number(number) => Some(format!("{key}={number}")),
                        _ => None,
                    });
                    let name = name.unwrap_or_else(|| at.to_string());
                    self.object(fields, &joined(path, &name));
                }
            }
            Value::Number(number) if path != "schema" => {
                if let Some(number) = number.as_f64()
                    && self.plain.figures.len() <= MAX_FIGURES
                {
                    // Paths are unique: there is no need to look for one of that name.
                    let figure = ResultFigure::new(path, number, None);
                    self.plain.figures.push(figure);
                }
            }
            _ => {}
        }
    }
}

fn joined(path: &str, key: &str) -> String {
    match path.is_empty() {
        true => key.to_owned(),
        false => format!("{path} {key}"),
    }
}

/// `{key, value, unit, better?, samples?}`.
fn named(fields: &Map<String, Value>, path: &str) -> Option<ResultFigure> {
    let key = fields.get("key")?.as_str()?;
    let value = fields.get("value")?.as_f64()?;
    let unit = fields.get("unit")?.as_str()?;
    let better = match fields.get("better").and_then(Value::as_str) {
        Some("lower") => Some(Better::Lower),
        Some("higher") => Some(Better::Higher),
        _ => None,
    };
    let unit = match unit.is_empty() {
        true => String::new(),
        false => format!(" ({unit})"),
    };
    let figure = ResultFigure::new(joined(path, &format!("{key}{unit}")), value, better);
    Some(figure.with_samples(&numbers(fields.get("samples"))))
}
