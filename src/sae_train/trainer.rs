//! One SAE in training.

use std::path::Path;

use super::{Recipe, StepReport};
use crate::{
    Error, Result,
    weights::{Data, SaeWeights},
};

/// One SAE in training. The same activations give the same bits, for any number of threads.
pub struct Trainer {
    step: usize,
}

impl Trainer {
    /// Starts a training on a stream of width `width`: the scale and the decoder bias come from `sample` (n,D).
    ///
    /// # Errors
    /// [`Error::Usage`] for a recipe that cannot be, or a sample that is empty, constant or not finite.
    pub fn new(recipe: &Recipe, width: usize, _sample: &[f32]) -> Result<Trainer> {
        recipe.validate(width)?;
        Ok(Trainer { step: 0 })
    }

    /// One step on `x` (batch,D), in the stream's own units.
    ///
    /// # Errors
    /// [`Error::Usage`] if `x` has another size, training is over, or the loss is not finite; then nothing has changed.
    pub fn step(&mut self, _x: &[f32]) -> Result<StepReport> {
        Err(Error::usage("SAE training: under construction"))
    }

    /// All that a training needs to go on: name, shape and values of every tensor.
    pub fn state(&self) -> Vec<(&'static str, Vec<usize>, Data<'_>)> {
        Vec::new()
    }

    /// Writes the state and the recipe to one safetensors file.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, _file: &Path) -> Result<()> {
        Err(Error::usage("SAE training: under construction"))
    }

    /// Goes on from a file of [`Trainer::save`], bit by bit as if it had never stopped.
    ///
    /// # Errors
    /// [`Error::File`] if it is damaged, or was written with another recipe or width; [`Error::Tensor`].
    pub fn load(recipe: &Recipe, width: usize, file: &Path) -> Result<Trainer> {
        recipe.validate(width)?;
        Err(Error::file(file, "under construction"))
    }

    /// The SAE as it stands, in the stream's own units. The caller fills in the hook.
    ///
    /// # Errors
    /// None yet.
    pub fn weights(&self) -> SaeWeights {
        unreachable!()
    }

    /// Steps that were done.
    pub fn steps_done(&self) -> usize {
        self.step
    }
}
