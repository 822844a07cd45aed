//! What is asked of GitHub, and what becomes of its answers: against a fake that follows its OpenAPI description.

mod command;
mod fake;
mod openapi;

use std::future::Future;
use std::time::Duration;

use fake::{BOT, Fake, REPOSITORY, comment};
use tokgate::github::{
    Annotation, CheckRun, Conclusion, Hub, HubError, Level, Patience, Posted, Tag, Token,
};

/// The commit that the fake's pull request is at.
pub const HEAD: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

fn hub(fake: &Fake) -> Hub {
    let patience = Patience {
        attempts: 3,
        longest: Duration::from_secs(3),
        first: Duration::from_millis(5),
    };
    let repository = REPOSITORY.parse().unwrap();
    Hub::new(
        &fake.url,
        repository,
        Token::new("s3cret").unwrap(),
        patience,
    )
    .unwrap()
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(future)
}

fn tag() -> Tag {
    "gate".parse().unwrap()
}

fn put(fake: &Fake, text: &str) -> Result<Posted, HubError> {
    run(async { hub(fake).put_comment(7, &tag(), BOT, text).await })
}

#[test]
fn one_comment_is_made_and_then_changed() {
    let fake = Fake::start("");
    // Others may write the tag as well; a quotation of ours does not begin with it.
    let foreign = comment(1, "mallory", "<!-- tokgate:gate -->\nmine");
    let quoted = comment(2, BOT, "> <!-- tokgate:gate -->\n");
    fake.edit(|state| state.comments = vec![foreign.clone(), quoted]);
    assert!(matches!(
        put(&fake, "first").unwrap(),
        Posted::Created { .. }
    ));
    assert!(matches!(
        put(&fake, "first").unwrap(),
        Posted::Unchanged { .. }
    ));
    assert!(matches!(
        put(&fake, "second").unwrap(),
        Posted::Updated { .. }
    ));
    fake.edit(|state| {
        assert_eq!(state.comments[0], foreign);
        assert_eq!(state.comments.len(), 3);
        assert_eq!(state.comments[2]["body"], "<!-- tokgate:gate -->\nsecond");
    });
    assert_eq!((fake.count("POST"), fake.count("PATCH")), (1, 1));
    fake.assert_described();
}

#[test]
fn a_comment_is_found_on_any_page_and_further_ones_go() {
    let fake = Fake::start("");
    let ours = |id| comment(id, BOT, "<!-- tokgate:gate -->\r\nold");
    fake.edit(|state| {
        state.comments = (0..250).map(|id| comment(id, "someone", "text")).collect();
        state.comments.extend([ours(300), ours(301)]);
    });
    assert!(matches!(put(&fake, "new").unwrap(), Posted::Updated { .. }));
    fake.edit(|state| {
        assert_eq!(state.comments.len(), 251);
        assert_eq!(state.comments[250]["id"], 300);
    });
    assert_eq!((fake.count("POST"), fake.count("DELETE")), (0, 1));
    fake.assert_described();
}

#[test]
fn of_two_runs_at_one_time_the_older_comment_stays() {
    let fake = Fake::start("");
    fake.edit(|state| state.racing = Some(comment(900, BOT, "<!-- tokgate:gate -->\ntheirs")));
    assert!(matches!(
        put(&fake, "ours").unwrap(),
        Posted::Updated { .. }
    ));
    fake.edit(|state| {
        assert_eq!(state.comments.len(), 1, "{:?}", state.comments);
        assert_eq!(state.comments[0]["id"], 900);
        assert_eq!(state.comments[0]["body"], "<!-- tokgate:gate -->\nours");
    });
    fake.assert_described();
}

#[test]
fn reads_wait_as_long_as_the_server_says() {
    let fake = Fake::start("");
    let after = |seconds: &str| vec![("retry-after", seconds.to_owned())];
    fake.edit(|state| {
        state.answers = vec![
            ("GET /user", 429, after("1"), String::new()),
            ("GET /user", 502, Vec::new(), "<html>".to_owned()),
        ];
        state.login = Some("octocat");
    });
    let started = std::time::Instant::now();
    assert_eq!(run(async { hub(&fake).author().await }).unwrap(), "octocat");
    assert!(started.elapsed() >= Duration::from_secs(1));
    assert_eq!(fake.count("GET /user"), 3);

    // Longer than patience lasts: said at once, with the time.
    fake.edit(|state| state.answers = vec![("GET /user", 403, after("3600"), String::new())]);
    let error = run(async { hub(&fake).author().await }).unwrap_err();
    assert!(
        matches!(error, HubError::RateLimit { wait_s: 3600, .. }),
        "{error}"
    );
    assert_eq!(fake.count("GET /user"), 4);

    // No more than so many times.
    let broken = || ("GET /user", 500, Vec::new(), String::new());
    fake.edit(|state| state.answers = (0..9).map(|_| broken()).collect());
    assert!(run(async { hub(&fake).author().await }).is_err());
    assert_eq!(fake.count("GET /user"), 7);
}

#[test]
fn writes_are_sent_once() {
    for (status, headers) in [
        (502, Vec::new()),
        (429, vec![("retry-after", "1".to_owned())]),
        (403, vec![("retry-after", "1".to_owned())]),
    ] {
        let fake = Fake::start("");
        fake.edit(|state| state.answers = vec![("POST", status, headers, String::new())]);
        let error = put(&fake, "text").unwrap_err();
        assert!(!error.is_denial(), "{error}");
        assert_eq!(fake.count("POST"), 1);
    }
}

#[test]
fn redirects_and_endless_answers_are_not_followed() {
    let fake = Fake::start("");
    let away = vec![("location", "http://127.0.0.1:9/elsewhere".to_owned())];
    fake.edit(|state| state.answers = vec![("GET /user", 301, away, String::new())]);
    let error = run(async { hub(&fake).author().await }).unwrap_err();
    assert!(error.to_string().contains("--repo"), "{error}");

    let full = |count| (0..count).map(|id| comment(id, "someone", "x")).collect();
    fake.edit(|state| state.comments = full(5_000));
    let error = put(&fake, "text").unwrap_err();
    assert!(
        matches!(error, HubError::TooMany { entries: 5_000, .. }),
        "{error}"
    );
    assert_eq!(fake.count("POST"), 0);
}

#[test]
fn a_check_run_appends_its_annotations_by_fifties() {
    let fake = Fake::start("");
    let annotation = |at: usize| Annotation {
        path: "Cargo.toml".to_owned(),
        line: 0,
        level: Level::Warning,
        title: format!("bench {at}"),
        message: "ä".repeat(40_000),
    };
    let check = |annotations| CheckRun {
        name: "tokgate gate".to_owned(),
        head: HEAD.to_owned(),
        conclusion: Conclusion::Failure,
        title: "t".repeat(400),
        summary: "ä".repeat(80_000),
        annotations,
    };
    let many = check((0..120).map(annotation).collect());
    let url = run(async { hub(&fake).put_check(&many).await }).unwrap();
    assert_eq!(url.as_deref(), Some("https://github.com/x/runs/5"));
    fake.edit(|state| {
        let lengths = state
            .checks
            .iter()
            .map(|check| &check["output"]["annotations"]);
        let lengths: Vec<usize> = lengths.map(|list| list.as_array().unwrap().len()).collect();
        assert_eq!(lengths, [50, 50, 20]);
        assert_eq!(state.checks[0]["head_sha"], HEAD);
        assert_eq!(state.checks[0]["conclusion"], "failure");
        assert_eq!(state.checks[0]["output"]["annotations"][0]["start_line"], 1);
    });
    run(async { hub(&fake).put_check(&check(Vec::new())).await }).unwrap();
    fake.assert_described();
}

#[test]
fn a_commit_leads_to_the_pull_request_that_brought_it() {
    let fake = Fake::start("");
    fake.edit(|state| state.brought = vec![(HEAD.to_owned(), 12), (HEAD.to_owned(), 7)]);
    let asked = |commit: &str| run(async { hub(&fake).bringer_of(commit).await }).unwrap();
    assert_eq!(asked(HEAD), Some(7));
    assert_eq!(asked(&"b".repeat(40)), None);
    fake.assert_described();
}
