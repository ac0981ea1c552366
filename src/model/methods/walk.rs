//! The shared reverse walk, from the score down as far as the methods ask: Grad-ECLIP at the last attention output,
//! Grad-CAM at a block's input, Chefer's relevance beside it, and the pixels at its end.

use super::{MapKey, Needs, attention::cls_rows};
use crate::{
    Result,
    backend::{Backend, Memory, Relevance, Tensor},
    model::{
        forward::named,
        output::{MapFetch, MapFetches},
        pass::{Forwarded, Model},
        reverse,
    },
};

/// Where a walk starts.
#[derive(Debug, Clone, Copy)]
pub struct Walk {
    /// (G,tokens,D): the gradient at the top block's output.
    pub dx: Tensor,
    /// Whether `dx` already lies before the splice (a latent's score does).
    pub before_splice: bool,
    /// Gradient images.
    pub g: usize,
}

/// Walks down and appends the maps (G,cells). Returns the gradient of the edited latents (G,tokens,C) if asked for.
pub fn walk<X: Backend>(
    x: &X,
    m: &mut X::Memory,
    model: &Model<'_, X>,
    forward: &Forwarded,
    start: Walk,
    needs: Needs<'_>,
    maps: &mut MapFetches,
    scope: &str,
) -> Result<Option<Tensor>> {
    let (t, p, g) = (model.grid.tokens(), model.grid.patches(), start.g);
    let (d, batch) = (model.vision.tower().width, model.batch);
    let tower = model.vision.tower();
    let mut dx = start.dx;
    let mut latents = None;
    let mut push = |key, map| maps.entry(key).or_default().push(map);
    let mut row = if needs.relevance(needs.top) { Some(cls_rows::<X>(m, g, t)?) } else { None };
    for l in (0..=needs.top).rev() {
        if start.before_splice && l == needs.top {
            m.observe(&format!("{scope}d.sae.x_in"), dx)?;
        } else {
            m.observe(&named(&format!("{scope}d."), l, "x"), dx)?;
            if let (Some(splicing), Some(tape)) = (&model.splicing, &forward.splice)
                && splicing.layer == l
            {
                let (before, dz) = splicing.reverse(x, m, dx, tape, batch, d, g, scope)?;
                dx = before;
                latents = needs.latents_at.map(|_| dz);
            }
        }
        if !needs.attention(l) {
            return Ok(latents);
        }
        let (weights, tape) = (&model.vision.blocks[l], &forward.blocks[l]);
        let d_o = reverse::to_attention(x, m, weights, tower.activation, dx, tape, tower.mlp_width, g, scope)?;
        if l == needs.top && needs.keys.contains(&MapKey::GradEclip) {
            let map = m.wide("map.grad-eclip", &[g, p])?;
            x.grad_eclip(m, map, d_o, tape.qkv, tape.shape, g)?;
            push(MapKey::GradEclip, MapFetch::cells(m, map)?);
        }
        // r <- r + r A: the row of R = (I + A_{L-1}) .. (I + A_from) that the score reads.
        let mut relevance = None;
        if let (Some(input), true) = (row, needs.relevance(l)) {
            let out = m.wide("relevance", &[g, t])?;
            relevance = Some(Relevance { out, input, keep: 1.0, gain: 1.0 });
            row = Some(out);
        }
        if needs.input(l) {
            dx = reverse::to_input(x, m, weights, dx, d_o, relevance, tape, g, scope)?;
        } else if relevance.is_some() {
            x.attention_reverse(m, None, relevance, d_o, tape.qkv, tape.lse, tape.shape, g)?;
        }
        if let (Some(row), true) = (row, needs.keys.contains(&MapKey::Chefer(l))) {
            push(MapKey::Chefer(l), MapFetch::rows(m, row, t, 1)?);
        }
        if needs.keys.contains(&MapKey::GradCam(l)) {
            let map = m.wide("map.grad-cam", &[g, p])?;
            x.grad_cam(m, map, dx, tape.x, batch, t, d, g)?;
            push(MapKey::GradCam(l), MapFetch::cells(m, map)?);
        }
        if !needs.input(l) {
            return Ok(latents);
        }
    }
    if needs.keys.contains(&MapKey::Pixels) {
        let dpixels = reverse::to_pixels(x, m, model.vision, dx, &forward.embed, batch, model.grid, g, scope)?;
        push(MapKey::Pixels, MapFetch::cells(m, dpixels)?);
    }
    Ok(latents)
}
