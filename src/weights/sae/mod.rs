//! Sparse autoencoders: one canonical form, whatever the file's family.
//!
//! With `u` the normalised input, `p` the input bias, `r` the decoder row norms (or 1):
//!
//! ```text
//! h = (encoder (u - p) + encoder_bias) * r       (S)
//! z = activation(h)                              (S)
//! y = norm^-1( decoder^T (z / r) + decoder_bias )(D)
//! ```

use std::path::PathBuf;

/// A sparse autoencoder with `S` latents over a residual stream of width `D`.
#[derive(Clone, Debug, PartialEq)]
pub struct SaeWeights {
    /// Width of the stream that it reads and writes, `D`.
    pub width: usize,
    /// Number of latents, `S`.
    pub latents: usize,
    /// (S, D): one latent per row. Gated SAEs share it between gate and magnitude.
    pub encoder: Vec<f32>,
    /// (S): zeros for a gated SAE, which has its own two biases.
    pub encoder_bias: Vec<f32>,
    /// (S, D): one latent's direction per row.
    pub decoder: Vec<f32>,
    /// (D).
    pub decoder_bias: Vec<f32>,
    /// (D): `p`, subtracted before encoding.
    pub input_bias: Option<Vec<f32>>,
    /// From pre-activations to activations.
    pub activation: SaeActivation,
    /// Whether pre-activations are multiplied, and activations divided, by the norm of their decoder row.
    pub rescale_by_decoder_norm: bool,
    /// What happens to the input before, and is undone after.
    pub norm: InputNorm,
    /// Where it was trained, if the file says so.
    pub hook: Option<Hook>,
    /// The family that the file belongs to.
    pub format: &'static str,
    /// What was assumed or left out while loading.
    pub notes: Vec<String>,
    /// Where it came from.
    pub path: PathBuf,
}

/// From pre-activations `h` (S) to activations `z` (S).
#[derive(Clone, Debug, PartialEq)]
pub enum SaeActivation {
    /// `max(h, 0)`.
    Relu,
    /// The `k` largest, ties to the lower index; the others are 0.
    TopK {
        /// How many are kept.
        k: usize,
        /// Whether kept negative values become 0.
        relu: bool,
    },
    /// The latents form `k` contiguous groups; of each the largest is kept, after ReLU.
    GroupMax {
        /// How many groups; it divides `S`.
        k: usize,
    },
    /// `h [h > theta]`: a BatchTopK SAE at inference. `theta >= 0`.
    Threshold {
        /// The one threshold.
        theta: f32,
    },
    /// `relu(h) [h > theta]`.
    JumpRelu {
        /// (S).
        theta: Vec<f32>,
    },
    /// With `a = encoder (u - p)`: `relu(exp(r_mag) * a + mag_bias) [a + gate_bias > 0]`.
    Gated {
        /// (S).
        gate_bias: Vec<f32>,
        /// (S).
        mag_bias: Vec<f32>,
        /// (S).
        r_mag: Vec<f32>,
    },
}

/// What happens to an input token `x` (D) before encoding; it is undone after decoding.
#[derive(Clone, Debug, PartialEq)]
pub enum InputNorm {
    /// Nothing.
    None,
    /// `(x - mean) / scale`.
    Fixed {
        /// (D), zeros if absent.
        mean: Option<Vec<f32>>,
        /// A positive number.
        scale: f32,
    },
    /// `(x - mean(x)) / (std(x) + eps)` with the unbiased standard deviation; undone by `std(x) y + mean(x)`.
    LayerNorm {
        /// Added to the standard deviation.
        eps: f64,
    },
    /// `x sqrt(D) / |x|`.
    UnitNorm,
}

/// Where an SAE was trained, as its file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// The 0-based block whose output it reads, if the name says a block's output.
    pub layer: Option<usize>,
    /// The name in the file.
    pub name: String,
    /// Which tokens it was trained on, if the file says so.
    pub tokens: Option<TokenScopeHint>,
}

/// Which tokens an SAE was trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenScopeHint {
    /// All tokens.
    All,
    /// The class token alone.
    Cls,
    /// The patches without the class token.
    Patches,
}
