//! Activations of images: pictures are decoded on threads of their own, batches go through the model.

use std::{collections::HashSet, path::Path, sync::Arc};

use serde_json::json;
use vitscope::{
    Error, Result,
    engine::Engine,
    image::Prepared,
    report::{JsonLines, read_lines},
    sae_train::{Index, Piece, Position, ShardWriter, Source, order},
    weights::TokenScopeHint,
};

use crate::cli::{
    console::Console,
    inputs::Input,
    interrupt::Interrupt,
    pictures::{Picture, Pictures, Reading, State},
    setup::say_kernels,
};

/// What makes activations of images.
pub struct Harvester<'a> {
    /// The model.
    pub engine: Engine,
    /// The blocks whose outputs are wanted.
    pub layers: Vec<usize>,
    /// The tokens that are wanted.
    pub tokens: TokenScopeHint,
    /// Images that share a forward.
    pub batch: usize,
    /// The images and how they are read.
    pub images: Arc<(Vec<Input>, Reading)>,
    /// The images that could not be used.
    pub failures: Failures<'a>,
}

impl Harvester<'_> {
    /// Number of images.
    pub fn count(&self) -> usize {
        self.images.0.len()
    }

    /// The tokens of the next images, in their order, and how many images that were. No images: there are no more.
    fn piece(&mut self, pictures: &mut Pictures) -> Result<(usize, Piece)> {
        let batch: Vec<Picture> = pictures.take(self.batch).collect();
        let mut ready: Vec<(&str, &Prepared)> = Vec::new();
        for picture in &batch {
            match &picture.state {
                State::Ready(image) => ready.push((&picture.name, &image.prepared)),
                State::Failed(reason) => self.failures.add(&picture.name, reason)?,
                State::Done => {}
            }
        }
        let mut piece = Piece { layers: vec![Vec::new(); self.layers.len()], ..Piece::default() };
        // Whole pictures may differ in size; a pass takes one size.
        for same in ready.chunk_by(|a, b| (a.1.width, a.1.height) == (b.1.width, b.1.height)) {
            let images: Vec<&Prepared> = same.iter().map(|(_, image)| *image).collect();
            // (layers) of (B,T,D).
            let streams = match self.engine.streams(&images, &self.layers) {
                // A picture without a patch is its failure, not the run's.
                Err(error @ Error::Usage(_)) => {
                    let reason = error.to_string();
                    same.iter().try_for_each(|(name, _)| self.failures.add(name, &reason))?;
                    continue;
                }
                other => other?,
            };
            for (i, (name, _)) in same.iter().enumerate() {
                let rows: Vec<&[f32]> = streams.iter().map(|stream| self.scope(stream, i, same.len())).collect();
                if rows.iter().any(|rows| rows.iter().any(|v| !v.is_finite())) {
                    self.failures.add(name, "the model's activations are not finite")?;
                    continue;
                }
                piece.tokens += rows.first().map_or(0, |rows| rows.len() / self.width());
                piece.layers.iter_mut().zip(rows).for_each(|(layer, rows)| layer.extend_from_slice(rows));
            }
        }
        Ok((batch.len(), piece))
    }

    /// The wanted tokens (n,D) of image `i` in a stream (B,T,D).
    fn scope<'s>(&self, stream: &'s [f32], i: usize, batch: usize) -> &'s [f32] {
        let (d, size) = (self.width(), stream.len() / batch);
        let image = &stream[i * size..(i + 1) * size];
        match self.tokens {
            TokenScopeHint::All => image,
            TokenScopeHint::Cls => &image[..d],
            TokenScopeHint::Patches => &image[d..],
        }
    }

    fn width(&self) -> usize {
        self.engine.checkpoint.config.vision.tower.width
    }

    /// Fills a cache with all images, from where it stands.
    ///
    /// # Errors
    /// [`Error::Interrupted`] after Ctrl-C; those of reading, of the device and of the disk.
    pub fn fill(mut self, mut cache: ShardWriter, console: &Console, interrupt: &Interrupt) -> Result<Index> {
        let (mut done, count) = (cache.images_done(), self.count());
        let bar = console.with_bar(count);
        bar.advance(done);
        let mut pictures = Pictures::in_order(&self.images, (done..count).collect());
        while done < count {
            if interrupt.requested() {
                bar.finish();
                return Err(Error::Interrupted);
            }
            let (images, piece) = self.piece(&mut pictures)?;
            if images == 0 {
                return Err(Error::usage("the threads that read pictures have ended"));
            }
            done += images;
            cache.push(&piece, done)?;
            bar.advance(images);
        }
        bar.finish();
        say_kernels(self.engine.kernels_used(), console);
        console.say(&format!("{} tokens of {count} images cached", cache.tokens()));
        cache.finish(done)
    }
}

/// The images as an endless source, each epoch in an order of its own.
pub struct ImageSource<'a> {
    harvester: Harvester<'a>,
    seed: u64,
    position: Position,
    /// Of this epoch, from `position` on.
    pictures: Option<Pictures>,
    /// Whether this epoch gave a token, or was not read from its start.
    useful: bool,
}

impl<'a> ImageSource<'a> {
    /// All images of `harvester`.
    pub fn new(harvester: Harvester<'a>, seed: u64) -> Self {
        ImageSource { harvester, seed, position: Position::default(), pictures: None, useful: false }
    }
}

impl Source for ImageSource<'_> {
    fn width(&self) -> usize {
        self.harvester.width()
    }

    fn layers(&self) -> usize {
        self.harvester.layers.len()
    }

    fn position(&self) -> Position {
        self.position
    }

    fn seek(&mut self, position: Position) -> Result<()> {
        let count = self.harvester.count();
        if position.index >= count {
            return Err(Error::usage(format!("image {} of {count} is not there", position.index)));
        }
        (self.position, self.pictures, self.useful) = (position, None, position.index > 0);
        Ok(())
    }

    fn next(&mut self) -> Result<Piece> {
        let Position { epoch, index } = self.position;
        let count = self.harvester.count();
        let pictures = self.pictures.get_or_insert_with(|| {
            let order = order(count, self.seed, epoch).split_off(index.min(count));
            Pictures::in_order(&self.harvester.images, order)
        });
        let (images, mut piece) = self.harvester.piece(pictures)?;
        if images == 0 {
            return Err(Error::usage("the threads that read pictures have ended"));
        }
        self.useful |= piece.tokens > 0;
        self.position.index += images;
        if self.position.index >= count {
            if !self.useful {
                let name = self.harvester.images.0.first().map_or("", |input| &input.name);
                return Err(Error::image(name, format!("none of the {count} images could be used")));
            }
            piece.ends_epoch = true;
            (self.position, self.pictures, self.useful) = (Position { epoch: epoch + 1, index: 0 }, None, false);
        }
        Ok(piece)
    }
}

/// The images that could not be used, in `failed.jsonl` of a folder: each once, whatever the number of epochs.
pub struct Failures<'a> {
    lines: Option<JsonLines>,
    known: HashSet<String>,
    path: std::path::PathBuf,
    kept: Vec<String>,
    console: &'a Console,
}

impl<'a> Failures<'a> {
    /// Those of `folder`; from before too where `keep` says so.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::File`] for a damaged list.
    pub fn open(folder: &Path, keep: bool, console: &'a Console) -> Result<Self> {
        let path = folder.join("failed.jsonl");
        let lines = if keep { read_lines(&path)? } else { Vec::new() };
        if !keep && path.exists() {
            std::fs::remove_file(&path).map_err(|e| Error::io(&path, e))?;
        }
        let known = lines.iter().filter_map(|(_, line)| Some(line["image"].as_str()?.to_owned())).collect();
        let kept = lines.into_iter().map(|(text, _)| text).collect();
        Ok(Failures { lines: None, known, path, kept, console })
    }

    fn add(&mut self, name: &str, reason: &str) -> Result<()> {
        if !self.known.insert(name.to_owned()) {
            return Ok(());
        }
        self.console.error(&format!("{name}: {reason}"));
        let lines = match &mut self.lines {
            Some(lines) => lines,
            none => none.insert(JsonLines::with_lines(&self.path, &std::mem::take(&mut self.kept))?),
        };
        lines.append(&[json!({ "image": name, "error": reason })])
    }

    /// How many images the list of a folder names.
    ///
    /// # Errors
    /// As [`Failures::open`].
    pub fn count(folder: &Path) -> Result<usize> {
        Ok(read_lines(&folder.join("failed.jsonl"))?.len())
    }
}
