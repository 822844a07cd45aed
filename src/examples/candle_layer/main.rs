//! Runs one stack of layers with candle's own products and attention, and with tokgate's in their place: what differs in
//! the answers, and how many times as fast it is.
//!
//! ```sh
//! cargo run --release --features candle --example candle_layer
//! ```

mod stack;

use candle_core::Result;
use stack::{QWEN3_0_6B, Side, Stack, Weights, difference, ratio, tokens};
use tokgate::candle::Kernels;

/// Pairs of runs.
const PAIRS: usize = 7;

/// Tokens of the prompt.
const PROMPT: usize = 256;

/// Tokens that are generated after it.
const GENERATED: usize = 16;

fn main() -> Result<()> {
    let shape = QWEN3_0_6B;
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let kernels = Kernels::new(threads)?;
    let weights = Weights::random(shape, 1)?;
    let mut candle = Stack::new(shape, &weights, &Side::Candle)?;
    let mut tokgate = Stack::new(shape, &weights, &Side::Tokgate(&kernels))?;
    drop(weights);
    let prompt = tokens(shape, PROMPT, 2)?;
    let one = tokens(shape, 1, 3)?;
    println!(
        "{} layers of Qwen3-0.6B, Q8_0, {threads} threads, seeds 1 to 3",
        shape.layers
    );

    let (theirs, ours) = (candle.forward(&prompt)?, tokgate.forward(&prompt)?);
    println!(
        "largest difference, prompt: {:.4} of the RMS",
        difference(&theirs, &ours)?
    );
    let (theirs, ours) = (candle.forward(&one)?, tokgate.forward(&one)?);
    println!(
        "largest difference, token:  {:.4} of the RMS",
        difference(&theirs, &ours)?
    );

    let read = |stack: &mut Stack| {
        stack.reset();
        stack.forward(&prompt).map(drop)
    };
    let [median, least, most] = ratio(PAIRS, || read(&mut candle), || read(&mut tokgate))?;
    println!("prompt of {PROMPT}: {median:.2} times as fast [{least:.2}..{most:.2}]");
    let generate =
        |stack: &mut Stack| (0..GENERATED).try_for_each(|_| stack.forward(&one).map(drop));
    let [median, least, most] = ratio(PAIRS, || generate(&mut candle), || generate(&mut tokgate))?;
    println!("{GENERATED} tokens after it: {median:.2} times as fast [{least:.2}..{most:.2}]");
    Ok(())
}
