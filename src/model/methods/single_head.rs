//! Grad-ECLIP as its authors' code runs it: the last block is recomputed with ONE head of the whole width, and score
//! and map are those of that modified forward (repository Cyang-Zhao/Grad-Eclip).

use std::collections::BTreeSet;

use super::{MapKey, Needs, walk};
use crate::{
    Result,
    backend::{AttentionShape, Backend, Fetch},
    model::{
        forward,
        output::MapFetches,
        pass::{Forwarded, Model},
        request::Edit,
    },
};

/// Recomputes the top block with one head and makes its map. Returns the scores' raw values (see [`Model::score`]).
pub fn single_head_maps<X: Backend>(
    x: &X,
    m: &mut X::Memory,
    model: &Model<'_, X>,
    forward: &Forwarded,
    edits: &[Edit],
    maps: &mut MapFetches,
) -> Result<Fetch> {
    let (top, tower) = (model.top(), model.vision.tower());
    let tape = &forward.blocks[top];
    let shape = AttentionShape { heads: 1, head_dim: tower.width, ..tape.shape };
    let weights = &model.vision.blocks[top];
    let (out, single) =
        forward::block(x, m, weights, tower.activation, tape.x, shape, "single.", top, tower.mlp_width, true)?;
    let mut blocks = forward.blocks[..top].to_vec();
    blocks.push(single);
    let mut outputs = forward.outputs[..top].to_vec();
    outputs.push(out);
    let mut modified = Forwarded { blocks, outputs, ..*forward };
    if model.splicing.as_ref().is_some_and(|s| s.layer == top) {
        modified.splice = None;
        model.splice(x, m, &mut modified, edits, "single.")?;
    }
    let (ends, values) = model.score(x, m, &modified, "single.")?;

    let keys = BTreeSet::from([MapKey::GradEclip]);
    let needs = Needs { keys: &keys, top, latents_at: None };
    let mut own = MapFetches::new();
    for targets in model.chunks(&needs) {
        let start = model.start(x, m, &modified, &ends, targets, "single.")?;
        walk(x, m, model, &modified, start, needs, &mut own, "single.")?;
    }
    maps.extend(own.into_values().map(|map| (MapKey::GradEclipSingle, map)));
    Ok(values)
}
