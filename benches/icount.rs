//! Instruction counts of every variant that valgrind can run, by iai-callgrind: the same at every run of one binary,
//! whatever else the machine does.
//!
//! Valgrind has no AVX-512: the levels are `scalar` and `avx2`, each forced, and each id names the one that ran. One
//! thread, for threads that a bench spawns are not counted; shapes are small, for a call is some fifty times slower.

mod common;

use std::env;
use std::fmt::Write as _;
use std::process::{Command, ExitCode};
use std::rc::Rc;

use anyhow::{Context as _, ensure};
use common::args::{Args, Mode};
use common::attention::heads;
use common::elementwise::Kernel;
use common::kind::{Kind, kind};
use common::moe::Block;
use common::runtimes::{Runtimes, Threads};
use common::suite::{Routine, Work};
use common::tools;
use tokgate::record::adapters::{Finding, callgrind};
use tokgate::record::{Metric, Project, Samples};
use tokgate::session::Session;
use tokgate_kernels::{Level, Op, Runtime, Tier};

/// The highest tier that valgrind runs.
const HIGHEST: Tier = Tier::Avx2;

/// Elements that an instruction works on at most: 32 bytes of a 256-bit register.
const MAX_ELEMENTS: u64 = 32;

/// Names the family of benches that a child of this process is to count.
const CHILD: &str = "TOKGATE_ICOUNT";

/// What the counts must not depend on: which of libc's copies the CPU makes it take, and when.
const TUNABLES: &str = "glibc.cpu.hwcaps=-AVX2,-AVX512F,-AVX512VL,-ERMS,-FSRM:\
    glibc.cpu.x86_data_cache_size=0x8000:glibc.cpu.x86_shared_cache_size=0x800000:\
    glibc.cpu.x86_non_temporal_threshold=0x600000:glibc.cpu.x86_rep_movsb_threshold=0x800:\
    glibc.cpu.x86_rep_stosb_threshold=0x800";

/// The caches that callgrind models, the same for every host.
const CACHES: [&str; 3] = ["--I1=32768,8,64", "--D1=32768,8,64", "--LL=8388608,16,64"];

/// One iai-callgrind program an operation, because that harness selects whole programs only. `icount::…::op::dtype` and
/// `variant_shape` are what `tokgate::record` makes an id of.
macro_rules! families {
    ($($op:ident { $($dtype:ident: $($bench:ident)+;)+ })+) => {
        /// Each operation's program.
        const FAMILIES: &[(&str, fn())] = &[$((stringify!($op), $op::run)),+];

        /// What is counted, in ids' own terms.
        const COUNTED: &[(&str, &str, &str)] = &[
            $($($((stringify!($op), stringify!($dtype), stringify!($bench)),)+)+)+
        ];

        $(mod $op {
            use iai_callgrind::{
                Callgrind, LibraryBenchmarkConfig, OutputFormat, library_benchmark, library_benchmark_group, main,
            };

            use super::{CACHES, Routine, TUNABLES, prepare};

            $(
                #[library_benchmark(setup = prepare)]
                $(#[bench::$bench(
                    concat!(stringify!($op), "/", stringify!($dtype)),
                    stringify!($bench)
                )])+
                fn $dtype(mut routine: Routine) -> Routine {
                    routine();
                    routine
                }
            )+

            library_benchmark_group!(name = $op; benchmarks = $($dtype),+);

            main!(
                config = LibraryBenchmarkConfig::default()
                    .output_format(OutputFormat::default().truncate_description(Some(0)))
                    .env("GLIBC_TUNABLES", TUNABLES)
                    .tool(Callgrind::with_args(CACHES));
                library_benchmark_groups = $op
            );

            pub fn run() {
                main();
            }
        })+
    };
}

families! {
    matmul {
        f32: scalar_m1_k1024_n512 scalar_m32_k512_n128 avx2_m1_k1024_n512 avx2_m32_k512_n128;
        f16: scalar_m1_k1024_n512 scalar_m32_k512_n128 avx2_m1_k1024_n512 avx2_m32_k512_n128;
        bf16: scalar_m1_k1024_n512 scalar_m32_k512_n128 avx2_m1_k1024_n512 avx2_m32_k512_n128;
        q8_0: scalar_m1_k1024_n512 scalar_m32_k512_n128 avx2_m1_k1024_n512 avx2_m32_k512_n128;
    }
    attention {
        f32: scalar_m1_kv256_h8_hkv2_d128 scalar_m32_kv64_h8_hkv2_d128
            avx2_m1_kv256_h8_hkv2_d128 avx2_m32_kv64_h8_hkv2_d128;
        bf16: scalar_m1_kv256_h8_hkv2_d128 scalar_m32_kv64_h8_hkv2_d128
            avx2_m1_kv256_h8_hkv2_d128 avx2_m32_kv64_h8_hkv2_d128;
    }
    moe_route {
        f32: scalar_m8_e128_top8 avx2_m8_e128_top8;
    }
    moe {
        f32: scalar_m8_e8_top2_ff64_d256 avx2_m8_e8_top2_ff64_d256;
        f16: scalar_m8_e8_top2_ff64_d256 avx2_m8_e8_top2_ff64_d256;
        bf16: scalar_m8_e8_top2_ff64_d256 avx2_m8_e8_top2_ff64_d256;
        q8_0: scalar_m8_e8_top2_ff64_d256 avx2_m8_e8_top2_ff64_d256;
    }
    rms_norm {
        f32: scalar_m2_n4096 avx2_m2_n4096;
    }
    rope {
        f32: scalar_m2_n4096 avx2_m2_n4096;
    }
    swiglu {
        f32: scalar_m2_n4096 avx2_m2_n4096;
    }
    add {
        f32: scalar_m2_n4096 avx2_m2_n4096;
    }
    softmax {
        f32: scalar_m2_n4096 avx2_m2_n4096;
    }
}

fn main() -> anyhow::Result<ExitCode> {
    let mut words = env::args().skip(1);
    // iai-callgrind's runner calls back for one bench under valgrind, and names its group.
    let family = if words.next().as_deref() == Some("--iai-run") {
        Some(words.next().context("the runner names a group")?)
    } else {
        env::var(CHILD).ok()
    };
    if let Some(family) = family {
        let known = FAMILIES.iter().find(|(name, _)| *name == family);
        let (_, run) = known.with_context(|| format!("no operation is called '{family}'"))?;
        run();
        return Ok(ExitCode::SUCCESS);
    }
    let args = Args::from_env();
    let benches = benches()?;
    let selected = benches.into_iter().filter(|bench| args.selects(&bench.id));
    let selected: Vec<Counted> = selected.collect();
    match args.mode {
        Mode::List => {
            selected
                .iter()
                .for_each(|bench| println!("{}: benchmark\n", bench.id));
            Ok(ExitCode::SUCCESS)
        }
        Mode::Once | Mode::Smoke => {
            for bench in selected {
                println!("Testing {}", bench.id);
                if Level::new(bench.tier).is_ok() {
                    (bench.prepare)(&runtime(bench.op, bench.tier)?)?();
                    println!("Success\n");
                } else {
                    println!("Skipped: not on this CPU\n");
                }
            }
            Ok(ExitCode::SUCCESS)
        }
        Mode::Measure if selected.is_empty() => Ok(ExitCode::SUCCESS),
        Mode::Measure => match tools::missing() {
            None => count(&args, &selected),
            Some(advice) => {
                eprintln!("instructions are not counted: {advice}");
                let asked = tools::asked_for("icount");
                Ok(if asked {
                    ExitCode::FAILURE
                } else {
                    ExitCode::SUCCESS
                })
            }
        },
    }
}

/// A bench, and how to get it ready.
struct Counted {
    id: String,
    op: Op,
    tier: Tier,
    work: Work,
    prepare: Prepare,
}

type Prepare = Box<dyn FnOnce(&Rc<Runtime>) -> anyhow::Result<Routine>>;

/// All benches: every operation, every variant of it that valgrind can run.
///
/// # Errors
/// If the list above lacks one, or has one that there is not.
fn benches() -> anyhow::Result<Vec<Counted>> {
    let mut benches = Vec::new();
    for op in Op::ALL {
        for tier in op
            .variants()
            .iter()
            .copied()
            .filter(|tier| *tier <= HIGHEST)
        {
            benches.extend(cases(op, tier));
        }
    }
    let listed: Vec<String> = COUNTED
        .iter()
        .map(|(op, dtype, bench)| id(&format!("{op}/{dtype}"), bench))
        .collect();
    let mut wrong = String::new();
    for bench in benches.iter().filter(|bench| !listed.contains(&bench.id)) {
        write!(wrong, "\nadd {}", bench.id)?;
    }
    for id in listed
        .iter()
        .filter(|id| benches.iter().all(|bench| bench.id != **id))
    {
        write!(wrong, "\nremove {id}")?;
    }
    ensure!(
        wrong.is_empty(),
        "the families in benches/icount.rs are out of date:{wrong}"
    );
    Ok(benches)
}

/// The id of the bench that iai-callgrind knows as `variant_shape`.
fn id(op: &str, bench: &str) -> String {
    let (variant, shape) = bench.split_once('_').unwrap_or((bench, ""));
    format!("{op}/{variant}/{shape}")
}

/// What is counted of an operation at one tier: decoding and reading a prompt, or one small call.
fn cases(op: Op, tier: Tier) -> Vec<Counted> {
    let counted = |shape: String, work, prepare| {
        let id = format!("{op}/{tier}/{shape}");
        Counted {
            id,
            op,
            tier,
            work,
            prepare,
        }
    };
    match kind(op) {
        Kind::Matmul(dtype) => [(1, 1024, 512), (32, 512, 128)]
            .map(|(m, k, n)| {
                let case = common::matmul::Case {
                    dtype,
                    m,
                    k,
                    n,
                    hot: false,
                };
                let prepare = move |rt: &Rc<Runtime>| case.prepare(Rc::clone(rt), 1);
                counted(case.shape(), case.work(), Box::new(prepare) as Box<_>)
            })
            .into(),
        Kind::Attention(dtype) => [(1, 256), (32, 64)]
            .map(|(m, kv)| {
                let case = common::attention::Case {
                    dtype,
                    heads: heads(8, 2, 128),
                    m,
                    kv,
                };
                let prepare = move |rt: &Rc<Runtime>| case.prepare(Rc::clone(rt), 1);
                counted(case.shape(), case.work(), Box::new(prepare) as Box<_>)
            })
            .into(),
        Kind::Router => {
            let (block, m) = (
                Block {
                    n_expert: 128,
                    top_k: 8,
                    ..SMALL_BLOCK
                },
                8,
            );
            let prepare = move |rt: &Rc<Runtime>| block.prepare_router(Rc::clone(rt), m);
            vec![counted(
                block.router_shape(m),
                block.router_work(m),
                Box::new(prepare),
            )]
        }
        Kind::Experts(dtype) => {
            let m = 8;
            let prepare = move |rt: &Rc<Runtime>| SMALL_BLOCK.prepare(Rc::clone(rt), dtype, m);
            vec![counted(
                SMALL_BLOCK.shape(m),
                SMALL_BLOCK.work(dtype, m),
                Box::new(prepare),
            )]
        }
        Kind::Elementwise(kernel) => {
            let (m, n) = (2, 4096);
            let prepare = move |rt: &Rc<Runtime>| kernel.prepare(Rc::clone(rt), m, n);
            vec![counted(
                Kernel::shape(m, n),
                kernel.work(m, n),
                Box::new(prepare),
            )]
        }
    }
}

const SMALL_BLOCK: Block = Block {
    n_expert: 8,
    top_k: 2,
    n_ff: 64,
    d: 256,
};

/// One thread at the level whose variant of `op` is `tier`.
fn runtime(op: Op, tier: Tier) -> anyhow::Result<Rc<Runtime>> {
    let threads = Threads {
        count: 1,
        chosen: true,
    };
    Runtimes::new(threads).get(op, tier)
}

/// Makes the routine of a bench, which then has run once: its working memory is there, and nothing is allocated while
/// instructions are counted. Called under valgrind, before the counting starts.
fn prepare(op: &str, bench: &str) -> Routine {
    let wanted = id(op, bench);
    let ops = Op::ALL.into_iter().filter(|known| known.name() == op);
    let variants = ops.flat_map(|op| op.variants().iter().map(move |tier| (op, *tier)));
    let mut found = variants
        .flat_map(|(op, tier)| cases(op, tier))
        .filter(|bench| bench.id == wanted);
    let bench = found.next().expect("a listed bench");
    let rt = runtime(bench.op, bench.tier);
    let routine = rt.and_then(|rt| (bench.prepare)(&rt));
    routine.unwrap_or_else(|error| panic!("{wanted}: {error:#}"))
}

/// Counts the selected benches, an operation at a time, and holds the counts to what is possible.
fn count(args: &Args, selected: &[Counted]) -> anyhow::Result<ExitCode> {
    let started = std::time::SystemTime::now();
    let session = Session::begin("icount");
    let is_selected = |family: &str| {
        let of_family = |bench: &Counted| bench.id.split('/').next() == Some(family);
        selected.iter().any(of_family)
    };
    let families: Vec<&str> = FAMILIES
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| is_selected(name))
        .collect();
    for (at, family) in families.iter().enumerate() {
        eprintln!(
            "[{}/{}] counting the instructions of {family}",
            at + 1,
            families.len()
        );
        let status = Command::new(env::current_exe()?)
            .args(&args.for_callgrind)
            .env(CHILD, family)
            .env("IAI_CALLGRIND_SAVE_SUMMARY", "json")
            .status()
            .context("this program cannot be started again")?;
        ensure!(status.success(), "counting {family} failed");
    }
    let project = Project::find(&env::current_dir()?)?;
    let [tree, _] = project.callgrind();
    let findings = callgrind::read(&tree)?;
    for bench in selected {
        let fresh = |found: &&Finding| found.id.as_str() == bench.id && found.written >= started;
        let found = findings.iter().find(fresh);
        plausible(bench, found).with_context(|| bench.id.clone())?;
    }
    session.finish();
    Ok(ExitCode::SUCCESS)
}

/// Holds what was found of a bench to what is possible.
fn plausible(bench: &Counted, found: Option<&Finding>) -> anyhow::Result<()> {
    let figures = &found.context("nothing was counted")?.figures;
    let instructions = figures.iter().find_map(|(metric, samples)| match samples {
        Samples::Counts(counts) if *metric == Metric::Instructions => counts.first(),
        _ => None,
    });
    let (count, elements) = (
        instructions.context("no instructions")?,
        bench.work.elements,
    );
    ensure!(
        count.saturating_mul(MAX_ELEMENTS) >= elements,
        "{count} instructions for {elements} elements: the work was optimised away"
    );
    Ok(())
}
