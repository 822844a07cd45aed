use std::time::Duration;

use super::*;

/// A generation with a token every ten milliseconds, the first after a hundred.
fn observed(tokens: usize) -> Observed {
    let at = |token: usize| Duration::from_millis(100 + 10 * token as u64);
    let mut observed = Observed {
        threads: 2,
        cpus: 2,
        components: vec![("attention", 1 << 20), ("experts", 0)],
        ..Observed::default()
    };
    observed.timeline = Timeline {
        prompt_tokens: 50,
        prefill: Duration::from_millis(90),
        sampled: (0..tokens).map(at).collect(),
        generated: tokens,
        total: at(tokens - 1),
        kv_bytes_per_position: 1024,
        kv_positions: 1000,
        ..Timeline::default()
    };
    observed
}

fn value(observed: &Observed, key: &str) -> Option<f64> {
    let figures = observed.figures();
    let figure = figures.iter().find(|figure| figure.key == key)?;
    Some(figure.value)
}

fn keys(observed: &Observed) -> Vec<&'static str> {
    flags(observed).iter().map(|flag| flag.key).collect()
}

fn near(left: Option<f64>, right: f64) -> bool {
    left.is_some_and(|left| (left / right - 1.0).abs() < 1e-9)
}

#[test]
fn rates_count_what_was_computed_in_their_time() {
    let o = observed(101);
    assert!(near(value(&o, "first_token"), 0.1));
    assert!(near(value(&o, "decode"), 1.0));
    assert!(near(value(&o, "decode_rate"), 100.0));
    assert!(near(value(&o, "prefill_rate"), 50.0 / 0.09));
    assert!(near(value(&o, "overall_rate"), 151.0 / 1.1));
    for gap in ["gap_mean", "gap_p50", "gap_p99", "gap_max"] {
        assert!(near(value(&o, gap), 10.0), "{gap}");
    }
    assert!(near(value(&o, "kv_used"), 150.0 / 1024.0));
    assert_eq!(value(&o, "energy_rate"), None);
}

#[test]
fn a_single_token_has_no_decode_rate() {
    let o = observed(1);
    for key in ["decode", "decode_rate", "gap_p50", "decode_bandwidth"] {
        assert_eq!(value(&o, key), None, "{key}");
    }
}

#[test]
fn keys_are_unique_and_explained() {
    let mut keys: Vec<&str> = TABLE.iter().map(|row| row.key).collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), TABLE.len());
    let help = help();
    for row in TABLE {
        assert!(help.contains(row.formula) && row.formula.chars().count() <= 41);
    }
    assert!(help.lines().all(|line| line.chars().count() <= 80));
}

#[test]
fn good_figures_have_no_flag() {
    assert_eq!(keys(&observed(101)), [""; 0]);
}

#[test]
fn each_doubt_has_its_flag() {
    assert_eq!(keys(&observed(50)), ["short_run", "few_samples"]);
    let mut o = observed(101);
    o.threads = 3;
    o.governor = Some("powersave".to_owned());
    o.usage.steal_pct = Some(3.0);
    o.usage.throttles = Some(1);
    o.usage.read_bytes = Some(1 << 19);
    let wanted = [
        "oversubscribed",
        "cold_cache",
        "steal",
        "throttled",
        "governor",
    ];
    assert_eq!(keys(&o), wanted);
    let mut o = observed(101);
    for at in &mut o.timeline.sampled[51..] {
        *at += (*at - Duration::from_millis(600)) / 5;
    }
    assert_eq!(keys(&o), ["drift"]);
    assert!(flags(&o)[0].text.contains("20 % slower"));
}

#[test]
fn memory_is_told_by_part() {
    let mut o = observed(101);
    o.memory.rss = Some(3 << 20);
    let parts = o.parts();
    let names: Vec<&str> = parts.iter().map(|part| part.component.as_str()).collect();
    assert_eq!(names, ["attention", "keys and values", "all else resident"]);
    assert_eq!(parts.iter().map(|part| part.bytes).sum::<u64>(), 3 << 20);
}
