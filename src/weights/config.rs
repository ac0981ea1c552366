//! The canonical configuration of a CLIP pair: every size that any other room needs, already checked.

use crate::error::{Error, Result};
use std::path::Path;

/// The non-linearity between the two linear layers of an MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(1.702 x)`: OpenAI's checkpoints, MetaCLIP, DFN.
    QuickGelu,
    /// `x * Phi(x)` with the error function: LAION's and DataComp's checkpoints.
    Gelu,
    /// The tanh approximation of [`Activation::Gelu`].
    GeluTanh,
}

impl Activation {
    /// The name in results and messages.
    pub fn name(self) -> &'static str {
        match self {
            Activation::QuickGelu => "quick_gelu",
            Activation::Gelu => "gelu",
            Activation::GeluTanh => "gelu_tanh",
        }
    }
}

/// Which token's final state stands for the whole text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The first position of the largest id (OpenAI, open_clip, Hugging Face configs with `eos_token_id` 2).
    ArgMax,
    /// The first position that holds this id (newer Hugging Face configs); position 0 when no position does.
    FirstEos(u32),
}

/// One transformer tower of pre-LN blocks.
#[derive(Clone, Debug, PartialEq)]
pub struct Tower {
    /// Width of the residual stream, `D`.
    pub width: usize,
    /// Number of blocks, `L`.
    pub layers: usize,
    /// Number of attention heads, `H`; it divides the width.
    pub heads: usize,
    /// Width between the two layers of an MLP, `F`.
    pub mlp_width: usize,
    /// The MLP's non-linearity.
    pub activation: Activation,
    /// Added to the variance in every LayerNorm.
    pub eps: f64,
}

impl Tower {
    /// Size of one head, `Dh`.
    pub fn head_size(&self) -> usize {
        self.width / self.heads.max(1)
    }
}

/// The image tower. Its input has 3 channels.
#[derive(Clone, Debug, PartialEq)]
pub struct VisionConfig {
    /// The blocks.
    pub tower: Tower,
    /// Side of the square input, in pixels.
    pub image_size: usize,
    /// Side of a square patch, in pixels.
    pub patch: usize,
}

impl VisionConfig {
    /// Patches along one side; pixels beyond the last whole patch are not seen, as in Hugging Face's code.
    pub fn grid(&self) -> usize {
        self.image_size / self.patch.max(1)
    }

    /// Tokens at the configured size: the patches and the class token, which comes first.
    pub fn tokens(&self) -> usize {
        self.grid() * self.grid() + 1
    }
}

/// The text tower.
#[derive(Clone, Debug, PartialEq)]
pub struct TextConfig {
    /// The blocks; their attention is causal.
    pub tower: Tower,
    /// Number of token ids.
    pub vocab: usize,
    /// Largest number of tokens in a text.
    pub context: usize,
    /// Which token is read out.
    pub pooling: Pooling,
}

/// A CLIP pair.
#[derive(Clone, Debug, PartialEq)]
pub struct ClipConfig {
    /// The image tower.
    pub vision: VisionConfig,
    /// The text tower.
    pub text: TextConfig,
    /// Width of the joint embedding, `E`.
    pub embed: usize,
}

impl ClipConfig {
    /// Refuses sizes that are zero, that do not divide, or that no model has. `path` names the configuration's file.
    ///
    /// # Errors
    /// [`Error::File`] naming the value.
    pub fn validate(&self, path: &Path) -> Result<()> {
        let limits = [
            ("vision patch size", self.vision.patch, 1 << 12),
            ("vision image size", self.vision.image_size, 1 << 14),
            ("vocabulary", self.text.vocab, 1 << 24),
            ("context length", self.text.context, 1 << 16),
            ("projection width", self.embed, 1 << 16),
        ];
        for (what, value, most) in limits {
            in_range(path, what, value, most)?;
        }
        if self.vision.patch > self.vision.image_size {
            return Err(Error::file(
                path,
                format!("patch size {} is larger than image size {}", self.vision.patch, self.vision.image_size),
            ));
        }
        // Positions are a table of (tokens, width): the grid bounds what a configuration can ask for.
        in_range(path, "patches along one side", self.vision.grid(), 1 << 10)?;
        for (side, tower) in [("vision", &self.vision.tower), ("text", &self.text.tower)] {
            in_range(path, &format!("{side} width"), tower.width, 1 << 16)?;
            in_range(path, &format!("{side} layers"), tower.layers, 1 << 10)?;
            in_range(path, &format!("{side} heads"), tower.heads, 1 << 12)?;
            in_range(path, &format!("{side} MLP width"), tower.mlp_width, 1 << 18)?;
            if tower.width % tower.heads != 0 {
                let reason = format!("{side} width {} is not a multiple of its {} heads", tower.width, tower.heads);
                return Err(Error::file(path, reason));
            }
            if !(tower.eps.is_finite() && tower.eps > 0.0 && tower.eps < 1.0) {
                return Err(Error::file(path, format!("{side} layer_norm_eps {} is not between 0 and 1", tower.eps)));
            }
        }
        Ok(())
    }
}

fn in_range(path: &Path, what: &str, value: usize, most: usize) -> Result<()> {
    if value == 0 || value > most {
        return Err(Error::file(path, format!("{what} is {value}, which is not in 1..={most}")));
    }
    Ok(())
}
