//! Whether any place of a picture shows what a text names.
//!
//! The class token's cosine with a text mixes all that is in a picture, and a map only tells where that cosine comes
//! from. A single patch sees one thing: where its embedding is closer to a text than to all else that could be there,
//! the text names something in the picture. This needs a model whose patches have been trained to lie where texts do, as
//! those of the bundled one have.

use rayon::prelude::*;

use super::{Engine, Question};
use crate::{Result, demo, image::Prepared, text::Template};

/// What a word of the vocabulary counts for beside a text that is asked for, which is likelier to be there.
const WORD_WEIGHT: f64 = 0.1;

/// Cosine above which a word says the same as a text, and is no rival.
const SAME: f64 = 0.9;

/// The share that a text must get to count as found. It was chosen for the bundled model, on other scenes than those that
/// `benches/results/demo_pointing.json` tells of, so that hardly anything is found that is not there.
const ENOUGH: f64 = 0.95;

/// The most that the log-odds of one view count for: none decides alone.
const MOST_ODDS: f64 = 9.0;

/// The texts of a question, and all that a patch may show instead.
#[derive(Debug, Clone)]
pub struct Presence {
    /// `Q`.
    texts: usize,
    /// (R,E), rows of length 1: the texts, the background, words.
    rows: Vec<f64>,
    /// (R): logarithm of what each row counts for.
    bias: Vec<f64>,
    /// `exp(logit_scale)`.
    scale: f64,
    /// (D), of ln_post.
    gain: Vec<f32>,
    /// (D), of ln_post.
    offset: Vec<f32>,
    eps: f64,
    /// (E,D).
    projection: Vec<f32>,
}

impl Engine {
    /// What tells how surely a picture shows each text of `question`. `vocabulary` names what else may be in a picture.
    ///
    /// # Errors
    /// As [`Engine::embed_texts`], and those of reading the model's weights.
    pub fn presence(&mut self, question: &Question, vocabulary: &[String]) -> Result<Presence> {
        let others: Vec<String> = [demo::BACKGROUND.to_owned()].iter().chain(vocabulary).cloned().collect();
        let others = self.embed_texts(&others, &Template::default())?.values;
        let (d, e) = (self.checkpoint.config.vision.tower.width, self.checkpoint.config.embed);
        let (texts, mut rows) = (question.embeddings.len() / e, question.embeddings.clone());
        let mut bias = vec![0.0; texts];
        for (i, other) in others.chunks(e).enumerate() {
            if i == 0 || question.embeddings.chunks(e).all(|text| dot(text, other) < SAME) {
                rows.extend(other);
                bias.push(if i == 0 { 0.0 } else { WORD_WEIGHT.ln() });
            }
        }
        Ok(Presence {
            texts,
            rows,
            bias,
            scale: question.logit_scale,
            gain: self.checkpoint.read("vision_model.post_layernorm.weight", &[d])?,
            offset: self.checkpoint.read("vision_model.post_layernorm.bias", &[d])?,
            eps: self.checkpoint.config.vision.tower.eps,
            projection: self.checkpoint.read("visual_projection.weight", &[e, d])?,
        })
    }

    /// For each of the images, which must all have one size, and each text (Q) a number from 0 to 1 that says how surely
    /// the image shows what the text names; it does from 0.5 on.
    ///
    /// Any patch may give the text a share when all that it may show compete for it; the largest counts, as the mean, in
    /// log-odds, over four views of the image, so that no single cut into patches decides: as it is, and moved by half a
    /// patch along each side and along both. Where that share is 0.95 the result is 0.5.
    ///
    /// Four forwards without any SAE: what counts is what the picture holds.
    ///
    /// # Errors
    /// As [`Engine::streams`].
    pub fn found(&mut self, images: &[&Prepared], presence: &Presence) -> Result<Vec<Vec<f64>>> {
        let half = self.checkpoint.config.vision.patch / 2;
        let mut views: Vec<Vec<Vec<f64>>> = Vec::new(); // (4,B,Q)
        for (left, up) in [(0, 0), (half, 0), (0, half), (half, half)] {
            let moved: Vec<Prepared> = images.iter().map(|image| image.moved(left, up)).collect();
            let moved: Vec<&Prepared> = moved.iter().collect();
            let stream = self.streams(&moved, &[self.layers() - 1])?.pop().unwrap_or_default();
            let image = (stream.len() / images.len().max(1)).max(1);
            views.push(stream.chunks(image).map(|stream| presence.of(stream)).collect());
        }
        let text = |b: usize, q: usize| certainty(&views.iter().map(|view| view[b][q]).collect::<Vec<f64>>());
        Ok((0..images.len()).map(|b| (0..presence.texts).map(|q| text(b, q)).collect()).collect())
    }
}

/// What the largest shares of a text in several views of an image amount to: 0.5 where they are [`ENOUGH`] on average.
fn certainty(shares: &[f64]) -> f64 {
    let mean = shares.iter().copied().map(log_odds).sum::<f64>() / shares.len() as f64;
    ((log_odds(ENOUGH) - mean).exp() + 1.0).recip()
}

fn log_odds(share: f64) -> f64 {
    (share.ln() - (-share).ln_1p()).clamp(-MOST_ODDS, MOST_ODDS)
}

impl Presence {
    /// (Q), of one image's stream (T,D) after the last block.
    fn of(&self, stream: &[f32]) -> Vec<f64> {
        let patches = stream.par_chunks(self.gain.len()).skip(1).map(|patch| self.shares(patch));
        let largest = |a: Vec<f64>, b: Vec<f64>| a.iter().zip(&b).map(|(a, b)| a.max(*b)).collect();
        patches.reduce(|| vec![0.0; self.texts], largest)
    }

    /// (Q): softmax over all rows, `exp(scale * cos + bias)`, of one patch (D).
    fn shares(&self, patch: &[f32]) -> Vec<f64> {
        let d = patch.len() as f64;
        let mean = patch.iter().map(|&v| f64::from(v)).sum::<f64>() / d;
        let variance = patch.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / d;
        let rstd = (variance + self.eps).sqrt().recip();
        let affine = self.gain.iter().zip(&self.offset);
        let normed: Vec<f64> = patch
            .iter()
            .zip(affine)
            .map(|(&v, (&g, &o))| (f64::from(v) - mean) * rstd * f64::from(g) + f64::from(o))
            .collect();
        let project = |row: &[f32]| row.iter().zip(&normed).map(|(&w, v)| f64::from(w) * v).sum();
        let embed: Vec<f64> = self.projection.chunks(normed.len()).map(project).collect();
        let length = dot(&embed, &embed).sqrt().max(f64::MIN_POSITIVE);
        let logits = self.rows.chunks(embed.len()).zip(&self.bias);
        let logits: Vec<f64> = logits.map(|(row, bias)| self.scale * dot(row, &embed) / length + bias).collect();
        let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = logits.iter().map(|v| (v - max).exp()).sum();
        logits[..self.texts].iter().map(|v| (v - max).exp() / sum).collect()
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two texts, the background and a word; the embedding is the normalised patch itself.
    fn presence(bias: f64) -> Presence {
        let unit = |i: usize| (0..4).map(move |j| if i == j { 1.0 } else { 0.0 });
        Presence {
            texts: 2,
            rows: (0..4).flat_map(unit).collect(),
            bias: vec![0.0, 0.0, 0.0, bias],
            scale: 10.0,
            gain: vec![1.0; 4],
            offset: vec![0.0; 4],
            eps: 0.0,
            projection: (0..4).flat_map(unit).map(|v| v as f32).collect(),
        }
    }

    #[test]
    fn a_text_has_the_share_of_its_best_patch() {
        let rows = [[9.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0f32]];
        let shares = presence(0.0).of(rows.as_flattened());
        // A one-hot patch is (3, -1, -1, -1) / sqrt(12) after the norm, one of two ones (1, 1, -1, -1) / 2.
        let (high, low) = ((30.0 / 12f64.sqrt()).exp(), (-10.0 / 12f64.sqrt()).exp());
        assert!((shares[0] - high / (high + 3.0 * low)).abs() < 1e-9, "{shares:?}");
        // Its only patch also shows the word.
        let tied = 1.0 / (2.0 + 2.0 * (-10f64).exp());
        assert!((shares[1] - tied).abs() < 1e-9, "{shares:?}");
        // The class token is no patch.
        assert!(presence(0.0).of(&rows.as_flattened()[..8])[1] < 1e-4);
    }

    #[test]
    fn enough_is_half_and_no_view_decides_alone() {
        assert!((certainty(&[ENOUGH; 4]) - 0.5).abs() < 1e-12);
        // In odds, which are relative to those of enough.
        let odds = |share: f64| share / (1.0 - share);
        let mixed = certainty(&[0.9, 0.99]);
        assert!((odds(mixed) - (odds(0.9) * odds(0.99)).sqrt() / odds(ENOUGH)).abs() < 1e-9, "{mixed}");
        assert!(certainty(&[1.0, 1.0, 1.0, 0.0]) > 0.5);
        assert!(certainty(&[1.0, 1.0, 0.0, 0.0]) < 0.1);
    }

    #[test]
    fn a_word_that_counts_less_takes_less() {
        let rows = [[0.0; 4], [0.0, 1.0, 0.0, 1.0f32]];
        let [equal, tenth] = [0.0, WORD_WEIGHT.ln()].map(|bias| presence(bias).of(rows.as_flattened())[1]);
        assert!((equal - 0.5).abs() < 1e-3 && (tenth - 1.0 / 1.1).abs() < 1e-3, "{equal} {tenth}");
    }
}
