//! The sort task on the small trained models, through the library and through the command.

use std::path::PathBuf;
use std::process::Output;

use assert_cmd::Command;
use serde_json::Value;
use tokgate::engine::forward::Model;
use tokgate::engine::model_file::ModelFile;
use tokgate::engine::tokenizer::{EncodeOptions, Tokenizer};
use tokgate::engine::weights::LoadOptions;
use tokgate::generation::batch::{self, Mode, Options, Run};
use tokgate::generation::chat::Template;
use tokgate::workload::sort::{SortTask, Task, is_right};
use tokgate_kernels::{DType, Level, PoolOptions, Runtime};

/// Models that were trained to sort.
const TRAINED: [&str; 2] = ["dense", "moe"];

fn model(kind: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/tests/models");
    folder.join(format!("sort-{kind}.gguf"))
}

struct Sorter {
    model: Model,
    tokenizer: Tokenizer,
    rt: Runtime,
}

impl Sorter {
    fn new(kind: &str, dtype: Option<DType>) -> Self {
        let options = LoadOptions {
            dtype,
            ..LoadOptions::default()
        };
        let file = ModelFile::open(&model(kind), options).unwrap();
        let options = PoolOptions {
            threads: 2,
            pin: false,
        };
        Self {
            tokenizer: file.vocabulary.tokenizer().unwrap(),
            model: Model::new(file.config, file.weights).unwrap(),
            rt: Runtime::with_level(Level::from_env().unwrap(), options).unwrap(),
        }
    }

    fn encode(&self, task: &Task) -> Vec<Vec<Vec<u32>>> {
        let template = Template::of(&self.tokenizer);
        assert_eq!(template, Template::ChatMl);
        let encode = |messages: &Vec<_>| {
            let text = template.prompt(messages);
            self.tokenizer
                .encode(text.as_bytes(), EncodeOptions::SPECIAL)
                .unwrap()
        };
        task.iter()
            .map(|batch| batch.iter().map(encode).collect())
            .collect()
    }

    fn run(&self, task: &Task, mode: Mode) -> Run {
        let options = Options {
            mode,
            max_new: 12,
            ubatch: 128,
            kv: DType::Bf16,
        };
        let ends = |token| self.tokenizer.ends_generation(token);
        batch::run(&self.model, &self.rt, &self.encode(task), options, 2, &ends).unwrap()
    }

    /// Share of the tasks that are answered right.
    fn right(&self, task: &Task, run: &Run) -> f64 {
        let verdicts = task
            .iter()
            .flatten()
            .zip(&run.outputs)
            .map(|(messages, tokens)| {
                let text = self.tokenizer.decode(tokens, false).unwrap();
                is_right(&messages[0].content, std::str::from_utf8(&text).unwrap()).unwrap()
            });
        let verdicts: Vec<bool> = verdicts.collect();
        verdicts.iter().filter(|right| **right).count() as f64 / verdicts.len() as f64
    }
}

/// Tasks that no training saw: NumPy's numbers are drawn by another generator than the training's.
fn held_out(ints: usize, per_batch: usize) -> Task {
    let task = SortTask {
        batches: 1,
        per_batch,
        ints,
        below: 100,
        seed: 2_025_001,
    };
    serde_json::from_str(&task.json().unwrap()).unwrap()
}

#[test]
fn trained_models_sort_what_they_never_saw() {
    for kind in TRAINED {
        for dtype in [None, Some(DType::Q8_0)] {
            let sorter = Sorter::new(kind, dtype);
            let task: Task = (5..=8).flat_map(|ints| held_out(ints, 64)).collect();
            let run = sorter.run(&task, Mode::Packed { parallel: 32 });
            let right = sorter.right(&task, &run);
            println!("{kind} {dtype:?}: {:.1} % right", 100.0 * right);
            assert!(right >= 0.9, "{kind} {dtype:?}: {right}");
        }
    }
}

#[test]
fn padding_changes_what_is_computed_and_not_what_comes_out() {
    let sorter = Sorter::new("dense", None);
    let task: Task = vec![
        [3, 8, 5]
            .iter()
            .flat_map(|ints| held_out(*ints, 2)[0].clone())
            .collect();
        2
    ];
    let padded = sorter.run(&task, Mode::Padded);
    let packed = sorter.run(&task, Mode::Packed { parallel: 5 });
    assert_eq!(padded.outputs, packed.outputs);
    assert_eq!((padded.iterations.len(), packed.iterations.len()), (2, 1));

    let prompts: Vec<usize> = sorter
        .encode(&task)
        .iter()
        .flatten()
        .map(Vec::len)
        .collect();
    let (real, longest): (usize, usize) = (prompts.iter().sum(), *prompts.iter().max().unwrap());
    assert_eq!(packed.input_positions, real as u64);
    assert_eq!(padded.input_positions, (prompts.len() * longest) as u64);
    assert_eq!(padded.prefill.rows, padded.input_positions);
    assert_eq!(
        (padded.prefill.tokens, packed.prefill.tokens),
        (real as u64, real as u64)
    );
    assert_eq!(padded.sampled, packed.sampled);
    assert_eq!(packed.output_positions, packed.sampled);
    assert!(padded.output_positions > padded.sampled);
    // Every sampled token but the first of each sequence is one that was decoded.
    assert_eq!(packed.decode.tokens, packed.sampled - prompts.len() as u64);
    assert!(padded.decode.rows > packed.decode.rows);
}

fn tokgate(args: &[&str]) -> Output {
    Command::cargo_bin("tokgate")
        .unwrap()
        .args(args)
        .output()
        .unwrap()
}

fn json(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn figure(document: &Value, key: &str) -> f64 {
    let figures = document["figures"].as_array().unwrap();
    let found = figures.iter().find(|figure| figure["key"] == key);
    found.unwrap_or_else(|| panic!("no {key}"))["value"]
        .as_f64()
        .unwrap()
}

#[test]
fn a_task_file_is_made_run_and_reported() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (task, out) = (path("task.json"), path("out.json"));
    let made = tokgate(&["task", "sort", "2", "3", "6", "7", &task, "--below", "100"]);
    assert!(made.status.success());
    let model = model("dense");
    let run = tokgate(&[
        "task",
        "run",
        "-m",
        model.to_str().unwrap(),
        &task,
        "-t",
        "2",
        "--max-new",
        "16",
        "-r",
        "2",
        "--mode",
        "padded",
        "-o",
        &out,
    ]);
    let text = String::from_utf8(run.stdout).unwrap();
    assert!(
        run.status.success() && text.contains("sorted right: "),
        "{text}"
    );
    assert!(
        text.lines().all(|line| line.chars().count() <= 80),
        "{text}"
    );
    let document: Value = serde_json::from_slice(&std::fs::read(&out).unwrap()).unwrap();
    for key in [
        "load_model",
        "load_input",
        "encode_input",
        "generate_iter_0",
        "generate_iter_1",
        "generate_llm",
        "decode_outputs",
    ] {
        assert!(
            document[key].as_f64().is_some_and(|seconds| seconds >= 0.0),
            "{key}"
        );
    }
    let count = |key: &str| document[key].as_u64().unwrap();
    assert_eq!(
        count("n_total_tokens"),
        count("n_input_tokens") + count("n_output_tokens")
    );
    assert_eq!(document["output"].as_array().unwrap().len(), 6);
    assert_eq!(
        (&document["kind"], &document["schema"]),
        (&"task_run".into(), &1.into())
    );
    assert_eq!(document["same_outputs"], true);
}

#[test]
fn a_run_tells_its_metrics() {
    let model = model("dense");
    let prompt = "<|im_start|>user\nSort the following numbers from smallest to largest: 9, 70, 3<|im_end|>\n\
                  <|im_start|>assistant\n";
    let args = [
        "run",
        "-m",
        model.to_str().unwrap(),
        "--temp",
        "0",
        "-t",
        "1",
        "-p",
        prompt,
    ];
    let document = json(&tokgate(
        &[&args[..], &["--metrics", "json", "--bandwidth", "10"]].concat(),
    ));
    assert_eq!(document["text"], " 3 9 70");
    // Three tokens and the end.
    assert_eq!(figure(&document, "generated_tokens"), 3.0);
    let rate = 3.0 / figure(&document, "decode");
    assert!((figure(&document, "decode_rate") / rate - 1.0).abs() < 1e-9);
    let share = figure(&document, "decode_bandwidth") * 10.0;
    assert!((figure(&document, "bandwidth_share") / share - 1.0).abs() < 1e-9);
    assert!(figure(&document, "first_token") <= figure(&document, "total"));
    assert!(figure(&document, "rss") <= figure(&document, "peak_rss"));
    let flags: Vec<&str> = document["flags"]
        .as_array()
        .unwrap()
        .iter()
        .map(|flag| flag["key"].as_str().unwrap())
        .collect();
    assert!(
        flags.contains(&"short_run") && flags.contains(&"few_samples"),
        "{flags:?}"
    );

    let text = tokgate(&[&args[..], &["--metrics"]].concat());
    let shown = String::from_utf8(text.stderr).unwrap();
    assert!(shown.contains("decode_rate"), "{shown}");
    assert!(
        shown.lines().all(|line| line.chars().count() <= 80),
        "{shown}"
    );
    let help = String::from_utf8(tokgate(&["run", "--help"]).stdout).unwrap();
    assert!(help.contains("(n − 1) / decode"), "{help}");
}

#[test]
fn several_prompts_and_thread_counts_are_compared() {
    let model = model("dense");
    let args = ["-m", model.to_str().unwrap()];
    let document = json(&tokgate(
        &[
            &[
                "run",
                "--benchmark",
                "--prompts",
                "cache_loops,memory_sequential",
                "--runs",
                "2",
                "-n",
                "8",
                "--ignore-eos",
                "-o",
                "json",
            ][..],
            &args,
        ]
        .concat(),
    ));
    assert_eq!(document["prompts"].as_array().unwrap().len(), 2);
    assert!(figure(&document, "cache_loops/decode_rate") > 0.0);
    let unknown = tokgate(&[&["run", "--benchmark", "--prompts", "nothing"][..], &args].concat());
    assert_eq!(unknown.status.code(), Some(2));

    let folder = tempfile::tempdir().unwrap();
    let plot = folder.path().join("plot.svg");
    let document = json(&tokgate(
        &[
            &[
                "sweep",
                "--threads",
                "2,1",
                "-p",
                "8",
                "-n",
                "4",
                "-r",
                "2",
                "-o",
                "json",
                "--plot",
                plot.to_str().unwrap(),
            ][..],
            &args,
        ]
        .concat(),
    ));
    assert_eq!(document["rows"].as_array().unwrap().len(), 2);
    assert_eq!(document["rows"][0]["threads"], 1);
    assert!(figure(&document, "decode_rate/t2") > 0.0);
    assert!(std::fs::read_to_string(plot).unwrap().contains("polyline"));
}

#[test]
fn experts_are_counted_and_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (model, task, map) = (path("moe.gguf"), path("task.json"), path("map.svg"));
    let made = tokgate(&["synth", "--preset", "tiny-moe", "--seed", "1", &model]);
    assert!(made.status.success());
    let document = json(&tokgate(&[
        "run",
        "-m",
        &model,
        "-p",
        "hello experts",
        "-n",
        "5",
        "--ignore-eos",
        "--metrics",
        "json",
        "--expert-map",
        &map,
    ]));
    let experts = &document["experts"];
    // Three layers, four experts a token, four passes of one token; of the prompt, the last layer sees one token only.
    assert_eq!(experts["decode"]["selections"], 48);
    let prompt = figure(&document, "prompt_tokens") as u64;
    assert_eq!(experts["prefill"]["selections"], 4 * (2 * prompt + 1));
    assert_eq!(experts["prefill"]["by_layer"].as_array().unwrap().len(), 3);
    let svg = std::fs::read_to_string(&map).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("layer 2, expert 15: "));

    assert!(
        tokgate(&["task", "sort", "2", "3", "4", "7", &task])
            .status
            .success()
    );
    for mode in ["padded", "packed"] {
        let document = json(&tokgate(&[
            "task",
            "run",
            "-m",
            &model,
            &task,
            "--max-new",
            "4",
            "-r",
            "1",
            "--no-warmup",
            "--mode",
            mode,
            "--format",
            "json",
        ]));
        for phase in ["prefill", "decode"] {
            let counts = &document["experts"][phase];
            assert_eq!(counts["selections"], counts["expected"], "{mode} {phase}");
        }
    }
    let refused = tokgate(&[
        "run",
        "-m",
        self::model("dense").to_str().unwrap(),
        "-p",
        "x",
        "-n",
        "1",
        "--expert-map",
        &map,
    ]);
    assert_eq!(refused.status.code(), Some(2));
}
