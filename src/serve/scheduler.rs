//! Which rows the next pass computes, and which slot a request gets: decisions alone, without a model or a clock.
//!
//! DEFINITION. A pass has room for `rows` rows. Every sequence that generates gets the rows it asks for first, so that
//! nobody's text waits for another's prompt; what is left goes to prompts in equal shares, what one of them does not
//! need to the others, and the rest of a division to the shortest, of equals to the first that came. Since a prompt may be cut anywhere, a long
//! one delays each token of the others by at most one pass of `rows` rows, and a short one beside it is not behind it.

/// What a sequence wants of the next pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Nothing: the slot is empty.
    Nothing,
    /// The next token; so many rows.
    Decode(usize),
    /// So many tokens of its prompt are not computed yet; the number tells who came first.
    Prefill {
        /// Tokens.
        left: usize,
        /// Place in the order of arrival.
        arrival: u64,
    },
}

/// Rows of each slot in a pass of about `rows` rows; generating sequences always get theirs, and prompts together at
/// least one, so that everything ends.
pub fn plan(wants: &[Want], rows: usize) -> Vec<usize> {
    let mut planned = vec![0; wants.len()];
    let mut prompts = Vec::new();
    let mut used = 0;
    for (slot, want) in wants.iter().enumerate() {
        match *want {
            Want::Nothing => {}
            Want::Decode(asked) => {
                planned[slot] = asked;
                used += asked;
            }
            Want::Prefill { left, arrival } => prompts.push((left, arrival, slot)),
        }
    }
    let mut room = rows.saturating_sub(used).max(1);
    // The shortest first: what it leaves of its share is divided among the others.
    prompts.sort_unstable();
    for at in 0..prompts.len() {
        let (left, _, slot) = prompts[at];
        planned[slot] = left.min(room.div_ceil(prompts.len() - at));
        room -= planned[slot];
    }
    planned
}

/// As [`plan`], for passes that each prompt has to itself: the one that came first gets all of its own, so that it is
/// always cut at multiples of `rows`, whatever else there is.
pub fn plan_apart(wants: &[Want], rows: usize) -> Vec<usize> {
    let first = wants.iter().filter_map(|want| match *want {
        Want::Prefill { arrival, .. } => Some(arrival),
        _ => None,
    });
    let first = first.min();
    let planned = wants.iter().map(|want| match *want {
        Want::Decode(asked) => asked,
        Want::Prefill { left, arrival } if Some(arrival) == first => left.min(rows),
        Want::Prefill { .. } | Want::Nothing => 0,
    });
    planned.collect()
}

/// What a slot holds.
#[derive(Clone, Copy, Debug)]
pub struct Slot<'a> {
    /// Whether a sequence runs in it.
    pub busy: bool,
    /// Tokens whose keys and values are in its cache.
    pub cached: &'a [u32],
    /// When it was last used; larger is later.
    pub used: u64,
}

/// The free slot for `prompt` and how many of its tokens are computed there already: the one that has most of them, and
/// of equals the one that was not used for longest. At least one token is left to compute, because its logits are
/// needed. `None` if no slot is free.
pub fn choose(slots: &[Slot<'_>], prompt: &[u32]) -> Option<(usize, usize)> {
    let most = prompt.len().saturating_sub(1);
    let free = slots.iter().enumerate().filter(|(_, slot)| !slot.busy);
    free.map(|(at, slot)| {
        let pairs = slot.cached.iter().zip(prompt);
        let shared = pairs.take_while(|(a, b)| a == b).count().min(most);
        (shared, std::cmp::Reverse(slot.used), at)
    })
    .max()
    .map(|(shared, _, at)| (at, shared))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prefill(left: usize, arrival: u64) -> Want {
        Want::Prefill { left, arrival }
    }

    #[test]
    fn generating_comes_first_and_prompts_share_the_rest() {
        let wants = [
            prefill(9000, 0),
            Want::Decode(1),
            prefill(3, 1),
            Want::Nothing,
            Want::Decode(5),
        ];
        assert_eq!(plan(&wants, 64), [55, 1, 3, 0, 5]);
        // Two long ones: halves, the odd row to the first that came.
        assert_eq!(plan(&[prefill(500, 7), prefill(500, 2)], 33), [16, 17]);
        // Even a pass that is full moves a prompt on.
        assert_eq!(
            plan(&[Want::Decode(8), prefill(5, 0), prefill(9, 1)], 8),
            [8, 1, 0]
        );
    }

    #[test]
    fn prompts_apart_are_cut_where_they_would_be_alone() {
        let wants = [
            prefill(9000, 3),
            Want::Decode(6),
            prefill(3, 4),
            Want::Nothing,
        ];
        assert_eq!(plan_apart(&wants, 64), [64, 6, 0, 0]);
        assert_eq!(plan_apart(&wants[1..], 64), [6, 3, 0]);
    }

    #[test]
    fn a_slot_with_the_beginning_of_the_prompt_is_taken() {
        let slot = |busy, cached, used| Slot { busy, cached, used };
        let slots = [
            slot(false, &[1, 2, 9][..], 5),
            slot(true, &[1, 2, 3, 4][..], 6),
            slot(false, &[1, 2, 3][..], 9),
        ];
        assert_eq!(choose(&slots, &[1, 2, 3, 4]), Some((2, 3)));
        // The last token is always computed.
        assert_eq!(choose(&slots, &[1, 2, 3]), Some((0, 2)));
        assert_eq!(choose(&slots, &[7]), Some((0, 0)));
        assert_eq!(choose(&slots[1..2], &[7]), None);
    }

    fn want() -> impl Strategy<Value = Want> {
        prop_oneof![
            Just(Want::Nothing),
            (1usize..9).prop_map(Want::Decode),
            (1usize..400, 0u64..100).prop_map(|(left, arrival)| prefill(left, arrival)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_pass_is_full_and_not_fuller(wants in prop::collection::vec(want(), 0..20), rows in 1usize..300) {
            let planned = plan(&wants, rows);
            let (mut decode, mut left, mut prompts) = (0, 0, 0);
            for (want, &rows) in wants.iter().zip(&planned) {
                match *want {
                    Want::Nothing => prop_assert_eq!(rows, 0),
                    Want::Decode(asked) => { prop_assert_eq!(rows, asked); decode += asked; }
                    Want::Prefill { left: tokens, .. } => {
                        prop_assert!(rows <= tokens);
                        left += tokens;
                        prompts += rows;
                    }
                }
            }
            prop_assert_eq!(prompts, left.min(rows.saturating_sub(decode).max(1)));
        }
    }
}
