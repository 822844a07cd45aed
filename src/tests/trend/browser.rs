//! The page of the history in a real browser. Skipped, and said so, where there is none.

use serde_json::json;

use crate::chromium::Chromium;
use crate::repository::{HOSTILE, Repository, SLOWED, SLOWED_AT};

#[test]
fn the_page_works_in_a_browser_loads_nothing_and_takes_texts_as_texts() {
    let repository = Repository::measured();
    repository.git(&["remote", "add", "origin", "git@github.com:owner/name.git"]);
    let Some(mut browser) = Chromium::open(&repository.page()) else {
        return;
    };

    // It renders: three gating series of times beside the counts, and the change with its commit.
    browser.until("document.querySelectorAll('table.benches tbody tr').length === 6");
    browser.until("document.querySelector('.events .subject') !== null");
    let subject = browser.value("document.querySelector('.events .subject').textContent");
    assert_eq!(
        subject,
        "Load the scales one by one <script>document.title='hacked'</script>"
    );
    let drawn = "[...document.querySelectorAll('canvas.spark')].some((c) => c.width > 1 && c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some((b) => b))";
    browser.until(drawn);

    // Hostile names are texts.
    let name = serde_json::to_string(HOSTILE).unwrap();
    browser.until(&format!(
        "[...document.querySelectorAll('.id')].some((e) => e.textContent === {name})"
    ));
    assert_eq!(
        browser.value("document.querySelectorAll('main img, main script, main b').length"),
        0
    );
    assert_ne!(browser.value("document.title"), "hacked");

    // A filter filters, and what it hides comes back.
    browser.press("/");
    browser.until("document.activeElement.id === 'search'");
    browser.ask("Input.insertText", json!({"text": "SCALAR"}));
    browser.until("document.querySelectorAll('table.benches tbody tr').length === 1");
    browser.press("Escape");
    browser.until("document.querySelectorAll('table.benches tbody tr').length === 6");
    browser.click("[data-moved=worse]");
    browser.until("document.querySelectorAll('table.benches tbody tr').length === 2");

    // A change point can be clicked, and tells its commit with a link.
    let route = format!("#/bench/1/time/{}", SLOWED.replace('/', "%2F"));
    browser.visit(&route);
    browser.until("document.querySelectorAll('.chart .mark').length === 1");
    browser.value("document.getElementById('change').replaceChildren()");
    browser.click(".chart .mark");
    browser.until("document.querySelector('#change .delta') !== null");
    let told = browser.value("document.querySelector('#change').innerText");
    let told = told.as_str().unwrap();
    assert!(told.contains("+10.0") && told.contains("worse"), "{told}");
    let commit = repository.git(&["rev-parse", &format!("HEAD~{}", 39 - SLOWED_AT)]);
    let link = format!("https://github.com/owner/name/commit/{}", commit.trim());
    assert_eq!(
        browser.value("document.querySelector('#change a').href"),
        json!(link)
    );

    // The keyboard moves along the commits; the scale can be logarithmic; other variants can be laid over it.
    browser.press("End");
    browser.until("document.getElementById('tip').innerText.includes('Change 39')");
    browser.press("ArrowLeft");
    browser.until("document.getElementById('tip').innerText.includes('Change 38')");
    browser.press("l");
    browser.until(
        "document.querySelector('[data-log=\"1\"]').getAttribute('aria-pressed') === 'true'",
    );
    browser.click(".tools .chips button");
    browser.until("document.querySelector('.legend').innerText.includes('scalar')");
    browser.press("t");
    browser.until("document.documentElement.dataset.theme !== undefined");
    browser.visit("#/roofline");
    browser.until("document.querySelector('.roof canvas') !== null");

    // On a phone nothing is wider than the screen.
    browser.become_phone();
    for view in ["#/", &route, "#/roofline", "#/no/such/view"] {
        browser.visit(view);
        browser.until("document.querySelector('main').children.length > 0");
        assert_eq!(
            browser.value("document.documentElement.scrollWidth"),
            390,
            "{view}"
        );
    }

    browser.was_silent();
}
