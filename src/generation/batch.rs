//! Many sequences at a time, greedily.
//!
//! PADDED, as transformers' `generate` does it: the sequences of a batch are padded on the left to the longest, every
//! step computes a row for each of them, and the batch ends with its last sequence. Here the padding is computed as a
//! sequence of its own in the same pass: it costs what rows of padding cost (but for their attention, which does not
//! reach over the text), and cannot change the outcome.
//!
//! PACKED: nothing is computed that is not asked for. A sequence that ends makes room for the next one of any batch.
//! Prompts that join are computed before the next step, so that each pass belongs to one phase.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokgate_kernels::{DType, Runtime};

use super::{GenerationError, add, rows};
use crate::engine::forward::{Chunk, LogitRows, Model, Work};
use crate::engine::kv_cache::KvCache;
use crate::engine::sampler::{Sampler, SamplerParams};

/// How sequences share passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Batch by batch, padded.
    Padded,
    /// At most this many sequences at a time, from all batches.
    Packed {
        /// Sequences at a time, at least 1.
        parallel: usize,
    },
}

/// How to generate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// How sequences share passes.
    pub mode: Mode,
    /// Tokens to generate at most for each sequence.
    pub max_new: usize,
    /// Prompt tokens of one pass.
    pub ubatch: usize,
    /// Element type of the caches.
    pub kv: DType,
}

/// What one phase did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Phase {
    /// Wall-clock time of its passes and of sampling from them.
    pub time: Duration,
    /// Tokens of sequences that were computed.
    pub tokens: u64,
    /// Rows that were computed, padding included.
    pub rows: u64,
    /// Rows of a sequence's last prompt token or of decoding: those that the last layer is run for.
    pub with_logits: u64,
    /// What was computed and read.
    pub work: Work,
}

/// A run over all batches.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Run {
    /// Tokens that were kept, for each sequence in the order of the batches.
    pub outputs: Vec<Vec<u32>>,
    /// Wall-clock time of each batch; of everything where batches are packed.
    pub iterations: Vec<Duration>,
    /// Wall-clock time of everything.
    pub total: Duration,
    /// Passes over prompts.
    pub prefill: Phase,
    /// Passes of one token a sequence.
    pub decode: Phase,
    /// Positions that prompts take: with the padding of each batch to its longest.
    pub input_positions: u64,
    /// Positions that outputs take: with the padding of each batch to its longest.
    pub output_positions: u64,
    /// Tokens that were sampled, those that end a text included.
    pub sampled: u64,
}

/// Generates for all `batches`; `pad` is the token to pad with and `ends` says which tokens end a text.
///
/// # Errors
/// [`GenerationError`].
pub fn run(
    model: &Model,
    rt: &Runtime,
    batches: &[Vec<Vec<u32>>],
    options: Options,
    pad: u32,
    ends: &dyn Fn(u32) -> bool,
) -> Result<Run, GenerationError> {
    if batches.iter().flatten().any(Vec::is_empty) {
        return Err(GenerationError::EmptyPrompt);
    }
    let mut engine = Engine {
        model,
        rt,
        options,
        pad,
        ends,
        sampler: Sampler::new(SamplerParams::default())?,
        logits: Vec::new(),
        run: Run {
            outputs: vec![Vec::new(); batches.iter().map(Vec::len).sum()],
            ..Run::default()
        },
    };
    let started = Instant::now();
    match options.mode {
        Mode::Padded => {
            let mut first = 0;
            for batch in batches {
                let at = Instant::now();
                engine.padded(first, batch)?;
                engine.run.iterations.push(at.elapsed());
                first += batch.len();
            }
        }
        Mode::Packed { parallel } => {
            engine.packed(batches, parallel.max(1))?;
            engine.run.iterations.push(started.elapsed());
            engine.run.output_positions = engine.run.sampled;
        }
    }
    engine.run.total = started.elapsed();
    Ok(engine.run)
}

struct Engine<'a> {
    model: &'a Model,
    rt: &'a Runtime,
    options: Options,
    pad: u32,
    ends: &'a dyn Fn(u32) -> bool,
    sampler: Sampler,
    logits: Vec<f32>,
    run: Run,
}

/// A sequence that is being computed.
struct Sequence<'a> {
    /// Its place among all; `None` for padding.
    request: Option<usize>,
    prompt: &'a [u32],
    /// Tokens of the prompt that were computed.
    fed: usize,
    cache: KvCache,
    /// The token to compute next.
    next: u32,
    /// Tokens that were sampled, also after the end where a batch is padded.
    steps: usize,
    done: bool,
}

impl<'a> Engine<'a> {
    fn padded(&mut self, first: usize, batch: &'a [Vec<u32>]) -> Result<(), GenerationError> {
        let longest = batch.iter().map(Vec::len).max().unwrap_or(0);
        let padding = vec![self.pad; longest];
        let mut sequences = Vec::with_capacity(2 * batch.len());
        for (at, prompt) in batch.iter().enumerate() {
            sequences.push(self.sequence(Some(first + at), prompt)?);
        }
        let mut pads = Vec::new();
        for prompt in batch.iter().filter(|prompt| prompt.len() < longest) {
            pads.push(self.padding(&padding[prompt.len()..])?);
        }
        self.run.input_positions += (batch.len() * longest) as u64;
        self.prefill(&mut sequences, &mut pads)?;
        drop(pads);
        while sequences.iter().any(|sequence| !sequence.done) {
            self.step(&mut sequences)?;
        }
        let steps = sequences.iter().map(|sequence| sequence.steps).max();
        self.run.output_positions += (batch.len() * steps.unwrap_or(0)) as u64;
        Ok(())
    }

    fn packed(
        &mut self,
        batches: &'a [Vec<Vec<u32>>],
        parallel: usize,
    ) -> Result<(), GenerationError> {
        let mut waiting: VecDeque<_> = batches.iter().flatten().enumerate().collect();
        let mut active = Vec::new();
        while !(waiting.is_empty() && active.is_empty()) {
            let mut joining = Vec::new();
            while active.len() + joining.len() < parallel {
                let Some((request, prompt)) = waiting.pop_front() else {
                    break;
                };
                self.run.input_positions += prompt.len() as u64;
                joining.push(self.sequence(Some(request), prompt)?);
            }
            if !joining.is_empty() {
                self.prefill(&mut joining, &mut [])?;
                active.append(&mut joining);
            }
            active.retain(|sequence| !sequence.done);
            if !active.is_empty() {
                self.step(&mut active)?;
                active.retain(|sequence| !sequence.done);
            }
        }
        Ok(())
    }

    fn sequence(
        &self,
        request: Option<usize>,
        prompt: &'a [u32],
    ) -> Result<Sequence<'a>, GenerationError> {
        let positions = prompt.len().saturating_add(self.options.max_new);
        self.start(request, prompt, positions)
    }
}

impl Engine<'_> {
    fn padding<'p>(&self, prompt: &'p [u32]) -> Result<Sequence<'p>, GenerationError> {
        self.start(None, prompt, prompt.len())
    }

    fn start<'p>(
        &self,
        request: Option<usize>,
        prompt: &'p [u32],
        positions: usize,
    ) -> Result<Sequence<'p>, GenerationError> {
        Ok(Sequence {
            request,
            prompt,
            fed: 0,
            cache: KvCache::new(self.model.config(), self.options.kv, positions)?,
            next: self.pad,
            steps: 0,
            done: self.options.max_new == 0,
        })
    }

    /// Computes the prompts, as many rows a pass as allowed, and samples each sequence's first token.
    fn prefill<'p>(
        &mut self,
        sequences: &mut [Sequence<'p>],
        pads: &mut [Sequence<'p>],
    ) -> Result<(), GenerationError> {
        let started = Instant::now();
        loop {
            let mut room = self.options.ubatch.max(1);
            let mut chunks = Vec::new();
            let mut finished = Vec::new();
            let all = sequences.iter_mut().chain(pads.iter_mut());
            for (at, sequence) in all.enumerate() {
                let left = sequence.prompt.len() - sequence.fed;
                let taken = left.min(room);
                if taken == 0 {
                    continue;
                }
                room -= taken;
                let text = sequence.request.is_some();
                let logits = if text {
                    rows(taken == left)
                } else {
                    LogitRows::None
                };
                if logits == LogitRows::Last {
                    finished.push(at);
                }
                self.run.prefill.rows += taken as u64;
                self.run.prefill.tokens += if text { taken as u64 } else { 0 };
                let tokens = &sequence.prompt[sequence.fed..][..taken];
                sequence.fed += taken;
                chunks.push(Chunk {
                    tokens,
                    cache: &mut sequence.cache,
                    logits,
                });
            }
            if chunks.is_empty() {
                break;
            }
            let mut work = Work::default();
            self.model
                .forward(self.rt, &mut chunks, &mut self.logits, &mut work)?;
            drop(chunks);
            add(&mut self.run.prefill.work, &work);
            self.run.prefill.with_logits += finished.len() as u64;
            for (row, at) in finished.into_iter().enumerate() {
                self.sample(row, &mut sequences[at])?;
            }
        }
        self.run.prefill.time += started.elapsed();
        Ok(())
    }

    /// One token more for each sequence.
    fn step(&mut self, sequences: &mut [Sequence<'_>]) -> Result<(), GenerationError> {
        let started = Instant::now();
        let active = sequences.iter().filter(|sequence| !sequence.done).count();
        let tokens: Vec<u32> = sequences.iter().map(|sequence| sequence.next).collect();
        let mut chunks: Vec<Chunk<'_>> = sequences
            .iter_mut()
            .zip(&tokens)
            .map(|(sequence, token)| Chunk {
                tokens: std::slice::from_ref(token),
                cache: &mut sequence.cache,
                logits: LogitRows::Last,
            })
            .collect();
        let mut work = Work::default();
        self.model
            .forward(self.rt, &mut chunks, &mut self.logits, &mut work)?;
        drop(chunks);
        for (row, sequence) in sequences.iter_mut().enumerate() {
            self.sample(row, sequence)?;
        }
        let phase = &mut self.run.decode;
        add(&mut phase.work, &work);
        phase.tokens += active as u64;
        phase.rows += tokens.len() as u64;
        phase.with_logits += tokens.len() as u64;
        phase.time += started.elapsed();
        Ok(())
    }

    fn sample(&mut self, row: usize, sequence: &mut Sequence<'_>) -> Result<(), GenerationError> {
        if self.options.max_new == 0 {
            return Ok(());
        }
        let n_vocab = self.model.config().n_vocab;
        let token = self
            .sampler
            .sample(&self.logits[row * n_vocab..][..n_vocab])?;
        sequence.steps += 1;
        if sequence.done {
            // Padding behind the end.
            sequence.next = self.pad;
            return Ok(());
        }
        self.run.sampled += 1;
        sequence.next = token;
        let ended = (self.ends)(token);
        if let (false, Some(request)) = (ended, sequence.request) {
            self.run.outputs[request].push(token);
        }
        sequence.done = ended || sequence.steps == self.options.max_new;
        Ok(())
    }
}
