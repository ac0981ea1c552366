//! The answer for each image of a batch.

use std::collections::BTreeSet;

use rayon::prelude::*;

use super::{
    Engine, Question,
    latents::ImageLatents,
    pixels::{self, PixelInput},
    runner::JobOutput,
};
use crate::{
    Error, Result,
    backend::PatchGrid,
    image::Prepared,
    model::{
        Method,
        pass::{MapKey, VariantOutput},
    },
};

/// A heatmap of one image for one text by one method.
#[derive(Debug, Clone, PartialEq)]
pub struct MapValues {
    /// Position of the method in the question.
    pub method: usize,
    /// Position of the text in the question; 0 for a latent's score.
    pub text: usize,
    /// Rows of the grid.
    pub rows: usize,
    /// Columns of the grid.
    pub cols: usize,
    /// (rows, cols), raw, as results hold it.
    pub values: Vec<f32>,
    /// The same before it was rounded to f32.
    pub exact: Vec<f64>,
    /// The score that the map explains.
    pub score: f64,
    /// Integrated gradients only: sum of the map minus difference of the scores.
    pub completeness_gap: Option<f64>,
}

/// One run over an image: with or without the edits.
#[derive(Debug, Clone, Default)]
pub struct Pictured {
    /// (Q): the score of each text.
    pub scores: Vec<f64>,
    /// One map for each method and text, methods outermost.
    pub maps: Vec<MapValues>,
    /// The latents that fire, if asked for.
    pub latents: Option<ImageLatents>,
}

/// The answer for one image.
#[derive(Debug, Clone, Default)]
pub struct Explanation {
    /// The run that was asked for.
    pub result: Pictured,
    /// With edits: the same splice without them.
    pub baseline: Option<Pictured>,
}

impl Engine {
    /// The patch grid of a prepared image.
    ///
    /// # Errors
    /// When the image is smaller than a patch.
    pub fn grid(&self, width: usize, height: usize) -> Result<PatchGrid> {
        let patch = self.checkpoint.config.vision.patch;
        let grid = PatchGrid::of(height, width, patch);
        if grid.patches() == 0 {
            return Err(Error::usage(format!("an image of {width}x{height} holds no patch of {patch} pixels")));
        }
        Ok(grid)
    }

    /// Explains prepared images, which must all have one size.
    ///
    /// # Errors
    /// Those of the device.
    pub fn explain(&mut self, images: &[&Prepared], question: &Question) -> Result<Vec<Explanation>> {
        let Some(first) = images.first() else { return Ok(Vec::new()) };
        let grid = self.grid(first.width, first.height)?;
        let values = pixel_values(images);
        self.explain_pixels(&values, images.len(), grid, question)
    }

    /// Explains normalised pixels (B,3,R,R).
    ///
    /// # Errors
    /// Those of the device.
    pub fn explain_pixels(
        &mut self,
        values: &[f64],
        batch: usize,
        grid: PatchGrid,
        question: &Question,
    ) -> Result<Vec<Explanation>> {
        let direct = question.methods.iter().filter(|(m, _)| pixels::is_direct(m.method));
        let keys: BTreeSet<MapKey> = direct.map(|(_, key)| *key).collect();
        let job = question.job(batch, grid, keys.into_iter().collect(), question.latents)?;
        let output = self.runner()?.run(&job, values)?;
        self.finish(&output, values, batch, grid, question)
    }

    /// Turns a pass's output into explanations, running the passes that path methods still need.
    pub(super) fn finish(
        &mut self,
        output: &JobOutput,
        values: &[f64],
        batch: usize,
        grid: PatchGrid,
        question: &Question,
    ) -> Result<Vec<Explanation>> {
        let mut explanations: Vec<Explanation> = vec![Explanation::default(); batch];
        let input = PixelInput { values, batch, grid };
        let paths = pixels::path_maps(self, question, &input, &output.variants)?;
        for (v, variant) in output.variants.iter().enumerate() {
            let is_result = v + 1 == output.variants.len();
            explanations.par_iter_mut().enumerate().for_each(|(b, explanation)| {
                let pictured = pictured(variant, &paths[v], &input, question, b);
                if is_result {
                    explanation.result = pictured;
                } else {
                    explanation.baseline = Some(pictured);
                }
            });
        }
        Ok(explanations)
    }
}

/// Normalised pixels (B,3,R,R) in double precision.
pub(super) fn pixel_values(images: &[&Prepared]) -> Vec<f64> {
    images.iter().flat_map(|image| image.pixels.iter().map(|&v| f64::from(v))).collect()
}

/// The part of image `b` in a variant's output.
fn pictured(
    variant: &VariantOutput,
    paths: &[Option<pixels::PathMap>],
    input: &PixelInput<'_>,
    question: &Question,
    b: usize,
) -> Pictured {
    let (targets, batch, grid) = (question.targets(), input.batch, input.grid);
    let scores = question.scores(&variant.values);
    let single = question.scores(&variant.single_values);
    let row = |scores: &[f64], text: usize| scores.get(b * targets + text).copied().unwrap_or(f64::NAN);
    let mut maps = Vec::new();
    for (method, (named, key)) in question.methods.iter().enumerate() {
        for text in 0..targets {
            let (rows, cols) =
                if named.method.on_pixels() { (grid.height, grid.width) } else { (grid.rows, grid.cols) };
            let (values, gap) = match &paths[method] {
                Some(path) => (path.map(text, b), path.gap(text, b)),
                None => {
                    let all = variant.maps.get(key).map_or(&[][..], Vec::as_slice);
                    let cells = all.len() / (targets * batch);
                    let own = &all[(text * batch + b) * cells..][..cells];
                    let values = match named.method {
                        Method::Gradient => pixels::largest(own),
                        Method::GradientXInput => pixels::times_input(own, input.image(b)),
                        _ => own.to_vec(),
                    };
                    (values, None)
                }
            };
            let is_single = matches!(named.method, Method::GradEclip { single_head: true });
            maps.push(MapValues {
                method,
                text,
                rows,
                cols,
                values: values.iter().map(|&v| v as f32).collect(),
                exact: values,
                score: row(if is_single { &single } else { &scores }, text),
                completeness_gap: gap,
            });
        }
    }
    Pictured {
        scores: (0..targets).map(|text| row(&scores, text)).collect(),
        maps,
        latents: variant.latents.as_ref().map(|latents| ImageLatents::of(latents, b, batch, targets)),
    }
}
