//! Where things are computed: the operations a model is made of, forward and reverse side by side.
//!
//! A model is written once over [`Backend`]. Tensors are handles into one arena that a [`Plan`] cut
//! beforehand; see [`plan`]. Gradients are named after their tensor: the gradient of `x` is `dx`.
//!
//! Reverse operations may run for several targets at once: the gradient then has `G = targets * B` images,
//! target-major, over forward tensors of `B` images. Image `g` of the gradient belongs to image `g % B` of the forward.

pub mod cpu;
pub mod gpu;
pub mod memory;
pub mod plan;

pub use memory::{Arena, Fetch, FetchIndices, Fetched, Indices, Input, Memory, Rows, Started, Tensor};
pub use plan::{Plan, Recorder};

use crate::{
    Result,
    model::{Edit, Splice, Through},
    weights::{Activation, SaeWeights},
};

/// `y = x W^T + b`.
#[derive(Debug)]
pub struct Linear<M, V> {
    /// `W` (out, in).
    pub weight: M,
    /// `b` (out).
    pub bias: Option<V>,
}

/// LayerNorm's parameters.
#[derive(Debug)]
pub struct Norm<V> {
    /// Gain (D).
    pub gain: V,
    /// Bias (D).
    pub bias: V,
    /// Added to the variance.
    pub eps: f64,
}

/// What follows a linear layer in the same pass over its output.
#[derive(Debug, Clone, Copy)]
pub enum Epilogue {
    /// Nothing.
    None,
    /// `y = residual + x W^T + b`.
    Residual(Rows),
    /// `u = x W^T + b` is kept where a tensor is given for it, `y = act(u)`.
    Activation(Activation, Option<Tensor>),
}

/// What follows a linear layer's reverse.
#[derive(Debug, Clone, Copy)]
pub enum EpilogueReverse {
    /// Nothing.
    None,
    /// `du = dact * act'(u)`; `u` has this many rows, and gradient row `n` belongs to row `n % rows`.
    Activation(Activation, Tensor, usize),
}

/// Sizes of a self-attention.
#[derive(Debug, Clone, Copy)]
pub struct AttentionShape {
    /// `B`, images or texts of the forward.
    pub batch: usize,
    /// `T`, keys and values.
    pub tokens: usize,
    /// Query rows that are computed: `T`, or 1 for the CLS row alone.
    pub queries: usize,
    /// `H`.
    pub heads: usize,
    /// `Dh`.
    pub head_dim: usize,
    /// Whether token `t` sees tokens `0..=t` only.
    pub causal: bool,
}

impl AttentionShape {
    /// `D = H * Dh`.
    pub fn width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// The scale of the scores, `Dh^-1/2`.
    pub fn scale(&self) -> f64 {
        (self.head_dim as f64).powf(-0.5)
    }
}

/// A picture cut into square patches. Pixels past the last whole patch are not seen by the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PatchGrid {
    /// Patches from top to bottom.
    pub rows: usize,
    /// Patches from left to right.
    pub cols: usize,
    /// Side of a patch in pixels.
    pub patch: usize,
    /// Height of the picture in pixels, at least `rows * patch`.
    pub height: usize,
    /// Width of the picture in pixels, at least `cols * patch`.
    pub width: usize,
}

impl PatchGrid {
    /// The grid of a picture.
    pub fn of(height: usize, width: usize, patch: usize) -> Self {
        PatchGrid { rows: height / patch, cols: width / patch, patch, height, width }
    }

    /// `P`, the number of patches.
    pub fn patches(&self) -> usize {
        self.rows * self.cols
    }

    /// `T = P + 1`.
    pub fn tokens(&self) -> usize {
        self.patches() + 1
    }

    /// Height and width in pixels of what whole patches cover.
    pub fn covered(&self) -> (usize, usize) {
        (self.rows * self.patch, self.cols * self.patch)
    }
}

/// Where a relevance row enters and leaves: `r_out = keep * r_in + gain * r_in A`.
#[derive(Debug, Clone, Copy)]
pub struct Relevance {
    /// `r_out` (G,T).
    pub out: Tensor,
    /// `r_in` (G,T); entries past the computed query rows only pass through `keep`.
    pub input: Tensor,
    /// Share of `r_in` that is kept.
    pub keep: f64,
    /// Weight of the attention term.
    pub gain: f64,
}

/// The score that a reverse pass starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScoreKind {
    /// Cosine.
    Cosine,
    /// `exp(logit_scale) * cosine`.
    Logit,
    /// Softmax over all texts of the logits.
    Softmax,
}

/// The sparse code of `N` token rows: `C` slots a row, of which the first `count` are used.
///
/// A slot is a latent that the activation kept, or one that a set or add edit put there.
#[derive(Debug, Clone, Copy)]
pub struct Code {
    /// (N, C + 1): the count, then the latents' indices.
    pub index: Indices,
    /// `z` (N,C).
    pub z: Tensor,
    /// `z'` (N,C), after the edits.
    pub edited: Tensor,
    /// `dz/dh` (N,C): 0 where the latent does not fire.
    pub slope: Tensor,
    /// `dz'/dz` (N,C).
    pub edit_slope: Tensor,
    /// `C`.
    pub slots: usize,
}

/// What a patch embedding reads.
#[derive(Debug)]
pub enum Picture<'a, V> {
    /// Normalised pixels (B,3,R,R).
    Pixels(Tensor),
    /// The picture's bytes.
    Bytes {
        /// (B,R,R,3) bytes, four to an index; of the last index some may be left over.
        bytes: Indices,
        /// (3,256): the normalised value of each byte.
        table: &'a V,
    },
}

impl<V> Clone for Picture<'_, V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<V> Copy for Picture<'_, V> {}

/// A backend that computes, beside the recorders that only pretend to.
pub trait Device:
    Backend<Memory: Arena, Matrix: Send + Sync, Vector: Send + Sync, Sae: Send + Sync> + Send + Sync
{
    /// The arena of `plan`. With `watched`, every observed tensor is copied.
    ///
    /// # Errors
    /// When the device has no room for it.
    fn arena(&self, plan: Plan, watched: bool) -> Result<Self::Memory>;

    /// Runs a pass where the device likes it best.
    fn enter<R: Send>(&self, pass: impl FnOnce() -> R + Send) -> R;

    /// Bytes of one value of the storage type.
    fn storage_bytes(&self) -> usize;

    /// Bytes that a weight matrix (n,k) takes, with or without its reverse.
    fn matrix_bytes(&self, n: usize, k: usize, reverse: bool) -> usize;

    /// `S` and `D` of an SAE.
    fn sae_sizes(&self, sae: &Self::Sae) -> (usize, usize);

    /// Bytes that could still be allocated, where the device has memory of its own.
    ///
    /// # Errors
    /// When the device fails.
    fn free_bytes(&self) -> Result<Option<usize>> {
        Ok(None)
    }

    /// The kernels that ran so far, such as `gemm_forward=3`; a device without rungs has none.
    fn kernels_used(&self) -> Vec<String> {
        Vec::new()
    }
}

/// The operations. Outputs come first, inputs next, sizes last; shapes are those of row-major tensors.
pub trait Backend {
    /// The arena.
    type Memory: Memory;
    /// A weight matrix prepared for products.
    type Matrix;
    /// A vector or table of parameters.
    type Vector;
    /// A prepared SAE.
    type Sae;

    /// Values of the storage type that take the room of one value of a wide tensor.
    fn wide_units(&self) -> usize;

    /// Prepares a weight matrix (rows, cols) from row-major values.
    fn matrix(&self, rows: usize, cols: usize, values: Vec<f32>) -> Result<Self::Matrix>;

    /// Prepares the patch embedding's weight (rows, cols) as [`Backend::patch_embed`] takes it.
    fn patch_matrix(&self, rows: usize, cols: usize, values: Vec<f32>) -> Result<Self::Matrix> {
        self.matrix(rows, cols, values)
    }

    /// Length of a row of scratch that holds a patch of `values` pixels: more where the device likes even rows.
    fn patch_row(&self, values: usize) -> usize {
        values
    }

    /// Rows whose SAE pre-activations are held at a time.
    fn sae_rows(&self) -> usize {
        64
    }

    /// Prepares parameters.
    fn vector(&self, values: impl ExactSizeIterator<Item = f64>) -> Result<Self::Vector>;

    /// Prepares an SAE.
    fn sae(&self, weights: &SaeWeights) -> Result<Self::Sae>;

    /// `x` (B,T,D) = [cls; patches W^T] + positions.
    ///
    /// `patches` (B,T,[`patch_row`](Backend::patch_row)) is scratch. `positions` is (T,D).
    fn patch_embed(
        &self,
        m: &mut Self::Memory,
        x: Tensor,
        patches: Tensor,
        picture: Picture<'_, Self::Vector>,
        weight: &Self::Matrix,
        cls: &Self::Vector,
        positions: &Self::Vector,
        batch: usize,
        grid: PatchGrid,
    ) -> Result<()>;

    /// `dpixels` (G,3,R,R) from `dx` (G,T,D); `dpatches` (G,T,[`patch_row`](Backend::patch_row)) is scratch.
    fn patch_embed_reverse(
        &self,
        m: &mut Self::Memory,
        dpixels: Tensor,
        dpatches: Tensor,
        dx: Tensor,
        weight: &Self::Matrix,
        batch: usize,
        grid: PatchGrid,
    ) -> Result<()>;

    /// `y` (n,D) = LayerNorm(`x` (n,D)); `stats` (n,2) receives mean and 1/sqrt(var + eps).
    fn layer_norm(
        &self,
        m: &mut Self::Memory,
        y: Tensor,
        stats: Tensor,
        x: Rows,
        norm: &Norm<Self::Vector>,
        n: usize,
    ) -> Result<()>;

    /// `dx` (g,D) = LayerNorm's reverse of `dy` (g,D), added to what `dx` holds when `accumulate`.
    ///
    /// Gradient row `i` belongs to forward row `i % n` of `x` and `stats`.
    fn layer_norm_reverse(
        &self,
        m: &mut Self::Memory,
        dx: Tensor,
        dy: Tensor,
        x: Rows,
        stats: Tensor,
        norm: &Norm<Self::Vector>,
        n: usize,
        g: usize,
        accumulate: bool,
    ) -> Result<()>;

    /// `y` (n,out) = epilogue(`x` (n,in) W^T + b).
    fn linear(
        &self,
        m: &mut Self::Memory,
        y: Tensor,
        x: Tensor,
        layer: &Linear<Self::Matrix, Self::Vector>,
        epilogue: Epilogue,
        n: usize,
    ) -> Result<()>;

    /// `dx` (g,in) = epilogue(`dy` (g,out) W).
    fn linear_reverse(
        &self,
        m: &mut Self::Memory,
        dx: Tensor,
        dy: Tensor,
        layer: &Linear<Self::Matrix, Self::Vector>,
        epilogue: EpilogueReverse,
        g: usize,
    ) -> Result<()>;

    /// `o` (B,queries,D) = softmax(q k^T Dh^-1/2) v by head, from `qkv` (B,T,3D); `lse` (B,queries,H) = log-sum-exp of the scores.
    fn attention(&self, m: &mut Self::Memory, o: Tensor, lse: Tensor, qkv: Tensor, shape: AttentionShape)
    -> Result<()>;

    /// `dqkv` (G,T,3D) from `d_o` (G,queries,D), and the relevance row of Chefer et al. with
    /// `A = mean over heads of relu(P * dP)`. Either may be left out.
    fn attention_reverse(
        &self,
        m: &mut Self::Memory,
        dqkv: Option<Tensor>,
        relevance: Option<Relevance>,
        d_o: Tensor,
        qkv: Tensor,
        lse: Tensor,
        shape: AttentionShape,
        g: usize,
    ) -> Result<()>;

    /// The relevance row with `A = mean over heads of P`: attention rows and rollout.
    fn attention_row(
        &self,
        m: &mut Self::Memory,
        relevance: Relevance,
        qkv: Tensor,
        lse: Tensor,
        shape: AttentionShape,
    ) -> Result<()>;

    /// `map` (G,P) += mean over heads and query rows of relu(dP), CLS column dropped (LeGrad).
    fn attention_positive_gradient(
        &self,
        m: &mut Self::Memory,
        map: Tensor,
        d_o: Tensor,
        qkv: Tensor,
        shape: AttentionShape,
        g: usize,
    ) -> Result<()>;

    /// `map` (G,P) = relu(sum over query rows t of lambda^t_i <d_o_t, v_i>) with
    /// lambda^t = min-max over the patches of cos(q_t, k_i), all of the full width (Grad-ECLIP).
    fn grad_eclip(
        &self,
        m: &mut Self::Memory,
        map: Tensor,
        d_o: Tensor,
        qkv: Tensor,
        shape: AttentionShape,
        g: usize,
    ) -> Result<()>;

    /// `map` (G,P) = relu(<mean over patches of `dx`, x_i>) for `x` (B,T,D), `dx` (G,T,D) (Grad-CAM).
    fn grad_cam(
        &self,
        m: &mut Self::Memory,
        map: Tensor,
        dx: Tensor,
        x: Tensor,
        batch: usize,
        tokens: usize,
        width: usize,
        g: usize,
    ) -> Result<()>;

    /// `y` (B,D) = mean over all tokens of `x` (B,T,D).
    fn mean_tokens(
        &self,
        m: &mut Self::Memory,
        y: Tensor,
        x: Tensor,
        batch: usize,
        tokens: usize,
        width: usize,
    ) -> Result<()>;

    /// `dx` (G,T,D) = `dy` (G,D) / T in every token.
    fn mean_tokens_reverse(
        &self,
        m: &mut Self::Memory,
        dx: Tensor,
        dy: Tensor,
        g: usize,
        tokens: usize,
        width: usize,
    ) -> Result<()>;

    /// `cos` (B,Q) of `embed` (B,E) and `texts` (Q,E), whose rows have length 1.
    fn cosine(
        &self,
        m: &mut Self::Memory,
        cos: Tensor,
        embed: Tensor,
        texts: &Self::Vector,
        batch: usize,
        queries: usize,
        width: usize,
    ) -> Result<()>;

    /// `dembed` (G,E): for target `q = first + g / B`, the gradient of the score of text `q`.
    fn score_reverse(
        &self,
        m: &mut Self::Memory,
        dembed: Tensor,
        embed: Tensor,
        cos: Tensor,
        texts: &Self::Vector,
        kind: ScoreKind,
        logit_scale: f64,
        first: usize,
        batch: usize,
        queries: usize,
        width: usize,
        g: usize,
    ) -> Result<()>;

    /// Writes `value` everywhere in `x`.
    fn fill(&self, m: &mut Self::Memory, x: Tensor, value: f64) -> Result<()>;

    /// `y` (n,D) = the given rows of `x`.
    fn gather_rows(&self, m: &mut Self::Memory, y: Tensor, x: Tensor, rows: &[usize], width: usize) -> Result<()>;

    /// Row `i * stride` of `y` += row `i` of `x` (n,D), for all `i < n`.
    fn add_rows(&self, m: &mut Self::Memory, y: Tensor, stride: usize, x: Tensor, n: usize, width: usize)
    -> Result<()>;

    /// Slots a row needs for this SAE and these edits.
    fn sae_slots(&self, sae: &Self::Sae, edits: &[Edit]) -> usize;

    /// The code of `x` (N,D) before and after the edits. Rows out of `mask` (T) get no slot. `pre` is scratch (any rows, S).
    fn sae_encode(
        &self,
        m: &mut Self::Memory,
        code: Code,
        pre: Tensor,
        x: Tensor,
        sae: &Self::Sae,
        edits: &[Edit],
        mask: &[bool],
        n: usize,
    ) -> Result<()>;

    /// `y` (N,D) = `x` with the code put back as `splice` says. Rows out of `mask` are copied.
    fn sae_splice(
        &self,
        m: &mut Self::Memory,
        y: Tensor,
        x: Tensor,
        code: Code,
        sae: &Self::Sae,
        splice: Splice,
        mask: &[bool],
        n: usize,
    ) -> Result<()>;

    /// `dx` (g,D) of the splice's input from `dy` (g,D) of its output; `dz` (g,C) receives the gradient of `z'`.
    fn sae_splice_reverse(
        &self,
        m: &mut Self::Memory,
        dx: Tensor,
        dz: Tensor,
        dy: Tensor,
        x: Tensor,
        code: Code,
        sae: &Self::Sae,
        splice: Splice,
        through: Through,
        mask: &[bool],
        n: usize,
        g: usize,
    ) -> Result<()>;

    /// `score` (B) = the sum of latent `id` of the code over the tokens.
    fn sae_latent(
        &self,
        m: &mut Self::Memory,
        score: Tensor,
        code: Code,
        id: usize,
        batch: usize,
        tokens: usize,
    ) -> Result<()>;

    /// `dx` (N,D): the gradient of [`Backend::sae_latent`]'s score.
    fn sae_latent_reverse(
        &self,
        m: &mut Self::Memory,
        dx: Tensor,
        x: Tensor,
        code: Code,
        sae: &Self::Sae,
        id: usize,
        n: usize,
    ) -> Result<()>;
}
