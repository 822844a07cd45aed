//! Trains the small models of `src/tests/models/` on the sort task, with candle, on the CPU.
//!
//! ```sh
//! cargo run --release --example train_sort -- dense src/tests/models/sort-dense.gguf
//! cargo run --release --example train_sort -- moe src/tests/models/sort-moe.gguf
//! ```
//!
//! TASK. A conversation as `tokgate task run` makes it of a task file, in ChatML: "Sort the following numbers from
//! smallest to largest: 12, 5, 99", answered by the numbers in order, " 5 12 99". The numbers are below 100, a token each,
//! and two to eight of them; the original task has twenty below 10,000, which is beyond a model that trains in minutes.
//! A few minutes of one core are enough. `RAYON_NUM_THREADS=1` keeps candle from waiting in a loop for cores that others
//! use.
//!
//! The same seed gives the same sequence of batches and the same first weights; candle adds in an order that depends
//! on its threads, so that the file differs in its last bits from run to run.

mod data;
mod export;
mod net;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use candle_core::Device;
use candle_nn::optim::{AdamW, Optimizer, ParamsAdamW};
use clap::{Parser, ValueEnum};
use rand::SeedableRng;
use rand::rngs::StdRng;

use data::Batch;
use net::{Net, Shape};

/// Trains a small model on the sort task.
#[derive(Parser)]
struct Args {
    /// Shape of the feed-forward.
    kind: Kind,
    /// File to write.
    output: PathBuf,
    /// Steps of the optimiser.
    #[arg(long, default_value_t = 3000)]
    steps: usize,
    /// Sequences of a step.
    #[arg(long, default_value_t = 32)]
    batch: usize,
    /// Highest learning rate.
    #[arg(long, default_value_t = 3e-3)]
    rate: f64,
    /// Seed of weights and data.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Kind {
    Dense,
    Moe,
}

/// Share of the router's balancing loss: enough that no expert is left out.
const BALANCE: f64 = 0.01;

/// Gradients of a larger norm are scaled down to it.
const CLIP: f64 = 1.0;

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let shape = match args.kind {
        Kind::Dense => Shape::DENSE,
        Kind::Moe => Shape::MOE,
    };
    let mut rng = StdRng::seed_from_u64(args.seed);
    let net = Net::new(shape, &mut rng, &Device::Cpu)?;
    println!("{} parameters, seed {}", net.parameters(), args.seed);
    let vars = net.vars();
    let params = ParamsAdamW {
        lr: 0.0,
        beta2: 0.98,
        ..ParamsAdamW::default()
    };
    let mut optimiser = AdamW::new(vars.clone(), params)?;
    let started = Instant::now();
    for step in 0..args.steps {
        optimiser.set_learning_rate(rate(&args, step));
        let batch = Batch::random(args.batch, &mut rng);
        let (loss, balance) = net.loss(&batch)?;
        let mut grads = (&loss + (balance * BALANCE)?)?.backward()?;
        net::clip(&vars, &mut grads, CLIP)?;
        optimiser.step(&grads)?;
        if step % 100 == 99 {
            println!(
                "step {:5}  loss {:.4}  right {:5.1} %  {:4.0} s",
                step + 1,
                loss.to_scalar::<f32>()?,
                100.0 * right(&net, 2)?,
                started.elapsed().as_secs_f64()
            );
        }
    }
    println!("held-out tasks right: {:.1} %", 100.0 * right(&net, 16)?);
    export::write(&net, &args.output).with_context(|| args.output.display().to_string())
}

/// Linear to the highest rate within 100 steps, then half a cosine down to a hundredth of it.
fn rate(args: &Args, step: usize) -> f64 {
    let warm = (step + 1) as f64 / 100.0;
    let done = step as f64 / args.steps as f64;
    let decay = 0.01 + 0.99 * 0.5 * (1.0 + (std::f64::consts::PI * done).cos());
    args.rate * warm.min(1.0) * decay
}

/// Share of tasks, of those with five to eight numbers, whose whole answer is the likeliest at each of its tokens. Its
/// data come from another seed than any training's.
fn right(net: &Net, batches: usize) -> anyhow::Result<f64> {
    let mut rng = StdRng::seed_from_u64(u64::MAX);
    let (mut right, mut all) = (0, 0);
    for at in 0..batches {
        let batch = Batch::of(5 + at % 4, 64, &mut rng);
        right += net.right(&batch)?;
        all += 64;
    }
    Ok(f64::from(right) / f64::from(all))
}
