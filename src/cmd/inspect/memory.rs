//! The part of `tokgate inspect` that tells memory by layer type.

use std::fmt::Write;

use super::{align_right, section, table};
use crate::engine::inspect::memory::{Memory, Run};

const MIB: f64 = (1 << 20) as f64;
const GIB: f64 = (1 << 30) as f64;

/// Writes the table and what it adds up to.
pub fn write(out: &mut String, memory: &Memory) {
    let mut rows = table();
    rows.set_header([
        "memory by layer type",
        "type",
        "MiB",
        "params (M)",
        "bytes/param",
    ]);
    for share in &memory.layer_types {
        let indent = if share.of_a_layer { "  " } else { "" };
        rows.add_row(row(
            &format!("{indent}{}", share.layer_type),
            &super::printable(&share.types.join(", ")),
            share.bytes,
            share.parameters,
        ));
    }
    if let Some(run) = &memory.run {
        for cache in ["key cache", "value cache"] {
            rows.add_row(row(cache, &run.kv_type, run.key_bytes, run.key_elements));
        }
    }
    align_right(&mut rows, 2..5);
    section(out, &rows);
    match &memory.run {
        Some(run) => totals(out, memory, run),
        None => {
            let _ = writeln!(out, "\n model {}", size(memory.model_bytes));
        }
    }
}

fn row(name: &str, kind: &str, bytes: u64, elements: u64) -> [String; 5] {
    [
        name.to_owned(),
        kind.to_owned(),
        format!("{:.2}", bytes as f64 / MIB),
        format!("{:.2}", elements as f64 / 1e6),
        format!("{:.4}", bytes as f64 / elements.max(1) as f64),
    ]
}

fn totals(out: &mut String, memory: &Memory, run: &Run) {
    let token = &run.token;
    let giga = |macs: u64| macs as f64 / 1e9;
    let mut lines = table();
    let parameters = format!(
        "{:.2} M in {} layers",
        memory.parameters as f64 / 1e6,
        run.n_layer
    );
    lines.add_row(["parameters", &parameters]);
    lines.add_row(["model", &size(memory.model_bytes)]);
    let positions = format!("{} for {} positions", size(run.kv_bytes), run.context);
    lines.add_row(["KV cache", &positions]);
    let rows = format!(
        "{} for {} tokens a pass",
        size(run.run_state_bytes),
        run.rows
    );
    lines.add_row(["run state", &rows]);
    lines.add_row(["total", &size(run.total_bytes)]);
    let work = format!(
        "{:.4} GMAC of matmuls; attention {:.4} at the first position, {:.4} at the last",
        giga(token.matmul_macs),
        giga(token.first_attention_macs),
        giga(token.last_attention_macs),
    );
    lines.add_row(["one token", &work]);
    let reads = format!(
        "reads {:.3} GB of weights, and at the last position {:.3} GB of keys and values",
        giga(token.weight_bytes),
        giga(token.last_kv_bytes),
    );
    lines.add_row(["", &reads]);
    section(out, &lines);
}

/// In MiB, and from 1 GiB on in GiB as well.
fn size(bytes: u64) -> String {
    let mib = format!("{:.2} MiB", bytes as f64 / MIB);
    if bytes < 1 << 30 {
        return mib;
    }
    format!("{mib} ({:.2} GiB)", bytes as f64 / GIB)
}
