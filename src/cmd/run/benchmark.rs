//! `tokgate run --benchmark`: several prompts, several times each.

use std::fmt::Write;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::{Session, options};
use crate::cli::{MetricsFormat, RunArgs};
use crate::cmd::{Outcome, print};
use crate::engine::sampler::{Sampler, SamplerParams};
use crate::engine::tokenizer::EncodeOptions;
use crate::generation::chat::Template;
use crate::judge::stats::quantile;
use crate::metrics::{Observed, TABLE};
use crate::record::{FIGURES_SCHEMA, Figure};
use crate::workload::prompts::{PROMPTS, Prompt};

/// Figures that every run of a prompt is described by.
const KEYS: [&str; 5] = [
    "decode_rate",
    "prefill_rate",
    "overall_rate",
    "first_token",
    "gap_p50",
];

/// A coefficient of variation above this is flagged, in percent.
const UNSTEADY_PCT: f64 = 5.0;

#[derive(Serialize)]
struct Document {
    schema: u32,
    kind: &'static str,
    model: String,
    model_type: String,
    level: String,
    threads: usize,
    template: Template,
    runs: usize,
    prompts: Vec<Row>,
    summary: Summary,
    /// `PROMPT/FIGURE`, each with its samples.
    figures: Vec<Figure>,
}

#[derive(Serialize)]
struct Row {
    key: &'static str,
    prompt_text: &'static str,
    prompt_tokens: usize,
    generated_tokens: Vec<usize>,
    stats: Vec<Stats>,
}

/// Of one figure over the runs of a prompt.
#[derive(Clone, Serialize)]
struct Stats {
    key: &'static str,
    unit: &'static str,
    mean: f64,
    /// With n − 1 below; 0 for a single run.
    standard_deviation: f64,
    /// 100 · standard_deviation / mean.
    cv_pct: f64,
    /// Whether cv_pct is above 5.
    unsteady: bool,
}

#[derive(Serialize)]
struct Summary {
    /// Mean over the prompts of their mean decode rates.
    overall_avg_tokens_per_second: f64,
    unsteady: Vec<String>,
}

/// Runs the prompts in turn, so that a machine that drifts does so for all of them.
pub fn run(args: &RunArgs, session: &Session) -> anyhow::Result<Outcome> {
    let prompts = match &args.prompts[..] {
        [] => PROMPTS.to_vec(),
        keys => keys
            .iter()
            .map(|key| Prompt::of_key(key))
            .collect::<Result<_, _>>()?,
    };
    let template = Template::of(&session.tokenizer);
    let encoded: Vec<Vec<u32>> = prompts
        .iter()
        .map(|prompt| {
            let text = template.ask(prompt.text);
            session
                .tokenizer
                .encode(text.as_bytes(), EncodeOptions::SPECIAL)
        })
        .collect::<Result<_, _>>()?;
    let bar = ProgressBar::new(((args.runs + 1) * prompts.len()) as u64).with_style(
        ProgressStyle::with_template("{msg:22} {wide_bar} {pos}/{len}, {eta} left")
            .expect("the template is correct"),
    );
    let mut observed: Vec<Vec<Observed>> = vec![Vec::new(); prompts.len()];
    for round in 0..=args.runs {
        for (at, (prompt, tokens)) in prompts.iter().zip(&encoded).enumerate() {
            bar.set_message(prompt.key);
            let mut sampler = Sampler::new(SamplerParams::default())?;
            let options = options(args, args.n_predict.unwrap_or(prompt.max_tokens));
            let (timeline, _) = session.generate(
                tokens,
                options,
                args.sampling.ignore_eos,
                &mut sampler,
                false,
            )?;
            // The first round warms up.
            if round > 0 {
                observed[at].push(Observed {
                    timeline,
                    ..Observed::default()
                });
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let document = document(args, session, template, &prompts, &observed);
    match args.output {
        MetricsFormat::Json => {
            print(&format!("{}\n", serde_json::to_string_pretty(&document)?))?;
        }
        MetricsFormat::Text => print(&text(&document))?,
    }
    Ok(Outcome::Clean)
}

fn document(
    args: &RunArgs,
    session: &Session,
    template: Template,
    prompts: &[Prompt],
    observed: &[Vec<Observed>],
) -> Document {
    let mut rows = Vec::new();
    let mut figures = Vec::new();
    for (prompt, runs) in prompts.iter().zip(observed) {
        let mut stats = Vec::new();
        for definition in TABLE.iter().filter(|row| KEYS.contains(&row.key)) {
            let samples: Vec<f64> = runs.iter().filter_map(definition.value).collect();
            if samples.is_empty() {
                continue;
            }
            let mut sorted = samples.clone();
            sorted.sort_by(f64::total_cmp);
            let mut figure = definition.figure(quantile(&sorted, 0.5));
            figure.key = format!("{}/{}", prompt.key, definition.key);
            stats.push(Stats::of(definition.key, definition.unit, &samples));
            figure.samples = samples;
            figures.push(figure);
        }
        rows.push(Row {
            key: prompt.key,
            prompt_text: prompt.text,
            prompt_tokens: runs.first().map_or(0, |run| run.timeline.prompt_tokens),
            generated_tokens: runs.iter().map(|run| run.timeline.generated).collect(),
            stats,
        });
    }
    let rates = rows.iter().filter_map(|row| row.stat("decode_rate"));
    let rates: Vec<f64> = rates.map(|stats| stats.mean).collect();
    let unsteady = rows.iter().flat_map(|row| {
        let stats = row.stats.iter().filter(|stats| stats.unsteady);
        stats.map(|stats| format!("{}/{}", row.key, stats.key))
    });
    let summary = Summary {
        overall_avg_tokens_per_second: rates.iter().sum::<f64>() / rates.len().max(1) as f64,
        unsteady: unsteady.collect(),
    };
    Document {
        schema: FIGURES_SCHEMA,
        kind: "run_benchmark",
        model: session.loaded.path.display().to_string(),
        model_type: session.loaded.model_type(),
        level: session.rt.level().to_string(),
        threads: session.rt.pool().threads(),
        template,
        runs: args.runs,
        prompts: rows,
        summary,
        figures,
    }
}

impl Row {
    fn stat(&self, key: &str) -> Option<&Stats> {
        self.stats.iter().find(|stats| stats.key == key)
    }
}

impl Stats {
    fn of(key: &'static str, unit: &'static str, samples: &[f64]) -> Self {
        let n = samples.len() as f64;
        let mean = samples.iter().sum::<f64>() / n;
        let square: f64 = samples.iter().map(|sample| (sample - mean).powi(2)).sum();
        let standard_deviation = if n > 1.0 {
            (square / (n - 1.0)).sqrt()
        } else {
            0.0
        };
        let cv_pct = if mean > 0.0 {
            100.0 * standard_deviation / mean
        } else {
            0.0
        };
        Self {
            key,
            unit,
            mean,
            standard_deviation,
            cv_pct,
            unsteady: cv_pct > UNSTEADY_PCT,
        }
    }
}

fn text(document: &Document) -> String {
    let mut text = format!(
        "{}, {} threads, {}, {} runs of each after one that warms up\n\n",
        document.model_type, document.threads, document.level, document.runs
    );
    let _ = writeln!(
        text,
        "{:20} {:>6} {:>9} {:>9} {:>7} {:>7} {:>8} {:>7}",
        "", "", "decode", "", "", "first", "prefill", ""
    );
    let _ = writeln!(
        text,
        "{:20} {:>6} {:>9} {:>9} {:>7} {:>7} {:>8} {:>7}",
        "prompt", "tokens", "tok/s", "± sd", "CV %", "ms", "tok/s", "CV %"
    );
    for row in &document.prompts {
        let mean = |key: &str| row.stat(key).map_or(f64::NAN, |stats| stats.mean);
        let cv = |key: &str| {
            row.stat(key).map_or_else(String::new, |stats| {
                let mark = if stats.unsteady { "!" } else { "" };
                format!("{mark}{:.1}", stats.cv_pct)
            })
        };
        let generated = row.generated_tokens.iter().max().copied().unwrap_or(0);
        let _ = writeln!(
            text,
            "{:20} {:>6} {:>9.2} {:>9.2} {:>7} {:>7.1} {:>8.1} {:>7}",
            row.key,
            format!("{}+{generated}", row.prompt_tokens),
            mean("decode_rate"),
            row.stat("decode_rate")
                .map_or(0.0, |stats| stats.standard_deviation),
            cv("decode_rate"),
            mean("first_token") * 1e3,
            mean("prefill_rate"),
            cv("prefill_rate"),
        );
    }
    let _ = writeln!(
        text,
        "\nmean of the prompts' decode rates: {:.2} tok/s",
        document.summary.overall_avg_tokens_per_second
    );
    if !document.summary.unsteady.is_empty() {
        text.push_str(&crate::render::figures::wrapped(
            "! ",
            &format!(
                "above {UNSTEADY_PCT} % variation: {}. Close what else runs, or raise --runs and -n.",
                document.summary.unsteady.join(", ")
            ),
        ));
    }
    text
}
