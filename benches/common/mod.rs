//! What the bench targets share: seeded inputs, real layer shapes, ids, and the loop that selects, checks, times and
//! reports.

#![allow(
    dead_code,
    reason = "each target is a program of its own and uses a part of this"
)]

pub mod args;
pub mod attention;
pub mod check;
pub mod elementwise;
pub mod inputs;
pub mod kind;
pub mod matmul;
pub mod moe;
pub mod runtimes;
pub mod shapes;
pub mod suite;
pub mod tools;
