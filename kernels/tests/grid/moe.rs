//! The router, and the experts' feed-forward against a loop over tokens in f64.

use std::ops::Range;

use half::{bf16, f16};
use tokgate_kernels::{
    BlockQ8_0, DType, Experts, Level, MatRef, MoeSpec, Op, Routing, Runtime, Weights, moe_ffn,
    moe_ffn_part, q8_0, route,
};

use crate::common::{Rng, assert_close, levels, runtime, tolerance};
use crate::padded::Padded;

/// Experts, and how many of them serve a token.
const ROUTERS: &[(usize, usize)] = &[
    (1, 1),
    (2, 2),
    (3, 1),
    (7, 3),
    (8, 2),
    (9, 9),
    (15, 4),
    (16, 16),
    (17, 5),
    (33, 8),
    (128, 8),
    (256, 20),
];

fn routed(rt: &Runtime, spec: &MoeSpec, logits: &Padded) -> Routing {
    let mut routing = Routing::default();
    // The second call finds memory of the first: nothing may shine through.
    route(
        rt,
        spec,
        Padded::new(9, spec.n_expert(), |_, _| 1.0).view(),
        &mut routing,
    );
    route(rt, spec, logits.view(), &mut routing);
    routing
}

/// What every routing must be, whatever the logits.
fn assert_sound(what: &str, spec: &MoeSpec, tokens: usize, routing: &Routing) {
    let pairs = tokens * spec.top_k();
    assert_eq!(routing.experts().len(), pairs, "{what}");
    assert_eq!(routing.weights().len(), pairs, "{what}");
    let mut counts = vec![0; spec.n_expert()];
    for experts in routing.experts().chunks(spec.top_k()) {
        for (j, e) in experts.iter().enumerate() {
            counts[*e as usize] += 1;
            assert!(!experts[..j].contains(e), "{what}: an expert twice");
        }
    }
    assert_eq!(routing.counts(), counts, "{what}");
    assert_eq!(counts.iter().sum::<u32>() as usize, pairs, "{what}");
}

/// Logits that are random; all equal; of few values, so that there are ties; with what is not finite strewn in.
fn logits(rng: &mut Rng, tokens: usize, n_expert: usize, kind: usize) -> Padded {
    Padded::new(tokens, n_expert, |t, _| match kind {
        0 => 8.0 * rng.f32(),
        1 => t as f32,
        2 => [0.0, -0.0, 1.0, -1.0][rng.below(4)],
        3 => [f32::NAN, f32::NEG_INFINITY, 1.0, -1e30, 3.0][rng.below(5)],
        4 => [f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 0.0][rng.below(4)],
        5 => [f32::NEG_INFINITY, 2.0, 1e-42, -1e-42, -200.0][rng.below(5)],
        6 => f32::NEG_INFINITY,
        _ => f32::NAN,
    })
}

pub fn test_route(op: Op) {
    let mut rng = Rng::new(21);
    for &(n_expert, top_k) in ROUTERS {
        for renormalise in [false, true] {
            let spec = MoeSpec::new(n_expert, top_k, renormalise).expect("a valid spec");
            for kind in 0..8 {
                for tokens in [0, 1, 5] {
                    check_route(op, &spec, &logits(&mut rng, tokens, n_expert, kind));
                }
            }
        }
    }
    // Enough for a fork.
    let spec = MoeSpec::new(128, 8, true).expect("a valid spec");
    check_route(op, &spec, &logits(&mut rng, 100, 128, 0));
}

fn check_route(op: Op, spec: &MoeSpec, logits: &Padded) {
    let tokens = logits.view().rows();
    let what = format!("{op} {tokens} tokens, {spec:?}");
    let (mut experts, mut weights) = (Vec::new(), Vec::new());
    for t in 0..tokens {
        let (e, w) = by_definition(logits.view().row(t), spec);
        experts.extend(e);
        weights.extend(w);
    }
    for level in levels(op) {
        for threads in [1, 3] {
            let what = format!("{what} at {level} with {threads} threads");
            let got = routed(&runtime(level, threads), spec, logits);
            assert_sound(&what, spec, tokens, &got);
            assert_eq!(got.experts(), experts, "{what}");
            let scale: Vec<f64> = weights
                .iter()
                .map(|w: &f32| f64::from(*w).max(1e-30))
                .collect();
            assert_close(&what, got.weights(), &weights, &scale, tolerance(op));
        }
    }
}

/// A stable sort, and a softmax in f64.
fn by_definition(logits: &[f32], spec: &MoeSpec) -> (Vec<u32>, Vec<f32>) {
    let value = |e: u32| match logits[e as usize] {
        v if v.is_nan() => f32::NEG_INFINITY,
        v => v,
    };
    let mut experts: Vec<u32> = (0..logits.len() as u32).collect();
    experts.sort_by(|a, b| value(*b).partial_cmp(&value(*a)).expect("no NaN"));
    experts.truncate(spec.top_k());
    let max = value(experts[0]);
    let p = |v: f32| (f64::from(v) - f64::from(max)).exp();
    let sum: f64 = if spec.renormalise() {
        experts.iter().map(|e| p(logits[*e as usize])).sum()
    } else {
        logits.iter().map(|v| p(*v)).sum()
    };
    let nan = logits.iter().any(|v| v.is_nan());
    let weight = |e: &u32| match () {
        () if nan => f32::NAN,
        () if max == f32::NEG_INFINITY => 0.0,
        () => (p(logits[*e as usize]) / sum) as f32,
    };
    let weights = experts.iter().map(weight).collect();
    (experts, weights)
}

/// A weight matrix that owns its elements.
enum Owned {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
    Q8_0(Vec<BlockQ8_0>),
}

impl Owned {
    fn random(rng: &mut Rng, dtype: DType, elements: usize) -> Self {
        match dtype {
            DType::F32 => Self::F32(rng.f32s(elements)),
            DType::F16 => Self::F16(rng.f32s(elements).into_iter().map(f16::from_f32).collect()),
            DType::Bf16 => Self::Bf16(rng.bf16s(elements)),
            DType::Q8_0 => Self::Q8_0(rng.blocks(elements / q8_0::BLOCK_LEN)),
        }
    }

    fn weights(&self, rows: usize, cols: usize) -> Weights<'_> {
        let fits = "made for this shape";
        match self {
            Self::F32(w) => Weights::F32(MatRef::new(w, rows, cols).expect(fits)),
            Self::F16(w) => Weights::F16(MatRef::new(w, rows, cols).expect(fits)),
            Self::Bf16(w) => Weights::Bf16(MatRef::new(w, rows, cols).expect(fits)),
            Self::Q8_0(w) => {
                Weights::Q8_0(MatRef::new(w, rows, cols / q8_0::BLOCK_LEN).expect(fits))
            }
        }
    }
}

/// Activations as a product with weights of a type takes them.
fn rounded(x: &[f32], dtype: DType) -> Vec<f64> {
    match dtype {
        DType::F32 | DType::F16 => x.iter().map(|v| f64::from(*v)).collect(),
        DType::Bf16 => x.iter().map(|v| bf16::from_f32(*v).to_f64()).collect(),
        DType::Q8_0 => x
            .chunks(q8_0::BLOCK_LEN)
            .flat_map(|block| {
                let d = block.iter().fold(0.0_f32, |max, v| max.max(v.abs())) / 127.0;
                let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
                let value =
                    move |v: &f32| f64::from((v * inverse).round_ties_even()) * f64::from(d);
                block.iter().map(value)
            })
            .collect(),
    }
}

/// Row `n` times `x`, and the sum of the absolute products.
fn dot(w: &Weights, n: usize, x: &[f64]) -> (f64, f64) {
    let mut row = vec![0.0; w.cols()];
    w.widen_row(n, &mut row);
    row.iter().zip(x).fold((0.0, 0.0), |(sum, abs), (w, x)| {
        let product = f64::from(*w) * x;
        (sum + product, abs + product.abs())
    })
}

/// Token by token, expert by expert; outputs and the sums of absolute products.
fn ffn(
    x: &Padded,
    top_k: usize,
    routing: &Routing,
    experts: &Experts,
    n_ff: usize,
) -> (Vec<f32>, Vec<f64>) {
    let d = x.view().cols();
    let (mut y, mut scale) = (Vec::new(), Vec::new());
    for t in 0..x.view().rows() {
        let (mut sums, mut scales) = (vec![0.0; d], vec![0.0; d]);
        for j in t * top_k..(t + 1) * top_k {
            let (e, weight) = (
                routing.experts()[j] as usize,
                f64::from(routing.weights()[j]),
            );
            let gate_in = rounded(x.view().row(t), experts.gate.dtype());
            let up_in = rounded(x.view().row(t), experts.up.dtype());
            let h: Vec<f32> = (e * n_ff..(e + 1) * n_ff)
                .map(|n| {
                    let gate = dot(&experts.gate, n, &gate_in).0;
                    (gate / (1.0 + (-gate).exp()) * dot(&experts.up, n, &up_in).0) as f32
                })
                .collect();
            let h = rounded(&h, experts.down.dtype());
            for i in 0..d {
                let (product, abs) = dot(&experts.down, e * d + i, &h);
                sums[i] += weight * product;
                scales[i] += weight.abs() * abs;
            }
        }
        y.extend(sums.iter().map(|v| *v as f32));
        scale.extend(scales);
    }
    (y, scale)
}

/// How the tokens are spread over the experts.
#[derive(Clone, Copy, Debug)]
enum Spread {
    /// As it comes.
    Random,
    /// All tokens choose the same experts, the last ones.
    Same,
    /// Each its own.
    Turns,
}

pub fn test_ffn(op: Op) {
    let dtype = match op {
        Op::MoeF32 => DType::F32,
        Op::MoeF16 => DType::F16,
        Op::MoeBf16 => DType::Bf16,
        _ => DType::Q8_0,
    };
    alone(op, dtype);
    let mut rng = Rng::new(31);
    // Experts, of a token, hidden, inner.
    let shapes = [
        (1, 1, 32, 32),
        (4, 2, 64, 96),
        (5, 5, 96, 32),
        (16, 3, 32, 64),
        (9, 1, 160, 64),
    ];
    for (n_expert, top_k, d, n_ff) in shapes {
        let spec = MoeSpec::new(n_expert, top_k, top_k > 1).expect("a valid spec");
        let gate = Owned::random(&mut rng, dtype, n_expert * n_ff * d);
        let up = Owned::random(&mut rng, dtype, n_expert * n_ff * d);
        let down = Owned::random(&mut rng, dtype, n_expert * d * n_ff);
        let experts = Experts {
            gate: gate.weights(n_expert * n_ff, d),
            up: up.weights(n_expert * n_ff, d),
            down: down.weights(n_expert * d, n_ff),
        };
        for spread in [Spread::Random, Spread::Same, Spread::Turns] {
            for tokens in [0, 1, 2, 7, 40] {
                let logits = Padded::new(tokens, n_expert, |t, e| match spread {
                    Spread::Random => rng.f32(),
                    Spread::Same => e as f32,
                    Spread::Turns => ((t + e) % n_expert) as f32,
                });
                // Small enough that the gates are neither open nor shut, whatever the sum over d.
                let x = Padded::new(tokens, d, |_, _| 0.2 * rng.f32());
                let what = format!("{op} {tokens} tokens to {top_k} of {n_expert}, {spread:?}");
                check_ffn(op, &what, &spec, &logits, &x, &experts, n_ff);
            }
        }
    }
}

fn check_ffn(
    op: Op,
    what: &str,
    spec: &MoeSpec,
    logits: &Padded,
    x: &Padded,
    experts: &Experts,
    n_ff: usize,
) {
    let (tokens, d) = (x.view().rows(), x.view().cols());
    let routing = routed(&runtime(Level::SCALAR, 1), spec, logits);
    let (want, scale) = ffn(x, spec.top_k(), &routing, experts, n_ff);
    let run = |level, threads| {
        let mut y = Padded::new(tokens, d, |_, _| f32::NAN);
        let rt = runtime(level, threads);
        moe_ffn(&rt, spec, x.view(), &routing, experts, y.view_mut());
        y.assert_untouched_around(what);
        y.dense()
    };
    let oracle = run(Level::SCALAR, 1);
    let off = tolerance(op);
    assert_close(
        &format!("{what}, scalar against f64"),
        &oracle,
        &want,
        &scale,
        off,
    );
    for level in levels(op) {
        let what = format!("{what} at {level}");
        let alone = run(level, 1);
        assert_close(&what, &alone, &oracle, &scale, off);
        assert_eq!(run(level, 3), alone, "{what} with 3 threads");

        // Parts add up, the empty one too.
        let mut sum = vec![0.0; tokens * d];
        let ends = [0, 0, spec.n_expert() / 3, spec.n_expert()];
        for part in ends.windows(2).map(|ends| ends[0]..ends[1]) {
            let some = Experts {
                gate: rows_of(experts.gate, &part, n_ff),
                up: rows_of(experts.up, &part, n_ff),
                down: rows_of(experts.down, &part, d),
            };
            let mut y = Padded::new(tokens, d, |_, _| f32::NAN);
            let rt = runtime(level, 2);
            moe_ffn_part(&rt, spec, x.view(), &routing, part, &some, y.view_mut());
            y.assert_untouched_around(&what);
            sum.iter_mut().zip(y.dense()).for_each(|(sum, y)| *sum += y);
        }
        assert_close(&format!("{what} in parts"), &sum, &oracle, &scale, off);
    }
}

/// The weights of some experts, each of `rows` rows.
fn rows_of<'a>(w: Weights<'a>, part: &Range<usize>, rows: usize) -> Weights<'a> {
    w.row_range(part.start * rows, part.end * rows)
}

/// The same token gets the same answer alone, and among so many that they are cut into groups.
#[test]
fn a_token_does_not_feel_the_others() {
    let (n_expert, top_k, d, n_ff, tokens) = (6, 2, 1024, 32, 2000);
    let mut rng = Rng::new(41);
    let spec = MoeSpec::new(n_expert, top_k, true).expect("a valid spec");
    let weights = Owned::random(&mut rng, DType::F32, n_expert * n_ff * d);
    let experts = Experts {
        gate: weights.weights(n_expert * n_ff, d),
        up: weights.weights(n_expert * n_ff, d),
        down: weights.weights(n_expert * d, n_ff),
    };
    let logits = Padded::new(tokens, n_expert, |_, _| rng.f32());
    let x = Padded::new(tokens, d, |_, _| 0.1 * rng.f32());
    let rt = runtime(Level::SCALAR, 2);
    let run = |logits: &Padded, x: &Padded| {
        let mut y = Padded::new(x.view().rows(), d, |_, _| f32::NAN);
        let routing = routed(&rt, &spec, logits);
        moe_ffn(&rt, &spec, x.view(), &routing, &experts, y.view_mut());
        y.dense()
    };
    let together = run(&logits, &x);
    for t in [0, 1, 999, tokens - 1] {
        let row = |m: &Padded| Padded::new(1, m.view().cols(), |_, c| m.view().row(t)[c]);
        assert_eq!(
            run(&row(&logits), &row(&x)),
            together[t * d..][..d],
            "token {t}"
        );
    }
}

/// In a batch-invariant runtime each token gets the bits that it gets alone in any.
fn alone(op: Op, dtype: DType) {
    let (n_expert, top_k, d, n_ff, tokens) = (5, 2, 96, 64, 30);
    let mut rng = Rng::new(61);
    let spec = MoeSpec::new(n_expert, top_k, true).expect("a valid spec");
    let weights = Owned::random(&mut rng, dtype, n_expert * n_ff * d);
    let experts = Experts {
        gate: weights.weights(n_expert * n_ff, d),
        up: weights.weights(n_expert * n_ff, d),
        down: weights.weights(n_expert * d, n_ff),
    };
    let logits = Padded::new(tokens, n_expert, |_, _| rng.f32());
    let x = Padded::new(tokens, d, |_, _| rng.f32());
    let run = |rt: &Runtime, logits: &Padded, x: &Padded| {
        let mut y = Padded::new(x.view().rows(), d, |_, _| f32::NAN);
        let routing = routed(rt, &spec, logits);
        moe_ffn(rt, &spec, x.view(), &routing, &experts, y.view_mut());
        y.dense()
    };
    for level in levels(op) {
        let rt = runtime(level, 3);
        let together = run(&rt.batch_invariant(), &logits, &x);
        for t in 0..tokens {
            let row = |m: &Padded| Padded::new(1, m.view().cols(), |_, c| m.view().row(t)[c]);
            assert_eq!(
                run(&rt, &row(&logits), &row(&x)),
                together[t * d..][..d],
                "{op} {level}: token {t}"
            );
        }
    }
}

/// A token whose router failed comes out as NaN, the others as they were.
#[test]
fn a_nan_token_harms_nobody_else() {
    let mut rng = Rng::new(51);
    let (n_expert, d) = (4, 32);
    let spec = MoeSpec::new(n_expert, 2, true).expect("a valid spec");
    let weights = Owned::random(&mut rng, DType::Q8_0, n_expert * d * d);
    let w = weights.weights(n_expert * d, d);
    let experts = Experts {
        gate: w,
        up: w,
        down: w,
    };
    let x = Padded::new(3, d, |_, _| rng.f32());
    let run = |level, bad: Option<usize>| {
        let logits = Padded::new(3, n_expert, |t, e| match bad {
            Some(b) if b == t && e == 1 => f32::NAN,
            _ => (t * 5 + e * 3) as f32 % 7.0,
        });
        let rt = runtime(level, 2);
        let mut y = Padded::new(3, d, |_, _| 0.0);
        moe_ffn(
            &rt,
            &spec,
            x.view(),
            &routed(&rt, &spec, &logits),
            &experts,
            y.view_mut(),
        );
        y.dense()
    };
    for level in levels(Op::MoeQ8_0) {
        let (good, bad) = (run(level, None), run(level, Some(1)));
        assert_eq!(good[..d], bad[..d]);
        assert_eq!(good[2 * d..], bad[2 * d..]);
        assert!(bad[d..2 * d].iter().all(|v| v.is_nan()));
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (n_expert, top_k) in [(0, 0), (0, 1), (4, 0), (4, 5), (usize::MAX, 1)] {
        let error = MoeSpec::new(n_expert, top_k, true).expect_err("an odd router");
        assert!(error.to_string().contains(&n_expert.to_string()), "{error}");
    }

    let rt = runtime(Level::SCALAR, 1);
    let spec = MoeSpec::new(2, 1, true).expect("a valid spec");
    let weights = Owned::random(&mut Rng::new(1), DType::F32, 4 * 8);
    let run = |gate: (usize, usize), tokens: usize| {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let experts = Experts {
                gate: weights.weights(gate.0, gate.1),
                up: weights.weights(4, 8),
                down: weights.weights(16, 2),
            };
            let x = Padded::new(tokens, 8, |_, _| 1.0);
            let routing = routed(&rt, &spec, &Padded::new(3, 2, |_, _| 0.0));
            moe_ffn(
                &rt,
                &spec,
                x.view(),
                &routing,
                &experts,
                x.clone().view_mut(),
            );
        }))
        .is_ok()
    };
    assert!(run((4, 8), 3));
    assert!(!run((4, 8), 2), "a routing of other tokens");
    assert!(!run((2, 8), 3), "an expert short");
    assert!(!run((4, 7), 3), "other inputs");
    assert!(!run((5, 6), 3), "not whole experts");

    let part = |part: Range<usize>, rows: usize| {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let experts = Experts {
                gate: weights.weights(rows * 2, 8),
                up: weights.weights(rows * 2, 8),
                down: weights.weights(rows * 8, 2),
            };
            let x = Padded::new(3, 8, |_, _| 1.0);
            let routing = routed(&rt, &spec, &Padded::new(3, 2, |_, _| 0.0));
            let mut y = x.clone();
            moe_ffn_part(
                &rt,
                &spec,
                x.view(),
                &routing,
                part.clone(),
                &experts,
                y.view_mut(),
            );
        }))
        .is_ok()
    };
    assert!(part(1..2, 1));
    assert!(!part(1..3, 2), "more experts than there are");
    assert!(!part(0..2, 1), "fewer weights than experts");
}
