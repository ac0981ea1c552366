//! Pictures read, decoded and prepared on threads of their own, while the engine computes.

use std::{
    collections::HashSet,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use vitscope::{
    Error, Result,
    image::{DecodeOptions, Prepared, Preprocess, Rect, Rgb8, decode_bytes},
    report::short_hash,
};

use super::inputs::{Input, Place};

/// Pictures that each thread may have ready before they are taken.
const AHEAD: usize = 2;
const MOST_THREADS: usize = 4;

/// One input after reading.
pub struct Picture {
    /// Its name in results.
    pub name: String,
    /// A fingerprint of the file; empty where it could not be read.
    pub hash: String,
    /// What came out.
    pub state: State,
}

/// What came out of an input.
pub enum State {
    /// Ready to be explained.
    Ready(Box<Ready>),
    /// It was wanted no more: its results are there.
    Done,
    /// It cannot be used.
    Failed(String),
}

/// A picture that can be explained.
pub struct Ready {
    /// The original.
    pub original: Rgb8,
    /// The model's input.
    pub prepared: Prepared,
}

impl Ready {
    /// The part of the original that the upper left `height` x `width` pixels of the model's input show.
    pub fn part(&self, height: usize, width: usize) -> Rect {
        let region = self.prepared.region;
        Rect {
            width: region.width * width as f64 / self.prepared.width as f64,
            height: region.height * height as f64 / self.prepared.height as f64,
            ..region
        }
    }
}

/// How inputs become pictures.
pub struct Reading {
    /// To the model's input.
    pub preprocess: Preprocess,
    /// From bytes.
    pub decode: DecodeOptions,
    /// Inputs that are done already, by name and fingerprint.
    pub done: HashSet<(String, String)>,
}

impl Reading {
    fn read(&self, input: &Input) -> Picture {
        let mut hash = String::new();
        // A decoder that panics costs its picture, not those that this thread would read next.
        let state = std::panic::catch_unwind(AssertUnwindSafe(|| self.state(input, &mut hash)));
        let state = state.unwrap_or_else(|_| Err(Error::image(&input.name, "the decoder panicked")));
        let state = state.unwrap_or_else(|error| State::Failed(reason(&error)));
        Picture { name: input.name.clone(), hash, state }
    }

    fn state(&self, input: &Input, hash: &mut String) -> Result<State> {
        let bytes = bytes(input)?;
        *hash = short_hash(&[&bytes], 16);
        if self.done.contains(&(input.name.clone(), hash.clone())) {
            return Ok(State::Done);
        }
        let original = decode_bytes(&input.name, &bytes, &self.decode)?;
        let prepared = self.preprocess.apply(&original)?;
        Ok(State::Ready(Box::new(Ready { original, prepared })))
    }
}

/// Reads one input, at once.
///
/// # Errors
/// What is wrong with it.
pub fn read_one(input: &Input, preprocess: &Preprocess, decode: &DecodeOptions) -> Result<Ready> {
    let original = decode_bytes(&input.name, &bytes(input)?, decode)?;
    let prepared = preprocess.apply(&original)?;
    Ok(Ready { original, prepared })
}

fn bytes(input: &Input) -> Result<Vec<u8>> {
    match &input.place {
        Place::Bundled(png) => Ok(png.to_vec()),
        Place::File(path) => std::fs::read(path).map_err(|e| Error::io(path, e)),
        Place::Missing(reason) => Err(Error::image(&input.name, reason)),
    }
}

/// An error without the path, which stands beside it.
fn reason(error: &Error) -> String {
    match error {
        Error::Io { source, .. } => source.to_string(),
        Error::Image { reason, .. } => reason.clone(),
        other => other.to_string(),
    }
}

/// All inputs as pictures, in their order. Input `i` is read by thread `i % n`; a thread that is ahead waits.
pub struct Pictures {
    receivers: Vec<Receiver<Picture>>,
    next: usize,
}

impl Pictures {
    /// Starts the threads.
    pub fn read(inputs: Vec<Input>, reading: Reading) -> Self {
        let order = (0..inputs.len()).collect();
        Pictures::in_order(&Arc::new((inputs, reading)), order)
    }

    /// Starts the threads for the inputs that `order` names, in that order.
    pub fn in_order(shared: &Arc<(Vec<Input>, Reading)>, order: Vec<usize>) -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let count = cores.min(MOST_THREADS).min(order.len()).max(1);
        let order = Arc::new(order);
        let receivers = (0..count)
            .map(|first| {
                let (sender, receiver) = sync_channel(AHEAD);
                let (shared, order) = (Arc::clone(shared), Arc::clone(&order));
                thread::spawn(move || {
                    let inputs = order.iter().skip(first).step_by(count).filter_map(|&i| shared.0.get(i));
                    send_all(inputs, &shared.1, &sender);
                });
                receiver
            })
            .collect();
        Pictures { receivers, next: 0 }
    }
}

fn send_all<'a>(inputs: impl Iterator<Item = &'a Input>, reading: &Reading, sender: &SyncSender<Picture>) {
    for input in inputs {
        // Nobody listens any more after an interrupt.
        if sender.send(reading.read(input)).is_err() {
            return;
        }
    }
}

impl Iterator for Pictures {
    type Item = Picture;

    fn next(&mut self) -> Option<Picture> {
        let receiver = self.receivers.get(self.next % self.receivers.len().max(1))?;
        self.next += 1;
        receiver.recv().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::inputs::BUNDLED;

    #[test]
    fn pictures_come_in_the_order_of_their_inputs() {
        let input = |i: usize| match i {
            3 => Input { name: "gone".into(), place: Place::Missing("not there".into()) },
            _ => Input { name: format!("{i}"), place: Place::Bundled(BUNDLED.png) },
        };
        let reading = Reading {
            preprocess: Preprocess::clip(32),
            decode: DecodeOptions::default(),
            done: HashSet::from([("5".to_owned(), short_hash(&[BUNDLED.png], 16))]),
        };
        let pictures: Vec<Picture> = Pictures::read((0..9).map(input).collect(), reading).collect();
        let state = |p: &Picture| match &p.state {
            State::Ready(ready) => format!("{}x{}", ready.prepared.width, ready.original.width),
            State::Done => "done".into(),
            State::Failed(reason) => reason.clone(),
        };
        let states: Vec<String> = pictures.iter().map(state).collect();
        let expected = ["32x288", "32x288", "32x288", "not there", "32x288", "done", "32x288", "32x288", "32x288"];
        assert_eq!(states, expected);
        assert_eq!(pictures[3].name, "gone");
    }
}
