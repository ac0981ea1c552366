//! A device with a model on it. [`Runner`] hides which backend it is.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use crate::{
    Error, Result,
    backend::{Arena, Backend, Device, Fetch, Input, Memory, PatchGrid, Plan, ScoreKind, Started},
    image::ByteValues,
    model::{
        Edit, Splice, Through,
        clip::{Text, Vision},
        embed::{EmbedFetch, EmbedJob, Embedded, embed_images},
        head::Texts,
        interpolate_positions,
        output::{Latents, LatentsFetch, VariantFetch, VariantOutput},
        pass::{MapKey, Model, Objective, embed_texts, text_tokens},
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

/// How pictures come.
#[derive(Debug, Clone, PartialEq)]
pub enum Pictures {
    /// As normalised pixels (B,3,R,R).
    Pixels,
    /// As bytes (B,R,R,3); the normalised value of each byte, by channel, is known.
    Bytes(Arc<ByteValues>),
}

/// One pass, without its pictures.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// `B`.
    pub batch: usize,
    /// The patches.
    pub grid: PatchGrid,
    /// How the pictures come.
    pub pictures: Pictures,
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

/// A job that was submitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

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

    /// Embeds images, or reads their streams. The input is pictures or a stream, as the job says.
    ///
    /// # Errors
    /// Those of the device.
    fn embed_images(&mut self, job: &EmbedJob, pictures: &Pictures, input: Input<'_>) -> Result<Embedded>;

    /// Puts the stream (T,D) of one image through SAE number `sae`; `mask` (T) tells the tokens in scope.
    ///
    /// # Errors
    /// Those of the device; [`Error::Usage`] for an SAE that is not loaded.
    fn reconstruct(&mut self, sae: usize, stream: &[f64], mask: &[bool]) -> Result<Reconstructed>;

    /// Bytes of the arena that `job` needs.
    ///
    /// # Errors
    /// Those of the recorded pass.
    fn arena_bytes(&mut self, job: &Job) -> Result<usize>;

    /// Gives the device a job on pictures. A GPU computes while the caller goes on.
    ///
    /// # Errors
    /// Those of the device.
    fn submit(&mut self, job: &Job, input: Input<'_>) -> Result<Ticket>;

    /// What a job gave, when it is done.
    ///
    /// # Errors
    /// Those of the device; [`Error::Usage`] for a ticket that was collected.
    fn collect(&mut self, ticket: Ticket) -> Result<JobOutput>;

    /// Submits a job and waits for it.
    ///
    /// # Errors
    /// Those of the device.
    fn run(&mut self, job: &Job, input: Input<'_>) -> Result<JobOutput> {
        let ticket = self.submit(job, input)?;
        self.collect(ticket)
    }

    /// Bytes that a weight matrix (n,k) takes on the device, with or without its reverse.
    fn matrix_bytes(&self, n: usize, k: usize, reverse: bool) -> usize;

    /// Bytes that the device could still allocate, where it has memory of its own.
    ///
    /// # Errors
    /// Those of the device.
    fn free_bytes(&self) -> Result<Option<usize>>;

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
    /// The last pass of each kind with its arena: those of one kind follow each other.
    job: Option<Box<JobPass<D>>>,
    embed: Option<Box<EmbedPass<D>>>,
    issued: u64,
    /// What was waited for and not yet collected.
    done: BTreeMap<Ticket, JobOutput>,
}

/// A job's arena, what lives as long as it does, and the runs that are out.
struct JobPass<D: Device> {
    job: Job,
    inputs: Inputs<D::Vector>,
    texts: Texts<D::Vector>,
    memory: D::Memory,
    promised: Vec<VariantFetch>,
    out: VecDeque<Ticket>,
}

/// A job before it has an arena.
struct PlannedJob<V> {
    inputs: Inputs<V>,
    texts: Texts<V>,
    plan: Plan,
    promised: Vec<VariantFetch>,
}

/// An embedding's arena.
struct EmbedPass<D: Device> {
    job: EmbedJob,
    pictures: Pictures,
    inputs: Inputs<D::Vector>,
    memory: D::Memory,
    promised: EmbedFetch,
}

/// What the patch embedding needs beside its weights.
struct Inputs<V> {
    /// (T,D): the trained positions for the grid.
    positions: V,
    /// (3,256), see [`Pictures::Bytes`].
    table: Option<V>,
}

impl<V> Inputs<V> {
    fn new<B: Backend<Vector = V>>(
        backend: &B,
        vision: &Vision<B::Matrix, V>,
        grid: PatchGrid,
        pictures: &Pictures,
    ) -> Result<Self> {
        let (side, width) = (vision.config.grid(), vision.tower().width);
        let positions = interpolate_positions(&vision.positions, side, width, grid.rows, grid.cols);
        let table = match pictures {
            Pictures::Pixels => None,
            Pictures::Bytes(values) => {
                let values: Vec<f64> = values.as_flattened().iter().map(|&v| f64::from(v)).collect();
                Some(backend.vector(values.into_iter())?)
            }
        };
        Ok(Inputs { positions: backend.vector(positions.into_iter())?, table })
    }
}

impl<D: Device> DeviceRunner<D> {
    /// Without a model.
    pub fn new(device: D) -> Self {
        let (saes, done) = Default::default();
        DeviceRunner { device, vision: None, saes, job: None, embed: None, issued: 0, done }
    }

    /// Waits for the jobs that are out and gives their arena back.
    fn finish_jobs(&mut self) -> Result<()> {
        if let Some(mut pass) = self.job.take() {
            while let Some((ticket, output)) = pass.collect()? {
                self.done.insert(ticket, output);
            }
        }
        Ok(())
    }

    /// The job with its texts and inputs on the device, and the plan of its pass.
    fn plan(&self, job: &Job) -> Result<PlannedJob<D::Vector>> {
        let vision = loaded(&self.vision)?;
        let inputs = Inputs::new(&self.device, vision, job.grid, &job.pictures)?;
        let embeddings = self.device.vector(job.texts.iter().copied())?;
        let texts = Texts { embeddings, count: job.texts.len() / vision.embed };
        let keys = job.keys.iter().copied().collect();
        let (plan, promised) = Plan::record(&self.device, job.watched, |recorder, recording| {
            let sae = self.saes.first().map(|sae| (sae, self.device.sae_sizes(sae).0));
            model(vision, sae, job, &inputs, &texts, &keys).run(recorder, recording, &edits(job))
        })?;
        Ok(PlannedJob { inputs, texts, plan, promised })
    }
}

impl<D: Device> JobPass<D> {
    /// The oldest run that is out, when it is done.
    fn collect(&mut self) -> Result<Option<(Ticket, JobOutput)>> {
        let Some(ticket) = self.out.pop_front() else { return Ok(None) };
        let mut fetched = self.memory.collect()?;
        let variants = self.promised.iter().map(|variant| variant.values(&mut fetched)).collect();
        Ok(Some((ticket, JobOutput { variants, watched: self.memory.take_watched() })))
    }
}

fn edits(job: &Job) -> Vec<&[Edit]> {
    job.variants.iter().map(Vec::as_slice).collect()
}

/// The pass over any backend that shares these weights: the device itself, or its recorder.
fn model<'a, X: Backend>(
    vision: &'a Vision<X::Matrix, X::Vector>,
    sae: Option<(&'a X::Sae, usize)>,
    job: &Job,
    inputs: &'a Inputs<X::Vector>,
    texts: &'a Texts<X::Vector>,
    keys: &'a BTreeSet<MapKey>,
) -> Model<'a, X> {
    Model {
        vision,
        positions: &inputs.positions,
        table: inputs.table.as_ref(),
        batch: job.batch,
        grid: job.grid,
        objective: match job.objective {
            JobObjective::Texts(kind) => Objective::Texts { texts, kind },
            JobObjective::Latent(id) => Objective::Latent(id),
        },
        splicing: job.splice.as_ref().zip(sae).map(|(splice, (sae, latents))| Splicing {
            sae,
            latents,
            layer: splice.layer,
            splice: splice.splice,
            through: splice.through,
            mask: splice.mask.clone(),
        }),
        keys,
        latents: job.latents,
    }
}

fn loaded<V>(vision: &Option<V>) -> Result<&V> {
    vision.as_ref().ok_or_else(|| Error::usage("no model is loaded"))
}

/// The input, one image's stream (T,D), through an SAE of `sizes` S and D.
fn reconstruct<X: Backend>(
    x: &X,
    m: &mut X::Memory,
    sae: &X::Sae,
    (latents, width): (usize, usize),
    mask: &[bool],
) -> Result<(LatentsFetch, Fetch)> {
    let stream = m.tensor("stream", &[1, mask.len(), width])?;
    m.input(stream)?;
    let (splice, through) = (Splice::Replace, Through::Exact);
    let splicing = Splicing { sae, latents, layer: 0, splice, through, mask: mask.to_vec() };
    let tape = splicing.forward(x, m, stream, &[], 1, mask.len(), width, "")?;
    Ok((LatentsFetch::new(m, tape.code)?, m.fetch(tape.out)?))
}

/// Starts a run in `memory`, and issues the pass where the arena does not remember it.
fn launch<M: Arena, R>(memory: &mut M, input: Input<'_>, issue: impl FnOnce(&mut M) -> Result<R>) -> Result<()> {
    if memory.start(input)? == Started::Issue {
        issue(memory)?;
        memory.issued()?;
    }
    Ok(())
}

impl<D: Device> Runner for DeviceRunner<D> {
    fn embed_texts(&mut self, checkpoint: &ClipCheckpoint, ids: &[Vec<u32>], pooled: &[usize]) -> Result<Vec<f64>> {
        let (device, text) = (&self.device, Text::load(&self.device, checkpoint)?);
        let mut embeddings = Vec::new();
        // Texts at a time: enough to fill the products, few enough for a small arena.
        for (ids, pooled) in ids.chunks(32).zip(pooled.chunks(32)) {
            let tokens = text_tokens(&text, ids, pooled)?;
            let (plan, promised) = Plan::record(device, false, |x, m| embed_texts(x, m, &text, pooled))?;
            let mut memory = device.arena(plan, false)?;
            launch(&mut memory, Input::Values(&tokens), |m| embed_texts(device, m, &text, pooled))?;
            embeddings.extend(memory.collect()?.take(promised));
        }
        Ok(embeddings)
    }

    fn load_vision(&mut self, checkpoint: &ClipCheckpoint) -> Result<()> {
        self.finish_jobs()?;
        self.embed = None;
        self.vision = Some(Vision::load(&self.device, checkpoint)?);
        Ok(())
    }

    fn load_saes(&mut self, weights: &[&SaeWeights]) -> Result<()> {
        self.finish_jobs()?;
        self.saes = Vec::new();
        self.saes = weights.iter().map(|weights| self.device.sae(weights)).collect::<Result<_>>()?;
        Ok(())
    }

    fn embed_images(&mut self, job: &EmbedJob, pictures: &Pictures, input: Input<'_>) -> Result<Embedded> {
        let (device, vision) = (&self.device, loaded(&self.vision)?);
        // Taken, so that an arena in which something failed is not used again.
        let known = self.embed.take().filter(|pass| pass.job == *job && pass.pictures == *pictures);
        let mut pass = match known {
            Some(pass) => pass,
            None => {
                let inputs = Inputs::new(device, vision, job.grid, pictures)?;
                let (plan, promised) = Plan::record(device, false, |x, m| {
                    embed_images(x, m, vision, &inputs.positions, inputs.table.as_ref(), job)
                })?;
                let memory = device.arena(plan, false)?;
                Box::new(EmbedPass { job: job.clone(), pictures: pictures.clone(), inputs, memory, promised })
            }
        };
        let EmbedPass { inputs, memory, .. } = &mut *pass;
        launch(memory, input, |m| {
            device.enter(|| embed_images(device, m, vision, &inputs.positions, inputs.table.as_ref(), job))
        })?;
        let embedded = pass.promised.values(&mut pass.memory.collect()?);
        self.embed = Some(pass);
        Ok(embedded)
    }

    fn reconstruct(&mut self, sae: usize, stream: &[f64], mask: &[bool]) -> Result<Reconstructed> {
        let (device, saes) = (&self.device, &self.saes);
        let sae = saes.get(sae).ok_or_else(|| Error::usage(format!("no SAE number {sae} is loaded")))?;
        let sizes = device.sae_sizes(sae);
        let (plan, (code, out)) = Plan::record(device, false, |x, m| reconstruct(x, m, sae, sizes, mask))?;
        let mut memory = device.arena(plan, false)?;
        launch(&mut memory, Input::Values(stream), |m| reconstruct(device, m, sae, sizes, mask))?;
        let mut fetched = memory.collect()?;
        Ok(Reconstructed { latents: code.values(&mut fetched), stream: fetched.take(out) })
    }

    fn arena_bytes(&mut self, job: &Job) -> Result<usize> {
        Ok(self.plan(job)?.plan.bytes(self.device.storage_bytes()))
    }

    fn submit(&mut self, job: &Job, input: Input<'_>) -> Result<Ticket> {
        if self.job.as_ref().is_some_and(|pass| pass.job != *job) {
            self.finish_jobs()?;
        }
        // Taken, so that an arena in which something failed is not used again.
        let mut pass = match self.job.take() {
            Some(pass) => pass,
            None => {
                let PlannedJob { inputs, texts, plan, promised } = self.plan(job)?;
                let memory = self.device.arena(plan, job.watched)?;
                Box::new(JobPass { job: job.clone(), inputs, texts, memory, promised, out: VecDeque::new() })
            }
        };
        if pass.out.len() == pass.memory.lanes() {
            self.done.extend(pass.collect()?);
        }
        let (device, vision) = (&self.device, loaded(&self.vision)?);
        let sae = self.saes.first().map(|sae| (sae, device.sae_sizes(sae).0));
        let keys = job.keys.iter().copied().collect();
        let JobPass { inputs, texts, memory, .. } = &mut *pass;
        let model = model::<D>(vision, sae, job, inputs, texts, &keys);
        launch(memory, input, |m| device.enter(|| model.run(device, m, &edits(job))))?;
        self.issued += 1;
        let ticket = Ticket(self.issued);
        pass.out.push_back(ticket);
        self.job = Some(pass);
        Ok(ticket)
    }

    fn collect(&mut self, ticket: Ticket) -> Result<JobOutput> {
        loop {
            if let Some(output) = self.done.remove(&ticket) {
                return Ok(output);
            }
            let Some((oldest, output)) = self.job.as_mut().map_or(Ok(None), |pass| pass.collect())? else {
                return Err(Error::usage("this job was collected before, or never submitted"));
            };
            self.done.insert(oldest, output);
        }
    }

    fn matrix_bytes(&self, n: usize, k: usize, reverse: bool) -> usize {
        self.device.matrix_bytes(n, k, reverse)
    }

    fn free_bytes(&self) -> Result<Option<usize>> {
        self.device.free_bytes()
    }

    fn logit_scale(&self) -> f64 {
        self.vision.as_ref().map_or(1.0, |v| v.logit_scale)
    }

    fn kernels_used(&self) -> Vec<String> {
        self.device.kernels_used()
    }
}
