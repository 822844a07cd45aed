//! Rotary embedding: variants, far positions, and the tables of the scalings.

use tokgate_kernels::{Level, Op, Rope, RopeError, RopeKind, RopeScaling, RopeSpec, Runtime, rope};

use crate::common::{Rng, assert_close, levels, runtime, tolerance};
use crate::padded::Padded;

/// Dimensions that turn, elements of a head, heads.
const SHAPES: &[(usize, usize, usize)] = &[
    (2, 2, 1),
    (2, 5, 3),
    (6, 8, 2),
    (14, 16, 1),
    (16, 16, 4),
    (30, 32, 3),
    (32, 32, 2),
    (34, 40, 2),
    (64, 64, 4),
    (64, 128, 2),
    (80, 80, 3),
    (96, 96, 2),
    (128, 128, 8),
    (256, 256, 1),
];

const POSITIONS: [u32; 5] = [0, 1, 4095, 131_071, 77];

fn spec(kind: RopeKind, n_dims: usize) -> RopeSpec {
    RopeSpec {
        kind,
        n_dims,
        theta: 10_000.0,
        scaling: RopeScaling::None,
        freq_factors: None,
    }
}

/// A row turned by the formula in f64, and the scale of its error: the sum of the absolute products.
fn turned(x: &[f32], spec: &RopeSpec, head_dim: usize, position: u32) -> (Vec<f32>, Vec<f64>) {
    let n = spec.n_dims;
    let mut y: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
    let mut scale: Vec<f64> = y.iter().map(|v| v.abs()).collect();
    for head in (0..x.len()).step_by(head_dim) {
        for i in 0..n / 2 {
            let (a, b) = match spec.kind {
                RopeKind::Normal => (head + 2 * i, head + 2 * i + 1),
                RopeKind::NeoX => (head + i, head + i + n / 2),
            };
            let angle = f64::from(position) * spec.theta.powf(-((2 * i) as f64) / n as f64);
            let (u, v) = (f64::from(x[a]), f64::from(x[b]));
            y[a] = u * angle.cos() - v * angle.sin();
            y[b] = u * angle.sin() + v * angle.cos();
            (scale[a], scale[b]) = (u.abs() + v.abs(), u.abs() + v.abs());
        }
    }
    (y.iter().map(|v| *v as f32).collect(), scale)
}

pub fn grid(op: Op) {
    let mut rng = Rng::new(11);
    for kind in [RopeKind::Normal, RopeKind::NeoX] {
        for &(n_dims, head_dim, heads) in SHAPES {
            for tokens in [0, 1, 5] {
                let positions = &POSITIONS[POSITIONS.len() - tokens..];
                check(
                    op,
                    &spec(kind, n_dims),
                    head_dim,
                    heads,
                    positions,
                    &mut rng,
                );
            }
        }
        // Enough for a fork.
        let positions: Vec<u32> = (1000..1050).collect();
        check(op, &spec(kind, 128), 128, 8, &positions, &mut rng);
    }
}

fn check(op: Op, spec: &RopeSpec, head_dim: usize, heads: usize, positions: &[u32], rng: &mut Rng) {
    let what = format!(
        "{op} {:?} {} of {head_dim}, {heads} heads, {} tokens",
        spec.kind,
        spec.n_dims,
        positions.len()
    );
    let x = Padded::new(positions.len(), heads * head_dim, |_, _| rng.f32());
    let frequencies = Rope::new(spec).expect("a valid spec");
    let angles = frequencies.angles(positions);
    let run = |rt: &Runtime| {
        let mut x = x.clone();
        rope(rt, &frequencies, &angles, head_dim, x.view_mut());
        x.assert_untouched_around(&what);
        x.dense()
    };
    let (want, scale): (Vec<_>, Vec<_>) = positions
        .iter()
        .enumerate()
        .map(|(t, p)| turned(x.view().row(t), spec, head_dim, *p))
        .unzip();
    let (want, scale) = (want.concat(), scale.concat());
    let oracle = run(&runtime(Level::SCALAR, 1));
    assert_close(&what, &oracle, &want, &scale, 2e-7);
    for level in levels(op) {
        for threads in [1, 3] {
            let what = format!("{what} at {level} with {threads} threads");
            let got = run(&runtime(level, threads));
            assert_close(&what, &got, &oracle, &scale, tolerance(op));
        }
    }
    for (t, row) in oracle.chunks(heads * head_dim).enumerate() {
        for (i, v) in row.iter().enumerate() {
            if i % head_dim >= spec.n_dims {
                assert_eq!(*v, x.view().row(t)[i], "{what}: the rest of a head stays");
            }
        }
    }
}

/// Holds chosen frequencies to values computed with 40 digits from transformers' formulas.
fn assert_table(spec: &RopeSpec, magnitude: f64, table: &[(usize, f64)]) {
    let rope = Rope::new(spec).expect("a valid spec");
    assert!((rope.magnitude() - magnitude).abs() < 1e-14);
    for (i, want) in table {
        let got = rope.inv_freq()[*i];
        assert!((got / want - 1.0).abs() < 1e-13, "{i}: {got} is not {want}");
    }
    let angles = rope.angles(&[131_071]);
    let mut x = vec![0.0_f32; spec.n_dims];
    let last = table[table.len() - 1];
    x[last.0] = 1.0;
    let mut view = tokgate_kernels::MatMut::new(&mut x, 1, spec.n_dims).expect("one head");
    tokgate_kernels::rope(
        &runtime(Level::highest(), 1),
        &rope,
        &angles,
        spec.n_dims,
        view.reborrow(),
    );
    let (sin, cos) = (131_071.0 * last.1).sin_cos();
    let want = [(cos * magnitude) as f32, (sin * magnitude) as f32];
    let got = [x[last.0], x[last.0 + spec.n_dims / 2]];
    assert_close("far position", &got, &want, &[magnitude; 2], 1e-7);
}

#[test]
fn llama3_frequencies_are_those_of_transformers() {
    let spec = RopeSpec {
        theta: 500_000.0,
        scaling: RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 8192,
        },
        ..spec(RopeKind::NeoX, 128)
    };
    let table = [
        (0, 1.0),
        (1, 0.814_617_233_856_544_7),
        (28, 0.003_211_445_994_752_591),
        (29, 0.002_166_570_763_503_358_6),
        (30, 0.001_371_893_567_761_138_1),
        (33, 0.000_312_693_750_384_065_1),
        (34, 0.000_178_507_812_767_996_4),
        (35, 9.556_212_353_964_683e-5),
        (36, 7.784_655_273_932_45e-5),
        (63, 3.068_925_988_914_511e-7),
    ];
    assert_table(&spec, 1.0, &table);
}

#[test]
fn yarn_frequencies_are_those_of_transformers() {
    let yarn = |factor, original_context| RopeScaling::Yarn {
        factor,
        original_context,
        ext_factor: 1.0,
        attn_factor: 1.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
    };
    let qwen = RopeSpec {
        theta: 1_000_000.0,
        scaling: yarn(4.0, 32_768),
        ..spec(RopeKind::NeoX, 128)
    };
    let table = [
        (0, 1.0),
        (10, 0.115_478_198_468_945_82),
        (23, 0.006_978_305_848_598_663),
        (24, 0.005_375_321_490_790_102),
        (30, 0.001_064_360_981_247_001_8),
        (39, 6.490_394_320_837_029e-5),
        (40, 4.445_698_525_097_307e-5),
        (63, 3.102_344_401_879_299e-7),
    ];
    assert_table(&qwen, 1.138_629_436_111_989, &table);
    let small = RopeSpec {
        scaling: yarn(16.0, 4096),
        ..spec(RopeKind::NeoX, 80)
    };
    let table = [
        (0, 1.0),
        (10, 0.1),
        (15, 0.027_916_982_468_673_974),
        (20, 0.005_898_437_5),
        (25, 0.000_938_801_180_362_487_6),
        (29, 7.868_283_823_713_545e-5),
        (39, 7.868_283_823_713_545e-6),
    ];
    assert_table(&small, 1.277_258_872_223_978_1, &table);
}

#[test]
fn yarn_without_extrapolation_is_linear() {
    let yarn = RopeScaling::Yarn {
        factor: 4.0,
        original_context: 4096,
        ext_factor: 0.0,
        attn_factor: 1.5,
        beta_fast: 32.0,
        beta_slow: 1.0,
    };
    let with = |scaling| {
        let spec = RopeSpec {
            scaling,
            ..spec(RopeKind::Normal, 64)
        };
        Rope::new(&spec).expect("a valid spec")
    };
    let (yarn, linear) = (with(yarn), with(RopeScaling::Linear { factor: 4.0 }));
    assert_eq!(yarn.inv_freq(), linear.inv_freq());
    assert_eq!((yarn.magnitude(), linear.magnitude()), (1.5, 1.0));
}

#[test]
fn frequency_factors_divide() {
    let factored = RopeSpec {
        freq_factors: Some(vec![1.0, 2.0, 8.0]),
        ..spec(RopeKind::Normal, 6)
    };
    let (plain, factored) = (Rope::new(&spec(RopeKind::Normal, 6)), Rope::new(&factored));
    let (plain, factored) = (plain.expect("valid"), factored.expect("valid"));
    for (i, factor) in [1.0, 2.0, 8.0].into_iter().enumerate() {
        assert_eq!(factored.inv_freq()[i], plain.inv_freq()[i] / factor);
    }
}

#[test]
fn what_makes_no_sense_is_an_error() {
    let plain = spec(RopeKind::Normal, 64);
    for n_dims in [0, 3, usize::MAX, usize::MAX - 1] {
        let spec = RopeSpec {
            n_dims,
            ..plain.clone()
        };
        assert_eq!(Rope::new(&spec), Err(RopeError::Dims(n_dims)));
    }
    for theta in [0.0, 1.0, -5.0, f64::NAN, f64::INFINITY] {
        let spec = RopeSpec {
            theta,
            ..plain.clone()
        };
        assert!(Rope::new(&spec).is_err(), "theta {theta}");
    }
    for factors in [vec![], vec![1.0; 31], vec![0.0; 32], vec![f32::NAN; 32]] {
        let spec = RopeSpec {
            freq_factors: Some(factors),
            ..plain.clone()
        };
        assert!(Rope::new(&spec).is_err());
    }
    let scalings = [
        RopeScaling::Linear { factor: 0.0 },
        RopeScaling::Linear { factor: f64::NAN },
        RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 4.0,
            high_freq_factor: 4.0,
            original_context: 8192,
        },
        RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 0,
        },
        RopeScaling::Yarn {
            factor: 4.0,
            original_context: 4096,
            ext_factor: -1.0,
            attn_factor: 1.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
        },
        RopeScaling::Yarn {
            factor: 4.0,
            original_context: 4096,
            ext_factor: 1.0,
            attn_factor: 1.0,
            beta_fast: 1.0,
            beta_slow: 1.0,
        },
    ];
    for scaling in scalings {
        let spec = RopeSpec {
            scaling,
            ..plain.clone()
        };
        assert!(Rope::new(&spec).is_err(), "{scaling:?}");
    }
}
