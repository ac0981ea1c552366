//! Heatmaps from one forward. Methods that share a reverse pass share it.

mod attention;
mod legrad;
mod single_head;
mod walk;

use std::collections::BTreeSet;

pub use attention::attention_maps;
pub use legrad::legrad_maps;
pub use single_head::single_head_maps;
pub use walk::{Walk, walk};

/// One kind of map that a pass can make, layers resolved. Pixel gradients are what several methods start from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MapKey {
    /// CLS row of this block's attention.
    Attention(usize),
    /// Rollout from this block on.
    Rollout(usize),
    /// Chefer's relevance from this block on.
    Chefer(usize),
    /// LeGrad from this block on.
    Legrad(usize),
    /// Grad-CAM on the input of this block.
    GradCam(usize),
    /// Grad-ECLIP.
    GradEclip,
    /// Grad-ECLIP as its authors run it, the last block with one head.
    GradEclipSingle,
    /// The gradient of the pixels.
    Pixels,
}

impl MapKey {
    /// The lowest block whose MLP the key's reverse passes; `top` is the block that the score follows.
    pub fn lowest_reversed(self, top: usize) -> Option<usize> {
        match self {
            MapKey::Attention(_) | MapKey::Rollout(_) | MapKey::GradEclipSingle => None,
            MapKey::Chefer(l) | MapKey::Legrad(l) | MapKey::GradCam(l) => Some(l),
            MapKey::GradEclip => Some(top),
            MapKey::Pixels => Some(0),
        }
    }
}

/// What a set of keys asks of the shared reverse walk at each block.
#[derive(Debug, Clone, Copy)]
pub struct Needs<'a> {
    /// The keys.
    pub keys: &'a BTreeSet<MapKey>,
    /// The block that the score follows.
    pub top: usize,
    /// The hooked block, when the gradient of its latents is asked for.
    pub latents_at: Option<usize>,
}

impl Needs<'_> {
    fn any(&self, test: impl Fn(MapKey) -> bool) -> bool {
        self.keys.iter().any(|&key| test(key))
    }

    /// Whether the gradient must reach the input of block `l`.
    pub fn input(&self, l: usize) -> bool {
        self.latents_at.is_some_and(|h| h < l)
            || self.any(|key| match key {
                MapKey::Pixels => true,
                MapKey::GradCam(k) => k <= l,
                MapKey::Chefer(k) => k < l,
                _ => false,
            })
    }

    /// Whether the gradient must reach the attention output of block `l`.
    pub fn attention(&self, l: usize) -> bool {
        self.input(l)
            || self.any(|key| match key {
                MapKey::GradEclip => l == self.top,
                MapKey::Chefer(k) => k <= l,
                _ => false,
            })
    }

    /// Whether the shared walk has anything to do.
    pub fn walk(&self) -> bool {
        self.latents_at.is_some() || self.attention(self.top)
    }

    /// Whether block `l` takes part in Chefer's relevance.
    pub fn relevance(&self, l: usize) -> bool {
        self.any(|key| matches!(key, MapKey::Chefer(k) if k <= l))
    }

    /// Whether the walk ends inside the top block, so that many targets fit into one.
    pub fn shallow(&self) -> bool {
        !self.input(self.top)
    }
}
