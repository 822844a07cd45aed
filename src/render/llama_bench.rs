//! Results of `tokgate bench` as llama-bench prints them: Markdown, JSON, JSON Lines and CSV, row by row as they come.

use serde_json::Value;

use crate::record::llama_bench::LlamaBench;

/// An output format of llama-bench.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A table.
    Markdown,
    /// An array of objects.
    Json,
    /// An object a line.
    JsonLines,
    /// A header, then quoted values; samples are left out, as llama-bench does.
    Csv,
}

/// Columns of the table that are shown only where they differ from llama-bench's defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Columns {
    /// `n_ubatch`.
    pub ubatch: bool,
    /// `type_k` and `type_v`.
    pub kv: bool,
    /// What the machine can do at most.
    pub limit: bool,
}

/// Renders results one after the other.
#[derive(Debug)]
pub struct Renderer {
    format: Format,
    columns: Columns,
    rows: usize,
}

impl Renderer {
    /// A renderer that has rendered nothing yet.
    pub fn new(format: Format, columns: Columns) -> Self {
        Self {
            format,
            columns,
            rows: 0,
        }
    }

    /// What comes before and of a row.
    pub fn row(&mut self, row: &LlamaBench) -> String {
        let first = self.rows == 0;
        self.rows += 1;
        match self.format {
            Format::Markdown if first => self.markdown_header() + &self.markdown_row(row),
            Format::Markdown => self.markdown_row(row),
            Format::Json => format!("{}{}", if first { "[\n" } else { ",\n" }, json_object(row)),
            Format::JsonLines => format!("{}\n", Value::Object(object(row))),
            Format::Csv if first => csv_header(row) + &csv_row(row),
            Format::Csv => csv_row(row),
        }
    }

    /// What comes after the last row.
    pub fn end(&self, build_commit: &str, build_number: u64) -> String {
        match self.format {
            Format::Markdown => format!("\nbuild: {build_commit} ({build_number})\n"),
            Format::Json if self.rows == 0 => "[\n\n]\n".to_owned(),
            Format::Json => "\n]\n".to_owned(),
            Format::JsonLines | Format::Csv => String::new(),
        }
    }

    /// Names, widths (llama-bench's own for its own columns) and whether to align to the left.
    fn markdown_columns(&self) -> Vec<(&'static str, usize, bool)> {
        let mut columns = vec![
            ("model", 30, true),
            ("size", 10, false),
            ("params", 10, false),
            ("backend", 10, true),
            ("threads", 7, false),
        ];
        if self.columns.ubatch {
            columns.push(("n_ubatch", 8, false));
        }
        if self.columns.kv {
            columns.extend([("type_k", 6, false), ("type_v", 6, false)]);
        }
        columns.extend([
            ("test", 15, false),
            ("t/s", 20, false),
            ("level", 10, true),
            ("GB/s", 6, false),
            ("GMAC/s", 6, false),
        ]);
        if self.columns.limit {
            columns.push(("of the limit", 12, false));
        }
        columns
    }

    fn markdown_header(&self) -> String {
        let mut names = "|".to_owned();
        let mut rule = "|".to_owned();
        for (name, width, left) in self.markdown_columns() {
            names += &cell(name, width, left);
            let dashes = "-".repeat(width - 1);
            rule += &format!(" {dashes}{} |", if left { '-' } else { ':' });
        }
        format!("{names}\n{rule}\n")
    }

    fn markdown_row(&self, row: &LlamaBench) -> String {
        let mut line = "|".to_owned();
        for (name, width, left) in self.markdown_columns() {
            let value = match name {
                "model" => row.model_type.clone(),
                "size" => size(row.model_size),
                "params" => params(row.model_n_params),
                "backend" => row.backends.clone(),
                "threads" => row.n_threads.to_string(),
                "n_ubatch" => row.n_ubatch.to_string(),
                "type_k" => row.type_k.clone(),
                "type_v" => row.type_v.clone(),
                "test" => row.test(),
                "t/s" => format!("{:.2} ± {:.2}", row.avg_ts, row.stddev_ts),
                "level" => row.level.clone(),
                "GB/s" => format!("{:.1}", row.avg_gbs),
                "of the limit" => limit(row),
                _ => format!("{:.1}", row.avg_gmacs),
            };
            line += &cell(&value, width, left);
        }
        line + "\n"
    }
}

/// Percent and resource; a mark behind what cannot be.
fn limit(row: &LlamaBench) -> String {
    let (Some(pct), Some(resource)) = (row.limit_pct, &row.limit_resource) else {
        return "-".to_owned();
    };
    let mark = if row.is_beyond_limit() { " !" } else { "" };
    format!("{pct:.0} % {resource}{mark}")
}

fn cell(value: &str, width: usize, left: bool) -> String {
    if left {
        format!(" {value:<width$} |")
    } else {
        format!(" {value:>width$} |")
    }
}

fn size(bytes: u64) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    if bytes < 1 << 30 {
        format!("{mib:.2} MiB")
    } else {
        format!("{:.2} GiB", mib / 1024.0)
    }
}

fn params(params: u64) -> String {
    if params < 1_000_000_000 {
        format!("{:.2} M", params as f64 / 1e6)
    } else {
        format!("{:.2} B", params as f64 / 1e9)
    }
}

/// The row's keys in llama-bench's order.
fn object(row: &LlamaBench) -> serde_json::Map<String, Value> {
    match serde_json::to_value(row) {
        Ok(Value::Object(object)) => object,
        // A struct of strings, numbers and lists of numbers always is an object.
        _ => unreachable!("a result is an object"),
    }
}

fn json_object(row: &LlamaBench) -> String {
    let fields: Vec<String> = object(row)
        .iter()
        .map(|(key, value)| format!("    {}: {value}", Value::from(key.as_str())))
        .collect();
    format!("  {{\n{}\n  }}", fields.join(",\n"))
}

fn csv_header(row: &LlamaBench) -> String {
    let keys: Vec<String> = object(row)
        .into_iter()
        .filter(|(_, v)| !v.is_array())
        .map(|(key, _)| key)
        .collect();
    keys.join(",") + "\n"
}

fn csv_row(row: &LlamaBench) -> String {
    let quoted = |value: &Value| {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            value => value.to_string(),
        };
        format!("\"{}\"", text.replace('"', "\"\""))
    };
    let values: Vec<String> = object(row)
        .values()
        .filter(|value| !value.is_array())
        .map(quoted)
        .collect();
    values.join(",") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result() -> LlamaBench {
        LlamaBench {
            build_commit: "0123abcde".to_owned(),
            build_number: 42,
            cpu_info: "A \"fast\" CPU, at 3 GHz".to_owned(),
            gpu_info: String::new(),
            backends: "CPU".to_owned(),
            model_filename: "model.gguf".to_owned(),
            model_type: "qwen3 0.6B Q8_0".to_owned(),
            model_size: 633_495_552,
            model_n_params: 596_049_920,
            n_batch: 2048,
            n_ubatch: 512,
            n_threads: 2,
            cpu_mask: "0x0".to_owned(),
            cpu_strict: false,
            poll: 50,
            type_k: "bf16".to_owned(),
            type_v: "bf16".to_owned(),
            n_gpu_layers: 0,
            n_cpu_moe: 0,
            split_mode: "layer".to_owned(),
            main_gpu: 0,
            no_kv_offload: false,
            flash_attn: 1,
            devices: "auto".to_owned(),
            tensor_split: "0.00".to_owned(),
            tensor_buft_overrides: "none".to_owned(),
            use_mmap: true,
            load_mode: "mmap".to_owned(),
            embeddings: false,
            no_op_offload: 0,
            no_host: false,
            fit_target: 0,
            fit_min_ctx: 0,
            n_prompt: 512,
            n_gen: 0,
            n_depth: 0,
            test_time: "2026-01-02T03:04:05Z".to_owned(),
            avg_ns: 1_000_000_000,
            stddev_ns: 2_000_000,
            avg_ts: 512.0,
            stddev_ts: 1.0239,
            level: "avx512bf16".to_owned(),
            macs: 241_000_000_000,
            bytes: 633_000_000,
            avg_gmacs: 241.0,
            avg_gbs: 0.633,
            samples_ns: vec![998_000_000, 1_002_000_000],
            samples_ts: vec![513.026, 510.978],
            limit_resource: Some("int8".to_owned()),
            limit_gbs: Some(30.0),
            limit_gmacs: Some(457.0),
            limit_pct: Some(52.7),
        }
    }

    fn rendered(format: Format) -> String {
        let mut renderer = Renderer::new(
            format,
            Columns {
                limit: true,
                ..Columns::default()
            },
        );
        let deep = LlamaBench {
            n_prompt: 0,
            n_gen: 128,
            n_depth: 4096,
            limit_resource: Some("read".to_owned()),
            limit_pct: Some(105.4),
            ..result()
        };
        renderer.row(&result()) + &renderer.row(&deep) + &renderer.end("0123abcde", 42)
    }

    #[test]
    fn markdown_is_llama_benchs_table() {
        insta::assert_snapshot!(rendered(Format::Markdown));
    }

    #[test]
    fn json_and_json_lines_read_back() {
        let array: Vec<LlamaBench> = serde_json::from_str(&rendered(Format::Json)).unwrap();
        assert_eq!(array[0], result());
        assert_eq!(array[1].test(), "tg128 @ d4096");
        let lines = rendered(Format::JsonLines);
        let lines: Vec<LlamaBench> = lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines, array);
        let keys: Vec<String> = object(&result()).into_iter().map(|(key, _)| key).collect();
        assert_eq!(
            keys[..2],
            ["build_commit", "build_number"],
            "the order is llama-bench's"
        );
    }

    #[test]
    fn csv_quotes_what_needs_it() {
        let text = rendered(Format::Csv);
        let mut lines = text.lines();
        let header = lines.next().unwrap();
        assert!(header.starts_with("build_commit,build_number,cpu_info,"));
        assert!(
            header.ends_with("avg_gmacs,avg_gbs,limit_resource,limit_gbs,limit_gmacs,limit_pct")
        );
        assert!(
            lines
                .next()
                .unwrap()
                .contains(r#","A ""fast"" CPU, at 3 GHz","#)
        );
        assert_eq!(lines.count(), 1);
    }

    #[test]
    fn what_was_not_probed_is_left_open() {
        let unknown = LlamaBench {
            limit_resource: None,
            limit_gbs: None,
            limit_gmacs: None,
            limit_pct: None,
            ..result()
        };
        assert!(!unknown.is_beyond_limit());
        assert_eq!(limit(&unknown), "-");
        assert!(csv_row(&unknown).ends_with(",\"\",\"\",\"\",\"\"\n"));
        let mut older = object(&unknown);
        older.retain(|key, _| !key.starts_with("limit"));
        let older: LlamaBench = serde_json::from_value(Value::Object(older)).unwrap();
        assert_eq!(older, unknown);
    }

    #[test]
    fn no_rows_are_still_json() {
        let renderer = Renderer::new(Format::Json, Columns::default());
        assert_eq!(
            renderer.end("c", 1).parse::<Value>().unwrap(),
            Value::Array(Vec::new())
        );
    }
}
