//! What carries bytes between ranks, and the carrier between threads of one process.

use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

/// How long a rank is waited for that shows no sign of life.
pub const PATIENCE: Duration = Duration::from_secs(6);

/// Why an exchange did not come about.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// A rank has gone, or hangs.
    #[error("rank {rank} {how}")]
    Rank {
        /// Which.
        rank: usize,
        /// In words, such as "ended".
        how: String,
    },
    /// A rank sent something of another size: it is not at the same step.
    #[error(
        "rank {rank} sent {found} bytes where {wanted} were due: it runs another program or options"
    )]
    Length {
        /// Which.
        rank: usize,
        /// Bytes that it sent.
        found: usize,
        /// Bytes that were due.
        wanted: usize,
    },
}

/// Sends and receives between ranks.
pub trait Wire {
    /// This rank.
    fn rank(&self) -> usize;

    /// Ranks that there are.
    fn size(&self) -> usize;

    /// Sends to some ranks and receives from others, all at once, and returns when all of it is done. Messages between
    /// two ranks keep their order; the receiver knows how long they are.
    ///
    /// # Errors
    /// [`Lost`] naming the rank that is to blame.
    fn swap(
        &mut self,
        sends: &[(usize, &[u8])],
        receives: &mut [(usize, &mut [u8])],
    ) -> Result<(), Lost>;
}

/// A rank that is a thread of this process.
#[derive(Debug)]
pub struct ThreadWire {
    rank: usize,
    /// To each rank, and from each.
    to: Vec<Sender<Vec<u8>>>,
    from: Vec<Receiver<Vec<u8>>>,
    patience: Duration,
    /// The rank that was the first to end: the others end because of it, and name it.
    first_ended: Arc<OnceLock<usize>>,
}

impl ThreadWire {
    /// The wires of `size` ranks.
    pub fn all(size: usize, patience: Duration) -> Vec<Self> {
        let first_ended = Arc::new(OnceLock::new());
        let mut wires: Vec<Self> = (0..size)
            .map(|rank| Self {
                rank,
                to: Vec::with_capacity(size),
                from: Vec::with_capacity(size),
                patience,
                first_ended: Arc::clone(&first_ended),
            })
            .collect();
        for from in 0..size {
            for to in 0..size {
                let (sender, receiver) = channel();
                wires[from].to.push(sender);
                wires[to].from.push(receiver);
            }
        }
        wires
    }
}

impl Drop for ThreadWire {
    fn drop(&mut self) {
        // Before its channels close, which is what the others see.
        self.first_ended.get_or_init(|| self.rank);
    }
}

impl Wire for ThreadWire {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.to.len()
    }

    fn swap(
        &mut self,
        sends: &[(usize, &[u8])],
        receives: &mut [(usize, &mut [u8])],
    ) -> Result<(), Lost> {
        let ended = |rank| Lost::Rank {
            rank: *self.first_ended.get().unwrap_or(&rank),
            how: "has ended".to_owned(),
        };
        for (to, data) in sends {
            self.to[*to].send(data.to_vec()).map_err(|_| ended(*to))?;
        }
        for (from, buffer) in receives {
            let started = Instant::now();
            let data = loop {
                match self.from[*from].try_recv() {
                    Ok(data) => break data,
                    Err(TryRecvError::Disconnected) => return Err(ended(*from)),
                    Err(TryRecvError::Empty) if started.elapsed() > self.patience => {
                        return Err(Lost::Rank {
                            rank: *from,
                            how: format!("has not answered for {:?}", self.patience),
                        });
                    }
                    // A core may be all that the ranks have.
                    Err(TryRecvError::Empty) => thread::yield_now(),
                }
            };
            if data.len() != buffer.len() {
                return Err(Lost::Length {
                    rank: *from,
                    found: data.len(),
                    wanted: buffer.len(),
                });
            }
            buffer.copy_from_slice(&data);
        }
        Ok(())
    }
}
