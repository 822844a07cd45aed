//! Operations on rows.

use std::hint::black_box;
use std::rc::Rc;

use tokgate_kernels::{
    MatMut, MatRef, Rope, RopeAngles, RopeKind, RopeScaling, RopeSpec, Runtime, add, rms_norm,
    rope, softmax, swiglu,
};

use super::check;
use super::inputs::Rng;
use super::suite::{Routine, Work};

const EPS: f32 = 1e-6;
const HEAD_DIM: usize = 128;

/// Position of the first token, where angles are neither all small nor all alike.
const POSITION: u32 = 1000;

/// Outputs that are looked at.
const SPOTS: usize = 16;

/// Relative to the terms of an output: f32 arithmetic, and an exponential.
const TOLERANCE: f64 = 1e-5;

/// An operation, how large it is in real models, and what it should answer.
#[derive(Clone, Copy)]
pub struct Kernel {
    /// Tokens and width: one token and a prompt.
    pub shapes: [(usize, usize); 2],
    /// What the operands hold.
    fill: Fill,
    /// Matrices that it reads and writes.
    passes: usize,
    /// Runs it. The last argument is the result, and an operand where the operation works in place.
    apply: fn(&Runtime, &Operands, MatMut<f32>),
    /// An output `[row, column]`, and the size of its terms.
    expect: fn(&Operands, usize, usize) -> (f64, f64),
}

/// Operands that stay in range however often an operation is applied to its own result, lest infinities or denormals be
/// timed.
#[derive(Clone, Copy, PartialEq)]
enum Fill {
    /// Anything in −1…1.
    Any,
    /// Gates in −1…0 and up = 1 + exp(−gate): the result is the gate again, and rounding errors die out.
    Gate,
}

/// Out of place, as a layer does it.
pub const RMS_NORM: Kernel = Kernel {
    shapes: [(1, 4096), (512, 4096)],
    fill: Fill::Any,
    passes: 2,
    apply: |rt, operands, y| rms_norm(rt, operands.x(), &operands.y[..operands.n], EPS, y),
    expect: |operands, row, column| {
        let x = operands.x().row(row);
        let squares: f64 = x.iter().map(|v| f64::from(*v).powi(2)).sum();
        let norm = (squares / x.len() as f64 + f64::from(EPS)).sqrt();
        alone(f64::from(x[column]) / norm * f64::from(operands.y[column]))
    },
};

/// Queries of 32 heads.
pub const ROPE: Kernel = Kernel {
    shapes: [(1, 32 * HEAD_DIM), (512, 32 * HEAD_DIM)],
    fill: Fill::Any,
    passes: 2,
    apply: |rt, operands, x| rope(rt, &operands.rope, &operands.angles, HEAD_DIM, x),
    expect: |operands, row, column| {
        let head = &operands.x().row(row)[column / HEAD_DIM * HEAD_DIM..][..HEAD_DIM];
        let (half, i) = (HEAD_DIM / 2, column % (HEAD_DIM / 2));
        let (a, b) = (f64::from(head[i]), f64::from(head[i + half]));
        let position = f64::from(POSITION) + row as f64;
        let (sin, cos) = (position * operands.rope.inv_freq()[i]).sin_cos();
        let want = if column % HEAD_DIM < half {
            a * cos - b * sin
        } else {
            a * sin + b * cos
        };
        (want, a.abs() + b.abs())
    },
};

/// The gate of a feed-forward.
pub const SWIGLU: Kernel = Kernel {
    shapes: [(1, 11008), (512, 11008)],
    fill: Fill::Gate,
    passes: 3,
    apply: |rt, operands, gate| swiglu(rt, gate, operands.y()),
    expect: |operands, row, column| {
        let gate = f64::from(operands.x().row(row)[column]);
        let up = f64::from(operands.y().row(row)[column]);
        alone(gate / (1.0 + (-gate).exp()) * up)
    },
};

/// The residual connection.
pub const ADD: Kernel = Kernel {
    shapes: [(1, 4096), (512, 4096)],
    fill: Fill::Any,
    passes: 3,
    apply: |rt, operands, x| add(rt, x, operands.y()),
    expect: |operands, row, column| {
        let (x, y) = (operands.x().row(row)[column], operands.y().row(row)[column]);
        (f64::from(x) + f64::from(y), f64::from(x.abs() + y.abs()))
    },
};

/// The choice of the next token, and the router of Qwen3-30B-A3B.
pub const SOFTMAX: Kernel = Kernel {
    shapes: [(1, 151_936), (512, 128)],
    fill: Fill::Any,
    passes: 2,
    apply: |rt, _, x| softmax(rt, x),
    expect: |operands, row, column| {
        let x = operands.x().row(row);
        let sum: f64 = x.iter().map(|v| f64::from(*v).exp()).sum();
        alone(f64::from(x[column]).exp() / sum)
    },
};

impl Kernel {
    /// The shape's name in ids.
    pub fn shape(m: usize, n: usize) -> String {
        format!("m{m}_n{n}")
    }

    /// What one call works through.
    pub fn work(&self, m: usize, n: usize) -> Work {
        Work {
            elements: (m * n) as u64,
            bytes: (self.passes * m * n * size_of::<f32>()) as u64,
        }
    }

    /// The call, checked.
    ///
    /// # Errors
    /// If an output is wrong.
    pub fn prepare(self, rt: Rc<Runtime>, m: usize, n: usize) -> anyhow::Result<Routine> {
        let operands = Operands::new(self.fill, m, n)?;
        let mut result = operands.x.clone();
        (self.apply)(&rt, &operands, MatMut::new(&mut result, m, n)?);
        let mut rng = Rng::new(3);
        for _ in 0..SPOTS {
            let (row, column) = (rng.below(m), rng.below(n));
            let (want, scale) = (self.expect)(&operands, row, column);
            let what = format!("output [{row}, {column}]");
            check::close(&what, result[row * n + column], want, scale, TOLERANCE)?;
        }
        Ok(Box::new(move || {
            let result = MatMut::new(black_box(&mut result), m, n);
            (self.apply)(&rt, &operands, result.expect("the shape of a moment ago"));
        }))
    }
}

/// An output of one term.
fn alone(want: f64) -> (f64, f64) {
    (want, want.abs())
}

/// What the operations work on.
struct Operands {
    m: usize,
    n: usize,
    x: Vec<f32>,
    y: Vec<f32>,
    rope: Rope,
    angles: RopeAngles,
}

impl Operands {
    fn new(fill: Fill, m: usize, n: usize) -> anyhow::Result<Self> {
        let mut rng = Rng::new(n as u64);
        let mut x = rng.f32s(m * n);
        let mut y = rng.f32s(m * n);
        if fill == Fill::Gate {
            x.iter_mut().for_each(|gate| *gate = -gate.abs());
            y = x.iter().map(|gate| 1.0 + (-gate).exp()).collect();
        }
        let rope = Rope::new(&RopeSpec {
            kind: RopeKind::NeoX,
            n_dims: HEAD_DIM,
            theta: 1e6,
            scaling: RopeScaling::None,
            freq_factors: None,
        })?;
        let positions: Vec<u32> = (POSITION..).take(m).collect();
        let angles = rope.angles(&positions);
        Ok(Self {
            m,
            n,
            x,
            y,
            rope,
            angles,
        })
    }

    fn x(&self) -> MatRef<'_, f32> {
        MatRef::new(&self.x, self.m, self.n).expect("made in this shape")
    }

    fn y(&self) -> MatRef<'_, f32> {
        MatRef::new(&self.y, self.m, self.n).expect("made in this shape")
    }
}
