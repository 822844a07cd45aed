//! Whole models: reading a prompt of 512 tokens (`pp512`) and generating 128 (`tg128`), as llama-bench does it.
//!
//! The models have real shapes and made-up weights. Their files are made when a bench first needs them, under cargo's
//! target folder, and again when the synthesiser makes other bytes than it did. Elements are tokens here.

mod common;

use std::cell::RefCell;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use common::suite::{Context, Routine, Suite, Work};
use indicatif::ProgressBar;
use tokgate::engine::forward::{Chunk, LogitRows, Model};
use tokgate::engine::kv_cache::KvCache;
use tokgate::engine::model_file::ModelFile;
use tokgate::engine::synth::{Plan, Preset, Synth};
use tokgate::engine::weights::LoadOptions;
use tokgate::throughput::{Bench, Case};
use tokgate_kernels::{DType, Level, Runtime};

const SEED: u64 = 1;

/// Bytes of a file that must be the same for it to be kept: its header and the start of its first tensor.
const FINGERPRINT_BYTES: usize = 8 << 20;

/// Tokens of the check.
const CHECKED: usize = 8;

/// How far logits of a prompt read at once may be from those of the same prompt read token by token, relative to the
/// largest: rounding, after some dozens of layers.
const TOLERANCE: f32 = 5e-2;

/// A model, and how long its two benches take here, for the progress.
struct Subject {
    name: &'static str,
    preset: Preset,
    dtype: DType,
    layers: Option<usize>,
    seconds: [f64; 2],
}

const SUBJECTS: [Subject; 3] = [
    Subject {
        name: "qwen3-0.6b",
        preset: Preset::Qwen3_0_6b,
        dtype: DType::Q8_0,
        layers: None,
        seconds: [18.0, 38.0],
    },
    Subject {
        name: "qwen3-0.6b",
        preset: Preset::Qwen3_0_6b,
        dtype: DType::Bf16,
        layers: None,
        seconds: [22.0, 70.0],
    },
    // As many of the 48 layers as fit into 2 GB beside embedding and output head.
    Subject {
        name: "qwen3-30b-a3b-2l",
        preset: Preset::Qwen3_30bA3b,
        dtype: DType::Q8_0,
        layers: Some(2),
        seconds: [14.0, 30.0],
    },
];

fn main() -> anyhow::Result<ExitCode> {
    let mut suite = Suite::new("model")?;
    let level = Level::from_env()?;
    for subject in &SUBJECTS {
        let op = format!("model/{}", subject.dtype);
        for ((what, n_prompt, n_gen), seconds) in [("pp512", 512, 0), ("tg128", 0, 128)]
            .into_iter()
            .zip(subject.seconds)
        {
            let case = Case {
                n_prompt,
                n_gen,
                n_depth: 0,
                ubatch: 512,
                kv: DType::Bf16,
            };
            let shape = format!("{}_{what}", subject.name);
            suite.add_model(&op, level.tier().name(), &shape, seconds, move |context| {
                prepare(subject, case, context)
            });
        }
    }
    Ok(suite.run())
}

fn prepare(subject: &'static Subject, case: Case, context: &Context) -> anyhow::Result<Routine> {
    let rt = runtime(context.runtimes.threads().count)?;
    let model = model(subject, rt)?;
    let mut bench = Bench::new(model, rt, case, SEED)?;
    let sample = bench.repeat()?;
    context.work.set(Some(Work {
        elements: (case.n_prompt + case.n_gen) as u64,
        bytes: sample.work.bytes,
    }));
    Ok(Box::new(move || {
        bench.repeat().expect("it ran a moment ago");
    }))
}

/// The runtime of all models of this process, which ends with it.
fn runtime(threads: usize) -> anyhow::Result<&'static Runtime> {
    thread_local! {
        static RUNTIME: RefCell<Option<&'static Runtime>> = const { RefCell::new(None) };
    }
    RUNTIME.with_borrow_mut(|known| match known {
        Some(rt) => Ok(*rt),
        None => Ok(*known.insert(Box::leak(Box::new(Runtime::new(threads)?)))),
    })
}

/// The model, mapped and checked, for both of its benches. Mappings may outlive their use: they take no memory of their
/// own, and end with the process.
fn model(subject: &'static Subject, rt: &Runtime) -> anyhow::Result<&'static Model> {
    thread_local! {
        static LAST: RefCell<Option<(*const Subject, &'static Model)>> = const { RefCell::new(None) };
    }
    if let Some((known, model)) = LAST.with_borrow(|last| *last)
        && std::ptr::eq(known, subject)
    {
        return Ok(model);
    }
    let path = file(subject)?;
    let ModelFile {
        config, weights, ..
    } = ModelFile::open(&path, LoadOptions::default())?;
    let model: &'static Model = Box::leak(Box::new(Model::new(config, weights)?));
    checked(model, rt)?;
    LAST.set(Some((subject, model)));
    Ok(model)
}

/// Holds a prompt that is read at once to the same prompt read token by token.
fn checked(model: &Model, rt: &Runtime) -> anyhow::Result<()> {
    let tokens: Vec<u32> = (1..)
        .map(|i| i * 977 % model.config().n_vocab as u32)
        .take(CHECKED)
        .collect();
    let logits = |passes: &[&[u32]]| -> anyhow::Result<Vec<f32>> {
        let mut cache = KvCache::new(model.config(), DType::Bf16, CHECKED)?;
        let mut logits = Vec::new();
        for tokens in passes {
            let mut chunks = [Chunk {
                tokens,
                cache: &mut cache,
                logits: LogitRows::Last,
            }];
            model.forward(rt, &mut chunks, &mut logits, &mut Default::default())?;
        }
        Ok(logits)
    };
    let at_once = logits(&[&tokens])?;
    let one_by_one = logits(&tokens.chunks(1).collect::<Vec<_>>())?;
    let largest = at_once
        .iter()
        .fold(0.0_f32, |max, logit| max.max(logit.abs()));
    ensure!(
        largest > 0.0 && largest.is_finite() && at_once.len() == model.config().n_vocab,
        "wrong answer: the largest logit is {largest}"
    );
    for (token, (a, b)) in at_once.iter().zip(&one_by_one).enumerate() {
        // Written so that a NaN is an error.
        ensure!(
            (a - b).abs() <= TOLERANCE * largest,
            "wrong answer: the logit of token {token} is {a} read at once, {b} token by token"
        );
    }
    Ok(())
}

/// The model's file, made unless it is there.
fn file(subject: &Subject) -> anyhow::Result<PathBuf> {
    let plan = |preset, layers| {
        let dtype = subject.dtype;
        Plan::new(Synth {
            preset,
            dtype,
            seed: SEED,
            layers,
            vocabulary: false,
        })
    };
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("models");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let full = plan(subject.preset, subject.layers);
    // Small models have all kinds of tensors within the bytes that are looked at.
    let mut fingerprint = Fingerprint {
        hasher: DefaultHasher::new(),
        room: 0,
    };
    for plan in [
        &full,
        &plan(Preset::TinyDense, None),
        &plan(Preset::TinyMoe, None),
    ] {
        fingerprint.add(plan)?;
    }
    let stem = format!("{}-{}-", subject.name, subject.dtype);
    let path = folder.join(format!("{stem}{:016x}.gguf", fingerprint.hasher.finish()));
    if path.metadata().is_ok_and(|found| found.len() == full.len()) {
        return Ok(path);
    }
    for entry in fs::read_dir(&folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&stem) {
            fs::remove_file(entry.path())?;
        }
    }
    make(&full, &path)?;
    Ok(path)
}

fn make(plan: &Plan, path: &Path) -> anyhow::Result<()> {
    eprintln!(
        "making {} ({:.2} GB), once",
        path.display(),
        plan.len() as f64 / 1e9
    );
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let bar = ProgressBar::new(plan.len());
    plan.write_file(path, true, threads, |written| bar.set_position(written))?;
    bar.finish_and_clear();
    // The disk is not to be busy with it while the model is timed.
    File::open(path)?
        .sync_all()
        .with_context(|| path.display().to_string())
}

/// Takes the first bytes of a file, and refuses the rest.
struct Fingerprint {
    hasher: DefaultHasher,
    room: usize,
}

impl Fingerprint {
    fn add(&mut self, plan: &Plan) -> io::Result<()> {
        self.hasher.write_u64(plan.len());
        self.room = FINGERPRINT_BYTES;
        match plan.write(self, 1, |_| {}) {
            Err(error) if error.kind() != io::ErrorKind::WriteZero => Err(error),
            _ => Ok(()),
        }
    }
}

impl Write for Fingerprint {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(self.room);
        self.hasher.write(&bytes[..taken]);
        self.room -= taken;
        // Zero is how a writer says that it is full.
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
