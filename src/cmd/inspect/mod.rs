//! `tokgate inspect`: what is in a model's files.

mod memory;

use std::fmt::Write;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use indicatif::{DecimalBytes, HumanCount};

use serde::Serialize;
use tokgate_kernels::DType;

use super::{Outcome, model};
use crate::cli::{InspectArgs, InspectFormat};
use crate::engine::inspect::memory::{Memory, Plan};
use crate::engine::inspect::{Entry, Inspection, Share, Sizes, TensorRow};
use crate::render::terminal::{Style, push_wrapped};

/// Columns of text: what every terminal shows.
const WIDTH: u16 = 80;

const WRAPPED: Style = Style {
    width: Some(WIDTH as usize),
    colour: false,
};

/// The JSON: what is in the files, and what it takes to run it.
#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    kind: &'static str,
    #[serde(flatten)]
    inspection: &'a Inspection,
    memory: &'a Memory,
}

/// Runs the subcommand.
///
/// # Errors
/// If the files cannot be read as a model, or its matrices cannot be of the type that was asked for.
pub fn run(args: &InspectArgs) -> anyhow::Result<Outcome> {
    let inspection = Inspection::open(&args.model)?;
    let memory = Memory::new(
        &inspection,
        Plan {
            context: args.ctx.map(|context| context as usize),
            kv: model::kv(args.kv),
            rows: args.ubatch_size,
            dtype: args.dtype.map(DType::from),
        },
    )?;
    super::print(&match args.output {
        InspectFormat::Json => {
            let document = Document {
                schema: inspection.schema_version,
                kind: "inspect",
                inspection: &inspection,
                memory: &memory,
            };
            serde_json::to_string_pretty(&document)? + "\n"
        }
        InspectFormat::Text => text(&args.model.display().to_string(), &inspection, &memory),
    })?;
    Ok(Outcome::Clean)
}

fn text(path: &str, inspection: &Inspection, memory: &Memory) -> String {
    let mut out = format!(
        "{path}: {}, {}",
        inspection.format,
        DecimalBytes(inspection.file_bytes)
    );
    if inspection.files > 1 {
        let _ = write!(out, " in {} files", inspection.files);
    }
    out.push('\n');
    for problem in &inspection.problems {
        push_wrapped(&mut out, "cannot be run: ", problem, WRAPPED);
    }

    let mut about = table();
    let architecture = inspection.architecture.as_deref().unwrap_or("unknown");
    about.add_row(["architecture", &printable(architecture)]);
    if let Some(name) = &inspection.name {
        about.add_row(["name", &printable(name)]);
    }
    for (name, value) in inspection.sizes.iter().flat_map(sizes) {
        about.add_row([name, value.as_str()]);
    }
    about.add_row(["parameters", &HumanCount(inspection.parameters).to_string()]);
    section(&mut out, &about);

    let mut shares = table();
    shares.set_header(["", "tensors", "parameters", "bytes", "share"]);
    for share in &inspection.components {
        shares.add_row(share_row(share, inspection.tensor_bytes));
    }
    shares.add_row([""]);
    for share in &inspection.dtypes {
        shares.add_row(share_row(share, inspection.tensor_bytes));
    }
    align_right(&mut shares, 1..5);
    if !inspection.tensors.is_empty() {
        section(&mut out, &shares);
        memory::write(&mut out, memory);
    }

    out.push('\n');
    let longest = inspection
        .metadata
        .iter()
        .map(|entry| entry.key.len())
        .max();
    for entry in &inspection.metadata {
        let _ = writeln!(
            out,
            "{}",
            metadata_line(entry, longest.unwrap_or(0).min(44))
        );
    }

    let mut tensors = table();
    tensors.set_header(["count", "tensor", "type", "shape", "bytes"]);
    for group in groups(&inspection.tensors) {
        tensors.add_row(group.row());
    }
    align_right(&mut tensors, 0..1);
    align_right(&mut tensors, 4..5);
    if !inspection.tensors.is_empty() {
        section(&mut out, &tensors);
    }
    out
}

/// The sizes in words.
fn sizes(sizes: &Sizes) -> Vec<(&'static str, String)> {
    let mut rows = vec![
        ("layers", sizes.n_layer.to_string()),
        ("embedding", sizes.n_embd.to_string()),
        (
            "heads",
            format!(
                "{} of {}, {} for keys and values",
                sizes.n_head, sizes.head_dim, sizes.n_kv_head
            ),
        ),
        if sizes.n_expert > 0 {
            let (all, used) = (sizes.n_expert, sizes.n_expert_used);
            let experts = format!("{all} of {}, {used} for each token", sizes.n_ff_expert);
            ("experts", experts)
        } else {
            ("feed-forward", sizes.n_ff.to_string())
        },
    ];
    let tied = if sizes.tied { ", head tied" } else { "" };
    rows.push(("vocabulary", format!("{}{tied}", sizes.n_vocab)));
    rows.push(("context", sizes.n_context.to_string()));
    if let Some(window) = sizes.sliding_window {
        rows.push(("window", window.to_string()));
    }
    let rope = format!(
        "{}, {} of {}, base {}, scaling {}",
        sizes.rope_kind, sizes.rope_dims, sizes.head_dim, sizes.rope_theta, sizes.rope_scaling
    );
    rows.push(("rotary", rope));
    rows
}

fn table() -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(WIDTH);
    table
}

fn align_right(table: &mut Table, columns: std::ops::Range<usize>) {
    for column in columns {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

fn section(out: &mut String, table: &Table) {
    out.push('\n');
    for line in table.lines() {
        let _ = writeln!(out, "{}", line.trim_end());
    }
}

fn share_row(share: &Share, all: u64) -> [String; 5] {
    [
        share.name.clone(),
        share.tensors.to_string(),
        HumanCount(share.parameters).to_string(),
        DecimalBytes(share.bytes).to_string(),
        format!("{:.1} %", 100.0 * share.bytes as f64 / all.max(1) as f64),
    ]
}

fn metadata_line(entry: &Entry, key_width: usize) -> String {
    let mut line = format!(" {:key_width$}  ", printable(&entry.key));
    let room = usize::from(WIDTH).saturating_sub(columns(&line));
    match &entry.value {
        serde_json::Value::String(text) => line.push_str(&fitted(&printable(text), room)),
        serde_json::Value::Array(shown) => {
            let len = entry.len.unwrap_or(shown.len());
            let start = format!("{len}: ");
            let elements: Vec<String> = shown.iter().map(ToString::to_string).collect();
            let dots = if len > shown.len() { ", …" } else { "" };
            let elements = format!("{}{dots}", elements.join(", "));
            line.push_str(&start);
            line.push_str(&fitted(&elements, room.saturating_sub(start.len())));
        }
        other => line.push_str(&fitted(&other.to_string(), room)),
    }
    line
}

/// Text on one line, without anything that a terminal would act on.
fn printable(text: &str) -> String {
    let escape = |c: char| c.is_control().then(|| c.escape_default().to_string());
    text.chars()
        .map(|c| escape(c).unwrap_or_else(|| c.into()))
        .collect()
}

/// As much of a line as fits, with dots where it was cut.
fn fitted(line: &str, room: usize) -> String {
    if columns(line) <= room {
        return line.to_owned();
    }
    let mut used = 1;
    let kept = line.chars().take_while(|&c| {
        used += column_width(c);
        used <= room
    });
    kept.chain(['…']).collect()
}

fn columns(line: &str) -> usize {
    line.chars().map(column_width).sum()
}

/// At least as many columns as the character takes: those beyond the Western ones may be wide.
fn column_width(c: char) -> usize {
    if c < '\u{1100}' { 1 } else { 2 }
}

/// Tensors whose names differ in numbers only and which are alike otherwise: the same tensor of many layers.
struct Group<'a> {
    pattern: String,
    first: &'a TensorRow,
    count: usize,
    bytes: u64,
}

fn groups(tensors: &[TensorRow]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    let mut index = std::collections::HashMap::new();
    for tensor in tensors {
        let numberless = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let parts = tensor.name.split('.');
        let parts: Vec<&str> = parts
            .map(|part| if numberless(part) { "*" } else { part })
            .collect();
        let pattern = printable(&parts.join("."));
        let key = (pattern.clone(), &tensor.dtype, &tensor.shape);
        let at = *index.entry(key).or_insert_with(|| {
            groups.push(Group {
                pattern,
                first: tensor,
                count: 0,
                bytes: 0,
            });
            groups.len() - 1
        });
        groups[at].count += 1;
        groups[at].bytes += tensor.bytes;
    }
    groups
}

impl Group<'_> {
    fn row(self) -> [String; 5] {
        let shape: Vec<String> = self.first.shape.iter().map(usize::to_string).collect();
        [
            format!("{} ×", self.count),
            self.pattern,
            printable(&self.first.dtype),
            shape.join(" × "),
            DecimalBytes(self.bytes).to_string(),
        ]
    }
}
