//! A device with a model on it. [`Runner`] hides which backend it is.

use std::collections::BTreeMap;

use crate::{
    Result,
    backend::{Arena, Backend, Device, Memory, PatchGrid, Plan, ScoreKind},
    model::{
        Edit, Splice, Through,
        clip::{Text, Vision},
        embed::{EmbedJob, Embedded, embed_images},
        head::Texts,
        interpolate_positions,
        pass::{Latents, MapKey, Model, Objective, VariantOutput, embed_texts},
        splice::Splicing,
    },
    weights::{ClipCheckpoint, SaeWeights},
};

/// What a job explains.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum JobObjective {
    /// The score of each text.
    Texts(ScoreKind),
    /// The sum of one latent over the tokens in scope.
    Latent(usize),
}

/// How a job splices the loaded SAE.
#[derive(Debug, Clone, PartialEq)]
pub struct JobSplice {
    /// The hooked block.
    pub layer: usize,
    /// What is put back.
    pub splice: Splice,
    /// How the gradient passes.
    pub through: Through,
    /// (T): tokens in scope.
    pub mask: Vec<bool>,
}

/// One pass, without its pixels.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// `B`.
    pub batch: usize,
    /// The patches.
    pub grid: PatchGrid,
    /// What is explained.
    pub objective: JobObjective,
    /// (Q,E), rows of length 1.
    pub texts: Vec<f64>,
    /// The maps to make.
    pub keys: Vec<MapKey>,
    /// Whether the code and its gradient are wanted.
    pub latents: bool,
    /// The splice.
    pub splice: Option<JobSplice>,
    /// Lists of edits; the last one is the run that is asked for, one before it its baseline.
    pub variants: Vec<Vec<Edit>>,
    /// Whether every tensor of the data's way is copied.
    pub watched: bool,
}

/// What a job gave.
#[derive(Debug, Clone, Default)]
pub struct JobOutput {
    /// One output for each variant.
    pub variants: Vec<VariantOutput>,
    /// The observed tensors, if watched.
    pub watched: BTreeMap<String, Vec<f64>>,
}

/// A stream that went through an SAE.
#[derive(Debug, Clone, Default)]
pub struct Reconstructed {
    /// Its code.
    pub latents: Latents,
    /// (T,D): the reconstruction where the SAE reads and writes, the stream itself elsewhere.
    pub stream: Vec<f64>,
}

/// A device with a model on it.
pub trait Runner: Send {
    /// Unnormalised embeddings (Q,E) of token ids (Q,context), each read at its `pooled` position.
    ///
    /// # Errors
    /// Those of the checkpoint and the device.
    fn embed_texts(&mut self, checkpoint: &ClipCheckpoint, ids: &[Vec<u32>], pooled: &[usize]) -> Result<Vec<f64>>;

    /// Puts the image tower on the device.
    ///
    /// # Errors
    /// Those of the checkpoint.
    fn load_vision(&mut self, checkpoint: &ClipCheckpoint) -> Result<()>;

    /// Puts SAEs on the device, in place of those that are there. Jobs splice the first.
    ///
    /// # Errors
    /// Those of the device.
    fn load_saes(&mut self, weights: &[&SaeWeights]) -> Result<()>;

    /// Embeds images, or reads their streams.
    ///
    /// # Errors
    /// Those of the device.
    fn embed_images(&mut self, job: &EmbedJob, values: &[f64]) -> Result<Embedded>;

    /// Puts the stream (T,D) of one image through SAE number `sae`; `mask` (T) tells the tokens in scope.
    ///
    /// # Errors
    /// Those of the device; [`crate::Error::Usage`] for an SAE that is not loaded.
    fn reconstruct(&mut self, sae: usize, stream: &[f64], mask: &[bool]) -> Result<Reconstructed>;

    /// Bytes of the arena that `job` needs.
    ///
    /// # Errors
    /// Those of the recorded pass.
    fn arena_bytes(&mut self, job: &Job) -> Result<usize>;

    /// Runs a job on normalised pixels (B,3,R,R).
    ///
    /// # Errors
    /// Those of the device.
    fn run(&mut self, job: &Job, pixels: &[f64]) -> Result<JobOutput>;

    /// Bytes that a weight matrix (n,k) takes on the device, with or without its reverse.
    fn matrix_bytes(&self, n: usize, k: usize, reverse: bool) -> usize;

    /// `exp(logit_scale)` of the loaded model.
    fn logit_scale(&self) -> f64;

    /// The GPU kernels that ran so far, such as `gemm_forward=3`; none on the CPU.
    fn kernels_used(&self) -> Vec<String>;
}

/// The runner of any device.
pub struct DeviceRunner<D: Device> {
    device: D,
    vision: Option<Vision<D::Matrix, D::Vector>>,
    saes: Vec<D::Sae>,
    /// The arena of the last pass, and that pass: those of one kind follow each other.
    memory: Option<(Pass, D::Memory)>,
}

/// What an arena was cut for.
#[derive(PartialEq)]
enum Pass {
    Job(Box<Job>),
    Embed(EmbedJob),
}

impl<D: Device> DeviceRunner<D> {
    /// Without a model.
    pub fn new(device: D) -> Self {
        DeviceRunner { device, vision: None, saes: Vec::new(), memory: None }
    }
}

/// What a job needs beside the backend: everything that borrows.
struct Parts<'a, B: Backend> {
    vision: &'a Vision<B::Matrix, B::Vector>,
    sae: Option<&'a B::Sae>,
    latents: usize,
    positions: B::Vector,
    texts: Texts<B::Vector>,
}

/// The trained positions for a grid.
fn positions<B: Backend>(backend: &B, vision: &Vision<B::Matrix, B::Vector>, grid: PatchGrid) -> Result<B::Vector> {
    let (side, width) = (vision.config.grid(), vision.tower().width);
    backend.vector(interpolate_positions(&vision.positions, side, width, grid.rows, grid.cols).into_iter())
}

impl<'a, B: Device> Parts<'a, B> {
    fn new(
        backend: &B,
        vision: &'a Option<Vision<B::Matrix, B::Vector>>,
        saes: &'a [B::Sae],
        job: &Job,
    ) -> Result<Self> {
        let (vision, sae) = (loaded(vision)?, saes.first());
        Ok(Parts {
            vision,
            sae,
            latents: sae.map_or(0, |sae| backend.sae_sizes(sae).0),
            positions: positions(backend, vision, job.grid)?,
            texts: Texts {
                embeddings: backend.vector(job.texts.iter().copied())?,
                count: job.texts.len() / vision.embed,
            },
        })
    }

    /// The pass over any backend that shares this one's weights: the device itself, or its recorder.
    fn model<'b, X>(&'b self, job: &'b Job, keys: &'b std::collections::BTreeSet<MapKey>) -> Model<'b, X>
    where
        X: Backend<Matrix = B::Matrix, Vector = B::Vector, Sae = B::Sae>,
    {
        Model {
            vision: self.vision,
            positions: &self.positions,
            batch: job.batch,
            grid: job.grid,
            objective: match job.objective {
                JobObjective::Texts(kind) => Objective::Texts { texts: &self.texts, kind },
                JobObjective::Latent(id) => Objective::Latent(id),
            },
            splicing: job.splice.as_ref().zip(self.sae).map(|(splice, sae)| Splicing {
                sae,
                latents: self.latents,
                layer: splice.layer,
                splice: splice.splice,
                through: splice.through,
                mask: splice.mask.clone(),
            }),
            keys,
            latents: job.latents,
        }
    }

    fn plan(&self, backend: &B, job: &Job) -> Result<Plan> {
        let (height, width) = (job.grid.height, job.grid.width);
        let pixels = vec![0.0; job.batch * 3 * height * width];
        let keys = job.keys.iter().copied().collect();
        let variants: Vec<&[Edit]> = job.variants.iter().map(Vec::as_slice).collect();
        Plan::record(backend, job.watched, |recorder, recording| {
            self.model(job, &keys).run(recorder, recording, &pixels, &variants)
        })
    }
}

fn loaded<V>(vision: &Option<V>) -> Result<&V> {
    vision.as_ref().ok_or_else(|| crate::Error::usage("no model is loaded"))
}

/// One image's stream (T,D) through an SAE of `sizes` S and D.
fn reconstruct<X: Backend>(
    x: &X,
    m: &mut X::Memory,
    sae: &X::Sae,
    (latents, width): (usize, usize),
    values: &[f64],
    mask: &[bool],
) -> Result<Reconstructed> {
    let stream = m.tensor("stream", &[1, mask.len(), width])?;
    m.upload(stream, values)?;
    let (splice, through) = (Splice::Replace, Through::Exact);
    let splicing = Splicing { sae, latents, layer: 0, splice, through, mask: mask.to_vec() };
    let tape = splicing.forward(x, m, stream, &[], 1, mask.len(), width, "")?;
    let latents = Latents::download::<X>(m, tape.code)?;
    Ok(Reconstructed { latents, stream: m.download(tape.out)? })
}

impl<D: Device> Runner for DeviceRunner<D> {
    fn embed_texts(&mut self, checkpoint: &ClipCheckpoint, ids: &[Vec<u32>], pooled: &[usize]) -> Result<Vec<f64>> {
        let text = Text::load(&self.device, checkpoint)?;
        let mut embeddings = Vec::new();
        // Texts at a time: enough to fill the products, few enough for a small arena.
        for (ids, pooled) in ids.chunks(32).zip(pooled.chunks(32)) {
            let plan = Plan::record(&self.device, false, |x, m| embed_texts(x, m, &text, ids, pooled))?;
            let mut memory = self.device.arena(plan, false)?;
            embeddings.extend(embed_texts(&self.device, &mut memory, &text, ids, pooled)?);
        }
        Ok(embeddings)
    }

    fn load_vision(&mut self, checkpoint: &ClipCheckpoint) -> Result<()> {
        self.memory = None;
        self.vision = Some(Vision::load(&self.device, checkpoint)?);
        Ok(())
    }

    fn load_saes(&mut self, weights: &[&SaeWeights]) -> Result<()> {
        (self.memory, self.saes) = (None, Vec::new());
        self.saes = weights.iter().map(|weights| self.device.sae(weights)).collect::<Result<_>>()?;
        Ok(())
    }

    fn embed_images(&mut self, job: &EmbedJob, values: &[f64]) -> Result<Embedded> {
        let (device, vision) = (&self.device, loaded(&self.vision)?);
        let positions = positions(device, vision, job.grid)?;
        let mut memory = match self.memory.take() {
            Some((Pass::Embed(last), memory)) if last == *job => memory,
            _ => {
                let plan = Plan::record(device, false, |x, m| embed_images(x, m, vision, &positions, job, values))?;
                device.arena(plan, false)?
            }
        };
        memory.rewind();
        let embedded = embed_images(device, &mut memory, vision, &positions, job, values)?;
        self.memory = Some((Pass::Embed(job.clone()), memory));
        Ok(embedded)
    }

    fn reconstruct(&mut self, sae: usize, stream: &[f64], mask: &[bool]) -> Result<Reconstructed> {
        let sae = self.saes.get(sae).ok_or_else(|| crate::Error::usage(format!("no SAE number {sae} is loaded")))?;
        let sizes = self.device.sae_sizes(sae);
        let plan = Plan::record(&self.device, false, |x, m| reconstruct(x, m, sae, sizes, stream, mask))?;
        reconstruct(&self.device, &mut self.device.arena(plan, false)?, sae, sizes, stream, mask)
    }

    fn arena_bytes(&mut self, job: &Job) -> Result<usize> {
        let parts = Parts::new(&self.device, &self.vision, &self.saes, job)?;
        Ok(parts.plan(&self.device, job)?.bytes(self.device.storage_bytes()))
    }

    fn run(&mut self, job: &Job, pixels: &[f64]) -> Result<JobOutput> {
        let parts = Parts::new(&self.device, &self.vision, &self.saes, job)?;
        let mut memory = match self.memory.take() {
            Some((Pass::Job(last), memory)) if *last == *job => memory,
            _ => self.device.arena(parts.plan(&self.device, job)?, job.watched)?,
        };
        memory.rewind();
        let keys = job.keys.iter().copied().collect();
        let variants: Vec<&[Edit]> = job.variants.iter().map(Vec::as_slice).collect();
        let model = parts.model::<D>(job, &keys);
        let outputs = self.device.enter(|| model.run(&self.device, &mut memory, pixels, &variants))?;
        let watched = memory.take_watched();
        self.memory = Some((Pass::Job(Box::new(job.clone())), memory));
        Ok(JobOutput { variants: outputs, watched })
    }

    fn matrix_bytes(&self, n: usize, k: usize, reverse: bool) -> usize {
        self.device.matrix_bytes(n, k, reverse)
    }

    fn logit_scale(&self) -> f64 {
        self.vision.as_ref().map_or(1.0, |v| v.logit_scale)
    }

    fn kernels_used(&self) -> Vec<String> {
        self.device.kernels_used()
    }
}
