//! Maps that need no gradient: the CLS row of attention, and rollout (Abnar & Zuidema, 2020).

use std::collections::BTreeSet;

use super::MapKey;
use crate::{
    Result,
    backend::{Backend, Memory, Relevance, Tensor},
    model::{
        forward::BlockTape,
        output::{MapFetch, MapFetches},
    },
};

/// Rows that start at CLS: 1 in its place, 0 elsewhere (rows,T).
pub fn cls_rows<X: Backend>(m: &mut X::Memory, rows: usize, tokens: usize) -> Result<Tensor> {
    let r = m.wide("relevance", &[rows, tokens])?;
    let mut values = vec![0.0; rows * tokens];
    values.iter_mut().step_by(tokens).for_each(|v| *v = 1.0);
    m.constant(r, &values)?;
    Ok(r)
}

/// Attention rows and rollouts, the same for every target.
///
/// Rollout is R = A_{L-1} .. A_from with A = (mean over heads of P + I) / 2, whose rows sum to 1. Only its CLS row is
/// wanted, so a row is multiplied through from the last block to the first, and no (T,T) matrix is formed.
pub fn attention_maps<X: Backend>(
    x: &X,
    m: &mut X::Memory,
    keys: &BTreeSet<MapKey>,
    blocks: &[BlockTape],
    targets: usize,
    maps: &mut MapFetches,
) -> Result<()> {
    for &key in keys {
        let (steps, keep, gain) = match key {
            MapKey::Attention(l) => (l..l + 1, 0.0, 1.0),
            MapKey::Rollout(from) => (from..blocks.len(), 0.5, 0.5),
            _ => continue,
        };
        let shape = blocks[steps.start].shape;
        let mut row = cls_rows::<X>(m, shape.batch, shape.tokens)?;
        for block in blocks[steps].iter().rev() {
            let out = m.wide("relevance", &[shape.batch, shape.tokens])?;
            let relevance = Relevance { out, input: row, keep, gain };
            x.attention_row(m, relevance, block.qkv, block.lse, block.shape)?;
            row = out;
        }
        maps.entry(key).or_default().push(MapFetch::rows(m, row, shape.tokens, targets)?);
    }
    Ok(())
}
