//! The residual stream: at the hook before and after the splice, and at any blocks' outputs.

use super::{Engine, Question, explain::pixel_values};
use crate::{Error, Result, image::Prepared};

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
    /// The outputs of the blocks `layers`, in their order, for prepared images, which must all have one size: (B,T,D)
    /// each, CLS first. Blocks past the deepest are not computed.
    ///
    /// # Errors
    /// [`Error::Usage`] for no image or a block that is not there; those of the device.
    pub fn streams(&mut self, images: &[&Prepared], layers: &[usize]) -> Result<Vec<Vec<f32>>> {
        let first = images.first().ok_or_else(|| Error::usage("a stream needs an image"))?;
        if let Some(other) = images.iter().find(|i| (i.width, i.height) != (first.width, first.height)) {
            let sizes = (first.width, first.height, other.width, other.height);
            return Err(Error::usage(format!("images of one pass differ in size: {sizes:?}")));
        }
        let grid = self.grid(first.width, first.height)?;
        let streams = self.runner()?.streams(images.len(), grid, layers, &pixel_values(images))?;
        Ok(streams.into_iter().map(|rows| rows.into_iter().map(|v| v as f32).collect()).collect())
    }

    /// The streams of prepared images, which must all have one size.
    ///
    /// # Errors
    /// [`Error::Usage`] for a question without an SAE; those of the device.
    pub fn hook_streams(&mut self, images: &[&Prepared], question: &Question) -> Result<Vec<HookStreams>> {
        let (Some(first), Some(splice)) = (images.first(), &question.splice) else {
            return Err(Error::usage("a stream at the hook needs an image and an SAE"));
        };
        let grid = self.grid(first.width, first.height)?;
        let scope = splice.tokens.mask(grid.tokens())?;
        let mut job = question.job(images.len(), grid, Vec::new(), false)?;
        job.watched = true;
        let names = (format!("block.{}.x", splice.layer), "sae.x");
        let watched = self.runner()?.run(&job, &pixel_values(images))?.watched;
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
