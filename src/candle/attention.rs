//! Causal attention with grouped queries.

use std::num::NonZeroUsize;

use candle_core::{CpuStorage, CustomOp3, Error, Layout, Result, Shape, Tensor};
use tokgate_kernels::{AttentionSpec, Cache, KvRef, MatMut, MatRef, Segment, attention};

use super::{Kernels, activations, in_type_of, unsupported};

const NAME: &str = "tokgate-attention";

/// Attention of the last positions to all that came before.
///
/// Shapes as candle's models have them after rotating: `q [b, n_head, m, d]`, `k` and `v` `[b, n_kv_head, l, d]`, of
/// which the queries are the last m of l positions. The result is `[b, m, n_head · d]`, ready for the output projection,
/// which spares the `transpose` and `reshape` that follow the usual `softmax(q kᵀ) v`; nor is a mask or `repeat_kv`
/// needed. Keys and values are f32 or bf16, and may be what candle's `KvCache` gives: the filled part of a longer cache.
#[derive(Clone, Debug)]
pub struct Attention {
    kernels: Kernels,
    scale: f32,
    window: Option<NonZeroUsize>,
}

impl Attention {
    /// With the factor of the scores, as a rule 1/√d.
    ///
    /// # Errors
    /// If the factor is no positive number.
    pub fn new(kernels: &Kernels, scale: f32) -> Result<Self> {
        if !(scale > 0.0 && scale.is_finite()) {
            candle_core::bail!("{scale} is no factor of scores");
        }
        Ok(Self {
            kernels: kernels.clone(),
            scale,
            window: None,
        })
    }

    /// Each query sees `window` positions only, its own included.
    pub fn with_window(self, window: NonZeroUsize) -> Self {
        Self {
            window: Some(window),
            ..self
        }
    }

    /// The answer to `q`.
    ///
    /// # Errors
    /// If the shapes do not belong together, or a type is not known to the kernels.
    pub fn forward(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        q.apply_op3_no_bwd(k, v, self)
    }
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (b, n_head, m, d) = q_layout.shape().dims4()?;
        let (kv_b, n_kv_head, l, kv_d) = k_layout.shape().dims4()?;
        if k_layout.dims() != v_layout.dims() || (b, d) != (kv_b, kv_d) {
            candle_core::bail!(
                "{NAME}: queries {:?}, keys {:?} and values {:?} do not belong together",
                q_layout.dims(),
                k_layout.dims(),
                v_layout.dims()
            );
        }
        if n_kv_head == 0 || !n_head.is_multiple_of(n_kv_head) || n_head == 0 {
            candle_core::bail!("{NAME}: {n_head} query heads cannot share {n_kv_head} KV heads");
        }
        if m > l {
            candle_core::bail!("{NAME}: {m} queries are more than the {l} positions");
        }
        let spec = AttentionSpec {
            n_head,
            n_kv_head,
            head_dim: d,
            scale: self.scale,
            window: self.window,
        };
        let width = n_head * d;
        let queries = by_tokens(q, q_layout)?;
        let mut out = vec![0.0; b * m * width];
        let sequences = out.chunks_mut((m * width).max(1)).enumerate();
        let mut segments = sequences
            .map(|(sequence, out)| {
                let place = |layout| Place::of(layout, sequence);
                let (keys, values) = (place(k_layout)?, place(v_layout)?);
                let kv = match (k, v) {
                    (CpuStorage::F32(k), CpuStorage::F32(v)) => {
                        KvRef::F32(cache(k, v, keys, values, &spec)?)
                    }
                    (CpuStorage::BF16(k), CpuStorage::BF16(v)) => {
                        KvRef::Bf16(cache(k, v, keys, values, &spec)?)
                    }
                    (CpuStorage::F32(_) | CpuStorage::BF16(_), other) | (other, _) => {
                        return Err(unsupported(other, NAME));
                    }
                };
                let q = &queries[sequence * m * width..][..m * width];
                Ok(Segment {
                    q: MatRef::new(q, m, width).map_err(Error::wrap)?,
                    start: l - m,
                    kv,
                    out: MatMut::new(out, m, width).map_err(Error::wrap)?,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        attention(self.kernels.runtime(), &spec, &mut segments);
        drop(segments);
        Ok((in_type_of(q, out, NAME)?, Shape::from((b, m, width))))
    }
}

/// The queries as `[b, m, n_head · d]`: a model makes them so and transposes them, which only changes the layout.
fn by_tokens<'a>(q: &'a CpuStorage, layout: &Layout) -> Result<std::borrow::Cow<'a, [f32]>> {
    let transposed = layout.transpose(1, 2)?;
    if transposed.is_contiguous() {
        return activations(q, &transposed, NAME);
    }
    let (b, n_head, m, d) = layout.shape().dims4()?;
    let heads = activations(q, layout, NAME)?;
    let mut tokens = Vec::with_capacity(heads.len());
    for sequence in 0..b {
        for token in 0..m {
            for head in 0..n_head {
                let at = ((sequence * n_head + head) * m + token) * d;
                tokens.extend_from_slice(&heads[at..at + d]);
            }
        }
    }
    Ok(tokens.into())
}

/// Where a sequence's keys or values start, and for how many positions a head has room.
#[derive(Clone, Copy)]
struct Place {
    start: usize,
    capacity: usize,
}

impl Place {
    fn of(layout: &Layout, sequence: usize) -> Result<Self> {
        let (_, _, l, d) = layout.shape().dims4()?;
        let [of_sequence, of_head, of_position, of_element] = layout.stride() else {
            unreachable!("it has four dimensions");
        };
        // A stride of a dimension of one says nothing.
        let by_rows = (*of_position == d || l == 1) && (*of_element == 1 || d == 1);
        if !by_rows || d == 0 || !of_head.is_multiple_of(d) || of_head / d < l {
            return Err(Error::RequiresContiguous { op: NAME }.bt());
        }
        Ok(Self {
            start: layout.start_offset() + sequence * of_sequence,
            capacity: of_head / d,
        })
    }
}

fn cache<'a, T>(
    k: &'a [T],
    v: &'a [T],
    keys: Place,
    values: Place,
    spec: &AttentionSpec,
) -> Result<Cache<'a, T>> {
    if keys.capacity != values.capacity {
        candle_core::bail!("{NAME}: keys and values must lie alike; call contiguous() on both");
    }
    let (k, v) = (k.get(keys.start..), v.get(values.start..));
    let (n_kv_head, head_dim) = (spec.n_kv_head, spec.head_dim);
    Cache::new(
        k.unwrap_or_default(),
        v.unwrap_or_default(),
        n_kv_head,
        keys.capacity,
        head_dim,
    )
    .map_err(Error::wrap)
}
