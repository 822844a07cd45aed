//! A model on several ranks says what it says on one, whatever the shares. Ranks are threads here; `cluster_mpi` has
//! processes.

mod closeness;

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use tokgate::cluster::exchange::Exchange;
use tokgate::cluster::member::Member;
use tokgate::cluster::network::Network;
use tokgate::cluster::plan::{ExpertSplit, Plan};
use tokgate::cluster::wire::ThreadWire;
use tokgate::engine::config::ModelConfig;
use tokgate::engine::forward::{Chunk, LogitRows, Model, Work};
use tokgate::engine::kv_cache::KvCache;
use tokgate::engine::model_file::ModelFile;
use tokgate::engine::synth::{Plan as SynthPlan, Preset, Synth};
use tokgate::engine::weights::{LoadOptions, ModelWeights};
use tokgate_kernels::{DType, Runtime};

use closeness::{relative_error, tolerance};

/// Shares of 1 to 7 ranks: even, uneven, more than KV heads, more than heads.
const SHARES: [&[f64]; 9] = [
    &[1.0],
    &[1.0, 1.0],
    &[3.0, 1.0],
    &[1.0, 9.0],
    &[1.0, 1.0, 1.0],
    &[5.0, 2.0, 3.0],
    &[1.0, 1.0, 1.0, 1.0],
    &[4.0, 3.0, 2.0, 1.0],
    &[1.0; 7],
];

const TOKENS: [u32; 11] = [3, 17, 20, 5, 5, 99, 56, 31, 0, 77, 50];

fn synthesised(preset: Preset, dtype: DType) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let synth = Synth {
        preset,
        dtype,
        seed: 11,
        layers: None,
        vocabulary: false,
    };
    SynthPlan::new(synth)
        .write_file(&path, false, 2, |_| {})
        .unwrap();
    (folder, path)
}

fn open(path: &Path) -> (ModelConfig, ModelWeights) {
    let file = ModelFile::open(path, LoadOptions::default()).unwrap();
    (file.config, file.weights)
}

/// Logits of the prompt's tokens, and the tokens that follow, always the likeliest.
type Said = (Vec<f32>, Vec<u32>);

fn alone(config: &ModelConfig, weights: &ModelWeights, kv: DType, prompt: &[u32]) -> Said {
    let model = Model::new(config.clone(), weights.clone()).unwrap();
    let rt = Runtime::new(1).unwrap();
    let mut cache = KvCache::new(config, kv, 64).unwrap();
    let (mut logits, mut all, mut said) = (Vec::new(), Vec::new(), Vec::new());
    let mut tokens = prompt.to_vec();
    for _ in 0..12 {
        let chunk = Chunk {
            tokens: &tokens,
            cache: &mut cache,
            logits: LogitRows::All,
        };
        model
            .forward(&rt, &mut [chunk], &mut logits, &mut Work::default())
            .unwrap();
        if all.is_empty() {
            all.clone_from(&logits);
        }
        let last = &logits[logits.len() - config.n_vocab..];
        let best = (0..last.len())
            .rev()
            .max_by(|a, b| last[*a].total_cmp(&last[*b]));
        tokens = vec![best.unwrap() as u32];
        said.push(tokens[0]);
    }
    (all, said)
}

fn together(
    config: &ModelConfig,
    weights: &ModelWeights,
    kv: DType,
    prompt: &[u32],
    (shares, experts): (&[f64], ExpertSplit),
    network: Network,
) -> Said {
    let plan = Plan::new(config, weights.column_unit(), shares, experts).unwrap();
    let rank = |mut wire: ThreadWire| {
        let rt = Runtime::new(1).unwrap();
        let mut exchange = Exchange::new(&mut wire, Duration::ZERO);
        exchange.set_network(network);
        let mut member = Member::new(config, weights, &plan, &rt, &mut exchange, kv, 64).unwrap();
        let mut tokens = prompt.to_vec();
        member.pass(&mut tokens, LogitRows::All).unwrap();
        let all = member.all_logits().unwrap();
        let mut said = Vec::new();
        loop {
            let best = member.candidates(3).unwrap();
            // Only rank 0 knows: the next pass tells the others.
            said.extend(best.first().map(|best| best.0));
            if member.len() == prompt.len() + 11 {
                return (all, said);
            }
            let mut token = [said.last().copied().unwrap_or(0)];
            member.pass(&mut token, LogitRows::Last).unwrap();
        }
    };
    let wires = ThreadWire::all(shares.len(), Duration::from_secs(60));
    thread::scope(|scope| {
        let ranks: Vec<_> = wires.into_iter().map(|w| scope.spawn(|| rank(w))).collect();
        let mut said: Vec<Said> = ranks.into_iter().map(|r| r.join().unwrap()).collect();
        said.swap_remove(0)
    })
}

fn check(name: &str, path: &Path, kv: DType, all_ways: bool, experts: ExpertSplit) {
    let (config, weights) = open(path);
    let dtype = weights.layers[0].wq.dtype();
    let wanted = alone(&config, &weights, kv, &TOKENS);
    // A network of endless latency sums directly, one without latency scatters.
    for (way, network) in [
        ("direct", Network::new(1e9, 1.0)),
        ("scattered", Network::new(0.0, 1.0)),
    ] {
        for shares in SHARES {
            if way == "scattered" && (!all_ways || shares.len() < 3) {
                continue;
            }
            let split = (shares, experts);
            let got = together(&config, &weights, kv, &TOKENS, split, network);
            let error = relative_error(&got.0, &wanted.0);
            eprintln!("{name} {dtype} {way} {experts:?} {shares:?}: relative error {error:.2e}");
            assert!(error < tolerance(dtype), "{name} {shares:?}: {error}");
            if shares.len() == 1 {
                assert_eq!(got, wanted, "one rank is the model itself");
            }
            assert_eq!(got.1, wanted.1, "{name} {shares:?}: greedy text");
        }
    }
}

#[test]
fn logits_and_greedy_text_are_those_of_one_process() {
    for preset in [Preset::TinyDense, Preset::TinyMoe] {
        for (dtype, kv) in [(DType::F32, DType::F32), (DType::Q8_0, DType::Bf16)] {
            let (_folder, path) = synthesised(preset, dtype);
            let all_ways = dtype == DType::F32;
            check(preset.name(), &path, kv, all_ways, ExpertSplit::Rows);
            if preset == Preset::TinyMoe {
                check(preset.name(), &path, kv, all_ways, ExpertSplit::Whole);
            }
        }
    }
}

#[test]
fn trained_models_say_the_same() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tests/models");
    for name in ["sort-dense.gguf", "sort-moe.gguf"] {
        for experts in [ExpertSplit::Rows, ExpertSplit::Whole] {
            check(name, &folder.join(name), DType::Bf16, false, experts);
        }
    }
}
