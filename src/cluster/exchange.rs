//! Sums, broadcasts and gatherings over a wire, each with a line in a log.
//!
//! SUM. With `B` bytes on `n` ranks, two ways, after which all ranks have the same bits, for both add in the order of
//! ranks:
//!
//! ```text
//! direct    everyone sends all of it to everyone, and adds                one round,   (n − 1) · B sent by each
//! scattered everyone sends the k-th piece to rank k, which adds it up
//!           and sends the sum to everyone                                 two rounds,  2 (n − 1)/n · B sent by each
//! ```
//!
//! Direct is better while a round costs more than the bytes that it saves, `L > (n − 1)(1 − 2/n) · B / bandwidth`: always
//! for two ranks.

use std::ops::Range;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::network::Network;
use super::wire::{Lost, Wire};
use crate::engine::forward::{Apart, Join, Joint, Sublayer};
use crate::engine::mapping::{self, Buffer};

/// What an exchange was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// Tokens of a pass, to all ranks.
    Tokens,
    /// The sum after attention.
    Attention,
    /// The sum after the feed-forward.
    FeedForward,
    /// Logits, or the best of them, to rank 0.
    Logits,
    /// Anything that is not a pass.
    Setup,
}

impl Purpose {
    /// Its name in logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tokens => "tokens",
            Self::Attention => "attention",
            Self::FeedForward => "feed-forward",
            Self::Logits => "logits",
            Self::Setup => "setup",
        }
    }
}

/// One exchange as a rank saw it; times in nanoseconds of its own clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What for.
    pub purpose: Purpose,
    /// Layer; 0 where there is none.
    pub layer: u32,
    /// Bytes sent by this rank.
    pub sent: u64,
    /// When the rank came to it.
    pub enter: u64,
    /// When it was done.
    pub exit: u64,
    /// Of that, spent adding and copying.
    pub serialise: u64,
    /// Rounds of messages.
    pub rounds: u32,
}

/// Exchanges of one rank.
pub struct Exchange<'w> {
    wire: &'w mut dyn Wire,
    /// What comes from each rank.
    inbox: Vec<Buffer>,
    sum: Vec<f32>,
    clock: Instant,
    log: Vec<Entry>,
    /// What each round takes longer, for experiments.
    inject: Duration,
    /// Decides between the ways to add up.
    network: Network,
}

impl<'w> Exchange<'w> {
    /// Exchanges over `wire`; each round of messages is made to take `inject` longer.
    pub fn new(wire: &'w mut dyn Wire, inject: Duration) -> Self {
        let size = wire.size();
        Self {
            wire,
            inbox: (0..size).map(|_| Buffer::zeroed(0)).collect(),
            sum: Vec::new(),
            clock: Instant::now(),
            log: Vec::new(),
            inject,
            network: Network::ETHERNET,
        }
    }

    /// This rank.
    pub fn rank(&self) -> usize {
        self.wire.rank()
    }

    /// Ranks that there are.
    pub fn size(&self) -> usize {
        self.wire.size()
    }

    /// Nanoseconds of this rank's clock.
    pub fn now(&self) -> u64 {
        u64::try_from(self.clock.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// The log since it was last taken.
    pub fn take_log(&mut self) -> Vec<Entry> {
        std::mem::take(&mut self.log)
    }

    /// Chooses ways to add up for this network; must be told to all ranks alike.
    pub fn set_network(&mut self, network: Network) {
        self.network = network;
    }

    /// Replaces `part` by the sum of all ranks' parts.
    ///
    /// # Errors
    /// [`Lost`].
    pub fn sum(&mut self, purpose: Purpose, layer: usize, part: &mut [f32]) -> Result<(), Lost> {
        let ranks = self.size();
        if ranks == 1 {
            return Ok(());
        }
        let mut entry = self.enter(purpose, layer);
        if self.network.is_direct(ranks, size_of_val(part)) {
            let whole = 0..part.len();
            self.swap(&mut entry, part, |_| whole.clone(), whole.clone())?;
            self.add(&mut entry, part, whole);
        } else {
            let piece = |rank: usize| {
                let at = |rank: usize| part_start(part.len(), ranks, rank);
                at(rank)..at(rank + 1)
            };
            let pieces: Vec<Range<usize>> = (0..ranks).map(piece).collect();
            let own = pieces[self.rank()].clone();
            self.swap(&mut entry, part, |rank| pieces[rank].clone(), own.clone())?;
            self.add(&mut entry, part, own.clone());
            self.collect(&mut entry, part, &pieces, own)?;
        }
        self.leave(entry);
        Ok(())
    }

    /// Gives rank 0's `data` to all; it must have the same length everywhere.
    ///
    /// # Errors
    /// [`Lost`].
    pub fn broadcast(&mut self, purpose: Purpose, data: &mut [u8]) -> Result<(), Lost> {
        let (rank, ranks) = (self.rank(), self.size());
        if ranks == 1 {
            return Ok(());
        }
        let mut entry = self.enter(purpose, 0);
        if rank == 0 {
            let sends: Vec<(usize, &[u8])> = (1..ranks).map(|to| (to, &*data)).collect();
            self.round(&sends, &mut [])?;
            entry.sent = (data.len() * (ranks - 1)) as u64;
        } else {
            self.round(&[], &mut [(0, data)])?;
        }
        entry.rounds = 1;
        self.leave(entry);
        Ok(())
    }

    /// Gives rank 0's `data`, of any length, to all.
    ///
    /// # Errors
    /// [`Lost`].
    pub fn broadcast_any(&mut self, data: &mut Vec<u8>) -> Result<(), Lost> {
        let mut len = (data.len() as u64).to_le_bytes();
        self.broadcast(Purpose::Setup, &mut len)?;
        data.resize(length(len, 0)?, 0);
        self.broadcast(Purpose::Setup, data)
    }

    /// Brings all ranks' `data`, which have the same length, to rank 0, in the order of ranks; others get nothing.
    ///
    /// # Errors
    /// [`Lost`].
    pub fn gather(&mut self, purpose: Purpose, data: &[u8]) -> Result<Vec<Vec<u8>>, Lost> {
        self.gather_lengths(purpose, data, |_| data.len())
    }

    /// Brings all ranks' `data`, of any length, to rank 0; others get nothing.
    ///
    /// # Errors
    /// [`Lost`].
    pub fn gather_any(&mut self, data: &[u8]) -> Result<Vec<Vec<u8>>, Lost> {
        let lengths = self.gather(Purpose::Setup, &(data.len() as u64).to_le_bytes())?;
        let lengths = lengths.iter().enumerate().map(|(rank, len)| {
            let bytes = len.as_slice().try_into().unwrap_or_default();
            length(bytes, rank)
        });
        let lengths = lengths.collect::<Result<Vec<usize>, Lost>>()?;
        let of = |rank: usize| lengths.get(rank).copied().unwrap_or(0);
        self.gather_lengths(Purpose::Setup, data, of)
    }

    /// See [`Exchange::gather`], with the length of each rank's data.
    ///
    /// # Errors
    /// [`Lost`].
    pub fn gather_lengths(
        &mut self,
        purpose: Purpose,
        data: &[u8],
        len: impl Fn(usize) -> usize,
    ) -> Result<Vec<Vec<u8>>, Lost> {
        let (rank, ranks) = (self.rank(), self.size());
        if ranks == 1 {
            return Ok(vec![data.to_vec()]);
        }
        let mut entry = self.enter(purpose, 0);
        let mut all = Vec::new();
        if rank == 0 {
            all = (0..ranks).map(|from| vec![0; len(from)]).collect();
            all[0].copy_from_slice(data);
            let others = all.iter_mut().enumerate().skip(1);
            let mut receives: Vec<(usize, &mut [u8])> =
                others.map(|(from, data)| (from, &mut data[..])).collect();
            self.round(&[], &mut receives)?;
        } else {
            self.round(&[(0, data)], &mut [])?;
            entry.sent = data.len() as u64;
        }
        entry.rounds = 1;
        self.leave(entry);
        Ok(all)
    }

    /// Round trips of `bytes` each way between rank 0 and `other`, which both call it: the median in microseconds, and,
    /// on rank 0, what the other's clock shows more, in nanoseconds, by the fastest of them.
    ///
    /// # Errors
    /// [`Lost`].
    pub fn round_trip(
        &mut self,
        other: usize,
        bytes: usize,
        tries: usize,
    ) -> Result<(f64, i64), Lost> {
        let mut data = vec![0; bytes.max(size_of::<u64>())];
        let mut times = Vec::with_capacity(tries);
        let mut fastest = (u64::MAX, 0);
        for _ in 0..tries.max(1) {
            let start = self.now();
            if self.rank() == 0 {
                self.round(&[(other, &data)], &mut [])?;
                self.round(&[], &mut [(other, &mut data)])?;
            } else {
                self.round(&[], &mut [(0, &mut data)])?;
                data[..8].copy_from_slice(&self.now().to_le_bytes());
                self.round(&[(0, &data)], &mut [])?;
            }
            let end = self.now();
            times.push((end - start) as f64 / 1e3);
            if end - start < fastest.0 {
                let theirs = u64::from_le_bytes(*data.first_chunk().unwrap_or(&[0; 8]));
                fastest = (end - start, theirs as i64 - start.midpoint(end) as i64);
            }
        }
        times.sort_by(f64::total_cmp);
        Ok((times[times.len() / 2], fastest.1))
    }

    /// Sends each other rank its range of `part`, and receives the others' `own` range into the inbox.
    fn swap(
        &mut self,
        entry: &mut Entry,
        part: &[f32],
        theirs: impl Fn(usize) -> Range<usize>,
        own: Range<usize>,
    ) -> Result<(), Lost> {
        let (rank, ranks) = (self.rank(), self.size());
        let others = (0..ranks).filter(|other| *other != rank);
        let sends: Vec<(usize, &[u8])> = others
            .map(|other| (other, mapping::bytes(&part[theirs(other)])))
            .collect();
        entry.sent += sends.iter().map(|(_, data)| data.len() as u64).sum::<u64>();
        let len = own.len() * size_of::<f32>();
        let mut receives = inboxes(&mut self.inbox, rank, |_| len);
        self.wire.swap(&sends, &mut receives)?;
        late(self.inject, &receives);
        entry.rounds += 1;
        Ok(())
    }

    /// Sends the summed piece to all, and takes theirs.
    fn collect(
        &mut self,
        entry: &mut Entry,
        part: &mut [f32],
        pieces: &[Range<usize>],
        own: Range<usize>,
    ) -> Result<(), Lost> {
        let (rank, ranks) = (self.rank(), self.size());
        let data = mapping::bytes(&part[own]);
        let others = (0..ranks).filter(|other| *other != rank);
        let sends: Vec<(usize, &[u8])> = others.map(|other| (other, data)).collect();
        entry.sent += (data.len() * (ranks - 1)) as u64;
        let mut receives = inboxes(&mut self.inbox, rank, |from| {
            pieces[from].len() * size_of::<f32>()
        });
        self.wire.swap(&sends, &mut receives)?;
        late(self.inject, &receives);
        entry.rounds += 1;
        let started = self.now();
        for (from, inbox) in self.inbox.iter_mut().enumerate() {
            if from != rank {
                let piece = pieces[from].clone();
                let len = piece.len();
                part[piece].copy_from_slice(&inbox.elements_mut()[..len]);
            }
        }
        entry.serialise += self.now() - started;
        Ok(())
    }

    /// Adds up a range of `part` and what is in the inbox, in the order of ranks.
    fn add(&mut self, entry: &mut Entry, part: &mut [f32], range: Range<usize>) {
        let started = self.now();
        let rank = self.wire.rank();
        let part = &mut part[range];
        self.sum.clear();
        for (from, inbox) in self.inbox.iter_mut().enumerate() {
            let theirs = match from == rank {
                true => &*part,
                false => &inbox.elements_mut()[..part.len()],
            };
            match from {
                0 => self.sum.extend_from_slice(theirs),
                _ => {
                    let pairs = self.sum.iter_mut().zip(theirs);
                    pairs.for_each(|(sum, value)| *sum += value);
                }
            }
        }
        part.copy_from_slice(&self.sum);
        entry.serialise += self.now() - started;
    }

    fn enter(&self, purpose: Purpose, layer: usize) -> Entry {
        Entry {
            purpose,
            layer: u32::try_from(layer).unwrap_or(u32::MAX),
            sent: 0,
            enter: self.now(),
            exit: 0,
            serialise: 0,
            rounds: 0,
        }
    }

    fn leave(&mut self, mut entry: Entry) {
        entry.exit = self.now();
        if entry.purpose != Purpose::Setup {
            self.log.push(entry);
        }
    }

    /// One round of messages, as sender and receiver expect it; it gets no line in the log. What comes in comes later if
    /// that was asked for: a sleep would not be exact enough.
    ///
    /// # Errors
    /// [`Lost`].
    pub fn round(
        &mut self,
        sends: &[(usize, &[u8])],
        receives: &mut [(usize, &mut [u8])],
    ) -> Result<(), Lost> {
        self.wire.swap(sends, receives)?;
        late(self.inject, receives);
        Ok(())
    }
}

/// Waits, if anything was received.
fn late(inject: Duration, receives: &[(usize, &mut [u8])]) {
    let started = Instant::now();
    while !receives.is_empty() && started.elapsed() < inject {
        std::thread::yield_now();
    }
}

/// The other ranks' inboxes, of at least `len` bytes each.
fn inboxes(
    inbox: &mut [Buffer],
    rank: usize,
    len: impl Fn(usize) -> usize,
) -> Vec<(usize, &mut [u8])> {
    let others = inbox.iter_mut().enumerate();
    let others = others.filter(|(from, _)| *from != rank);
    others
        .map(|(from, buffer)| {
            let len = len(from);
            if buffer.len() < len {
                *buffer = Buffer::zeroed(len);
            }
            (from, &mut buffer.elements_mut()[..len])
        })
        .collect()
}

/// Where the piece of `rank` starts.
fn part_start(len: usize, ranks: usize, rank: usize) -> usize {
    len / ranks * rank + (len % ranks).min(rank)
}

/// A length that a rank sent; more than a gigabyte is none.
fn length(bytes: [u8; 8], rank: usize) -> Result<usize, Lost> {
    const MOST: usize = 1 << 30;
    let len = usize::try_from(u64::from_le_bytes(bytes)).unwrap_or(usize::MAX);
    match len <= MOST {
        true => Ok(len),
        false => Err(Lost::Length {
            rank,
            found: len,
            wanted: MOST,
        }),
    }
}

/// Joins the parts of a model over an exchange, and keeps the reason where that fails.
pub struct Joiner<'e, 'w> {
    /// The exchange.
    pub exchange: &'e mut Exchange<'w>,
    /// Why a sum did not come.
    pub lost: Option<Lost>,
}

impl Join for Joiner<'_, '_> {
    fn sum(&mut self, joint: Joint, part: &mut [f32]) -> Result<(), Apart> {
        let purpose = match joint.after {
            Sublayer::Attention => Purpose::Attention,
            Sublayer::FeedForward => Purpose::FeedForward,
        };
        self.exchange
            .sum(purpose, joint.layer, part)
            .map_err(|lost| {
                self.lost = Some(lost);
                Apart
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::wire::ThreadWire;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// What each rank's `job` yields.
    fn ranks<T: Send>(size: usize, job: impl Fn(&mut Exchange) -> T + Sync) -> Vec<T> {
        let wires = ThreadWire::all(size, PATIENCE);
        std::thread::scope(|scope| {
            let threads = wires.into_iter().map(|mut wire| {
                let job = &job;
                scope.spawn(move || job(&mut Exchange::new(&mut wire, Duration::ZERO)))
            });
            let threads: Vec<_> = threads.collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        })
    }

    #[test]
    fn sums_are_the_same_to_the_bit_on_all_ranks_and_both_ways() {
        for size in 1..=5 {
            for len in [0, 1, 3, 1000] {
                let value = |rank: usize, i: usize| ((rank * 7919 + i * 104_729) as f32).sin();
                let wanted: Vec<f32> = (0..len)
                    .map(|i| (1..size).fold(value(0, i), |sum, rank| sum + value(rank, i)))
                    .collect();
                for network in [Network::new(1e9, 1.0), Network::new(1e-9, 1.0)] {
                    let sums = ranks(size, |exchange| {
                        exchange.set_network(network);
                        let rank = exchange.rank();
                        let mut part: Vec<f32> = (0..len).map(|i| value(rank, i)).collect();
                        exchange.sum(Purpose::Attention, 3, &mut part).unwrap();
                        (part, exchange.take_log())
                    });
                    for (sum, log) in sums {
                        assert_eq!(sum, wanted, "{size} ranks, {len} elements");
                        assert_eq!(log.len(), usize::from(size > 1));
                    }
                }
            }
        }
    }

    #[test]
    fn broadcast_and_gather_bring_what_was_given() {
        let all = ranks(3, |exchange| {
            let rank = exchange.rank();
            let mut word = if rank == 0 {
                b"to all".to_vec()
            } else {
                Vec::new()
            };
            exchange.broadcast_any(&mut word).unwrap();
            assert_eq!(word, b"to all");
            exchange.gather_any(&vec![rank as u8; rank * 2]).unwrap()
        });
        assert_eq!(all[0], [vec![], vec![1, 1], vec![2; 4]]);
        assert!(all[1].is_empty() && all[2].is_empty());
    }

    #[test]
    fn a_rank_that_ends_is_named() {
        let lost = ranks(3, |exchange| match exchange.rank() {
            2 => None,
            _ => exchange.sum(Purpose::Attention, 0, &mut [1.0; 8]).err(),
        });
        for lost in &lost[..2] {
            let message = lost.as_ref().unwrap().to_string();
            assert_eq!(message, "rank 2 has ended");
        }
    }

    #[test]
    fn a_rank_at_another_step_is_named() {
        let lost = ranks(2, |exchange| {
            let len = 4 + exchange.rank();
            exchange
                .sum(Purpose::Attention, 0, &mut vec![0.0; len])
                .err()
        });
        let Some(Lost::Length { rank, found, .. }) = &lost[0] else {
            panic!("{lost:?}")
        };
        assert_eq!((*rank, *found), (1, 20));
    }
}
