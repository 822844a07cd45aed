//! The course of a search on a workbench that is made of numbers.

use std::collections::BTreeMap;

use super::*;

/// A workbench whose commits have the position in their name.
struct Numbers {
    slow_from: usize,
    broken: Vec<usize>,
    left: usize,
    asked: BTreeMap<String, u32>,
}

impl Workbench for Numbers {
    fn measure(&mut self, commit: &str, link: u32, runs: u32) -> anyhow::Result<Measured> {
        self.left = self.left.checked_sub(1).context("interrupted")?;
        *self.asked.entry(commit.to_owned()).or_default() += 1;
        let at: usize = commit.trim_start_matches('c').parse()?;
        if self.broken.contains(&at) {
            return Ok(Measured::Unbuildable("error: no".to_owned()));
        }
        let level = if at >= self.slow_from { 0.05 } else { 0.0 };
        let wobble = |run: u32| 0.002 * f64::from((link * 7 + run * 3 + at as u32 * 5) % 9) - 0.008;
        let figures = (0..runs).map(|run| level + wobble(run)).collect();
        let took = Duration::from_millis(1);
        Ok(Measured::Figures {
            figures,
            first: link == 0,
            build: took,
            run: took,
        })
    }
}

fn driver(path: &Path, state: State) -> Driver<'_> {
    Driver {
        state,
        path,
        settings: Settings::of(Noise::Clocked),
        deadline: None,
        progress: ProgressBar::hidden(),
    }
}

fn fresh() -> State {
    let subject = Subject {
        good: "c0".to_owned(),
        bad: "c40".to_owned(),
        bench: "parse".to_owned(),
        metric: "wall".to_owned(),
        compiler: String::new(),
    };
    State::new(
        subject,
        "c0".to_owned(),
        (1..=40).map(|at| format!("c{at}")).collect(),
    )
}

#[test]
fn an_interrupted_search_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.json");
    let numbers = |left| Numbers {
        slow_from: 17,
        broken: vec![20, 21],
        left,
        asked: BTreeMap::new(),
    };

    let whole = driver(&path, fresh())
        .search(0, &mut numbers(1000))
        .unwrap();
    let Ending::Found(answer) = &whole else {
        panic!("{whole:?}")
    };
    assert_eq!((answer.culprit, answer.parent), (17, 16));
    let expected = State::load(&path).unwrap().unwrap();

    driver(&path, fresh())
        .search(0, &mut numbers(9))
        .unwrap_err();
    let half = State::load(&path).unwrap().unwrap();
    assert_eq!(half.stages[0].events.len(), 9);
    let resumed = driver(&path, half).search(0, &mut numbers(1000)).unwrap();
    assert_eq!(resumed, whole);
    assert_eq!(State::load(&path).unwrap().unwrap().stages, expected.stages);
}

#[test]
fn damaged_states_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.json");
    assert!(State::load(&path).unwrap().is_none());
    let mut state = fresh();
    state.stages[0].events.push(Event::Measured {
        commit: 41,
        link: 0,
        figures: vec![0.0],
    });
    state.save(&path).unwrap();
    let error = State::load(&path).unwrap_err().to_string();
    assert!(error.contains("--resume"), "{error}");
    std::fs::write(&path, "{").unwrap();
    assert!(State::load(&path).is_err());
}
