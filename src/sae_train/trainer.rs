//! One SAE in training.

use rayon::prelude::*;

use super::{
    Algorithm, Recipe, StepReport, parameters::Parameters, pass::Pass, resample::resample, start::start,
    update::Gradients, vector::Adam,
};
use crate::{
    Error, Result,
    weights::{InputNorm, SaeActivation, SaeWeights},
};

/// How slowly the threshold of BatchTopK follows the batches.
const THRESHOLD_MEMORY: f64 = 0.999;

/// One SAE in training. The same activations give the same bits, for any number of threads.
pub struct Trainer {
    pub(super) recipe: Recipe,
    /// Steps that were done.
    pub(super) step: i64,
    /// What activations are divided by.
    pub(super) scale: f32,
    pub(super) parameters: Parameters<f32>,
    /// Adam's first and second moments.
    pub(super) moments: [Parameters<f32>; 2],
    /// (S): tokens since the latent last fired.
    pub(super) silent: Vec<i64>,
    /// Of BatchTopK, after its first step, scaled.
    pub(super) threshold: Option<f64>,
}

impl Trainer {
    /// Starts a training on a stream of width `width`: the scale and the decoder bias come from `sample` (n,D).
    ///
    /// # Errors
    /// [`Error::Usage`] for a recipe that cannot be, or a sample that is empty, constant or not finite.
    pub fn new(recipe: &Recipe, width: usize, sample: &[f32]) -> Result<Trainer> {
        recipe.validate(width)?;
        let (scale, parameters) = start(recipe, width, sample)?;
        Ok(Trainer {
            recipe: recipe.clone(),
            step: 0,
            scale,
            moments: [parameters.zeros(), parameters.zeros()],
            parameters,
            silent: vec![0; recipe.latents],
            threshold: None,
        })
    }

    /// One step on `x` (batch,D), in the stream's own units.
    ///
    /// # Errors
    /// [`Error::Usage`] if `x` has another size, training is over, or the loss is not finite; then nothing has changed.
    pub fn step(&mut self, x: &[f32]) -> Result<StepReport> {
        let (d, step) = (self.parameters.width, self.steps_done());
        if x.len() != self.recipe.batch * d {
            let expected = format!("{} tokens of width {d}", self.recipe.batch);
            return Err(Error::usage(format!("SAE training: a batch of {} values, expected {expected}", x.len())));
        }
        if step >= self.recipe.steps {
            return Err(Error::usage(format!("SAE training: all {step} steps are done")));
        }
        let mut centred = vec![0.0; x.len()];
        centred.par_chunks_mut(d).zip(x.par_chunks(d)).for_each(|(c, x)| {
            for ((c, x), bias) in c.iter_mut().zip(x).zip(&self.parameters.decoder_bias) {
                *c = x / self.scale - bias;
            }
        });
        let pass = Pass::new(&self.recipe.algorithm, step, &self.parameters, &centred, &self.dead());
        let learning_rate = self.recipe.learning_rate(step);
        if !pass.loss().is_finite() {
            let reason = "the activations are not finite, or the learning rate is too high";
            return Err(Error::usage(format!("SAE training: the loss of step {step} is {}: {reason}", pass.loss())));
        }
        let adam = Adam::new(learning_rate, step);
        let scalars = Gradients::new(&pass, &centred).step(adam, &mut self.parameters, &mut self.moments);
        for (silent, scalars) in self.silent.iter_mut().zip(scalars) {
            *silent = if scalars.fired > 0 { 0 } else { silent.saturating_add(self.recipe.batch as i64) };
        }
        if let (Algorithm::BatchTopK { .. }, Some(smallest)) = (&self.recipe.algorithm, pass.smallest) {
            let smallest = f64::from(smallest);
            let threshold = self.threshold.unwrap_or(smallest);
            self.threshold = Some(THRESHOLD_MEMORY * threshold + (1.0 - THRESHOLD_MEMORY) * smallest);
        }
        self.step += 1;
        let dead = self.dead();
        self.resample(&dead, &pass.main.error);
        Ok(StepReport {
            step,
            loss: pass.loss(),
            reconstruction: pass.reconstruction,
            sparsity: pass.sparsity,
            aux: pass.aux,
            l0: pass.l0,
            dead: dead.len(),
            fvu: pass.fvu,
            learning_rate,
        })
    }

    /// Latents that did not fire for `dead_after` tokens.
    fn dead(&self) -> Vec<u32> {
        let dead = |silent: i64| usize::try_from(silent).is_ok_and(|silent| silent >= self.recipe.dead_after);
        (0..).zip(&self.silent).filter(|(_, silent)| dead(**silent)).map(|(i, _)| i).collect()
    }

    /// Resamples dead latents if it is time.
    fn resample(&mut self, dead: &[u32], errors: &[f32]) {
        let (every, log_theta) = match self.recipe.algorithm {
            Algorithm::Relu { resample_every, .. } => (resample_every, 0.0),
            Algorithm::JumpRelu { resample_every, threshold_init, .. } => (resample_every, threshold_init.ln() as f32),
            Algorithm::TopK { .. } | Algorithm::BatchTopK { .. } => return,
        };
        let step = self.steps_done();
        if every > 0 && step.is_multiple_of(every) && !dead.is_empty() {
            let stream = (self.recipe.seed, step);
            resample(&mut self.parameters, &mut self.moments, dead, errors, log_theta, stream);
            dead.iter().for_each(|&i| self.silent[i as usize] = 0);
        }
    }

    /// The SAE as it stands, in the stream's own units: the scale is folded into biases and thresholds. The caller fills
    /// in the hook.
    pub fn weights(&self) -> SaeWeights {
        let own_units = |values: &[f32]| values.iter().map(|v| v * self.scale).collect::<Vec<f32>>();
        let decoder_bias = own_units(&self.parameters.decoder_bias);
        SaeWeights {
            width: self.parameters.width,
            latents: self.parameters.latents(),
            encoder: self.parameters.encoder.clone(),
            encoder_bias: own_units(&self.parameters.encoder_bias),
            decoder: self.parameters.decoder.clone(),
            input_bias: Some(decoder_bias.clone()),
            decoder_bias,
            activation: match self.recipe.algorithm {
                Algorithm::Relu { .. } => SaeActivation::Relu,
                Algorithm::TopK { k, .. } => SaeActivation::TopK { k, relu: true },
                Algorithm::BatchTopK { .. } => {
                    SaeActivation::Threshold { theta: (self.threshold.unwrap_or(0.0) * f64::from(self.scale)) as f32 }
                }
                Algorithm::JumpRelu { .. } => SaeActivation::JumpRelu { theta: own_units(&self.parameters.theta()) },
            },
            rescale_by_decoder_norm: false,
            norm: InputNorm::None,
            hook: None,
            format: "SAELens 6",
            notes: Vec::new(),
            path: Default::default(),
        }
    }

    /// Steps that were done.
    pub fn steps_done(&self) -> usize {
        self.step as usize
    }
}
