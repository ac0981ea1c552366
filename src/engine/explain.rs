//! The answer for each image of a batch.

use rayon::prelude::*;

use super::{
    Engine, Question,
    latents::ImageLatents,
    pixels::{self, PixelInput},
    runner::{Job, JobOutput, Pictures, Ticket},
};
use crate::{
    Error, Result,
    backend::{Input, PatchGrid},
    image::Prepared,
    model::{Edit, Method, pass::VariantOutput},
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
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pictured {
    /// (Q): the score of each text.
    pub scores: Vec<f64>,
    /// One map for each method and text, methods outermost.
    pub maps: Vec<MapValues>,
    /// The latents that fire, if asked for.
    pub latents: Option<ImageLatents>,
}

/// The answer for one image.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Explanation {
    /// The run that was asked for.
    pub result: Pictured,
    /// With edits: the same splice without them.
    pub baseline: Option<Pictured>,
}

/// Images that were given to the device.
#[derive(Debug)]
pub struct Pending {
    ticket: Ticket,
    /// Their normalised pixels (B,3,R,R), where a method looks at them.
    values: Vec<f64>,
    batch: usize,
    grid: PatchGrid,
}

/// Images of one size, as a pass takes them.
pub(super) struct Batch {
    /// How they come.
    pub pictures: Pictures,
    /// (B,R,R,3).
    pub bytes: Vec<u8>,
    /// `B`.
    pub count: usize,
    /// The patches.
    pub grid: PatchGrid,
}

/// Lists of edits that share what comes before the hook.
const EDITS_AT_A_TIME: usize = 32;

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
        if images.is_empty() {
            return Ok(Vec::new());
        }
        let pending = self.submit(images, question)?;
        self.collect(pending, question)
    }

    /// Gives the device prepared images, which must all have one size. A GPU computes while the caller goes on; two batches
    /// at a time keep it busy.
    ///
    /// # Errors
    /// Those of the device.
    pub fn submit(&mut self, images: &[&Prepared], question: &Question) -> Result<Pending> {
        let Batch { pictures, bytes, count, grid } = self.batch(images)?;
        let job = Job { pictures, ..question.direct_job(count, grid)? };
        // Some methods look at the pixels themselves.
        let values = if question.reads_pixels() { pixel_values(images) } else { Vec::new() };
        let ticket = self.runner()?.submit(&job, Input::Bytes(&bytes))?;
        Ok(Pending { ticket, values, batch: count, grid })
    }

    /// The explanations of the images that were submitted, when they are there.
    ///
    /// # Errors
    /// Those of the device.
    pub fn collect(&mut self, pending: Pending, question: &Question) -> Result<Vec<Explanation>> {
        let Pending { ticket, values, batch, grid } = pending;
        let output = self.runner()?.collect(ticket)?;
        self.finish(&output, &values, batch, grid, question)
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
        let job = question.direct_job(batch, grid)?;
        let output = self.runner()?.run(&job, Input::Values(values))?;
        self.finish(&output, values, batch, grid, question)
    }

    /// The bytes of prepared images.
    ///
    /// # Errors
    /// [`Error::Usage`] for none, and for images that differ in size or in what their bytes mean.
    pub(super) fn batch(&self, images: &[&Prepared]) -> Result<Batch> {
        let Some(first) = images.first() else { return Err(Error::usage("a pass needs an image")) };
        for other in images {
            if (other.width, other.height) != (first.width, first.height) {
                let sizes = (first.width, first.height, other.width, other.height);
                return Err(Error::usage(format!("images of one pass differ in size: {sizes:?}")));
            }
            if other.values != first.values {
                return Err(Error::usage("images of one pass differ in how they are normalised"));
            }
        }
        Ok(Batch {
            pictures: Pictures::Bytes(first.values.clone()),
            bytes: images.iter().flat_map(|image| &image.cropped.data).copied().collect(),
            count: images.len(),
            grid: self.grid(first.width, first.height)?,
        })
    }

    /// One image under many lists of edits of the question's SAE: without any, then with each. All that comes before the hook
    /// is computed once for a group of them.
    ///
    /// # Errors
    /// Those of the device; [`Error::Usage`] without an SAE.
    pub fn explain_edits(
        &mut self,
        image: &Prepared,
        question: &Question,
        edits: &[Vec<Edit>],
    ) -> Result<Vec<Pictured>> {
        if question.splice.is_none() {
            return Err(Error::usage("edits need an SAE (--sae and --layer)"));
        }
        let Batch { pictures, bytes, count, grid } = self.batch(&[image])?;
        let values = if question.reads_pixels() { pixel_values(&[image]) } else { Vec::new() };
        let mut all = Vec::with_capacity(edits.len() + 1);
        for group in edits.chunks(EDITS_AT_A_TIME) {
            let variants: Vec<Vec<Edit>> = std::iter::once(Vec::new()).chain(group.iter().cloned()).collect();
            let job = Job { pictures: pictures.clone(), variants, ..question.direct_job(count, grid)? };
            let output = self.runner()?.run(&job, Input::Bytes(&bytes))?;
            let input = PixelInput { values: &values, batch: count, grid, variants: &job.variants };
            // The run without edits is the same in every group.
            let skip = usize::from(!all.is_empty());
            all.extend(self.pictured(&output, &input, question)?.into_iter().skip(skip).flatten());
        }
        Ok(all)
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
        let input = PixelInput { values, batch, grid, variants: &question.variants() };
        let mut variants = self.pictured(output, &input, question)?;
        let result = variants.pop().unwrap_or_default();
        let mut baseline = variants.pop().unwrap_or_default().into_iter();
        Ok(result.into_iter().map(|result| Explanation { result, baseline: baseline.next() }).collect())
    }

    /// What each variant gave for each image.
    fn pictured(
        &mut self,
        output: &JobOutput,
        input: &PixelInput<'_>,
        question: &Question,
    ) -> Result<Vec<Vec<Pictured>>> {
        let paths = pixels::path_maps(self, question, input, &output.variants)?;
        let of_variant = |(variant, paths): (&VariantOutput, &Vec<_>)| {
            (0..input.batch).into_par_iter().map(|b| pictured(variant, paths, input, question, b)).collect()
        };
        Ok(output.variants.iter().zip(&paths).map(of_variant).collect())
    }
}

/// Normalised pixels (B,3,R,R) in double precision.
fn pixel_values(images: &[&Prepared]) -> Vec<f64> {
    images.iter().flat_map(|image| image.pixels()).map(f64::from).collect()
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
