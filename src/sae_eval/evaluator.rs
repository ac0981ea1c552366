//! Images through CLIP, once for all SAEs, and through each SAE.

use serde::Serialize;

use super::{
    Ablation, Alignment, AlignmentReport, ContrastiveReport, Firing, FiringReport, Reconstruction,
    ReconstructionReport, ZeroShotReport, contrastive_loss, unit,
};
use crate::{
    Error, Result,
    backend::PatchGrid,
    engine::Engine,
    image::Prepared,
    model::Tokens,
    text::Template,
    weights::{SaeWeights, TokenScopeHint},
};

/// Where an SAE reads and writes.
#[derive(Debug, Clone, PartialEq)]
pub struct Scope {
    /// The block whose output it is.
    pub layer: usize,
    /// The tokens.
    pub tokens: Tokens,
}

/// An SAE that is evaluated.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The SAE.
    pub weights: SaeWeights,
    /// Where it goes.
    pub scope: Scope,
}

impl Candidate {
    /// An SAE where its file says it was trained, or at another block or on other tokens; and what the user should know
    /// about that. A file that names no tokens means all.
    ///
    /// # Errors
    /// Those of [`SaeWeights::fit`].
    pub fn new(
        weights: SaeWeights,
        engine: &Engine,
        layer: Option<usize>,
        tokens: Option<Tokens>,
    ) -> Result<(Self, Option<String>)> {
        let fit = weights.fit(engine.checkpoint.config.vision.tower.width, engine.layers(), layer)?;
        let trained_on = weights.hook.as_ref().and_then(|hook| hook.tokens).map(|hint| match hint {
            TokenScopeHint::All => Tokens::All,
            TokenScopeHint::Cls => Tokens::Cls,
            TokenScopeHint::Patches => Tokens::Patches,
        });
        let scope = Scope { layer: fit.layer, tokens: tokens.or(trained_on).unwrap_or(Tokens::All) };
        Ok((Candidate { weights, scope }, fit.warning))
    }
}

/// What the splice is measured on, beside the stream.
#[derive(Debug, Clone, Default)]
pub struct Probes {
    /// Texts whose similarities are watched.
    pub texts: Vec<String>,
    /// Zero-shot classes.
    pub classes: Vec<String>,
    /// How texts and classes are phrased; captions stay as they are.
    pub template: Template,
    /// Image-caption pairs that share a contrastive loss.
    pub contrastive_batch: usize,
}

/// One image.
#[derive(Debug, Clone, Copy)]
pub struct Example<'a> {
    /// Its pixels.
    pub prepared: &'a Prepared,
    /// Its zero-shot class.
    pub class: Option<usize>,
    /// What it shows.
    pub caption: Option<&'a str>,
}

/// What is known of one SAE.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// How the stream is rebuilt.
    pub reconstruction: ReconstructionReport,
    /// How latents fire.
    pub firing: FiringReport,
    /// What becomes of image embeddings and similarities.
    pub alignment: AlignmentReport,
    /// What becomes of zero-shot classes, where images have some.
    pub zero_shot: Option<ZeroShotReport>,
    /// What becomes of CLIP's loss, where images have captions.
    pub contrastive: Option<ContrastiveReport>,
}

/// The sums of one SAE.
struct Sums {
    reconstruction: Reconstruction,
    firing: Firing,
    alignment: Alignment,
    /// Index of its scope among the distinct ones.
    scope: usize,
}

/// Image-caption pairs that wait for their batch to be full, and the sum of the losses before.
#[derive(Default)]
struct Pairs {
    captions: Vec<String>,
    /// (n,E), rows of length 1: of CLIP, with each SAE, with each scope set to zero.
    original: Vec<f64>,
    spliced: Vec<Vec<f64>>,
    zero_ablated: Vec<Vec<f64>>,
    /// Sum over pairs of the loss of their batch, by SAE.
    losses: Vec<Ablation>,
    done: usize,
}

/// Accumulates over images; all SAEs share the forward up to their block.
pub struct Evaluator {
    candidates: Vec<Candidate>,
    /// The distinct scopes, and their layers in ascending order.
    scopes: Vec<Scope>,
    hooks: Vec<usize>,
    probes: Probes,
    /// (Q,E) and (K,E), rows of length 1.
    texts: Vec<f64>,
    classes: Vec<f64>,
    /// `E`.
    width: usize,
    scale: f64,
    sums: Vec<Sums>,
    pairs: Pairs,
    images: usize,
    /// Texts and captions that were cut.
    pub warnings: Vec<String>,
}

impl Evaluator {
    /// Puts the SAEs on the engine's device and embeds the texts.
    ///
    /// # Errors
    /// Those of the model's weights and of the texts.
    pub fn new(engine: &mut Engine, candidates: Vec<Candidate>, probes: Probes) -> Result<Self> {
        engine.load_saes(&candidates.iter().map(|c| &c.weights).collect::<Vec<_>>())?;
        let texts = engine.embed_texts(&probes.texts, &probes.template)?;
        let classes = engine.embed_texts(&probes.classes, &probes.template)?;
        let mut scopes: Vec<Scope> = Vec::new();
        let mut sums = Vec::new();
        for Candidate { weights, scope } in &candidates {
            let at = scopes.iter().position(|known| known == scope).unwrap_or_else(|| {
                scopes.push(scope.clone());
                scopes.len() - 1
            });
            sums.push(Sums {
                reconstruction: Reconstruction::default(),
                firing: Firing::new(weights.latents),
                alignment: Alignment::new(probes.texts.len()),
                scope: at,
            });
        }
        let mut hooks: Vec<usize> = scopes.iter().map(|scope| scope.layer).collect();
        hooks.sort_unstable();
        hooks.dedup();
        let pairs = Pairs {
            spliced: vec![Vec::new(); candidates.len()],
            zero_ablated: vec![Vec::new(); scopes.len()],
            losses: vec![Ablation::default(); candidates.len()],
            ..Pairs::default()
        };
        Ok(Evaluator {
            scopes,
            hooks,
            width: engine.checkpoint.config.embed,
            scale: engine.runner()?.logit_scale(),
            warnings: [texts.warnings, classes.warnings].concat(),
            texts: texts.values,
            classes: classes.values,
            probes,
            candidates,
            sums,
            pairs,
            images: 0,
        })
    }

    /// Adds images, which must all have one size.
    ///
    /// # Errors
    /// Those of the device; a patch in scope that an image of this size does not have.
    pub fn add(&mut self, engine: &mut Engine, examples: &[Example<'_>]) -> Result<()> {
        let Some(first) = examples.first() else { return Ok(()) };
        let grid = engine.grid(first.prepared.width, first.prepared.height)?;
        let masks: Vec<Vec<bool>> =
            self.scopes.iter().map(|scope| scope.tokens.mask(grid.tokens())).collect::<Result<_>>()?;
        let prepared: Vec<&Prepared> = examples.iter().map(|example| example.prepared).collect();
        let plain = engine.embed_images(&prepared, &self.hooks)?;
        let streams: Vec<&[f64]> = self.scopes.iter().map(|scope| self.stream(&plain.streams, scope)).collect();
        let d = engine.checkpoint.config.vision.tower.width;
        let mut zero_ablated = Vec::new();
        for ((scope, mask), stream) in self.scopes.iter().zip(&masks).zip(&streams) {
            let zeroed = zeroed(stream, mask, d);
            zero_ablated.push(engine.embed_stream(&zeroed, examples.len(), grid, scope.layer)?);
        }
        let mut spliced = Vec::new();
        for i in 0..self.candidates.len() {
            let scope = self.sums[i].scope;
            spliced.push(self.splice(engine, i, streams[scope], &masks[scope], examples.len(), grid)?);
        }
        for (b, example) in examples.iter().enumerate() {
            let row = |embeddings: &[f64]| unit(&embeddings[b * self.width..][..self.width]);
            let original = row(&plain.embeddings);
            let zero_ablated: Vec<Vec<f64>> = zero_ablated.iter().map(|e| row(e)).collect();
            let spliced: Vec<Vec<f64>> = spliced.iter().map(|e| row(e)).collect();
            for (sums, spliced) in self.sums.iter_mut().zip(&spliced) {
                let embeddings = [original.as_slice(), spliced, &zero_ablated[sums.scope]];
                sums.alignment.add(embeddings, &self.texts, &self.classes, example.class, self.scale);
            }
            if let Some(caption) = example.caption {
                self.pairs.captions.push(caption.to_owned());
                self.pairs.original.extend(original);
                self.pairs.spliced.iter_mut().zip(spliced).for_each(|(all, row)| all.extend(row));
                self.pairs.zero_ablated.iter_mut().zip(zero_ablated).for_each(|(all, row)| all.extend(row));
                if self.pairs.captions.len() >= self.probes.contrastive_batch {
                    self.contrast(engine)?;
                }
            }
        }
        self.images += examples.len();
        Ok(())
    }

    /// The measures of each SAE. A latent is rare if it fires on less than `rare` of the tokens.
    ///
    /// # Errors
    /// Those of embedding the last captions; [`Error::Usage`] where no image was added.
    pub fn finish(mut self, engine: &mut Engine, rare: f64) -> Result<(Vec<Report>, Vec<String>)> {
        if self.images == 0 {
            return Err(Error::usage("there is no image to evaluate on"));
        }
        self.contrast(engine)?;
        let n = self.pairs.done as f64;
        let reports = self.sums.iter().zip(&self.pairs.losses).map(|(sums, losses)| {
            let loss = losses.map(|sum| sum / n);
            Report {
                reconstruction: sums.reconstruction.report(),
                firing: sums.firing.report(rare),
                alignment: sums.alignment.report(&self.probes.texts),
                zero_shot: sums.alignment.zero_shot(self.probes.classes.len()),
                contrastive: (self.pairs.done > 0).then(|| ContrastiveReport {
                    pairs: self.pairs.done,
                    batch: self.probes.contrastive_batch,
                    loss,
                    recovered: loss.recovered(),
                }),
            }
        });
        Ok((reports.collect(), self.warnings))
    }

    /// The stream (B,T,D) that a scope lies in.
    fn stream<'a>(&self, streams: &'a [Vec<f64>], scope: &Scope) -> &'a [f64] {
        self.hooks.iter().position(|&layer| layer == scope.layer).and_then(|at| streams.get(at)).map_or(&[], |s| s)
    }

    /// Puts a stream (B,T,D) through an SAE, image by image, and embeds what comes out.
    fn splice(
        &mut self,
        engine: &mut Engine,
        sae: usize,
        stream: &[f64],
        mask: &[bool],
        batch: usize,
        grid: PatchGrid,
    ) -> Result<Vec<f64>> {
        let width = self.candidates[sae].weights.width;
        let sums = &mut self.sums[sae];
        let mut after = Vec::with_capacity(stream.len());
        for before in stream.chunks(stream.len() / batch) {
            let rebuilt = engine.reconstruct(sae, before, mask)?;
            let in_scope = || (0..mask.len()).filter(|&t| mask[t]);
            let rows = before.chunks(width).zip(rebuilt.stream.chunks(width)).enumerate();
            for (t, (x, y)) in rows.filter(|(t, _)| mask[*t]) {
                sums.reconstruction.add(x, y, rebuilt.latents.firing(t).count(), t == 0);
            }
            sums.firing.add(in_scope().map(|t| rebuilt.latents.firing(t)));
            after.extend(rebuilt.stream);
        }
        engine.embed_stream(&after, batch, grid, self.candidates[sae].scope.layer)
    }

    /// The losses of the pairs that wait.
    fn contrast(&mut self, engine: &mut Engine) -> Result<()> {
        let captions = std::mem::take(&mut self.pairs.captions);
        if captions.is_empty() {
            return Ok(());
        }
        let texts = engine.embed_texts(&captions, &Template::default())?;
        self.warnings.extend(texts.warnings);
        let n = captions.len() as f64;
        let take_loss = |images: &mut Vec<f64>| {
            let images = std::mem::take(images);
            n * contrastive_loss(&images, &texts.values, self.width, self.scale)
        };
        let original = take_loss(&mut self.pairs.original);
        let zero_ablated: Vec<f64> = self.pairs.zero_ablated.iter_mut().map(take_loss).collect();
        for ((sums, losses), spliced) in self.sums.iter().zip(&mut self.pairs.losses).zip(&mut self.pairs.spliced) {
            losses.add([original, take_loss(spliced), zero_ablated[sums.scope]]);
        }
        self.pairs.done += captions.len();
        Ok(())
    }
}

/// A stream (B,T,D) with the tokens of `mask` (T) set to zero.
fn zeroed(stream: &[f64], mask: &[bool], width: usize) -> Vec<f64> {
    let rows = stream.chunks(width).zip(mask.iter().cycle());
    rows.flat_map(|(row, &zero)| row.iter().map(move |&v| if zero { 0.0 } else { v })).collect()
}
