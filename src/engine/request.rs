//! Requests: what is asked, checked against the model once, before anything runs.

use std::{collections::BTreeSet, path::PathBuf};

use super::{
    AskedDtype, Device, Engine, pixels,
    runner::{Job, JobObjective, JobSplice, Pictures},
};
use crate::{
    Error, Result,
    backend::{
        PatchGrid, ScoreKind,
        gpu::{open::Progress, registry::Forced},
    },
    model::{Edit, Method, NamedMethod, Score, Splice, Through, Tokens, pass::MapKey, resolve_layer},
    text::Template,
    weights::SaeWeights,
};

/// How an engine is opened.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The device.
    pub device: Device,
    /// The type.
    pub dtype: AskedDtype,
    /// The rungs of a GPU's kernels that must run.
    pub kernels: Forced,
    /// Where compiled kernels are kept; [`cache_folder`](crate::backend::gpu::jit::cache_folder) when absent.
    pub kernel_cache: Option<PathBuf>,
    /// Who is told while kernels are compiled.
    pub progress: Progress,
    /// Seed of random weights.
    pub seed: u64,
}

/// An SAE and what is done with it.
#[derive(Debug, Clone)]
pub struct SaeRequest {
    /// The SAE.
    pub weights: SaeWeights,
    /// The block whose output is hooked; the file's own when absent.
    pub layer: Option<isize>,
    /// Tokens in scope.
    pub tokens: Tokens,
    /// The edits, in order.
    pub edits: Vec<Edit>,
    /// What is put back.
    pub splice: Splice,
    /// How the gradient passes.
    pub through: Through,
}

/// What is asked.
#[derive(Debug, Clone)]
pub struct Request {
    /// The texts.
    pub texts: Vec<String>,
    /// How each text is phrased.
    pub template: Template,
    /// The scalar that is explained.
    pub score: Score,
    /// The heatmaps.
    pub methods: Vec<NamedMethod>,
    /// The SAE, if one is spliced in.
    pub sae: Option<SaeRequest>,
    /// Whether the latents that fire are wanted with their contributions.
    pub latents: bool,
    /// Seed of methods that draw noise.
    pub seed: u64,
}

/// A request that was checked against a model: texts embedded, layers resolved.
#[derive(Debug, Clone)]
pub struct Question {
    /// The texts as given; empty for a latent's score.
    pub texts: Vec<String>,
    /// (Q,E), rows of length 1.
    pub embeddings: Vec<f64>,
    /// The score.
    pub score: Score,
    /// The methods as given, and the map each starts from.
    pub methods: Vec<(NamedMethod, MapKey)>,
    /// How the SAE is spliced.
    pub splice: Option<QuestionSplice>,
    /// Whether latents are wanted.
    pub latents: bool,
    /// Seed of methods that draw noise.
    pub seed: u64,
    /// What the user should know: an SAE trained elsewhere, a text that was cut.
    pub warnings: Vec<String>,
    /// `exp(logit_scale)`.
    pub logit_scale: f64,
}

/// The SAE's part of a question. Its weights are on the device.
#[derive(Debug, Clone)]
pub struct QuestionSplice {
    /// The hooked block.
    pub layer: usize,
    /// Tokens in scope.
    pub tokens: Tokens,
    /// The edits, in order.
    pub edits: Vec<Edit>,
    /// What is put back.
    pub splice: Splice,
    /// How the gradient passes.
    pub through: Through,
}

impl Question {
    /// How many targets each image has.
    pub fn targets(&self) -> usize {
        self.texts.len().max(1)
    }

    /// The lists of edits that are run: those that are asked for, after a run without any to lay beside it.
    pub fn variants(&self) -> Vec<Vec<Edit>> {
        match &self.splice {
            Some(splice) if !splice.edits.is_empty() => vec![Vec::new(), splice.edits.clone()],
            _ => vec![Vec::new()],
        }
    }

    /// Whether a method looks at the normalised pixels themselves, beside what the pass makes of them.
    pub fn reads_pixels(&self) -> bool {
        let reads = |method| matches!(method, Method::GradientXInput) || !pixels::is_direct(method);
        self.methods.iter().any(|(named, _)| reads(named.method))
    }

    /// The pass for `batch` images on `grid` that makes all maps but those of path methods.
    ///
    /// # Errors
    /// As [`Question::job`].
    pub fn direct_job(&self, batch: usize, grid: PatchGrid) -> Result<Job> {
        let direct = self.methods.iter().filter(|(named, _)| pixels::is_direct(named.method));
        let keys: BTreeSet<MapKey> = direct.map(|(_, key)| *key).collect();
        self.job(batch, grid, keys.into_iter().collect(), self.latents)
    }

    /// The pass for `batch` images on `grid`, as normalised pixels, that makes `keys`.
    ///
    /// # Errors
    /// A patch of `--tokens` that the grid does not have.
    pub fn job(&self, batch: usize, grid: PatchGrid, keys: Vec<MapKey>, latents: bool) -> Result<Job> {
        let splice = match &self.splice {
            None => None,
            Some(s) => Some(JobSplice {
                layer: s.layer,
                splice: s.splice,
                through: s.through,
                mask: s.tokens.mask(grid.tokens())?,
            }),
        };
        let objective = match self.score {
            Score::Cosine => JobObjective::Texts(ScoreKind::Cosine),
            Score::Logit => JobObjective::Texts(ScoreKind::Logit),
            Score::Softmax => JobObjective::Texts(ScoreKind::Softmax),
            Score::Latent(id) => JobObjective::Latent(id),
        };
        Ok(Job {
            batch,
            grid,
            pictures: Pictures::Pixels,
            objective,
            texts: self.embeddings.clone(),
            keys,
            latents,
            splice,
            variants: self.variants(),
            watched: false,
        })
    }

    /// Scores (B,Q) from a pass's raw values: cosines (B,Q) or latent sums (B).
    pub fn scores(&self, values: &[f64]) -> Vec<f64> {
        match self.score {
            Score::Cosine | Score::Latent(_) => values.to_vec(),
            Score::Logit => values.iter().map(|v| v * self.logit_scale).collect(),
            Score::Softmax => values
                .chunks(self.targets())
                .flat_map(|row| {
                    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let exp: Vec<f64> = row.iter().map(|v| (self.logit_scale * (v - max)).exp()).collect();
                    let sum: f64 = exp.iter().sum();
                    exp.into_iter().map(move |v| v / sum)
                })
                .collect(),
        }
    }
}

impl Engine {
    /// Checks a request, embeds its texts and puts its SAE on the device.
    ///
    /// # Errors
    /// [`Error::Usage`] for what the model does not have, [`Error::Fit`] for an SAE that does not fit.
    pub fn ask(&mut self, request: &Request) -> Result<Question> {
        let embeddings = self.embed_texts(&request.texts, &request.template)?;
        let mut question = self.ask_embedded(request, embeddings.values)?;
        question.warnings.extend(embeddings.warnings);
        Ok(question)
    }

    /// As [`Engine::ask`], with unit text embeddings (Q,E) at hand.
    ///
    /// # Errors
    /// As [`Engine::ask`].
    pub fn ask_embedded(&mut self, request: &Request, embeddings: Vec<f64>) -> Result<Question> {
        let mut warnings = Vec::new();
        let splice = match &request.sae {
            None => None,
            Some(sae) => Some(self.check_sae(sae, &mut warnings)?),
        };
        let depth = match (request.score, &request.sae, &splice) {
            (Score::Latent(id), Some(sae), Some(splice)) => {
                if id >= sae.weights.latents {
                    return Err(Error::usage(format!(
                        "--score latent:{id} is out of range: the SAE has latents 0 to {}",
                        sae.weights.latents - 1
                    )));
                }
                splice.layer + 1
            }
            (Score::Latent(_), ..) => {
                return Err(Error::usage("--score latent:ID needs an SAE (--sae and --layer)"));
            }
            _ if request.texts.is_empty() => {
                return Err(Error::usage("no text to explain: give --text or --texts-file"));
            }
            _ => self.layers(),
        };
        let methods = request
            .methods
            .iter()
            .map(|named| Ok((named.clone(), map_key(named, self.layers(), depth, request.score)?)))
            .collect::<Result<Vec<_>>>()?;
        if let Some(sae) = &request.sae {
            self.runner()?.load_saes(&[&sae.weights])?;
        }
        let latent = matches!(request.score, Score::Latent(_));
        Ok(Question {
            texts: if latent { Vec::new() } else { request.texts.clone() },
            embeddings: if latent { Vec::new() } else { embeddings },
            score: request.score,
            methods,
            splice,
            latents: request.latents,
            seed: request.seed,
            warnings,
            logit_scale: self.runner()?.logit_scale(),
        })
    }

    fn check_sae(&self, sae: &SaeRequest, warnings: &mut Vec<String>) -> Result<QuestionSplice> {
        let w = &sae.weights;
        let asked = sae.layer.map(|layer| resolve_layer(layer, self.layers(), "--layer")).transpose()?;
        let fit = w.fit(self.checkpoint.config.vision.tower.width, self.layers(), asked)?;
        warnings.extend(fit.warning);
        if let Some(edit) = sae.edits.iter().find(|e| e.latents().iter().any(|&id| id >= w.latents)) {
            return Err(Error::usage(format!(
                "edit `{edit}` is out of range: the SAE has latents 0 to {}",
                w.latents - 1
            )));
        }
        Ok(QuestionSplice {
            layer: fit.layer,
            tokens: sae.tokens.clone(),
            edits: sae.edits.clone(),
            splice: sae.splice,
            through: sae.through,
        })
    }
}

/// The map that a method starts from. `depth` is the number of blocks that the score reads.
fn map_key(named: &NamedMethod, layers: usize, depth: usize, score: Score) -> Result<MapKey> {
    let what = format!("method `{named}`");
    Ok(match named.method {
        Method::GradEclip { single_head: false } => MapKey::GradEclip,
        Method::GradEclip { single_head: true } => MapKey::GradEclipSingle,
        Method::Attention { layer } => MapKey::Attention(resolve_layer(layer, layers, &what)?),
        Method::Rollout { from } => MapKey::Rollout(resolve_layer(from, layers, &what)?),
        Method::Chefer { from } => MapKey::Chefer(resolve_layer(from, depth, &what)?),
        Method::Legrad { .. } if matches!(score, Score::Latent(_)) => {
            return Err(Error::usage(format!("{what} explains texts: it has no meaning for --score {score}")));
        }
        // A tower of one block has no last two: what there is takes part.
        Method::Legrad { from } => MapKey::Legrad(resolve_layer(from.max(-(layers as isize)), layers, &what)?),
        Method::GradCam { layer } => MapKey::GradCam(resolve_layer(layer, depth, &what)?),
        Method::Gradient | Method::GradientXInput | Method::IntegratedGradients { .. } | Method::SmoothGrad { .. } => {
            MapKey::Pixels
        }
    })
}
