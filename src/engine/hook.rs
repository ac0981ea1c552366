//! The residual stream at the hook, before and after the splice.

use super::{Engine, Question, explain::Batch, runner::Job};
use crate::{Error, Result, backend::Input, image::Prepared};

/// The stream of one image at the hooked block's output.
#[derive(Debug, Clone, PartialEq)]
pub struct HookStreams {
    /// `D`.
    pub width: usize,
    /// (T): whether the SAE reads and writes the token, CLS first.
    pub scope: Vec<bool>,
    /// (T,D), before the splice.
    pub before: Vec<f64>,
    /// (T,D), after it: the reconstruction where nothing is edited and the splice replaces.
    pub after: Vec<f64>,
}

impl Engine {
    /// The streams of prepared images, which must all have one size.
    ///
    /// # Errors
    /// [`Error::Usage`] for a question without an SAE; those of the device.
    pub fn hook_streams(&mut self, images: &[&Prepared], question: &Question) -> Result<Vec<HookStreams>> {
        let Some(splice) = &question.splice else {
            return Err(Error::usage("a stream at the hook needs an SAE"));
        };
        let Batch { pictures, bytes, count, grid } = self.batch(images)?;
        let scope = splice.tokens.mask(grid.tokens())?;
        let job = Job { pictures, watched: true, ..question.job(count, grid, Vec::new(), false)? };
        let names = (format!("block.{}.x", splice.layer), "sae.x");
        let watched = self.runner()?.run(&job, Input::Bytes(&bytes))?.watched;
        let tensor = |name: &str| {
            let missing = || Error::Plan { tensor: name.to_owned(), planned: None };
            watched.get(name).ok_or_else(missing)
        };
        let (before, after) = (tensor(&names.0)?, tensor(names.1)?);
        let size = before.len() / images.len();
        let rows = before.chunks(size).zip(after.chunks(size));
        Ok(rows
            .map(|(before, after)| HookStreams {
                width: self.checkpoint.config.vision.tower.width,
                scope: scope.clone(),
                before: before.to_vec(),
                after: after.to_vec(),
            })
            .collect())
    }
}
