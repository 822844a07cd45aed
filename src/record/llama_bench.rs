//! A result of `tokgate bench` with the keys of llama-bench, in its order, so that its tools read it.
//!
//! `use_mmap` and `load_mode` are both written: `compare-llama-bench.py` still wants the former. What llama-bench has no
//! key for (`level` and what follows it) comes after its own keys.

use serde::{Deserialize, Serialize};

/// One line of results: one model, thread count and test.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(
    missing_docs,
    reason = "the names are llama-bench's own, and its documentation tells them"
)]
pub struct LlamaBench {
    pub build_commit: String,
    pub build_number: u64,
    pub cpu_info: String,
    pub gpu_info: String,
    pub backends: String,
    pub model_filename: String,
    pub model_type: String,
    pub model_size: u64,
    pub model_n_params: u64,
    pub n_batch: u64,
    pub n_ubatch: u64,
    pub n_threads: u64,
    pub cpu_mask: String,
    pub cpu_strict: bool,
    pub poll: u64,
    pub type_k: String,
    pub type_v: String,
    pub n_gpu_layers: u64,
    pub n_cpu_moe: u64,
    pub split_mode: String,
    pub main_gpu: u64,
    pub no_kv_offload: bool,
    pub flash_attn: u64,
    pub devices: String,
    pub tensor_split: String,
    pub tensor_buft_overrides: String,
    pub use_mmap: bool,
    pub load_mode: String,
    pub embeddings: bool,
    pub no_op_offload: u64,
    pub no_host: bool,
    pub fit_target: u64,
    pub fit_min_ctx: u64,
    pub n_prompt: u64,
    pub n_gen: u64,
    pub n_depth: u64,
    pub test_time: String,
    pub avg_ns: u64,
    pub stddev_ns: u64,
    pub avg_ts: f64,
    pub stddev_ts: f64,
    /// Kernel level that ran.
    pub level: String,
    /// Multiply–accumulates of one repetition.
    pub macs: u64,
    /// Bytes of weights and KV read by one repetition.
    pub bytes: u64,
    /// 10⁹ multiply–accumulates a second: `macs / ns`, the mean over the repetitions.
    pub avg_gmacs: f64,
    /// 10⁹ bytes a second: `bytes / ns`, the mean over the repetitions.
    pub avg_gbs: f64,
    pub samples_ns: Vec<u64>,
    pub samples_ts: Vec<f64>,
}

impl LlamaBench {
    /// The test's name as llama-bench writes it: `pp512`, `tg128`, `pp512+tg128`, ` @ d4096` behind it at a depth.
    pub fn test(&self) -> String {
        let test = match (self.n_prompt, self.n_gen) {
            (prompt, 0) => format!("pp{prompt}"),
            (0, generated) => format!("tg{generated}"),
            (prompt, generated) => format!("pp{prompt}+tg{generated}"),
        };
        if self.n_depth == 0 {
            test
        } else {
            format!("{test} @ d{}", self.n_depth)
        }
    }
}
