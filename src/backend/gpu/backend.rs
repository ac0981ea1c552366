//! The operations on a GPU: addresses and sizes go to the ladders, launches to the device.

use std::sync::Arc;

use super::{
    attention,
    device::Gpu,
    gemm, head, heatmap,
    launch::{Ladder, Pointer, Storage},
    layer_norm,
    memory::GpuMemory,
    parameters::{GpuMatrix, GpuSae, GpuVector},
    patch_embed, rows,
    sae::{EditBlock, Edits, Mask, mask_bytes},
    sae_decode, sae_encode,
};
use crate::{
    Result,
    backend::{
        self, AttentionShape, Backend, Device, Epilogue, EpilogueReverse, Linear, Norm, PatchGrid, Picture, Plan,
        Relevance, Rows, ScoreKind, Tensor,
    },
    model::{Edit, Splice, Through},
    weights::SaeWeights,
};

/// Computes on a GPU.
#[derive(Clone)]
pub struct GpuBackend(Arc<Gpu>);

impl GpuBackend {
    /// On an open device.
    pub fn new(gpu: Arc<Gpu>) -> Self {
        GpuBackend(gpu)
    }

    fn run<L: Ladder>(&self, ladder: L) -> Result<()> {
        self.0.run(&ladder)
    }

    fn mask(&self, mask: &[bool]) -> Result<Mask> {
        Ok(Mask { bytes: self.0.constant(&mask_bytes(mask))?, tokens: mask.len() })
    }

    /// f32 scratch of attention for `g` gradient images.
    fn attention_scratch(&self, shape: AttentionShape, g: usize) -> Result<Pointer> {
        self.0.scratch(attention::scratch_values(shape, g) * size_of::<f32>())
    }
}

impl Device for GpuBackend {
    fn arena(&self, plan: Plan, watched: bool) -> Result<GpuMemory> {
        GpuMemory::new(self.0.clone(), plan, watched)
    }

    fn enter<R: Send>(&self, pass: impl FnOnce() -> R + Send) -> R {
        pass()
    }

    fn storage_bytes(&self) -> usize {
        self.0.target.storage.bytes()
    }

    /// One matrix serves both directions.
    fn matrix_bytes(&self, n: usize, k: usize, _reverse: bool) -> usize {
        n * k * self.storage_bytes()
    }

    fn sae_sizes(&self, sae: &GpuSae) -> (usize, usize) {
        (sae.sae.rule.latents, sae.sae.rule.width)
    }

    fn free_bytes(&self) -> Result<Option<usize>> {
        self.0.free_bytes().map(Some)
    }

    fn kernels_used(&self) -> Vec<String> {
        self.0.rungs.used()
    }
}

impl Backend for GpuBackend {
    type Memory = GpuMemory;
    type Matrix = GpuMatrix;
    type Vector = GpuVector;
    type Sae = GpuSae;

    fn wide_units(&self) -> usize {
        size_of::<f32>() / self.storage_bytes()
    }

    fn matrix(&self, rows: usize, cols: usize, values: Vec<f32>) -> Result<GpuMatrix> {
        GpuMatrix::new(&self.0, rows, cols, &values)
    }

    fn patch_matrix(&self, rows: usize, cols: usize, values: Vec<f32>) -> Result<GpuMatrix> {
        let row = self.patch_row(cols);
        let mut padded = vec![0.0; rows * row];
        padded.chunks_mut(row).zip(values.chunks(cols)).for_each(|(to, from)| to[..cols].copy_from_slice(from));
        self.matrix(rows, row, padded)
    }

    /// Whole runs of 16 bytes, which the faster products need.
    fn patch_row(&self, values: usize) -> usize {
        patch_embed::row_length(values, self.0.target.storage.run())
    }

    fn sae_rows(&self) -> usize {
        sae_encode::ROWS_AT_A_TIME
    }

    fn vector(&self, values: impl ExactSizeIterator<Item = f64>) -> Result<GpuVector> {
        let values: Vec<f32> = values.map(|v| v as f32).collect();
        GpuVector::new(&self.0, &values)
    }

    fn sae(&self, weights: &SaeWeights) -> Result<GpuSae> {
        GpuSae::new(&self.0, weights)
    }

    fn patch_embed(
        &self,
        m: &mut GpuMemory,
        x: Tensor,
        patches: Tensor,
        picture: Picture<'_, GpuVector>,
        weight: &GpuMatrix,
        cls: &GpuVector,
        positions: &GpuVector,
        batch: usize,
        grid: PatchGrid,
    ) -> Result<()> {
        let (x, patches, tokens, width) = (m.at(x), m.at(patches), grid.tokens(), weight.rows);
        let stride = weight.cols;
        match picture {
            Picture::Pixels(pixels) => {
                self.run(patch_embed::Patches { patches, pixels: m.at(pixels), stride, grid, batch })?;
            }
            Picture::Bytes { bytes, table } => {
                let (picture, table) = (m.index_at(bytes), table.values.address());
                self.run(patch_embed::PatchesU8 { patches, picture, table, stride, grid, batch })?;
            }
        }
        self.run(gemm::Forward {
            y: x,
            u: 0,
            x: patches,
            w: weight.values.address(),
            bias: 0,
            residual: 0,
            residual_stride: 0,
            activation: gemm::NO_ACTIVATION,
            m: batch * tokens,
            n: width,
            k: weight.cols,
        })?;
        let (cls, positions) = (cls.values.address(), positions.values.address());
        self.run(patch_embed::Positions { x, cls, positions, batch, tokens, width })
    }

    fn patch_embed_reverse(
        &self,
        m: &mut GpuMemory,
        dpixels: Tensor,
        dpatches: Tensor,
        dx: Tensor,
        weight: &GpuMatrix,
        g: usize,
        grid: PatchGrid,
    ) -> Result<()> {
        let dpatches = m.at(dpatches);
        self.run(gemm::Reverse {
            dx: dpatches,
            dy: m.at(dx),
            w: weight.values.address(),
            u: 0,
            rows: 1,
            activation: gemm::NO_ACTIVATION,
            m: g * grid.tokens(),
            n: weight.cols,
            k: weight.rows,
        })?;
        self.run(patch_embed::Reverse { dpixels: m.at(dpixels), dpatches, stride: weight.cols, grid, g })
    }

    fn layer_norm(
        &self,
        m: &mut GpuMemory,
        y: Tensor,
        stats: Tensor,
        x: Rows,
        norm: &Norm<GpuVector>,
        n: usize,
    ) -> Result<()> {
        self.run(layer_norm::Forward {
            y: m.at(y),
            stats: m.at(stats),
            x: m.at(x.tensor),
            stride: x.stride,
            gain: norm.gain.values.address(),
            bias: norm.bias.values.address(),
            eps: norm.eps as f32,
            n,
            width: norm.gain.len,
        })
    }

    fn layer_norm_reverse(
        &self,
        m: &mut GpuMemory,
        dx: Tensor,
        dy: Tensor,
        x: Rows,
        stats: Tensor,
        norm: &Norm<GpuVector>,
        n: usize,
        g: usize,
        accumulate: bool,
    ) -> Result<()> {
        self.run(layer_norm::Reverse {
            dx: m.at(dx),
            dy: m.at(dy),
            x: m.at(x.tensor),
            stride: x.stride,
            stats: m.at(stats),
            gain: norm.gain.values.address(),
            n,
            g,
            width: norm.gain.len,
            accumulate,
        })
    }

    fn linear(
        &self,
        m: &mut GpuMemory,
        y: Tensor,
        x: Tensor,
        layer: &Linear<GpuMatrix, GpuVector>,
        epilogue: Epilogue,
        n: usize,
    ) -> Result<()> {
        let (residual, residual_stride) = match epilogue {
            Epilogue::Residual(rows) => (m.at(rows.tensor), rows.stride),
            _ => (0, 0),
        };
        let (activation, u) = match epilogue {
            Epilogue::Activation(kind, u) => (gemm::activation_number(kind), u.map_or(0, |u| m.at(u))),
            _ => (gemm::NO_ACTIVATION, 0),
        };
        self.run(gemm::Forward {
            y: m.at(y),
            u,
            x: m.at(x),
            w: layer.weight.values.address(),
            bias: layer.bias.as_ref().map_or(0, |bias| bias.values.address()),
            residual,
            residual_stride,
            activation,
            m: n,
            n: layer.weight.rows,
            k: layer.weight.cols,
        })
    }

    fn linear_reverse(
        &self,
        m: &mut GpuMemory,
        dx: Tensor,
        dy: Tensor,
        layer: &Linear<GpuMatrix, GpuVector>,
        epilogue: EpilogueReverse,
        g: usize,
    ) -> Result<()> {
        let (activation, u, rows) = match epilogue {
            EpilogueReverse::None => (gemm::NO_ACTIVATION, 0, 1),
            EpilogueReverse::Activation(kind, u, rows) => (gemm::activation_number(kind), m.at(u), rows),
        };
        self.run(gemm::Reverse {
            dx: m.at(dx),
            dy: m.at(dy),
            w: layer.weight.values.address(),
            u,
            rows,
            activation,
            m: g,
            n: layer.weight.cols,
            k: layer.weight.rows,
        })
    }

    fn attention(&self, m: &mut GpuMemory, o: Tensor, lse: Tensor, qkv: Tensor, shape: AttentionShape) -> Result<()> {
        self.run(attention::Forward { o: m.at(o), lse: m.at(lse), qkv: m.at(qkv), shape })
    }

    fn attention_reverse(
        &self,
        m: &mut GpuMemory,
        dqkv: Option<Tensor>,
        relevance: Option<Relevance>,
        d_o: Tensor,
        qkv: Tensor,
        lse: Tensor,
        shape: AttentionShape,
        g: usize,
    ) -> Result<()> {
        self.run(attention::Reverse {
            dqkv: dqkv.map_or(0, |dqkv| m.at(dqkv)),
            relevance: relevance.map(|relevance| m.relevance(relevance)),
            d_o: m.at(d_o),
            qkv: m.at(qkv),
            lse: m.at(lse),
            scratch: self.attention_scratch(shape, g)?,
            shape,
            g,
        })
    }

    fn attention_row(
        &self,
        m: &mut GpuMemory,
        relevance: Relevance,
        qkv: Tensor,
        lse: Tensor,
        shape: AttentionShape,
    ) -> Result<()> {
        self.run(attention::Row {
            relevance: m.relevance(relevance),
            qkv: m.at(qkv),
            lse: m.at(lse),
            scratch: self.attention_scratch(shape, shape.batch)?,
            shape,
        })
    }

    fn attention_positive_gradient(
        &self,
        m: &mut GpuMemory,
        map: Tensor,
        d_o: Tensor,
        qkv: Tensor,
        shape: AttentionShape,
        g: usize,
    ) -> Result<()> {
        let scratch = self.attention_scratch(shape, g)?;
        self.run(attention::PositiveGradient { map: m.at(map), d_o: m.at(d_o), qkv: m.at(qkv), scratch, shape, g })
    }

    fn grad_eclip(
        &self,
        m: &mut GpuMemory,
        map: Tensor,
        d_o: Tensor,
        qkv: Tensor,
        shape: AttentionShape,
        g: usize,
    ) -> Result<()> {
        self.run(heatmap::GradEclip {
            map: m.at(map),
            d_o: m.at(d_o),
            qkv: m.at(qkv),
            batch: shape.batch,
            tokens: shape.tokens,
            queries: shape.queries,
            width: shape.width(),
            g,
        })
    }

    fn grad_cam(
        &self,
        m: &mut GpuMemory,
        map: Tensor,
        dx: Tensor,
        x: Tensor,
        batch: usize,
        tokens: usize,
        width: usize,
        g: usize,
    ) -> Result<()> {
        self.run(heatmap::GradCam { map: m.at(map), dx: m.at(dx), x: m.at(x), batch, tokens, width, g })
    }

    fn mean_tokens(
        &self,
        m: &mut GpuMemory,
        y: Tensor,
        x: Tensor,
        batch: usize,
        tokens: usize,
        width: usize,
    ) -> Result<()> {
        self.run(head::MeanTokens { y: m.at(y), x: m.at(x), batch, tokens, width })
    }

    fn mean_tokens_reverse(
        &self,
        m: &mut GpuMemory,
        dx: Tensor,
        dy: Tensor,
        g: usize,
        tokens: usize,
        width: usize,
    ) -> Result<()> {
        self.run(head::MeanTokensReverse { dx: m.at(dx), dy: m.at(dy), g, tokens, width })
    }

    fn cosine(
        &self,
        m: &mut GpuMemory,
        cos: Tensor,
        embed: Tensor,
        texts: &GpuVector,
        batch: usize,
        queries: usize,
        width: usize,
    ) -> Result<()> {
        let texts = texts.values.address();
        self.run(head::Cosine { cos: m.at(cos), embed: m.at(embed), texts, batch, queries, width })
    }

    fn score_reverse(
        &self,
        m: &mut GpuMemory,
        dembed: Tensor,
        embed: Tensor,
        cos: Tensor,
        texts: &GpuVector,
        kind: ScoreKind,
        logit_scale: f64,
        first: usize,
        batch: usize,
        queries: usize,
        width: usize,
        g: usize,
    ) -> Result<()> {
        self.run(head::ScoreReverse {
            dembed: m.at(dembed),
            embed: m.at(embed),
            cos: m.at(cos),
            texts: texts.values.address(),
            kind,
            scale: logit_scale as f32,
            first,
            batch,
            queries,
            width,
            g,
        })
    }

    fn fill(&self, m: &mut GpuMemory, x: Tensor, value: f64) -> Result<()> {
        let (n, storage) = m.stored(x);
        self.run(rows::Fill { x: m.at(x), value: value as f32, n, is_wide: storage == Storage::F32 })
    }

    fn gather_rows(&self, m: &mut GpuMemory, y: Tensor, x: Tensor, rows: &[usize], width: usize) -> Result<()> {
        let list: Vec<u32> = rows.iter().map(|&row| row as u32).collect();
        let rows = self.0.constant(bytemuck::cast_slice(&list))?;
        self.run(rows::Gather { y: m.at(y), x: m.at(x), rows, n: list.len(), width })
    }

    fn add_rows(&self, m: &mut GpuMemory, y: Tensor, stride: usize, x: Tensor, n: usize, width: usize) -> Result<()> {
        self.run(rows::Add { y: m.at(y), stride, x: m.at(x), n, width })
    }

    fn sae_slots(&self, sae: &GpuSae, edits: &[Edit]) -> usize {
        sae.sae.rule.slots(edits)
    }

    fn sae_encode(
        &self,
        m: &mut GpuMemory,
        code: backend::Code,
        pre: Tensor,
        x: Tensor,
        sae: &GpuSae,
        edits: &[Edit],
        mask: &[bool],
        n: usize,
    ) -> Result<()> {
        let block = EditBlock::new(edits);
        let edits = Edits {
            block: if block.words.is_empty() { 0 } else { self.0.constant(bytemuck::cast_slice(&block.words))? },
            edits: block.edits,
            forced: block.forced,
        };
        self.run(sae_encode::Forward {
            code: m.code(code),
            pre: m.at(pre),
            pre_rows: m.rows(pre),
            x: m.at(x),
            sae: sae.sae,
            edits,
            mask: self.mask(mask)?,
            n,
        })
    }

    fn sae_splice(
        &self,
        m: &mut GpuMemory,
        y: Tensor,
        x: Tensor,
        code: backend::Code,
        sae: &GpuSae,
        splice: Splice,
        mask: &[bool],
        n: usize,
    ) -> Result<()> {
        let (code, mask) = (m.code(code), self.mask(mask)?);
        self.run(sae_decode::Forward { y: m.at(y), x: m.at(x), code, sae: sae.sae, splice, mask, n })
    }

    fn sae_splice_reverse(
        &self,
        m: &mut GpuMemory,
        dx: Tensor,
        dz: Tensor,
        dy: Tensor,
        x: Tensor,
        code: backend::Code,
        sae: &GpuSae,
        splice: Splice,
        through: Through,
        mask: &[bool],
        n: usize,
        g: usize,
    ) -> Result<()> {
        self.run(sae_decode::Reverse {
            dx: m.at(dx),
            dz: m.at(dz),
            dy: m.at(dy),
            x: m.at(x),
            code: m.code(code),
            sae: sae.sae,
            splice,
            through,
            mask: self.mask(mask)?,
            n,
            g,
        })
    }

    fn sae_latent(
        &self,
        m: &mut GpuMemory,
        score: Tensor,
        code: backend::Code,
        id: usize,
        batch: usize,
        tokens: usize,
    ) -> Result<()> {
        self.run(sae_decode::Latent { score: m.at(score), code: m.code(code), id, batch, tokens })
    }

    fn sae_latent_reverse(
        &self,
        m: &mut GpuMemory,
        dx: Tensor,
        x: Tensor,
        code: backend::Code,
        sae: &GpuSae,
        id: usize,
        n: usize,
    ) -> Result<()> {
        self.run(sae_decode::LatentReverse { dx: m.at(dx), x: m.at(x), code: m.code(code), sae: sae.sae, id, n })
    }
}
