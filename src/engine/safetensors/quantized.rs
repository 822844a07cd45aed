//! Models of other quantisations than GGUF's: recognised, so that they can be refused with a name.

use std::fmt;

use serde_json::Value;

use super::Folder;

/// What a folder's weights are quantised with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quantized {
    /// The method's name, such as `GPTQ`.
    pub method: String,
    /// Bits of a weight, where the configuration says so.
    pub bits: Option<u64>,
    /// The first tensor by name that holds quantised weights.
    pub tensor: Option<String>,
    /// How many such tensors there are.
    pub tensors: usize,
}

impl Quantized {
    /// Recognises a quantised model by its `quantization_config`, or by its tensors where the configuration says
    /// nothing, as in folders of 2023.
    pub fn detect(folder: &Folder) -> Option<Self> {
        let config: Value = serde_json::from_slice(folder.config()).unwrap_or(Value::Null);
        let config = config.get("quantization_config").filter(|c| !c.is_null());
        let names = || {
            let shards = folder.shards().iter();
            shards.flat_map(|shard| shard.tensors().iter().map(|tensor| tensor.name.as_str()))
        };
        let mut quantized: Vec<&str> = names().filter(|name| is_quantized(name)).collect();
        quantized.sort_unstable();
        let has = |part: &str| names().any(|name| name.ends_with(part));
        let by_tensors = match () {
            () if has(".qweight") && has(".g_idx") => Some("GPTQ"),
            () if has(".qweight") => Some("AWQ or GPTQ"),
            () if has(".weight_packed") => Some("compressed-tensors"),
            () if has(".absmax") => Some("bitsandbytes"),
            () if has(".weight_scale_inv") || has(".weight_scale") => Some("FP8"),
            () => None,
        };
        let text = |key: &str| config?.get(key)?.as_str().map(str::to_owned);
        let method = match (config, text("quant_method")) {
            (Some(_), Some(method)) => spelled(&method),
            (Some(_), None) => by_tensors.unwrap_or("an unnamed method").to_owned(),
            (None, _) => by_tensors?.to_owned(),
        };
        let bits = |key: &str| config?.get(key)?.as_u64();
        Some(Self {
            method,
            bits: bits("bits").or_else(|| bits("w_bit")),
            tensor: quantized.first().map(|name| (*name).to_owned()),
            tensors: quantized.len(),
        })
    }
}

/// Whether a tensor of this name holds weights in a packed form.
fn is_quantized(name: &str) -> bool {
    [
        ".qweight",
        ".weight_packed",
        ".weight_scale_inv",
        ".weight_scale",
        ".absmax",
    ]
    .iter()
    .any(|end| name.ends_with(end))
}

/// A method's name as people write it.
fn spelled(method: &str) -> String {
    match method {
        "gptq" | "awq" | "fp8" | "hqq" | "eetq" | "aqlm" => method.to_uppercase(),
        other => other.chars().take(64).collect(),
    }
}

impl fmt::Display for Quantized {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the weights are quantised with {}", self.method)?;
        if let Some(bits) = self.bits {
            write!(f, " to {bits} bits")?;
        }
        if let Some(tensor) = &self.tensor {
            write!(f, " (tensor {tensor:?}")?;
            if self.tensors > 1 {
                write!(f, " and {} more", self.tensors - 1)?;
            }
            write!(f, ")")?;
        }
        write!(
            f,
            ", for which there are no kernels: take the original model in bfloat16 and let --dtype q8_0 quantise it, or \
             a GGUF file of it"
        )
    }
}
