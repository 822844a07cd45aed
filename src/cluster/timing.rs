//! Where the time went: logs of all ranks, put on one clock and taken apart; pure.
//!
//! ```text
//! compute     from leaving one exchange to coming to the next
//! wait        from coming to an exchange until the last rank that it needs has come
//! serialise   adding and copying
//! wire        the rest, until the exchange is done
//! ```

use serde::{Deserialize, Serialize};

use super::exchange::{Entry, Purpose};

/// The log of one rank.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RankLog {
    /// What its clock shows more than rank 0's, in nanoseconds.
    pub ahead: i64,
    /// When the first exchange's computing began, by its clock.
    pub start: u64,
    /// Exchanges in their order, the same on all ranks.
    pub entries: Vec<Entry>,
}

/// An exchange as one rank spent it, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spent {
    /// What for.
    pub purpose: Purpose,
    /// Layer.
    pub layer: u32,
    /// Bytes sent by this rank.
    pub sent: u64,
    /// Coming to it, by rank 0's clock.
    pub enter_us: f64,
    /// Before it.
    pub compute_us: f64,
    /// See the module.
    pub serialise_us: f64,
    /// See the module.
    pub wire_us: f64,
    /// See the module.
    pub wait_us: f64,
}

impl Spent {
    /// Whether it is one of the two of a layer.
    pub fn is_sum(&self) -> bool {
        matches!(self.purpose, Purpose::Attention | Purpose::FeedForward)
    }
}

/// Sums over some exchanges, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Sums {
    /// How many exchanges.
    pub exchanges: u64,
    /// Bytes sent.
    pub sent: u64,
    /// See the module.
    pub compute_us: f64,
    /// See the module.
    pub serialise_us: f64,
    /// See the module.
    pub wire_us: f64,
    /// See the module.
    pub wait_us: f64,
}

impl Sums {
    /// Of these.
    pub fn of<'a>(spent: impl Iterator<Item = &'a Spent>) -> Self {
        let mut sums = Self::default();
        for one in spent {
            sums.exchanges += 1;
            sums.sent += one.sent;
            sums.compute_us += one.compute_us;
            sums.serialise_us += one.serialise_us;
            sums.wire_us += one.wire_us;
            sums.wait_us += one.wait_us;
        }
        sums
    }

    /// The times of one of `n` parts; counts stay.
    pub fn over(mut self, n: f64) -> Self {
        for time in [
            &mut self.compute_us,
            &mut self.serialise_us,
            &mut self.wire_us,
            &mut self.wait_us,
        ] {
            *time /= n;
        }
        self
    }
}

/// What each rank spent on each exchange. Entries beyond the shortest log are left out.
pub fn spent(logs: &[RankLog]) -> Vec<Vec<Spent>> {
    let len = logs.iter().map(|log| log.entries.len()).min().unwrap_or(0);
    let clock = |rank: usize, time: u64| (time as f64 - logs[rank].ahead as f64) / 1e3;
    let enter = |rank: usize, at: usize| clock(rank, logs[rank].entries[at].enter);
    let ranks = 0..logs.len();
    ranks
        .clone()
        .map(|rank| {
            let log = &logs[rank];
            let mut before = clock(rank, log.start);
            (0..len)
                .map(|at| {
                    let entry = log.entries[at];
                    let (came, left) = (enter(rank, at), clock(rank, entry.exit));
                    let needs = |other: &usize| match entry.purpose {
                        // From rank 0 to all, and from all to rank 0.
                        Purpose::Tokens => *other == 0,
                        Purpose::Logits => rank == 0,
                        _ => true,
                    };
                    let last = ranks.clone().filter(needs).map(|other| enter(other, at));
                    let wait = (last.fold(came, f64::max).min(left) - came).max(0.0);
                    let serialise = entry.serialise as f64 / 1e3;
                    let compute = came - before;
                    before = left;
                    Spent {
                        purpose: entry.purpose,
                        layer: entry.layer,
                        sent: entry.sent,
                        enter_us: came,
                        compute_us: compute,
                        serialise_us: serialise,
                        wire_us: (left - came - wait - serialise).max(0.0),
                        wait_us: wait,
                    }
                })
                .collect()
        })
        .collect()
}

/// The CSV of all exchanges: one line for each rank's part in each.
pub fn csv(spent: &[Vec<Spent>]) -> String {
    let mut text = "token,exchange,purpose,layer,rank,bytes_sent,enter_us,compute_us,serialise_us,wire_us,wait_us\n"
        .to_owned();
    let len = spent.first().map_or(0, Vec::len);
    let mut token = 0_u64;
    for at in 0..len {
        token += u64::from(spent[0][at].purpose == Purpose::Tokens);
        for (rank, spent) in spent.iter().enumerate() {
            let one = &spent[at];
            text.push_str(&format!(
                "{},{at},{},{},{rank},{},{:.1},{:.1},{:.1},{:.1},{:.1}\n",
                token.saturating_sub(1),
                one.purpose.name(),
                one.layer,
                one.sent,
                one.enter_us,
                one.compute_us,
                one.serialise_us,
                one.wire_us,
                one.wait_us
            ));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(ahead: i64, entries: &[(Purpose, u64, u64, u64)]) -> RankLog {
        let micros = |us: u64| (us as i64 * 1000 + ahead) as u64;
        RankLog {
            ahead,
            start: micros(0),
            entries: entries
                .iter()
                .map(|(purpose, enter, exit, serialise)| Entry {
                    purpose: *purpose,
                    layer: 0,
                    sent: 8,
                    enter: micros(*enter),
                    exit: micros(*exit),
                    serialise: serialise * 1000,
                    rounds: 1,
                })
                .collect(),
        }
    }

    #[test]
    fn an_exchange_is_taken_apart_on_one_clock() {
        let logs = [
            log(
                0,
                &[
                    (Purpose::Tokens, 0, 1, 0),
                    (Purpose::Attention, 100, 180, 5),
                ],
            ),
            log(
                7_000_000,
                &[
                    (Purpose::Tokens, 0, 4, 0),
                    (Purpose::Attention, 150, 175, 5),
                ],
            ),
        ];
        let spent = spent(&logs);
        let parts = |s: &Spent| (s.compute_us, s.wait_us, s.serialise_us, s.wire_us);
        assert_eq!(parts(&spent[0][1]), (99.0, 50.0, 5.0, 25.0));
        assert_eq!(parts(&spent[1][1]), (146.0, 0.0, 5.0, 20.0));
        assert_eq!(parts(&spent[1][0]), (0.0, 0.0, 0.0, 4.0));
        let text = csv(&spent);
        assert_eq!(text.lines().count(), 5);
        assert!(
            text.contains("\n0,1,attention,0,0,8,100.0,99.0,5.0,25.0,50.0\n"),
            "{text}"
        );
        let sums = Sums::of(spent[0].iter());
        assert_eq!((sums.exchanges, sums.sent, sums.compute_us), (2, 16, 99.0));
    }
}
