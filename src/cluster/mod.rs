//! One model on several machines: tensor parallel, two sums a layer.
//!
//! SPLIT. Each machine, a *rank*, has some of the heads and some of the inner elements of every layer, and some of the
//! vocabulary ([`plan`]). Matrices are cut by rows where a layer goes in (q, k, v; gate, up), by columns where it comes
//! out (the output of attention, down). What lies between needs no other rank:
//!
//! ```text
//! x on every rank ─ q k v of my heads ─ attention ─ my columns of wo ─┐ sum over ranks
//! x on every rank ─ gate, up of my elements ─ silu ─ my columns of down ─┐ sum over ranks
//! ```
//!
//! So a layer costs two exchanges of one `n_embd` of f32 a token. Sending each product's rows home, as is natural for
//! a farm of matmul workers, costs seven (q, k, v, wo, gate, up, down).
//!
//! EXPERTS are divided in one of two ways. Either each of them is cut as a dense feed-forward is: every rank then does the
//! same share of whatever the router picks. Or each rank has some of them whole, and waits for the one that has most of a
//! token's. The network does not tell between the two: all ranks have all activations and add up the same two sums, of the
//! same size. (A rank that has none of a token's experts could stay silent, which saves no time: others send to all ranks
//! meanwhile, over their own links.) What tells is how long a token's matrices take the slowest rank, in units of an even
//! share, if any experts are equally likely ([`Plan::imbalance`](plan::Plan::imbalance)):
//!
//! ```text
//! ranks                              2       4       8
//! Qwen3-30B-A3B, 8 of 128  rows   × 1.00  × 1.01  × 1.06
//!                         whole   × 1.17  × 1.46  × 1.98
//! Mixtral 8x7B, 2 of 8     rows   × 1.00  × 1.00  × 1.00
//!                         whole   × 1.38  × 2.13  × 3.65
//! ```
//!
//! So rows are faster, unless an expert has fewer blocks of them than there are ranks. What whole experts save is memory:
//! they stay mapped where rows have to be copied, as the report shows.
//!
//! MEMORY. Every rank maps the whole file and touches the pages of its own rows; columns, and rows of stacked experts,
//! are copied once at start ([`part`](crate::engine::weights::part)). A rank keeps the keys and values of its KV heads.
//! Ranks without the file can be sent it ([`send`]).
//!
//! SUMS. All ranks add in the order of ranks, whichever way the numbers went ([`exchange`]): their activations stay the
//! same to the bit, so that routers decide alike. Ranks with other kernels round differently in what they do alone
//! (norms, routers): all must run at one level, which is agreed on at start.
//!
//! WIRE. [`wire::Wire`] sends and receives bytes between ranks: MPI (feature `mpi`) between processes, or channels
//! between threads of one process. MPI starts the processes, picks the fastest transport and moves the bytes; sums are
//! ours because an `MPI_Allreduce` promises neither the order of additions nor to say whom it waits for.
//!
//! FAILURE. Whoever waits longer than [`wire::PATIENCE`] for a rank that shows no sign of life ends the job, saying
//! which.

pub mod agree;
pub mod alone;
pub mod bench;
pub mod exchange;
pub mod generate;
pub mod manifest;
pub mod member;
#[cfg(feature = "mpi")]
pub mod mpi;
pub mod network;
pub mod plan;
pub mod report;
pub mod send;
pub mod timing;
pub mod wire;

/// Tells on stderr what a rank has to say, in one piece: a launcher passes on what it gets as it comes, and would mix
/// the words of ranks that speak at the same time.
pub fn tell(rank: usize, what: &str) {
    let line = format!("tokgate: rank {rank}: {what}\n");
    eprint!("{line}");
}
