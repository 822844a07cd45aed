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
//! a farm of matmul workers, costs seven (q, k, v, wo, gate, up, down). Experts are cut the same way, each of them:
//! every rank then does the same share of whatever the router picks. Giving whole experts to ranks would need the same
//! two sums, since all ranks have all activations, and would leave ranks idle whose experts were not picked.
//!
//! MEMORY. Every rank maps the whole file and touches the pages of its own rows; columns, and rows of stacked experts,
//! are copied once at start ([`part`](crate::engine::weights::part)). A rank keeps the keys and values of its KV heads.
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
