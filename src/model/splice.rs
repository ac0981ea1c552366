//! The SAE in the residual stream of one pass.

use super::request::{Edit, Splice, Through};
use crate::{
    Result,
    backend::{Backend, Code, Memory, Tensor},
};

/// An SAE and how it is spliced; the edits come with the variant.
pub struct Splicing<'a, S> {
    /// The SAE.
    pub sae: &'a S,
    /// `S`.
    pub latents: usize,
    /// The block whose output is hooked.
    pub layer: usize,
    /// What is put back.
    pub splice: Splice,
    /// How the gradient passes.
    pub through: Through,
    /// (T): tokens in scope, CLS first.
    pub mask: Vec<bool>,
}

impl<S> Clone for Splicing<'_, S> {
    fn clone(&self) -> Self {
        Splicing { mask: self.mask.clone(), ..*self }
    }
}

/// What the splice leaves on the tape.
#[derive(Debug, Clone, Copy)]
pub struct SpliceTape {
    /// (B,tokens,D), the hooked block's output.
    pub x: Tensor,
    /// (B,tokens,D), what goes on.
    pub out: Tensor,
    /// The code.
    pub code: Code,
    /// `T`, or 1 when the hooked block was trimmed.
    pub tokens: usize,
}

impl<S> Splicing<'_, S> {
    /// The mask of the tokens that are computed.
    pub fn mask(&self, tokens: usize) -> &[bool] {
        &self.mask[..tokens]
    }

    /// Encodes `stream` (B,tokens,D), edits, and puts the result back.
    pub fn forward<X: Backend<Sae = S>>(
        &self,
        x: &X,
        m: &mut X::Memory,
        stream: Tensor,
        edits: &[Edit],
        batch: usize,
        tokens: usize,
        width: usize,
        scope: &str,
    ) -> Result<SpliceTape> {
        let n = batch * tokens;
        let slots = x.sae_slots(self.sae, edits);
        let code = Code {
            index: m.indices("sae.idx", &[n, slots + 1])?,
            z: m.wide("sae.val", &[n, slots])?,
            edited: m.wide("sae.edited", &[n, slots])?,
            slope: m.wide("sae.slope", &[n, slots])?,
            edit_slope: m.wide("sae.edit_slope", &[n, slots])?,
            slots,
        };
        let pre = m.wide("sae.pre", &[n.min(x.sae_rows()), self.latents])?;
        x.sae_encode(m, code, pre, stream, self.sae, edits, self.mask(tokens), n)?;
        let out = m.tensor("sae.x", &[batch, tokens, width])?;
        x.sae_splice(m, out, stream, code, self.sae, self.splice, self.mask(tokens), n)?;
        m.observe(&format!("{scope}sae.x"), out)?;
        let tape = SpliceTape { x: stream, out, code, tokens };
        if m.watched() {
            for (name, tensor) in [("sae.val", code.z), ("sae.edited", code.edited)] {
                m.observe(&format!("{scope}{name}"), tensor)?;
            }
        }
        Ok(tape)
    }

    /// The gradient before the splice from that after it, both (G,tokens,D), and that of the latents z' (G,tokens,C).
    pub fn reverse<X: Backend<Sae = S>>(
        &self,
        x: &X,
        m: &mut X::Memory,
        dout: Tensor,
        tape: &SpliceTape,
        batch: usize,
        width: usize,
        g: usize,
        scope: &str,
    ) -> Result<(Tensor, Tensor)> {
        let (n, rows) = (batch * tape.tokens, g * tape.tokens);
        let dx = m.tensor("d.sae.x_in", &[g, tape.tokens, width])?;
        let dz = m.wide("d.sae.val", &[rows, tape.code.slots])?;
        let mask = self.mask(tape.tokens);
        x.sae_splice_reverse(m, dx, dz, dout, tape.x, tape.code, self.sae, self.splice, self.through, mask, n, rows)?;
        m.observe(&format!("{scope}d.sae.x_in"), dx)?;
        m.observe(&format!("{scope}d.sae.val"), dz)?;
        Ok((dx, dz))
    }
}
