//! The definition as plain loops.

use half::bf16;

use super::Job;
use crate::pool::share;
use crate::runtime::Runtime;
use crate::view::Weights;

pub(super) fn matmul_all(rt: &Runtime, jobs: &mut [Job]) {
    let threads = rt.pool().threads();
    for Job { x, rows, w, y } in jobs {
        let (m, n) = (y.rows(), y.cols());
        let y = y.shared();
        rt.pool().run(|worker| {
            let outputs = share(n, 1, threads, worker);
            for i in 0..m {
                let x = x.row(rows.map_or(i, |rows| rows[i] as usize));
                // SAFETY: each worker has outputs of its own.
                let y = unsafe { y.tile(i, outputs.start, outputs.len()) };
                products(x, w.row_range(outputs.start, outputs.end), y);
            }
        });
    }
}

/// `y[n] = Σ_k a(x[k]) · w[n][k]`.
fn products(x: &[f32], w: Weights<'_>, y: &mut [f32]) {
    match w {
        Weights::F32(w) => {
            for (n, y) in y.iter_mut().enumerate() {
                *y = 0.0;
                for (x, w) in x.iter().zip(w.row(n)) {
                    *y += x * w;
                }
            }
        }
        Weights::F16(w) => {
            for (n, y) in y.iter_mut().enumerate() {
                *y = 0.0;
                for (x, w) in x.iter().zip(w.row(n)) {
                    *y += x * w.to_f32();
                }
            }
        }
        Weights::Bf16(w) => {
            for (n, y) in y.iter_mut().enumerate() {
                *y = 0.0;
                for (x, w) in x.iter().zip(w.row(n)) {
                    *y += bf16::from_f32(*x).to_f32() * w.to_f32();
                }
            }
        }
        Weights::Q8_0(w) => {
            for (n, y) in y.iter_mut().enumerate() {
                *y = 0.0;
                for (x, w) in x.chunks(32).zip(w.row(n)) {
                    let mut max = 0.0_f32;
                    for x in x {
                        max = max.max(x.abs());
                    }
                    let d = max / 127.0;
                    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
                    let mut sum = 0;
                    for (x, w) in x.iter().zip(w.qs) {
                        let q = (x * inverse).round_ties_even() as i8;
                        sum += i32::from(q) * i32::from(w);
                    }
                    *y += (w.d.to_f32() * d) * sum as f32;
                }
            }
        }
    }
}
