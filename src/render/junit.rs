//! JUnit XML, which continuous-integration servers other than GitHub's show.

use quick_junit::{NonSuccessKind, Property, Report, TestCase, TestCaseStatus, TestSuite};

use super::printable;
use super::pull_request::{Line, Page, plain};
use crate::judge::Verdict;

/// One test a bench: a regression is a failure, what is broken or gone is an error, what cannot be told is skipped. What
/// does not gate succeeds, and says what it is.
pub fn report(page: &Page) -> String {
    let mut suite = TestSuite::new("tokgate gate");
    for fact in &page.facts {
        suite.add_property(Property::new(fact.name, printable(&fact.parts.join(", "))));
    }
    for (at, complaint) in page.complaints.iter().enumerate() {
        let status = if complaint.blocks {
            non_success(NonSuccessKind::Error, "complaint", &complaint.text)
        } else {
            skipped(&complaint.text)
        };
        suite.add_test_case(test_case("run", &format!("complaint {}", at + 1), status));
    }
    for line in &page.lines {
        let status = status(line);
        suite.add_test_case(test_case(&line.target, line.id.as_str(), status));
    }
    let mut report = Report::new("tokgate");
    report.add_test_suite(suite);
    let mut text = report
        .to_string()
        .expect("XML of texts is written to memory");
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

fn test_case(class: &str, name: &str, status: TestCaseStatus) -> TestCase {
    let mut case = TestCase::new(printable(name), status);
    if !class.is_empty() {
        case.set_classname(printable(class));
    }
    case
}

fn status(line: &Line) -> TestCaseStatus {
    let said = plain(line);
    match line.verdict {
        Verdict::Regressed if line.gates => {
            non_success(NonSuccessKind::Failure, "regressed", &said)
        }
        Verdict::Failed | Verdict::Missing if line.gates => {
            non_success(NonSuccessKind::Error, line.verdict.name(), &said)
        }
        Verdict::Unchanged | Verdict::Improved | Verdict::New => TestCaseStatus::success(),
        _ => skipped(&format!("{}: {said}", line.verdict)),
    }
}

fn non_success(kind: NonSuccessKind, name: &str, said: &str) -> TestCaseStatus {
    let mut status = TestCaseStatus::non_success(kind);
    status.set_type(name).set_message(printable(said));
    status
}

fn skipped(said: &str) -> TestCaseStatus {
    let mut status = TestCaseStatus::skipped();
    status.set_message(printable(said));
    status
}
