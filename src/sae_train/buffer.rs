//! A shuffled buffer of activations: tokens go in as they are harvested, and come out in random batches.
//!
//! It holds the same tokens of every layer, and draws the same of every layer, so an SAE sees what it would see alone.

use std::path::Path;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::source::Piece;
use crate::{
    Error, Result,
    weights::{Data, TensorFile, write},
};

/// Tokens of several layers, at most `capacity` of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Buffer {
    /// `D`.
    width: usize,
    capacity: usize,
    count: usize,
    /// For each layer (count,D).
    layers: Vec<Vec<f32>>,
}

impl Buffer {
    /// An empty buffer.
    pub fn new(width: usize, layers: usize, capacity: usize) -> Self {
        Buffer { width, capacity, count: 0, layers: vec![Vec::new(); layers] }
    }

    /// Tokens that it holds.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Tokens that still fit.
    pub fn room(&self) -> usize {
        self.capacity - self.count
    }

    /// The first tokens of a layer, at most `most` of them: (n,D).
    pub fn first(&self, layer: usize, most: usize) -> &[f32] {
        &self.layers[layer][..most.min(self.count) * self.width]
    }

    /// Takes in tokens of `piece` from token `from` on, as many as fit; how many those are.
    pub fn fill(&mut self, piece: &Piece, from: usize) -> usize {
        let taken = self.room().min(piece.tokens.saturating_sub(from));
        for (rows, more) in self.layers.iter_mut().zip(&piece.layers) {
            // What will be needed at once: growing by doubling would take up to twice as much.
            rows.reserve_exact(self.capacity * self.width - rows.len());
            rows.extend_from_slice(&more[from * self.width..(from + taken) * self.width]);
        }
        self.count += taken;
        taken
    }

    /// Takes out `batch` random tokens: for each layer (batch,D). Draw `number` of a seed is always the same.
    ///
    /// # Errors
    /// [`Error::Usage`] when it holds fewer.
    pub fn draw(&mut self, batch: usize, seed: u64, number: u64) -> Result<Vec<Vec<f32>>> {
        if batch > self.count {
            return Err(Error::usage(format!("a batch of {batch} tokens from a buffer of {}", self.count)));
        }
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        // Streams of even number shuffle the sources; see `source::order`.
        rng.set_stream(2 * number + 1);
        let d = self.width;
        let mut drawn = vec![Vec::with_capacity(batch * d); self.layers.len()];
        for _ in 0..batch {
            let at = rng.random_range(0..self.count as u64) as usize;
            self.count -= 1;
            let last = self.count;
            for (rows, drawn) in self.layers.iter_mut().zip(&mut drawn) {
                drawn.extend_from_slice(&rows[at * d..(at + 1) * d]);
                rows.copy_within(last * d..(last + 1) * d, at * d);
                rows.truncate(last * d);
            }
        }
        Ok(drawn)
    }

    /// Writes the tokens to one safetensors file: `0`, `1`, ..., a tensor (count,D) for each layer.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, path: &Path) -> Result<()> {
        let names: Vec<String> = (0..self.layers.len()).map(|i| i.to_string()).collect();
        let shape = [self.count, self.width];
        let tensors: Vec<(&str, &[usize], Data<'_>)> = names
            .iter()
            .zip(&self.layers)
            .map(|(name, rows)| (name.as_str(), shape.as_slice(), Data::F32(rows)))
            .collect();
        write(path, &tensors, &[])
    }

    /// Reads `count` tokens that [`Buffer::save`] wrote.
    ///
    /// # Errors
    /// Those of [`TensorFile::open`] and [`TensorFile::read_f32`]; [`Error::File`] for more tokens than fit.
    pub fn load(path: &Path, width: usize, layers: usize, capacity: usize, count: usize) -> Result<Self> {
        if count > capacity {
            return Err(Error::file(path, format!("{count} tokens, of which only {capacity} fit")));
        }
        let file = TensorFile::open(path)?;
        let read = |i: usize| {
            let name = i.to_string();
            file.expect(&name, &[count, width])?;
            file.read_f32(&name)
        };
        let layers = (0..layers).map(read).collect::<Result<Vec<_>>>()?;
        Ok(Buffer { width, capacity, count, layers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tokens `from..to` of two layers, (token, -token) in the first, (token + 0.5, 0) in the second.
    fn piece(from: usize, to: usize) -> Piece {
        let first = (from..to).flat_map(|t| [t as f32, -(t as f32)]).collect();
        let second = (from..to).flat_map(|t| [t as f32 + 0.5, 0.0]).collect();
        Piece { tokens: to - from, layers: vec![first, second], ends_epoch: false }
    }

    /// The tokens that all draws gave, in order.
    fn run(seed: u64) -> Vec<usize> {
        let (mut buffer, mut seen) = (Buffer::new(2, 2, 64), Vec::new());
        let (mut number, mut next) = (0, 0);
        while next < 1000 || buffer.len() >= 10 {
            while next < 1000 && buffer.room() > 0 {
                // Pieces of 23 tokens do not divide the capacity.
                let piece = piece(next, (next + 23).min(1000));
                next += buffer.fill(&piece, 0);
                assert!(buffer.len() <= 64 && buffer.layers.iter().all(|rows| rows.capacity() == 128));
            }
            while buffer.len() > 32 || (next == 1000 && buffer.len() >= 10) {
                let drawn = buffer.draw(10, seed, number).unwrap();
                number += 1;
                for (a, b) in drawn[0].chunks(2).zip(drawn[1].chunks(2)) {
                    assert!(a[0] == -a[1] && b == [a[0] + 0.5, 0.0], "layers stay together");
                    seen.push(a[0] as usize);
                }
            }
        }
        seen
    }

    #[test]
    fn every_token_is_drawn_once_in_an_order_that_the_seed_decides() {
        let seen = run(3);
        let mut sorted = seen.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..1000).collect::<Vec<_>>());
        assert_eq!(seen, run(3));
        assert_ne!(seen, run(4));
        // Neighbours do not stay together: the mean distance within a batch is a good part of the buffer.
        let apart: usize = seen.windows(2).map(|w| w[0].abs_diff(w[1])).sum();
        assert!(apart > 10 * 1000, "{apart}");
    }

    #[test]
    fn it_reads_back_as_it_was_and_refuses_to_give_more_than_it_has() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("buffer.safetensors");
        let mut buffer = Buffer::new(2, 2, 40);
        assert_eq!((buffer.fill(&piece(0, 30), 5), buffer.fill(&piece(0, 30), 0)), (25, 15));
        buffer.draw(7, 0, 0).unwrap();
        assert!(buffer.draw(34, 0, 1).is_err());
        buffer.save(&path).unwrap();
        assert_eq!(Buffer::load(&path, 2, 2, 40, 33).unwrap(), buffer);
        assert!(Buffer::load(&path, 2, 2, 40, 32).is_err());
        assert!(Buffer::load(&path, 2, 2, 20, 33).is_err());
        assert!(Buffer::load(&path, 2, 3, 40, 33).is_err());
    }
}
