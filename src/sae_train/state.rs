//! The state of a training in one file.

use std::path::Path;

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{Recipe, Trainer, difference::first_difference, parameters::Parameters};
use crate::{
    Error, Result,
    weights::{Data, TensorFile, write},
};

/// What the metadata say that the file is.
const FORMAT: &str = "vitscope SAE training 1";
/// What the names of parameters and of Adam's moments begin with.
const PREFIXES: [&str; 3] = ["", "adam_first.", "adam_second."];

impl Trainer {
    /// All that a training needs to go on: name, shape and values of every tensor.
    pub fn state(&self) -> Vec<(String, Vec<usize>, Data<'_>)> {
        let mut state = Vec::new();
        for (prefix, values) in PREFIXES.iter().zip([&self.parameters, &self.moments[0], &self.moments[1]]) {
            let tensors = values.tensors().into_iter();
            state.extend(tensors.map(|(name, shape, values)| (format!("{prefix}{name}"), shape, Data::F32(values))));
        }
        let threshold = self.threshold.as_slice();
        state.extend([
            ("scale".to_owned(), vec![1], Data::F32(std::slice::from_ref(&self.scale))),
            ("silent_tokens".to_owned(), vec![self.silent.len()], Data::I64(&self.silent)),
            ("steps_done".to_owned(), vec![1], Data::I64(std::slice::from_ref(&self.step))),
            ("threshold".to_owned(), vec![threshold.len()], Data::F64(threshold)),
        ]);
        state
    }

    /// Writes the state and the recipe to one safetensors file, which is whole or not there.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, file: &Path) -> Result<()> {
        let state = self.state();
        let tensors: Vec<(&str, &[usize], Data<'_>)> =
            state.iter().map(|(name, shape, data)| (name.as_str(), shape.as_slice(), *data)).collect();
        let recipe = self.recipe.to_json().to_string();
        let width = self.parameters.width.to_string();
        let metadata = [("format", FORMAT), ("recipe", &recipe), ("sha256", &digest(&state)), ("width", &width)];
        write(file, &tensors, &metadata)
    }

    /// Goes on from a file of [`Trainer::save`], bit by bit as if it had never stopped.
    ///
    /// # Errors
    /// [`Error::File`] if it is damaged, no such file, or was written with another recipe or width; [`Error::Tensor`].
    pub fn load(recipe: &Recipe, width: usize, file: &Path) -> Result<Trainer> {
        recipe.validate(width)?;
        let tensors = TensorFile::open(file)?;
        let bad = |reason: String| Error::file(file, reason);
        let said = |key: &str| tensors.metadata().get(key).map_or("", String::as_str);
        if said("format") != FORMAT {
            return Err(bad(format!("not the state of a training: its format is `{}`", said("format"))));
        }
        if said("width") != width.to_string() {
            return Err(bad(format!("the state of a training on width {}, not {width}", said("width"))));
        }
        let there: Value = serde_json::from_str(said("recipe")).map_err(|e| bad(format!("its recipe: {e}")))?;
        if let Some(difference) = first_difference(&there, &recipe.to_json()) {
            return Err(bad(format!("the state of a training with another recipe: {difference}")));
        }

        let (s, d) = (recipe.latents, width);
        let jump = matches!(recipe.algorithm, super::Algorithm::JumpRelu { .. });
        let read = |name: &str, shape: &[usize]| {
            tensors.expect(name, shape)?;
            tensors.read_f32(name)
        };
        let parameters = |prefix: &str| -> Result<Parameters<f32>> {
            let read = |name: &str, shape: &[usize]| read(&format!("{prefix}{name}"), shape);
            Ok(Parameters {
                width,
                encoder: read("encoder", &[s, d])?,
                encoder_bias: read("encoder_bias", &[s])?,
                decoder: read("decoder", &[s, d])?,
                decoder_bias: read("decoder_bias", &[d])?,
                log_theta: if jump { read("log_threshold", &[s])? } else { Vec::new() },
            })
        };
        let integers = |name: &str, length: usize| {
            let values = tensors.read_i64(name)?;
            let good = values.len() == length && values.iter().all(|v| *v >= 0);
            let wrong = || Error::tensor(file, name, format!("{length} numbers from 0"), format!("{values:?}"));
            good.then(|| values.clone()).ok_or_else(wrong)
        };
        let trainer = Trainer {
            recipe: recipe.clone(),
            step: integers("steps_done", 1)?.iter().sum(),
            scale: read("scale", &[1])?.iter().sum(),
            parameters: parameters(PREFIXES[0])?,
            moments: [parameters(PREFIXES[1])?, parameters(PREFIXES[2])?],
            silent: integers("silent_tokens", s)?,
            threshold: tensors.read_f64("threshold")?.first().copied(),
        };
        if digest(&trainer.state()) != said("sha256") {
            return Err(bad("damaged: its tensors are not those that were written".into()));
        }
        Ok(trainer)
    }
}

impl Recipe {
    /// As it stands in files.
    fn to_json(&self) -> Value {
        // Plain numbers and names: there is nothing that JSON could refuse.
        serde_json::to_value(self).unwrap_or_default()
    }
}

/// SHA-256 of the names, shapes and values of tensors.
fn digest(state: &[(String, Vec<usize>, Data<'_>)]) -> String {
    let mut sha = Sha256::new();
    for (name, shape, data) in state {
        sha.update(format!("{name} {shape:?}\n"));
        sha.update(data.bytes());
    }
    sha.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
