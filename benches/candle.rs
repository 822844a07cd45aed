//! candle's own products and attention beside the kernels in their place, in one stack of layers: the ratio, in turn.

#[path = "../src/examples/candle_layer/stack.rs"]
mod stack;

use candle_core::Result;
use stack::{QWEN3_0_6B, Side, Stack, Weights, difference, ratio, tokens};
use tokgate::candle::Kernels;

/// Pairs of calls.
const PAIRS: usize = 11;

/// What both round: activations of blocks of 32 here, some of 256 there, over four layers.
const TOLERANCE: f32 = 0.2;

fn main() -> Result<()> {
    // `cargo test --all-targets` runs it without optimisation, and wants no times.
    let measures = std::env::args().any(|word| word == "--bench");
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let kernels = Kernels::new(threads)?;
    let shape = stack::Shape {
        layers: 2,
        ..QWEN3_0_6B
    };
    let weights = Weights::random(shape, 1)?;
    let mut candle = Stack::new(shape, &weights, &Side::Candle)?;
    let mut tokgate = Stack::new(shape, &weights, &Side::Tokgate(&kernels))?;
    for m in [1, 8, 512] {
        let x = tokens(shape, m, 2)?;
        candle.reset();
        tokgate.reset();
        let off = difference(&candle.forward(&x)?, &tokgate.forward(&x)?)?;
        if off.is_nan() || off > TOLERANCE {
            candle_core::bail!("m = {m}: wrong answer, off by {off} of the RMS");
        }
        if !measures {
            return Ok(());
        }
        let run = |stack: &mut Stack| {
            stack.reset();
            stack.forward(&x).map(drop)
        };
        let [median, least, most] = ratio(PAIRS, || run(&mut candle), || run(&mut tokgate))?;
        println!("layers/q8_0/candle/m{m}: {median:.2} times as fast [{least:.2}..{most:.2}]");
    }
    Ok(())
}
