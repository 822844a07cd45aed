//! The use of experts from what passes counted.

use crate::engine::config::ModelConfig;
use crate::engine::forward::Work;
use crate::metrics::Selections;
use crate::metrics::experts::ExpertUsage;

/// The use of experts in the passes of prompts and of single tokens; `None` for a dense model.
///
/// # Errors
/// If the counts are not what the numbers of tokens make them.
pub fn usage_of(
    config: &ModelConfig,
    (prefill, decode): (&Work, &Work),
    expected: Selections,
) -> anyhow::Result<Option<ExpertUsage>> {
    if !config.is_moe() {
        return Ok(None);
    }
    let sizes = (config.n_layer, config.n_expert, config.n_expert_used);
    let counts = (&prefill.experts[..], &decode.experts[..]);
    Ok(Some(ExpertUsage::new(sizes, counts, expected)?))
}
