//! Model files of real shapes with made-up weights: what benches and tests run on, without a download.
//!
//! A file is a valid GGUF of its architecture, with a vocabulary that tokenizes, and depends on preset, type, layers and
//! seed alone. Its bytes are made as they are written: the memory needed is a few megabytes, whatever the model's size.
//!
//! NUMERICS. Matrices have a standard deviation of 1 / √inputs, as at the start of a training, which keeps every
//! activation of a forward pass near one; norms lie around one. The router's deviation is twice as large, so that
//! tokens differ in the experts they choose, and so is the output head's, so that the next token is not all noise.

mod file;
mod fill;
mod plan;
mod presets;

use std::io::{self, Write};
use std::ops::Range;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use tokgate_kernels::DType;

pub use file::SynthError;
pub use plan::{Plan, model_entries};
pub use presets::Preset;

/// Bytes that a thread makes at a time: large enough for the disk, small enough to stay in the cache until written.
const CHUNK_BYTES: usize = 1 << 20;

/// Chunks that a thread may be ahead of the disk.
const AHEAD: usize = 4;

/// What to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Synth {
    /// Shape.
    pub preset: Preset,
    /// Type of the matrices; vectors and routers are f32, as converters leave them.
    pub dtype: DType,
    /// Seed of weights and vocabulary.
    pub seed: u64,
    /// Layers, if not as many as the preset has.
    pub layers: Option<usize>,
    /// Whether the file has a vocabulary.
    pub vocabulary: bool,
}

impl Plan {
    /// Writes the file, with `threads` threads that make its bytes; `progress` is told how many were written.
    ///
    /// # Errors
    /// Whatever `out` reports.
    pub fn write(
        &self,
        out: &mut impl Write,
        threads: usize,
        mut progress: impl FnMut(u64),
    ) -> io::Result<()> {
        out.write_all(self.header())?;
        let mut written = self.header().len() as u64;
        progress(written);

        let chunks = self.chunks();
        let threads = threads.clamp(1, chunks.len().max(1));
        thread::scope(|scope| {
            // Thread t makes the chunks t, t + threads, …: taking them in turn puts them in order.
            let makers: Vec<Receiver<Vec<u8>>> = (0..threads)
                .map(|first| {
                    let (sender, receiver) = sync_channel(AHEAD);
                    let chunks = &chunks;
                    scope.spawn(move || {
                        for chunk in chunks.iter().skip(first).step_by(threads) {
                            // Nobody listens any more once a write has failed.
                            if sender.send(self.make(chunk)).is_err() {
                                break;
                            }
                        }
                    });
                    receiver
                })
                .collect();
            for (index, chunk) in chunks.iter().enumerate() {
                let bytes = makers[index % threads]
                    .recv()
                    .map_err(|_| io::Error::other("a thread that makes weights has died"))?;
                written += pad(out, chunk.start - written)? + bytes.len() as u64;
                out.write_all(&bytes)?;
                progress(written);
            }
            pad(out, self.len() - written)?;
            progress(self.len());
            Ok(())
        })
    }

    fn chunks(&self) -> Vec<Chunk> {
        let mut chunks = Vec::new();
        for (tensor, filled) in self.tensors().iter().enumerate() {
            let row_bytes = filled.row_bytes();
            let rows = (CHUNK_BYTES / row_bytes).max(1);
            chunks.extend((0..filled.rows).step_by(rows).map(|first| Chunk {
                tensor,
                rows: first..(first + rows).min(filled.rows),
                start: filled.start + (first * row_bytes) as u64,
            }));
        }
        chunks
    }

    fn make(&self, chunk: &Chunk) -> Vec<u8> {
        let tensor = &self.tensors()[chunk.tensor];
        let mut bytes = Vec::with_capacity(chunk.rows.len() * tensor.row_bytes());
        for row in chunk.rows.clone() {
            let key = fill::key(self.seed(), &tensor.name, row as u64);
            fill::row(&mut bytes, tensor.dtype, tensor.cols, key, tensor.numbers);
        }
        bytes
    }
}

/// Consecutive rows of a tensor.
struct Chunk {
    tensor: usize,
    rows: Range<usize>,
    /// Bytes before it in the file.
    start: u64,
}

fn pad(out: &mut impl Write, bytes: u64) -> io::Result<u64> {
    // Less than an alignment, as a rule.
    io::copy(&mut io::Read::take(io::repeat(0), bytes), out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::config::ModelConfig;
    use crate::engine::gguf::{Gguf, Parts};
    use crate::engine::weights::{LoadOptions, ModelWeights};

    fn synth(preset: Preset, dtype: DType) -> Synth {
        Synth {
            preset,
            dtype,
            seed: 1,
            layers: None,
            vocabulary: true,
        }
    }

    fn bytes(plan: &Plan, threads: usize) -> Vec<u8> {
        let mut file = Vec::new();
        plan.write(&mut file, threads, |_| {}).unwrap();
        file
    }

    #[test]
    fn what_is_made_loads_with_the_shape_it_was_made_of() {
        for preset in [Preset::TinyDense, Preset::TinyMoe] {
            for dtype in [DType::Q8_0, DType::Bf16, DType::F32] {
                let plan = Plan::new(synth(preset, dtype));
                let file = bytes(&plan, 2);
                assert_eq!(file.len() as u64, plan.len());
                assert!(file.len() < 20_000_000, "{preset} {dtype}");
                let parts = Parts::from(Gguf::parse(&file).unwrap());
                let config = ModelConfig::from_gguf(&parts).unwrap();
                let wanted = ModelConfig {
                    name: Some(format!("{preset} synthetic")),
                    ..plan.config().clone()
                };
                assert_eq!(config, wanted);
                let weights =
                    ModelWeights::from_gguf(&parts, &config, LoadOptions::default()).unwrap();
                assert_eq!(weights.token_embd.dtype(), dtype);
                assert!(weights.total().bytes < plan.len());
            }
        }
    }

    #[test]
    fn bytes_do_not_depend_on_threads_and_do_on_the_seed() {
        let plan = Plan::new(synth(Preset::TinyMoe, DType::Q8_0));
        let one = bytes(&plan, 1);
        assert!(one == bytes(&plan, 3));
        let other = Synth {
            seed: 2,
            ..synth(Preset::TinyMoe, DType::Q8_0)
        };
        assert!(one != bytes(&Plan::new(other), 1));
    }

    #[test]
    fn every_preset_lays_out_at_its_published_size() {
        // Parameters in millions, by the publishers' model cards and index files.
        let sizes = [
            (Preset::Llama2_7b, 6738.0),
            (Preset::Qwen3_0_6b, 596.0),
            (Preset::Qwen3_4b, 4022.0),
            (Preset::Qwen3_30bA3b, 30_532.0),
            (Preset::Mixtral8x7b, 46_703.0),
        ];
        for (preset, millions) in sizes {
            let plan = Plan::new(Synth {
                vocabulary: false,
                ..synth(preset, DType::Bf16)
            });
            let tensors = plan.tensors().iter();
            let elements: usize = tensors.map(|tensor| tensor.rows * tensor.cols).sum();
            let found = elements as f64 / 1e6;
            assert!((found - millions).abs() < 1.0, "{preset}: {found} M");
        }
    }

    #[test]
    fn a_write_that_fails_leaves_nothing_and_ends_the_threads() {
        struct Full(u64);
        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                if self.0 == 0 {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                let taken = bytes.len().min(usize::try_from(self.0).unwrap());
                self.0 -= taken as u64;
                Ok(taken)
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let plan = Plan::new(synth(Preset::TinyDense, DType::F32));
        for room in [0, 100, plan.len() / 2, plan.len() - 1] {
            let error = plan.write(&mut Full(room), 2, |_| {}).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        }
        plan.write(&mut Full(plan.len()), 2, |_| {}).unwrap();
    }

    #[test]
    fn a_file_is_replaced_only_when_that_was_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        let plan = Plan::new(synth(Preset::TinyMoe, DType::Q8_0));
        std::fs::write(&path, "precious").unwrap();
        let error = plan.write_file(&path, false, 1, |_| {}).unwrap_err();
        assert!(matches!(error, SynthError::Exists { .. }), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        plan.write_file(&path, true, 1, |_| {}).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), plan.len());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
