//! One pass over the layers.

use std::ops::Range;

use tokgate_kernels::{
    AttentionSpec, Buffer, Experts, Job, MatMut, MatRef, MoeSpec, RopeAngles, Routing, Runtime,
    Segment, Weights, add_bias, add_rms_norm, attention, matmul, matmul_all, moe_ffn_part,
    rms_norm, rms_norm_in_place, rope, route, store_kv, swiglu,
};

use super::{Apart, Chunk, Join, Joint, LogitRows, Model, Sublayer, Work};
use crate::engine::weights::{Ffn, LayerWeights, Tensor};

/// One pass: the operands that its steps share.
pub(super) struct Pass<'a> {
    model: &'a Model,
    rt: &'a Runtime,
    work: &'a mut Work,
    /// Rows of all chunks.
    rows: usize,
    /// Rows that are to have logits, ascending.
    wanted: Vec<usize>,
    /// Experts of the tokens in the layer at hand.
    routing: Routing,
}

impl<'a> Pass<'a> {
    pub(super) fn new(
        model: &'a Model,
        rt: &'a Runtime,
        chunks: &[Chunk<'_>],
        work: &'a mut Work,
    ) -> Self {
        let mut rows = 0;
        let mut wanted = Vec::new();
        for chunk in chunks {
            let end = rows + chunk.tokens.len();
            match chunk.logits {
                LogitRows::None => {}
                LogitRows::Last => wanted.extend((rows..end).last()),
                LogitRows::All => wanted.extend(rows..end),
            }
            rows = end;
        }
        let config = &model.config;
        work.experts.resize(config.n_layer * config.n_expert, 0);
        Self {
            model,
            rt,
            work,
            rows,
            wanted,
            routing: Routing::default(),
        }
    }

    pub(super) fn run(
        &mut self,
        chunks: &mut [Chunk<'_>],
        logits: &mut Vec<f32>,
        join: &mut dyn Join,
    ) -> Result<(), Apart> {
        let Model {
            config,
            weights,
            rope,
            moe,
            ..
        } = self.model;
        if self.rows == 0 {
            return Ok(());
        }
        let d = config.n_embd;
        let mut x = self.take(self.rows * d);
        let mut normed = self.take(self.rows * d);
        // What the last block computed and nobody has added to `x` yet: the addition is fused with the next norm.
        let mut delta = self.take(self.rows * d);
        self.embed(chunks, &mut x);
        let positions: Vec<u32> = chunks
            .iter()
            .flat_map(|chunk| (chunk.cache.len()..).take(chunk.tokens.len()))
            .map(|position| u32::try_from(position).unwrap_or(u32::MAX))
            .collect();
        let angles = rope.angles(&positions);

        for (index, layer) in weights.layers.iter().enumerate() {
            let eps = config.rms_eps;
            if index == 0 {
                rms_norm(
                    self.rt,
                    view(&x, self.rows, d),
                    &layer.attn_norm,
                    eps,
                    view_mut(&mut normed, self.rows, d),
                );
            } else {
                self.add_norm(&mut x, &delta, &layer.attn_norm, &mut normed);
            }
            let last = index + 1 == weights.layers.len();
            let Some(mut heads) = self.attend(chunks, index, layer, &angles, &normed, last) else {
                return Ok(());
            };
            if last {
                // From here on only the rows whose logits are wanted matter.
                compact(&mut x, &self.wanted, d);
                compact(&mut heads, &self.wanted, config.n_head * config.head_dim);
                self.rows = self.wanted.len();
            }
            self.matmul(&heads, &layer.wo, &mut delta);
            drop(heads);
            let sum = self.rows * d;
            let mut join = |after, delta: &mut [f32]| {
                let joint = Joint {
                    layer: index,
                    after,
                };
                join.sum(joint, &mut delta[..sum])
            };
            join(Sublayer::Attention, &mut delta)?;
            self.add_norm(&mut x, &delta, &layer.ffn_norm, &mut normed);
            match &layer.ffn {
                Ffn::Dense { gate, up, down } => self.dense(gate, up, down, &normed, &mut delta),
                Ffn::Moe {
                    router,
                    gate,
                    up,
                    down,
                } => {
                    let experts = Experts {
                        gate: gate.view(),
                        up: up.view(),
                        down: down.view(),
                    };
                    let spec = moe.as_ref().expect("a config of experts came with them");
                    self.experts(spec, index, router, &experts, &normed, &mut delta);
                }
            }
            join(Sublayer::FeedForward, &mut delta)?;
        }
        self.add_norm(&mut x, &delta, &weights.output_norm, &mut normed);
        logits.resize(self.rows * weights.output.shape().rows, 0.0);
        self.matmul(&normed, &weights.output, logits);
        Ok(())
    }
}

impl<'a> Pass<'a> {
    fn take(&self, len: usize) -> Buffer<'a, f32> {
        self.rt.scratch().take(len)
    }

    fn embed(&mut self, chunks: &[Chunk<'_>], x: &mut [f32]) {
        let table = self.model.weights.token_embd.view();
        let d = self.model.config.n_embd;
        let tokens = chunks.iter().flat_map(|chunk| chunk.tokens);
        for (row, token) in x.chunks_exact_mut(d).zip(tokens) {
            table.widen_row(*token as usize, row);
        }
    }

    /// `x += delta; normed = norm(x)`.
    fn add_norm(&self, x: &mut [f32], delta: &[f32], weight: &[f32], normed: &mut [f32]) {
        let (rows, d, eps) = (
            self.rows,
            self.model.config.n_embd,
            self.model.config.rms_eps,
        );
        let (x, normed) = (view_mut(x, rows, d), view_mut(normed, rows, d));
        add_rms_norm(self.rt, x, view(delta, rows, d), weight, eps, normed);
    }

    /// `y = x · wᵀ`.
    fn matmul(&mut self, x: &[f32], w: &Tensor, y: &mut [f32]) {
        let w = w.view();
        let y = view_mut(y, self.rows, w.rows());
        matmul(self.rt, view(x, self.rows, w.cols()), w, y);
        self.tally(w);
    }

    fn tally(&mut self, w: Weights<'_>) {
        let elements = (w.rows() * w.cols()) as u64;
        self.work.macs += self.rows as u64 * elements;
        self.work.bytes += bytes(w);
    }

    /// Queries, keys and values of a layer, stored and attended to; `None` if nobody needs the outcome.
    fn attend(
        &mut self,
        chunks: &mut [Chunk<'_>],
        index: usize,
        layer: &LayerWeights,
        angles: &RopeAngles,
        normed: &[f32],
        last: bool,
    ) -> Option<Buffer<'a, f32>> {
        let config = &self.model.config;
        let (rows, head_dim) = (self.rows, config.head_dim);
        let (n_q, n_kv) = (config.n_head * head_dim, config.n_kv_head * head_dim);
        let (mut q, mut k, mut v) = (
            self.take(rows * n_q),
            self.take(rows * n_kv),
            self.take(rows * n_kv),
        );
        let x = view(normed, rows, config.n_embd);
        let projections = [&layer.wq, &layer.wk, &layer.wv].map(Tensor::view);
        let outputs = [(&mut q, n_q), (&mut k, n_kv), (&mut v, n_kv)];
        let mut jobs: Vec<Job<'_>> = projections
            .into_iter()
            .zip(outputs)
            .map(|(w, (y, n))| Job {
                x,
                rows: None,
                w,
                y: view_mut(y, rows, n),
            })
            .collect();
        matmul_all(self.rt, &mut jobs);
        drop(jobs);
        projections.into_iter().for_each(|w| self.tally(w));

        for (y, n, bias) in [
            (&mut q, n_q, &layer.bq),
            (&mut k, n_kv, &layer.bk),
            (&mut v, n_kv, &layer.bv),
        ] {
            if let Some(bias) = bias {
                add_bias(self.rt, view_mut(y, rows, n), bias);
            }
        }
        for (y, n, norm) in [(&mut q, n_q, &layer.q_norm), (&mut k, n_kv, &layer.k_norm)] {
            if let Some(weight) = norm {
                let heads = view_mut(y, rows * n / head_dim, head_dim);
                rms_norm_in_place(self.rt, heads, weight, config.rms_eps);
            }
            rope(
                self.rt,
                &self.model.rope,
                angles,
                head_dim,
                view_mut(y, rows, n),
            );
        }

        // To store, only the number and the size of the heads matter.
        let whole = AttentionSpec {
            n_head: config.n_head,
            n_kv_head: config.n_kv_head,
            head_dim,
            scale: 1.0,
            window: None,
        };
        let mut at = 0;
        for chunk in &mut *chunks {
            let (tokens, start) = (chunk.tokens.len(), chunk.cache.len());
            let part = at * n_kv..(at + tokens) * n_kv;
            let (k, v) = (
                view(&k[part.clone()], tokens, n_kv),
                view(&v[part], tokens, n_kv),
            );
            store_kv(self.rt, &whole, start, k, v, chunk.cache.layer_mut(index));
            at += tokens;
        }
        if last && self.wanted.is_empty() {
            return None;
        }
        let mut heads = self.take(rows * n_q);
        for run in &self.model.runs {
            let columns = run.heads.start * head_dim..run.heads.end * head_dim;
            let mut queries = &q[..];
            let mut outputs = &mut heads[..];
            let mut segments = Vec::with_capacity(chunks.len());
            for chunk in &*chunks {
                let (tokens, start) = (chunk.tokens.len(), chunk.cache.len());
                let (q, out);
                (q, queries) = queries.split_at(tokens * n_q);
                (out, outputs) = outputs.split_at_mut(tokens * n_q);
                segments.push(Segment {
                    q: columns_of(q, tokens, &columns, n_q),
                    start,
                    kv: chunk.cache.layer(index, run.kv_heads.clone()),
                    out: columns_of_mut(out, tokens, &columns, n_q),
                });
                self.tally_attention(&run.spec, chunk, start);
            }
            attention(self.rt, &run.spec, &mut segments);
        }
        Some(heads)
    }

    fn tally_attention(&mut self, spec: &AttentionSpec, chunk: &Chunk<'_>, start: usize) {
        let window = spec.window.map_or(usize::MAX, usize::from);
        let pairs: usize = (start..start + chunk.tokens.len())
            .map(|position| (position + 1).min(window))
            .sum();
        let first = (start + 1).saturating_sub(window);
        let seen = if chunk.tokens.is_empty() {
            0
        } else {
            start + chunk.tokens.len() - first
        };
        self.work.macs += 2 * (pairs * spec.n_head * spec.head_dim) as u64;
        let element = chunk.cache.dtype().block_bytes();
        self.work.bytes += 2 * (seen * spec.n_kv_head * spec.head_dim * element) as u64;
    }

    /// `down · (silu(gate · x) ∘ (up · x))`.
    fn dense(&mut self, gate: &Tensor, up: &Tensor, down: &Tensor, x: &[f32], y: &mut [f32]) {
        let (rows, d, n_ff) = (self.rows, self.model.config.n_embd, self.model.config.n_ff);
        let (mut gated, mut upped) = (self.take(rows * n_ff), self.take(rows * n_ff));
        let x = view(x, rows, d);
        let (gate, up) = (gate.view(), up.view());
        let mut jobs = [
            Job {
                x,
                rows: None,
                w: gate,
                y: view_mut(&mut gated, rows, n_ff),
            },
            Job {
                x,
                rows: None,
                w: up,
                y: view_mut(&mut upped, rows, n_ff),
            },
        ];
        matmul_all(self.rt, &mut jobs);
        self.tally(gate);
        self.tally(up);
        swiglu(
            self.rt,
            view_mut(&mut gated, rows, n_ff),
            view(&upped, rows, n_ff),
        );
        self.matmul(&gated, down, y);
    }

    /// The feed-forward of the experts that the router chooses for each token.
    fn experts(
        &mut self,
        spec: &MoeSpec,
        layer: usize,
        router: &Tensor,
        experts: &Experts<'_>,
        x: &[f32],
        y: &mut [f32],
    ) {
        let config = &self.model.config;
        let (rows, d, n_expert) = (self.rows, config.n_embd, config.n_expert);
        let mut logits = self.take(rows * n_expert);
        self.matmul(x, router, &mut logits);
        route(
            self.rt,
            spec,
            view(&logits, rows, n_expert),
            &mut self.routing,
        );
        let x = view(x, rows, d);
        let part = self.model.experts.clone();
        moe_ffn_part(
            self.rt,
            spec,
            x,
            &self.routing,
            part.clone(),
            experts,
            view_mut(y, rows, d),
        );

        let counts = self.routing.counts();
        let usage = &mut self.work.experts[layer * n_expert..][..n_expert];
        usage
            .iter_mut()
            .zip(counts)
            .for_each(|(usage, count)| *usage += u64::from(*count));
        // What was done here, which in a part may be less than what was routed.
        let (counts, n_part) = (&counts[part.clone()], part.len().max(1));
        let hit = counts.iter().filter(|count| **count > 0).count() as u64;
        let pairs: u64 = counts.iter().map(|count| u64::from(*count)).sum();
        for w in [experts.gate, experts.up, experts.down] {
            let elements = (w.rows() / n_part * w.cols()) as u64;
            self.work.macs += pairs * elements;
            self.work.bytes += hit * (bytes(w) / n_part as u64);
        }
    }
}

fn view(data: &[f32], rows: usize, cols: usize) -> MatRef<'_, f32> {
    MatRef::new(data, rows, cols).expect("the buffer was made for it")
}

fn view_mut(data: &mut [f32], rows: usize, cols: usize) -> MatMut<'_, f32> {
    MatMut::new(data, rows, cols).expect("the buffer was made for it")
}

/// Some columns of a matrix of `rows × stride`.
fn columns_of<'a>(
    data: &'a [f32],
    rows: usize,
    columns: &Range<usize>,
    stride: usize,
) -> MatRef<'a, f32> {
    // Without rows there is nothing from where columns could start.
    let data = data.get(columns.start..).unwrap_or_default();
    MatRef::with_stride(data, rows, columns.len(), stride).expect("the buffer was made for it")
}

/// See [`columns_of`].
fn columns_of_mut<'a>(
    data: &'a mut [f32],
    rows: usize,
    columns: &Range<usize>,
    stride: usize,
) -> MatMut<'a, f32> {
    let data = data.get_mut(columns.start..).unwrap_or_default();
    MatMut::with_stride(data, rows, columns.len(), stride).expect("the buffer was made for it")
}

/// Moves the `wanted` rows, ascending, to the front.
fn compact(data: &mut [f32], wanted: &[usize], cols: usize) {
    for (to, &from) in wanted.iter().enumerate() {
        data.copy_within(from * cols..(from + 1) * cols, to * cols);
    }
}

fn bytes(w: Weights<'_>) -> u64 {
    let row = w
        .dtype()
        .row_bytes(w.cols())
        .expect("a view's rows are made of whole blocks");
    (w.rows() * row) as u64
}
