//! What ranks must agree on before they compute together: the program, the model, the kernels' level.

use serde::{Deserialize, Serialize};

use super::exchange::Exchange;
use super::wire::Lost;
use crate::engine::config::ModelConfig;
use crate::engine::weights::{Ffn, ModelWeights, Tensor};

/// What a rank says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The machine's name.
    pub host: String,
    /// Its CPU.
    pub cpu: String,
    /// Threads that compute.
    pub threads: usize,
    /// Level of the kernels.
    pub level: String,
    /// The program.
    pub version: String,
    /// Of the model, see [`fingerprint`].
    pub model: String,
    /// Milliseconds from the start to the model being open.
    pub open_ms: u64,
}

/// Why ranks do not fit together.
#[derive(Debug, thiserror::Error)]
pub enum AgreeError {
    /// See [`Lost`].
    #[error(transparent)]
    Lost(#[from] Lost),
    /// They differ in something.
    #[error("{0}")]
    Differ(String),
    /// Something was sent that nobody sends.
    #[error("a rank sent what is no JSON of this version: {0}")]
    Json(#[from] serde_json::Error),
}

/// Brings all hellos to all ranks, if they fit together.
///
/// # Errors
/// [`AgreeError`], the same on all ranks: it names the one that differs from rank 0.
pub fn agree(exchange: &mut Exchange, hello: &Hello) -> Result<Vec<Hello>, AgreeError> {
    let all = exchange.gather_any(&serde_json::to_vec(hello)?)?;
    let mut text = Vec::new();
    if exchange.rank() == 0 {
        let hellos = all.iter().map(|text| serde_json::from_slice(text));
        let hellos = hellos.collect::<Result<Vec<Hello>, _>>()?;
        text = serde_json::to_vec(&hellos)?;
    }
    exchange.broadcast_any(&mut text)?;
    let hellos: Vec<Hello> = serde_json::from_slice(&text)?;
    match difference(&hellos) {
        Some(difference) => Err(AgreeError::Differ(difference)),
        None => Ok(hellos),
    }
}

/// How a rank differs from rank 0, and what to do about it.
fn difference(hellos: &[Hello]) -> Option<String> {
    let first = hellos.first()?;
    hellos.iter().enumerate().find_map(|(rank, hello)| {
        let who = format!("rank {rank} on {}", hello.host);
        if hello.version != first.version {
            return Some(format!(
                "{who} runs tokgate {}, rank 0 runs {}: install the same on all machines",
                hello.version, first.version
            ));
        }
        if hello.model != first.model {
            return Some(format!(
                "{who} holds another version of the model ({}) than rank 0 ({}): copy rank 0's file there",
                hello.model, first.model
            ));
        }
        (hello.level != first.level).then(|| {
            format!(
                "{who} has kernels of level {}, rank 0 of {}, which round differently: give all ranks the lower one with \
                 --level",
                hello.level, first.level
            )
        })
    })
}

/// Tells versions of a model apart: a hash of its sizes, of types and shapes of its tensors, of its norms, and of the
/// first row of each matrix. A few pages of each tensor are read for it.
pub fn fingerprint(config: &ModelConfig, weights: &ModelWeights) -> String {
    let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
    hash.add(format!("{config:?}").as_bytes());
    let mut row = Vec::new();
    let mut tensor = |hash: &mut Fnv, tensor: &Tensor| {
        hash.add(format!("{} {}", tensor.dtype(), tensor.shape()).as_bytes());
        row.resize(tensor.shape().cols, 0.0);
        tensor.view().widen_row(0, &mut row);
        hash.add_floats(&row);
    };
    tensor(&mut hash, &weights.token_embd);
    tensor(&mut hash, &weights.output);
    hash.add_floats(&weights.output_norm);
    for layer in &weights.layers {
        hash.add_floats(&layer.attn_norm);
        hash.add_floats(&layer.ffn_norm);
        let matrices = [&layer.wq, &layer.wk, &layer.wv, &layer.wo];
        matrices.into_iter().for_each(|w| tensor(&mut hash, w));
        let (Ffn::Dense { gate, up, down } | Ffn::Moe { gate, up, down, .. }) = &layer.ffn;
        [gate, up, down]
            .into_iter()
            .for_each(|w| tensor(&mut hash, w));
    }
    format!("{:016x}", hash.0)
}

/// Fowler, Noll and Vo's hash 1a of 64 bits: the same in all versions of all programs.
struct Fnv(u64);

impl Fnv {
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn add_floats(&mut self, floats: &[f32]) {
        floats
            .iter()
            .for_each(|float| self.add(&float.to_le_bytes()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_differs_is_named_with_what_to_do() {
        let hello = Hello {
            host: "one".to_owned(),
            cpu: String::new(),
            threads: 4,
            level: "avx2".to_owned(),
            version: "1".to_owned(),
            model: "ab".to_owned(),
            open_ms: 1,
        };
        let mut other = hello.clone();
        other.host = "two".to_owned();
        assert_eq!(difference(&[hello.clone(), other.clone()]), None);
        other.level = "scalar".to_owned();
        let said = difference(&[hello.clone(), other.clone()]).unwrap();
        assert!(
            said.starts_with("rank 1 on two has kernels of level scalar"),
            "{said}"
        );
        other.model = "cd".to_owned();
        let said = difference(&[hello.clone(), hello.clone(), other]).unwrap();
        assert!(
            said.starts_with("rank 2 on two holds another version"),
            "{said}"
        );
    }

    #[test]
    fn the_hash_is_the_published_one() {
        let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
        hash.add(b"foobar");
        assert_eq!(hash.0, 0x8594_4171_f739_67e8);
    }
}
