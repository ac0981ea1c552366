//! Texts to unit embeddings.

use super::{Engine, request::Question};
use crate::{
    Result,
    text::{Cleaning, EotPooling, Template, Tokenizer},
    weights::{ClipCheckpoint, Pooling},
};

/// Unit text embeddings and what happened on the way.
#[derive(Debug, Clone, Default)]
pub struct Embedded {
    /// (Q,E), rows of length 1.
    pub values: Vec<f64>,
    /// Texts that were cut.
    pub warnings: Vec<String>,
}

/// The checkpoint's own tokenizer, or the published one.
pub fn tokenizer(checkpoint: &ClipCheckpoint) -> Result<Tokenizer> {
    if let Some(folder) = &checkpoint.tokenizer_dir
        && let Some(tokenizer) = Tokenizer::open(folder)?
    {
        return Ok(tokenizer);
    }
    Tokenizer::bundled(Cleaning::OpenAi)
}

fn pooling(checkpoint: &ClipCheckpoint) -> EotPooling {
    match checkpoint.config.text.pooling {
        Pooling::ArgMax => EotPooling::ArgMax,
        Pooling::FirstEos(id) => EotPooling::First(id),
    }
}

impl Engine {
    /// Embeds texts. With an ensemble of templates the unit embeddings of all phrasings are averaged and brought to
    /// length 1 again, as OpenAI's zero-shot notebook does.
    ///
    /// # Errors
    /// A token that the model does not know.
    pub fn embed_texts(&mut self, texts: &[String], template: &Template) -> Result<Embedded> {
        if texts.is_empty() {
            return Ok(Embedded::default());
        }
        let context = self.checkpoint.config.text.context;
        self.tokenizer.check_vocabulary(self.checkpoint.config.text.vocab)?;
        let (mut ids, mut warnings) = (Vec::new(), Vec::new());
        for text in texts {
            for phrase in template.expand(text) {
                let encoded = self.tokenizer.encode(&phrase, context)?;
                if encoded.truncated {
                    warnings.push(format!("the text `{phrase}` was cut to {context} tokens"));
                }
                ids.push(encoded.ids);
            }
        }
        let phrases = ids.len() / texts.len();
        let embeddings = self.embed_ids(&ids)?;
        let width = self.checkpoint.config.embed;
        let mut values = Vec::with_capacity(texts.len() * width);
        for phrasings in embeddings.chunks(phrases * width) {
            let mut mean = vec![0.0; width];
            for row in phrasings.chunks(width) {
                let unit = unit(row);
                mean.iter_mut().zip(unit).for_each(|(m, v)| *m += v);
            }
            values.extend(if phrases == 1 { unit(phrasings) } else { unit(&mean) });
        }
        Ok(Embedded { values, warnings })
    }

    /// Unnormalised embeddings (Q,E) of token ids (Q,context).
    ///
    /// # Errors
    /// An id that is not in the vocabulary; no end of text to read the embedding at.
    pub fn embed_ids(&mut self, ids: &[Vec<u32>]) -> Result<Vec<f64>> {
        let rule = pooling(&self.checkpoint);
        let pooled = ids.iter().map(|ids| rule.position(ids)).collect::<Result<Vec<_>>>()?;
        self.runner.embed_texts(&self.checkpoint, ids, &pooled)
    }
}

impl Question {
    /// Brings unnormalised embeddings (Q,E) to rows of length 1.
    pub fn unit_rows(embeddings: &[f64], width: usize) -> Vec<f64> {
        embeddings.chunks(width).flat_map(unit).collect()
    }
}

fn unit(row: &[f64]) -> Vec<f64> {
    let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt();
    row.iter().map(|v| v / norm).collect()
}
