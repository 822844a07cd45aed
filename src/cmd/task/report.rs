//! What a task run tells: the original's fields, the same counted without padding, and every rate with its formula.

use std::time::Duration;

use anyhow::Context;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::run::Done;
use crate::cli::MetricsFormat;
use crate::cmd::{experts::usage_of, print};
use crate::generation::batch::{Mode, Phase, Run};
use crate::generation::expert_selections;
use crate::judge::stats::{median_and_deviation, quantile};
use crate::metrics::Selections;
use crate::metrics::experts::ExpertUsage;
use crate::probe::process::Memory;
use crate::record::{Better, FIGURES_SCHEMA, Figure, write_whole};
use crate::render::{experts as drawing, figures};

/// What one repetition took, in seconds.
#[derive(Serialize)]
struct Repetition {
    total: f64,
    prefill: f64,
    decode: f64,
    iterations: Vec<f64>,
}

/// Tokens of one repetition; all have the same as long as their outputs are the same.
#[derive(Serialize)]
struct Tokens {
    prompt: u64,
    /// Those that end a text included.
    sampled: u64,
    prompt_with_padding: u64,
    sampled_with_padding: u64,
    prefill_rows_computed: u64,
    decode_rows_computed: u64,
}

/// Writes and prints what was asked for.
pub fn report(done: &Done<'_>) -> anyhow::Result<()> {
    let usage = expert_usage(done)?;
    if let Some(path) = &done.args.expert_map {
        let usage = usage
            .as_ref()
            .context("--expert-map: the model has no experts; leave the option out")?;
        let title = format!("Experts of {}", done.loaded.model_type());
        write_whole(path, &drawing::heat_map(&title, usage))?;
    }
    let figures = figures(done);
    let document = if done.args.output.is_some() || done.args.format == MetricsFormat::Json {
        let mut text = serde_json::to_string_pretty(&document(done, &figures, usage.as_ref())?)?;
        text.push('\n');
        Some(text)
    } else {
        None
    };
    if let (Some(path), Some(document)) = (&done.args.output, &document) {
        write_whole(path, document)?;
    }
    match (done.args.format, &document) {
        (MetricsFormat::Json, Some(document)) => print(document),
        _ => print(&text(done, &figures, usage.as_ref())),
    }
}

/// The repetition with the median time; of an even number, the faster of the two.
fn median(runs: &[Run]) -> &Run {
    let mut order: Vec<&Run> = runs.iter().collect();
    order.sort_by_key(|run| run.total);
    order[(order.len() - 1) / 2]
}

fn document(
    done: &Done<'_>,
    figures: &[Figure],
    usage: Option<&ExpertUsage>,
) -> anyhow::Result<Value> {
    let run = median(&done.runs);
    let mut fields = Map::new();
    let mut put = |key: &str, value: Value| {
        fields.insert(key.to_owned(), value);
    };
    put("schema", json!(FIGURES_SCHEMA));
    put("kind", json!("task_run"));
    put("model", json!(done.loaded.path.display().to_string()));
    put("model_type", json!(done.loaded.model_type()));
    put("task", json!(done.args.task.display().to_string()));
    put("mode", json!(mode(done.mode).0));
    if let Mode::Packed { parallel } = done.mode {
        put("parallel", json!(parallel));
    }
    put("template", json!(done.template));
    put("threads", json!(done.rt.pool().threads()));
    put("level", json!(done.rt.level().to_string()));
    put("max_new_tokens", json!(done.args.max_new));
    put("warm_up", json!(!done.args.no_warmup));
    put("load_model", json!(done.times.load_model));
    put("load_input", json!(done.times.load_input));
    put("encode_input", json!(done.times.encode_input));
    for (at, time) in run.iterations.iter().enumerate() {
        put(&format!("generate_iter_{at}"), json!(time.as_secs_f64()));
    }
    put("generate_llm", json!(run.total.as_secs_f64()));
    put("decode_outputs", json!(done.times.decode_outputs));
    put("n_input_tokens", json!(run.input_positions));
    put(
        "n_total_tokens",
        json!(run.input_positions + run.output_positions),
    );
    put("n_output_tokens", json!(run.output_positions));
    put("tokens", serde_json::to_value(tokens(done, run))?);
    let seconds = |time: &Duration| time.as_secs_f64();
    let repetitions = done.runs.iter().map(|run| Repetition {
        total: seconds(&run.total),
        prefill: seconds(&run.prefill.time),
        decode: seconds(&run.decode.time),
        iterations: run.iterations.iter().map(seconds).collect(),
    });
    put(
        "repetitions",
        serde_json::to_value(repetitions.collect::<Vec<_>>())?,
    );
    put("same_outputs", json!(done.same_outputs));
    if let Some((right, of)) = done.right {
        put("sorted_right", json!({ "right": right, "of": of }));
    }
    put("figures", serde_json::to_value(figures)?);
    if let Some(usage) = usage {
        put("experts", serde_json::to_value(usage)?);
        put("hot_experts", serde_json::to_value(usage.hot(32))?);
    }
    put("output", json!(done.outputs));
    Ok(Value::Object(fields))
}

fn tokens(done: &Done<'_>, run: &Run) -> Tokens {
    Tokens {
        prompt: done.prompt_tokens,
        sampled: run.sampled,
        prompt_with_padding: run.input_positions,
        sampled_with_padding: run.output_positions,
        prefill_rows_computed: run.prefill.rows,
        decode_rows_computed: run.decode.rows,
    }
}

fn mode(mode: Mode) -> (&'static str, String) {
    match mode {
        Mode::Padded => ("padded", "padded batches".to_owned()),
        Mode::Packed { parallel } => ("packed", format!("packed, {parallel} at a time")),
    }
}

/// A figure's value in one repetition.
type Of = fn(&Run, u64) -> f64;

fn figures(done: &Done<'_>) -> Vec<Figure> {
    let rows: [(&str, &str, Better, &str, Of); 9] = [
        (
            "generate",
            "s",
            Better::Lower,
            "wall clock of all batches",
            |run, _| run.total.as_secs_f64(),
        ),
        (
            "total_rate_padded",
            "tok/s",
            Better::Higher,
            "(in + out with padding) / generate",
            |run, _| (run.input_positions + run.output_positions) as f64 / run.total.as_secs_f64(),
        ),
        (
            "output_rate_padded",
            "tok/s",
            Better::Higher,
            "out with padding / generate",
            |run, _| run.output_positions as f64 / run.total.as_secs_f64(),
        ),
        (
            "total_rate",
            "tok/s",
            Better::Higher,
            "(prompt + sampled tokens) / generate",
            |run, prompt| (prompt + run.sampled) as f64 / run.total.as_secs_f64(),
        ),
        (
            "output_rate",
            "tok/s",
            Better::Higher,
            "sampled tokens / generate",
            |run, _| run.sampled as f64 / run.total.as_secs_f64(),
        ),
        (
            "prefill_rate",
            "tok/s",
            Better::Higher,
            "prompt tokens / time of their passes",
            |run, _| rate(&run.prefill),
        ),
        (
            "decode_rate",
            "tok/s",
            Better::Higher,
            "tokens decoded / time of their passes",
            |run, _| rate(&run.decode),
        ),
        (
            "prefill_gmac_rate",
            "GMAC/s",
            Better::Higher,
            "Σ m·k·n, padding too / the same time",
            |run, _| run.prefill.work.macs as f64 / 1e9 / run.prefill.time.as_secs_f64(),
        ),
        (
            "decode_bandwidth",
            "GB/s",
            Better::Higher,
            "bytes of weights, keys, values / time",
            |run, _| run.decode.work.bytes as f64 / 1e9 / run.decode.time.as_secs_f64(),
        ),
    ];
    let memory = Memory::now();
    let mut figures: Vec<Figure> = rows
        .into_iter()
        .filter_map(|(key, unit, better, formula, of)| {
            let samples: Vec<f64> = done
                .runs
                .iter()
                .map(|run| of(run, done.prompt_tokens))
                .filter(|value| value.is_finite())
                .collect();
            let mut sorted = samples.clone();
            sorted.sort_by(f64::total_cmp);
            (!samples.is_empty()).then(|| Figure {
                key: key.to_owned(),
                value: quantile(&sorted, 0.5),
                unit: unit.to_owned(),
                better: Some(better),
                samples,
                formula: formula.to_owned(),
            })
        })
        .collect();
    for (key, bytes, formula) in [
        ("rss", memory.rss, "VmRSS after the last repetition"),
        (
            "peak_rss",
            memory.hwm,
            "VmHWM: the most since the process began",
        ),
    ] {
        figures.extend(bytes.map(|bytes| Figure {
            key: key.to_owned(),
            value: bytes as f64 / 1_048_576.0,
            unit: "MiB".to_owned(),
            better: Some(Better::Lower),
            samples: Vec::new(),
            formula: formula.to_owned(),
        }));
    }
    figures
}

fn rate(phase: &Phase) -> f64 {
    phase.tokens as f64 / phase.time.as_secs_f64()
}

fn expert_usage(done: &Done<'_>) -> anyhow::Result<Option<ExpertUsage>> {
    let run = median(&done.runs);
    let model = &done.loaded.model;
    let expected = |phase: &Phase| expert_selections(model, phase.rows, phase.with_logits);
    let selections = Selections {
        prefill: expected(&run.prefill),
        decode: expected(&run.decode),
    };
    usage_of(
        model.config(),
        (&run.prefill.work, &run.decode.work),
        selections,
    )
}

fn text(done: &Done<'_>, figures: &[Figure], usage: Option<&ExpertUsage>) -> String {
    let run = median(&done.runs);
    let tokens = tokens(done, run);
    let mut text = format!(
        "{}, {} threads, {}; {}\n{} conversations, {} repetitions; medians, of what is repeated\n\n",
        done.loaded.model_type(),
        done.rt.pool().threads(),
        done.rt.level(),
        mode(done.mode).1,
        done.conversations,
        done.runs.len()
    );
    text += &format!(
        "  tokens              real   with padding\n  prompt        {:>10}     {:>10}\n  sampled       {:>10}     {:>10}\n\n",
        tokens.prompt, tokens.prompt_with_padding, tokens.sampled, tokens.sampled_with_padding
    );
    let times = done.times;
    text += &figures::wrapped(
        "  seconds: ",
        &format!(
            "load_model {:.3}, load_input {:.4}, encode_input {:.4}, prefill {:.3}, decode {:.3}, decode_outputs {:.4}",
            times.load_model,
            times.load_input,
            times.encode_input,
            run.prefill.time.as_secs_f64(),
            run.decode.time.as_secs_f64(),
            times.decode_outputs
        ),
    );
    text.push('\n');
    text += &figures::lines(figures, &["prefill_gmac_rate", "rss"]);
    let totals: Vec<f64> = done
        .runs
        .iter()
        .map(|run| run.total.as_secs_f64())
        .collect();
    if let Some((median, deviation)) = median_and_deviation(&totals) {
        text += &format!(
            "\n  spread of generate: {:.1} % (median absolute deviation)\n",
            100.0 * deviation / median.max(f64::MIN_POSITIVE)
        );
    }
    if let Some((right, of)) = done.right {
        text += &format!("  sorted right: {right} of {of}\n");
    }
    if !done.same_outputs {
        text += &figures::wrapped(
            "  ! ",
            "the repetitions gave different tokens; greedy decoding must not: please report it",
        );
    }
    if let Some(usage) = usage {
        text += &format!("\n{}", drawing::table(usage));
    }
    text
}
