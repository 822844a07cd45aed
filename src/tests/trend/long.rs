//! A page of many benches over many commits. Git is left out: the data of a small page are made long.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::chromium::{Chromium, column};
use crate::repository::{Repository, SLOWED, divided};

const COMMITS: usize = 2_000;
const BENCHES: usize = 200;

/// Where one bench, and only once, takes twice as long.
const BURST: usize = 777;

/// Where it is not measured, and since when it is slower.
const GAP: std::ops::Range<usize> = 1_000..1_300;
const SLOWER: usize = 1_500;

fn lengthen(page: &Path) {
    let text = fs::read_to_string(page).unwrap();
    let [before, data, after] = divided(&text);
    let mut data: Value = serde_json::from_str(data).unwrap();
    let commits = (0..COMMITS).map(|at| {
        let time = 1_600_000_000 + at * 86_400;
        json!([format!("{at:040x}"), time, "A", format!("Commit {at}")])
    });
    data["commits"] = commits.collect();
    let mut machine = data["machines"][1].take();
    machine["commits"] = (0..COMMITS).collect();
    machine["dirty"] = json!([]);
    let all = machine["series"].as_array().unwrap();
    let model = all.iter().find(|series| series["id"] == SLOWED).unwrap();
    let series = (0..BENCHES).map(|bench| {
        let mut series = model.clone();
        let figure = |at: usize| match at {
            BURST if bench == 0 => Value::from(2_000_000),
            _ if GAP.contains(&at) => Value::Null,
            SLOWER.. => Value::from(1_100_000 + (at * 7 + bench) % 1_000),
            _ => Value::from(1_000_000 + (at * 7 + bench) % 1_000),
        };
        let spread = |at: usize| match figure(at) {
            Value::Null => Value::Null,
            _ => Value::from(900),
        };
        series["id"] = format!("matmul/q8_0/avx2/m{bench}").into();
        series["scale"] = 1.0.into();
        series["v"] = (0..COMMITS).map(figure).collect();
        series["l"] = (0..COMMITS).map(spread).collect();
        series["h"] = series["l"].clone();
        series["changes"][0]["at"] = SLOWER.into();
        series["changes"][0]["after"] = (SLOWER - 1).into();
        series
    });
    machine["series"] = series.collect();
    data["machines"] = json!([machine]);
    let data = data.to_string().replace('<', "\\u003c");
    fs::write(page, format!("{before}{data}{after}")).unwrap();
}

#[test]
fn two_hundred_benches_over_two_thousand_commits_lose_nothing() {
    let repository = Repository::measured();
    let page = repository.page();
    lengthen(&page);
    let Some(mut browser) = Chromium::open(&page) else {
        return;
    };
    let rows = "document.querySelectorAll('table.benches tbody tr').length";
    assert!(browser.value(rows).as_u64().unwrap() < 100);
    // Who scrolls gets all of them, drawn when they are seen.
    browser.until(&format!(
        "(scrollTo(0, document.body.scrollHeight), {rows} === {BENCHES})"
    ));
    browser.until("[...document.querySelectorAll('canvas.spark')].at(-1).width > 1");

    // The way back leads to the same row, and to the link that was followed.
    browser.value("document.querySelectorAll('td.id a')[150].scrollIntoView({block: 'center'})");
    browser.value("document.querySelectorAll('td.id a')[150].focus()");
    let top = browser.value("scrollY");
    browser.value("document.activeElement.click()");
    browser.until("document.querySelector('.chart') !== null && scrollY === 0");
    browser.press("Escape");
    browser.until(&format!("scrollY === {top}"));
    assert_eq!(browser.value(rows), BENCHES);
    assert_eq!(
        browser.value("[...document.querySelectorAll('td.id a')].indexOf(document.activeElement)"),
        150
    );

    // Two commits share a pixel, but the one burst is drawn to its top, and the gap is none of it.
    browser.visit("#/bench/0/time/matmul%2Fq8_0%2Favx2%2Fm0");
    browser.until("document.querySelectorAll('.chart .mark').length === 1");
    let chart = browser.place(".chart");
    let x = |commit: usize| column(chart[2] - chart[0], commit, COMMITS).round();
    assert!(browser.ink(x(BURST) - 2.0, x(BURST) + 3.0, 0.3) > 0);
    assert_eq!(browser.ink(x(BURST + 20), x(GAP.start), 0.3), 0);
    assert!(browser.ink(x(BURST + 20), x(GAP.start) - 3.0, 1.0) > 0);
    assert_eq!(browser.ink(x(GAP.start) + 3.0, x(GAP.end) - 3.0, 1.0), 0);

    // The keyboard steps over the gap; a part of the commits is one key away.
    browser.press("n");
    browser.press("End");
    browser.until("document.getElementById('tip').textContent.includes('Commit 1999')");
    browser.click(".choice [data-from='1950']");
    browser.press("Home");
    browser.until("document.getElementById('tip').textContent.includes('Commit 1950')");
    browser.value("document.querySelector('.choice [data-from=\"0\"]').click()");
    browser.press("Home");
    browser.until("document.getElementById('tip').textContent.includes('Commit 0')");
    browser.was_silent();
}
