//! The figures of a run, as vLLM computes them; [`crate::record::serving`] has the formulas.

use std::time::Duration;

use super::generator::{Asked, Plan, Reply, Run};
use crate::judge::stats::quantile;
use crate::record::serving::{Latency, RequestFigures};

/// The times of which statistics can be had, in the order in which vLLM has them.
pub const METRICS: [&str; 6] = [
    "ttft",
    "tpot",
    "itl",
    "e2el",
    "client_queue_time",
    "e2el_including_client_queue",
];

/// Most a request may take to count as a good one, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Goodput {
    /// Time to the first token.
    pub ttft: Option<f64>,
    /// Time of each token after it; 0 for an answer of one.
    pub tpot: Option<f64>,
    /// Time to the last token.
    pub e2el: Option<f64>,
}

/// The figures of a run's requests.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// By request that was sent.
    pub requests: Vec<RequestFigures>,
    /// Answers that came whole.
    pub completed: usize,
    /// Requests that got none.
    pub failed: usize,
    /// Tokens of the prompts that were answered.
    pub input: u64,
    /// Tokens of their answers.
    pub output: u64,
    /// Pieces of these.
    pub chunks: u64,
    /// Answers whose tokens the server did not count.
    pub uncounted: usize,
    /// Requests that met every limit.
    pub good: usize,
    /// Most pieces in one second.
    pub peak_chunks: f64,
    /// Most requests open at once.
    pub peak_requests: usize,
    /// By metric of [`METRICS`], the milliseconds.
    values: [Vec<f64>; 6],
    /// The time of a token after the first, and how many there are of each.
    per_token: Vec<(f64, u64)>,
    /// Milliseconds for which requests waited here, and for which somebody free let them wait.
    late: Vec<f64>,
}

impl Figures {
    /// Counts what `run` gave.
    pub fn of(plan: &Plan, run: &Run, goodput: Goodput) -> Self {
        let mut figures = Self::default();
        let mut open = Vec::new();
        let sent = plan.requests.iter().zip(&run.asked);
        for (request, asked) in sent.filter_map(|(r, asked)| Some((r, asked.as_ref()?))) {
            figures.late.push(ms(asked.late));
            let mut one = RequestFigures {
                input_len: request.prompt_tokens.unwrap_or(0),
                start_time: asked.sent.as_secs_f64(),
                queue_time: asked.queued.as_secs_f64(),
                ..RequestFigures::default()
            };
            match &asked.reply {
                Ok(reply) => {
                    figures.count(asked, reply, goodput, &mut one);
                    open.push((asked.sent, asked.sent + reply.last));
                }
                Err(failure) => {
                    figures.failed += 1;
                    one.error = failure.to_string();
                }
            }
            figures.requests.push(one);
        }
        figures.peak_requests = most_at_once(&open);
        figures.peak_chunks = figures.most_in_a_second(&open);
        figures
    }

    fn count(&mut self, asked: &Asked, reply: &Reply, goodput: Goodput, one: &mut RequestFigures) {
        let prompt = reply.prompt_tokens.unwrap_or(one.input_len);
        let tokens = reply.tokens;
        self.completed += 1;
        self.input += prompt;
        self.output += tokens;
        self.chunks += reply.gaps.len() as u64 + 1;
        self.uncounted += usize::from(reply.counted_by == "chunks");
        let (ttft, e2el) = (ms(reply.first), ms(reply.last));
        let tpot = (tokens > 1).then(|| (e2el - ttft) / (tokens - 1) as f64);
        let gaps = || reply.gaps.iter().copied();
        let [ttfts, tpots, itls, e2els, queues, both] = &mut self.values;
        ttfts.push(ttft);
        tpots.extend(tpot);
        itls.extend(gaps().map(ms));
        e2els.push(e2el);
        queues.push(ms(asked.queued));
        both.push(ms(asked.queued) + e2el);
        self.per_token.extend(tpot.map(|tpot| (tpot, tokens - 1)));
        let within = |limit: Option<f64>, value: f64| limit.is_none_or(|limit| value <= limit);
        let good = within(goodput.ttft, ttft)
            && within(goodput.tpot, tpot.unwrap_or(0.0))
            && within(goodput.e2el, e2el);
        self.good += usize::from(good);
        one.input_len = prompt;
        one.output_len = tokens;
        one.ttft = reply.first.as_secs_f64();
        one.itl = gaps().map(|gap| gap.as_secs_f64()).collect();
        one.latency = reply.last.as_secs_f64();
        one.generated_text.clone_from(&reply.text);
    }

    /// The statistics of a metric of [`METRICS`].
    pub fn latency(&self, metric: &str, percents: &[f64]) -> Option<Latency> {
        let at = METRICS.iter().position(|known| *known == metric)?;
        Some(latency(METRICS[at], &self.values[at], percents))
    }

    /// The statistics of how late requests were sent.
    pub fn late(&self, percents: &[f64]) -> Latency {
        latency("late", &self.late, percents)
    }

    /// The statistics of the time of a token after the first: each answer's mean, as often as it has such tokens.
    pub fn per_token(&self, percents: &[f64]) -> Latency {
        let mut sorted = self.per_token.clone();
        sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
        let count: u64 = sorted.iter().map(|(_, weight)| weight).sum();
        let total = count.max(1) as f64;
        let mean = sorted.iter().map(|(time, n)| time * *n as f64).sum::<f64>() / total;
        let squares = |(time, n): &(f64, u64)| (time - mean).powi(2) * *n as f64;
        let variance = sorted.iter().map(squares).sum::<f64>() / total;
        // The token at a place, of all of them in a row.
        let at = |place: f64| {
            let mut seen = 0;
            let found = sorted.iter().find(|(_, weight)| {
                seen += weight;
                seen as f64 > place
            });
            found.or(sorted.last()).map_or(0.0, |(time, _)| *time)
        };
        let percentile = |percent: f64| at((total - 1.0) * percent / 100.0);
        Latency {
            metric: "itl_per_token",
            count: usize::try_from(count).unwrap_or(usize::MAX),
            mean,
            median: percentile(50.0),
            std: variance.sqrt(),
            percentiles: percents.iter().map(|p| (*p, percentile(*p))).collect(),
        }
    }

    /// Pieces that came in the second of the run that had most of them, from the first request on.
    fn most_in_a_second(&self, open: &[(Duration, Duration)]) -> f64 {
        let Some(first) = open.iter().map(|(sent, _)| *sent).min() else {
            return 0.0;
        };
        let first = first.as_secs_f64();
        let mut seconds = std::collections::BTreeMap::<u64, u64>::new();
        let answered = self
            .requests
            .iter()
            .filter(|request| request.error.is_empty());
        for request in answered {
            let mut at = request.start_time + request.ttft - first;
            let mut count = |at: f64| *seconds.entry(at.max(0.0) as u64).or_default() += 1;
            count(at);
            for gap in &request.itl {
                at += gap;
                count(at);
            }
        }
        seconds.values().max().map_or(0.0, |most| *most as f64)
    }
}

/// The most of these times that overlap; one that ends when another begins does not.
fn most_at_once(open: &[(Duration, Duration)]) -> usize {
    let begins = open.iter().map(|(begin, _)| (*begin, true));
    let ends = open.iter().map(|(_, end)| (*end, false));
    let mut events: Vec<(Duration, bool)> = begins.chain(ends).collect();
    events.sort_unstable();
    let (mut now, mut most) = (0_usize, 0);
    for (_, begins) in events {
        if begins {
            now += 1;
            most = most.max(now);
        } else {
            now = now.saturating_sub(1);
        }
    }
    most
}

/// Zeros for no values, as vLLM has it.
fn latency(metric: &'static str, values: &[f64], percents: &[f64]) -> Latency {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let count = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values
        .iter()
        .map(|value| (value - mean).powi(2))
        .sum::<f64>()
        / count;
    let percentile = |percent: f64| match sorted.is_empty() {
        true => 0.0,
        false => quantile(&sorted, percent / 100.0),
    };
    Latency {
        metric,
        count: values.len(),
        mean,
        median: percentile(50.0),
        std: variance.sqrt(),
        percentiles: percents.iter().map(|p| (*p, percentile(*p))).collect(),
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::load::{Api, Client, Failure};
    use crate::workload::requests::Request;

    fn millis(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Three requests: one of 5 tokens in 3 pieces, one of a single token, one that failed.
    fn figures(goodput: Goodput) -> Figures {
        let request = Request {
            text: String::new(),
            prompt_tokens: Some(10),
            max_tokens: 5,
        };
        let plan = Arc::new(Plan {
            client: Client::new("localhost", 1).unwrap(),
            model: String::new(),
            api: Api::Chat,
            path: String::new(),
            requests: vec![request; 4],
            arrivals: vec![Duration::ZERO; 4],
            concurrency: None,
            extra: serde_json::Map::new(),
            limit: millis(1),
        });
        let reply = |first, gaps: &[u64], tokens| Reply {
            first: millis(first),
            last: millis(first + gaps.iter().sum::<u64>()),
            gaps: gaps.iter().map(|gap| millis(*gap)).collect(),
            text: "x".to_owned(),
            prompt_tokens: Some(12),
            tokens,
            counted_by: "usage",
        };
        let asked = |sent, reply| {
            Some(Asked {
                sent: millis(sent),
                queued: millis(sent),
                late: Duration::ZERO,
                reply,
            })
        };
        let run = Run {
            asked: vec![
                asked(0, Ok(reply(100, &[20, 60], 5))),
                asked(50, Ok(reply(30, &[], 1))),
                asked(60, Err(Failure::Empty)),
                None,
            ],
            duration: millis(500),
            interrupted: true,
            streams: 4,
        };
        Figures::of(&plan, &run, goodput)
    }

    #[test]
    fn figures_are_those_of_the_formulas() {
        let figures = figures(Goodput::default());
        assert_eq!((figures.completed, figures.failed, figures.good), (2, 1, 2));
        assert_eq!((figures.input, figures.output, figures.chunks), (24, 6, 4));
        assert_eq!((figures.peak_requests, figures.peak_chunks), (2, 4.0));
        let ttft = figures.latency("ttft", &[50.0, 99.0]).unwrap();
        assert_eq!((ttft.mean, ttft.median, ttft.std), (65.0, 65.0, 35.0));
        assert_eq!(ttft.percentiles, [(50.0, 65.0), (99.0, 99.3)]);
        // (180 − 100) / 4, and nothing of the answer of one token.
        let tpot = figures.latency("tpot", &[]).unwrap();
        assert_eq!((tpot.count, tpot.mean, tpot.std), (1, 20.0, 0.0));
        // By pieces, and by tokens.
        assert_eq!(figures.latency("itl", &[]).unwrap().mean, 40.0);
        let per_token = figures.per_token(&[99.0]);
        assert_eq!((per_token.count, per_token.mean), (4, 20.0));
        assert_eq!(
            figures
                .latency("e2el_including_client_queue", &[])
                .unwrap()
                .mean,
            130.0
        );
        assert_eq!(figures.latency("other", &[]), None);
        let errors: Vec<&str> = figures.requests.iter().map(|r| r.error.as_str()).collect();
        assert_eq!(errors, ["", "", "the answer has no tokens"]);
    }

    #[test]
    fn a_good_request_meets_every_limit() {
        let good = |ttft, tpot, e2el| figures(Goodput { ttft, tpot, e2el }).good;
        assert_eq!(good(Some(50.0), None, None), 1);
        assert_eq!(
            good(Some(100.0), Some(19.0), None),
            1,
            "no tpot counts as 0"
        );
        assert_eq!(good(Some(100.0), Some(20.0), Some(180.0)), 2);
        assert_eq!(good(Some(1.0), None, None), 0);
    }

    #[test]
    fn nothing_gives_zeros() {
        let nothing = Figures::default();
        let ttft = nothing.latency("ttft", &[99.0]).unwrap();
        assert_eq!((ttft.mean, ttft.percentiles[0].1), (0.0, 0.0));
        assert_eq!(nothing.per_token(&[99.0]).mean, 0.0);
    }
}
