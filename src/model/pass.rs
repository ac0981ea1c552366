//! One pass over a batch: the forward, once or once with each list of edits, and all maps that were asked for.
//!
//! The part up to the hooked block is shared by the variants; the reverse passes are shared by the methods.

use std::collections::BTreeSet;

use super::{
    clip::Vision,
    forward::{self, BlockTape, EmbedTape},
    head::{self, HeadTape, Targets, Texts},
    methods::{Needs, Walk, attention_maps, legrad_maps, single_head_maps, walk},
    output::{LatentsFetch, MapFetches, VariantFetch},
    request::Edit,
    splice::{SpliceTape, Splicing},
};
pub use super::{
    head::{embed_texts, text_tokens},
    methods::MapKey,
    output::{Latents, VariantOutput},
};
use crate::{
    Error, Result,
    backend::{AttentionShape, Backend, Fetch, Memory, PatchGrid, ScoreKind, Tensor},
};

/// What is explained.
#[derive(Debug)]
pub enum Objective<'a, V> {
    /// The score of each text.
    Texts {
        /// The texts.
        texts: &'a Texts<V>,
        /// The score.
        kind: ScoreKind,
    },
    /// The sum of one latent over the tokens in scope.
    Latent(usize),
}

/// Everything that decides a pass but the pixels.
pub struct Model<'a, X: Backend> {
    /// The image tower.
    pub vision: &'a Vision<X::Matrix, X::Vector>,
    /// Positions (T,D) of the grid.
    pub positions: &'a X::Vector,
    /// `B`.
    pub batch: usize,
    /// The patches.
    pub grid: PatchGrid,
    /// (3,256): the normalised value of each byte, where the input is the pictures' bytes.
    pub table: Option<&'a X::Vector>,
    /// What is explained.
    pub objective: Objective<'a, X::Vector>,
    /// The SAE, if one is spliced in.
    pub splicing: Option<Splicing<'a, X::Sae>>,
    /// The maps to make.
    pub keys: &'a BTreeSet<MapKey>,
    /// Whether the code and its gradient are wanted.
    pub latents: bool,
}

/// What the forward left, block by block.
#[derive(Debug, Clone)]
pub struct Forwarded {
    /// The embedding's tape.
    pub embed: EmbedTape,
    /// Every block's tape.
    pub blocks: Vec<BlockTape>,
    /// Every block's output before any splice.
    pub outputs: Vec<Tensor>,
    /// The splice's tape.
    pub splice: Option<SpliceTape>,
}

impl Forwarded {
    /// What block `l` hands on, after the splice if there is one.
    pub fn output(&self, l: usize) -> Tensor {
        match &self.splice {
            Some(splice) if splice.x == self.outputs[l] => splice.out,
            _ => self.outputs[l],
        }
    }
}

/// Where the score was read.
#[derive(Debug, Clone, Copy)]
pub enum Ends {
    /// After the head.
    Head(HeadTape),
    /// At the hook.
    Latent,
}

/// Rows of gradient that a shallow walk takes at a time.
const SHALLOW_ROWS: usize = 64;

impl<'a, X: Backend> Model<'a, X> {
    /// The block that the score follows.
    pub fn top(&self) -> usize {
        match (&self.objective, &self.splicing) {
            (Objective::Latent(_), Some(splicing)) => splicing.layer,
            _ => self.vision.blocks.len() - 1,
        }
    }

    /// How many targets each image has.
    pub fn targets(&self) -> usize {
        match &self.objective {
            Objective::Texts { texts, .. } => texts.count,
            Objective::Latent(_) => 1,
        }
    }

    fn needs(&self) -> Needs<'_> {
        let latents_at = self.splicing.as_ref().filter(|_| self.latents).map(|s| s.layer);
        Needs { keys: self.keys, top: self.top(), latents_at }
    }

    /// Whether the last block may compute its CLS row alone.
    fn trims(&self, watched: bool) -> bool {
        let reads_patches = self.latents
            || matches!(self.objective, Objective::Latent(_))
            || self.keys.iter().any(|key| matches!(key, MapKey::Legrad(_)));
        !watched && !reads_patches
    }

    /// The lowest block whose reverse is run, and so whose `u` is kept.
    fn lowest_kept(&self) -> usize {
        let keys = self.keys.iter().filter_map(|key| key.lowest_reversed(self.top()));
        let latents = self.needs().latents_at.map(|l| l + 1);
        keys.chain(latents).min().unwrap_or(usize::MAX)
    }

    /// The targets in the groups that share a walk: many when it ends in the top block, else one by one.
    pub fn chunks(&self, needs: &Needs<'_>) -> Vec<Targets> {
        let size = if needs.shallow() { (SHALLOW_ROWS / self.batch).max(1) } else { 1 };
        let count = self.targets();
        (0..count).step_by(size).map(|first| Targets { first, count: size.min(count - first) }).collect()
    }

    /// Encodes, edits and splices at the output of the last block so far.
    pub fn splice(&self, x: &X, m: &mut X::Memory, forward: &mut Forwarded, edits: &[Edit], scope: &str) -> Result<()> {
        if let (Some(splicing), Some(&stream), Some(last)) =
            (&self.splicing, forward.outputs.last(), forward.blocks.last())
        {
            let (tokens, d) = (last.tokens_out(), self.vision.tower().width);
            forward.splice = Some(splicing.forward(x, m, stream, edits, self.batch, tokens, d, scope)?);
        }
        Ok(())
    }

    /// The raw values of the score at the end of a forward, and where they were read.
    pub fn score(&self, x: &X, m: &mut X::Memory, forward: &Forwarded, scope: &str) -> Result<(Ends, Fetch)> {
        match &self.objective {
            Objective::Texts { texts, .. } => {
                let top = self.top();
                let tokens = forward.blocks[top].tokens_out();
                let head = head::forward(x, m, self.vision, texts, forward.output(top), tokens, self.batch, scope)?;
                Ok((Ends::Head(head), m.fetch(head.cos)?))
            }
            Objective::Latent(id) => {
                let Some(splice) = &forward.splice else {
                    return Err(Error::usage("score latent:ID needs an SAE (--sae and --layer)"));
                };
                let t = self.grid.tokens();
                let score = m.wide("score", &[self.batch])?;
                x.sae_latent(m, score, splice.code, *id, self.batch, t)?;
                Ok((Ends::Latent, m.fetch(score)?))
            }
        }
    }

    /// The gradient of some targets at the top block's output.
    pub fn start(
        &self,
        x: &X,
        m: &mut X::Memory,
        forward: &Forwarded,
        ends: &Ends,
        targets: Targets,
        scope: &str,
    ) -> Result<Walk> {
        let g = targets.count * self.batch;
        match (&self.objective, ends, &self.splicing, &forward.splice) {
            (Objective::Texts { texts, kind }, Ends::Head(tape), ..) => {
                let dx = head::reverse(x, m, self.vision, texts, tape, *kind, targets, self.batch, scope)?;
                Ok(Walk { dx, before_splice: false, g })
            }
            (Objective::Latent(id), Ends::Latent, Some(splicing), Some(splice)) => {
                let (t, d) = (self.grid.tokens(), self.vision.tower().width);
                let dx = m.tensor("d.latent", &[g, t, d])?;
                x.sae_latent_reverse(m, dx, splice.x, splice.code, splicing.sae, *id, g * t)?;
                Ok(Walk { dx, before_splice: true, g })
            }
            _ => Err(Error::usage("score latent:ID needs an SAE (--sae and --layer)")),
        }
    }

    /// Runs blocks `layers` on what `forward` holds.
    fn blocks(
        &self,
        x: &X,
        m: &mut X::Memory,
        forward: &mut Forwarded,
        mut stream: Tensor,
        layers: std::ops::Range<usize>,
        scope: &str,
    ) -> Result<()> {
        let (tower, t) = (self.vision.tower(), self.grid.tokens());
        let (last, kept, trims) = (self.vision.blocks.len() - 1, self.lowest_kept(), self.trims(m.watched()));
        for layer in layers {
            let shape = AttentionShape {
                batch: self.batch,
                tokens: t,
                queries: if layer == last && trims { 1 } else { t },
                heads: tower.heads,
                head_dim: tower.width / tower.heads,
                causal: false,
            };
            let weights = &self.vision.blocks[layer];
            let keep = layer >= kept;
            let (out, tape) =
                forward::block(x, m, weights, tower.activation, stream, shape, scope, layer, tower.mlp_width, keep)?;
            forward.blocks.push(tape);
            forward.outputs.push(out);
            stream = out;
        }
        Ok(())
    }

    /// The whole pass: one output for each of `variants`, lists of edits of the spliced SAE.
    ///
    /// # Errors
    /// Those of the device; [`Error::Usage`] for a latent score without an SAE.
    pub fn run(&self, x: &X, m: &mut X::Memory, variants: &[&[Edit]]) -> Result<Vec<VariantFetch>> {
        let picture = forward::input(m, self.table, self.batch, self.grid)?;
        let (x0, embed) = forward::embed(x, m, self.vision, self.positions, picture, self.batch, self.grid)?;
        // A latent's score needs no block past the hook; attention maps read them all.
        let ungraded = self.keys.iter().any(|k| matches!(k, MapKey::Attention(_) | MapKey::Rollout(_)));
        let depth = if ungraded { self.vision.blocks.len() } else { self.top() + 1 };
        let shared = self.splicing.as_ref().map_or(depth, |s| s.layer + 1);
        let mut prefix = Forwarded { embed, blocks: Vec::new(), outputs: Vec::new(), splice: None };
        self.blocks(x, m, &mut prefix, x0, 0..shared, "")?;

        let mut outputs = Vec::with_capacity(variants.len());
        for (i, edits) in variants.iter().enumerate() {
            let scope = if i + 1 < variants.len() { "baseline." } else { "" };
            let mut forward = prefix.clone();
            self.splice(x, m, &mut forward, edits, scope)?;
            let stream = forward.output(shared - 1);
            self.blocks(x, m, &mut forward, stream, shared..depth, scope)?;
            outputs.push(self.explain(x, m, &forward, edits, scope)?);
        }
        Ok(outputs)
    }

    /// All maps of one forward.
    fn explain(
        &self,
        x: &X,
        m: &mut X::Memory,
        forward: &Forwarded,
        edits: &[Edit],
        scope: &str,
    ) -> Result<VariantFetch> {
        let (ends, values) = self.score(x, m, forward, scope)?;
        let mut out = VariantFetch { values, single_values: None, maps: MapFetches::new(), latents: None };
        attention_maps(x, m, self.keys, &forward.blocks, self.targets(), &mut out.maps)?;
        let needs = self.needs();
        if let (true, Some(splice)) = (self.latents, &forward.splice) {
            out.latents = Some(LatentsFetch::new(m, splice.code)?);
        }
        if needs.walk() {
            for targets in self.chunks(&needs) {
                // A watcher compares the first target's gradients.
                let scope = if targets.first == 0 { scope } else { "later." };
                let start = self.start(x, m, forward, &ends, targets, scope)?;
                let dz = walk(x, m, self, forward, start, needs, &mut out.maps, scope)?;
                if let (Some(latents), Some(dz)) = (&mut out.latents, dz) {
                    latents.dz.push(m.fetch(dz)?);
                }
            }
        }
        for &key in self.keys {
            match (key, &self.objective) {
                (MapKey::Legrad(from), Objective::Texts { texts, .. }) => {
                    for first in 0..texts.count {
                        let targets = Targets { first, count: 1 };
                        legrad_maps(x, m, self, texts, forward, from, targets, &mut out.maps)?;
                    }
                }
                (MapKey::Legrad(_), Objective::Latent(_)) => {
                    return Err(Error::usage("legrad explains texts, not latents"));
                }
                (MapKey::GradEclipSingle, _) => {
                    out.single_values = Some(single_head_maps(x, m, self, forward, edits, &mut out.maps)?);
                }
                _ => {}
            }
        }
        Ok(out)
    }
}
