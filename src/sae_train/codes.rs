//! Sparse codes of a batch: by token, as they are found, and by latent, as gradients are summed.

use std::ops::Range;

/// What the tokens of a batch keep of their `h` (N,S), token after token; within a token latents ascend.
#[derive(Clone, Debug)]
pub(super) struct Codes<T> {
    /// (N + 1): where the entries of a token start.
    starts: Vec<usize>,
    /// Of every entry.
    pub latents: Vec<u32>,
    /// Of every entry.
    pub h: Vec<T>,
}

impl<T> Default for Codes<T> {
    fn default() -> Self {
        Codes { starts: vec![0], latents: Vec::new(), h: Vec::new() }
    }
}

impl<T: Copy> Codes<T> {
    /// An entry of the token that is being added.
    pub fn push(&mut self, latent: u32, h: T) {
        self.latents.push(latent);
        self.h.push(h);
    }

    /// The token is complete.
    pub fn end_token(&mut self) {
        self.starts.push(self.latents.len());
    }

    /// Adds the tokens of `other` behind.
    pub fn append(&mut self, other: &Self) {
        let start = self.latents.len();
        self.starts.extend(other.starts.iter().skip(1).map(|s| start + s));
        self.latents.extend_from_slice(&other.latents);
        self.h.extend_from_slice(&other.h);
    }

    /// Keeps the entries for which `keep(entry)` holds.
    pub fn retain(&mut self, mut keep: impl FnMut(usize) -> bool) {
        let mut kept = Codes::default();
        for n in 0..self.tokens() {
            self.token(n).filter(|&entry| keep(entry)).for_each(|entry| kept.push(self.latents[entry], self.h[entry]));
            kept.end_token();
        }
        *self = kept;
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.starts.len() - 1
    }

    /// The entries of tokens.
    pub fn entries(&self, tokens: Range<usize>) -> Range<usize> {
        self.starts[tokens.start]..self.starts[tokens.end]
    }

    /// The entries of a token.
    #[inline(always)]
    pub fn token(&self, n: usize) -> Range<usize> {
        self.starts[n]..self.starts[n + 1]
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.latents.len()
    }
}

/// An entry of a latent: its token, its `h` and the gradient that reaches its `z`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Entry<T> {
    pub token: u32,
    pub h: T,
    pub dz: T,
}

/// The same entries, latent after latent; within a latent tokens ascend.
pub(super) struct ByLatent<T> {
    /// (S + 1).
    starts: Vec<usize>,
    entries: Vec<Entry<T>>,
}

impl<T: Copy + Default> ByLatent<T> {
    /// Transposes codes by counting; `dz` has a value for every entry.
    pub fn new(codes: &Codes<T>, dz: &[T], latents: usize) -> Self {
        let mut starts = vec![0usize; latents + 1];
        codes.latents.iter().for_each(|&i| starts[i as usize + 1] += 1);
        for i in 0..latents {
            starts[i + 1] += starts[i];
        }
        let mut next = starts.clone();
        let mut entries = vec![Entry::default(); codes.len()];
        for n in 0..codes.tokens() {
            for entry in codes.token(n) {
                let place = &mut next[codes.latents[entry] as usize];
                entries[*place] = Entry { token: n as u32, h: codes.h[entry], dz: dz[entry] };
                *place += 1;
            }
        }
        ByLatent { starts, entries }
    }

    /// The entries of a latent.
    #[inline(always)]
    pub fn latent(&self, i: usize) -> &[Entry<T>] {
        &self.entries[self.starts[i]..self.starts[i + 1]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposing_keeps_every_entry_and_the_order_of_tokens() {
        let mut codes = Codes::default();
        for token in [&[(0, 1.0), (2, 2.0)][..], &[], &[(2, 3.0)]] {
            token.iter().for_each(|&(i, h)| codes.push(i, h));
            codes.end_token();
        }
        let by_latent = ByLatent::new(&codes, &[0.1, 0.2, 0.3], 3);
        assert_eq!(by_latent.latent(0), [Entry { token: 0, h: 1.0, dz: 0.1 }]);
        assert!(by_latent.latent(1).is_empty());
        assert_eq!(by_latent.latent(2), [Entry { token: 0, h: 2.0, dz: 0.2 }, Entry { token: 2, h: 3.0, dz: 0.3 }]);
        let mut twice = codes.clone();
        twice.append(&codes);
        // Entry 1 of the first copy and entry 2 of the second.
        twice.retain(|entry| entry == 1 || entry == 5);
        assert_eq!((twice.tokens(), twice.token(2), &twice.h[..]), (6, 1..1, &[2.0, 3.0][..]));
    }
}
