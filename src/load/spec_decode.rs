//! Acceptance of drafts, from a server's metrics in Prometheus' format: the counters that vLLM has, before and after.

use std::collections::BTreeMap;

use crate::record::serving::SpecDecode;

/// The counters at a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    drafts: u64,
    draft_tokens: u64,
    accepted: u64,
    by_position: BTreeMap<u32, u64>,
}

impl Counters {
    /// Reads them; `None` for a server that drafts nothing.
    pub fn parse(metrics: &str) -> Option<Self> {
        let mut counters = Self::default();
        let mut found = false;
        for line in metrics.lines() {
            let Some(rest) = line.trim().strip_prefix("vllm:spec_decode_num_") else {
                continue;
            };
            let name_ends = rest.find(['{', ' ']).unwrap_or(rest.len());
            let (name, labels) = rest.split_at(name_ends);
            let value: f64 = labels.rsplit(' ').next()?.parse().ok()?;
            let count = value as u64;
            let place = match name {
                "drafts_total" => &mut counters.drafts,
                "draft_tokens_total" => &mut counters.draft_tokens,
                "accepted_tokens_total" => &mut counters.accepted,
                "accepted_tokens_per_pos_total" => {
                    let position = labels.split_once("position=\"")?.1.split_once('"')?.0;
                    counters
                        .by_position
                        .entry(position.parse().ok()?)
                        .or_default()
                }
                _ => continue,
            };
            *place = place.saturating_add(count);
            found = true;
        }
        found.then_some(counters)
    }

    /// What happened until `later`; `None` if nothing was drafted.
    pub fn until(&self, later: &Self) -> Option<SpecDecode> {
        let num_drafts = later.drafts.saturating_sub(self.drafts);
        let draft_tokens = later.draft_tokens.saturating_sub(self.draft_tokens);
        if num_drafts == 0 || draft_tokens == 0 {
            return None;
        }
        let mut per_position: Vec<f64> = Vec::new();
        let shares = later.by_position.iter().map(|(position, count)| {
            let before = self.by_position.get(position).copied().unwrap_or(0);
            count.saturating_sub(before) as f64 / num_drafts as f64
        });
        per_position.extend(shares);
        // Places that no draft reached say nothing.
        let reached = per_position.iter().rposition(|share| *share > 0.0);
        per_position.truncate(reached.map_or(0, |last| last + 1));
        Some(SpecDecode {
            num_drafts,
            draft_tokens,
            accepted_tokens: later.accepted.saturating_sub(self.accepted),
            per_position,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_and_their_difference_is_told() {
        let text = |drafts: u64, tokens: u64, accepted: u64| {
            format!(
                "# HELP vllm:spec_decode_num_drafts_total x\n\
                 vllm:spec_decode_num_drafts_total{{model_name=\"a b\"}} {drafts}.0\n\
                 vllm:spec_decode_num_draft_tokens_total {tokens}\n\
                 vllm:spec_decode_num_accepted_tokens_total{{m=\"x\"}} {accepted}\n\
                 vllm:spec_decode_num_accepted_tokens_per_pos_total{{position=\"0\"}} {drafts}\n\
                 vllm:spec_decode_num_accepted_tokens_per_pos_total{{m=\"x\",position=\"1\"}} 5\n\
                 vllm:other 7\n"
            )
        };
        let before = Counters::parse(&text(10, 40, 20)).unwrap();
        let after = Counters::parse(&text(20, 80, 50)).unwrap();
        let drafts = before.until(&after).unwrap();
        assert_eq!(
            (
                drafts.num_drafts,
                drafts.draft_tokens,
                drafts.accepted_tokens
            ),
            (10, 40, 30)
        );
        assert_eq!(
            (drafts.acceptance_rate(), drafts.acceptance_length()),
            (75.0, 4.0)
        );
        assert_eq!(drafts.per_position, [1.0]);
        assert_eq!(before.until(&before), None);
        for none in [
            "",
            "vllm:other 1\n",
            "vllm:spec_decode_num_drafts_total x\n",
        ] {
            assert_eq!(Counters::parse(none), None, "{none}");
        }
    }
}
