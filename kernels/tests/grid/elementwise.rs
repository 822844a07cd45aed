//! Norms, adds, gates and softmax.

use tokgate_kernels::{
    Level, MatMut, Op, Runtime, add, add_bias, add_rms_norm, rms_norm, rms_norm_in_place, softmax,
    swiglu,
};

use crate::common::{Rng, assert_close, levels, runtime, tolerance};
use crate::padded::Padded;

/// Rows × columns: nothing, one, either side of every register's width, real layers, enough for a fork.
const SHAPES: &[(usize, usize)] = &[
    (0, 5),
    (3, 0),
    (1, 1),
    (2, 3),
    (1, 7),
    (2, 8),
    (1, 9),
    (2, 15),
    (3, 16),
    (1, 17),
    (2, 31),
    (1, 32),
    (2, 33),
    (1, 47),
    (1, 63),
    (2, 65),
    (16, 80),
    (40, 128),
    (1, 1024),
    (2, 2048),
    (1, 4097),
    (37, 1025),
];

/// What an exponential or a square may meet.
const SPECIAL: &[f32] = &[
    0.0,
    -0.0,
    1.0,
    -1.0,
    f32::MAX,
    f32::MIN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    f32::MIN_POSITIVE,
    1e-45,
    -1e-42,
    88.5,
    -88.5,
    104.0,
    -104.0,
    1e20,
    -1e20,
];

/// Below this, subnormal steps and the edge of the exponential's range count, not relative errors.
const FLOOR: f64 = 1e-30;

const EPS: f32 = 1e-6;

/// An operation on a matrix, with its definition in f64.
struct Case<'a> {
    op: Op,
    x: Padded,
    run: &'a dyn Fn(&Runtime, &mut Padded),
    definition: &'a dyn Fn(usize, &[f64]) -> Vec<f64>,
}

impl Case<'_> {
    /// Holds the scalar variant to the definition, the others to the scalar one, any number of threads to one thread.
    fn check(&self) {
        let x = self.x.dense();
        let (rows, cols) = (self.x.view().rows(), self.x.view().cols());
        let what = format!("{} {rows} × {cols}", self.op);
        let want: Vec<f64> = (0..rows)
            .flat_map(|r| {
                let row: Vec<f64> = self.x.view().row(r).iter().map(|v| f64::from(*v)).collect();
                (self.definition)(r, &row)
            })
            .collect();
        let scale: Vec<f64> = want.iter().map(|v| v.abs().max(FLOOR)).collect();
        let want_f32: Vec<f32> = want.iter().map(|v| *v as f32).collect();

        let mut oracle = self.x.clone();
        (self.run)(&runtime(Level::SCALAR, 1), &mut oracle);
        let oracle = oracle.dense();
        // A definition in f64 does not overflow where f32 does.
        let finite = |v: &[f32]| -> Vec<f32> {
            let keep = |i: &usize| want[*i].abs() < f64::from(f32::MAX) || want[*i].is_nan();
            (0..x.len()).filter(keep).map(|i| v[i]).collect()
        };
        let kept: Vec<f64> = (0..x.len())
            .filter(|i| want[*i].abs() < f64::from(f32::MAX) || want[*i].is_nan())
            .map(|i| scale[i])
            .collect();
        assert_close(
            &format!("{what}, scalar against f64"),
            &finite(&oracle),
            &finite(&want_f32),
            &kept,
            tolerance(self.op).max(6e-8),
        );

        for level in levels(self.op) {
            let mut alone = None;
            for threads in [1, 3] {
                let what = format!("{what} at {level} with {threads} threads");
                let mut got = self.x.clone();
                (self.run)(&runtime(level, threads), &mut got);
                got.assert_untouched_around(&what);
                assert_close(&what, &got.dense(), &oracle, &scale, tolerance(self.op));
                let bits: Vec<u32> = got.dense().iter().map(|v| v.to_bits()).collect();
                assert_eq!(*alone.get_or_insert(bits.clone()), bits, "{what}");
            }
        }
    }
}

/// Matrices of all shapes, and the special values: each alone among ordinary ones, each throughout a row, all together.
fn matrices(seed: u64) -> Vec<Padded> {
    let mut rng = Rng::new(seed);
    let mut all: Vec<Padded> = SHAPES
        .iter()
        .map(|(rows, cols)| Padded::new(*rows, *cols, |_, _| 4.0 * rng.f32()))
        .collect();
    for cols in [1, 19, 33, 64] {
        let n = SPECIAL.len();
        all.push(Padded::new(2 * n + 1, cols, |r, c| match r {
            r if r < n && c != (r * 7) % cols => rng.f32(),
            r => SPECIAL
                .get(r % n)
                .copied()
                .map_or(0.0, |v| if r == 2 * n { SPECIAL[c % n] } else { v }),
        }));
    }
    all
}

fn random(rng: &mut Rng, like: &Padded) -> Padded {
    Padded::new(like.view().rows(), like.view().cols(), |_, _| {
        2.0 * rng.f32()
    })
}

fn normed(x: &[f64], weight: &[f32]) -> Vec<f64> {
    let mean = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
    // Rounded as the definition says: it decides whether ∞ · 0 comes up.
    let s = f64::from((1.0 / (mean + f64::from(EPS)).sqrt()) as f32);
    x.iter()
        .zip(weight)
        .map(|(x, w)| x * s * f64::from(*w))
        .collect()
}

pub fn test_rms_norm(op: Op) {
    let mut rng = Rng::new(1);
    for x in matrices(2) {
        let cols = x.view().cols();
        let weight = rng.f32s(cols);
        let y = random(&mut rng, &x);
        let source = x.clone();
        Case {
            op,
            x: x.clone(),
            run: &|rt, x| rms_norm_in_place(rt, x.view_mut(), &weight, EPS),
            definition: &|_, x| normed(x, &weight),
        }
        .check();
        // The source is another matrix, the target is only written: it starts as NaN.
        Case {
            op,
            x: Padded::new(x.view().rows(), cols, |_, _| f32::NAN),
            run: &|rt, out| rms_norm(rt, source.view(), &weight, EPS, out.view_mut()),
            definition: &|r, _| {
                let x: Vec<f64> = source.view().row(r).iter().map(|v| f64::from(*v)).collect();
                normed(&x, &weight)
            },
        }
        .check();
        let sum = |r: usize| -> Vec<f64> {
            let rows = source.view().row(r).iter().zip(y.view().row(r));
            rows.map(|(x, y)| f64::from(x + y)).collect()
        };
        Case {
            op,
            x: Padded::new(x.view().rows(), cols, |_, _| f32::NAN),
            run: &|rt, out| {
                let mut x = source.clone();
                add_rms_norm(rt, x.view_mut(), y.view(), &weight, EPS, out.view_mut());
                x.assert_untouched_around("add_rms_norm: x");
            },
            definition: &|r, _| normed(&sum(r), &weight),
        }
        .check();
        Case {
            op: Op::Add,
            x,
            run: &|rt, x| {
                let mut out = x.clone();
                add_rms_norm(rt, x.view_mut(), y.view(), &weight, EPS, out.view_mut());
            },
            definition: &|r, _| sum(r),
        }
        .check();
    }
}

pub fn test_add(op: Op) {
    let mut rng = Rng::new(3);
    for x in matrices(4) {
        let y = random(&mut rng, &x);
        let bias = rng.f32s(x.view().cols());
        Case {
            op,
            x: x.clone(),
            run: &|rt, x| add(rt, x.view_mut(), y.view()),
            definition: &|r, x| {
                let rows = x.iter().zip(y.view().row(r));
                rows.map(|(x, y)| x + f64::from(*y)).collect()
            },
        }
        .check();
        Case {
            op,
            x,
            run: &|rt, x| add_bias(rt, x.view_mut(), &bias),
            definition: &|_, x| {
                x.iter()
                    .zip(&bias)
                    .map(|(x, b)| x + f64::from(*b))
                    .collect()
            },
        }
        .check();
    }
}

pub fn test_swiglu(op: Op) {
    let mut rng = Rng::new(5);
    for x in matrices(6) {
        let up = random(&mut rng, &x);
        Case {
            op,
            x,
            run: &|rt, x| swiglu(rt, x.view_mut(), up.view()),
            definition: &|r, x| {
                let rows = x.iter().zip(up.view().row(r));
                rows.map(|(g, u)| g / (1.0 + (-g).exp()) * f64::from(*u))
                    .collect()
            },
        }
        .check();
    }
}

pub fn test_softmax(op: Op) {
    for x in matrices(7) {
        Case {
            op,
            x,
            run: &|rt, x| softmax(rt, x.view_mut()),
            definition: &|_, x| {
                if x.iter().all(|v| *v == f64::NEG_INFINITY) {
                    return vec![0.0; x.len()];
                }
                let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let e: Vec<f64> = x.iter().map(|v| (v - max).exp()).collect();
                let sum: f64 = e.iter().sum();
                e.iter().map(|e| e / sum).collect()
            },
        }
        .check();
    }
}

#[test]
fn shapes_that_do_not_belong_together_panic() {
    let rt = runtime(Level::SCALAR, 1);
    let fails = |run: &dyn Fn(&mut Padded)| {
        let mut x = Padded::new(2, 4, |_, _| 1.0);
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&mut x))).is_err()
    };
    let other = Padded::new(2, 5, |_, _| 1.0);
    assert!(fails(&|x| rms_norm(
        &rt,
        other.view(),
        &[1.0; 5],
        EPS,
        x.view_mut()
    )));
    assert!(fails(&|x| rms_norm_in_place(
        &rt,
        x.view_mut(),
        &[1.0; 5],
        EPS
    )));
    assert!(fails(&|x| add(&rt, x.view_mut(), other.view())));
    assert!(fails(&|x| add_bias(&rt, x.view_mut(), &[1.0; 3])));
    assert!(fails(&|x| swiglu(&rt, x.view_mut(), other.view())));
}

#[test]
fn countless_rows_of_nothing_take_no_time() {
    let rt = runtime(Level::highest(), 2);
    let nothing = || MatMut::new(&mut [], usize::MAX, 0).expect("no elements");
    softmax(&rt, nothing());
    rms_norm_in_place(&rt, nothing(), &[], EPS);
    swiglu(&rt, nothing(), nothing().as_ref());
}
