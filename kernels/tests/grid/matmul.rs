//! Matmul with weights of any type: the scalar oracle against f64, the variants against the oracle.

use half::{bf16, f16};
use tokgate_kernels::{
    BlockQ8_0, Job, Level, MatMut, MatRef, Op, Runtime, Weights, matmul, matmul_all, q8_0,
};

use crate::common::{Rng, assert_close, levels, runtime, tolerance};

/// Activations, the rows of them that are taken, and weights.
type Planned<'a> = (MatRef<'a, f32>, Option<&'a [u32]>, &'a Matrix);

/// What fills outputs before a call; what lies between rows must still hold it afterwards.
const UNTOUCHED: u32 = 0x7fc1_2345;

/// Owned weights, with a few elements before the first row so that rows start at odd places.
enum Owned {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
    Q8_0(Vec<BlockQ8_0>),
}

/// A weight matrix `[n, k]` whose rows lie `stride` units (elements or blocks) apart, `offset` units into the slice.
struct Matrix {
    data: Owned,
    n: usize,
    k: usize,
    stride: usize,
    offset: usize,
}

impl Matrix {
    fn new(op: Op, rng: &mut Rng, n: usize, k: usize, gap: usize, offset: usize) -> Self {
        let unit = unit(op);
        let stride = k / unit + gap;
        let len = offset + n * stride;
        let data = match op {
            Op::MatmulF32 => Owned::F32(rng.f32s(len)),
            Op::MatmulF16 => Owned::F16(rng.f32s(len).into_iter().map(f16::from_f32).collect()),
            Op::MatmulBf16 => Owned::Bf16(rng.bf16s(len)),
            _ => Owned::Q8_0(rng.blocks(len)),
        };
        Self {
            data,
            n,
            k,
            stride,
            offset,
        }
    }

    fn view(&self) -> Weights<'_> {
        let (n, k, stride, offset) = (self.n, self.k, self.stride, self.offset);
        match &self.data {
            Owned::F32(w) => Weights::F32(MatRef::with_stride(&w[offset..], n, k, stride).unwrap()),
            Owned::F16(w) => Weights::F16(MatRef::with_stride(&w[offset..], n, k, stride).unwrap()),
            Owned::Bf16(w) => {
                Weights::Bf16(MatRef::with_stride(&w[offset..], n, k, stride).unwrap())
            }
            Owned::Q8_0(w) => Weights::Q8_0(
                MatRef::with_stride(&w[offset..], n, k / q8_0::BLOCK_LEN, stride).unwrap(),
            ),
        }
    }

    fn f64s(&self) -> Vec<f64> {
        let mut row = vec![0.0; self.k];
        let mut all = Vec::with_capacity(self.n * self.k);
        for n in 0..self.n {
            self.view().widen_row(n, &mut row);
            all.extend(row.iter().map(|w| f64::from(*w)));
        }
        all
    }
}

/// Elements in the smallest unit of the operation's weights.
fn unit(op: Op) -> usize {
    match op {
        Op::MatmulQ8_0 => q8_0::BLOCK_LEN,
        _ => 1,
    }
}

/// Activations as the operation rounds them, in f64.
fn rounded(op: Op, x: &[f32]) -> Vec<f64> {
    match op {
        Op::MatmulBf16 => x.iter().map(|x| bf16::from_f32(*x).to_f64()).collect(),
        Op::MatmulQ8_0 => x
            .chunks(q8_0::BLOCK_LEN)
            .flat_map(|x| {
                let max = x.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
                let inverse = if max == 0.0 { 0.0 } else { 127.0 / max };
                x.iter().map(move |x| {
                    f64::from((x * inverse).round_ties_even()) * f64::from(max / 127.0)
                })
            })
            .collect(),
        _ => x.iter().map(|x| f64::from(*x)).collect(),
    }
}

/// The product in f64, and Σ|x·w| of each output.
fn reference(op: Op, m: usize, x: &[f32], w: &Matrix) -> (Vec<f32>, Vec<f64>) {
    let weights = w.f64s();
    let x = rounded(op, x);
    let (mut y, mut scale) = (Vec::new(), Vec::new());
    for i in 0..m {
        for n in 0..w.n {
            let pairs = x[i * w.k..][..w.k].iter().zip(&weights[n * w.k..][..w.k]);
            let (mut sum, mut abs) = (0.0, 0.0);
            for (x, w) in pairs {
                sum += x * w;
                abs += (x * w).abs();
            }
            y.push(sum as f32);
            scale.push(abs);
        }
    }
    (y, scale)
}

fn run(level: Level, threads: usize, m: usize, x: &[f32], w: &Matrix, gap: usize) -> Vec<f32> {
    run_in(&runtime(level, threads), m, x, w, gap)
}

/// Runs one product with rows of `x` and of `y` further apart than they are long, starting at odd places.
fn run_in(rt: &Runtime, m: usize, x: &[f32], w: &Matrix, gap: usize) -> Vec<f32> {
    let (n, k) = (w.n, w.k);
    let mut padded = vec![f32::NAN; gap + m * (k + gap)];
    for i in 0..m {
        padded[gap + i * (k + gap)..][..k].copy_from_slice(&x[i * k..][..k]);
    }
    let mut y = vec![f32::from_bits(UNTOUCHED); gap + m * (n + gap)];
    matmul(
        rt,
        MatRef::with_stride(&padded[gap..], m, k, k + gap).unwrap(),
        w.view(),
        MatMut::with_stride(&mut y[gap..], m, n, n + gap).unwrap(),
    );
    let mut dense = Vec::with_capacity(m * n);
    for (at, v) in y.iter().enumerate() {
        let inside = at >= gap && (at - gap) % (n + gap) < n;
        if inside {
            dense.push(*v);
        } else {
            assert_eq!(v.to_bits(), UNTOUCHED, "element {at} lies between rows");
        }
    }
    dense
}

pub fn grid(op: Op) {
    shapes(op);
    jobs(op);
    alone(op);
    extremes(op);
    if unit(op) == 1 {
        specials(op);
    }
    foreign_shapes_panic(op);
}

/// One shape at all levels: the oracle within the tolerance of f64, the variants within that of the oracle.
fn compare(op: Op, rng: &mut Rng, m: usize, n: usize, k: usize, gap: usize) {
    let w = Matrix::new(op, rng, n, k, gap, gap);
    let x = rng.f32s(m * k);
    let (want, scale) = reference(op, m, &x, &w);
    for level in levels(op) {
        let what = format!("{op} {level} m{m} k{k} n{n} gap{gap}");
        let got = run(level, 1, m, &x, &w, gap);
        assert_close(&what, &got, &want, &scale, tolerance(op));
        let threaded = run(level, 3, m, &x, &w, gap);
        let same = got.iter().zip(&threaded);
        assert!(
            same.clone().all(|(a, b)| a.to_bits() == b.to_bits()),
            "{what}: three threads differ from one"
        );
    }
}

fn shapes(op: Op) {
    let mut rng = Rng::new(1);
    let unit = unit(op);
    let tokens = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 15, 16, 17, 31, 32, 33];
    for (at, m) in tokens.into_iter().enumerate() {
        let mut outputs = vec![0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 49, 65];
        // All outputs at the tokens where a tile ends; elsewhere every third, another third each time.
        if !matches!(m, 1 | 2 | 8 | 16) {
            let mut i = at;
            outputs.retain(|_| {
                i += 1;
                i % 3 == 0
            });
        }
        for n in outputs {
            let mut inner = vec![0, 1, 2, 3, 4, 5, 8, 15, 16, 17, 18, 33];
            if unit == 1 {
                inner.extend([7, 9, 31, 32, 63, 64, 65, 127, 129]);
            }
            for k in inner {
                let gap = (m + n + k) % 4;
                compare(op, &mut rng, m, n, k * unit, gap);
            }
        }
    }
    // Slices of real layers, long enough that blocking over k, n and m shows.
    for (m, n, k) in [
        (1, 1024, 1024),
        (1, 300, 4096),
        (2, 96, 11008),
        (5, 130, 2048),
        (33, 64, 14336),
        (70, 200, 3072),
        (259, 96, 1056),
        (600, 33, 544),
        (1100, 17, 96),
    ] {
        compare(op, &mut rng, m, n, k, 0);
    }
    if unit > 1 {
        return;
    }
    // Rows that are cut into pieces, at odd places, by each of the ways to cut them.
    for (m, n, k) in [
        (3, 19, 6007),
        (7, 41, 3001),
        (16, 22, 2051),
        (24, 35, 1537),
        (40, 70, 1031),
        (540, 40, 777),
    ] {
        compare(op, &mut rng, m, n, k, 3);
    }
}

/// Several products in one call: shared activations, gathered rows, empty ones.
fn jobs(op: Op) {
    let mut rng = Rng::new(2);
    let k = 3 * q8_0::BLOCK_LEN;
    let x = rng.f32s(40 * k);
    let other = rng.f32s(5 * k);
    let gathers: [&[u32]; 5] = [
        &[],
        &[39],
        &[3, 3, 3, 0],
        &[7, 1, 39, 20, 2, 2, 11, 12, 13],
        {
            const ALL: [u32; 40] = {
                let mut all = [0; 40];
                let mut i = 0;
                while i < 40 {
                    all[i] = 39 - i as u32;
                    i += 1;
                }
                all
            };
            &ALL
        },
    ];
    let ws: Vec<Matrix> = [33, 1, 64, 0, 17, 100, 40, 9]
        .into_iter()
        .map(|n| Matrix::new(op, &mut rng, n, k, 0, 1))
        .collect();
    for level in levels(op) {
        for threads in [1, 3] {
            let view = MatRef::new(&x, 40, k).unwrap();
            // (activations, rows, weights) of each job; the first three share their activations.
            let mut plan: Vec<Planned> = vec![
                (view, None, &ws[0]),
                (view, None, &ws[2]),
                (view, None, &ws[3]),
                (MatRef::new(&other, 5, k).unwrap(), None, &ws[1]),
            ];
            for (rows, w) in gathers.into_iter().zip(&ws[3..]) {
                plan.push((view, Some(rows), w));
                plan.push((view, Some(rows), &ws[0]));
            }
            let len = |(x, rows, _): &Planned| rows.map_or(x.rows(), <[u32]>::len);
            let mut outs: Vec<Vec<f32>> = plan
                .iter()
                .map(|job| vec![f32::from_bits(UNTOUCHED); len(job) * job.2.n])
                .collect();
            let mut jobs: Vec<Job> = plan
                .iter()
                .zip(&mut outs)
                .map(|(job, out)| Job {
                    x: job.0,
                    rows: job.1,
                    w: job.2.view(),
                    y: MatMut::new(out, len(job), job.2.n).unwrap(),
                })
                .collect();
            matmul_all(&runtime(level, threads), &mut jobs);
            for (at, (job, out)) in plan.iter().zip(&outs).enumerate() {
                let m = len(job);
                let mut gathered = Vec::with_capacity(m * k);
                for i in 0..m {
                    let row = job.1.map_or(i, |rows| rows[i] as usize);
                    gathered.extend_from_slice(job.0.row(row));
                }
                let (want, scale) = reference(op, m, &gathered, job.2);
                let what = format!("{op} {level} job {at}");
                assert_close(&what, out, &want, &scale, tolerance(op));
            }
        }
    }
    matmul_all(&runtime(Level::SCALAR, 1), &mut []);
}

/// In a batch-invariant runtime each token gets the bits that it gets alone in any: by every form and cut of a product.
fn alone(op: Op) {
    let mut rng = Rng::new(6);
    let odd = if unit(op) == 1 { 7 } else { 0 };
    for (m, n, k) in [
        (0, 9, 64),
        (2, 65, 96),
        (3, 1030, 1024),
        (6, 33, 2048 + odd),
        (7, 130, 544 + odd),
        (13, 41, 11008),
        (50, 70, 1056 + odd),
    ] {
        let w = Matrix::new(op, &mut rng, n, k, 1, 1);
        let x = rng.f32s(m * k);
        for level in levels(op) {
            let plain = runtime(level, 3);
            let want: Vec<f32> = x
                .chunks(k)
                .flat_map(|x| run_in(&plain, 1, x, &w, 1))
                .collect();
            for threads in [1, 3] {
                let rt = runtime(level, threads).batch_invariant();
                let got = run_in(&rt, m, &x, &w, 2);
                assert!(
                    got.iter()
                        .zip(&want)
                        .all(|(a, b)| a.to_bits() == b.to_bits()),
                    "{op} {level} m{m} k{k} n{n}: {threads} threads, not as alone"
                );
            }
        }
    }
}

/// Values at the ends of their ranges: zeros, the largest weights, activations that are not numbers.
fn extremes(op: Op) {
    let mut rng = Rng::new(3);
    let k = 2 * q8_0::BLOCK_LEN;
    for m in [1, 3, 6, 9, 20] {
        let mut w = Matrix::new(op, &mut rng, 37, k, 0, 0);
        match &mut w.data {
            Owned::Q8_0(w) => {
                for (at, block) in w.iter_mut().enumerate() {
                    let extreme = [-128, 127, -127, 0][at / 2 % 4];
                    block.qs = [extreme; 32];
                    block.d = [f16::MAX, f16::MIN_POSITIVE, f16::from_bits(1), -f16::ONE][at % 4];
                }
            }
            Owned::Bf16(w) => w
                .iter_mut()
                .step_by(3)
                .for_each(|w| *w = bf16::MIN_POSITIVE),
            Owned::F16(w) => w.iter_mut().step_by(3).for_each(|w| *w = f16::from_bits(1)),
            Owned::F32(w) => w.iter_mut().step_by(3).for_each(|w| *w = 0.0),
        }
        // Whole tokens of ±1, so that all quantised activations are ±127; one of zeros; large and small ones.
        let mut x = rng.f32s(m * k);
        for (i, x) in x.chunks_mut(k).enumerate() {
            match i % 5 {
                0 => x.fill(1.0),
                1 => x.fill(0.0),
                2 => x.iter_mut().for_each(|x| *x = 1e20_f32.copysign(*x)),
                3 => x.iter_mut().for_each(|x| *x *= 1e-20),
                _ => {}
            }
        }
        let (want, scale) = reference(op, m, &x, &w);
        for level in levels(op) {
            let got = run(level, 2, m, &x, &w, 1);
            assert_close(
                &format!("{op} {level} extremes m{m}"),
                &got,
                &want,
                &scale,
                tolerance(op),
            );
        }
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let culprit = m / 2;
            let mut x = x.clone();
            x[culprit * k + 5] = bad;
            for level in levels(op) {
                let got = run(level, 2, m, &x, &w, 0);
                for (i, (got, want)) in got.chunks(w.n).zip(want.chunks(w.n)).enumerate() {
                    if i == culprit {
                        let spared = got.iter().filter(|y| y.is_finite()).count();
                        assert_eq!(spared, 0, "{op} {level} m{m}: {bad} is lost");
                    } else {
                        let scale = &scale[i * w.n..][..w.n];
                        let what = format!("{op} {level} m{m}: {bad} in another token");
                        assert_close(&what, got, want, scale, tolerance(op));
                    }
                }
            }
        }
    }
}

/// What floats have besides numbers: ties between two roundings, NaN that rounding could turn into infinity, weights
/// that are not numbers, subnormal ones.
fn specials(op: Op) {
    let mut rng = Rng::new(5);
    let (n, k) = (21, 67);
    for m in [1, 4, 14, 30] {
        let mut w = Matrix::new(op, &mut rng, n, k, 0, 0);
        let nan = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
        for (at, bad) in nan.into_iter().enumerate() {
            let at = 5 * k * (at + 1) + 7 * at;
            match &mut w.data {
                Owned::F32(w) => (w[at], w[at / 2]) = (bad, f32::from_bits(1)),
                Owned::F16(w) => (w[at], w[at / 2]) = (f16::from_f32(bad), f16::from_bits(1)),
                Owned::Bf16(w) => (w[at], w[at / 2]) = (bf16::from_f32(bad), bf16::from_bits(1)),
                Owned::Q8_0(_) => unreachable!("blocks are integers"),
            }
        }
        let mut x = rng.f32s(m * k);
        for x in x.iter_mut().step_by(2) {
            *x = f32::from_bits(x.to_bits() & 0xffff_0000 | 0x8000);
        }
        if m > 1 {
            x[k + 3] = f32::from_bits(0x7f80_0001);
        }
        let (want, scale) = reference(op, m, &x, &w);
        let bad = |y: &&f32| !y.is_finite();
        assert!(want.iter().filter(bad).count() >= 3 * m + (n - 3) * usize::from(m > 1));
        for level in levels(op) {
            let what = format!("{op} {level} specials m{m}");
            let got = run(level, 1, m, &x, &w, 0);
            assert_close(&what, &got, &want, &scale, tolerance(op));
        }
    }
}

fn foreign_shapes_panic(op: Op) {
    let mut rng = Rng::new(4);
    let k = q8_0::BLOCK_LEN;
    let w = Matrix::new(op, &mut rng, 3, k, 0, 0);
    let x = rng.f32s(4 * k);
    for (x_cols, y_rows, y_cols, rows) in [
        (k - 1, 2, 3, None),
        (k, 1, 3, None),
        (k, 2, 4, None),
        (k, 1, 3, Some(&[2_u32][..])),
        (k, 2, 3, Some(&[0][..])),
    ] {
        let result = std::panic::catch_unwind(|| {
            let mut y = vec![0.0; y_rows * y_cols];
            matmul_all(
                &runtime(Level::SCALAR, 1),
                &mut [Job {
                    x: MatRef::new(&x, 2, x_cols).unwrap(),
                    rows,
                    w: w.view(),
                    y: MatMut::new(&mut y, y_rows, y_cols).unwrap(),
                }],
            );
        });
        assert!(result.is_err(), "{op} x {x_cols} y {y_rows} × {y_cols}");
    }
}
