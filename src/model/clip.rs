//! CLIP's two towers, prepared for a backend.

use crate::{
    Result,
    backend::{Backend, Linear, Norm},
    weights::{ClipCheckpoint, TextConfig, Tower, VisionConfig},
};

/// One pre-LN transformer block: `x += proj(attention(ln1 x)); x += fc2(act(fc1(ln2 x)))`.
#[derive(Debug)]
pub struct Block<M, V> {
    /// Before attention.
    pub ln1: Norm<V>,
    /// (3D,D): q, k and v stacked.
    pub qkv: Linear<M, V>,
    /// (D,D).
    pub proj: Linear<M, V>,
    /// Before the MLP.
    pub ln2: Norm<V>,
    /// (F,D).
    pub fc1: Linear<M, V>,
    /// (D,F).
    pub fc2: Linear<M, V>,
}

/// The image tower.
#[derive(Debug)]
pub struct Vision<M, V> {
    /// Its sizes.
    pub config: VisionConfig,
    /// (D, 3 p p).
    pub patch: M,
    /// (D).
    pub cls: V,
    /// The trained positions (1 + side * side, D).
    pub positions: Vec<f32>,
    /// After the embedding.
    pub ln_pre: Norm<V>,
    /// The transformer.
    pub blocks: Vec<Block<M, V>>,
    /// On the CLS token after the last block.
    pub ln_post: Norm<V>,
    /// (E,D).
    pub projection: Linear<M, V>,
    /// `E`.
    pub embed: usize,
    /// `exp(logit_scale)`.
    pub logit_scale: f64,
}

/// The text tower.
#[derive(Debug)]
pub struct Text<M, V> {
    /// Its sizes.
    pub config: TextConfig,
    /// (vocabulary, D).
    pub tokens: Vec<f32>,
    /// (context, D).
    pub positions: Vec<f32>,
    /// The transformer, causal.
    pub blocks: Vec<Block<M, V>>,
    /// On the token that stands for the text.
    pub ln_final: Norm<V>,
    /// (E,D).
    pub projection: Linear<M, V>,
    /// `E`.
    pub embed: usize,
}

/// Reads one tower's parameters under their canonical names.
struct Reader<'a, B> {
    backend: &'a B,
    checkpoint: &'a ClipCheckpoint,
}

impl<B: Backend> Reader<'_, B> {
    fn vector(&self, name: &str, len: usize) -> Result<B::Vector> {
        let values = self.checkpoint.read(name, &[len])?;
        self.backend.vector(values.into_iter().map(f64::from))
    }

    fn norm(&self, name: &str, width: usize, eps: f64) -> Result<Norm<B::Vector>> {
        Ok(Norm {
            gain: self.vector(&format!("{name}.weight"), width)?,
            bias: self.vector(&format!("{name}.bias"), width)?,
            eps,
        })
    }

    fn linear(&self, name: &str, rows: usize, cols: usize) -> Result<Linear<B::Matrix, B::Vector>> {
        let weight = self.checkpoint.read(&format!("{name}.weight"), &[rows, cols])?;
        Ok(Linear {
            weight: self.backend.matrix(rows, cols, weight)?,
            bias: Some(self.vector(&format!("{name}.bias"), rows)?),
        })
    }

    fn projection(&self, name: &str, rows: usize, cols: usize) -> Result<Linear<B::Matrix, B::Vector>> {
        let weight = self.checkpoint.read(name, &[rows, cols])?;
        Ok(Linear { weight: self.backend.matrix(rows, cols, weight)?, bias: None })
    }

    fn qkv(&self, name: &str, d: usize) -> Result<Linear<B::Matrix, B::Vector>> {
        let (mut weight, mut bias) = (Vec::with_capacity(3 * d * d), Vec::with_capacity(3 * d));
        for part in ["q_proj", "k_proj", "v_proj"] {
            weight.extend(self.checkpoint.read(&format!("{name}.{part}.weight"), &[d, d])?);
            bias.extend(self.checkpoint.read(&format!("{name}.{part}.bias"), &[d])?);
        }
        Ok(Linear {
            weight: self.backend.matrix(3 * d, d, weight)?,
            bias: Some(self.backend.vector(bias.into_iter().map(f64::from))?),
        })
    }

    fn blocks(&self, name: &str, tower: &Tower) -> Result<Vec<Block<B::Matrix, B::Vector>>> {
        let (d, f, eps) = (tower.width, tower.mlp_width, tower.eps);
        (0..tower.layers)
            .map(|l| {
                let name = format!("{name}.encoder.layers.{l}");
                Ok(Block {
                    ln1: self.norm(&format!("{name}.layer_norm1"), d, eps)?,
                    qkv: self.qkv(&format!("{name}.self_attn"), d)?,
                    proj: self.linear(&format!("{name}.self_attn.out_proj"), d, d)?,
                    ln2: self.norm(&format!("{name}.layer_norm2"), d, eps)?,
                    fc1: self.linear(&format!("{name}.mlp.fc1"), f, d)?,
                    fc2: self.linear(&format!("{name}.mlp.fc2"), d, f)?,
                })
            })
            .collect()
    }
}

impl<M, V> Vision<M, V> {
    /// Reads the image tower.
    ///
    /// # Errors
    /// Those of [`ClipCheckpoint::read`].
    pub fn load<B: Backend<Matrix = M, Vector = V>>(backend: &B, checkpoint: &ClipCheckpoint) -> Result<Self> {
        let read = Reader { backend, checkpoint };
        let config = checkpoint.config.vision.clone();
        let (d, eps, p) = (config.tower.width, config.tower.eps, config.patch);
        let patch = checkpoint.read("vision_model.embeddings.patch_embedding.weight", &[d, 3, p, p])?;
        Ok(Vision {
            patch: backend.patch_matrix(d, 3 * p * p, patch)?,
            cls: read.vector("vision_model.embeddings.class_embedding", d)?,
            positions: checkpoint.read("vision_model.embeddings.position_embedding.weight", &[config.tokens(), d])?,
            ln_pre: read.norm("vision_model.pre_layrnorm", d, eps)?,
            blocks: read.blocks("vision_model", &config.tower)?,
            ln_post: read.norm("vision_model.post_layernorm", d, eps)?,
            projection: read.projection("visual_projection.weight", checkpoint.config.embed, d)?,
            embed: checkpoint.config.embed,
            logit_scale: checkpoint.read("logit_scale", &[])?.first().map_or(1.0, |&v| f64::from(v).exp()),
            config,
        })
    }

    /// The block tower's sizes.
    pub fn tower(&self) -> &Tower {
        &self.config.tower
    }
}

impl<M, V> Text<M, V> {
    /// Reads the text tower.
    ///
    /// # Errors
    /// Those of [`ClipCheckpoint::read`].
    pub fn load<B: Backend<Matrix = M, Vector = V>>(backend: &B, checkpoint: &ClipCheckpoint) -> Result<Self> {
        let read = Reader { backend, checkpoint };
        let config = checkpoint.config.text.clone();
        let (d, eps) = (config.tower.width, config.tower.eps);
        Ok(Text {
            tokens: checkpoint.read("text_model.embeddings.token_embedding.weight", &[config.vocab, d])?,
            positions: checkpoint.read("text_model.embeddings.position_embedding.weight", &[config.context, d])?,
            blocks: read.blocks("text_model", &config.tower)?,
            ln_final: read.norm("text_model.final_layer_norm", d, eps)?,
            projection: read.projection("text_projection.weight", checkpoint.config.embed, d)?,
            embed: checkpoint.config.embed,
            config,
        })
    }
}
