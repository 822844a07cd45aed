//! `tokgate cluster`: what each rank does, whoever started it.

mod launch;
mod weights;

use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokgate_kernels::Runtime;

use crate::cli::{
    ClusterArgs, ClusterBenchArgs, ClusterCommand, ClusterFormat, ClusterRunArgs, Experts,
    MemberArgs, Shares,
};
use crate::cluster::agree::{Hello, agree, fingerprint};
use crate::cluster::bench::{self, Opened, Settings};
use crate::cluster::exchange::Exchange;
use crate::cluster::generate::{Generated, Options, generate};
use crate::cluster::member::Member;
use crate::cluster::plan::ExpertSplit;
use crate::cluster::timing;
use crate::cluster::wire::Wire;
use crate::cmd::model::{self, Loaded};
use crate::cmd::{Outcome, print, runtime};
use crate::engine::tokenizer::{Decoder, EncodeOptions, Tokenizer};
use crate::probe::machine::Machine;
use crate::record::write_whole;
use crate::render;
use crate::render::cluster::Measured;

/// Runs this process's rank, or its ranks.
///
/// # Errors
/// If the model cannot be used, ranks do not fit together, or one is lost.
pub fn run(args: &ClusterArgs) -> anyhow::Result<Outcome> {
    match &args.command {
        ClusterCommand::Bench(args) => {
            for path in [&args.log, &args.result].into_iter().flatten() {
                check_folder(path)?;
            }
            launch::ranks(args.member.in_process, &|wire| measure(args, wire))?;
        }
        ClusterCommand::Run(args) => {
            launch::ranks(args.member.in_process, &|wire| continue_text(args, wire))?;
        }
    }
    Ok(Outcome::Clean)
}

/// What a rank has before it meets the others.
struct Ready {
    loaded: Loaded,
    rt: Runtime,
    hello: Hello,
}

impl Ready {
    fn open(args: &MemberArgs, exchange: &mut Exchange<'_>) -> anyhow::Result<Self> {
        let threads = args.runtime.threads.unwrap_or_else(|| {
            let local = args.in_process.unwrap_or_else(local_ranks);
            default_threads(local, exchange.size())
        });
        let path = match args.send_weights {
            true => &weights::provide(args, exchange, threads)?,
            false => &args.model.model,
        };
        let started = Instant::now();
        let loaded = model::load(path, &args.model)?;
        let open_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let rt = runtime::new(threads, args.runtime.pin, args.runtime.level.as_deref())?;
        let hello = Hello {
            host: host(),
            cpu: Machine::detect().model().to_owned(),
            threads,
            level: rt.level().to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            model: fingerprint(loaded.model.config(), loaded.model.weights()),
            open_ms,
        };
        Ok(Self { loaded, rt, hello })
    }

    fn opened(&self) -> Opened<'_> {
        Opened {
            config: self.loaded.model.config(),
            weights: self.loaded.model.weights(),
            rt: &self.rt,
        }
    }
}

/// Ranks that `mpirun` started on this machine.
fn local_ranks() -> usize {
    let ranks = std::env::var("OMPI_COMM_WORLD_LOCAL_SIZE");
    let ranks = ranks.ok().and_then(|ranks| ranks.parse().ok());
    ranks.unwrap_or(1).max(1)
}

/// This rank's share of the machine's cores, or those that it was bound to.
fn default_threads(local: usize, ranks: usize) -> usize {
    let (all, mine) = (Machine::detect().cpus() as usize, runtime::cores());
    let share = (all / local).max(1);
    if mine >= all {
        return share;
    }
    // `mpirun` binds the ranks of a small job to a core each, which is no use of a machine.
    if ranks > 1 && mine < share {
        eprintln!(
            "tokgate: warning: this rank is bound to {mine} of {share} cores: give mpirun --bind-to none, or say -t"
        );
    }
    mine
}

fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String = name
        .trim()
        .chars()
        .filter(|c| !c.is_control())
        .take(64)
        .collect();
    if name.is_empty() {
        "?".to_owned()
    } else {
        name
    }
}

fn exchange<'w>(args: &MemberArgs, wire: &'w mut dyn Wire) -> Exchange<'w> {
    Exchange::new(wire, Duration::from_micros(args.inject_latency_us))
}

fn given(shares: &Shares) -> Option<&[f64]> {
    match shares {
        Shares::Auto => None,
        Shares::Given(shares) => Some(shares),
    }
}

fn experts(args: &MemberArgs) -> Option<ExpertSplit> {
    match args.experts {
        Experts::Auto => None,
        Experts::Rows => Some(ExpertSplit::Rows),
        Experts::Whole => Some(ExpertSplit::Whole),
    }
}

fn measure(args: &ClusterBenchArgs, wire: &mut dyn Wire) -> anyhow::Result<()> {
    let mut exchange = exchange(&args.member, wire);
    let ready = Ready::open(&args.member, &mut exchange)?;
    let settings = Settings {
        shares: given(&args.member.shares).map(<[f64]>::to_vec),
        experts: experts(&args.member),
        n_prompt: args.n_prompt,
        n_gen: args.n_gen,
        ubatch: args.member.pass.ubatch_size,
        repetitions: args.repetitions,
        seed: args.seed,
        kv: model::kv(args.member.pass.kv),
        baseline: !args.no_baseline,
        inject: Duration::from_micros(args.member.inject_latency_us),
        model_network: args.model_network,
    };
    let measured = bench::run(&settings, ready.opened(), &ready.hello, &mut exchange)?;
    let Some((report, spent)) = measured else {
        return Ok(());
    };
    if let Some(path) = &args.log {
        write_whole(path, &timing::csv(&spent))?;
    }
    let loaded = &ready.loaded;
    let of = Measured {
        model: &loaded.model_type(),
        name: &loaded.bench_name(),
        dtype: loaded.matrix_type().name(),
    };
    if let Some(path) = &args.result {
        write_whole(path, &render::cluster::json(&report, of))?;
    }
    print(&match args.output {
        ClusterFormat::Md => render::cluster::markdown(&report, of),
        ClusterFormat::Json => render::cluster::json(&report, of),
    })
}

fn check_folder(path: &Path) -> anyhow::Result<()> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => {
            bail!("{} is no folder to write to", folder.display())
        }
        _ => Ok(()),
    }
}

fn continue_text(args: &ClusterRunArgs, wire: &mut dyn Wire) -> anyhow::Result<()> {
    let mut exchange = exchange(&args.member, wire);
    let ready = Ready::open(&args.member, &mut exchange)?;
    agree(&mut exchange, &ready.hello)?;
    let kv = model::kv(args.member.pass.kv);
    let shares = given(&args.member.shares);
    let (plan, _) = bench::plan(
        ready.opened(),
        &mut exchange,
        shares,
        experts(&args.member),
        kv,
        false,
    )?;
    let leads = exchange.rank() == 0;
    // The tokenizer is needed where text goes in and out.
    let tokenizer = leads.then(|| ready.loaded.tokenizer()).transpose()?;
    let mut prompt = Vec::new();
    if let Some(tokenizer) = &tokenizer {
        let text = args.prompt.as_encoded_bytes();
        let tokens = tokenizer.encode(text, EncodeOptions::SPECIAL)?;
        prompt = tokens
            .iter()
            .flat_map(|token| token.to_le_bytes())
            .collect();
        if prompt.is_empty() {
            bail!("the prompt is empty and the model has no token to begin a text with");
        }
    }
    exchange.broadcast_any(&mut prompt)?;
    let prompt = prompt
        .as_chunks()
        .0
        .iter()
        .map(|bytes| u32::from_le_bytes(*bytes));
    let prompt: Vec<u32> = prompt.collect();
    let opened = ready.opened();
    let positions = prompt.len().saturating_add(args.n_predict);
    let mut member = Member::new(
        opened.config,
        opened.weights,
        &plan,
        opened.rt,
        &mut exchange,
        kv,
        positions,
    )?;
    let sampling = args.sampling;
    let mut sampler = model::sampler(sampling)?;
    let options = Options {
        max_new: args.n_predict,
        ubatch: args.member.pass.ubatch_size,
        // The likeliest one alone decides where there is no temperature.
        candidates: if sampling.temp == 0.0 {
            1
        } else {
            sampling.top_k
        },
    };
    let mut text = Text::new(tokenizer.as_ref());
    let ends = |token| {
        let end = |tokenizer: &Tokenizer| tokenizer.ends_generation(token);
        !sampling.ignore_eos && tokenizer.as_ref().is_some_and(end)
    };
    let generated = generate(&mut member, &prompt, options, &mut sampler, ends, |token| {
        text.push(token)
    })?;
    if leads {
        text.end()?;
        summary(prompt.len(), generated, plan.parts.len());
    }
    Ok(())
}

/// The text as it comes, on rank 0.
struct Text<'t> {
    decoder: Option<Decoder<'t>>,
    trouble: Option<anyhow::Error>,
}

impl<'t> Text<'t> {
    fn new(tokenizer: Option<&'t Tokenizer>) -> Self {
        Self {
            decoder: tokenizer.map(|tokenizer| tokenizer.decoder(false).continuing()),
            trouble: None,
        }
    }

    fn push(&mut self, token: u32) -> ControlFlow<()> {
        let Some(decoder) = &mut self.decoder else {
            return ControlFlow::Break(());
        };
        let shown = decoder.push(token).map_err(anyhow::Error::from);
        let shown = shown.and_then(|piece| {
            let mut out = std::io::stdout().lock();
            out.write_all(piece.as_bytes()).and_then(|()| out.flush())?;
            Ok(())
        });
        match shown {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                self.trouble = Some(error);
                ControlFlow::Break(())
            }
        }
    }

    fn end(self) -> anyhow::Result<()> {
        if let Some(trouble) = self.trouble {
            return Err(trouble);
        }
        let rest = self.decoder.map(|decoder| decoder.finish());
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", rest.unwrap_or_default()).context("standard output")
    }
}

fn summary(prompt: usize, generated: Generated, ranks: usize) {
    let per = |tokens: usize, seconds: f64| {
        if seconds > 0.0 {
            tokens as f64 / seconds
        } else {
            0.0
        }
    };
    eprintln!(
        "\n{ranks} ranks: {prompt} tokens of prompt at {:.2} tok/s, {} generated at {:.2} tok/s",
        per(prompt, generated.first_s),
        generated.tokens,
        per(generated.tokens.saturating_sub(1), generated.decode_s),
    );
}
