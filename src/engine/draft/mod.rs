//! Guessing the next tokens, so that one pass of the model can check several.
//!
//! EXACT. A pass computes the logits behind each guessed token, and the sampler draws from each row as it would have
//! done one token at a time. A guess stands if it is what was drawn; the first that is not is replaced by what was
//! drawn, and the rest is forgotten. The tokens are therefore the same, draw for draw, with guesses and without: greedy
//! output is identical, and sampled output has the same distribution, whatever is guessed. That takes a pass in which a
//! row's logits do not depend on how many rows there are, to the bit: a
//! [batch-invariant](tokgate_kernels::Runtime::batch_invariant) one. For a guess that is not itself drawn at random this
//! accepts as often as rejection sampling does: with the model's probability of it.
//!
//! Guesses come from a smaller model ([`Drafter`]) or from the text itself ([`look_up()`]); [`Pace`] says how many are
//! worth their cost.

mod check;
mod look_up;
mod model;
mod pace;

pub use check::check;
pub use look_up::look_up;
pub use model::{DraftOptions, Drafter, Guess, VocabularyMismatch, same_vocabulary};
pub use pace::{Costs, Pace};
