//! Where activations come from: images on their way through the model, or shards on the disk.

use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::Result;

/// Some tokens of every layer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Piece {
    /// How many; none where no image of the piece could be read.
    pub tokens: usize,
    /// For each layer (tokens,D).
    pub layers: Vec<Vec<f32>>,
    /// Whether the epoch ends after it.
    pub ends_epoch: bool,
}

/// A place in the endless sequence of pieces.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Epochs before it.
    pub epoch: u64,
    /// Images or parts of shards before it in its epoch.
    pub index: usize,
}

/// An endless sequence of pieces, epoch after epoch, each in an order of its own. The same position always gives the
/// same piece.
pub trait Source {
    /// `D`.
    fn width(&self) -> usize;

    /// How many layers it gives.
    fn layers(&self) -> usize;

    /// Where [`Source::next`] goes on.
    fn position(&self) -> Position;

    /// Goes on at a place.
    ///
    /// # Errors
    /// [`crate::Error::Usage`] for a place that is not there.
    fn seek(&mut self, position: Position) -> Result<()>;

    /// The next piece.
    ///
    /// # Errors
    /// Those of reading and of the device.
    fn next(&mut self) -> Result<Piece>;
}

/// The order of `count` things in an epoch.
pub fn order(count: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    // Streams of odd number draw from the buffer.
    rng.set_stream(2 * epoch);
    let mut order: Vec<usize> = (0..count).collect();
    order.shuffle(&mut rng);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_epoch_and_seed_has_its_own_order() {
        let (a, b) = (order(100, 1, 0), order(100, 1, 1));
        assert!(a == order(100, 1, 0) && a != b && a != order(100, 2, 0));
        let sorted = |mut v: Vec<usize>| {
            v.sort_unstable();
            v
        };
        assert_eq!(sorted(a), sorted(b));
        assert!(order(0, 1, 0).is_empty());
    }
}
