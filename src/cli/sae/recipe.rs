//! From arguments to recipes: one for each layer and size.

use std::collections::BTreeSet;

use clap::{Args, ValueEnum};
use vitscope::{
    Error, Result,
    model::resolve_layer,
    sae_train::{Algorithm, Center, Recipe, SaeSpec, default_k_aux, default_learning_rate},
};

use crate::cli::args::name_of;

/// Latents per dimension where nothing is said.
const EXPANSION: f64 = 8.0;

/// How the SAEs are trained.
#[derive(Args)]
#[command(next_help_heading = "Training")]
pub struct RecipeArgs {
    /// Activation and penalty
    #[arg(long, value_enum, default_value = "topk")]
    algorithm: Name,
    /// Latents per dimension of the stream; several make several SAEs per layer [default: 8]
    #[arg(long, value_name = "X", value_delimiter = ',', conflicts_with = "latents")]
    expansion: Vec<f64>,
    /// The same as a number of latents
    #[arg(long, value_name = "N", value_delimiter = ',')]
    latents: Vec<usize>,
    /// Latents kept of a token (topk), or of a token on average (batchtopk) [default: 32]
    #[arg(long)]
    k: Option<usize>,
    /// Coefficient of the auxiliary loss for dead latents (topk, batchtopk); 0 turns it off [default: 1/32]
    #[arg(long)]
    aux: Option<f64>,
    /// Coefficient of the L1 penalty (relu) [default: 0.1 / sqrt(width)]
    #[arg(long)]
    l1: Option<f64>,
    /// Coefficient of the L0 penalty (jumprelu) [default: 1]
    #[arg(long)]
    l0: Option<f64>,
    /// Active latents per token that the L0 penalty aims at (jumprelu); 0: it grows with their number, which needs --l0
    /// [default: 32]
    #[arg(long, value_name = "L0")]
    target_l0: Option<f64>,
    /// Width of the kernel of the straight-through gradients, in scaled units (jumprelu) [default: 0.3]
    #[arg(long)]
    bandwidth: Option<f64>,
    /// Where thresholds start, in scaled units (jumprelu) [default: the bandwidth]
    #[arg(long, value_name = "THETA")]
    threshold_init: Option<f64>,
    /// Steps from one resampling of dead latents to the next (relu, jumprelu); 0 is never [default: 0]
    #[arg(long, value_name = "STEPS")]
    resample_every: Option<usize>,
    /// Tokens without firing after which a latent counts as dead [default: a twentieth of all tokens, but at least ten
    /// steps]
    #[arg(long, value_name = "TOKENS")]
    dead_after: Option<usize>,
    /// Steps of the whole training [default: 5000]
    #[arg(long, conflicts_with = "tokens_total")]
    steps: Option<usize>,
    /// The same as a number of tokens
    #[arg(long, value_name = "TOKENS")]
    tokens_total: Option<usize>,
    /// Tokens of a step
    #[arg(long, default_value_t = 4096, value_name = "TOKENS")]
    pub train_batch: usize,
    /// The largest learning rate [default: 0.001 sqrt(2048 / latents)]
    #[arg(long, value_name = "RATE")]
    lr: Option<f64>,
    /// Steps over which the learning rate grows from 0 (and with it the L1 coefficient) [default: a twentieth of all,
    /// at most 1000]
    #[arg(long, value_name = "STEPS")]
    warm_up: Option<usize>,
    /// Share of the steps, at the end, over which the learning rate falls to 0
    #[arg(long, default_value_t = 0.2, value_name = "SHARE")]
    decay: f64,
    /// Where the decoder bias starts
    #[arg(long, value_enum, default_value = "geometric-median")]
    center: CenterName,
}

/// Names of [`Algorithm`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Name {
    /// ReLU with an L1 penalty.
    Relu,
    /// The k largest of each token, with an auxiliary loss for dead latents.
    Topk,
    /// The k largest per token over a whole batch; one threshold afterwards.
    Batchtopk,
    /// A learned threshold per latent, with an L0 penalty.
    Jumprelu,
}

/// Names of [`Center`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum CenterName {
    /// The mean of a sample.
    Mean,
    /// The geometric median of a sample.
    GeometricMedian,
}

impl RecipeArgs {
    /// Refuses options that have no part in the algorithm.
    ///
    /// # Errors
    /// [`Error::Usage`] naming both.
    pub fn check(&self) -> Result<()> {
        let (top, thresholds, resampled) =
            ([Name::Topk, Name::Batchtopk], [Name::Jumprelu], [Name::Relu, Name::Jumprelu]);
        let options: [(&str, bool, &[Name]); 8] = [
            ("--k", self.k.is_some(), &top),
            ("--aux", self.aux.is_some(), &top),
            ("--l1", self.l1.is_some(), &[Name::Relu]),
            ("--l0", self.l0.is_some(), &thresholds),
            ("--target-l0", self.target_l0.is_some(), &thresholds),
            ("--bandwidth", self.bandwidth.is_some(), &thresholds),
            ("--threshold-init", self.threshold_init.is_some(), &thresholds),
            ("--resample-every", self.resample_every.is_some(), &resampled),
        ];
        for (option, given, owners) in options {
            if given && !owners.contains(&self.algorithm) {
                let owners: Vec<String> = owners.iter().map(|&owner| name_of(owner)).collect();
                let (owners, algorithm) = (owners.join(" and "), name_of(self.algorithm));
                return Err(Error::usage(format!("{option} belongs to --algorithm {owners}, not to {algorithm}")));
            }
        }
        if self.target_l0 == Some(0.0) && self.l0.is_none() {
            return Err(Error::usage("--target-l0 0 leaves the penalty to --l0, which is not given"));
        }
        let (steps, batch) = (self.steps(), self.train_batch);
        if steps == 0 || batch == 0 {
            return Err(Error::usage(format!(
                "nothing to train: {steps} steps (--steps) of {batch} tokens (--train-batch)"
            )));
        }
        match self.warm_up {
            Some(warm_up) if warm_up > steps => {
                Err(Error::usage(format!("--warm-up {warm_up} is longer than the training: --steps {steps}")))
            }
            _ => Ok(()),
        }
    }

    fn steps(&self) -> usize {
        match (self.steps, self.tokens_total) {
            (Some(steps), _) => steps,
            (None, Some(tokens)) => tokens.div_ceil(self.train_batch.max(1)),
            (None, None) => 5000,
        }
    }

    /// The blocks that are meant, each once, in order.
    ///
    /// # Errors
    /// [`Error::Usage`] for one that is not there or comes twice.
    pub fn layers(&self, asked: &[isize], blocks: usize) -> Result<Vec<usize>> {
        let mut layers = BTreeSet::new();
        for &layer in asked {
            if !layers.insert(resolve_layer(layer, blocks, "--layer")?) {
                return Err(Error::usage(format!("--layer {layer} is given twice")));
            }
        }
        Ok(layers.into_iter().collect())
    }

    /// An SAE for each of `layers` and each size, on a stream of width `d`.
    ///
    /// # Errors
    /// [`Error::Usage`] for a number that cannot be.
    pub fn saes(&self, layers: &[usize], d: usize, seed: u64) -> Result<Vec<SaeSpec>> {
        let expansions = if self.expansion.is_empty() { &[EXPANSION][..] } else { &self.expansion };
        let sizes: Vec<(String, usize)> = if self.latents.is_empty() {
            expansions.iter().map(|x| (format!("x{x}"), (x * d as f64).round() as usize)).collect()
        } else {
            self.latents.iter().map(|n| (n.to_string(), *n)).collect()
        };
        let mut saes = Vec::new();
        for (layer, block) in layers.iter().enumerate() {
            for (size, latents) in &sizes {
                let name = format!("layer{block}-{size}");
                if saes.iter().any(|sae: &SaeSpec| sae.name == name) {
                    return Err(Error::usage(format!("the size {size} is given twice")));
                }
                let recipe = self.recipe(*latents, d, seed);
                if let Some(k) = self.k.filter(|k| k > latents) {
                    return Err(Error::usage(format!("--k {k} is more than the {latents} latents of {name}")));
                }
                recipe.validate(d)?;
                saes.push(SaeSpec { name, layer, recipe });
            }
        }
        Ok(saes)
    }

    fn recipe(&self, latents: usize, d: usize, seed: u64) -> Recipe {
        let (steps, batch) = (self.steps(), self.train_batch);
        let warm_up = self.warm_up.unwrap_or((steps / 20).min(1000));
        let (k, aux, k_aux) = (self.k.unwrap_or(32.min(latents)), self.aux.unwrap_or(1.0 / 32.0), default_k_aux(d));
        let resample_every = self.resample_every.unwrap_or(0);
        let bandwidth = self.bandwidth.unwrap_or(0.3);
        let algorithm = match self.algorithm {
            Name::Relu => Algorithm::Relu { l1: self.l1.unwrap_or(0.1 / (d as f64).sqrt()), warm_up, resample_every },
            Name::Topk => Algorithm::TopK { k, aux, k_aux },
            Name::Batchtopk => Algorithm::BatchTopK { k, aux, k_aux },
            Name::Jumprelu => Algorithm::JumpRelu {
                l0: self.l0.unwrap_or(1.0),
                target: Some(self.target_l0.unwrap_or(32.0)).filter(|target| *target != 0.0),
                bandwidth,
                threshold_init: self.threshold_init.unwrap_or(bandwidth),
                resample_every,
            },
        };
        Recipe {
            latents,
            algorithm,
            steps,
            batch,
            learning_rate: self.lr.unwrap_or(default_learning_rate(latents)),
            warm_up,
            decay: self.decay,
            center: match self.center {
                CenterName::Mean => Center::Mean,
                CenterName::GeometricMedian => Center::GeometricMedian,
            },
            dead_after: self.dead_after.unwrap_or((steps.saturating_mul(batch) / 20).max(10 * batch)),
            seed,
        }
    }
}
