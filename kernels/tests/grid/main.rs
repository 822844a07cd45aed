//! Every variant of every operation against its scalar oracle, on a generated grid of shapes; the oracle against f64.
//!
//! [`covered`] matches on [`Op`] without a wildcard: an operation without a grid does not compile.

mod attention;
mod common;
mod elementwise;
mod matmul;
mod moe;
mod padded;
mod rope;

use tokgate_kernels::Op;

/// The test that covers an operation at all of its variants.
fn covered(op: Op) -> fn(Op) {
    match op {
        Op::MatmulF32 | Op::MatmulF16 | Op::MatmulBf16 | Op::MatmulQ8_0 => matmul::grid,
        Op::AttentionF32 | Op::AttentionBf16 => attention::grid,
        Op::MoeRoute => moe::test_route,
        Op::MoeF32 | Op::MoeF16 | Op::MoeBf16 | Op::MoeQ8_0 => moe::test_ffn,
        Op::RmsNorm => elementwise::test_rms_norm,
        Op::Rope => rope::grid,
        Op::Swiglu => elementwise::test_swiglu,
        Op::Add => elementwise::test_add,
        Op::Softmax => elementwise::test_softmax,
    }
}

/// One test an operation, so that a failure names it and they run side by side.
macro_rules! grid {
    ($($test:ident: $op:ident),* $(,)?) => {
        $(#[test] fn $test() { covered(Op::$op)(Op::$op); })*

        #[test]
        fn nothing_is_left_out() {
            assert_eq!([$(Op::$op),*], Op::ALL);
        }
    };
}

grid! {
    matmul_f32: MatmulF32,
    matmul_f16: MatmulF16,
    matmul_bf16: MatmulBf16,
    matmul_q8_0: MatmulQ8_0,
    attention_f32: AttentionF32,
    attention_bf16: AttentionBf16,
    moe_route: MoeRoute,
    moe_f32: MoeF32,
    moe_f16: MoeF16,
    moe_bf16: MoeBf16,
    moe_q8_0: MoeQ8_0,
    rms_norm: RmsNorm,
    rope: Rope,
    swiglu: Swiglu,
    add: Add,
    softmax: Softmax,
}
