//! A model for ranks that have no file of it: rank 0 sends its own, and whoever received it keeps it.
//!
//! WHAT. The whole file, not a rank's slices. A slice is worth little less: of Llama 2 7B on two machines, rows of q, k,
//! v, gate and up are halved, but columns of the output matrices touch every page of them, which makes two thirds. It
//! would be worth it once: shares that follow from measured speeds differ from run to run, and these speeds are measured
//! with the model before there is a share. The file serves any share, and other subcommands; a rank maps it and touches
//! the pages of its part, as if it had always been there.
//!
//! ONCE. Files are kept in `CACHE/HASH/` under the hash of their content ([`manifest`](super::manifest)), which is read
//! and compared at each start: half-written, damaged and planted files are not used. A rank's own file is used where it
//! has this content.
//!
//! ```text
//! rank 0   lists its files with their hashes, to all
//! others   look: a file of their own, or in the cache? say to rank 0: has it, wants it, or waits for another process
//!          of its machine that is receiving it (which holds CACHE/HASH.lock)
//! rank 0 ─ piece ─ first that wants it ─ piece ─ second that wants it …      until nobody wants or waits
//! ```
//!
//! A chain, because rank 0's link would be as slow as there are ranks otherwise. A rank keeps two pieces in memory: it
//! passes one on while the next comes, and takes none before it has room.
//!
//! WHOLE. Files come into `CACHE/HASH.partial/`, which becomes `CACHE/HASH/` when all hashes are right. What a process
//! that was killed left there is removed by the next.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::mem;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::exchange::{Exchange, Purpose};
use super::manifest::{Manifest, ManifestError, PIECE, PieceHash, piece_len};
use super::wire::Lost;

/// Between looks whether another process has received the model.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// Room for one piece, said to whom it comes from.
const ROOM: [u8; 1] = [1];

/// Where models are kept, and who hashes them.
#[derive(Clone, Copy, Debug)]
pub struct Cache<'a> {
    /// The folder; it is made if it is needed.
    pub folder: &'a Path,
    /// Threads that hash.
    pub threads: usize,
}

/// What became of a rank's model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provided {
    /// Where it is.
    pub path: PathBuf,
    /// Bytes that this rank received for it.
    pub received: u64,
}

/// Why a rank has no model.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// See [`Lost`].
    #[error(transparent)]
    Lost(#[from] Lost),
    /// See [`ManifestError`].
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The cache, or a file in it.
    #[error("{}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The disk is too small.
    #[error(
        "{} has room for {:.1} MB, and the model takes {:.1} MB: make room there, or give another folder with \
         --weights-cache",
        folder.display(), *free as f64 / 1e6, *needed as f64 / 1e6
    )]
    Full {
        /// The cache.
        folder: PathBuf,
        /// Bytes that there is room for.
        free: u64,
        /// Bytes of the model.
        needed: u64,
    },
    /// Something else came than was announced.
    #[error(
        "{name} came with another content than rank 0 announced: it was changed meanwhile; start again"
    )]
    Changed {
        /// The file.
        name: String,
    },
}

/// Tells of what goes on; on rank 0 how far sending is, elsewhere what a user should know.
pub trait Watcher {
    /// So many of so many bytes were sent.
    fn sent(&self, done: u64, total: u64);
    /// A sentence.
    fn say(&self, what: &str);
}

/// Sees to it that every rank has the model that rank 0 has at `own`, which others may have there too.
///
/// # Errors
/// [`SendError`].
pub fn provide(
    exchange: &mut Exchange<'_>,
    own: &Path,
    cache: Cache<'_>,
    watcher: &dyn Watcher,
) -> Result<Provided, SendError> {
    let mut text = Vec::new();
    if exchange.rank() == 0 {
        let manifest = Manifest::of(own, cache.threads)?;
        text = serde_json::to_vec(&manifest).unwrap_or_default();
    }
    exchange.broadcast_any(&mut text)?;
    let manifest = Manifest::parse(&text)?;
    let mut rank = Rank {
        manifest,
        cache,
        watcher,
        told: false,
    };
    let mut state = match exchange.rank() {
        0 => State::Has(own.to_owned()),
        _ => rank.first_look(own)?,
    };
    let mut received = 0;
    loop {
        let states = tell(exchange, &state)?;
        let wanting = (1..states.len()).filter(|rank| states[*rank] == WANTS);
        let chain: Vec<usize> = [0].into_iter().chain(wanting).collect();
        let waits = states.contains(&WAITS);
        state = match state {
            State::Has(path) if chain.len() == 1 && !waits => {
                return Ok(Provided { path, received });
            }
            State::Has(path) => {
                if let (0, Some(next)) = (exchange.rank(), chain.get(1)) {
                    rank.send(exchange, &path, *next)?;
                }
                State::Has(path)
            }
            State::Wants(store) => {
                received += rank.receive(exchange, store, &chain)?;
                State::Has(rank.place())
            }
            State::Waits => {
                thread::sleep(LOOK_EVERY);
                rank.look()?
            }
        };
    }
}

/// What a rank lacks.
enum State {
    /// Nothing: the model is there.
    Has(PathBuf),
    /// The model; it is ready to receive it.
    Wants(Store),
    /// That another process is done receiving it.
    Waits,
}

const HAS: u8 = 0;
const WANTS: u8 = 1;
const WAITS: u8 = 2;

/// Tells the own state to all, and gets everyone's.
fn tell(exchange: &mut Exchange<'_>, state: &State) -> Result<Vec<u8>, Lost> {
    let own = match state {
        State::Has(_) => HAS,
        State::Wants(_) => WANTS,
        State::Waits => WAITS,
    };
    let ranks = exchange.size();
    let mut all = exchange.gather(Purpose::Setup, &[own])?.concat();
    all.resize(ranks, HAS);
    exchange.broadcast(Purpose::Setup, &mut all)?;
    Ok(all)
}

/// A rank that sees to its model.
struct Rank<'a> {
    manifest: Manifest,
    cache: Cache<'a>,
    watcher: &'a dyn Watcher,
    /// Whether it said that it waits.
    told: bool,
}

impl Rank<'_> {
    /// Where the model is kept.
    fn place(&self) -> PathBuf {
        let folder = self.cache.folder.join(self.manifest.id());
        self.manifest.model_in(&folder)
    }

    fn first_look(&mut self, own: &Path) -> Result<State, SendError> {
        match self.manifest.is_at(own, self.cache.threads) {
            true => Ok(State::Has(own.to_owned())),
            false => self.look(),
        }
    }

    /// Whether the model is in the cache, and otherwise who puts it there.
    fn look(&mut self) -> Result<State, SendError> {
        let place = self.place();
        if self.manifest.is_at(&place, self.cache.threads) {
            return Ok(State::Has(place));
        }
        let Some(store) = Store::open(&self.manifest, self.cache.folder)? else {
            if !mem::replace(&mut self.told, true) {
                self.watcher.say(&format!(
                    "another process is receiving the model into {}: waiting for it",
                    self.cache.folder.display()
                ));
            }
            return Ok(State::Waits);
        };
        // Whoever held the lock before may have been done just now.
        if self.manifest.is_at(&place, self.cache.threads) {
            return Ok(State::Has(place));
        }
        if store.done.exists() {
            self.watcher.say(&format!(
                "{} is damaged: it is received again",
                store.done.display()
            ));
        }
        store.prepare(self.manifest.len())?;
        Ok(State::Wants(store))
    }

    /// Sends all files to `next`.
    fn send(&self, exchange: &mut Exchange<'_>, own: &Path, next: usize) -> Result<(), SendError> {
        let paths = crate::engine::model_file::paths(own).map_err(ManifestError::from)?;
        let total = self.manifest.len();
        let mut buffer = vec![0; PIECE];
        let mut done = 0;
        for (path, entry) in paths.iter().zip(self.manifest.files()) {
            let io = |source| SendError::Io {
                path: path.clone(),
                source,
            };
            let mut file = File::open(path).map_err(io)?;
            for piece in 0..entry.len.div_ceil(PIECE as u64) {
                let buffer = &mut buffer[..piece_len(entry.len, piece)];
                file.read_exact(buffer).map_err(io)?;
                exchange.round(&[(next, buffer)], &mut [(next, &mut [0])])?;
                done += buffer.len() as u64;
                self.watcher.sent(done, total);
            }
        }
        Ok(())
    }

    /// Receives all files from the one before in the chain, and passes them on to the one behind.
    fn receive(
        &self,
        exchange: &mut Exchange<'_>,
        mut store: Store,
        chain: &[usize],
    ) -> Result<u64, SendError> {
        let at = chain.iter().position(|rank| *rank == exchange.rank());
        let nonsense = || ManifestError::Nonsense("nobody wants the model".to_owned());
        let at = at.filter(|at| *at > 0).ok_or_else(nonsense)?;
        let (from, next) = (chain[at - 1], chain.get(at + 1).copied());
        let (mut coming, mut before) = (vec![0; PIECE], vec![0; PIECE]);
        // Bytes of the piece that is still to be passed on.
        let mut behind = None;
        for entry in self.manifest.files() {
            let mut file = store.create(&entry.name)?;
            let mut hash = PieceHash::default();
            for piece in 0..entry.len.div_ceil(PIECE as u64) {
                let len = piece_len(entry.len, piece);
                // Room is told before anything comes: the one before then sends.
                let mut room = [0];
                let mut sends: Vec<(usize, &[u8])> = vec![(from, &ROOM)];
                let mut receives: Vec<(usize, &mut [u8])> = vec![(from, &mut coming[..len])];
                if let (Some(next), Some(len)) = (next, behind) {
                    sends.push((next, &before[..len]));
                    receives.push((next, &mut room));
                }
                exchange.round(&sends, &mut receives)?;
                hash.add(&coming[..len]);
                file.write_all(&coming[..len])
                    .map_err(|source| store.trouble(&entry.name, source, self.manifest.len()))?;
                mem::swap(&mut coming, &mut before);
                behind = Some(len);
            }
            if hash.finish() != entry.hash {
                return Err(SendError::Changed {
                    name: entry.name.clone(),
                });
            }
            file.sync_all()
                .map_err(|source| store.trouble(&entry.name, source, self.manifest.len()))?;
        }
        if let (Some(next), Some(len)) = (next, behind) {
            exchange.round(&[(next, &before[..len])], &mut [(next, &mut [0])])?;
        }
        store.keep()?;
        self.watcher.say(&format!(
            "received the model, kept as {}",
            store.done.display()
        ));
        Ok(self.manifest.len())
    }
}

/// A place in the cache that this process alone writes to.
struct Store {
    cache: PathBuf,
    /// Held as long as this exists.
    _lock: File,
    partial: PathBuf,
    done: PathBuf,
}

impl Store {
    /// Locks the place of a model; `None` if another process has.
    fn open(manifest: &Manifest, cache: &Path) -> Result<Option<Self>, SendError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            |source| SendError::Io { path, source }
        };
        fs::create_dir_all(cache).map_err(io(cache))?;
        let id = manifest.id();
        let path = cache.join(format!("{id}.lock"));
        let lock = File::create(&path).map_err(io(&path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(Self {
                cache: cache.to_owned(),
                _lock: lock,
                partial: cache.join(format!("{id}.partial")),
                done: cache.join(id),
            })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(io(&path)(source)),
        }
    }

    /// Removes what is left of earlier attempts, and looks whether there is room.
    fn prepare(&self, needed: u64) -> Result<(), SendError> {
        for path in [&self.partial, &self.done] {
            let removed = fs::remove_dir_all(path);
            let missing = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
            if let Err(source) = removed
                && !missing(&source)
            {
                return Err(SendError::Io {
                    path: path.clone(),
                    source,
                });
            }
        }
        fs::create_dir(&self.partial).map_err(|source| SendError::Io {
            path: self.partial.clone(),
            source,
        })?;
        match free(&self.cache) {
            Some(free) if free < needed => Err(SendError::Full {
                folder: self.cache.clone(),
                free,
                needed,
            }),
            _ => Ok(()),
        }
    }

    fn create(&self, name: &str) -> Result<File, SendError> {
        let path = self.partial.join(name);
        File::create_new(&path).map_err(|source| SendError::Io { path, source })
    }

    fn trouble(&self, name: &str, source: io::Error, needed: u64) -> SendError {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => SendError::Full {
                folder: self.cache.clone(),
                free: 0,
                needed,
            },
            _ => SendError::Io {
                path: self.partial.join(name),
                source,
            },
        }
    }

    /// Gives the files their name.
    fn keep(&mut self) -> Result<(), SendError> {
        fs::rename(&self.partial, &self.done).map_err(|source| SendError::Io {
            path: self.done.clone(),
            source,
        })
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // Nothing of it is of use; after all went well there is nothing.
        let _ = fs::remove_dir_all(&self.partial);
    }
}

/// Bytes that this user can still write into the folder, if the system tells.
fn free(folder: &Path) -> Option<u64> {
    let system = rustix::fs::statvfs(folder).ok()?;
    system.f_bavail.checked_mul(system.f_frsize)
}
