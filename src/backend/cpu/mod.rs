//! The CPU backend: f32 as fast as the machine can, f64 in plain loops as the judge of everything else.
//!
//! One file per operation; this one only finds the tensors in the arena.

mod activation;
mod attention;
pub(in crate::backend) mod embed;
mod head;
mod layer_norm;
mod linear;
mod maps;
pub mod matmul;
mod matrix;
mod memory;
mod pages;
mod real;
pub(in crate::backend) mod sae;
mod select;

use std::marker::PhantomData;

pub use matrix::Number;
pub use memory::CpuMemory;
pub use real::Real;
pub use sae::CpuSae;

use super::{
    AttentionShape, Backend, Code, Device, Epilogue, EpilogueReverse, Linear, Norm, PatchGrid, Picture, Plan,
    Relevance, Rows, ScoreKind, Tensor,
};
use crate::{
    Result,
    model::{Edit, Splice, Through},
    weights::SaeWeights,
};
use sae::{CodeMut, CodeRef};

/// Computes on the processor in `T`.
#[derive(Debug, Default, Clone, Copy)]
pub struct Cpu<T>(PhantomData<T>);

impl<T> Cpu<T> {
    /// The processor.
    pub const fn new() -> Self {
        Cpu(PhantomData)
    }
}

/// Runs `f` compiled for the widest vectors of this machine.
#[inline(always)]
fn simd<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

impl<T: Number> Device for Cpu<T> {
    fn arena(&self, plan: Plan, watched: bool) -> Result<CpuMemory<T>> {
        Ok(CpuMemory::new(plan, watched))
    }

    /// On one of the pool's own threads. From any other thread each of a pass's hundreds of parallel loops would wake a
    /// worker and then the caller again, which costs as much as a small operation.
    fn enter<R: Send>(&self, pass: impl FnOnce() -> R + Send) -> R {
        rayon::scope(|_| pass())
    }

    fn storage_bytes(&self) -> usize {
        size_of::<T>()
    }

    fn matrix_bytes(&self, n: usize, k: usize, reverse: bool) -> usize {
        T::matrix_bytes(n, k, reverse)
    }

    fn sae_sizes(&self, sae: &CpuSae<T>) -> (usize, usize) {
        (sae.latents, sae.width)
    }
}

impl<T: Number> Backend for Cpu<T> {
    type Memory = CpuMemory<T>;
    type Matrix = T::Matrix;
    type Vector = Vec<T>;
    type Sae = CpuSae<T>;

    fn wide_units(&self) -> usize {
        1
    }

    fn matrix(&self, rows: usize, cols: usize, values: Vec<f32>) -> Result<T::Matrix> {
        Ok(T::matrix(rows, cols, values))
    }

    fn vector(&self, values: impl ExactSizeIterator<Item = f64>) -> Result<Vec<T>> {
        Ok(values.map(T::of).collect())
    }

    fn sae(&self, weights: &SaeWeights) -> Result<CpuSae<T>> {
        Ok(CpuSae::new(weights))
    }

    fn patch_embed(
        &self,
        m: &mut CpuMemory<T>,
        x: Tensor,
        patches: Tensor,
        picture: Picture<'_, Vec<T>>,
        weight: &T::Matrix,
        cls: &Vec<T>,
        positions: &Vec<T>,
        batch: usize,
        grid: PatchGrid,
    ) -> Result<()> {
        let (x, patches) = match picture {
            Picture::Pixels(pixels) => {
                let [x, patches, pixels] = m.real([x, patches, pixels])?;
                embed::to_patches(patches, pixels, grid);
                (x, patches)
            }
            Picture::Bytes { bytes, table } => {
                let ([x, patches], bytes) = m.real_and_index([x, patches], bytes)?;
                embed::bytes_to_patches(patches, bytemuck::cast_slice(bytes), table, grid);
                (x, patches)
            }
        };
        let row = 3 * grid.patch * grid.patch;
        T::product(x, patches, row, batch * grid.tokens(), weight, &|_, _, _| ());
        embed::add_positions(x, cls, positions, grid.tokens());
        Ok(())
    }

    fn patch_embed_reverse(
        &self,
        m: &mut CpuMemory<T>,
        dpixels: Tensor,
        dpatches: Tensor,
        dx: Tensor,
        weight: &T::Matrix,
        g: usize,
        grid: PatchGrid,
    ) -> Result<()> {
        let [dpixels, dpatches, dx] = m.real([dpixels, dpatches, dx])?;
        T::product_reverse(dpatches, dx, g * grid.tokens(), weight, &|_, _, _| ());
        embed::from_patches(dpixels, dpatches, grid);
        Ok(())
    }

    fn layer_norm(
        &self,
        m: &mut CpuMemory<T>,
        y: Tensor,
        stats: Tensor,
        x: Rows,
        norm: &Norm<Vec<T>>,
        _n: usize,
    ) -> Result<()> {
        let [y, stats, values] = m.real([y, stats, x.tensor])?;
        layer_norm::forward(y, stats, values, x.stride, &norm.gain, &norm.bias, T::of(norm.eps));
        Ok(())
    }

    fn layer_norm_reverse(
        &self,
        m: &mut CpuMemory<T>,
        dx: Tensor,
        dy: Tensor,
        x: Rows,
        stats: Tensor,
        norm: &Norm<Vec<T>>,
        n: usize,
        _g: usize,
        accumulate: bool,
    ) -> Result<()> {
        let [dx, dy, values, stats] = m.real([dx, dy, x.tensor, stats])?;
        layer_norm::reverse(dx, dy, values, x.stride, stats, &norm.gain, n, accumulate);
        Ok(())
    }

    fn linear(
        &self,
        m: &mut CpuMemory<T>,
        y: Tensor,
        x: Tensor,
        layer: &Linear<T::Matrix, Vec<T>>,
        epilogue: Epilogue,
        n: usize,
    ) -> Result<()> {
        let bias = layer.bias.as_deref();
        let run = |y: &mut [T], values: &[T], after| {
            linear::forward(y, values, &layer.weight, bias, after, n);
        };
        match epilogue {
            Epilogue::None => {
                let [y, values] = m.real([y, x])?;
                run(y, values, linear::After::None);
            }
            Epilogue::Residual(rows) => {
                let [y, values, residual] = m.real([y, x, rows.tensor])?;
                run(y, values, linear::After::Residual(residual, rows.stride));
            }
            Epilogue::Activation(kind, None) => {
                let [y, values] = m.real([y, x])?;
                run(y, values, linear::After::Activation(kind));
            }
            Epilogue::Activation(kind, Some(u)) => {
                let [y, values, u] = m.real([y, x, u])?;
                run(y, values, linear::After::KeepActivation(kind, u));
            }
        }
        Ok(())
    }

    fn linear_reverse(
        &self,
        m: &mut CpuMemory<T>,
        dx: Tensor,
        dy: Tensor,
        layer: &Linear<T::Matrix, Vec<T>>,
        epilogue: EpilogueReverse,
        g: usize,
    ) -> Result<()> {
        match epilogue {
            EpilogueReverse::None => {
                let [dx, dy] = m.real([dx, dy])?;
                linear::reverse(dx, dy, &layer.weight, None, g);
            }
            EpilogueReverse::Activation(kind, u, rows) => {
                let [dx, dy, u] = m.real([dx, dy, u])?;
                linear::reverse(dx, dy, &layer.weight, Some((kind, u, rows)), g);
            }
        }
        Ok(())
    }

    fn attention(
        &self,
        m: &mut CpuMemory<T>,
        o: Tensor,
        lse: Tensor,
        qkv: Tensor,
        shape: AttentionShape,
    ) -> Result<()> {
        let [o, lse, qkv] = m.real([o, lse, qkv])?;
        attention::forward(o, lse, qkv, shape);
        Ok(())
    }

    fn attention_reverse(
        &self,
        m: &mut CpuMemory<T>,
        dqkv: Option<Tensor>,
        relevance: Option<Relevance>,
        d_o: Tensor,
        qkv: Tensor,
        lse: Tensor,
        shape: AttentionShape,
        _g: usize,
    ) -> Result<()> {
        match (dqkv, relevance) {
            (None, None) => {}
            (Some(dqkv), None) => {
                let [dqkv, d_o, qkv, lse] = m.real([dqkv, d_o, qkv, lse])?;
                attention::reverse(Some(dqkv), None, d_o, qkv, lse, shape);
            }
            (None, Some(r)) => {
                let [r_out, r_in, d_o, qkv, lse] = m.real([r.out, r.input, d_o, qkv, lse])?;
                let relevance = Some((r_out, &*r_in, T::of(r.keep), T::of(r.gain)));
                attention::reverse(None, relevance, d_o, qkv, lse, shape);
            }
            (Some(dqkv), Some(r)) => {
                let [dqkv, r_out, r_in, d_o, qkv, lse] = m.real([dqkv, r.out, r.input, d_o, qkv, lse])?;
                let relevance = Some((r_out, &*r_in, T::of(r.keep), T::of(r.gain)));
                attention::reverse(Some(dqkv), relevance, d_o, qkv, lse, shape);
            }
        }
        Ok(())
    }

    fn attention_row(
        &self,
        m: &mut CpuMemory<T>,
        r: Relevance,
        qkv: Tensor,
        lse: Tensor,
        shape: AttentionShape,
    ) -> Result<()> {
        let [r_out, r_in, qkv, lse] = m.real([r.out, r.input, qkv, lse])?;
        attention::row(r_out, r_in, T::of(r.keep), T::of(r.gain), qkv, lse, shape);
        Ok(())
    }

    fn attention_positive_gradient(
        &self,
        m: &mut CpuMemory<T>,
        map: Tensor,
        d_o: Tensor,
        qkv: Tensor,
        shape: AttentionShape,
        _g: usize,
    ) -> Result<()> {
        let [map, d_o, qkv] = m.real([map, d_o, qkv])?;
        attention::positive_gradient(map, d_o, qkv, shape);
        Ok(())
    }

    fn grad_eclip(
        &self,
        m: &mut CpuMemory<T>,
        map: Tensor,
        d_o: Tensor,
        qkv: Tensor,
        shape: AttentionShape,
        _g: usize,
    ) -> Result<()> {
        let [map, d_o, qkv] = m.real([map, d_o, qkv])?;
        maps::grad_eclip(map, d_o, qkv, shape);
        Ok(())
    }

    fn grad_cam(
        &self,
        m: &mut CpuMemory<T>,
        map: Tensor,
        dx: Tensor,
        x: Tensor,
        batch: usize,
        tokens: usize,
        width: usize,
        _g: usize,
    ) -> Result<()> {
        let [map, dx, x] = m.real([map, dx, x])?;
        maps::grad_cam(map, dx, x, batch, tokens, width);
        Ok(())
    }

    fn mean_tokens(
        &self,
        m: &mut CpuMemory<T>,
        y: Tensor,
        x: Tensor,
        _batch: usize,
        tokens: usize,
        width: usize,
    ) -> Result<()> {
        let [y, x] = m.real([y, x])?;
        maps::mean_tokens(y, x, tokens, width);
        Ok(())
    }

    fn mean_tokens_reverse(
        &self,
        m: &mut CpuMemory<T>,
        dx: Tensor,
        dy: Tensor,
        _g: usize,
        tokens: usize,
        width: usize,
    ) -> Result<()> {
        let [dx, dy] = m.real([dx, dy])?;
        maps::mean_tokens_reverse(dx, dy, tokens, width);
        Ok(())
    }

    fn cosine(
        &self,
        m: &mut CpuMemory<T>,
        cos: Tensor,
        embed: Tensor,
        texts: &Vec<T>,
        _batch: usize,
        queries: usize,
        width: usize,
    ) -> Result<()> {
        let [cos, embed] = m.real([cos, embed])?;
        head::cosine(cos, embed, texts, queries, width);
        Ok(())
    }

    fn score_reverse(
        &self,
        m: &mut CpuMemory<T>,
        dembed: Tensor,
        embed: Tensor,
        cos: Tensor,
        texts: &Vec<T>,
        kind: ScoreKind,
        logit_scale: f64,
        first: usize,
        batch: usize,
        queries: usize,
        width: usize,
        _g: usize,
    ) -> Result<()> {
        let [dembed, embed, cos] = m.real([dembed, embed, cos])?;
        let score = head::ScoreReverse { kind, scale: logit_scale, first, batch, queries, width };
        head::reverse(dembed, embed, cos, texts, score);
        Ok(())
    }

    fn fill(&self, m: &mut CpuMemory<T>, x: Tensor, value: f64) -> Result<()> {
        let [x] = m.real([x])?;
        x.fill(T::of(value));
        Ok(())
    }

    fn gather_rows(&self, m: &mut CpuMemory<T>, y: Tensor, x: Tensor, rows: &[usize], width: usize) -> Result<()> {
        let [y, x] = m.real([y, x])?;
        y.chunks_mut(width).zip(rows).for_each(|(y, &row)| y.copy_from_slice(&x[row * width..][..width]));
        Ok(())
    }

    fn add_rows(
        &self,
        m: &mut CpuMemory<T>,
        y: Tensor,
        stride: usize,
        x: Tensor,
        _n: usize,
        width: usize,
    ) -> Result<()> {
        let [y, x] = m.real([y, x])?;
        for (y, x) in y.chunks_mut(stride).zip(x.chunks(width)) {
            y.iter_mut().zip(x).for_each(|(y, &x)| *y += x);
        }
        Ok(())
    }

    fn sae_slots(&self, sae: &CpuSae<T>, edits: &[Edit]) -> usize {
        (sae.kept() + sae::forced(edits).len()).min(sae.latents)
    }

    fn sae_encode(
        &self,
        m: &mut CpuMemory<T>,
        code: Code,
        pre: Tensor,
        x: Tensor,
        sae: &CpuSae<T>,
        edits: &[Edit],
        mask: &[bool],
        _n: usize,
    ) -> Result<()> {
        let reals = [code.z, code.edited, code.slope, code.edit_slope, pre, x];
        let ([z, edited, slope, edit_slope, pre, x], index) = m.real_and_index(reals, code.index)?;
        sae.encode(CodeMut { index, z, edited, slope, edit_slope, slots: code.slots }, pre, x, edits, mask);
        Ok(())
    }

    fn sae_splice(
        &self,
        m: &mut CpuMemory<T>,
        y: Tensor,
        x: Tensor,
        code: Code,
        sae: &CpuSae<T>,
        splice: Splice,
        mask: &[bool],
        _n: usize,
    ) -> Result<()> {
        let ([y, x, z, edited], index) = m.real_and_index([y, x, code.z, code.edited], code.index)?;
        let code = CodeRef { index, z, edited, slope: &[], edit_slope: &[], slots: code.slots };
        sae.splice(y, x, &code, splice, mask);
        Ok(())
    }

    fn sae_splice_reverse(
        &self,
        m: &mut CpuMemory<T>,
        dx: Tensor,
        dz: Tensor,
        dy: Tensor,
        x: Tensor,
        code: Code,
        sae: &CpuSae<T>,
        splice: Splice,
        through: Through,
        mask: &[bool],
        n: usize,
        _g: usize,
    ) -> Result<()> {
        let reals = [dx, dz, dy, x, code.z, code.edited, code.slope, code.edit_slope];
        let ([dx, dz, dy, x, z, edited, slope, edit_slope], index) = m.real_and_index(reals, code.index)?;
        let code = CodeRef { index, z, edited, slope, edit_slope, slots: code.slots };
        sae.splice_reverse(dx, dz, dy, x, &code, splice, through, mask, n);
        Ok(())
    }

    fn sae_latent(
        &self,
        m: &mut CpuMemory<T>,
        score: Tensor,
        code: Code,
        id: usize,
        _batch: usize,
        tokens: usize,
    ) -> Result<()> {
        let ([score, z], index) = m.real_and_index([score, code.z], code.index)?;
        let code = CodeRef { index, z, edited: &[], slope: &[], edit_slope: &[], slots: code.slots };
        sae::latent(score, &code, id, tokens);
        Ok(())
    }

    fn sae_latent_reverse(
        &self,
        m: &mut CpuMemory<T>,
        dx: Tensor,
        x: Tensor,
        code: Code,
        sae: &CpuSae<T>,
        id: usize,
        _n: usize,
    ) -> Result<()> {
        let ([dx, x, slope], index) = m.real_and_index([dx, x, code.slope], code.index)?;
        let code = CodeRef { index, z: &[], edited: &[], slope, edit_slope: &[], slots: code.slots };
        sae.latent_reverse(dx, x, &code, id);
        Ok(())
    }
}
