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
    /// What limits the test: `read` for the bytes, or the type of the multiply–accumulates; `null` if not probed.
    #[serde(default)]
    pub limit_resource: Option<String>,
    /// 10⁹ bytes a second that were read beside the test, on its threads.
    #[serde(default)]
    pub limit_gbs: Option<f64>,
    /// 10⁹ multiply–accumulates a second that ran from registers beside the test, on its threads.
    #[serde(default)]
    pub limit_gmacs: Option<f64>,
    /// The least time that the limits allow over the time that it took, in percent: the median over the repetitions.
    #[serde(default)]
    pub limit_pct: Option<f64>,
}

/// Above this share of what the machine reaches beside it, a result is a mistake to look into.
const SUSPICIOUS_PCT: f64 = 105.0;

impl LlamaBench {
    /// Whether it claims more than the machine can do.
    pub fn is_beyond_limit(&self) -> bool {
        self.limit_pct.is_some_and(|pct| pct > SUSPICIOUS_PCT)
    }

    /// The test's name, see [`test_name`].
    pub fn test(&self) -> String {
        test_name(self.n_prompt, self.n_gen, self.n_depth)
    }
}

/// A test's name as llama-bench writes it: `pp512`, `tg128`, `pp512+tg128`, ` @ d4096` behind it at a depth.
pub fn test_name(n_prompt: u64, n_gen: u64, n_depth: u64) -> String {
    let test = match (n_prompt, n_gen) {
        (prompt, 0) => format!("pp{prompt}"),
        (0, generated) => format!("tg{generated}"),
        (prompt, generated) => format!("pp{prompt}+tg{generated}"),
    };
    if n_depth == 0 {
        test
    } else {
        format!("{test} @ d{n_depth}")
    }
}

/// A result of somebody else's llama-bench: what of it is needed here. Versions and forks differ in the rest.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Theirs {
    /// The commit that the program was built from.
    pub build_commit: String,
    /// And its number.
    pub build_number: u64,
    /// Prompt tokens.
    pub n_prompt: u64,
    /// Generated tokens.
    pub n_gen: u64,
    /// Tokens in the cache before.
    pub n_depth: u64,
    /// Threads.
    pub n_threads: u64,
    /// Element type of the cache's keys.
    pub type_k: String,
    /// Mean tokens a second.
    pub avg_ts: f64,
}

impl Theirs {
    /// The results in what the program printed; some forks print lines of their own before the array.
    ///
    /// # Errors
    /// If there is no array of results.
    pub fn parse(output: &str) -> Result<Vec<Self>, serde_json::Error> {
        let first = output.trim_start().starts_with('[');
        let start = if first {
            0
        } else {
            output.find("\n[").unwrap_or(0)
        };
        // Lines behind the array are not looked at.
        let mut arrays = serde_json::Deserializer::from_str(&output[start..]).into_iter();
        arrays.next().unwrap_or_else(|| serde_json::from_str(""))
    }

    /// The test's name, see [`test_name`].
    pub fn test(&self) -> String {
        test_name(self.n_prompt, self.n_gen, self.n_depth)
    }

    /// The program's version.
    pub fn build(&self) -> String {
        format!("{} ({})", self.build_commit, self.build_number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_forks_are_read() {
        let array = r#"[ {"build_commit": "a1", "build_number": 7, "n_prompt": 0, "n_gen": 128, "n_threads": 2,
            "type_k": "f16", "flash_attn": true, "avg_ts": 12.5, "samples_ts": [ 12.5 ]} ]"#;
        for output in [
            array.to_owned(),
            format!("  \n{array}\n"),
            format!("a fork's own line [1]\n{array}\n\nbuild: x\n"),
        ] {
            let results = Theirs::parse(&output).unwrap();
            assert_eq!(results.len(), 1, "{output}");
            assert_eq!(
                (results[0].test(), results[0].avg_ts),
                ("tg128".to_owned(), 12.5)
            );
            assert_eq!(results[0].build(), "a1 (7)");
        }
        for output in ["", "| model | size |", "[1]", "\n[", "{}"] {
            assert!(Theirs::parse(output).is_err(), "{output}");
        }
    }
}
