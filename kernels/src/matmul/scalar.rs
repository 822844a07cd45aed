//! The definition as plain loops, for all element types: the oracle of the variants.

use std::ops::Range;

use half::{bf16, f16};

use super::Rows;
use super::kernel::{Kernel, Product, Tokens};
use crate::q8_0::{BLOCK_LEN, BlockQ8_0};
use crate::runtime::Runtime;
use crate::view::Weights;

pub(super) struct Scalar;

impl Kernel for Scalar {
    fn prepared_layout(&self, _: usize, _: usize) -> (usize, usize) {
        (0, 1)
    }

    fn alike(&self) -> usize {
        usize::MAX
    }

    fn prepare(&self, _: &Tokens, _: Range<usize>, _: &mut [u8]) {}

    fn task_rows(&self, _: usize, _: usize) -> (usize, usize) {
        (1, usize::MAX)
    }

    fn multiply(&self, _: &Runtime, product: &Product, rows: Rows) {
        let mut blocks = Vec::new();
        let mut rounded = Vec::new();
        for i in 0..product.tokens.len() {
            let x = product.tokens.row(i);
            match product.w {
                Weights::Q8_0(_) => quantize(x, &mut blocks),
                Weights::Bf16(_) => {
                    rounded.clear();
                    rounded.extend(x.iter().map(|v| bf16::from_f32(*v)));
                }
                Weights::F32(_) | Weights::F16(_) => {}
            }
            for n in rows.clone() {
                let sum = match product.w {
                    Weights::F32(w) => f32s(x, w.row(n)),
                    Weights::F16(w) => f16s(x, w.row(n)),
                    Weights::Bf16(w) => bf16s(&rounded, w.row(n)),
                    Weights::Q8_0(w) => q8_0s(&blocks, w.row(n)),
                };
                // SAFETY: tasks have rows of `w`, thus columns of `y`, of their own.
                unsafe { product.y.tile(i, n, 1)[0] = sum };
            }
        }
    }
}

fn f32s(x: &[f32], w: &[f32]) -> f32 {
    let mut sum = 0.0;
    for k in 0..w.len() {
        sum += x[k] * w[k];
    }
    sum
}

fn f16s(x: &[f32], w: &[f16]) -> f32 {
    let mut sum = 0.0;
    for k in 0..w.len() {
        sum += x[k] * w[k].to_f32();
    }
    sum
}

fn bf16s(x: &[bf16], w: &[bf16]) -> f32 {
    let mut sum = 0.0;
    for k in 0..w.len() {
        sum += x[k].to_f32() * w[k].to_f32();
    }
    sum
}

/// A block of activations: like a [`BlockQ8_0`], but with its scale in f32.
struct Block {
    d: f32,
    qs: [i8; BLOCK_LEN],
}

fn quantize(x: &[f32], blocks: &mut Vec<Block>) {
    blocks.clear();
    for x in x.chunks_exact(BLOCK_LEN) {
        let mut block = Block {
            d: 0.0,
            qs: [0; BLOCK_LEN],
        };
        let mut max = 0.0_f32;
        for v in x {
            max = max.max(v.abs());
        }
        if x.iter().any(|v| !v.is_finite()) {
            block.d = f32::NAN;
        } else if max >= 2.0_f32.powi(-100) {
            block.d = max / 127.0;
            for (q, v) in block.qs.iter_mut().zip(x) {
                *q = (v * (127.0 / max)).round_ties_even() as i8;
            }
        }
        blocks.push(block);
    }
}

fn q8_0s(x: &[Block], w: &[BlockQ8_0]) -> f32 {
    let mut sum = 0.0;
    for b in 0..w.len() {
        let mut dot = 0_i32;
        for i in 0..BLOCK_LEN {
            dot += i32::from(x[b].qs[i]) * i32::from(w[b].qs[i]);
        }
        sum += w[b].d.to_f32() * x[b].d * dot as f32;
    }
    sum
}
