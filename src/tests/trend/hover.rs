//! What the page says under a pointer, in gaps, under a finger and at the edges of the screen.

use crate::chromium::{Chromium, column};
use crate::repository::{COMMITS, Repository, SLOWED, SLOWED_AT};

/// Where a commit is on the screen, on a trend that shows all.
fn across(chart: [f64; 4], commit: usize) -> f64 {
    chart[0] + column(chart[2] - chart[0], commit, COMMITS)
}

fn route(id: &str) -> String {
    format!("#/bench/1/time/{}", id.replace('/', "%2F"))
}

fn says(browser: &mut Chromium, text: &str) {
    browser.until(&format!(
        "!document.getElementById('tip').hidden && document.getElementById('tip').textContent.includes({text:?})"
    ));
}

#[test]
fn hover_tells_the_commit_the_change_and_the_gap() {
    let repository = Repository::measured();
    let Some(mut browser) = Chromium::open(&repository.page()) else {
        return;
    };
    browser.visit(&route(SLOWED));
    browser.until("document.querySelectorAll('.chart .mark').length === 1");
    let chart = browser.place(".chart");
    let middle = (chart[1] + chart[3]) / 2.0;
    let commit = repository.git(&["rev-parse", &format!("HEAD~{}", COMMITS - 1 - 7)]);
    browser.hover(across(chart, 7), middle);
    says(&mut browser, "Change 7");
    says(&mut browser, &commit[..9]);
    says(&mut browser, "1.0");

    // At a change, and on its mark, by how much.
    browser.hover(across(chart, SLOWED_AT), middle);
    says(&mut browser, "Load the scales one by one");
    says(&mut browser, "+10.0");
    browser.hover(across(chart, 3), middle);
    says(&mut browser, "Change 3");
    let mark = browser.place(".chart .mark");
    browser.hover((mark[0] + mark[2]) / 2.0, (mark[1] + mark[3]) / 2.0);
    says(&mut browser, "+10.0");

    // It covers neither the pointer nor the edge of the window, wherever the pointer is.
    let width = browser.value("document.documentElement.clientWidth");
    let width = width.as_f64().unwrap();
    for commit in [0, COMMITS / 2, COMMITS - 1] {
        for y in [chart[1] + 30.0, chart[3] - 5.0] {
            let x = across(chart, commit);
            browser.hover(x, y);
            says(&mut browser, &format!("Change {commit}"));
            let tip = browser.place("#tip");
            assert!(tip[0] >= 0.0 && tip[2] <= width, "{tip:?}");
            assert!(tip[1] >= 0.0 && tip[3] <= 900.0, "{tip:?}");
            let beside = x < tip[0] || x > tip[2] || y < tip[1] || y > tip[3];
            assert!(beside, "{tip:?} covers {x}, {y}");
        }
    }
    browser.hover(5.0, 5.0);
    browser.until("document.getElementById('tip').hidden");

    // This one is measured in every third commit: the others are not measured, and nothing is drawn there.
    browser.visit(&route("sometimes"));
    browser.until("document.querySelector('h1').textContent === 'sometimes'");
    let chart = browser.place(".chart");
    browser.hover(across(chart, 6), middle);
    says(&mut browser, "7.0");
    browser.hover(across(chart, 7), middle);
    says(&mut browser, "not measured");
    says(&mut browser, "Change 7");
    for commit in 0..COMMITS {
        let x = (across(chart, commit) - chart[0]).round();
        let ink = browser.ink(x, x + 1.0, 1.0);
        assert_eq!(ink > 0, commit % 3 == 0, "{commit}: {ink}");
    }
    browser.was_silent();
}

#[test]
fn a_finger_reads_a_trend_and_a_roofline() {
    let repository = Repository::measured();
    let Some(mut browser) = Chromium::open(&repository.page()) else {
        return;
    };
    browser.become_phone();
    browser.visit(&route(SLOWED));
    browser.until("document.querySelectorAll('.chart .mark').length === 1");
    browser.value("document.querySelector('.chart').scrollIntoView({block: 'center'})");
    let chart = browser.place(".chart");
    for commit in [1, COMMITS / 2, COMMITS - 2] {
        browser.tap(across(chart, commit), chart[1] + 100.0);
        says(&mut browser, &format!("Change {commit}"));
        let tip = browser.place("#tip");
        assert!(tip[0] >= 0.0 && tip[2] <= 390.0, "{tip:?}");
        let clear = tip[3] <= chart[1] || tip[1] >= chart[3];
        assert!(clear, "{tip:?} covers {chart:?}");
    }
    // It zooms where the finger was, and forgets that elsewhere.
    browser.tap_on("[aria-label='Zoom in']");
    browser.until(
        "document.querySelector('[data-from=\"0\"]').getAttribute('aria-pressed') === 'false'",
    );
    says(&mut browser, &format!("Change {}", COMMITS - 2));
    browser.tap_on("#change h3");
    browser.until("document.getElementById('tip').hidden");

    // Keys find a point of the roofline, and a ring marks it. The first touch of it asks, the second one opens.
    browser.visit("#/roofline");
    browser.until("document.querySelector('.roof') !== null");
    browser.value("document.querySelector('.roof').focus()");
    browser.press("ArrowRight");
    says(&mut browser, "of the roof");
    let ring = browser.value(
        "(() => { const c = document.querySelector('.roof .above'), b = c.getBoundingClientRect(); const pixels = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; let x = 0, y = 0, ink = 0; for (let at = 3; at < pixels.length; at += 4) if (pixels[at] > 128) { x += (at >> 2) % c.width; y += Math.floor((at >> 2) / c.width); ink++; } return [b.left + x / ink / 2, b.top + y / ink / 2]; })()",
    );
    let (x, y) = (ring[0].as_f64().unwrap(), ring[1].as_f64().unwrap());
    browser.value("document.querySelector('.roof').blur()");
    browser.until("document.getElementById('tip').hidden");
    browser.tap(x, y);
    says(&mut browser, "of the roof");
    assert_eq!(browser.value("location.hash"), "#/roofline");
    browser.tap(x, y);
    browser.until("location.hash.startsWith('#/bench/1/time/matmul')");
    browser.was_silent();
}
