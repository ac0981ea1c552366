//! From a source to training batches: a buffer that is filled up again after every batch. A full buffer mixes the
//! tokens of an image into many batches, and those of many images into one batch.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{
    buffer::Buffer,
    source::{Piece, Position, Source},
};
use crate::{Error, Result};

/// A source with a shuffled buffer behind it.
pub struct Feed<S> {
    source: S,
    buffer: Buffer,
    /// Tokens of a batch.
    batch: usize,
    seed: u64,
    /// The piece of which the buffer has taken only a part so far.
    pending: Option<Piece>,
    state: FeedState,
}

/// Where a feed stands, beside the buffer's content.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FeedState {
    /// Of the pending piece, or of the next one.
    position: Position,
    /// Tokens that the buffer has taken of the pending piece.
    taken: usize,
    /// Tokens that the buffer holds.
    held: usize,
    /// Batches that were drawn.
    drawn: u64,
    /// Tokens that the source gave in this epoch.
    epoch_tokens: usize,
    /// Tokens of a whole epoch, once that is known.
    pub epoch_size: Option<usize>,
}

impl<S: Source> Feed<S> {
    /// Starts at the source's first piece.
    ///
    /// # Errors
    /// [`Error::Usage`] for a buffer that does not hold two batches.
    pub fn new(source: S, capacity: usize, batch: usize, seed: u64) -> Result<Self> {
        if batch == 0 || capacity / 2 < batch {
            return Err(Error::usage(format!(
                "a buffer of {capacity} tokens (--buffer) must hold at least two batches of {batch} (--train-batch)"
            )));
        }
        let buffer = Buffer::new(source.width(), source.layers(), capacity);
        let state = FeedState { position: source.position(), ..FeedState::default() };
        Ok(Feed { source, buffer, batch, seed, pending: None, state })
    }

    /// Goes on where [`Feed::save`] was called.
    ///
    /// # Errors
    /// As [`Feed::new`] and [`Buffer::load`].
    pub fn resume(source: S, capacity: usize, batch: usize, seed: u64, state: FeedState, file: &Path) -> Result<Self> {
        let mut feed = Feed::new(source, capacity, batch, seed)?;
        feed.buffer = Buffer::load(file, feed.source.width(), feed.source.layers(), capacity, state.held)?;
        feed.source.seek(state.position)?;
        if state.taken > 0 {
            let piece = feed.source.next()?;
            if piece.tokens <= state.taken {
                let reason = format!("{} tokens were taken of a piece that has {}", state.taken, piece.tokens);
                return Err(Error::usage(format!("the images have changed since the checkpoint: {reason}")));
            }
            feed.pending = Some(piece);
        }
        feed.state = state;
        Ok(feed)
    }

    /// Writes the buffer; the state goes with it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, file: &Path) -> Result<FeedState> {
        self.buffer.save(file)?;
        Ok(FeedState { held: self.buffer.len(), ..self.state.clone() })
    }

    /// What the tokens come from.
    pub fn source(&self) -> &S {
        &self.source
    }

    /// The buffer.
    pub fn buffer(&self) -> &Buffer {
        &self.buffer
    }

    /// Tokens of a whole epoch, once that is known.
    pub fn epoch_size(&self) -> Option<usize> {
        self.state.epoch_size
    }

    /// Whether the buffer takes in more before the next batch. `left` tokens will still be drawn.
    pub fn needs_tokens(&self, left: usize) -> bool {
        // Few images: more of them than all are not kept.
        let all = self.state.epoch_size.unwrap_or(usize::MAX);
        self.buffer.room() > 0 && self.buffer.len() < left.min(all)
    }

    /// Takes in one piece, or what fits of it.
    ///
    /// # Errors
    /// Those of the source; [`Error::Usage`] when an epoch has fewer tokens than a batch.
    pub fn fill(&mut self) -> Result<()> {
        let piece = match self.pending.take() {
            Some(piece) => piece,
            None => self.pull()?,
        };
        self.state.taken += self.buffer.fill(&piece, self.state.taken);
        if self.state.taken < piece.tokens {
            self.pending = Some(piece);
        } else {
            (self.state.position, self.state.taken) = (self.source.position(), 0);
        }
        Ok(())
    }

    fn pull(&mut self) -> Result<Piece> {
        self.state.position = self.source.position();
        let piece = self.source.next()?;
        self.state.epoch_tokens += piece.tokens;
        if piece.ends_epoch {
            let tokens = std::mem::take(&mut self.state.epoch_tokens);
            self.state.epoch_size = Some(tokens);
            if tokens < self.batch {
                return Err(Error::usage(format!(
                    "all images together have {tokens} tokens, fewer than a step takes ({}): give more images, or a \
                     smaller --train-batch",
                    self.batch
                )));
            }
        }
        Ok(piece)
    }

    /// The next batch: for each layer (batch,D).
    ///
    /// # Errors
    /// Those of [`Buffer::draw`].
    pub fn draw(&mut self) -> Result<Vec<Vec<f32>>> {
        let batch = self.buffer.draw(self.batch, self.seed, self.state.drawn)?;
        self.state.drawn += 1;
        Ok(batch)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Pieces of `size` tokens, `pieces` of them an epoch; token `t` is (t, layer).
    pub struct Counting {
        pub layers: usize,
        pub size: usize,
        pub pieces: usize,
        pub position: Position,
    }

    impl Source for Counting {
        fn width(&self) -> usize {
            2
        }
        fn layers(&self) -> usize {
            self.layers
        }
        fn position(&self) -> Position {
            self.position
        }
        fn seek(&mut self, position: Position) -> Result<()> {
            self.position = position;
            Ok(())
        }
        fn next(&mut self) -> Result<Piece> {
            let Position { epoch, index } = self.position;
            let first = crate::sae_train::order(self.pieces, 9, epoch)[index] * self.size;
            let rows = |layer: usize| (first..first + self.size).flat_map(move |t| [t as f32, layer as f32]).collect();
            let ends_epoch = index + 1 == self.pieces;
            self.position =
                if ends_epoch { Position { epoch: epoch + 1, index: 0 } } else { Position { epoch, index: index + 1 } };
            Ok(Piece { tokens: self.size, layers: (0..self.layers).map(rows).collect(), ends_epoch })
        }
    }

    fn feed(size: usize, pieces: usize, capacity: usize) -> Feed<Counting> {
        let source = Counting { layers: 1, size, pieces, position: Position::default() };
        Feed::new(source, capacity, 10, 1).unwrap()
    }

    fn next(feed: &mut Feed<Counting>) -> Vec<f32> {
        while feed.needs_tokens(usize::MAX) {
            feed.fill().unwrap();
            assert!(feed.buffer().len() <= 100);
        }
        feed.draw().unwrap().remove(0)
    }

    #[test]
    fn every_token_comes_as_often_as_epochs_were_read() {
        for (size, pieces) in [(7, 60), (7, 5), (130, 3)] {
            let (mut feed, epoch) = (feed(size, pieces, 100), size * pieces);
            let mut counts = vec![0usize; epoch];
            for _ in 0..3 * epoch / 10 {
                next(&mut feed).chunks(2).for_each(|row| counts[row[0] as usize] += 1);
            }
            assert_eq!(feed.epoch_size(), Some(epoch));
            // What is held, was read and not drawn.
            let held = feed.buffer().len();
            feed.buffer().first(0, held).chunks(2).for_each(|row| counts[row[0] as usize] += 1);
            let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            assert!(*least >= 3 && most - least <= 1, "{size} {pieces}: {least} to {most}");
            assert!(epoch >= 100 || held <= 2 * epoch, "few tokens are not piled up: {held} of {epoch}");
        }
    }

    #[test]
    fn a_resumed_feed_gives_the_same_batches() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("buffer.safetensors");
        let mut whole = feed(7, 60, 100);
        let expected: Vec<Vec<f32>> = (0..60).map(|_| next(&mut whole)).collect();
        for stop in [0, 1, 5, 17, 42] {
            let mut first = feed(7, 60, 100);
            (0..stop).for_each(|_| drop(next(&mut first)));
            if first.needs_tokens(usize::MAX) {
                first.fill().unwrap(); // in the middle of a filling
            }
            let state = first.save(&path).unwrap();
            let state = serde_json::from_value(serde_json::to_value(state).unwrap()).unwrap();
            let source = Counting { layers: 1, size: 7, pieces: 60, position: Position::default() };
            let mut rest = Feed::resume(source, 100, 10, 1, state, &path).unwrap();
            for expected in &expected[stop..] {
                assert_eq!(&next(&mut rest), expected, "stopped at {stop}");
            }
        }
    }

    #[test]
    fn too_few_tokens_and_too_small_a_buffer_are_named() {
        let mut few = feed(3, 3, 100);
        let errors: Vec<String> = (0..3).filter_map(|_| few.fill().err()).map(|e| e.to_string()).collect();
        assert!(errors.len() == 1 && errors[0].contains("have 9 tokens"), "{errors:?}");
        let source = Counting { layers: 1, size: 3, pieces: 3, position: Position::default() };
        assert!(Feed::new(source, 19, 10, 1).is_err());
        let mut enough = feed(7, 60, 100);
        while enough.needs_tokens(20) {
            enough.fill().unwrap();
        }
        assert_eq!(enough.buffer().len(), 21, "no more than will be drawn");
    }
}
