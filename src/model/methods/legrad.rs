//! LeGrad (Bousselham et al., 2024): for each block a score of its own, from the mean over all tokens of its output,
//! and the gradient of that score with respect to the block's attention probabilities, through this block alone.

use super::MapKey;
use crate::{
    Result,
    backend::{Backend, Epilogue, Memory, ScoreKind, Tensor},
    model::{
        head::{self, Targets, Texts},
        output::{MapFetch, MapFetches},
        pass::{Forwarded, Model},
        reverse,
    },
};

/// LeGrad's map (G,P) of the blocks from `from` on, for `targets`. The score is the cosine, as the authors define it.
pub fn legrad_maps<X: Backend>(
    x: &X,
    m: &mut X::Memory,
    model: &Model<'_, X>,
    texts: &Texts<X::Vector>,
    forward: &Forwarded,
    from: usize,
    targets: Targets,
    maps: &mut MapFetches,
) -> Result<()> {
    let (t, p, batch) = (model.grid.tokens(), model.grid.patches(), model.batch);
    let (tower, e) = (model.vision.tower(), model.vision.embed);
    let (d, g) = (tower.width, targets.count * batch);
    let map = m.wide("map.legrad", &[g, p])?;
    x.fill(m, map, 0.0)?;
    for tape in &forward.blocks[from..] {
        let out: Tensor = forward.output(tape.layer);
        let mean = m.tensor("legrad.mean", &[batch, d])?;
        x.mean_tokens(m, mean, out, batch, t, d)?;
        let normed = m.tensor("legrad.normed", &[batch, d])?;
        let stats = m.wide("legrad.stats", &[batch, 2])?;
        x.layer_norm(m, normed, stats, mean.rows(d), &model.vision.ln_post, batch)?;
        let embed = m.tensor("legrad.embed", &[batch, e])?;
        x.linear(m, embed, normed, &model.vision.projection, Epilogue::None, batch)?;
        let cos = m.wide("legrad.cos", &[batch, texts.count])?;
        x.cosine(m, cos, embed, &texts.embeddings, batch, texts.count, e)?;
        let dembed = m.tensor("legrad.d.embed", &[g, e])?;
        let (kind, first) = (ScoreKind::Cosine, targets.first);
        x.score_reverse(m, dembed, embed, cos, &texts.embeddings, kind, 1.0, first, batch, texts.count, e, g)?;
        let dmean = head::embed_reverse(x, m, model.vision, mean, stats, dembed, 1, batch, g)?;
        let mut dx = m.tensor("legrad.d.x", &[g, t, d])?;
        x.mean_tokens_reverse(m, dx, dmean, g, t, d)?;
        if let (Some(splicing), Some(splice)) = (&model.splicing, &forward.splice)
            && splicing.layer == tape.layer
        {
            (dx, _) = splicing.reverse(x, m, dx, splice, batch, d, g, "legrad.")?;
        }
        let weights = &model.vision.blocks[tape.layer];
        let d_o = reverse::to_attention(x, m, weights, tower.activation, dx, tape, tower.mlp_width, g, "legrad.")?;
        x.attention_positive_gradient(m, map, d_o, tape.qkv, tape.shape, g)?;
    }
    maps.entry(MapKey::Legrad(from)).or_default().push(MapFetch::cells(m, map)?);
    Ok(())
}
